// Ctrl-K: one box from which every place is reached: a view, a relay, a mail by its id, a search.

import { get, html } from "./api.js";
import { visible } from "./words.js";
import { listOf, useDialog } from "./parts.js";
import { go } from "./entries.js";
import { useEffect, useState } from "./vendor/hooks.js";

const isId = (text) => /^[0-9a-f]{8}[0-9a-f-]*$/i.test(text);

/** Where `typed` may lead: [address, name, kind]. */
function placesFor(typed, views, relays) {
  const named = [
    ...views.map(([address, name]) => [address, name, "view"]),
    ...relays.map((name) => [`/relays/${encodeURIComponent(name)}`, name, "relay"]),
  ];
  const text = typed.trim();
  const fitting = named.filter(([, name]) => name.toLowerCase().includes(text.toLowerCase()));
  if (!text) return fitting;
  const id = isId(text) ? [[listOf(`id:${text}`), text, "mail by its id"]] : [];
  return [...id, ...fitting, [listOf(text), text, "search the mails"]];
}

/** `views`: pairs of an address and a name. */
export function Palette({ views, close }) {
  const dialog = useDialog();
  const [typed, setTyped] = useState("");
  const [at, setAt] = useState(0);
  const [relays, setRelays] = useState([]);
  useEffect(() => {
    get("/v1/relays").then((answer) => setRelays(answer.relays.map((relay) => relay.name)), () => {});
  }, []);
  const places = placesFor(typed, views, relays);
  const take = ([address]) => {
    close();
    go(address);
    setTimeout(() => document.getElementById("view")?.focus());
  };
  const type = (event) => {
    setTyped(event.target.value);
    setAt(0);
  };
  const key = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !places.length) return;
    event.preventDefault();
    const next = (at + step + places.length) % places.length;
    setAt(next);
    document.getElementById(`place-${next}`)?.scrollIntoView({ block: "nearest" });
  };
  const submit = (event) => {
    event.preventDefault();
    if (places[at]) take(places[at]);
  };
  return html`<dialog ref=${dialog} class="palette" onClose=${close} aria-label="Go to">
    <form onSubmit=${submit}><input type="text" role="combobox" aria-label="Go to" aria-autocomplete="list" aria-expanded="true" aria-controls="places"
      aria-activedescendant=${places[at] ? `place-${at}` : undefined} autocomplete="off" spellcheck=${false} placeholder="a view, a relay, an id, or words to search for"
      onInput=${type} onKeyDown=${key} autofocus /></form>
    <ul id="places" class="options" role="listbox" aria-label="Places">${places.map((place, n) => html`<li key=${place[0]} id=${`place-${n}`} role="option" aria-selected=${n === at}
      onMouseDown=${(event) => event.preventDefault()} onClick=${() => take(place)}><span>${visible(place[1])}</span> <span class="faint">${place[2]}</span></li>`)}</ul></dialog>`;
}
