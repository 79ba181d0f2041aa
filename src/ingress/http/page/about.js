// About: which service this is, who is signed in, and how times are shown.

import { call, html } from "./api.js";
import { useState } from "./vendor/hooks.js";

export function About({ who, signedOut }) {
  const [times, setTimes] = useState(localStorage.getItem("times") || "local");
  const choose = (event) => {
    localStorage.setItem("times", event.target.value);
    setTimes(event.target.value);
  };
  const leave = () => call("DELETE", "/v1/session").then(signedOut, signedOut);
  return html`<h1>About</h1>
    <dl><dt>version</dt><dd>${who.version}</dd><dt>node</dt><dd>${who.node}</dd><dt>this run</dt><dd><code>${who.instance}</code></dd>
      <dt>token</dt><dd>${who.name || "none is needed on this machine"}</dd><dt>scope</dt><dd>${who.scope}</dd></dl>
    <p><label>Times <select value=${times} onChange=${choose}><option value="local">local</option><option value="utc">UTC</option></select></label></p>
    <p><a href="/openapi.json">API description</a></p>
    ${who.name && html`<button onClick=${leave}>Sign out</button>`}`;
}
