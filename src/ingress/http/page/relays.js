// Relays: how each is, and one relay with what became of its mail; pause and resume.

import { call, html, useAnswer } from "./api.js";
import { latency, number, rate } from "./words.js";
import { Ask, Empty, Link, Problem, State, Text, Time, listOf } from "./parts.js";
import { Trouble, Waiting } from "./domains.js";
import { Plot, Ranges, rangeOf, seriesPath } from "./plot.js";
import { useState } from "./vendor/hooks.js";

const breakers = { closed: "lets mail through", half_open: "tries one mail", open: "holds mail back" };

/** Pause, which asks, or resume. */
function PauseOrResume({ relay, again }) {
  const [asking, setAsking] = useState(false);
  const [reason, setReason] = useState("");
  const [failure, setFailure] = useState(null);
  const act = async (what) => {
    setAsking(false);
    const why = what === "pause" && reason.trim() ? { reason: reason.trim() } : undefined;
    setReason("");
    await call("POST", `/v1/relays/${encodeURIComponent(relay.name)}/${what}`, why).then(() => setFailure(null), setFailure);
    again();
  };
  return html`${relay.state === "paused"
    ? html`<button onClick=${() => act("resume")} aria-label=${`Resume ${relay.name}`}>Resume</button>`
    : html`<button onClick=${() => setAsking(true)} aria-label=${`Pause ${relay.name}…`}>Pause…</button>`}
    <${Problem} error=${failure} />
    ${asking && html`<${Ask} title=${`Pause ${relay.name}?`} yes="Pause" danger onYes=${() => act("pause")} onNo=${() => setAsking(false)}>
      <p>${relay.backlog === 0 ? "Nothing waits for it now; what comes takes the route's next relay, or waits."
        : relay.backlog === 1 ? "Its 1 waiting delivery takes the route's next relay, or waits."
        : `Its ${number(relay.backlog)} waiting deliveries take the route's next relay, or wait.`}</p>
      <label>The reason, shown to others <input maxlength="400" autocomplete="off" autofocus value=${reason} onInput=${(event) => setReason(event.target.value)} /></label><//>`}`;
}

/** Deliveries that a relay took of those that it was given, in words. */
function success(recent) {
  const tried = recent ? recent.delivered + recent.deferred + recent.dead : 0;
  return tried ? `${((100 * recent.delivered) / tried).toFixed(1).replace(".0", "")} %` : "";
}

const waits = "state:queued,sending,deferred,scheduled";

export function Relays({ may }) {
  const { data, error, again } = useAnswer("/v1/relays", 3000);
  return html`<h1>Relays</h1><p class="lead">Rate, latency and success are those of the last ten minutes.</p><${Problem} error=${error} />
    <div class="scroll" tabindex="0" role="region" aria-label="Relays"><table class="stacks"><thead><tr><th>Relay</th><th>State</th><th>Breaker</th><th class="number">In use</th>
      <th class="number">Rate</th><th class="number">Success</th><th class="number" title="half / 99 of 100">Latency</th><th class="number">Backlog</th><th>Last failure</th>${may.admin && html`<th>Act</th>`}</tr></thead>
    <tbody>${data?.relays.map((relay) => html`<tr key=${relay.name}>
      <th scope="row"><${Link} to=${`/relays/${encodeURIComponent(relay.name)}`}><${Text}>${relay.name}<//><//>${relay.kind === "capture" ? html` <span class="captured">captures</span>` : ""}</th>
      <td data-label="State"><${State} of=${relay.state} /></td><td class="nowrap" data-label="Breaker">${breakers[relay.breaker] || relay.breaker}</td>
      <td class="number" data-label="Connections in use">${relay.busy} of ${relay.connections}</td>
      <td class="number" data-label="Rate">${rate(relay.recent?.per_second ?? 0)}/s${relay.rate ? html` <span class="faint">of ${relay.rate}</span>` : ""}</td>
      <td class="number" data-label="Success">${success(relay.recent) || html`<span class="faint">–</span>`}</td>
      <td class="number" data-label="Latency: half / 99 of 100">${relay.recent?.p50 == null ? html`<span class="faint">–</span>` : html`${latency(relay.recent.p50)} <span class="faint">/ ${latency(relay.recent.p99)}</span>`}</td>
      <td class="number" data-label="Backlog"><${Link} to=${listOf(`relay:"${relay.name}" ${waits}`)}>${number(relay.backlog)}<//></td>
      <td class="wide" data-label="Last failure"><${Text}>${relay.last_failure || ""}<//></td>
      ${may.admin && html`<td><${PauseOrResume} relay=${relay} again=${again} /></td>`}</tr>`)}</tbody></table></div>
    ${data && !data.relays.length && html`<${Empty} title="No relay is configured"><p>Mail is accepted and waits. Name one in the configuration: <code>[[relays]]</code> with a <code>name</code> and a <code>url</code>.</p><//>`}`;
}

