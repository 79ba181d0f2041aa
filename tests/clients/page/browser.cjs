// Searches, keys and acts, each of which asks first, and what a page of another origin can do. node browser.cjs URL
"use strict";
const assert = require("node:assert");
const { run } = require("./watched.cjs");

const [url] = process.argv.slice(2);

run(async (browser, watch) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = watch(await context.newPage());
  const { mails } = await json(page, "/v1/mails");
  await acts(page, mails.find((mail) => mail.state === "dead"));
  await many(page);
  await inbox(page, mails.find((mail) => mail.subject === "Welcome to the shop"));
  await keys(page);
  await context.close();
  await foreign(browser);
});

const json = async (page, path) => (await page.request.get(url + path)).json();

/** Search, keys, and acts that ask before they do something. */
async function acts(page, dead) {
  await page.goto(`${url}/`);
  await page.waitForSelector("h1");
  await page.keyboard.press("/");
  await page.waitForSelector("#search:focus");
  await page.keyboard.type("state:");
  // Something happens meanwhile, and the list is drawn again: what was typed stays.
  const mail = { from: "shop@example.com", to: "zoe@example.org", subject: "meanwhile", text: "t" };
  await page.request.post(`${url}/v1/mails`, { data: mail });
  await page.waitForSelector(".fresh");
  assert.strictEqual(await page.inputValue("#search"), "state:");
  await page.keyboard.type("dead");
  await page.keyboard.press("Enter");
  await page.waitForURL(/q=state%3Adead/);
  await page.waitForSelector("#suggestions", { state: "hidden" });
  await page.waitForSelector(".mail .dead");
  await page.waitForFunction(() => !document.querySelector(".mail .delivered"));
  // New is what the search finds, and nothing else that has come.
  for (const to of ["zoe@example.org", "eve.too@example.org"]) await page.request.post(`${url}/v1/mails`, { data: { ...mail, to } });
  await page.waitForSelector(".fresh >> text='1 new'");
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".detail .timeline");
  await page.goBack();
  await page.waitForSelector(".hint");

  await page.goto(`${url}/mails/${dead.id}`);
  await page.click(".detail >> text=Retry…");
  await page.click("dialog >> role=button[name=No]");
  assert.strictEqual((await json(page, `/v1/mails/${dead.id}`)).state, "dead");
  await page.click("text=What it says");
  await page.waitForSelector(".text");
  await page.click("role=tab[name=Header]");
  await page.waitForSelector("dt >> text=Message-ID");
  await page.click("role=tab[name=/Parts/]");
  await page.waitForSelector(".parts a[download]");
  await page.reload();
  await page.waitForSelector(".parts a[download]");

  await page.goto(`${url}/relays/primary`);
  await page.click("text=Pause…");
  await page.fill("dialog input", "the provider <b>moves</b>");
  await page.click("dialog button.danger");
  await page.waitForSelector(".state.paused");
  await page.waitForSelector("text=/Paused .* by local.*: the provider <b>moves<.b>/");
  await page.click("text=Resume");
  await page.waitForSelector("text=Pause…");
  await page.goto(`${url}/audit?act=pause`);
  await page.waitForSelector("td >> text=pause");
}

/** What is done to everything that a search finds asks first, and says to how many. */
async function many(page) {
  await page.goto(`${url}/dead`);
  const group = page.locator(".groups > li", { hasText: "no such user" }).first();
  await group.locator("text=Purge…").click();
  await page.waitForSelector("dialog[open]");
  assert(await page.locator("dialog button.danger").isDisabled(), "it asks for the count");
  await page.click("dialog >> role=button[name=No]");

  const { count } = await json(page, "/v1/mails/count?q=tag:many");
  await page.goto(`${url}/mails?q=tag%3Amany`);
  await page.waitForSelector(`text=${count} match`);
  await page.click(".bar >> text=Cancel…");
  await page.waitForSelector(`dialog >> text=Withdraw ${count} mails?`);
  await page.click("dialog >> role=button[name=No]");
  // Two of them, one by one.
  await page.locator(".entry input").nth(0).check();
  await page.locator(".entry input").nth(1).check();
  await page.waitForSelector("text=2 selected");
  await page.click(".bar >> text=Cancel…");
  await page.waitForSelector("dialog >> text=Withdraw 2 mails?");
  await page.click("dialog button.danger");
  await page.waitForSelector(".jobs >> text=/2 of 2 · done/");
  assert.strictEqual((await json(page, "/v1/mails/count?q=tag:many+state:cancelled")).count, 2);

  // Then all that are left are deleted, once the count was typed.
  await page.goto(`${url}/mails?q=tag%3Amany+state%3Acancelled`);
  await page.click(".bar >> text=Purge…");
  await page.fill("dialog form > label input", "2");
  await page.click("dialog button.danger");
  await page.waitForSelector(".jobs >> text=/2 of 2 · done/");
  assert.strictEqual((await json(page, "/v1/mails/count?q=tag:many+state:cancelled")).count, 0);
}

