// The page's frame: who is signed in, which view the address names, and keys that work everywhere.

import { Refused, call, get, html } from "./api.js";
import { listen, on } from "./live.js";
import { Link, Problem, useCentred, useDialog } from "./parts.js";
import { go } from "./entries.js";
import { Overview } from "./overview.js";
import { Mails } from "./mails.js";
import { Dead } from "./dead.js";
import { Relay, Relays } from "./relays.js";
import { Inbox, useInbox } from "./inbox.js";
import { Events } from "./events.js";
import { Audit } from "./audit.js";
import { About } from "./about.js";
import { Jobs } from "./bulk.js";
import { Palette } from "./palette.js";
import { render } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

const views = [["/", "Overview"], ["/mails", "Mails"], ["/dead", "Dead letters"], ["/relays", "Relays"], ["/inbox", "Inbox"],
  ["/events", "Events"], ["/audit", "Audit"], ["/about", "About"]];
const keys = [["/", "search"], ["j k", "down and up the list"], ["Enter", "open"], ["Ctrl-K", "go anywhere: a view, a relay, a mail"], ["g", "then a letter: o overview, m mails, d dead letters, r relays, i inbox, e events"], ["Escape", "close"], ["?", "these keys"]];
const letters = { o: "/", m: "/mails", d: "/dead", r: "/relays", i: "/inbox", e: "/events" };

function Page() {
  const [who, setWho] = useState(null);
  const [error, setError] = useState(null);
  const wasIn = useRef(false);
  const [place, setPlace] = useState(location.pathname + location.search);
  const [linked, setLinked] = useState(true);
  /** The dialog that is open over any view: "keys" or "palette". */
  const [over, setOver] = useState("");

  const whoAmI = () => get("/v1/session").then((answer) => {
    setWho(answer);
    wasIn.current = true;
    setError(null);
    if (answer.scope !== "send") listen(answer.event);
  }, (refused) => {
    setError(refused);
    if (refused.status !== 401) setTimeout(whoAmI, 3000);
  });
  useEffect(() => {
    whoAmI();
    let after = "";
    const moved = () => setPlace(location.pathname + location.search);
    const out = () => {
      setWho(null);
      setError(new Refused(401, ""));
    };
    addEventListener("popstate", moved);
    addEventListener("signed-out", out);
    const unlink = on("link", setLinked);
    const key = (event) => {
      const types = event.target.closest?.("input,textarea,select,dialog");
      const find = event.key === "k" && (event.ctrlKey || event.metaKey);
      if (!find && (types || event.ctrlKey || event.metaKey || event.altKey)) return;
      const before = after;
      after = event.key;
      if (find) {
        event.preventDefault();
        if (!document.querySelector("dialog[open]")) setOver("palette");
      } else if (event.key === "/") {
        event.preventDefault();
        const search = () => document.getElementById("search");
        if (search()) return search().focus();
        go("/mails");
        setTimeout(() => search()?.focus());
      } else if (before === "g" && letters[event.key]) go(letters[event.key]);
      else if (event.key === "?") setOver("keys");
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
  const may = { admin: who?.scope === "admin", read: who?.scope === "admin" || who?.scope === "read" };
  const open = views.find(([address]) => address !== "/" && path.startsWith(address))?.[0] || "/";
  const inbox = useInbox(may, open === "/inbox" && document.visibilityState === "visible");
  const title = views.find(([address]) => address === open)?.[1];
  document.title = `${inbox.unread ? `(${inbox.unread}) ` : ""}${title} · Postrider`;
  const row = useCentred(open, inbox.relays.length, Boolean(inbox.unread), Boolean(who));
  if (!who) return html`<main class="alone">${error && error.status !== 401 ? html`<${Problem} error=${error} />` : error ? html`<${SignIn} done=${whoAmI} ended=${wasIn.current} />` : ""}</main>`;
  if (!may.read) return html`<main class="alone"><h1>This token may submit mail, and sees nothing here</h1><${About} who=${who} /></main>`;
  const offered = views.filter(([address]) => address !== "/inbox" || inbox.relays.length);
  return html`
    <a class="skip" href="#view">Skip to the view</a>
    <header><b class="name">Postrider</b><nav aria-label="Views" ref=${row}>${offered.map(([address, name]) => html`<${Link} key=${address} to=${address} aria-current=${open === address ? "page" : undefined}>${name}${address === "/inbox" && inbox.unread ? html` <span class="count">${inbox.unread}</span>` : ""}<//>`)}</nav>
      <span class="faint node" title=${`run ${who.instance}`}>${who.node}</span></header>
    ${!linked && html`<p class="problem lost" role="status">The service does not answer. This page tries again by itself; what it shows may be old.</p>`}
    <${Jobs} may=${may} />
    <main id="view" tabindex="-1">${view(open, path, url.searchParams, may, who, inbox)}</main>
    ${over === "keys" && html`<${Keys} close=${() => setOver("")} />`}
    ${over === "palette" && html`<${Palette} views=${offered} close=${() => setOver("")} />`}`;
}

/** What a part of an address says; one that is cut off within a character stands as it is. */
function said(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function view(open, path, parameters, may, who, inbox) {
  const named = said(path.split("/")[2] || "");
  switch (open) {
    case "/mails": return html`<${Mails} id=${named} parameters=${parameters} may=${may} />`;
    case "/dead": return html`<${Dead} parameters=${parameters} may=${may} />`;
    case "/relays": return named ? html`<${Relay} key=${named} name=${named} parameters=${parameters} may=${may} />` : html`<${Relays} may=${may} />`;
    case "/inbox": return html`<${Inbox} id=${named} parameters=${parameters} relays=${inbox.relays} />`;
    case "/events": return html`<${Events} parameters=${parameters} />`;
    case "/audit": return html`<${Audit} parameters=${parameters} />`;
    case "/about": return html`<${About} who=${who} />`;
    default: return html`<${Overview} parameters=${parameters} />`;
  }
}

function SignIn({ done, ended }) {
  const [error, setError] = useState(null);
  const box = useRef(null);
  const send = async (event) => {
    event.preventDefault();
    const token = box.current.value.trim();
    await call("POST", "/v1/session", undefined, { Authorization: `Bearer ${token}` }).then(done, setError);
  };
  return html`<form class="signin" onSubmit=${send}><h1>Postrider</h1>
    ${ended && html`<p role="status">You are not signed in any more.</p>`}
    <label>A token of <code>http.tokens</code><input ref=${box} type="password" autocomplete="current-password" required autofocus /></label>
    <${Problem} error=${error} />
    ${!window.isSecureContext && html`<p class="faint">Open this page over TLS or on the machine itself: over plain HTTP a browser does not prove that a request is the page's own.</p>`}
    <button class="main">Sign in</button></form>`;
}

function Keys({ close }) {
  const dialog = useDialog();
  return html`<dialog ref=${dialog} onClose=${close} aria-label="Keys"><h2>Keys</h2>
    <dl>${keys.map(([names, what]) => html`<dt>${names.split(" ").map((key) => html`<kbd>${key}</kbd> `)}</dt><dd>${what}</dd>`)}</dl>
    <form method="dialog" class="row end"><button class="main">Close</button></form></dialog>`;
}

render(html`<${Page} />`, document.getElementById("page"));
