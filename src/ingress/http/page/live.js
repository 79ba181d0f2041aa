// One stream of events a browser: the tab that holds the lock has it, and tells the others.

const channel = new BroadcastChannel("postrider-events");
const target = new EventTarget();
const kinds = ["accepted", "attempted", "deferred", "delivered", "dead", "cancelled", "relay_up", "relay_down", "missed"];

function tell(name, detail) {
  target.dispatchEvent(new CustomEvent(name, { detail }));
}

channel.onmessage = ({ data }) => tell(data.name, data.detail);

function everybody(name, detail) {
  tell(name, detail);
  channel.postMessage({ name, detail });
}

/** Begins to listen; to be called once somebody is signed in. */
export function listen() {
  navigator.locks.request("postrider-events", () => new Promise((release) => {
    const source = new EventSource("/v1/events");
    source.onopen = () => everybody("link", true);
    // The browser comes back by itself, with Last-Event-ID; a refusal ends it, and then we do.
    source.onerror = () => {
      everybody("link", false);
      if (source.readyState === EventSource.CLOSED) {
        release();
        setTimeout(listen, 3000);
      }
    };
    for (const kind of kinds) {
      source.addEventListener(kind, (event) => {
        everybody("happened", { kind, ...JSON.parse(event.data) });
      });
    }
  }));
}

/** Calls `heard` for each: "happened" with an event, "link" with whether the service is there. */
export function on(name, heard) {
  const listener = (event) => heard(event.detail);
  target.addEventListener(name, listener);
  return () => target.removeEventListener(name, listener);
}
