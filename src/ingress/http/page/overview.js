// Overview: how much there is of what, what became of it lately, and what needs somebody.

import { html, useAnswer } from "./api.js";
import { number, rate, size, span } from "./words.js";
import { Empty, Link, Problem, Shell, State, Text, listOf } from "./parts.js";
import { Plot, Ranges, rangeOf, seriesPath } from "./plot.js";

const states = ["queued", "sending", "scheduled", "deferred", "delivered", "dead", "cancelled"];
const waiting = "state:queued,sending,deferred,scheduled";

export function Overview({ parameters }) {
  const { data: stats, error } = useAnswer("/v1/stats", 3000);
  const range = rangeOf(parameters);
  const { data: series } = useAnswer(seriesPath(range), 15000);
  if (!stats) return html`<h1>Overview</h1><${Problem} error=${error} />`;
  const isUnused = !stats.accepted && !Object.values(stats.deliveries).some(Boolean);
  return html`
    <h1>Overview</h1><${Problem} error=${error} />
    <section class="cards" aria-label="Deliveries by state">
      ${states.map((state) => html`<${Link} class="card ${stats.deliveries[state] ? "" : "none"}" to=${`/mails?state=${state}`} key=${state}>
        <span class="big">${number(stats.deliveries[state])}</span><${State} of=${state} /><//>`)}
    </section>
    <dl class="facts">
      <div><dt>delivered a second</dt><dd><${Link} to="/mails?state=delivered">${rate(stats.delivered_per_second)}<//></dd></div>
      <div><dt>oldest in the queue</dt><dd>${stats.oldest_queued_seconds == null ? "none" : html`<${Link} to="/mails?state=queued">${span(stats.oldest_queued_seconds)}<//>`}</dd></div>
      <div><dt>waiting</dt><dd><${Link} to=${listOf(waiting)}>${number(stats.pending)}<//> <span class="faint">of at most ${number(stats.max_pending)}</span></dd></div>
      <div><dt>accepted since the start</dt><dd><${Link} to="/mails">${number(stats.accepted)}<//></dd></div>
      <div><dt>on disk</dt><dd><${Link} to="/about">${size(stats.spool_bytes)}<//></dd></div>
    </dl>
    ${isUnused ? html`<${Empty} title="Nothing has been submitted yet">
        <p>Submit a first mail: <${Shell}>postrider send --from you@example.com --to ada@example.org --subject Hello --text "It works"<//></p>
        <p>Here you see then what became of it; <${Link} to="/relays">the relays<//> are where it goes.</p><//>` : html`<h2>What needs attention</h2><${Needs} stats=${stats} />
    <div class="heading"><h2>What happened</h2><${Ranges} range=${range} base="/" /></div>
    <div class="plots">
      <${Plot} points=${series?.points} title="Mails and deliveries" lines=${[["accepted"], ["delivered"], ["deferred"], ["dead"]]} />
      <${Plot} points=${series?.points} title="Waiting" lines=${[["backlog", "waiting"]]} />
      <${Plot} points=${series?.points} title="From accepted to delivered" unit=" s" lines=${[["p50", "half within"], ["p99", "99 of 100 within"]]} />
    </div>`}`;
}

function Needs({ stats }) {
  const needs = [];
  for (const relay of stats.relays) {
    if (relay.state === "up" && relay.breaker === "closed" && !relay.resting_domains.length) continue;
    const backlog = relay.backlog > 0 && html`<${Link} to=${listOf(`relay:"${relay.name}" ${waiting}`)}>${number(relay.backlog)} ${relay.backlog === 1 ? "waits" : "wait"} for it<//>. `;
    const resting = relay.resting_domains.map((rest) => html`<${Link} key=${rest.domain} to=${listOf(`domain:"${rest.domain}" ${waiting}`)}><${Text}>${rest.domain}<//><//> `);
    needs.push(html`<li key=${relay.name}><${State} of=${relay.state} /> <${Link} to=${`/relays/${encodeURIComponent(relay.name)}`}><${Text}>${relay.name}<//><//>
      <span>${backlog}${relay.state !== "paused" && relay.last_failure ? html`<${Text}>${relay.last_failure}<//>` : ""}
      ${resting.length ? html` Cannot be reached over it: ${resting}` : ""}</span></li>`);
  }
  const dead = stats.deliveries.dead || 0;
  if (dead) needs.push(html`<li key="dead"><${State} of="dead" /> <${Link} to="/dead">${number(dead)} ${dead === 1 ? "delivery" : "deliveries"}<//> <span>failed for good, and ${dead === 1 ? "waits" : "wait"} for a decision.</span></li>`);
  const full = stats.pending / stats.max_pending;
  if (full > 0.8) needs.push(html`<li key="full"><${State} of="down" /> <${Link} to=${listOf(waiting)}>The queue is ${Math.round(full * 100)} % full.<//></li>`);
  if (stats.quarantined) needs.push(html`<li key="bad"><${State} of="dead" /> <span>${number(stats.quarantined)} records could not be read and were set aside; <${Shell}>postrider spool verify<//> names them.</span></li>`);
  return needs.length ? html`<ul class="needs">${needs}</ul>` : html`<p class="faint">Nothing. Every relay is up, and nothing is dead.</p>`;
}
