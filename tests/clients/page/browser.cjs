// Walks through the page in a real browser. Any violation of the content security policy, any
// error in the console, and anything serious that axe finds, fails.
// node browser.cjs URL [FOLDER]: with a folder, pictures of every view are left there.
"use strict";
const assert = require("node:assert");
const { readFileSync } = require("node:fs");
const { chromium } = require("playwright-core");

const [url, folder] = process.argv.slice(2);
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

async function main() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu"],
  });
  const troubles = [];
  for (const [theme, width] of [["light", 1280], ["dark", 1280], ["light", 360], ["dark", 360]]) {
    const context = await browser.newContext({ colorScheme: theme, viewport: { width, height: 800 } });
    const page = await context.newPage();
    page.on("console", (said) => said.type() === "error" && troubles.push(`${page.url()}: ${said.text()}`));
    page.on("pageerror", (error) => troubles.push(`${page.url()}: ${error}`));
    page.on("dialog", () => troubles.push(`${page.url()}: a script of a mail ran`));

    const mails = await (await page.request.get(`${url}/v1/mails`)).json();
    const dead = mails.mails.find((mail) => mail.state === "dead");
    const views = { overview: "/", mails: "/mails", relays: "/relays", dead: "/dead", events: "/events", about: "/about" };
    if (dead) views.mail = `/mails/${dead.id}`;
    for (const [name, address] of Object.entries(views)) {
      await page.goto(url + address);
      await page.waitForSelector("h1:visible, h2:visible");
      await page.waitForTimeout(300);
      const beside = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert(beside <= 0, `${name} is ${beside} pixels wider than ${width}`);
      // The page's policy would hold a script back that is put into it: it is run from outside.
      await page.evaluate(axe);
      const found = await page.evaluate(() => window.axe.run());
      for (const { id, impact, nodes } of found.violations) {
        if (["serious", "critical"].includes(impact)) troubles.push(`${name} ${theme} ${width}: ${id}: ${nodes[0].html}`);
      }
      if (folder) await page.screenshot({ path: `${folder}/${name}-${theme}-${width}.png` });
    }
    if (width === 1280 && theme === "light" && dead) await acts(page, dead);
    await context.close();
  }
  await foreign(browser, troubles);
  await browser.close();
  assert.deepStrictEqual(troubles, []);
}

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
  await page.waitForSelector(".mail .dead");
  assert.strictEqual(await page.locator(".mail .delivered").count(), 0);
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".detail .timeline");
  await page.goBack();
  await page.waitForSelector(".hint");

  await page.goto(`${url}/mails/${dead.id}`);
  await page.click("text=Retry…");
  await page.waitForSelector("dialog[open]");
  await page.click("dialog >> text=No");
  const still = await (await page.request.get(`${url}/v1/mails/${dead.id}`)).json();
  assert.strictEqual(still.state, "dead");

  await page.goto(`${url}/relays`);
  await page.click("text=Pause…");
  await page.click("dialog button.danger");
  await page.waitForSelector(".state.paused");
  await page.click("text=Resume");
  await page.waitForSelector("text=Pause…");

  await page.goto(`${url}/dead`);
  await page.click("text=Purge all…");
  await page.click("dialog button.danger");
  assert(await page.locator("dialog[open]").count(), "it asks for the count");
  await page.click("dialog >> text=No");
}

/** A page of another origin can neither read nor do anything. */
async function foreign(browser, troubles) {
  const server = require("node:http").createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end("<!doctype html><title>elsewhere</title>");
  });
  await new Promise((open) => server.listen(0, "127.0.0.1", open));
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const read = await page.evaluate(async (url) => {
    const asked = (options) => fetch(`${url}/v1/mails`, options).then((a) => a.type + a.status, () => "refused");
    return [await asked({}), await asked({ method: "POST", body: "{}" }), await asked({ mode: "no-cors" })];
  }, url);
  assert.deepStrictEqual(read.slice(0, 2), ["refused", "refused"]);
  assert.strictEqual(read[2], "opaque0");
  await page.close();
  server.close();
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
