// A list of mails that is read page by page, and the keys that go through it.

import { get, useBack } from "./api.js";
import { on } from "./live.js";
import { useCallback, useEffect, useRef, useState } from "./vendor/hooks.js";

/** The mails of a list, page by page, and how many have come since. */
export function useMails(asked) {
  const [state, set] = useState({ asked: null, mails: [], next: null, error: null, loading: true });
  const [fresh, setFresh] = useState(0);
  const [busy, setBusy] = useState(false);
  const latest = useRef("");
  // Ids grow with time: what the list holds already is not new, though it is heard of later.
  const newest = useRef("");

  const load = useCallback(async (cursor = null) => {
    latest.current = asked;
    set((old) => ({ ...old, loading: true }));
    try {
      let page = { mails: [], next: cursor };
      // A page can be short, even empty, although more follow.
      for (let turn = 0; turn < 20 && !page.mails.length && (turn === 0 || page.next); turn++) {
        const from = page.next ? `&cursor=${encodeURIComponent(page.next)}` : "";
        page = await get(`/v1/mails?limit=50&${asked}${from}`);
      }
      if (latest.current !== asked) return;
      set((old) => ({ asked, mails: cursor ? [...old.mails, ...page.mails] : page.mails, next: page.next, error: null, loading: false }));
      if (!cursor) {
        newest.current = page.mails[0]?.id || newest.current;
        setFresh(0);
        setBusy(false);
      }
    } catch (error) {
      if (latest.current !== asked) return;
      set((old) => ({ asked, mails: cursor ? old.mails : [], next: cursor, error, loading: false }));
    }
  }, [asked]);
  useEffect(() => void load(), [load]);
  useBack(Boolean(state.error), () => load(state.next));
  /** What the list holds, and where it ends for now: what moves up from behind that is not new. */
  const held = useRef({ ids: new Set(), end: "" });
  held.current = { ids: new Set(state.mails.map((mail) => mail.id)), end: state.next && state.mails.at(-1)?.id };
  // What is new is said, not put before somebody who reads. What of it a search finds only the service knows.
  useEffect(() => {
    if (!asked) return;
    let changed = false;
    /** @type {any} */
    let timer = 0;
    const stop = on("happened", ({ mail, kind }) => (changed ||= Boolean(mail) || kind === "skipped"));
    const look = async () => {
      if (changed && document.visibilityState === "visible") {
        changed = false;
        const page = await get(`/v1/mails?limit=50&${asked}`).catch(() => ({ mails: [] }));
        const { ids, end } = held.current;
        setFresh(page.mails.filter(({ id }) => !ids.has(id) && (!end || id > end)).length);
      }
      if (timer !== null) timer = setTimeout(look, 3000);
    };
    timer = setTimeout(look, 3000);
    return () => {
      stop();
      clearTimeout(timer);
      timer = null;
    };
  }, [asked]);
  useEffect(() => {
    if (asked) return;
    let heard = 0;
    const stop = on("happened", ({ kind, mail }) => {
      if (kind === "skipped") setBusy(true);
      if (kind === "accepted" && mail > newest.current) heard += 1;
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
