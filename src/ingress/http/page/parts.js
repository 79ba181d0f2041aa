// What several views show: links, states, problems, a question before something is done.

import { html } from "./api.js";
import { go } from "./entries.js";
import { exact, relative, visible } from "./words.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

/** A link to a view; `by` is how it is gone to, a new entry of the history unless it is told. */
export function Link({ to, by = go, children, ...rest }) {
  const follow = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    by(to);
  };
  return html`<a href=${to} onClick=${follow} ...${rest}>${children}</a>`;
}

/** The address of the list of what a search finds. */
export const listOf = (q) => `/mails?q=${encodeURIComponent(q)}`;

export const State = ({ of }) => html`<span class="state ${of}">${of.replaceAll("_", " ")}</span>`;

/** The time, drawn again while it passes: "3 min ago" must not stand there for an hour. */
export function useNow(every = 10_000) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return Math.max(now, Date.now() - every);
}

/** For a row of names, which on a phone is wider than the screen: brings the chosen one into its middle, and moves nothing else. */
export function useCentred(...seen) {
  const row = useRef(null);
  useEffect(() => {
    const name = row.current?.querySelector("[aria-current]");
    if (name) row.current.scrollLeft = name.offsetLeft - row.current.offsetLeft - (row.current.clientWidth - name.offsetWidth) / 2;
  }, seen);
  return row;
}

export function Time({ at }) {
  useNow();
  if (!at) return html`<span class="faint">never</span>`;
  return html`<time datetime=${at} title=${exact(at)}>${relative(at)}</time>`;
}

/** Text from a mail or a server; with `lines` its line ends stay. */
export const Text = ({ children, lines = false }) => html`<bdi>${lines
  ? String(children ?? "").split(/\r?\n/).map(visible).join("\n")
  : visible([children].flat().join(""))}</bdi>`;

/** A button that copies a text. */
export function Copy({ text, title = "Copy" }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    const timer = done && setTimeout(() => setDone(false), 2000);
    return () => clearTimeout(timer);
  }, [done]);
  if (!navigator.clipboard) return null;
  const copy = () => navigator.clipboard.writeText(text).then(() => setDone(true), () => {});
  return html`<button class="quiet" onClick=${copy} aria-label=${done ? "Copied" : `${title} ${visible(text.slice(0, 60))}`}
    aria-live="polite">${done ? "Copied" : title}</button>`;
}

export const Problem = ({ error }) =>
  error ? html`<p class="problem" role="alert">${visible(error.message)}</p>` : null;

/** Tabs, of which one is chosen; the arrows go from one to the next. */
export function Tabs({ label, tabs, chosen, name, choose, children }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = tabs.findIndex(([one]) => one === chosen);
    const [next] = tabs[(at + step + tabs.length) % tabs.length];
    choose(next);
    document.getElementById(`${name}-${next}`)?.focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>${tabs.map(([one, title]) => html`<button key=${one} role="tab"
      id=${`${name}-${one}`} aria-controls=${name} aria-selected=${one === chosen} tabindex=${one === chosen ? 0 : -1} onClick=${() => choose(one)}>${title}</button>`)}</div>
    <div id=${name} role="tabpanel" aria-labelledby=${`${name}-${chosen}`} tabindex="0">${children}</div>`;
}

/** A command; it is broken before an option and not within it. */
export const Shell = ({ children }) => html`<code>${String(children).split(/ (?=-)/).map((part) => html`<span class="nowrap">${part}</span> `)}</code>`;

/** What stands where nothing is yet: what it means, and what to do. */
export const Empty = ({ title, children }) => html`<div class="empty"><p><b>${title}</b></p>${children}</div>`;

/** Opens a dialog for as long as it is there; the focus goes back to where it came from. */
export function useDialog() {
  const dialog = useRef(null);
  useEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    dialog.current.showModal();
    return () => {
      if (before?.isConnected) before.focus();
      else document.getElementById("view")?.focus();
    };
  }, []);
  return dialog;
}

/** A question that names what will be done; nothing is done before it is answered. */
export function Ask({ title, children, yes, danger = false, ready = true, onYes, onNo }) {
  const dialog = useDialog();
  const answer = (event) => {
    event.preventDefault();
    if (ready) onYes();
  };
  return html`<dialog ref=${dialog} onClose=${onNo} aria-label=${title}>
    <form onSubmit=${answer}>
      <h2>${title}</h2>${children}
      <div class="row end">
        <button type="button" autofocus onClick=${onNo}>No</button>
        <button class=${danger ? "danger" : "main"} disabled=${!ready}>${yes}</button>
      </div>
    </form>
  </dialog>`;
}