/** Captured mail: marked, counted in the tab, with its code to copy. */
async function inbox(page, captured) {
  await page.goto(`${url}/inbox`);
  await page.waitForSelector("text=not sent");
  // It counts what comes after what was seen here.
  await page.waitForFunction((seen) => localStorage.getItem("inbox-seen") >= seen, captured.id);
  await page.goto(`${url}/about`);
  await page.waitForSelector("h1");
  const mail = { from: "shop@example.com", to: "ada@example.org", subject: "Another", text: "Your code is 118822", tags: ["captured"] };
  await page.request.post(`${url}/v1/mails`, { data: mail });
  await page.waitForFunction(() => document.title.startsWith("(1) "));
  await page.click("nav >> text=Inbox");
  await page.click("text=Another");
  await page.waitForSelector(".code >> text=118822");
  await page.waitForFunction(() => !document.title.startsWith("("));
  await page.goto(`${url}/inbox/${captured.id}`);
  await page.waitForSelector("iframe");
  await page.click("role=button[name=Phone]");
  assert((await page.locator("iframe").boundingBox()).width <= 375);
  assert.match(await page.frameLocator("iframe").locator("body").innerText(), /Welcome/);
}

/** Everything can be reached with the keys alone. */
async function keys(page) {
  await page.goto(`${url}/`);
  await page.waitForSelector("h1");
  await page.keyboard.press("Tab");
  assert.strictEqual(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("?");
  await page.waitForSelector("dialog[open]");
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog[open]", { state: "detached" });
  await page.keyboard.press("g");
  await page.keyboard.press("r");
  await page.waitForURL(/relays/);
}

/** A page of another origin can neither read nor do anything. */
async function foreign(browser) {
  const server = require("node:http").createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end("<!doctype html><title>elsewhere</title>");
  });
  await new Promise((open) => server.listen(0, "127.0.0.1", open));
  const page = await browser.newPage();
  const elsewhere = `http://127.0.0.1:${server.address().port}/`;
  await page.goto(elsewhere);
  const read = await page.evaluate(async (url) => {
    const asked = (options) => fetch(`${url}/v1/mails`, options).then((a) => a.type + a.status, () => "refused");
    return [await asked({}), await asked({ method: "POST", body: "{}" }), await asked({ mode: "no-cors" })];
  }, url);
  assert.deepStrictEqual(read.slice(0, 2), ["refused", "refused"]);
  assert.strictEqual(read[2], "opaque0");
  await page.close();
  // Neither route of the API, nor the page, answers a page of another site or under a name of another.
  const { paths } = await (await fetch(`${url}/openapi.json`)).json();
  let tried = 0;
  for (const [path, calls] of Object.entries(paths)) {
    // These are for everybody, each with its own proof in the path.
    if (path.startsWith("/status") || path.startsWith("/u/")) continue;
    for (const method of Object.keys(calls).filter((one) => ["get", "post", "delete"].includes(one))) {
      for (const headers of [{ origin: elsewhere.slice(0, -1) }, { "sec-fetch-site": "cross-site" }, { origin: "null" }]) {
        const answer = await fetch(url + path.replace(/\{[^}]+\}/g, "x"), { method: method.toUpperCase(), headers });
        assert.strictEqual(answer.status, 403, `${method} ${path} ${JSON.stringify(headers)}`);
        assert.strictEqual(answer.headers.get("access-control-allow-origin"), null);
        await answer.body?.cancel();
        tried += 1;
      }
    }
  }
  assert(tried > 100, `only ${tried}`);
  server.close();
}
