// The search: a box that suggests how to go on, for the word that is being typed.

import { get, html } from "./api.js";
import { visible } from "./words.js";
import { useEffect, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";

/** What can be asked for, what it means, and what can stand there. */
const qualifiers = {
  to: ["a recipient, or a part of one"], from: ["the sender, or a part of it"], subject: ["words of the subject"],
  state: ["where it stands", "queued", "sending", "scheduled", "deferred", "delivered", "dead", "cancelled", "partial"],
  code: ["what a server answered", "451", "4.7.1", "421", "550", "5.1.1", "5xx", "4xx"], error: ["what was said, or a part of it"],
  relay: ["over which relay"], domain: ["the recipient's domain"], tag: ["a tag"], priority: ["how urgent", "critical", "default", "bulk"],
  key: ["the idempotency key"], id: ["the beginning of its id"], "message-id": ["the Message-ID"],
  after: ["accepted after a day, a time, or so long ago", "1h", "24h", "7d"], before: ["accepted before", "1h", "24h", "7d"],
};

/** A value as it stands in a search. */
const quoted = (value) => (/[\s,"]/.test(value) ? `"${value.replaceAll('"', "")}"` : value);

/** What fits behind the word that ends where the cursor is: [what it becomes, what it means]. */
function suggestions(word, known) {
  const [, minus, name, value] = /^(-?)(?:([a-z-]+):)?(.*)$/s.exec(word) || [];
  if (name === undefined) {
    const fitting = Object.entries(qualifiers).filter(([one]) => one.startsWith(value) && one !== value);
    return fitting.map(([one, [means]]) => [`${minus}${one}:`, means]);
  }
  if (!Object.hasOwn(qualifiers, name)) return [];
  const [means, ...fixed] = qualifiers[name];
  const before = value.includes(",") && !value.includes('"') ? value.slice(0, value.lastIndexOf(",") + 1) : "";
  const typed = value.slice(before.length).replace(/^"/, "").toLowerCase();
  const values = [...new Set([...fixed, ...(known[name] || [])])];
  const fitting = values.filter((one) => one.toLowerCase().startsWith(typed) && one.toLowerCase() !== typed);
  return fitting.slice(0, 9).map((one) => [`${minus}${name}:${before}${quoted(one)}`, fitting.length === 1 ? means : ""]);
}

/** `known`: values that are there, by qualifier. `found(q)` is called with what is to be searched for. */
export function Search({ q, known, found }) {
  const box = useRef(null);
  const [open, setOpen] = useState([]);
  const [at, setAt] = useState(-1);
  const [relays, setRelays] = useState([]);
  // Set when the address changes and not with each drawing, which would wipe out what is typed.
  useLayoutEffect(() => {
    box.current.value = q;
    setOpen([]);
  }, [q]);
  useEffect(() => {
    get("/v1/relays").then((answer) => setRelays(answer.relays.map((relay) => relay.name)), () => {});
  }, []);

  const word = () => {
    const text = box.current.value.slice(0, box.current.selectionStart);
    return /(?:[^\s"]|"[^"]*"?)*$/.exec(text)[0];
  };
  const look = () => {
    setOpen(suggestions(word(), { ...known, relay: relays }));
    setAt(-1);
  };
  const take = ([becomes]) => {
    const end = box.current.selectionStart;
    const begins = end - word().length;
    const rest = box.current.value.slice(end);
    const space = becomes.endsWith(":") || rest.startsWith(" ") ? "" : " ";
    box.current.value = box.current.value.slice(0, begins) + becomes + space + rest;
    const place = begins + becomes.length + space.length;
    box.current.setSelectionRange(place, place);
    box.current.focus();
    look();
  };
  const key = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (!open.length) return look();
      const places = open.length + 1;
      setAt(((at + 1 + step + places) % places) - 1);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      event.preventDefault();
      if (!open.length) box.current.blur();
      setOpen([]);
    } else if ((event.key === "Enter" || event.key === "Tab") && at >= 0) {
      event.preventDefault();
      take(open[at]);
    }
  };
  const search = (event) => {
    event.preventDefault();
    setOpen([]);
    // The keys of the list work from here on.
    box.current.blur();
    found(box.current.value.trim());
  };
  const shown = open.length > 0;
  return html`<form class="search" role="search" onSubmit=${search}>
    <input id="search" ref=${box} type="search" role="combobox" aria-label="Search" aria-autocomplete="list" aria-expanded=${shown}
      aria-controls="suggestions" aria-activedescendant=${at >= 0 ? `suggestion-${at}` : undefined} autocomplete="off" spellcheck=${false}
      placeholder="to:ada state:deferred code:451 welcome" onInput=${look} onClick=${look} onKeyDown=${key} onBlur=${() => setOpen([])} />
    <ul id="suggestions" class="options" role="listbox" aria-label="Suggestions" hidden=${!shown}>${open.map((one, n) => html`<li key=${one[0]} id=${`suggestion-${n}`} role="option"
      aria-selected=${n === at} onMouseDown=${(event) => event.preventDefault()} onClick=${() => take(one)}><code>${visible(one[0])}</code> <span class="faint">${one[1]}</span></li>`)}</ul>
  </form>`;
}
