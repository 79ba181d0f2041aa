// One relay by the recipients' domain: what waits for it, and what failed over it.

import { html, useAnswer } from "./api.js";
import { number } from "./words.js";
import { Link, Problem, Text, Time, listOf } from "./parts.js";

/** What waits for a relay by the recipients' domain. It is counted when the relay is opened: each time costs a walk. */
export function Waiting({ relay }) {
  const { data, error, again } = useAnswer(`/v1/relays/${encodeURIComponent(relay.name)}/domains`);
  const resting = new Map(relay.resting_domains.map((rest) => [rest.domain, rest]));
  const domains = data?.domains || [];
  const others = [...resting.values()].filter((rest) => !domains.some((one) => one.domain === rest.domain));
  return html`<div class="heading"><h2>Queue by recipient domain</h2><button class="quiet" onClick=${again}>Count again</button></div><${Problem} error=${error} />
    ${domains.length + others.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Queue by recipient domain"><table class="dense stacks"><thead><tr><th>Domain</th><th class="number">Waiting</th><th class="number">Queued</th>
      <th class="number">Sending</th><th class="number">Deferred</th><th class="number">Scheduled</th><th>Oldest</th><th>At rest</th></tr></thead>
      <tbody>${domains.slice(0, 100).map((one) => html`<tr key=${one.domain}><th scope="row"><${Link} to=${listOf(one.q)}><${Text}>${one.domain}<//><//></th><td class="number" data-label="Waiting"><b>${number(one.count)}</b></td>
        ${["queued", "sending", "deferred", "scheduled"].map((state) => html`<td class="number" data-label=${state}>${one[state] ? html`<${Link} to=${listOf(`domain:"${one.domain}" relay:"${relay.name}" state:${state}`)}>${number(one[state])}<//>` : html`<span class="faint">–</span>`}</td>`)}
        <td data-label="Oldest"><${Time} at=${one.oldest_at} /></td><td data-label="At rest"><${Text}>${resting.get(one.domain)?.reason || ""}<//></td></tr>`)}
      ${others.map((rest) => html`<tr key=${rest.domain}><th scope="row"><${Text}>${rest.domain}<//></th><td class="number" data-label="Waiting">0</td><td colspan="5"></td><td data-label="At rest"><${Text}>${rest.reason}<//></td></tr>`)}</tbody></table></div>`}
    ${domains.length > 100 && html`<p class="faint">${number(domains.length - 100)} more domains; <code>postrider relay domains</code> has them all.</p>`}
    ${data && !data.complete && html`<p class="faint">More waits than could be looked at in time${domains.length ? ": these are what is due first" : "; nothing that was looked at is for this relay"}.</p>`}
    ${!data && !error && html`<p class="faint">Counting\u2026</p>`}
    ${data?.complete && !domains.length && !others.length && html`<p class="faint">Nothing waits for this relay.</p>`}`;
}

export function Trouble({ name }) {
  const { data: domains, error } = useAnswer(`/v1/failures?by=domain&q=${encodeURIComponent(`relay:"${name}"`)}`);
  return html`<h2>Trouble by recipient domain</h2>
    ${!domains ? html`<p class="faint">${error ? html`<${Problem} error=${error} />` : "Counting\u2026"}</p>` : domains.groups.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Trouble by recipient domain"><table class="dense stacks"><thead><tr><th>Domain</th><th class="number">Deferred</th><th class="number">Dead</th><th>Last said</th></tr></thead>
      <tbody>${domains.groups.slice(0, 50).map((group) => html`<tr key=${group.name}><th scope="row"><${Link} to=${listOf(`relay:"${name}" ${group.q}`)}><${Text}>${group.name}<//><//></th><td class="number" data-label="Deferred">${number(group.deferred)}</td><td class="number" data-label="Dead">${number(group.dead)}</td><td class="wide" data-label="Last said"><${Text}>${group.text}<//></td></tr>`)}</tbody></table></div>`
      : html`<p class="faint">None: nothing is deferred or dead.</p>`}`;
}
