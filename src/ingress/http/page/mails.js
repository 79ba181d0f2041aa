// Mails: tabs by state, a search, a list beside the mail that is chosen, and acts on what is selected or found.

import { get, html } from "./api.js";
import { on } from "./live.js";
import { number, sentence, visible } from "./words.js";
import { Link, Problem, State, Text, Time, go } from "./parts.js";
import { Bulk } from "./bulk.js";
import { Mail } from "./mail.js";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";

const tabs = ["", "queued", "sending", "scheduled", "deferred", "delivered", "dead", "cancelled"];
const qualifiers = ["to:", "from:", "subject:", "state:deferred", "code:", "error:", "relay:", "domain:", "tag:", "key:", "id:", "message-id:", "priority:critical", "after:1h", "before:1d"];

/** The most mails that can be selected one by one: their ids are one search. */
const MOST_SELECTED = 50;

/** The query of a list, from its address. */
function wanted(parameters) {
  const asked = new URLSearchParams({ limit: "50" });
  for (const name of ["q", "state"]) if (parameters.get(name)) asked.set(name, parameters.get(name));
  return asked;
}

export function Mails({ id, parameters, may }) {
  const asked = wanted(parameters).toString();
  const [mails, setMails] = useState([]);
  const [next, setNext] = useState(null);
  const [error, setError] = useState(null);
  const [counts, setCounts] = useState(null);
  const [found, setFound] = useState(null);
  const [fresh, setFresh] = useState(0);
  const [busy, setBusy] = useState(false);
  const [loading, setLoading] = useState(true);
  const [selected, setSelected] = useState([]);
  const box = useRef(null);
  const latest = useRef("");

  const load = useCallback(async (cursor = null) => {
    latest.current = asked;
    setLoading(true);
    try {
      let page = { mails: [], next: cursor };
      // A page can be short, even empty, although more follow.
      for (let turn = 0; turn < 20 && !page.mails.length && (turn === 0 || page.next); turn++) {
        const from = page.next ? `&cursor=${encodeURIComponent(page.next)}` : "";
        page = await get(`/v1/mails?${asked}${from}`);
      }
      if (latest.current !== asked) return;
      setMails((old) => (cursor ? [...old, ...page.mails] : page.mails));
      setNext(page.next);
      setError(null);
      if (!cursor) {
        setFresh(0);
        setBusy(false);
      }
    } catch (failed) {
      if (latest.current !== asked) return;
      setError(failed);
      if (!cursor) setMails([]);
    }
    setLoading(false);
  }, [asked]);

  useEffect(() => {
    setSelected([]);
    setFound(null);
    load();
    get("/v1/stats").then((stats) => setCounts(stats.deliveries), () => {});
  }, [load]);
  // What is new is said, not put before somebody who reads.
  useEffect(() => {
    let heard = 0;
    const stop = on("happened", ({ kind }) => {
      if (kind === "skipped") setBusy(true);
      if (kind === "accepted") heard += 1;
    });
    const timer = setInterval(() => {
      if (!heard) return;
      const more = heard;
      heard = 0;
      setFresh((n) => n + more);
    }, 500);
    return () => {
      stop();
      clearInterval(timer);
    };
  }, []);

  useEffect(() => {
    const key = (event) => {
      if (event.target.closest("input,textarea,select,dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key !== "j" && event.key !== "k") return;
      const rows = [...document.querySelectorAll(".list a.mail")];
      const at = rows.indexOf(document.activeElement);
      const to = event.key === "j" ? Math.min(at + 1, rows.length - 1) : Math.max(at - 1, 0);
      /** @type {HTMLElement | undefined} */ (rows[to])?.focus();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);

  const address = (changes) => {
    const kept = new URLSearchParams(parameters);
    for (const [name, value] of Object.entries(changes)) value ? kept.set(name, value) : kept.delete(name);
    const query = kept.toString();
    return `/mails${query ? `?${query}` : ""}`;
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
  const isNarrow = Boolean(q || state);
  const all = [q, state && `state:${state}`].filter(Boolean).join(" ");
  const count = () => get(`/v1/mails/count?${asked.replace("limit=50&", "").replace("limit=50", "")}`).then((answer) => setFound(answer.count), setError);
  const select = (mail, isOn) => setSelected((old) => (isOn ? [...old, mail].slice(-MOST_SELECTED) : old.filter((one) => one !== mail)));
  return html`
    <div class=${id ? "split chosen" : "split"}>
      <section class="list" aria-label="Mails">
        <h1>Mails</h1>
        <form class="search" role="search" onSubmit=${search}>
          <input id="search" ref=${box} type="search" aria-label="Search" autocomplete="off" spellcheck=${false}
            placeholder="to:ada state:deferred code:451 welcome" list="qualifiers" />
          <datalist id="qualifiers">${qualifiers.map((one) => html`<option value=${one} />`)}</datalist>
        </form>
        <nav class="tabs" aria-label="States">${tabs.map((tab) => html`<${Link} key=${tab} to=${address({ state: tab })}
          aria-current=${tab === state ? "true" : undefined}>${tab || "all"}${tab && counts?.[tab] ? html` <small>${number(counts[tab])}</small>` : ""}<//>`)}</nav>
        ${mails.length > 0 && html`<div class="row bar">
          ${selected.length ? html`<b>${selected.length} selected</b>${may.admin && html`<${Bulk} key="some" q=${`id:${selected.join(",")}`} changed=${() => load()} />`}<button class="quiet" onClick=${() => setSelected([])}>None</button>`
            : html`<span class="faint">${found != null ? `All ${number(found)} that match` : isNarrow ? "All that match" : "All mails"}:</span>
              ${found == null && html`<button class="quiet" onClick=${count}>Count</button>`}
              ${may.admin && html`<${Bulk} key="all" q=${all} changed=${() => load()} />`}
              <a class="button quiet" href=${`/v1/mails/export?format=csv${asked.replace("limit=50", "")}`} download="mails.csv">CSV</a>`}</div>`}
        <div aria-live="polite">${fresh > 0 && html`<button class="fresh" onClick=${() => load()}>${busy ? "more than " : ""}${number(fresh)} new</button>`}</div>
        <${Problem} error=${error} />
        ${mails.length > 0 && html`<ol class="mails">${mails.map((mail) => html`<${Row} key=${mail.id} mail=${mail} chosen=${mail.id === id} query=${parameters.toString()}
          isSelected=${selected.includes(mail.id)} select=${may.admin && select} />`)}</ol>`}
        ${!mails.length && !error && !loading && html`<p class="faint empty">No mails${isNarrow ? " like these" : " yet: hand one in with POST /v1/mails, or `postrider send`"}.</p>`}
        ${next && html`<button onClick=${() => load(next)}>More</button>`}
      </section>
      ${id ? html`<${Mail} key=${id} id=${id} may=${may} back=${address({})} changed=${() => load()} />` : html`<p class="faint hint">Choose a mail: <kbd>j</kbd> <kbd>k</kbd> <kbd>Enter</kbd></p>`}
    </div>`;
}

function Row({ mail, chosen, query, isSelected, select }) {
  const [first] = mail.deliveries;
  const others = mail.deliveries.length - 1;
  const worst = mail.deliveries.find((delivery) => delivery.state === "dead" || delivery.state === "deferred");
  return html`<li class="entry">${select && html`<input type="checkbox" checked=${isSelected} aria-label=${`Select the mail to ${first?.recipient}`} onChange=${(event) => select(mail.id, event.target.checked)} />`}
    <${Link} class="mail" to=${`/mails/${mail.id}${query ? `?${query}` : ""}`} aria-current=${chosen ? "true" : undefined}>
    <span class="line"><b><${Text}>${first?.recipient}<//>${others > 0 ? ` +${others}` : ""}</b><${State} of=${mail.state} /><${Time} at=${mail.created_at} /></span>
    <span class="subject">${visible(mail.subject) || "(no subject)"}</span>
    ${worst && html`<span class="why">${sentence(worst)}</span>`}
  <//></li>`;
}
