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

/** Buttons for `what`, on the mail that `q` finds; without a `q`, on all mail. `first` offers to try with so many. */
export function Bulk({ q, what = ["retry", "cancel", "purge"], first = 0, changed }) {
  const [asking, setAsking] = useState(null);
  const [error, setError] = useState(null);
  const [typed, setTyped] = useState("");
  const means = q ? { q } : { all: true };
  const ask = async (act, limit = undefined) => {
    const { method, path, none } = acts[act];
    setTyped("");
    setError(null);
    try {
      const { count } = await call(method, path, { ...means, limit, dry_run: true });
      if (count) setAsking({ act, count, limit });
      else setError(new Error(none));
    } catch (refused) {
      setError(refused);
    }
  };
  const run = async () => {
    const { act, count, limit } = asking;
    if (act === "purge" && typed.replace(/\D/g, "") !== String(count)) return;
    setAsking(null);
    try {
      await call(acts[act].method, acts[act].path, { ...means, limit });
      dispatchEvent(new Event("jobs"));
      changed?.();
    } catch (refused) {
      setError(refused);
    }
  };
  return html`${first > 0 && html`<button onClick=${() => ask("retry", first)}>Retry ${first} first…</button>`}
    ${what.map((act) => html`<button key=${act} class=${act === "purge" ? "danger" : ""} onClick=${() => ask(act)}>${acts[act].word}${first && act === "retry" ? " all" : ""}…</button>`)}
    <${Problem} error=${error} />
    ${asking && html`<${Ask} title=${acts[asking.act].asks(counted(asking.count))} yes=${acts[asking.act].yes} danger=${asking.act !== "retry"}
      ready=${asking.act !== "purge" || typed.replace(/\D/g, "") === String(asking.count)} onYes=${run} onNo=${() => setAsking(null)}>
      <p class="faint">${q ? html`What <code>${q}</code> finds${asking.limit ? `, the first ${asking.limit}` : ""}.` : "All mail there is."}</p>
      ${asking.act === "purge" && html`<p>${asking.count === 1 ? "Its message and record are" : "Their messages and records are"} gone then.</p><label>Type ${number(asking.count)} to mean it <input inputmode="numeric" autocomplete="off" onInput=${(event) => setTyped(event.target.value)} /></label>`}<//>`}`;
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
