// Events: what happens, as it happens.

import { html } from "./api.js";
import { kinds, on } from "./live.js";
import { exact, number, said } from "./words.js";
import { Empty, Link, Shell, State, Text } from "./parts.js";
import { go } from "./entries.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

/** The most events that are shown. */
const MOST = 300;

const aboutOf = (event) => event.recipient || event.relay || event.webhook || event.filter || event.who || "";
const detailOf = (event) => (event.attempt ? said(event.attempt) : [event.act || event.list, event.status, event.reason || event.text].filter(Boolean).join(" "));

function matches(event, kind, text) {
  if (event.kind === "missed" || event.kind === "skipped") return true;
  if (kind && event.kind !== kind) return false;
  if (!text) return true;
  return [event.mail, event.recipient, event.relay, event.who, event.key, ...(event.tags || []), detailOf(event)].some((part) => part && String(part).toLowerCase().includes(text));
}

export function Events({ parameters }) {
  const kind = parameters.get("kind") || "";
  const text = (parameters.get("text") || "").toLowerCase();
  const [events, setEvents] = useState([]);
  const [paused, setPaused] = useState(false);
  const [waiting, setWaiting] = useState(0);
  const heard = useRef([]);
  const more = useRef(0);
  const wanted = useRef({ kind, text });
  wanted.current = { kind, text };
  useEffect(() => on("happened", (event) => {
    if (!matches(event, wanted.current.kind, wanted.current.text)) return;
    heard.current.unshift({ ...event, heard: performance.now() });
    more.current += 1;
    if (heard.current.length > MOST) heard.current.length = MOST;
  }), []);
  useEffect(() => {
    // Drawn twice a second, however much happens.
    const timer = setInterval(() => {
      if (paused) return setWaiting(more.current);
      if (!more.current) return;
      more.current = 0;
      setWaiting(0);
      setEvents([...heard.current]);
    }, 500);
    return () => clearInterval(timer);
  }, [paused]);
  const choose = (event) => {
    const chosen = new URLSearchParams();
    for (const [name, value] of new FormData(event.currentTarget)) if (value) chosen.set(name, String(value));
    event.preventDefault();
    go(`/events${chosen.size ? `?${chosen}` : ""}`, true);
  };
  const shown = events.filter((event) => matches(event, kind, text));
  return html`<h1>Events</h1>
    <form class="row" onChange=${choose} onSubmit=${choose}><label>Only <select name="kind" value=${kind}><option value="">all</option>${kinds.map((name) => html`<option value=${name}>${name.replaceAll("_", " ")}</option>`)}</select></label>
      <label>With <input name="text" value=${parameters.get("text") || ""} placeholder="recipient, relay, tag" size="18" /></label>
      <button type="button" aria-pressed=${paused} onClick=${() => setPaused(!paused)}>${paused ? `Go on${waiting ? ` (${waiting} more)` : ""}` : "Pause"}</button></form>
    ${shown.length === 0 && html`<${Empty} title=${kind || text ? "Nothing like this has happened since the page was opened" : "Waiting for something to happen"}>
      <p class="faint">What happens from now on appears here by itself, the newest first. What happened before is in the journal: <${Shell}>postrider tail --since 1h<//></p><//>`}
    ${shown.length > 0 && html`<ol class="events">${shown.map((event) => html`<li key=${event.seq ?? `${event.kind}${event.heard}`}>${event.kind === "missed"
      ? html`<b>${event.count == null ? "Some" : number(event.count)} events were missed</b>`
      : event.kind === "skipped" ? html`<span class="faint">${number(event.count)} more, too many to show</span>`
      : html`<time>${exact(event.at)}</time> <${State} of=${event.kind} />
        <span>${event.mail ? html`<${Link} to=${`/mails/${event.mail}`}><${Text}>${aboutOf(event) || "a mail"}<//><//>` : html`<${Text}>${aboutOf(event)}<//>`}</span>
        <span class="faint"><${Text}>${detailOf(event)}<//></span>`}</li>`)}</ol>`}`;
}
