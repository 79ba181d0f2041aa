// What several views show: links, states, problems, a question before something is done.

import { html } from "./api.js";
import { exact, relative, visible } from "./words.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

/** Goes to a view without loading the page anew. */
export function go(address, replace = false) {
  history[replace ? "replaceState" : "pushState"](null, "", address);
  dispatchEvent(new PopStateEvent("popstate"));
}

export function Link({ to, children, ...rest }) {
  const follow = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(to);
  };
  return html`<a href=${to} onClick=${follow} ...${rest}>${children}</a>`;
}

export const State = ({ of }) => html`<span class="state ${of}">${of.replace("_", " ")}</span>`;

export const Time = ({ at }) =>
  at ? html`<time datetime=${at} title=${exact(at)}>${relative(at)}</time>` : html`<span class="faint">never</span>`;

/** Text from a mail or a server; with `lines` its line ends stay. */
export const Text = ({ children, lines = false }) => html`<bdi>${lines
  ? String(children ?? "").split(/\r?\n/).map(visible).join("\n")
  : visible([children].flat().join(""))}</bdi>`;

/** A button that copies a text. */
export function Copy({ text, title = "Copy" }) {
  const [done, setDone] = useState(false);
  if (!navigator.clipboard) return null;
  const copy = () => navigator.clipboard.writeText(text).then(() => setDone(true), () => {});
  return html`<button class="quiet" onClick=${copy} aria-label=${`${title} ${text.slice(0, 60)}`}>${done ? "Copied" : title}</button>`;
}

export const Problem = ({ error }) =>
  error ? html`<p class="problem" role="alert">${visible(error.message)}</p>` : null;

/** A question that names what will be done; nothing is done before it is answered. */
export function Ask({ title, children, yes, danger = false, ready = true, onYes, onNo }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} onCancel=${onNo} aria-label=${title}>
    <h2>${title}</h2>${children}
    <div class="row end">
      <button onClick=${onNo}>No</button>
      <button class=${danger ? "danger" : "main"} disabled=${!ready} onClick=${onYes}>${yes}</button>
    </div>
  </dialog>`;
}
