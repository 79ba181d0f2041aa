// Audit: who did what, when, and to how many.

import { get, html } from "./api.js";
import { exact, number } from "./words.js";
import { Empty, Link, Problem, Text } from "./parts.js";
import { go, keep, recall } from "./entries.js";
import { useEffect, useState } from "./vendor/hooks.js";

const acts = ["cancel", "retry", "purge", "pause", "resume", "suppress", "unsuppress", "reload", "start", "stop", "login_refused"];

/** What is done to a number of mails, or of addresses. */
const counted = ["cancel", "retry", "purge", "suppress", "unsuppress"];

export function Audit({ parameters }) {
  const act = parameters.get("act") || "";
  const who = parameters.get("who") || "";
  const asked = new URLSearchParams({ limit: "100", ...(act && { act }), ...(who && { who }) }).toString();
  const left = recall("acts");
  const [{ entries, next, loaded }, set] = useState(left?.asked === asked ? left : { asked: "", entries: [], next: null, loaded: false });
  const [error, setError] = useState(null);
  const load = async (cursor) => {
    try {
      const page = await get(`/v1/audit?${asked}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
      const list = { asked, entries: cursor ? [...entries, ...page.entries] : page.entries, next: page.next, loaded: true };
      keep("acts", list);
      set(list);
      setError(null);
    } catch (refused) {
      setError(refused);
    }
  };
  useEffect(() => {
    if (left?.asked === asked) set(left);
    else load(null);
  }, [asked]);
  const choose = (event) => {
    event.preventDefault();
    const chosen = new URLSearchParams();
    for (const [name, value] of new FormData(event.currentTarget)) if (value) chosen.set(name, String(value));
    go(`/audit${chosen.size ? `?${chosen}` : ""}`);
  };
  return html`<h1>Audit</h1><p class="lead">Who did what, from where, and to how many.</p>
    <form class="row" onSubmit=${choose}><label>Act <select name="act" value=${act}><option value="">all</option>${acts.map((name) => html`<option value=${name}>${name.replace("_", " ")}</option>`)}</select></label>
      <label>Who <input name="who" key=${who} value=${who} size="16" /></label><button>Filter</button></form>
    <${Problem} error=${error} />
    ${entries.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Acts"><table class="dense stacks"><thead><tr><th>When</th><th>Who</th><th>Act</th><th>What</th><th class="number">How many</th><th>From</th></tr></thead>
      <tbody>${entries.map((entry) => html`<tr key=${entry.seq}><th scope="row"><time>${exact(entry.at)}</time></th><td data-label="Who"><${Text}>${entry.who || ""}<//></td><td data-label="Act">${entry.act.replace("_", " ")}</td>
        <td data-label="What">${entry.mail ? html`<${Link} to=${`/mails/${entry.mail}`}>a mail<//>` : entry.relay ? html`<${Link} to=${`/relays/${encodeURIComponent(entry.relay)}`}>${entry.relay}<//>` : ""}
          <${Text}>${entry.filter || entry.version || entry.reason || ""}<//> ${entry.error ? html`<span class="dead"><${Text}>${entry.error}<//></span>` : ""}</td>
        <td class="number" data-label="How many">${counted.includes(entry.act) ? number(entry.count) : ""}</td><td data-label="From"><${Text}>${entry.from || ""}<//></td></tr>`)}</tbody></table></div>`}
    ${loaded && !entries.length && !error && html`<${Empty} title="Nothing like this was done"><p class="faint">Who cancelled, retried, purged, paused or reloaded what, from where, and to how many mails.</p><//>`}
    ${next && html`<button onClick=${() => load(next)}>More</button>`}`;
}
