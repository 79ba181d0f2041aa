// Every dialog, light and dark, with the keys alone: what opens it, that the focus stays in it and goes back, and that axe
// finds nothing serious. Then a walk through lists without a mouse. node dialogs.cjs URL
"use strict";
const assert = require("node:assert");
const { obstacles, quiet, run } = require("./watched.cjs");

const [url] = process.argv.slice(2);

/** By name: an address, and the button that opens the dialog, or the key that does. */
const dialogs = {
  cancel: ["/mails/{scheduled}", "Cancel…"], retry: ["/mails/{dead}", "Retry…"], "cancel all": ["/mails?q=tag%3Amany", "Cancel…"],
  "purge all": ["/mails?state=dead", "Purge…"], pause: ["/relays/primary", "Pause…"], palette: ["/relays", null, "Control+k"], keys: ["/events", null, "?"],
};

const focused = (page) => page.evaluate(() => {
  const one = document.activeElement;
  if (!one || one === document.body) return "nothing";
  return `${one.closest("dialog") ? "in it" : "outside"}: ${one.localName} ${one.getAttribute("aria-label") || one.textContent.trim()}`;
});

async function dialog(page, name, address, button, key) {
  await page.goto(url + address);
  await page.waitForSelector("h1:visible, h2:visible");
  await quiet(page);
  if (button) await page.locator(`button:has-text("${button}"):visible`).first().focus();
  const before = await focused(page);
  await page.keyboard.press(key || "Enter");
  await page.waitForSelector("dialog[open]");
  assert.deepStrictEqual(await obstacles(page), [], name);

  const first = await focused(page);
  assert.match(first, /^in it/, `${name}: the focus is ${first}`);
  for (const tab of ["Tab", "Shift+Tab"]) {
    for (let turn = 0; turn < 8; turn++) {
      await page.keyboard.press(tab);
      assert.doesNotMatch(await focused(page), /^outside/, `${name}: ${tab} leads out of it`);
    }
  }
  // What is below it does not hear the keys.
  await page.keyboard.press("j");
  assert.doesNotMatch(await focused(page), /^outside/, name);
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog", { state: "detached" });
  assert.strictEqual(await focused(page), before.replace("nothing", await focused(page)), `${name} gives the focus back`);
}

/** A search, a list, a mail and the next, and back, without a mouse. */
async function keys(page) {
  await page.goto(`${url}/`);
  await page.waitForSelector("h1");
  await page.keyboard.press("/");
  await page.waitForSelector("#search:focus");
  await page.keyboard.type("tag:many");
  await page.keyboard.press("Enter");
  await page.waitForSelector("text=/^5 match/");
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  const second = await page.evaluate(() => document.activeElement.getAttribute("href"));
  assert.strictEqual(await page.locator("a.mail").nth(1).getAttribute("href"), second);
  await page.keyboard.press("k");
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".detail h2");
  assert.strictEqual(new URL(page.url()).pathname, second.split("?")[0]);
  await page.keyboard.press("Escape");
  await page.waitForSelector(".detail", { state: "detached" });
  await page.waitForFunction((href) => document.activeElement.getAttribute("href") === href, second);
  // Escape leaves the search, and the keys of the list work again.
  await page.keyboard.press("/");
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  await page.keyboard.press("j");
  await page.waitForSelector("a.mail:focus");

  // One box leads anywhere.
  await goTo(page, "audit", "view");
  await page.waitForURL(/audit/);
  await page.waitForSelector("main:focus");
  await goTo(page, "kept", "relay");
  await page.waitForURL(/relays\/kept/);
  await goTo(page, "no such user", "search the mails");
  await page.waitForURL(/mails\?q=no%20such%20user/);
}

/** Types into the box that leads anywhere, and takes the first place, which is of this kind. */
async function goTo(page, words, kind) {
  await page.keyboard.press("Control+k");
  await page.waitForSelector(".palette input:focus");
  await page.keyboard.type(words);
  await page.waitForSelector(`.palette li[aria-selected=true] >> text=${kind}`);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
}

run(async (browser, watch) => {
  const newest = async (q) => (await (await fetch(`${url}/v1/mails?limit=1&q=${q}`)).json()).mails[0].id;
  const ids = { scheduled: await newest("state:scheduled"), dead: await newest("state:dead") };
  for (const [colorScheme, width] of [["light", 1280], ["dark", 360]]) {
    const context = await browser.newContext({ colorScheme, viewport: { width, height: 740 } });
    const page = watch(await context.newPage());
    for (const [name, [address, button, key]] of Object.entries(dialogs)) {
      await dialog(page, `${name}, ${colorScheme}`, address.replace(/\{(\w+)\}/, (_, state) => ids[state]), button, key);
    }
    if (colorScheme === "light") await keys(page);
    await context.close();
  }
});
