// What a mail says: its HTML in a frame in which nothing runs, its text, header and parts, and the codes and links
// in it. Everything but the frame is text.

import { html, useAnswer } from "./api.js";
import { size } from "./words.js";
import { Copy, Problem, Tabs, Text } from "./parts.js";
import { useEffect, useState } from "./vendor/hooks.js";

const widths = [["", "Full width"], ["phone", "Phone"], ["tablet", "Tablet"]];

/** The codes and links of a preview, each to be copied. */
export function Findings({ preview }) {
  if (!preview.codes.length && !preview.links.length) return null;
  return html`<section class="findings" aria-label="Codes and links">
    ${preview.codes.length > 0 && html`<ul>${preview.codes.slice(0, 5).map((code) => html`<li key=${code}><code class="code"><${Text}>${code}<//></code><${Copy} text=${code} /></li>`)}</ul>`}
    ${preview.links.length > 0 && html`<details open=${preview.links.length < 4}><summary>${preview.links.length === 1 ? "1 link" : `${preview.links.length} links`}</summary>
      <ul>${preview.links.map((link) => html`<li key=${link}><a href=${link} target="_blank" rel="noopener noreferrer"><${Text}>${link}<//></a><${Copy} text=${link} /></li>`)}</ul></details>`}
  </section>`;
}

/** What the mail says, in this form of it; `wide` where the width of a phone is of interest. */
export function Preview({ id, form, choose, wide = false }) {
  const { data: preview, error } = useAnswer(`/v1/mails/${encodeURIComponent(id)}/preview`);
  const [width, setWidth] = useState("");
  const [dark, setDark] = useState(false);
  const [remote, setRemote] = useState(false);
  if (error) return html`<${Problem} error=${error} />`;
  if (!preview) return html`<p class="faint empty">…</p>`;
  const tabs = [...(preview.has_html ? [["html", "HTML"]] : []), ["text", "Text"], ["headers", "Header"], ["parts", `Parts (${preview.parts.length})`], ["raw", "Raw"]];
  const tab = tabs.some(([name]) => name === form) ? form : tabs[0][0];
  const asked = new URLSearchParams();
  if (remote) asked.set("images", "remote");
  if (dark) asked.set("theme", "dark");
  return html`<${Findings} preview=${preview} />
    <${Tabs} label="Forms of the mail" tabs=${tabs} chosen=${tab} name="form" choose=${choose}>
    ${preview.is_cut && html`<p class="faint">This mail is longer than what is shown; the raw message has it all.</p>`}
    ${tab === "html" && html`<div class="row small">${wide && widths.map(([name, title]) => html`<button key=${name} aria-pressed=${width === name} onClick=${() => setWidth(name)}>${title}</button>`)}
        <button aria-pressed=${dark} onClick=${() => setDark(!dark)}>Dark</button>
        <button aria-pressed=${remote} onClick=${() => setRemote(!remote)}>Images from elsewhere</button></div>
      <iframe key=${asked.toString()} class="letter ${width} ${dark ? "dark" : ""}" sandbox="" referrerpolicy="no-referrer" title="The mail's HTML" src=${`/v1/mails/${encodeURIComponent(id)}/html?${asked}`}></iframe>`}
    ${tab === "text" && html`<pre class="text"><${Text} lines>${preview.text || "(no text)"}<//></pre>`}
    ${tab === "headers" && html`<dl class="headers">${preview.headers.map((field) => html`<dt>${field.name}</dt><dd><${Text}>${field.value}<//>
      ${field.raw !== field.value && html`<details><summary>raw</summary><pre><${Text} lines>${field.raw}<//></pre></details>`}</dd>`)}</dl>`}
    ${tab === "parts" && html`<ul class="parts">${preview.parts.map((part) => html`<li key=${part.n}><span><b><${Text}>${part.filename || (part.attachment ? "without a name" : "the mail itself")}<//></b>
      <span class="faint"> <${Text}>${part.content_type}<//>, ${size(part.size)}</span></span><a class="button" href=${`/v1/mails/${encodeURIComponent(id)}/parts/${part.n}`} download>Download</a></li>`)}</ul>`}
    ${tab === "raw" && html`<${Raw} path=${`/v1/mails/${encodeURIComponent(id)}/raw`} />`}
    <//>`;
}

/** The most bytes of a raw message that are shown. */
const MOST_RAW = 128 * 1024;

/** The message as it is sent, or its beginning. */
function Raw({ path }) {
  const [shown, setShown] = useState({ text: "", isCut: false, error: null });
  useEffect(() => {
    const stop = new AbortController();
    const read = async () => {
      const answer = await fetch(path, { credentials: "same-origin", signal: stop.signal });
      if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.detail || `HTTP ${answer.status}`);
      const reader = answer.body.getReader();
      const bytes = [];
      let length = 0;
      let over = false;
      while (!over && length < MOST_RAW) {
        const { done, value } = await reader.read();
        over = done;
        if (value) bytes.push(value);
        length += value?.length || 0;
      }
      if (!over) reader.cancel();
      const text = await new Blob(bytes).slice(0, MOST_RAW).text();
      setShown({ text, isCut: !over, error: null });
    };
    read().catch((error) => stop.signal.aborted || setShown({ text: "", isCut: false, error }));
    return () => stop.abort();
  }, [path]);
  return html`<${Problem} error=${shown.error} />
    <p class="row small"><a class="button" href=${path} download>Download</a>${shown.isCut ? html`<span class="faint">This is its beginning.</span>` : ""}</p>
    <pre class="text raw"><${Text} lines>${shown.text}<//></pre>`;
}