export function Relay({ name, parameters, may }) {
  const range = rangeOf(parameters);
  const named = encodeURIComponent(name);
  const { data, error, again } = useAnswer("/v1/relays", 3000);
  const { data: series } = useAnswer(seriesPath(range, name), 15000);
  const relay = data?.relays.find((one) => one.name === name);
  const { data: pauses } = useAnswer(relay?.state === "paused" ? `/v1/audit?relay=${named}&act=pause&limit=1` : "");
  if (!relay) return html`<p class="crumb"><${Link} to="/relays">Relays<//></p><h1><${Text}>${name}<//></h1><${Problem} error=${error} />${data && html`<p class="faint">There is no such relay.</p>`}`;
  const points = series?.points || [];
  const pause = relay.state === "paused" && pauses?.entries[0];
  const recent = relay.recent;
  return html`<p class="crumb"><${Link} to="/relays">Relays<//></p>
    <div class="heading"><h1><${Text}>${relay.name}<//></h1><${State} of=${relay.state} />${may.admin && html`<${PauseOrResume} relay=${relay} again=${again} />`}</div>
    ${relay.kind === "capture" && html`<p class="captured">It keeps mail and sends none: look into the <${Link} to="/inbox">inbox<//>.</p>`}
    ${pause && html`<p>Paused <${Time} at=${pause.at} /> by <${Text}>${pause.who || "somebody"}<//>${pause.from ? html` from <${Text}>${pause.from}<//>` : ""}${pause.reason ? html`: <${Text}>${pause.reason}<//>` : "."}</p>`}
    ${relay.last_failure && html`<p>${relay.since ? html`Down since <${Time} at=${relay.since} />: ` : "Last failure: "}<span class="said"><${Text}>${relay.last_failure}<//></span></p>`}
    <dl class="facts">
      <div><dt>breaker</dt><dd>${breakers[relay.breaker] || relay.breaker}</dd></div>
      <div><dt>connections in use</dt><dd>${relay.busy} of ${relay.connections}</dd></div>
      <div><dt>rate${relay.rate ? ` (at most ${relay.rate})` : ""}</dt><dd>${rate(recent?.per_second ?? 0)} a second</dd></div>
      <div><dt>success, 10 min</dt><dd>${success(recent) ? html`<${Link} to=${listOf(`relay:"${name}" after:10m`)}>${success(recent)}<//>` : "nothing tried"}</dd></div>
      <div><dt>latency, 10 min</dt><dd>${recent?.p50 == null ? "nothing delivered" : html`${latency(recent.p50)} <span class="faint">half</span> · ${latency(recent.p99)} <span class="faint">99 of 100</span>`}</dd></div>
      <div><dt>backlog</dt><dd><${Link} to=${listOf(`relay:"${name}" ${waits}`)}>${number(relay.backlog)}<//></dd></div>
      ${relay.messages_per_session && html`<div><dt>most mails a session</dt><dd>${relay.messages_per_session}</dd></div>`}
      ${relay.recipients_per_transaction && html`<div><dt>most recipients a transaction</dt><dd>${relay.recipients_per_transaction}</dd></div>`}
    </dl>
    <div class="heading"><h2>What happened</h2><${Ranges} range=${range} base=${`/relays/${named}`} /></div>
    <div class="plots"><${Plot} points=${points} title="Deliveries" lines=${[["delivered"], ["deferred"], ["dead"]]} />
      <${Plot} points=${points} title="Waiting" lines=${[["backlog", "waiting"]]} />
      <${Plot} points=${points} title="From accepted to delivered" unit=" s" lines=${[["p50", "half within"], ["p99", "99 of 100 within"]]} /></div>
    <${Waiting} relay=${relay} />
    <${Trouble} name=${name} />`;
}
