// Inbox: what capture:// relays have kept instead of sending it; the list beside what the mail says.

import { get, html, useAnswer } from "./api.js";
import { on } from "./live.js";
import { number, visible } from "./words.js";
import { useKeys } from "./paging.js";
import { Empty, Link, Problem, Text, Time } from "./parts.js";
import { go, goBack } from "./entries.js";
import { Preview } from "./preview.js";
import { useCallback, useEffect, useState } from "./vendor/hooks.js";

const waitFor = "GET /v1/inbox/latest?to=ada@example.org&wait=10s";

const newest = () => localStorage.getItem("inbox-seen") || "";

/** How many mails have come that nobody has seen here; and the names of the relays that keep mail. */
export function useInbox(may, isOpen) {
  const { data } = useAnswer(may.read ? "/v1/relays" : "", 0);
  const relays = (data?.relays || []).filter((relay) => relay.kind === "capture").map((relay) => relay.name);
  const names = relays.join(",");
  const [unread, setUnread] = useState(0);
  const count = useCallback(async () => {
    if (!names) return;
    const q = encodeURIComponent(`relay:${names} state:delivered`);
    const page = await get(`/v1/mails?q=${q}&limit=100`).catch(() => null);
    if (page) setUnread(page.mails.filter((mail) => mail.id > newest()).length);
  }, [names]);
  useEffect(() => {
    if (!names) return;
    count();
    let timer = 0;
    const soon = () => {
      timer ||= setTimeout(() => {
        timer = 0;
        count();
      }, 1000);
    };
    const stop = on("happened", (event) => event.kind === "delivered" && soon());
    addEventListener("inbox-seen", count);
    return () => {
      stop();
      clearTimeout(timer);
      removeEventListener("inbox-seen", count);
    };
  }, [names, count]);
  return { relays, unread: isOpen ? 0 : unread };
}

export function Inbox({ id, parameters, relays }) {
  const to = parameters.get("to") || "";
  const q = `relay:${relays.join(",")} state:delivered${to ? ` to:"${to.replaceAll('"', "")}"` : ""}`;
  const { data, error, again } = useAnswer(relays.length ? `/v1/mails?limit=100&q=${encodeURIComponent(q)}` : "");
  const [fresh, setFresh] = useState(0);
  const mails = data?.mails || [];
  useEffect(() => on("happened", (event) => event.kind === "delivered" && relays.includes(event.relay) && setFresh((n) => n + 1)), [relays.join()]);
  useEffect(() => {
    if (!mails.length || mails[0].id <= newest()) return;
    localStorage.setItem("inbox-seen", mails[0].id);
    dispatchEvent(new Event("inbox-seen"));
  }, [mails[0]?.id]);
  const load = () => {
    setFresh(0);
    again();
  };
  const kept = to ? `?to=${encodeURIComponent(to)}` : "";
  useKeys(id, () => goBack(`/inbox${kept}`));
  const filter = (event) => {
    event.preventDefault();
    const value = new FormData(event.target).get("to");
    go(`/inbox${value ? `?to=${encodeURIComponent(String(value))}` : ""}`);
  };
  const chosen = mails.find((mail) => mail.id === id);
  return html`<div class=${id ? "split chosen" : "split"}>
    <section class="list" aria-label="Captured mails">
      <h1>Inbox</h1>
      <div class="news" aria-live="polite">${fresh > 0 && html`<button class="fresh" onClick=${load}>${number(fresh)} new</button>`}</div>
      <p class="captured">Captured by ${relays.join(", ")}: this mail was <b>not sent</b> to anybody.</p>
      <form class="search" role="search" onSubmit=${filter}><input key=${to} id="search" name="to" type="search" value=${to} aria-label="Recipient" placeholder="a recipient, or a part of one" /></form>
      <${Problem} error=${error} />
      <ol class="mails">${mails.map((mail) => html`<li key=${mail.id}><${Link} class="mail" to=${`/inbox/${mail.id}${kept}`} aria-current=${mail.id === id ? "true" : undefined}>
        <span class="line"><b>${visible(mail.subject) || "(no subject)"}</b><${Time} at=${mail.created_at} /></span>
        <span class="why"><${Text}>${mail.deliveries.map((delivery) => delivery.recipient).slice(0, 3).join(", ")}<//>${mail.deliveries.length > 3 ? ` +${mail.deliveries.length - 3}` : ""}</span><//></li>`)}</ol>
      ${data && !mails.length && html`<${Empty} title=${to ? "Nothing was captured for this recipient" : "Nothing was captured yet"}>
        <p class="faint">Mail whose route leads to ${relays.join(", ")} is kept here instead of being sent.</p>
        <p>A test of your own waits for it: <code>${waitFor}</code></p><//>`}
      ${data?.next && html`<p class="faint"><${Link} to=${`/mails?q=${encodeURIComponent(q)}`}>All of them, as a list<//></p>`}
    </section>
    ${id ? html`<article class="detail"><p class="back"><${Link} to=${`/inbox${kept}`} by=${goBack}>Back to the list<//></p>
        <h2>${chosen ? visible(chosen.subject) || "(no subject)" : "A captured mail"}</h2>
        <p class="line"><span class="captured">captured, not sent</span> <${Link} to=${`/mails/${id}`}>its record<//></p>
        <${Preview} key=${id} id=${id} form=${parameters.get("form") || ""} wide
          choose=${(form) => go(`/inbox/${id}?${new URLSearchParams({ ...(to && { to }), form })}`, true)} /></article>`
      : mails.length > 0 && html`<p class="faint hint">Choose a mail: <kbd>j</kbd> <kbd>k</kbd> <kbd>Enter</kbd><br />In a test of your own: <code>${waitFor}</code></p>`}
  </div>`;
}
