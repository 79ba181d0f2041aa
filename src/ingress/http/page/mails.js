// Mails and dead letters: tabs by state, a search, a list beside the mail that is chosen.

import { call, get, html } from "./api.js";
import { on } from "./live.js";
import { number, sentence, visible } from "./words.js";
import { Ask, Link, Problem, State, Text, Time, go } from "./parts.js";
import { Mail } from "./mail.js";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";

const tabs = ["", "queued", "sending", "scheduled", "deferred", "delivered", "dead", "cancelled"];

/** The query of a list, from its address. */
function wanted(parameters, isDead) {
  const asked = new URLSearchParams({ limit: "50" });
  for (const name of ["q", "state"]) if (parameters.get(name)) asked.set(name, parameters.get(name));
  if (isDead) asked.set("state", "dead");
  return asked;
}

export function Mails({ id, parameters, may, isDead = false }) {
  const base = isDead ? "/dead" : "/mails";
  const asked = wanted(parameters, isDead).toString();
  const [mails, setMails] = useState([]);
  const [next, setNext] = useState(null);
  const [error, setError] = useState(null);
  const [counts, setCounts] = useState(null);
  const [fresh, setFresh] = useState(0);
  const [loading, setLoading] = useState(true);
  const box = useRef(null);
  const latest = useRef("");

  const load = useCallback(async (cursor) => {
    latest.current = asked;
    setLoading(true);
    try {
      let page = { mails: [], next: cursor };
      // A page can be short, even empty, although more follow.
      for (let turn = 0; turn < 20 && !page.mails.length && (turn === 0 || page.next); turn++) {
        const from = page.next ? `&cursor=${page.next}` : "";
        page = await get(`/v1/mails?${asked}${from}`);
      }
      if (latest.current !== asked) return;
      setMails((old) => (cursor ? [...old, ...page.mails] : page.mails));
      setNext(page.next);
      setError(null);
      if (!cursor) setFresh(0);
    } catch (failed) {
      setError(failed);
      if (!cursor) setMails([]);
    }
    setLoading(false);
  }, [asked]);

  useEffect(() => {
    load();
    get("/v1/stats").then((stats) => setCounts(stats.deliveries), () => {});
  }, [load]);
  // What is new is said, not put before somebody who reads.
  useEffect(() => on("happened", ({ kind }) => {
    if (kind === (isDead ? "dead" : "accepted")) setFresh((n) => n + 1);
  }), [isDead]);

  useEffect(() => {
    const key = (event) => {
      if (event.target.closest("input,textarea,select,dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key !== "j" && event.key !== "k") return;
      const rows = [...document.querySelectorAll(".list a.mail")];
      const at = rows.indexOf(document.activeElement);
      const to = event.key === "j" ? Math.min(at + 1, rows.length - 1) : Math.max(at - 1, 0);
      rows[to]?.focus();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);

  const address = (changes) => {
    const kept = new URLSearchParams(parameters);
    for (const [name, value] of Object.entries(changes)) value ? kept.set(name, value) : kept.delete(name);
    const query = kept.toString();
    return base + (query ? `?${query}` : "");
  };
  const search = (event) => {
    event.preventDefault();
    go(address({ q: box.current.value.trim() }));
  };
  // Set when the address changes and not with each drawing, which would wipe out what is typed.
  const q = parameters.get("q") || "";
  useLayoutEffect(() => {
    box.current.value = q;
  }, [q]);
  const state = parameters.get("state") || "";
  return html`
    <div class=${id ? "split chosen" : "split"}>
      <section class="list" aria-label="Mails">
        <h1>${isDead ? "Dead letters" : "Mails"}</h1>
        <form class="search" role="search" onSubmit=${search}>
          <input id="search" ref=${box} type="search" aria-label="Search"
            placeholder="to:ada state:deferred code:451 welcome" list="qualifiers" />
          <datalist id="qualifiers">${["to:", "from:", "subject:", "tag:", "code:", "relay:", "domain:", "key:", "id:", "after:1h", "state:deferred"].map((q) => html`<option value=${q} />`)}</datalist>
        </form>
        ${!isDead && html`<nav class="tabs" aria-label="States">${tabs.map((tab) => html`<${Link} key=${tab} to=${address({ state: tab })}
          aria-current=${tab === state ? "true" : undefined}>${tab || "all"}${tab && counts ? html` <small>${number(counts[tab])}</small>` : ""}<//>`)}</nav>`}
        ${isDead && may.admin && html`<${DeadActs} again=${load} />`}
        <div aria-live="polite">${fresh > 0 && html`<button class="fresh" onClick=${() => load()}>${number(fresh)} new</button>`}</div>
        <${Problem} error=${error} />
        ${mails.length > 0 && html`<ol class="mails">${mails.map((mail) => html`<${Row} key=${mail.id} mail=${mail} chosen=${mail.id === id} query=${parameters.toString()} />`)}</ol>`}
        ${!mails.length && !error && !loading && html`<p class="faint empty">No mails${asked.includes("q=") || state ? " like these" : " yet: hand one in with POST /v1/mails, or `postrider send`"}.</p>`}
        ${next && html`<button onClick=${() => load(next)}>More</button>`}
      </section>
      ${id ? html`<${Mail} key=${id} id=${id} may=${may} changed=${() => load()} />` : html`<p class="faint hint">Choose a mail: <kbd>j</kbd> <kbd>k</kbd> <kbd>Enter</kbd></p>`}
    </div>`;
}

function Row({ mail, chosen, query }) {
  const [first] = mail.deliveries;
  const others = mail.deliveries.length - 1;
  const worst = mail.deliveries.find((delivery) => delivery.state === "dead" || delivery.state === "deferred");
  return html`<li><${Link} class="mail" to=${`/mails/${mail.id}${query ? `?${query}` : ""}`} aria-current=${chosen ? "true" : undefined}>
    <span class="line"><${State} of=${mail.state} /><b><${Text}>${first?.recipient}<//>${others > 0 ? ` +${others}` : ""}</b><${Time} at=${mail.created_at} /></span>
    <span class="subject">${visible(mail.subject) || "(no subject)"}</span>
    ${worst && html`<span class="why">${sentence(worst)}</span>`}
  <//></li>`;
}

/** Retries or purges every dead letter, after counting them. */
function DeadActs({ again }) {
  const [asking, setAsking] = useState(null);
  const [error, setError] = useState(null);
  const [typed, setTyped] = useState("");
  const acts = { retry: ["POST", "/v1/dead/retry"], purge: ["DELETE", "/v1/dead"] };
  const count = async (act) => {
    const [method, path] = acts[act];
    setTyped("");
    setError(null);
    await call(method, `${path}?dry_run=true`).then(({ count }) => setAsking({ act, count }), setError);
  };
  const run = async () => {
    if (asking.act === "purge" && typed.trim() !== String(asking.count)) return;
    const [method, path] = acts[asking.act];
    await call(method, path).then(() => setError(null), setError);
    setAsking(null);
    again();
  };
  return html`<div class="row"><button onClick=${() => count("retry")}>Retry all…</button>
    <button class="danger" onClick=${() => count("purge")}>Purge all…</button></div><${Problem} error=${error} />
    ${asking && html`<${Ask} title=${asking.act === "purge" ? `Delete ${number(asking.count)} mails for good?` : `Send ${number(asking.count)} mails again?`}
      yes=${asking.act === "purge" ? "Delete" : "Send again"} danger=${asking.act === "purge"} onYes=${run} onNo=${() => setAsking(null)}>
      ${asking.act === "purge" && html`<label>Type ${asking.count} to mean it <input inputmode="numeric" onInput=${(event) => setTyped(event.target.value)} /></label>`}<//>`}`;
}
