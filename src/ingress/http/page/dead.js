// Dead letters: what failed, grouped by what was said or by domain; send some again first, then the rest.

import { html, useAnswer } from "./api.js";
import { on } from "./live.js";
import { number, visible } from "./words.js";
import { Empty, Link, Problem, Text, Time, listOf } from "./parts.js";
import { Bulk } from "./bulk.js";
import { useEffect } from "./vendor/hooks.js";

export function Dead({ parameters, may }) {
  const by = parameters.get("by") === "domain" ? "domain" : "error";
  const { data, error, again } = useAnswer(`/v1/failures?by=${by}`);
  // Grouping costs a walk over all that failed: it is done again when something changed, and not all the time.
  useEffect(() => {
    let timer = 0;
    const stop = on("happened", ({ kind }) => {
      if (["dead", "retried", "purged", "cancelled", "skipped"].includes(kind)) timer ||= setTimeout(() => { timer = 0; again(); }, 5000);
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [again]);
  const groups = data?.groups || [];
  const dead = groups.reduce((sum, group) => sum + group.dead, 0);
  return html`<h1>Dead letters</h1>
    <p class="lead">${data ? dead ? html`${number(dead)} ${dead === 1 ? "delivery" : "deliveries"} failed for good. <${Link} to="/mails?state=dead">All of them as a list<//>` : "Nothing failed for good." : error ? "" : "Grouping what failed\u2026"} <button class="quiet" onClick=${again}>Look again</button></p>
    <nav class="tabs" aria-label="Grouped by">${[["error", "By error"], ["domain", "By domain"]].map(([name, title]) => html`<${Link} key=${name}
      to=${name === "error" ? "/dead" : `/dead?by=${name}`} aria-current=${by === name ? "true" : undefined}>${title}<//>`)}</nav>
    <${Problem} error=${error} />
    ${data && !data.complete && html`<p class="faint">There is more than can be grouped; these are the newest.</p>`}
    ${dead > 0 && may.admin && html`<div class="row"><span class="faint">All dead mail:</span><${Bulk} q="state:dead" what=${["retry", "purge"]} first=${dead > 20 ? 20 : 0} changed=${again} /></div>`}
    ${data && !groups.length && html`<${Empty} title="No dead letters"><p>What is refused for good, or not delivered before it expires, is kept here, with what the server said, until somebody sends it again or deletes it. Mail that is deferred is grouped here as well.</p><//>`}
    <ul class="groups">${groups.map((group) => html`<li key=${group.name}>
      <b class="big">${number(group.count)}</b><span class="said"><${Text}>${group.name || "no reason was given"}<//></span>
      <p class="faint">${group.dead ? html`<${Link} to=${listOf(`${group.q} state:dead`)}>${number(group.dead)} dead<//>` : ""}${group.dead && group.deferred ? ", " : ""}
        ${group.deferred ? html`<${Link} to=${listOf(`${group.q} state:deferred`)}>${number(group.deferred)} deferred<//>` : ""}
        ${" · last "}<${Time} at=${group.last_at} />${" · "}<${Link} to=${`/mails/${group.example}`}>an example<//>
        ${group.text && visible(group.text) !== visible(group.name) ? html`: <${Text}>${group.text}<//>` : ""}</p>
      ${may.admin && html`<div class="row">${group.dead > 0
        ? html`<${Bulk} q=${`${group.q} state:dead`} what=${["retry", "purge"]} first=${group.dead > 20 ? 20 : 0} changed=${again} />`
        : html`<${Bulk} q=${group.q} what=${["retry", "cancel"]} changed=${again} />`}</div>`}</li>`)}</ul>
    ${data?.others > 0 && html`<p class="faint">${number(data.others)} more in groups that are not shown.</p>`}`;
}
