// Events: what happens, as it happens.

import { html } from "./api.js";
import { on } from "./live.js";
import { exact, said } from "./words.js";
import { Link, State, Text } from "./parts.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

/** The most events that are shown. */
const MOST = 300;

export function Events() {
  const [events, setEvents] = useState([]);
  const [kind, setKind] = useState("");
  const [paused, setPaused] = useState(false);
  const heard = useRef([]);
  useEffect(() => on("happened", (event) => {
    heard.current = [event, ...heard.current].slice(0, MOST);
  }), []);
  useEffect(() => {
    if (paused) return;
    // Drawn twice a second, however much happens.
    const timer = setInterval(() => setEvents(heard.current), 500);
    return () => clearInterval(timer);
  }, [paused]);
  const shown = kind ? events.filter((event) => event.kind === kind) : events;
  return html`<h1>Events</h1>
    <div class="row"><label>Only <select onChange=${(event) => setKind(event.target.value)}>
      ${["", "accepted", "attempted", "deferred", "delivered", "dead", "cancelled", "relay_up", "relay_down"].map((k) => html`<option value=${k}>${k.replace("_", " ") || "all"}</option>`)}</select></label>
      <button aria-pressed=${paused} onClick=${() => setPaused(!paused)}>${paused ? "Go on" : "Pause"}</button></div>
    ${shown.length === 0 && html`<p class="faint empty">Nothing has happened since this page was opened.</p>`}
    <ol class="events">${shown.map((event) => html`<li key=${event.seq}>${event.kind === "missed"
      ? html`<b>${event.count == null ? "Some" : event.count} events were missed</b>`
      : html`<time>${exact(event.at)}</time> <${State} of=${event.kind} />
        ${event.mail && html`<${Link} to=${`/mails/${event.mail}`}><code>${event.mail.slice(0, 18)}</code><//>`}
        <span><${Text}>${event.recipient || event.relay || ""}<//></span>
        <span class="faint"><${Text}>${event.attempt ? said(event.attempt) : event.reason || ""}<//></span>`}</li>`)}</ol>`;
}
