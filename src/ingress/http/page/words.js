// Numbers, times and codes in words. Everything returns plain text.

/** @type {[string, number][]} */
const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

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

export const size = (bytes) =>
  bytes < 1024 ? `${bytes} B` : bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`;

/** Text from a mail or a server, with what is not seen or turns the writing round made visible. */
export function visible(text) {
  return String(text ?? "").replace(
    /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]/g,
    (c) => `\u2423${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

const enhanced = {
  "1.1": "there is no such mailbox", "1.2": "there is no such domain", "1.3": "the address is not valid",
  "1.8": "the sender's address is not valid", "1.10": "the domain takes no mail", "2.1": "the mailbox is disabled",
  "2.2": "the mailbox is full", "2.3": "the message is too long for the mailbox", "3.4": "the message is too big",
  "4.1": "the host does not answer", "4.2": "the connection broke", "4.3": "the directory cannot be asked",
  "4.4": "there is no route", "4.7": "it took too long", "5.0": "the dialogue went wrong", "5.3": "too many recipients",
  "6.1": "the kind of content is not supported", "7.0": "the policy forbids it", "7.1": "not authorised, or greylisted",
  "7.8": "the login was refused", "7.20": "no DKIM signature passes", "7.23": "SPF fails", "7.26": "authentication fails",
};

/** What a server's code means, in words. */
export function meaning(attempt) {
  const detail = enhanced[(attempt.enhanced || "").split(".").slice(1).join(".")];
  if (detail) return detail;
  if (!attempt.code) return "the server did not answer";
  return { 2: "taken", 4: "not now; tried again", 5: "refused for good" }[Math.floor(attempt.code / 100)] || "";
}

/** 451 4.7.1 greylisted */
export const said = (attempt) =>
  [attempt.code, attempt.enhanced, visible(attempt.text)].filter(Boolean).join(" ");

const reasons = { rejected: "it was refused", exhausted: "no more tries", expired: "it came to its end in time", in_doubt: "it may have been sent",
  poisoned: "it broke what sends it", suppressed: "the address is not to get mail", quarantined: "its record cannot be read" };

/** Where a delivery stands and why, in one sentence. */
export function sentence(delivery) {
  const last = delivery.attempts.at(-1);
  const why = last ? said(last) : "";
  switch (delivery.state) {
    case "delivered": return `delivered ${relative(delivery.finished_at)}${last ? ` over ${last.relay}` : ""}`;
    case "deferred": return `deferred: ${why || "the relay was not reached"}; again ${relative(delivery.next_attempt_at)}`;
    case "dead": return `failed for good (${reasons[delivery.reason] || delivery.reason})${why ? `: ${why}` : ""}`;
    case "scheduled": return `scheduled: first tried ${relative(delivery.next_attempt_at)}`;
    case "sending": return "being sent now";
    case "cancelled": return `cancelled ${relative(delivery.finished_at)}`;
    default: return "queued: waits for a free connection";
  }
}
