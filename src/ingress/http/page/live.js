// One stream of events a browser: the tab that holds the lock has it, and tells the others.

const channel = new BroadcastChannel("postrider-events");
const target = new EventTarget();

/** What is told about mail, and about the service. */
export const kinds = ["accepted", "attempted", "deferred", "delivered", "dead", "cancelled", "retried", "purged", "bounced", "complained", "unsubscribed",
  "relay_up", "relay_down", "relay_paused", "relay_resumed", "webhook_off", "reloaded", "started", "stopped", "login_refused", "act"];

/** The most events a second that a page hears: nobody reads more, and a busy service would have it do nothing else. */
const MOST = 100;

/** The last event that was heard; a stream that begins anew begins there. */
let last = "";

function tell(name, detail) {
  target.dispatchEvent(new CustomEvent(name, { detail }));
}

channel.onmessage = ({ data }) => {
  if (data.id) last = data.id;
  tell(data.name, data.detail);
};

function everybody(name, detail, id = "") {
  tell(name, detail);
  channel.postMessage({ name, detail, id });
}

let listening = false;

/** Begins to listen, with what happens after the event `from`; to be called once somebody is signed in. */
export function listen(from = "") {
  last ||= from;
  if (listening) return;
  listening = true;
  wait();
}

function wait() {
  // Only pages over TLS or on this machine share a lock.
  if (!navigator.locks) return void stream();
  navigator.locks.request("postrider-events", stream);
}

/** Whether whoever was signed in no longer is: a stream that ends or is refused does not say why. */
const isOut = () => fetch("/v1/session", { credentials: "same-origin", signal: AbortSignal.timeout(2000) }).then((answer) => answer.status === 401, () => false);

/** Follows the service until it refuses; the lock is held so long. */
function stream() {
  return new Promise((/** @type {(nothing?: unknown) => void} */ release) => {
    const source = new EventSource(`/v1/events?at_most=${MOST}${last ? `&since=${encodeURIComponent(last)}` : ""}`);
    source.onopen = () => everybody("link", true);
    const leave = () => {
      source.close();
      listening = false;
      release();
    };
    addEventListener("signed-out", leave, { once: true });
    // The browser comes back by itself, with Last-Event-ID; a refusal ends it, and then we do.
    source.onerror = async () => {
      const isRefused = source.readyState === EventSource.CLOSED;
      if (await isOut()) return void dispatchEvent(new Event("signed-out"));
      everybody("link", false);
      if (!isRefused) return;
      removeEventListener("signed-out", leave);
      release();
      setTimeout(wait, 3000);
    };
    for (const kind of [...kinds, "missed", "skipped"]) {
      source.addEventListener(kind, (event) => {
        if (event.lastEventId) last = event.lastEventId;
        everybody("happened", { kind, ...JSON.parse(event.data) }, event.lastEventId);
      });
    }
  });
}

/** Calls `heard` for each: "happened" with an event, "link" with whether the service is there. */
export function on(name, heard) {
  const listener = (event) => heard(event.detail);
  target.addEventListener(name, listener);
  return () => target.removeEventListener(name, listener);
}
