// Numbers, times and codes in words. Everything returns plain text.

/** @type {[string, number][]} */
const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** 0.043 → "43 ms", 1.21 → "1.2 s", 190 → "3 min". */
export const latency = (seconds) =>
  seconds == null ? "" : seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : seconds < 10 ? `${seconds.toFixed(1)} s` : span(seconds);

/** 0.3 → "0.3", 4812.6 → "4,813". */
export const rate = (each) => (!each ? "0" : each > 0 && each < 0.05 ? "< 0.1" : each < 10 ? each.toFixed(1) : number(Math.round(each)));

/** 190 → "3 min". */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  for (const [name, size] of units) if (whole >= size) return `${Math.floor(whole / size)} ${name}`;
  return "0 s";
}

/** "in 4 min", "3 h ago". */
export function relative(at, now = Date.now()) {
  const seconds = (Date.parse(at) - now) / 1000;
  return seconds > 0 ? `in ${span(seconds)}` : -seconds < 1 ? "now" : `${span(-seconds)} ago`;
}

/** The exact time: local, or UTC where somebody chose that. */
export function exact(at) {
  const date = new Date(at);
  if (localStorage.getItem("times") === "utc") return date.toISOString().replace("T", " ");
  return date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** A time without its seconds and its year. */
export function brief(at) {
  const utc = localStorage.getItem("times") === "utc" ? { timeZone: "UTC" } : {};
  return new Date(at).toLocaleString(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", ...utc });
}

export const number = (n) => Number(n ?? 0).toLocaleString("en");

const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** 8412 → "8,412", 99004 → "99K": where there is no room for more. */
export const compact = (n) => (n < 10_000 ? number(n) : short.format(n));

export const size = (bytes) =>
  bytes < 1024 ? `${bytes} B` : bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`;

/** What is not seen, or turns the writing round: control and format characters, fillers, line separators. */
const unseen = /[\p{Cc}\p{Cf}\u2028\u2029\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]/gu;
/** Joins two pictures into one. */
const joiner = /\p{Extended_Pictographic}\ufe0f?\p{Emoji_Modifier}?$/u;
/** More marks on one letter than any writing has. */
const piled = /(\p{M}{4})\p{M}+/gu;

/** Text from a mail or a server, with what is not seen or turns the writing round made visible. */
export function visible(text) {
  return String(text ?? "")
    .replace(unseen, (c, at, all) =>
      c === "\u200d" && joiner.test(all.slice(Math.max(0, at - 8), at))
        ? c
        : `\u2423${c.codePointAt(0).toString(16).padStart(4, "0")}`,
    )
    .replace(piled, "$1\u2026");
}

/** 451 4.7.1 greylisted */
export const said = (attempt) =>
  [attempt.code, attempt.enhanced, visible(attempt.text)].filter(Boolean).join(" ");

/** @type {Record<string, string>} */
const reasons = {
  rejected: "it was refused",
  exhausted: "no more tries are allowed",
  expired: "its time was over",
  in_doubt: "it may have been sent, and must not be sent twice",
  poisoned: "it broke what sends it",
  suppressed: "the address is not to get mail",
  quarantined: "its record cannot be read",
};

/** Why a delivery waits. */
function waiting({ because, relay, text, since }) {
  const name = visible(relay || "the relay");
  const why = text ? `: ${visible(text)}` : "";
  const long = since ? ` since ${relative(since)}`.replace(" ago", "").replace("since", "for") : "";
  switch (because) {
    case "relay_down": return `${name} has been down${long}${why}`;
    case "paused": return `${name} is paused${long}${why}`;
    case "domain_rests": return `its domain cannot be reached over ${name}${why}`;
    case "rate": return `it waits for its turn at the rate of ${name}${text ? `, ${visible(text)}` : ""}`;
    case "busy": return `every connection to ${name} is busy`;
    default: return "";
  }
}

/** Where a delivery stands and why, in one sentence. */
export function sentence(delivery) {
  const last = delivery.attempts.at(-1);
  const why = last ? said(last) : "";
  const held = delivery.waits ? waiting(delivery.waits) : "";
  const again = delivery.next_attempt_at && Date.parse(delivery.next_attempt_at) > Date.now()
    ? `again ${relative(delivery.next_attempt_at)}` : "again at once";
  switch (delivery.state) {
    case "delivered": return `delivered ${relative(delivery.finished_at)}${last ? ` over ${visible(last.relay)}` : ""}`;
    case "deferred": return `deferred: ${held || why || "the relay was not reached"}; ${again}`;
    case "dead": return `failed for good (${reasons[delivery.reason] || delivery.reason})${why ? `: ${why}` : ""}`;
    case "scheduled": return `scheduled: first tried ${relative(delivery.next_attempt_at)}`;
    case "sending": return "being sent now";
    case "cancelled": return `cancelled ${relative(delivery.finished_at)}`;
    default: return held ? `queued: ${held}` : "queued: it is about to be sent";
  }
}
