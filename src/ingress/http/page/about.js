// About: which service this is, who is signed in, and how times are shown.

import { call, html, useAnswer } from "./api.js";
import { Problem, Text } from "./parts.js";
import { useState } from "./vendor/hooks.js";

const scopes = { admin: "admin: everything", read: "read: looking at everything", send: "send: submitting mail" };

/** What is set, a line each: `relays[0].url`. */
function lines(value, path = "") {
  if (Array.isArray(value) && value.some((one) => typeof one === "object")) return value.flatMap((one, n) => lines(one, `${path}[${n}]`));
  if (value && typeof value === "object" && !Array.isArray(value)) return Object.entries(value).flatMap(([key, one]) => lines(one, path ? `${path}.${key}` : key));
  return [[path, Array.isArray(value) ? value.join(", ") : String(value)]];
}

function Configuration() {
  const { data, error } = useAnswer("/v1/configuration");
  const set = data ? lines(data.configuration) : [];
  return html`<h2>Configuration</h2><p class="lead">What the file and the environment set, as it was last read; all else has its default. Secrets are not shown.</p><${Problem} error=${error} />
    ${set.length > 0 && html`<dl class="headers">${set.map(([path, value]) => html`<dt><code>${path}</code></dt><dd><${Text}>${value}<//></dd>`)}</dl>`}`;
}

export function About({ who }) {
  const [times, setTimes] = useState(localStorage.getItem("times") || "local");
  const choose = (event) => {
    localStorage.setItem("times", event.target.value);
    setTimes(event.target.value);
  };
  const leave = () => call("DELETE", "/v1/session").then(() => location.reload(), () => location.reload());
  return html`<h1>About</h1>
    <dl><dt>version</dt><dd>${who.version}</dd><dt>node</dt><dd>${who.node}</dd><dt>this run</dt><dd><code>${who.instance}</code></dd>
      <dt>token</dt><dd>${who.name || "none is needed on this machine"}</dd><dt>scope</dt><dd>${scopes[who.scope] || who.scope}</dd>
      <dt><label for="times">times</label></dt><dd><select id="times" value=${times} onChange=${choose}><option value="local">local</option><option value="utc">UTC</option></select></dd></dl>
    <p class="row"><a class="button" href="/openapi.json">API description</a>${who.name && html`<button onClick=${leave}>Sign out</button>`}</p>
    ${who.scope !== "send" && html`<${Configuration} />`}`;
}
