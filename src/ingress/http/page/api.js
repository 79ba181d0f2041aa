// Calls the API. A refusal becomes an Error with the problem's own words and its status.

import { h } from "./vendor/preact.js";
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

/** Asks the service; `headers` only where a token is exchanged. */
export async function call(method, path, headers = {}) {
  let answer;
  try {
    answer = await fetch(path, { method, headers, credentials: "same-origin" });
  } catch {
    throw new Refused(0, "The service does not answer.");
  }
  const text = await answer.text();
  let body = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    body = text;
  }
  if (answer.ok) return body;
  if (answer.status === 401) dispatchEvent(new Event("signed-out"));
  throw new Refused(answer.status, body?.detail || `HTTP ${answer.status}`);
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
  const fresh = state.path === path;
  return { data: fresh ? state.data : null, error: fresh ? state.error : null, again: load };
}
