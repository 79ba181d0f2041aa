// Mails: tabs by state, a search, a list beside the mail that is chosen, and acts on what is selected or found.

import { get, html } from "./api.js";
import { compact, number, sentence, visible } from "./words.js";
import { Empty, Link, Problem, Shell, State, Text, Time, useCentred, useNow } from "./parts.js";
import { go, goBack } from "./entries.js";
import { Bulk } from "./bulk.js";
import { Mail } from "./mail.js";
import { useKeys, useMails } from "./paging.js";
import { Search } from "./search.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

const tabs = ["", "queued", "sending", "scheduled", "deferred", "delivered", "dead", "cancelled"];

/** What can be done to mail of a state; where a list is of no one state, everything may be. */
const fitting = { queued: ["cancel"], sending: ["cancel"], scheduled: ["cancel"], deferred: ["retry", "cancel"], delivered: ["purge"], dead: ["retry", "purge"], cancelled: ["retry", "purge"] };

/** The most mails that can be selected one by one: their ids are one search. */
const MOST_SELECTED = 50;

/** The query of a list, from its address. */
function wanted(parameters) {
  const asked = new URLSearchParams();
  for (const name of ["q", "state"]) if (parameters.get(name)) asked.set(name, parameters.get(name));
  return asked.toString();
}

