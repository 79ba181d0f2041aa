// Relays: how each is, and one relay with what became of its mail; pause and resume.

import { call, html, useAnswer } from "./api.js";
import { number } from "./words.js";
import { Ask, Link, Problem, State, Text, Time } from "./parts.js";
import { Plot, Ranges, rangeOf, seriesPath } from "./plot.js";
import { useState } from "./vendor/hooks.js";

const breakers = { closed: "lets mail through", half_open: "tries one mail", open: "holds mail back" };

/** Pause, which asks, or resume. */
function PauseOrResume({ relay, again }) {
  const [asking, setAsking] = useState(false);
  const [failure, setFailure] = useState(null);
  const act = async (what) => {
    setAsking(false);
    await call("POST", `/v1/relays/${encodeURIComponent(relay.name)}/${what}`).then(() => setFailure(null), setFailure);
    again();
  };
  return html`${relay.state === "paused"
    ? html`<button onClick=${() => act("resume")} aria-label=${`Resume ${relay.name}`}>Resume</button>`
    : html`<button onClick=${() => setAsking(true)} aria-label=${`Pause ${relay.name}…`}>Pause…</button>`}
    <${Problem} error=${failure} />
    ${asking && html`<${Ask} title=${`Pause ${relay.name}?`} yes="Pause" danger onYes=${() => act("pause")} onNo=${() => setAsking(false)}>
      <p>Its ${number(relay.backlog)} waiting ${relay.backlog === 1 ? "delivery takes" : "deliveries take"} the route's next relay, or ${relay.backlog === 1 ? "waits" : "wait"}.</p><//>`}`;
}

export function Relays({ may }) {
  const { data, error, again } = useAnswer("/v1/relays", 3000);
  return html`<h1>Relays</h1><${Problem} error=${error} />
    <div class="scroll" tabindex="0" role="region" aria-label="Relays"><table><thead><tr><th>Relay</th><th>State</th><th>Breaker</th><th class="number">Connections</th><th class="number">Rate</th><th class="number">Backlog</th><th>Last failure</th>${may.admin && html`<th>Act</th>`}</tr></thead>
    <tbody>${data?.relays.map((relay) => html`<tr key=${relay.name}>
      <th scope="row"><${Link} to=${`/relays/${encodeURIComponent(relay.name)}`}>${relay.name}<//>${relay.kind === "capture" ? html` <span class="captured">captures</span>` : ""}</th>
      <td><${State} of=${relay.state} /></td><td>${breakers[relay.breaker] || relay.breaker}</td>
      <td class="number">${relay.busy} of ${relay.connections}</td><td class="number">${relay.rate || "any"}</td><td class="number">${number(relay.backlog)}</td>
      <td><${Text}>${relay.last_failure || ""}<//></td>
      ${may.admin && html`<td><${PauseOrResume} relay=${relay} again=${again} /></td>`}</tr>`)}</tbody></table></div>`;
}

export function Relay({ name, parameters, may }) {
  const range = rangeOf(parameters);
  const named = encodeURIComponent(name);
  const { data, error, again } = useAnswer("/v1/relays", 3000);
  const { data: series } = useAnswer(seriesPath(range, name), 15000);
  const { data: domains } = useAnswer(`/v1/failures?by=domain&q=${encodeURIComponent(`relay:"${name}"`)}`, 15000);
  const relay = data?.relays.find((one) => one.name === name);
  const { data: pauses } = useAnswer(relay?.state === "paused" ? `/v1/audit?relay=${named}&act=pause&limit=1` : "");
  if (!relay) return html`<h1>${name}</h1><${Problem} error=${error} />${data && html`<p class="faint">There is no such relay.</p>`}`;
  const points = series?.points || [];
  const sum = (what) => points.reduce((all, point) => all + (point[what] || 0), 0);
  const tried = sum("delivered") + sum("deferred") + sum("dead");
  const pause = relay.state === "paused" && pauses?.entries[0];
  return html`<p class="crumb"><${Link} to="/relays">Relays<//></p>
    <div class="heading"><h1>${relay.name}</h1><${State} of=${relay.state} />${may.admin && html`<${PauseOrResume} relay=${relay} again=${again} />`}</div>
    ${relay.kind === "capture" && html`<p class="captured">It keeps mail and sends none: look into the <${Link} to="/inbox">inbox<//>.</p>`}
    ${pause && html`<p>Paused <${Time} at=${pause.at} /> by <${Text}>${pause.who || "somebody"}<//>${pause.from ? html` from <${Text}>${pause.from}<//>` : ""}.</p>`}
    ${relay.last_failure && html`<p>Last failure: <span class="said inline"><${Text}>${relay.last_failure}<//></span></p>`}
    <dl class="facts">
      <div><dt>breaker</dt><dd>${breakers[relay.breaker] || relay.breaker}</dd></div>
      <div><dt>connections in use</dt><dd>${relay.busy} of ${relay.connections}</dd></div>
      <div><dt>rate</dt><dd>${relay.rate || "any"}</dd></div>
      <div><dt>backlog</dt><dd><${Link} to=${`/mails?q=${encodeURIComponent(`relay:"${name}" state:queued,deferred,scheduled,sending`)}`}>${number(relay.backlog)}<//></dd></div>
      <div><dt>success, last ${range}</dt><dd>${tried ? `${((100 * sum("delivered")) / tried).toFixed(1)} %` : "nothing tried"}</dd></div>
      ${relay.messages_per_session && html`<div><dt>mails a session, learned</dt><dd>${relay.messages_per_session}</dd></div>`}
      ${relay.recipients_per_transaction && html`<div><dt>recipients a mail, learned</dt><dd>${relay.recipients_per_transaction}</dd></div>`}
    </dl>
    ${relay.resting_domains.length > 0 && html`<h2>Domains that cannot be reached over it</h2><ul class="needs">${relay.resting_domains.map((rest) => html`<li key=${rest.domain}><b><${Text}>${rest.domain}<//></b> <span><${Text}>${rest.reason}<//></span></li>`)}</ul>`}
    <div class="heading"><h2>What happened</h2><${Ranges} range=${range} base=${`/relays/${named}`} /></div>
    <div class="plots"><${Plot} points=${points} title="Deliveries" lines=${[["delivered"], ["deferred"], ["dead"]]} />
      <${Plot} points=${points} title="Waiting" lines=${[["backlog", "waiting"]]} />
      <${Plot} points=${points} title="From accepted to delivered" unit=" s" lines=${[["p50", "half within"], ["p99", "99 of 100 within"]]} /></div>
    <h2>Trouble by recipient domain</h2>
    ${domains?.groups.length ? html`<div class="scroll" tabindex="0" role="region" aria-label="Domains"><table class="dense"><thead><tr><th>Domain</th><th class="number">Deferred</th><th class="number">Dead</th><th>Last said</th></tr></thead>
      <tbody>${domains.groups.slice(0, 50).map((group) => html`<tr key=${group.name}><th scope="row"><${Link} to=${`/mails?q=${encodeURIComponent(`relay:"${name}" ${group.q}`)}`}><${Text}>${group.name}<//><//></th><td class="number">${number(group.deferred)}</td><td class="number">${number(group.dead)}</td><td><${Text}>${group.text}<//></td></tr>`)}</tbody></table></div>`
      : html`<p class="faint">None.</p>`}`;
}
