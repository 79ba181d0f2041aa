// One mail: where it stands and why, what was tried, and what can be done.

import { call, html, useAnswer } from "./api.js";
import { meaning } from "./codes.js";
import { on } from "./live.js";
import { exact, latency, number, said, sentence, size, visible } from "./words.js";
import { Ask, Copy, Link, Problem, State, Tabs, Text, Time, listOf, useNow } from "./parts.js";
import { go, goBack } from "./entries.js";
import { Preview } from "./preview.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

/** The most recipients whose story is shown. */
const SHOWN = 100;

const pending = new Set(["queued", "scheduled", "deferred", "sending"]);
const parts = [["what", "What happened"], ["says", "What it says"], ["facts", "Facts"]];
const phases = { rcpt_to: "RCPT TO", mail_from: "MAIL FROM", final_dot: "the end of the message", body: "the message", tls: "TLS",
  ehlo: "EHLO", auth: "the login", data: "DATA", connect: "connecting", greeting: "the greeting", local: "this service" };

export function Mail({ id, part, form, at, may, back, changed }) {
  const path = `/v1/mails/${encodeURIComponent(id)}`;
  const { data: mail, error, again } = useAnswer(path);
  const [asking, setAsking] = useState(null);
  const [failure, setFailure] = useState(null);
  const title = useRef(null);
  useEffect(() => on("happened", (event) => (event.mail === id || event.kind === "skipped") && again()), [id, again]);
  useEffect(() => {
    // Where there is no room for the list beside it, the focus would be lost with the list.
    if (mail && !document.querySelector(".list")?.checkVisibility()) title.current?.focus();
  }, [Boolean(mail)]);
  if (!mail) return html`<article class="detail"><p class="back"><${Link} to=${back} by=${goBack}>Back to the list<//></p><${Problem} error=${error} /></article>`;
  const act = async () => {
    await call("POST", `${path}/${asking}`).then(() => setFailure(null), setFailure);
    setAsking(null);
    again();
    changed();
  };
  const states = mail.deliveries.map((delivery) => delivery.state);
  const canCancel = states.some((state) => pending.has(state));
  const canRetry = states.some((state) => ["dead", "cancelled", "deferred"].includes(state));
  return html`<article class="detail" aria-label="The mail">
    <p class="back"><${Link} to=${back} by=${goBack}>Back to the list<//></p>
    <h2 ref=${title} tabindex="-1">${visible(mail.subject) || "(no subject)"}</h2>
    <p class="line wrap"><${State} of=${mail.state} /> <code class="faint">${mail.id}</code></p>
    <div class="row">
      ${may.admin && canRetry && html`<button class="main" onClick=${() => setAsking("retry")}>Retry…</button>`}
      ${may.admin && canCancel && html`<button onClick=${() => setAsking("cancel")}>Cancel…</button>`}
      <a class="button" href=${`${path}/raw`} download>Raw</a>
    </div>
    <${Problem} error=${failure} />
    <${Tabs} label="The mail" tabs=${parts} chosen=${part} name="part" choose=${(name) => go(at(name), true)}>
    ${part === "what" && html`${mail.deliveries.slice(0, SHOWN).map((delivery) => html`<${Delivery} key=${delivery.recipient} delivery=${delivery} />`)}
      ${mail.deliveries.length > SHOWN && html`<p class="faint">${number(mail.deliveries.length - SHOWN)} more recipients; the API has them all.</p>`}`}
    ${part === "says" && html`<${Preview} id=${id} form=${form} choose=${(name) => go(at("says", name), true)} />`}
    ${part === "facts" && html`<${Facts} mail=${mail} />`}
    <//>
    ${asking && html`<${Ask} title=${asking === "cancel" ? "Withdraw this 1 mail?" : "Send this 1 mail again, at once?"} yes=${asking === "cancel" ? "Withdraw" : "Send"}
      danger=${asking === "cancel"} onYes=${act} onNo=${() => setAsking(null)}>
      <p class="faint">${asking === "cancel" ? "Recipients who have it keep it." : "Its recipients who failed are tried again; those who have it stay as they are."}</p><//>`}
  </article>`;
}

function Delivery({ delivery }) {
  useNow();
  const tries = delivery.attempts.length;
  return html`<section class="delivery">
    <h3><${Text}>${delivery.recipient}<//></h3>
    <p class="sentence ${delivery.state}">${sentence(delivery)}</p>
    ${delivery.feedback?.length > 0 && html`<ul class="timeline">${delivery.feedback.map((one) => html`<li class=${one.kind}><b>${one.kind}</b> <${Time} at=${one.at} />
      <span class="faint"> told by <${Text}>${one.by}<//></span><span class="said"><${Text}>${[one.status, one.text].filter(Boolean).join(" ")}<//></span></li>`)}</ul>`}
    ${tries > 0 && html`<ol class="timeline" aria-label="Attempts">${delivery.attempts.map((attempt) => html`<${Attempt} key=${attempt.at} attempt=${attempt} />`)}</ol>`}
    ${delivery.error && html`<p><${Link} to=${listOf(`error:"${delivery.error}"`)}>Others with the same error<//></p>`}
  </section>`;
}

function Attempt({ attempt }) {
  const tls = attempt.tls;
  const kind = attempt.code ? Math.floor(attempt.code / 100) : 0;
  return html`<li class=${kind === 2 ? "delivered" : kind === 5 ? "dead" : "deferred"}>
    <${Time} at=${attempt.at} /> over <${Link} to=${`/relays/${encodeURIComponent(attempt.relay)}`}><${Text}>${attempt.relay || "no relay"}<//><//>
    <span class="faint">, at ${phases[attempt.phase] || attempt.phase}</span>
    <span class="said"><${Text}>${said(attempt)}<//></span>
    <span class="meaning">${meaning(attempt)}</span>
    ${tls && html`<span class="faint tls">${tls.version.replace("v", " ")} · ${tls.cipher}</span>`}</li>`;
}

function Facts({ mail }) {
  const path = `/v1/mails/${mail.id}`;
  const took = mail.finished_at && (Date.parse(mail.finished_at) - Date.parse(mail.created_at)) / 1000;
  return html`<dl>
      <dt>accepted</dt><dd>${exact(mail.created_at)}</dd>
      ${mail.finished_at && html`<dt>ended</dt><dd>${exact(mail.finished_at)}, after ${latency(took)}</dd>`}
      <dt>expires</dt><dd>${exact(mail.expires_at)}</dd>
      <dt>return path</dt><dd><${Text}>${mail.return_path || "none"}<//></dd>
      <dt>Message-ID</dt><dd><${Text}>${mail.message_id}<//></dd>
      <dt>submitted by</dt><dd><${Text}>${mail.submitter || "somebody"}<//></dd>
      <dt>priority</dt><dd>${mail.priority}, ${mail.guarantee.replaceAll("_", " ")}</dd>
      <dt>size</dt><dd>${size(mail.size)}</dd>
      ${mail.tags.length > 0 && html`<dt>tags</dt><dd class="tags">${mail.tags.map((tag) => html`<${Link} class="tag" to=${listOf(`tag:"${tag.replaceAll('"', "")}"`)}><${Text}>${tag}<//><//> `)}</dd>`}
      ${mail.idempotency_key && html`<dt>key</dt><dd><${Text}>${mail.idempotency_key}<//></dd>`}
      ${mail.template && html`<dt>template</dt><dd><${Text}>${[mail.template.name, mail.template.locale].filter(Boolean).join(", ")}<//></dd>`}
      ${mail.list && html`<dt>list</dt><dd><${Text}>${mail.list}<//></dd>`}
      ${mail.mended?.length > 0 && html`<dt>mended</dt><dd><${Text}>${mail.mended.join("; ")}<//></dd>`}
    </dl>
    <h3>In a shell</h3>
    <ul class="curls">${[["Its record", ""], ["Its message", "/raw"], ["Send it again", "/retry"], ["Withdraw it", "/cancel"]].map(([title, act]) => html`<${Curl} key=${title}
      title=${title} path=${path + act} post=${act === "/retry" || act === "/cancel"} />`)}</ul>`;
}

/** A call of the API as a command. */
function Curl({ title, path, post }) {
  const command = `curl${post ? " -X POST" : ""} -H "Authorization: Bearer $POSTRIDER_TOKEN" '${location.origin}${path}'`;
  return html`<li><span>${title}</span><code>${command}</code><${Copy} text=${command} title="Copy as curl" /></li>`;
}
