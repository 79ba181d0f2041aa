// The shop of `examples/signup`, where somebody waits for a code while the mail server makes trouble.
// node status.cjs SHOP
"use strict";
const assert = require("node:assert");
const { run } = require("./watched.cjs");

const [shop] = process.argv.slice(2);

const signUp = async (page, email) => {
  await page.fill("input[name=email]", email);
  await page.click("button");
  return page.locator("postrider-status");
};

run(async (browser, watch) => {
  // As it happens: it waits, is tried again, and is sent, in the words of the shop.
  const page = watch(await browser.newPage());
  await page.goto(shop);
  const seen = page.evaluate(() => new Promise((done) => {
    const all = [];
    document.addEventListener("change", ({ detail }) => {
      if (!detail?.status) return;
      all.push(detail);
      if (detail.status === "sent") done(all);
    });
  }));
  const status = await signUp(page, "ada@example.org");
  await status.waitFor();
  const all = await seen;
  assert.deepStrictEqual(all.map((one) => `${one.status} ${one.retry_count}`), ["pending 1", "pending 2", "sent 2"]);
  assert.deepStrictEqual(Object.keys(all[0]).sort(), ["created_at", "retry_count", "sent_at", "status"]);
  assert.strictEqual(await status.textContent(), "We have sent you a code. Look into your mailbox.");
  assert.strictEqual(await status.getAttribute("status"), "sent");
  assert.strictEqual(await status.getAttribute("role"), "status");

  // Where no stream comes through, it asks.
  const without = watch(await browser.newPage());
  await without.route(/\/events$/, (route) => route.fulfill({ status: 503, body: "" }));
  await without.goto(shop);
  const polled = await signUp(without, "bob@example.org");
  await without.waitForSelector("postrider-status[status=retrying]");
  await without.waitForSelector("postrider-status[status=sent]", { timeout: 20_000 });
  assert.match(await polled.textContent(), /code/);

  // A status that there is not is said, and not asked for again.
  const none = watch(await browser.newPage());
  await none.goto(shop);
  const url = await page.locator("postrider-status").getAttribute("src");
  let asks = 0;
  none.on("request", (request) => request.url().includes("/status/") && (asks += 1));
  await none.evaluate((src) => {
    const element = document.createElement("postrider-status");
    element.setAttribute("src", src);
    document.body.append(element);
  }, `${url.slice(0, -2)}xx`);
  await none.waitForSelector("postrider-status[status=unknown]");
  const before = asks;
  await none.waitForTimeout(2500);
  assert.strictEqual(asks, before);
}, (said) => /status of (404|503)/.test(said));
