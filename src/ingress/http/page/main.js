// The page's frame: who is signed in, which view the address names, and keys that work everywhere.

import { call, get, html } from "./api.js";
import { listen, on } from "./live.js";
import { Link, Problem, go } from "./parts.js";
import { Overview } from "./overview.js";
import { Mails } from "./mails.js";
import { Relays } from "./relays.js";
import { Events } from "./events.js";
import { About } from "./about.js";
import { render } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

const views = [["/", "Overview"], ["/mails", "Mails"], ["/relays", "Relays"], ["/dead", "Dead letters"], ["/events", "Events"], ["/about", "About"]];
const keys = [["/", "search"], ["j k", "down and up the list"], ["Enter", "open"], ["Ctrl-K", "find anything"], ["Escape", "close"], ["?", "these keys"]];

function Page() {
  const [who, setWho] = useState(null);
  const [error, setError] = useState(null);
  const [place, setPlace] = useState(location.pathname + location.search);
  const [linked, setLinked] = useState(true);
  const [help, setHelp] = useState(false);

  const whoAmI = () => get("/v1/session").then((answer) => {
    setWho(answer);
    setError(null);
    listen();
  }, setError);
  useEffect(() => {
    whoAmI();
    const moved = () => setPlace(location.pathname + location.search);
    const out = () => setWho(null);
    addEventListener("popstate", moved);
    addEventListener("signed-out", out);
    const unlink = on("link", setLinked);
    const key = (event) => {
      const types = event.target.closest?.("input,textarea,select,dialog");
      const find = event.key === "k" && (event.ctrlKey || event.metaKey);
      if (!find && (types || event.ctrlKey || event.metaKey || event.altKey)) return;
      if (find || event.key === "/") {
        event.preventDefault();
        if (!document.getElementById("search")) go("/mails");
        setTimeout(() => document.getElementById("search")?.focus());
      } else if (event.key === "?") setHelp(true);
    };
    addEventListener("keydown", key);
    return () => {
      removeEventListener("popstate", moved);
      removeEventListener("signed-out", out);
      removeEventListener("keydown", key);
      unlink();
    };
  }, []);

  const url = new URL(place, location.origin);
  const path = url.pathname;
  const name = views.find(([address]) => address === path)?.[1] || "Mail";
  document.title = `${name} · Postrider`;
  if (!who) return html`<main class="alone">${error && error.status !== 401 ? html`<${Problem} error=${error} />` : error ? html`<${SignIn} done=${whoAmI} />` : ""}</main>`;
  const may = { admin: who.scope === "admin" };
  const open = path.startsWith("/mails") ? "/mails" : path;
  return html`
    <a class="skip" href="#view">Skip to the view</a>
    <header><b class="name">Postrider</b><nav aria-label="Views">${views.map(([address, title]) => html`<${Link} key=${address} to=${address} aria-current=${open === address ? "page" : undefined}>${title}<//>`)}</nav>
      <span class="faint node" title=${`run ${who.instance}`}>${who.node}</span></header>
    ${!linked && html`<p class="problem lost" role="status">The service does not answer. This page tries again by itself; what it shows may be old.</p>`}
    <main id="view" tabindex="-1">${view(path, url.searchParams, may, who, () => location.reload())}</main>
    ${help && html`<${Keys} close=${() => setHelp(false)} />`}`;
}

function view(path, parameters, may, who, signedOut) {
  if (who.scope === "send") return html`<h1>This token may hand in mail and see nothing</h1>`;
  if (path.startsWith("/mails")) return html`<${Mails} key="mails" id=${path.split("/")[2]} parameters=${parameters} may=${may} />`;
  if (path === "/relays") return html`<${Relays} may=${may} />`;
  if (path === "/dead") return html`<${Mails} key="dead" isDead parameters=${parameters} may=${may} />`;
  if (path === "/events") return html`<${Events} />`;
  if (path === "/about") return html`<${About} who=${who} signedOut=${signedOut} />`;
  return html`<${Overview} />`;
}

function SignIn({ done }) {
  const [error, setError] = useState(null);
  const box = useRef(null);
  const send = async (event) => {
    event.preventDefault();
    const token = box.current.value.trim();
    await call("POST", "/v1/session", { Authorization: `Bearer ${token}` }).then(done, setError);
  };
  return html`<form class="signin" onSubmit=${send}><h1>Postrider</h1>
    <label>A token of <code>http.tokens</code><input ref=${box} type="password" autocomplete="current-password" required autofocus /></label>
    <${Problem} error=${error} />
    ${!window.isSecureContext && html`<p class="faint">Open this page over TLS or on the machine itself: over plain HTTP a browser does not prove that a request is the page's own.</p>`}
    <button class="main">Sign in</button></form>`;
}

function Keys({ close }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} onClose=${close} aria-label="Keys"><h2>Keys</h2>
    <dl>${keys.map(([key, what]) => html`<dt><kbd>${key}</kbd></dt><dd>${what}</dd>`)}</dl>
    <form method="dialog"><button class="main">Close</button></form></dialog>`;
}

render(html`<${Page} />`, document.getElementById("page"));
