// A browser whose pages are watched: any violation of a content security policy, any error in the console, any script
// of a mail that ran and any dialog is a trouble.
"use strict";
const assert = require("node:assert");
const { readFileSync } = require("node:fs");
const { chromium } = require("playwright-core");

/** Waits until the page has asked for all that it shows: nothing but its stream of events is under way. */
exports.quiet = async (page) => {
  const busy = () => performance.getEntriesByType("resource").length;
  for (let before = -1, turn = 0; turn < 600; turn++) {
    const now = page.underWay.size ? -1 : await page.evaluate(busy);
    if (now >= 0 && now === before) return;
    before = now;
    await page.waitForTimeout(100);
  }
  throw new Error(`${page.url()} still asks for ${[...page.underWay].map((request) => request.url())}`);
};

const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** What keeps somebody from using what is shown, as far as axe finds it: what is serious, and no less. */
exports.obstacles = async (page) => {
  // The page's policy would hold a script back that is put into it: it is run from outside.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { iframes: false }));
  return violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
};

/** Runs `test(browser, watch)`, and ends the process. `watch(page)` looks after a page; `expected` are troubles that are wanted. */
exports.run = async (test, expected = () => false) => {
  const troubles = [];
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu"],
  });
  const trouble = (page, what) => {
    if (!expected(String(what))) troubles.push(`${page.url()}: ${what}`);
  };
  const watch = (page) => {
    page.underWay = new Set();
    page.on("request", (request) => request.url().includes("/v1/events") || page.underWay.add(request));
    for (const ended of ["requestfinished", "requestfailed"]) page.on(ended, (request) => page.underWay.delete(request));
    page.on("console", (said) => said.type() === "error" && trouble(page, said.text()));
    page.on("pageerror", (error) => trouble(page, error));
    page.on("dialog", (dialog) => {
      trouble(page, `a script of a mail ran: ${dialog.message()}`);
      dialog.dismiss();
    });
    return page;
  };
  try {
    await test(browser, watch, troubles);
    await browser.close();
    assert.deepStrictEqual(troubles, []);
    process.exit(0);
  } catch (error) {
    console.error(error, troubles);
    process.exit(1);
  }
};
