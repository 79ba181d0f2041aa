// Mails that try to run, to load, to lead away or to break out, looked at in every view. node hostile.cjs URL THIRD
"use strict";
const assert = require("node:assert");
const http = require("node:http");
const { attachments, htmls, messages, names, script, subjects } = require("./corpus.cjs");
const { run } = require("./watched.cjs");

const [url, third] = process.argv.slice(2);

/** What must not stand in HTML that is shown. To be run in a page, where nothing of it runs. */
async function found(path) {
  const text = await (await fetch(path)).text();
  const document = new DOMParser().parseFromString(text, "text/html");
  const bad = [];
  for (const element of document.querySelectorAll("body *")) {
    if (/^(script|iframe|frame|frameset|object|embed|applet|base|link|meta|form|input|button|textarea|select|svg|math|template|noscript|video|audio|source|portal|dialog)$/i.test(element.localName)) bad.push(element.localName);
    for (const { name, value } of element.attributes) {
      // As a browser reads an address: without what is not seen.
      const scheme = /^([a-z][a-z0-9+.-]*):/.exec(value.replace(/[\u0000-\u0020]/g, "").toLowerCase())?.[1];
      if (/^on|^(srcset|ping|formaction|action|background|poster|popover|autofocus|contenteditable)$/i.test(name)) bad.push(`${element.localName} ${name}`);
      if (/^(href|src|cite|xlink:href)$/i.test(name) && !["https", "http", "mailto", "tel", ...(name === "src" ? ["data"] : [])].includes(scheme)) bad.push(`${element.localName} ${name}=${value.slice(0, 80)}`);
      if (name === "src" && scheme === "data" && !/^data:image\/(png|gif|jpeg|webp)[;,]/.test(value)) bad.push(value.slice(0, 80));
    }
  }
  return bad;
}

async function handIn(what, body, type, query = "") {
  const answer = await fetch(`${url}/v1/mails${query}`, { method: "POST", headers: { "content-type": type }, body });
  const said = await answer.json();
  assert.strictEqual(answer.status, 202, `${what}: ${JSON.stringify(said).slice(0, 400)}`);
  return said.id;
}

