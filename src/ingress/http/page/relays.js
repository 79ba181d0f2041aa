// Relays: how each is, and pause and resume.

import { call, html, useAnswer } from "./api.js";
import { number } from "./words.js";
import { Ask, Link, Problem, State, Text } from "./parts.js";
import { useState } from "./vendor/hooks.js";

export function Relays({ may }) {
  const { data, error, again } = useAnswer("/v1/relays", 3000);
  const [asking, setAsking] = useState(null);
  const [failure, setFailure] = useState(null);
  const act = async (name, what) => {
    setAsking(null);
    await call("POST", `/v1/relays/${encodeURIComponent(name)}/${what}`).then(() => setFailure(null), setFailure);
    again();
  };
  return html`<h1>Relays</h1><${Problem} error=${failure || error} />
    <div class="scroll" tabindex="0" role="region" aria-label="Relays"><table><thead><tr><th>Relay</th><th>State</th><th>Breaker</th><th>Connections</th><th>Rate</th><th>Backlog</th><th>Last failure</th><th>Act</th></tr></thead>
    <tbody>${data?.relays.map((relay) => html`<tr key=${relay.name}>
      <th scope="row"><${Link} to=${`/mails?q=relay:${encodeURIComponent(relay.name)}`}>${relay.name}<//></th>
      <td><${State} of=${relay.state} /></td><td>${relay.breaker.replace("_", " ")}</td>
      <td>${relay.busy} of ${relay.connections}</td><td>${relay.rate || "any"}</td><td>${number(relay.backlog)}</td>
      <td><${Text}>${relay.last_failure || ""}<//></td>
      <td>${may.admin && (relay.state === "paused"
        ? html`<button onClick=${() => act(relay.name, "resume")}>Resume</button>`
        : html`<button onClick=${() => setAsking(relay)}>Pause…</button>`)}</td></tr>`)}</tbody></table></div>
    ${asking && html`<${Ask} title=${`Pause ${asking.name}?`} yes="Pause" danger onYes=${() => act(asking.name, "pause")} onNo=${() => setAsking(null)}>
      <p>Its ${number(asking.backlog)} waiting deliveries take the route's next relay, or wait.</p><//>`}`;
}
