// Acts on everything that a search finds: counted first, begun as a job after a question that says how many,
// and followed until the job has ended.

import { call, get, html } from "./api.js";
import { number } from "./words.js";
import { Ask, Problem } from "./parts.js";
import { useEffect, useState } from "./vendor/hooks.js";

const acts = {
  retry: { method: "POST", path: "/v1/mails/retry", word: "Retry", yes: "Send again", asks: (n) => `Send ${n} again?`, none: "Nothing there can be sent again: only what is dead, cancelled or deferred." },
  cancel: { method: "POST", path: "/v1/mails/cancel", word: "Cancel", yes: "Withdraw", asks: (n) => `Withdraw ${n}?`, none: "Nothing there can be withdrawn: only what waits." },
  purge: { method: "DELETE", path: "/v1/mails", word: "Purge", yes: "Delete", asks: (n) => `Delete ${n} for good?`, none: "Nothing there can be deleted: only what has ended for all its recipients." },
};

const counted = (n) => `${number(n)} ${n === 1 ? "mail" : "mails"}`;

const digits = (text) => Number(text.replace(/\D/g, ""));

/** Buttons for `what`, on the mail that `q` finds; without a `q`, on all mail. `first` offers to try with so many. */
export function Bulk({ q, what = ["retry", "cancel", "purge"], first = 0, changed }) {
  const [asking, setAsking] = useState(null);
  const [error, setError] = useState(null);
  const means = q ? { q } : { all: true };
  const ask = async (act, limit = 0) => {
    const { method, path, none } = acts[act];
    setError(null);
    try {
      const { count } = await call(method, path, { ...means, dry_run: true });
      if (count) setAsking({ act, count, limit });
      else setError(new Error(none));
    } catch (refused) {
      setError(refused);
    }
  };
  const run = async (bounds) => {
    const { method, path } = acts[asking.act];
    setAsking(null);
    try {
      await call(method, path, { ...means, ...bounds });
      dispatchEvent(new Event("jobs"));
      changed?.();
    } catch (refused) {
      setError(refused);
    }
  };
  return html`${first > 0 && html`<button onClick=${() => ask("retry", first)}>Retry ${first} first…</button>`}
    ${what.map((act) => html`<button key=${act} class=${act === "purge" ? "danger" : ""} onClick=${() => ask(act)}>${acts[act].word}${first && act === "retry" ? " all" : ""}…</button>`)}
    <${Problem} error=${error} />
    ${asking && html`<${Question} ...${asking} q=${q} onYes=${run} onNo=${() => setAsking(null)} />`}`;
}

/** Asks before an act on `count` mails; what is deleted for good is only deleted once the count was typed. */
function Question({ act, count, limit, q, onYes, onNo }) {
  const [most, setMost] = useState(limit ? String(limit) : "");
  const [pace, setPace] = useState("");
  const [typed, setTyped] = useState("");
  const n = Math.min(count, digits(most) || count);
  const { asks, yes } = acts[act];
  const bounds = { limit: n < count ? n : undefined, per_minute: digits(pace) || undefined };
  const field = (label, value, set, placeholder) => html`<label>${label}<input inputmode="numeric" autocomplete="off" value=${value} placeholder=${placeholder} onInput=${(event) => set(event.target.value)} /></label>`;
  return html`<${Ask} title=${asks(counted(n))} yes=${yes} danger=${act !== "retry"} ready=${act !== "purge" || digits(typed) === n} onYes=${() => onYes(bounds)} onNo=${onNo}>
    <p class="faint">${q ? html`Of what <code>${q}</code> finds${n < count ? `, the newest of ${number(count)}` : ""}.` : `Of all mail there is${n < count ? `, the newest of ${number(count)}` : ""}.`}</p>
    ${count > 1 && html`<div class="pair">${field("At most", most, setMost, `all ${number(count)}`)}${field("A minute", pace, setPace, "no limit")}</div>`}
    ${act === "purge" && html`<p>${n === 1 ? "Its message and record are" : "Their messages and records are"} gone then.</p>
      <label>Type ${number(n)} to confirm <input inputmode="numeric" autocomplete="off" autofocus onInput=${(event) => setTyped(event.target.value)} /></label>`}<//>`;
}

/** The jobs that run, and what became of those that ended while somebody watched. */
export function Jobs({ may }) {
  const [jobs, setJobs] = useState([]);
  const [watched, setWatched] = useState({});
  useEffect(() => {
    if (!may.admin) return;
    let timer = 0;
    const look = async () => {
      clearTimeout(timer);
      const answer = await get("/v1/jobs").catch(() => ({ jobs: [] }));
      const running = answer.jobs.filter((job) => job.state === "running");
      setWatched((old) => ({ ...old, ...Object.fromEntries(running.map((job) => [job.id, true])) }));
      setJobs(answer.jobs);
      if (running.length) timer = setTimeout(look, 1000);
    };
    const begun = async () => {
      const answer = await get("/v1/jobs").catch(() => ({ jobs: [] }));
      if (answer.jobs[0]) setWatched((old) => ({ ...old, [answer.jobs[0].id]: true }));
      look();
    };
    look();
    addEventListener("jobs", begun);
    return () => {
      clearTimeout(timer);
      removeEventListener("jobs", begun);
    };
  }, [may.admin]);
  const shown = jobs.filter((job) => watched[job.id]);
  if (!shown.length) return null;
  const stop = (job) => call("DELETE", `/v1/jobs/${job.id}`).then(() => dispatchEvent(new Event("jobs")), () => {});
  return html`<section class="jobs" aria-label="Jobs" role="status">${shown.map((job) => html`<div class="row" key=${job.id}>
    <b>${acts[job.act]?.word || job.act}</b> <span>${number(job.done)}${job.total == null ? "" : ` of ${number(job.total)}`} ${job.state === "running" ? "so far" : `· ${job.state}`}
    ${job.skipped ? ` · ${number(job.skipped)} had changed` : ""} ${job.error || ""}</span>
    ${job.total > 0 && job.state === "running" && html`<progress aria-label="Progress" max=${job.total} value=${job.done}></progress>`}
    ${job.state === "running" ? html`<button onClick=${() => stop(job)}>Stop</button>`
      : html`<button onClick=${() => setWatched((old) => ({ ...old, [job.id]: false }))}>Dismiss</button>`}</div>`)}</section>`;
}
