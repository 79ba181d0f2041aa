// Calls the API. A refusal becomes an Error with the problem's own words and its status.

import { h } from "./vendor/preact.js";
import { on } from "./live.js";
import { useCallback, useEffect, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);

/** What was refused. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Asks the service, with a body of JSON where there is one; `headers` only where a token is exchanged. */
export async function call(method, path, json = undefined, headers = {}) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  const kind = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: { ...kind, ...headers }, credentials: "same-origin" });
  } catch {
    throw new Refused(0, "The service does not answer.");
  }
  const text = await answer.text();
  let read = null;
  try {
    read = text ? JSON.parse(text) : null;
  } catch {
    read = text;
  }
  if (answer.ok) return read;
  if (answer.status === 401) dispatchEvent(new Event("signed-out"));
  const why = read?.errors?.[0] ? `${read.errors[0].pointer.slice(1)} ${read.errors[0].detail}` : read?.detail;
  throw new Refused(answer.status, why || `HTTP ${answer.status}`);
}

export const get = (path) => call("GET", path);

/** The answer to a GET, asked again every `every` ms while the page is seen, and on `again()`. */
export function useAnswer(path, every = 0) {
  const [state, set] = useState({ path: "", data: null, error: null });
  const load = useCallback(async () => {
    if (!path) return;
    try {
      const data = await get(path);
      set({ path, data, error: null });
    } catch (error) {
      set((old) => ({ path, data: old.path === path ? old.data : null, error }));
    }
  }, [path]);
  useEffect(() => {
    load();
    if (!every) return;
    // One call at a time: a slow service is not asked twice.
    let timer = 0;
    let ended = false;
    const turn = async () => {
      if (document.visibilityState === "visible") await load();
      if (!ended) timer = setTimeout(turn, every);
    };
    timer = setTimeout(turn, every);
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, [load, every]);
  useBack(Boolean(state.error), load);
  const fresh = state.path === path;
  return { data: fresh ? state.data : null, error: fresh ? state.error : null, again: load };
}

/** Asks again once the service is back, where it did not answer. */
export function useBack(failed, load) {
  useEffect(() => (failed ? on("link", (isThere) => isThere && load()) : undefined), [failed, load]);
}