export function Mails({ id, parameters, may }) {
  useNow();
  const asked = wanted(parameters);
  const { mails, next, error, loading, isOf, fresh, busy, load } = useMails(asked);
  const [counts, setCounts] = useState(null);
  const [selected, setSelected] = useState([]);
  useEffect(() => {
    setSelected([]);
    get("/v1/stats").then((stats) => setCounts(stats.deliveries), () => {});
  }, [load]);

  /** The address of the list, or of a mail of it, with some of its parameters changed. */
  const address = (changes, mail = "") => {
    const kept = new URLSearchParams(parameters);
    if (!mail) for (const name of ["part", "form"]) kept.delete(name);
    for (const [name, value] of Object.entries(changes)) value ? kept.set(name, value) : kept.delete(name);
    const query = kept.toString();
    return `/mails${mail && `/${mail}`}${query ? `?${query}` : ""}`;
  };
  useKeys(id, () => goBack(address({})));

  const q = parameters.get("q") || "";
  const state = parameters.get("state") || "";
  const known = {
    tag: [...new Set(mails.flatMap((mail) => mail.tags))],
    domain: [...new Set(mails.flatMap((mail) => mail.deliveries.map(({ recipient }) => recipient.split("@").pop())))],
    to: [...new Set(mails.map((mail) => mail.deliveries[0]?.recipient))],
  };
  const select = (mail, isOn) => setSelected((old) => (isOn ? [...old, mail].slice(-MOST_SELECTED) : old.filter((one) => one !== mail)));
  const shown = parameters.get("part");
  const row = useCentred(state, Boolean(counts), Boolean(id));
  return html`
    <div class=${id ? "split chosen" : "split"}>
      <section class="list" aria-label="Mails">
        <h1>Mails</h1>
        <div class="news" aria-live="polite">${fresh > 0 && html`<button class="fresh" onClick=${() => load()}>${busy ? "more than " : ""}${number(fresh)} new</button>`}</div>
        <${Search} q=${q} known=${known} found=${(text) => go(address({ q: text }))} />
        <nav class="tabs" aria-label="States" ref=${row}>${tabs.map((tab) => html`<${Link} key=${tab} to=${address({ state: tab })}
          aria-current=${tab === state ? "true" : undefined}>${tab || "all"}${tab && !q && counts?.[tab] ? html` <small title=${number(counts[tab])}>${compact(counts[tab])}</small>` : ""}<//>`)}</nav>
        ${mails.length > 0 && html`<${Bar} key=${asked} asked=${asked} q=${[q, state && `state:${state}`].filter(Boolean).join(" ")} state=${state} may=${may}
          known=${isOf && !next ? mails.length : null} selected=${selected} setSelected=${setSelected} ids=${mails.map((mail) => mail.id).slice(0, MOST_SELECTED)} changed=${() => load()} />`}
        <${Problem} error=${error} />
        ${mails.length > 0 && html`<ol class="mails">${mails.map((mail) => html`<${Row} key=${mail.id} mail=${mail} chosen=${mail.id === id} to=${address({}, mail.id)}
          isSelected=${selected.includes(mail.id)} select=${may.admin && select} />`)}</ol>`}
        ${!mails.length && loading && html`<p class="faint">Searching\u2026</p>`}
        ${!mails.length && !error && !loading && next && html`<p class="faint">Nothing yet among the newest; there is older mail.</p>`}
        ${!mails.length && !error && !loading && !next && html`<${Nothing} q=${q} state=${state} all=${address({ q: "", state: "" })} />`}
        ${next && html`<button class="more" disabled=${loading} onClick=${() => load(next)}>More</button>`}
      </section>
      ${id ? html`<${Mail} key=${id} id=${id} part=${["says", "facts"].includes(shown) ? shown : "what"} form=${parameters.get("form") || ""} may=${may} back=${address({})}
          at=${(part, form = "") => address({ part: part === "what" ? "" : part, form }, id)} changed=${() => load()} />`
        : mails.length > 0 && html`<p class="faint hint">Choose a mail: <kbd>j</kbd> <kbd>k</kbd> <kbd>Enter</kbd></p>`}
    </div>`;
}

/** What can be done to what is selected, or else to all that is found. */
function Bar({ asked, q, state, may, known, selected, setSelected, ids, changed }) {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const box = useRef(null);
  const [counting, setCounting] = useState(false);
  const shown = useRef(true);
  // One call looks at a part of all mail: they are added up, for as long as somebody looks on.
  const count = async () => {
    setCounting(true);
    try {
      for (let sum = 0, next = ""; next != null && shown.current; ) {
        const answer = await get(`/v1/mails/count?${asked}${next && `&cursor=${next}`}`);
        sum += answer.count;
        next = answer.next;
        if (shown.current) setFound(sum);
      }
    } catch (error) {
      setError(error);
    }
    setCounting(false);
  };
  const all = known ?? found;
  useEffect(() => {
    // Somebody who searches wants to know; all that there is, is counted when that is asked for.
    if (known == null && asked.includes("q=")) count();
    return () => { shown.current = false; };
  }, []);
  const some = selected.length > 0 && selected.length < ids.length;
  useEffect(() => {
    if (box.current) box.current.indeterminate = some;
  }, [some]);
  const which = all != null ? `${counting ? "More than " : ""}${number(all)} ${asked ? (all === 1 ? "match" : "matches") : all === 1 ? "mail" : "mails"}` : asked ? "All that match" : "All mails";
  return html`<div class="row bar">
    ${may.admin && html`<input type="checkbox" ref=${box} checked=${selected.length > 0 && !some} aria-label=${`Select the ${ids.length} newest of these`}
      onChange=${(event) => setSelected(event.target.checked ? ids : [])} />`}
    ${selected.length ? html`<b aria-live="polite">${selected.length} selected</b>${may.admin && html`<${Bulk} key="some" q=${`id:${selected.join(",")}`} changed=${changed} />`}
        <button class="quiet" onClick=${() => setSelected([])}>None</button>`
      : html`<span class="faint">${which}</span>${all == null && html`<button class="quiet" onClick=${count}>Count</button>`}
        ${may.admin && html`<${Bulk} key="all" q=${q} what=${fitting[state]} changed=${changed} />`}
        <span class="exports"><a class="button quiet" href=${`/v1/mails/export?format=csv&${asked}`} download="mails.csv">CSV</a><a
          class="button quiet" href=${`/v1/mails/export?format=ndjson&${asked}`} download="mails.ndjson">NDJSON</a></span>`}
    <${Problem} error=${error} /></div>`;
}

function Nothing({ q, state, all }) {
  if (!q && !state) return html`<${Empty} title="No mail yet">
    <p>What your programs submit appears here, with every attempt to deliver it.</p>
    <pre><${Shell}>postrider send --from you@example.com --to ada@example.org --subject Hello --text "It works"<//></pre>
    <pre>curl ${location.origin}/v1/mails -H 'Content-Type: application/json' -d '${'{"from": "you@example.com", "to": "ada@example.org", "subject": "Hello", "text": "It works"}'}'</pre><//>`;
  const meant = [q && html`<code>${visible(q)}</code>`, state && html`the state ${state}`].filter(Boolean);
  return html`<${Empty} title="No mail like this"><p>Nothing is found for ${meant[0]}${meant[1] ? html` in ${meant[1]}` : ""}. <${Link} to=${all}>All mails<//></p>
    <p class="faint">A search is made of words beside each other: <code>to:ada state:deferred code:451 after:1h</code>. A <code>-</code> before one turns it round.</p><//>`;
}

function Row({ mail, chosen, to, isSelected, select }) {
  const [first] = mail.deliveries;
  const others = mail.deliveries.length - 1;
  const worst = mail.deliveries.find((delivery) => delivery.state === "dead" || delivery.state === "deferred");
  return html`<li class="entry">${select && html`<input type="checkbox" checked=${isSelected} aria-label=${`Select the mail to ${visible(first?.recipient)}`} onChange=${(event) => select(mail.id, event.target.checked)} />`}
    <${Link} class="mail" to=${to} aria-current=${chosen ? "true" : undefined}>
    <span class="line"><b title=${visible(first?.recipient)}><${Text}>${first?.recipient}<//>${others > 0 ? ` +${number(others)}` : ""}</b><span class="stand"><${State} of=${mail.state} /><${Time} at=${mail.created_at} /></span></span>
    <span class="subject">${visible(mail.subject) || "(no subject)"}</span>
    ${worst && html`<span class="why">${sentence(worst)}</span>`}
  <//></li>`;
}
