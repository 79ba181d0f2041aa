// Overview: how much there is of what, what became of it lately, and what needs somebody.

import { html, useAnswer } from "./api.js";
import { number, size, span } from "./words.js";
import { Link, Problem, State, Text } from "./parts.js";
import { Plot, Ranges, rangeOf, seriesPath } from "./plot.js";

const states = ["queued", "sending", "scheduled", "deferred", "delivered", "dead", "cancelled"];

export function Overview({ parameters }) {
  const { data: stats, error } = useAnswer("/v1/stats", 3000);
  const range = rangeOf(parameters);
  const { data: series } = useAnswer(seriesPath(range), 15000);
  if (!stats) return html`<h1>Overview</h1><${Problem} error=${error} />`;
  return html`
    <h1>Overview</h1><${Problem} error=${error} />
    <section class="cards" aria-label="Deliveries by state">
      ${states.map((state) => html`<${Link} class="card ${stats.deliveries[state] ? "" : "none"}" to=${`/mails?state=${state}`} key=${state}>
        <span class="big">${number(stats.deliveries[state])}</span><${State} of=${state} /><//>`)}
    </section>
    <dl class="facts">
      <div><dt>delivered a second</dt><dd>${stats.delivered_per_second.toFixed(1)}</dd></div>
      <div><dt>oldest waiting</dt><dd>${stats.oldest_queued_seconds == null ? "none" : html`<${Link} to="/mails?state=queued">${span(stats.oldest_queued_seconds)}<//>`}</dd></div>
      <div><dt>accepted since the start</dt><dd>${number(stats.accepted)}</dd></div>
      <div><dt>queue</dt><dd>${number(stats.pending)} of ${number(stats.max_pending)}</dd></div>
      <div><dt>on disk</dt><dd>${size(stats.spool_bytes)}</dd></div>
    </dl>
    <h2>What needs attention</h2><${Needs} stats=${stats} />
    <div class="heading"><h2>What happened</h2><${Ranges} range=${range} base="/" /></div>
    <div class="plots">
      <${Plot} points=${series?.points} title="Mails and deliveries" lines=${[["accepted"], ["delivered"], ["deferred"], ["dead"]]} />
      <${Plot} points=${series?.points} title="Waiting" lines=${[["backlog", "waiting"]]} />
      <${Plot} points=${series?.points} title="From accepted to delivered" unit=" s" lines=${[["p50", "half within"], ["p99", "99 of 100 within"]]} />
    </div>`;
}

function Needs({ stats }) {
  const needs = [];
  for (const relay of stats.relays) {
    if (relay.state === "up" && relay.breaker === "closed" && !relay.resting_domains.length) continue;
    const resting = relay.resting_domains.map((rest) => rest.domain).join(", ");
    needs.push(html`<li key=${relay.name}><${State} of=${relay.state} /> <${Link} to=${`/relays/${encodeURIComponent(relay.name)}`}>${relay.name}<//>
      <span>${relay.backlog ? `${number(relay.backlog)} wait for it. ` : ""}${relay.state !== "paused" && relay.last_failure ? html`<${Text}>${relay.last_failure}<//>` : ""}
      ${resting ? html` Cannot be reached over it: <${Text}>${resting}<//>` : ""}</span></li>`);
  }
  const dead = stats.deliveries.dead || 0;
  if (dead) needs.push(html`<li key="dead"><${State} of="dead" /> <${Link} to="/dead">${number(dead)} ${dead === 1 ? "delivery" : "deliveries"}<//> <span>failed for good, and wait for a decision.</span></li>`);
  const full = stats.pending / stats.max_pending;
  if (full > 0.8) needs.push(html`<li key="full"><${State} of="down" /> <span>The queue is ${Math.round(full * 100)} % full.</span></li>`);
  if (stats.quarantined) needs.push(html`<li key="bad"><${State} of="dead" /> <span>${number(stats.quarantined)} records could not be read and were set aside.</span></li>`);
  return needs.length ? html`<ul class="needs">${needs}</ul>` : html`<p class="faint">Nothing. Every relay is up, and nothing is dead.</p>`;
}
