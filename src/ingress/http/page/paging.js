// A list of mails that is read page by page, and the keys that go through it.

import { get, useBack } from "./api.js";
import { keep, recall } from "./entries.js";
import { on } from "./live.js";
import { useCallback, useEffect, useRef, useState } from "./vendor/hooks.js";

/** How many mails are read together. */
const PAGE = 50;

/** What a list held when its entry of the history was left. */
const left = (asked) => {
  const list = recall("list");
  return list?.asked === asked ? list : null;
};

/** The mails of a list, page by page, and how many have come since. */
export function useMails(asked) {
  const [state, set] = useState(left(asked) || { asked: null, mails: [], next: null, error: null, loading: true });
  const [fresh, setFresh] = useState(0);
  const [busy, setBusy] = useState(false);
  const latest = useRef("");
  // Ids grow with time: what the list holds already is not new, though it is heard of later.
  const newest = useRef("");
  /** How many have come since that are not told yet. */
  const heard = useRef(0);

  const load = useCallback(async (cursor = null) => {
    latest.current = asked;
    set((old) => ({ ...old, loading: true }));
    try {
      let page = { mails: [], next: cursor };
      // A page can be short, even empty, although more follow.
      for (let turn = 0; turn < 20 && !page.mails.length && (turn === 0 || page.next); turn++) {
        const from = page.next ? `&cursor=${encodeURIComponent(page.next)}` : "";
        page = await get(`/v1/mails?limit=${PAGE}&${asked}${from}`);
      }
      if (latest.current !== asked) return;
      set((old) => ({ asked, mails: cursor ? [...old.mails, ...page.mails] : page.mails, next: page.next, error: null, loading: false }));
      if (!cursor) {
        newest.current = page.mails[0]?.id || newest.current;
        heard.current = 0;
        setFresh(0);
        setBusy(false);
      }
    } catch (error) {
      if (latest.current !== asked) return;
      set((old) => ({ asked, mails: cursor ? old.mails : [], next: cursor, error, loading: false }));
    }
  }, [asked]);
  useEffect(() => {
    const list = left(asked);
    if (!list) return void load();
    latest.current = asked;
    newest.current = list.mails[0]?.id || "";
    set(list);
    look();
  }, [load]);
  useEffect(() => {
    if (state.asked === asked && !state.loading && !state.error) keep("list", state);
  });
  useBack(Boolean(state.error), () => load(state.next));
  /** What the list holds, and where it ends for now: what moves up from behind that is not new. */
  const held = useRef({ ids: new Set(), end: "" });
  held.current = { ids: new Set(state.mails.map((mail) => mail.id)), end: state.next && state.mails.at(-1)?.id };
  const look = async () => {
    const page = await get(`/v1/mails?limit=${PAGE}&${asked}`).catch(() => ({ mails: [] }));
    if (latest.current !== asked) return;
    const { ids, end } = held.current;
    const more = page.mails.filter(({ id }) => !ids.has(id) && (!end || id > end)).length;
    newest.current = page.mails[0]?.id || newest.current;
    heard.current = 0;
    setFresh(more);
    setBusy(more === PAGE);
  };
  // What is new is said, not put before somebody who reads. What of it a search finds only the service knows.
  useEffect(() => {
    if (!asked) return;
    let changed = false;
    /** @type {any} */
    let timer = 0;
    const stop = on("happened", ({ mail, kind }) => (changed ||= Boolean(mail) || kind === "skipped"));
    const turn = async () => {
      if (changed && document.visibilityState === "visible") {
        changed = false;
        await look();
      }
      if (timer !== null) timer = setTimeout(turn, 3000);
    };
    timer = setTimeout(turn, 3000);
    return () => {
      stop();
      clearTimeout(timer);
      timer = null;
    };
  }, [asked]);
  useEffect(() => {
    if (asked) return;
    const stop = on("happened", ({ kind, mail }) => {
      if (kind === "skipped") setBusy(true);
      if (kind === "accepted" && mail > newest.current) heard.current += 1;
    });
    const timer = setInterval(() => {
      if (!heard.current) return;
      const more = heard.current;
      heard.current = 0;
      setFresh((n) => n + more);
    }, 500);
    return () => {
      stop();
      clearInterval(timer);
    };
  }, [asked]);
  return { ...state, isOf: state.asked === asked, fresh, busy, load };
}

/** j and k go down and up the list; Escape closes what is open beside it. */
export function useKeys(id, close) {
  useEffect(() => {
    const key = (event) => {
      if (event.target.closest("input,textarea,select,dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
      const rows = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".list a.mail")]);
      if (event.key === "Escape" && id) {
        close();
        setTimeout(() => rows.find((row) => row.getAttribute("href")?.includes(id))?.focus());
      }
      if (event.key !== "j" && event.key !== "k") return;
      const focused = rows.findIndex((row) => row === document.activeElement);
      const at = focused >= 0 ? focused : rows.findIndex((row) => row.getAttribute("aria-current"));
      rows[event.key === "j" ? Math.min(at + 1, rows.length - 1) : Math.max(at - 1, 0)]?.focus();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, [id, close]);
}