run(async (browser, watch) => {
  // Somebody who wants to know who reads which mail: it is too much that he is connected to.
  const asked = new Set();
  let connections = 0;
  const spy = http.createServer((request, answer) => {
    asked.add(request.url);
    answer.end();
  });
  spy.on("connection", () => (connections += 1));
  await new Promise((listens) => spy.listen(0, "127.0.0.1", listens));
  const elsewhere = `http://127.0.0.1:${spy.address().port}`;

  const mails = [];
  const isHere = (n) => n % 3 === Number(third);
  for (const [n, [what, html]] of Object.entries(htmls(elsewhere)).entries()) {
    if (!isHere(n)) continue;
    const mail = {
      from: `"${script.replace(/["<>]/g, "")}\u202e" <shop@example.com>`, to: `ada${n}@example.org`, subject: subjects[n % subjects.length].replace(/[\u0000-\u001f]/g, " "), html: html.replaceAll("\0", ""),
      text: script, tags: [`<b onmouseover=alert(12)>${n}`, "captured"], idempotency_key: `${script}${n}`,
      attachments: [{ filename: names[n % names.length].replace(/[\u0000-\u001f]/g, "_").slice(0, 200), content_type: "text/html", content: Buffer.from(script) }, ...attachments]
        .map((one) => ({ ...one, content: one.content.toString("base64") })),
    };
    mails.push([what, await handIn(what, JSON.stringify(mail), "application/json")]);
  }
  for (const [n, [what, message]] of Object.entries(messages(elsewhere)).entries()) {
    if (!isHere(n)) continue;
    mails.push([what, await handIn(what, message, "message/rfc822", "?from=shop@example.com&to=ada@example.org&tag=captured")]);
  }

  const context = await browser.newContext();
  const page = watch(await context.newPage());
  const withHtml = [];
  for (const [what, id] of mails) {
    const until = Date.now() + 20_000;
    while ((await (await fetch(`${url}/v1/mails/${id}`)).json()).state !== "delivered" && Date.now() < until) await new Promise((again) => setTimeout(again, 50));
    const begun = Date.now();
    await page.goto(`${url}/inbox/${id}`);
    await page.waitForSelector(".tabs");
    const preview = await (await fetch(`${url}/v1/mails/${id}/preview`)).json();
    if (preview.has_html) {
      await page.waitForSelector("iframe");
      const shown = () => page.frames().find((one) => one !== page.mainFrame() && one.url() !== "about:blank" && one.url() !== "");
      for (let turn = 0; turn < 200 && !shown(); turn++) await page.waitForTimeout(50);
      const frame = shown();
      assert(frame, `${what}: nothing is shown`);
      await frame.waitForLoadState();
      assert(frame.url().startsWith(`${url}/v1/mails/`), `${what}: it was led away to ${frame.url()}`);
    }
    for (const tab of ["Text", "Header", "Parts", "Raw"]) {
      await page.click(`role=tab[name=/${tab}/]`);
      await page.waitForTimeout(30);
      assert(!/[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\u061c]/.test(await page.locator("main").innerText()), `${what}: ${tab} shows what is not seen, or turns the writing round, as it is`);
    }
    assert(Date.now() - begun < 15_000, `${what} took ${Date.now() - begun} ms`);
    assert(!/[\u202a-\u202e\u2066-\u2069]/.test(await page.title()), "nor does the tab");
    await page.goto(`${url}/mails/${id}`);
    await page.click("text=Facts");
    await page.waitForSelector("dt >> text=tags");

    assert(preview.links.every((link) => /^https?:\/\//.test(link)), `${what}: ${preview.links}`);
    if (preview.has_html) {
      withHtml.push([what, id]);
      const html = await fetch(`${url}/v1/mails/${id}/html`);
      const policy = html.headers.get("content-security-policy");
      await html.body?.cancel();
      for (const part of ["sandbox;", "default-src 'none'", "form-action 'none'", "frame-ancestors 'self'"]) assert(policy.includes(part), policy);
      assert(!policy.includes("allow-") && !policy.includes("http"), policy);
      for (const images of ["none", "remote"]) assert.deepStrictEqual(await page.evaluate(found, `/v1/mails/${id}/html?images=${images}`), [], what);
    }
    for (const { n } of preview.parts) {
      const part = await fetch(`${url}/v1/mails/${id}/parts/${n}`);
      const disposition = part.headers.get("content-disposition");
      assert.match(disposition, /^attachment; filename="[A-Za-z0-9._ -]*"/);
      const name = decodeURIComponent(disposition.split("''")[1]);
      assert(!/[\\/\u0000-\u001f\u200b-\u200f\u202a-\u202e\u2060-\u206f]/.test(name) && !name.startsWith("."), `${what}: ${JSON.stringify(name)} is no name to save as`);
      assert.doesNotMatch(part.headers.get("content-type"), /html|svg|xml|script|multipart/);
      assert.strictEqual(part.headers.get("x-content-type-options"), "nosniff");
      assert.match(part.headers.get("content-security-policy"), /sandbox/);
      await part.body?.cancel();
    }
  }
  assert.deepStrictEqual([[...asked], connections], [[], 0], "whatever a mail names, nothing is asked of anybody but the service");
  // As an address of its own, nothing of it runs either; images are loaded where that is asked for.
  for (const [what, id] of withHtml) {
    await page.goto(`${url}/v1/mails/${id}/html?images=remote`, { waitUntil: "domcontentloaded" });
    await page.waitForTimeout(100);
    assert(page.url().startsWith(url), `${what}: it was led away to ${page.url()}`);
  }
  if (mails.some(([what]) => what === "a base")) assert(asked.has("/pixel.gif"), "an image is loaded where that is asked for");
  for (const path of asked) if (/\.(png|gif|cur|webp)$/.test(path)) asked.delete(path);
  assert.deepStrictEqual([...asked], [], "but nothing else");
  for (const view of ["/", "/mails", "/dead", "/events", "/inbox", "/audit"]) {
    await page.goto(url + view);
    await page.waitForTimeout(200);
  }
}, (said) => /violates the following Content Security Policy directive.*(font|img|style|default)-src|ERR_CONNECTION_REFUSED|ERR_UNSAFE_PORT|ERR_INVALID_URL|Unsafe attempt to load URL|Blocked script execution in/.test(said));
