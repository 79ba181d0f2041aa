// Overview: how much there is of what, and what needs somebody.

import { html, useAnswer } from "./api.js";
import { number, size, span } from "./words.js";
import { Link, Problem, State, Text } from "./parts.js";

const states = ["queued", "sending", "scheduled", "deferred", "delivered", "dead", "cancelled"];

export function Overview() {
  const { data: stats, error } = useAnswer("/v1/stats", 3000);
  if (!stats) return html`<h1>Overview</h1><${Problem} error=${error} />`;
  const troubled = stats.relays.filter((relay) => relay.state !== "up" || relay.breaker !== "closed");
  const dead = stats.deliveries.dead || 0;
  const full = stats.pending / stats.max_pending;
  const needs = [];
  for (const relay of troubled) {
    needs.push(html`<li><${State} of=${relay.state} /> <${Link} to="/relays">${relay.name}<//>
      ${relay.last_failure ? html`: <${Text}>${relay.last_failure}<//>` : ""}</li>`);
  }
  if (dead) needs.push(html`<li><${Link} to="/dead">${number(dead)} dead<//> ${dead === 1 ? "delivery waits" : "deliveries wait"} for a decision</li>`);
  if (full > 0.8) needs.push(html`<li>the queue is ${Math.round(full * 100)} % full</li>`);
  if (stats.quarantined) needs.push(html`<li>${number(stats.quarantined)} records could not be read and were set aside</li>`);
  return html`
    <h1>Overview</h1><${Problem} error=${error} />
    <section class="cards" aria-label="Deliveries by state">
      ${states.map((state) => html`<${Link} class="card" to=${`/mails?state=${state}`} key=${state}>
        <span class="big">${number(stats.deliveries[state])}</span><${State} of=${state} /><//>`)}
    </section>
    <section class="cards plain" aria-label="Rates">
      <div class="card"><span class="big">${stats.delivered_per_second.toFixed(1)}</span><span>delivered a second, over the last minute</span></div>
      <div class="card"><span class="big">${stats.oldest_queued_seconds == null ? "none" : span(stats.oldest_queued_seconds)}</span><span>the oldest has been waiting</span></div>
      <div class="card"><span class="big">${number(stats.accepted)}</span><span>accepted since the start</span></div>
      <div class="card"><span class="big">${size(stats.spool_bytes)}</span><span>on disk</span></div>
    </section>
    <h2>What needs attention</h2>
    ${needs.length ? html`<ul class="needs">${needs}</ul>` : html`<p class="faint">Nothing. Every relay is up, and nothing is dead.</p>`}`;
}
