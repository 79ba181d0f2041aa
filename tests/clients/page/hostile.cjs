// Mails that try to run, to load or to break out, looked at in every view. node hostile.cjs URL
"use strict";
const assert = require("node:assert");
const http = require("node:http");
const { run } = require("./watched.cjs");

const [url] = process.argv.slice(2);
const script = "<img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>";
const htmls = (elsewhere) => [
  `<meta http-equiv="refresh" content="0;url=${elsewhere}/">${script}`,
  `<p>${script}</p><a href="javascript:alert(4)">x</a><form action="${elsewhere}/"><button>b</button></form>`,
  `<svg><style><img src=x onerror=alert(5)></style></svg><math><mtext></form><form><mglyph><style></math><img src onerror=alert(6)>`,
  `<style>@import url(${elsewhere}/x.css); body { background: url(${elsewhere}/x.png) }</style><p>css</p>`,
  `<iframe srcdoc="<script>parent.alert(7)</script>"></iframe><object data="data:text/html,<script>alert(8)</script>"></object>`,
  `<base href="${elsewhere}/"><link rel="stylesheet" href="x.css"><img src="${elsewhere}/pixel.gif"><img srcset="${elsewhere}/2.gif 2x">`,
  `<p>${"<b>long</b> ".repeat(900_000)}</p>`,
  "<div>".repeat(60_000),
];
const subjects = [script, "\u202egnp.exe\u202c invoice", "</title></script><script>alert(9)</script>", "{{7*7}} ${alert(10)}", "a\u0000b\u001b[31m", "'\"><b onmouseover=alert(11)>"];

run(async (browser, watch) => {
  // Somebody who wants to know who reads which mail.
  const asked = new Set();
  const spy = http.createServer((request, answer) => {
    asked.add(request.url);
    answer.end();
  });
  await new Promise((listens) => spy.listen(0, "127.0.0.1", listens));
  const bodies = htmls(`http://127.0.0.1:${spy.address().port}`);
  const ids = [];
  for (let n = 0; n < Math.max(bodies.length, subjects.length); n++) {
    const mail = {
      from: "shop@example.com", to: `ada${n}@example.org`, subject: subjects[n % subjects.length].replace(/[\u0000-\u001f]/g, " "), html: bodies[n % bodies.length],
      text: script, tags: [`<b onmouseover=alert(12)>${n}`, "captured"], idempotency_key: `${script}${n}`,
      attachments: [{ filename: `..\\..\\<img src=x onerror=alert(13)>\u202efdp.html`, content_type: "text/html", content: Buffer.from(script).toString("base64") },
        { filename: "x.svg", content_type: "image/svg+xml", content: Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" onload="alert(14)"/>`).toString("base64") }],
    };
    const answer = await fetch(`${url}/v1/mails`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(mail) });
    const body = await answer.json();
    assert.strictEqual(answer.status, 202, JSON.stringify(body));
    ids.push(body.id);
  }
  const context = await browser.newContext();
  const page = watch(await context.newPage());
  for (const id of ids) {
    const until = Date.now() + 20_000;
    while ((await (await fetch(`${url}/v1/mails/${id}`)).json()).state !== "delivered" && Date.now() < until) await new Promise((again) => setTimeout(again, 50));
    await page.goto(`${url}/inbox/${id}`);
    await page.waitForSelector("iframe");
    const shown = () => page.frames().find((one) => one !== page.mainFrame() && one.url() !== "about:blank" && one.url() !== "");
    for (let turn = 0; turn < 200 && !shown(); turn++) await page.waitForTimeout(50);
    const frame = shown();
    assert(frame, "nothing is shown");
    await frame.waitForLoadState();
    assert(frame.url().startsWith(`${url}/v1/mails/`), `it was led away to ${frame.url()}`);
    for (const tab of ["Text", "Header", "Parts"]) {
      await page.click(`role=tab[name=/${tab}/]`);
      await page.waitForTimeout(50);
    }
    assert(!(await page.content()).includes("\u202e"), "writing that turns round is not shown as it is");
    await page.goto(`${url}/mails/${id}`);
    await page.click("text=Facts");
    await page.waitForSelector("dt >> text=tags");

    const html = await fetch(`${url}/v1/mails/${id}/html`);
    const policy = html.headers.get("content-security-policy");
    for (const part of ["sandbox;", "default-src 'none'", "form-action 'none'", "frame-ancestors 'self'"]) assert(policy.includes(part), policy);
    assert(!policy.includes("allow-") && !policy.includes("http"), policy);
    const preview = await (await fetch(`${url}/v1/mails/${id}/preview`)).json();
    for (const { n } of preview.parts) {
      const part = await fetch(`${url}/v1/mails/${id}/parts/${n}`);
      assert.match(part.headers.get("content-disposition"), /^attachment; filename="[A-Za-z0-9._ -]*"/);
      assert(!/[\\/]/.test(decodeURIComponent(part.headers.get("content-disposition").split("''")[1])), "no path");
      assert.doesNotMatch(part.headers.get("content-type"), /html|svg|xml/);
      assert.strictEqual(part.headers.get("x-content-type-options"), "nosniff");
      assert.match(part.headers.get("content-security-policy"), /sandbox/);
      await part.body?.cancel();
    }
  }
  assert.deepStrictEqual([...asked], [], "whatever a mail names, nothing is asked of anybody but the service");
  // As an address of its own, nothing of it runs either; images are loaded where that is asked for.
  for (const id of ids) {
    await page.goto(`${url}/v1/mails/${id}/html?images=remote`, { waitUntil: "domcontentloaded" });
    await page.waitForTimeout(100);
    assert(page.url().startsWith(url), `it was led away to ${page.url()}`);
  }
  assert(asked.delete("/pixel.gif"), "an image is loaded where that is asked for");
  asked.delete("/x.png");
  assert.deepStrictEqual([...asked], [], "but nothing else");
  for (const view of ["/", "/mails", "/dead", "/events", "/inbox", "/audit"]) {
    await page.goto(url + view);
    await page.waitForTimeout(200);
  }
}, (said) => /violates the following Content Security Policy directive.*(font|img|style)-src|ERR_CONNECTION_REFUSED|ERR_UNSAFE_PORT|Blocked script execution in/.test(said));
