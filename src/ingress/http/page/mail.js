// One mail: where it stands and why, what was tried, and what can be done.

import { call, html, useAnswer } from "./api.js";
import { on } from "./live.js";
import { exact, meaning, number, said, sentence, size, visible } from "./words.js";
import { Ask, Copy, Link, Problem, State, Text, Time } from "./parts.js";
import { Preview } from "./preview.js";
import { useEffect, useState } from "./vendor/hooks.js";

/** The most recipients whose story is shown. */
const SHOWN = 100;

const pending = new Set(["queued", "scheduled", "deferred", "sending"]);

export function Mail({ id, may, back, changed }) {
  const { data: mail, error, again } = useAnswer(`/v1/mails/${encodeURIComponent(id)}`);
  const [asking, setAsking] = useState(null);
  const [failure, setFailure] = useState(null);
  const [part, setPart] = useState("what");
  useEffect(() => on("happened", (event) => (event.mail === id || event.kind === "skipped") && again()), [id, again]);
  if (!mail) return html`<article class="detail"><${Problem} error=${error} /></article>`;
  const act = async () => {
    await call("POST", `/v1/mails/${id}/${asking}`).then(() => setFailure(null), setFailure);
    setAsking(null);
    again();
    changed();
  };
  const states = mail.deliveries.map((delivery) => delivery.state);
  const canCancel = states.some((state) => pending.has(state));
  const canRetry = states.some((state) => ["dead", "cancelled", "deferred"].includes(state));
  const last = mail.deliveries.flatMap((delivery) => delivery.attempts).findLast((attempt) => attempt.code >= 400);
  const parts = [["what", "What happened"], ["says", "What it says"], ["facts", "Facts"]];
  return html`<article class="detail">
    <p class="back"><${Link} to=${back}>Back to the list<//></p>
    <h2>${visible(mail.subject) || "(no subject)"}</h2>
    <p class="line wrap"><${State} of=${mail.state} /> <code>${mail.id}</code></p>
    <div class="row">
      ${may.admin && canRetry && html`<button class="main" onClick=${() => setAsking("retry")}>Retry…</button>`}
      ${may.admin && canCancel && html`<button onClick=${() => setAsking("cancel")}>Cancel…</button>`}
      <a class="button" href=${`/v1/mails/${id}/raw`} download>Raw</a>
      <${Copy} text=${`curl ${location.origin}/v1/mails/${id}`} title="Copy as curl" />
      ${last && html`<${Link} class="button" to=${`/mails?q=${encodeURIComponent(`code:${last.code}`)}`}>Others with ${last.code}<//>`}
    </div>
    <${Problem} error=${failure} />
    <div class="tabs" role="tablist" aria-label="The mail">${parts.map(([name, title]) => html`<button key=${name} role="tab" id=${`part-${name}`} aria-controls="part" aria-selected=${part === name} onClick=${() => setPart(name)}>${title}</button>`)}</div>
    <div id="part" role="tabpanel" aria-labelledby=${`part-${part}`} tabindex="0">
    ${part === "what" && mail.deliveries.slice(0, SHOWN).map((delivery) => html`<${Delivery} key=${delivery.recipient} delivery=${delivery} />`)}
    ${part === "what" && mail.deliveries.length > SHOWN && html`<p class="faint">${number(mail.deliveries.length - SHOWN)} more recipients; the API has them all.</p>`}
    ${part === "says" && html`<${Preview} id=${id} />`}
    ${part === "facts" && html`<dl>
      <dt>accepted</dt><dd>${exact(mail.created_at)}</dd>
      <dt>expires</dt><dd>${exact(mail.expires_at)}</dd>
      <dt>return path</dt><dd><${Text}>${mail.return_path || "none"}<//></dd>
      <dt>Message-ID</dt><dd><${Text}>${mail.message_id}<//></dd>
      <dt>submitted by</dt><dd><${Text}>${mail.submitter || "somebody"}<//></dd>
      <dt>priority</dt><dd>${mail.priority}, ${mail.guarantee.replaceAll("_", " ")}</dd>
      <dt>size</dt><dd>${size(mail.size)}</dd>
      ${mail.tags.length > 0 && html`<dt>tags</dt><dd>${mail.tags.map((tag) => html`<${Link} class="tag" to=${`/mails?q=${encodeURIComponent(`tag:"${tag}"`)}`}>${visible(tag)}<//> `)}</dd>`}
      ${mail.idempotency_key && html`<dt>key</dt><dd><${Text}>${mail.idempotency_key}<//></dd>`}
      ${mail.mended?.length > 0 && html`<dt>mended</dt><dd><${Text}>${mail.mended.join("; ")}<//></dd>`}
    </dl>`}</div>
    ${asking && html`<${Ask} title=${asking === "cancel" ? "Withdraw this 1 mail?" : "Send this 1 mail again, at once?"} yes=${asking === "cancel" ? "Withdraw" : "Send"}
      danger=${asking === "cancel"} onYes=${act} onNo=${() => setAsking(null)} />`}
  </article>`;
}

function Delivery({ delivery }) {
  return html`<section class="delivery">
    <h3><${Text}>${delivery.recipient}<//></h3>
    <p class="sentence">${sentence(delivery)}</p>
    ${delivery.attempts.length > 0 && html`<ol class="timeline">${delivery.attempts.map((attempt) => html`<li key=${attempt.at}>
      <${Time} at=${attempt.at} /> over <b>${visible(attempt.relay)}</b>, at ${attempt.phase.replace("_", " ")}
      <span class="said"><${Text}>${said(attempt)}<//></span><span class="faint">${meaning(attempt)}</span></li>`)}</ol>`}
  </section>`;
}
