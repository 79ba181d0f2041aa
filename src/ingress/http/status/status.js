// <postrider-status src="STATUS_URL"></postrider-status>: what became of a mail, as it happens.
// Words: the attributes text-pending, text-retrying (for {n}), text-sent, text-failed, text-unknown.
// Looks: postrider-status[status="sent"] { … }. A script hears "change", with what is known as detail.

const words = {
  pending: "Your mail is on its way.",
  retrying: "Your mail is on its way; the mail server asked us to wait.",
  sent: "Your mail was sent.",
  failed: "Your mail could not be sent.",
  unknown: "Nothing is known of this mail any more.",
};

class PostriderStatus extends HTMLElement {
  static observedAttributes = ["src", ...Object.keys(words).map((word) => `text-${word}`)];

  connectedCallback() {
    if (!this.role) this.role = "status";
    this.begin();
  }

  disconnectedCallback() {
    this.end();
  }

  attributeChangedCallback(name) {
    if (name !== "src") this.show();
    else if (this.isConnected) this.begin();
  }

  begin() {
    this.end();
    this.known = { status: "pending", retry_count: 0 };
    this.wait = 1000;
    this.show();
    if (!this.getAttribute("src")) return;
    if (!window.EventSource) return this.poll();
    const source = (this.source = new EventSource(`${this.getAttribute("src")}/events`));
    source.onmessage = (event) => {
      clearTimeout(this.timer);
      this.learn(JSON.parse(event.data));
    };
    // The browser tries again by itself; whatever keeps it from that does not keep us from asking.
    source.onerror = () => this.poll();
    // A proxy may hold a stream back until it ends.
    this.timer = setTimeout(() => this.poll(), 5000);
  }

  end() {
    this.source?.close();
    clearTimeout(this.timer);
    this.turn = {};
  }

  async poll() {
    this.end();
    const turn = this.turn;
    try {
      const answer = await fetch(this.getAttribute("src"), { credentials: "omit" });
      if (turn !== this.turn) return;
      if (answer.status === 404) return this.learn({ status: "unknown" });
      if (answer.ok) this.learn(await answer.json());
    } catch {}
    if (turn !== this.turn) return;
    this.timer = setTimeout(() => this.poll(), this.wait);
    this.wait = Math.min(this.wait * 1.5, 15000);
  }

  learn(known) {
    const old = this.known;
    this.known = known;
    if (known.status !== "pending") this.end();
    this.show();
    if (old.status !== known.status || old.retry_count !== known.retry_count)
      this.dispatchEvent(new CustomEvent("change", { bubbles: true, detail: known }));
  }

  show() {
    if (!this.known) return;
    const { status, retry_count: n } = this.known;
    const word = status === "pending" && n ? "retrying" : status;
    const text = (this.getAttribute(`text-${word}`) ?? words[word] ?? "").replace("{n}", n);
    if (this.getAttribute("status") !== word) this.setAttribute("status", word);
    if (this.textContent !== text) this.textContent = text;
  }
}

customElements.define("postrider-status", PostriderStatus);
