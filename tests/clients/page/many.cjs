// Seven tabs, many mails, mail that pours in, a service that stops under an open page, and signing in.
// node many.cjs URL MODE [SECRET, or how many mails there are at least]
"use strict";
const assert = require("node:assert");
const { obstacles, quiet, run } = require("./watched.cjs");

const [url, mode, secret] = process.argv.slice(2);
const said = (text) => console.log(text);
const lines = require("node:readline").createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const signIn = async (page, token) => {
  await page.fill("input[type=password]", token);
  await page.click("text=Sign in");
};

const modes = {
  /** Seven tabs share one stream, and all of them hear what happens. */
  async tabs(browser, watch) {
    const context = await browser.newContext();
    const pages = [];
    for (let n = 0; n < 7; n++) {
      const page = watch(await context.newPage());
      await page.goto(`${url}/mails`);
      await page.waitForSelector("h1");
      pages.push(page);
    }
    await fetch(`${url}/v1/mails`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ from: "a@example.com", to: "b@example.org", subject: "seven", text: "t" }) });
    for (const page of pages) await page.waitForSelector(".fresh", { timeout: 10_000 });
    // The tab that has the stream goes away; another takes it.
    await pages.shift().close();
    await pages[0].waitForTimeout(500);
    for (const page of pages) await page.click(".fresh");
    await fetch(`${url}/v1/mails`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ from: "a@example.com", to: "b@example.org", subject: "six", text: "t" }) });
    for (const page of pages) await page.waitForSelector(".fresh", { timeout: 10_000 });
  },

  /** Back finds a list where it was left, with all its pages, and says what has come meanwhile. */
  async back(browser, watch) {
    for (const [width, asked] of [[1280, ""], [360, ""], [1280, "?q=to%3Aexample.org"]]) {
      const page = watch(await browser.newPage({ viewport: { width, height: 740 } }));
      await page.goto(`${url}/mails${asked}`);
      for (const count of [50, 100, 150]) {
        await page.waitForFunction((count) => document.querySelectorAll(".mail").length === count, count);
        if (count < 150) await page.click("button >> text=More");
      }
      const row = page.locator(".mail").nth(120);
      await row.scrollIntoViewIfNeeded();
      const { y } = await row.boundingBox();
      const left = await row.getAttribute("href");
      const isAsLeft = async () => {
        await page.waitForFunction(([left, y]) => {
          const row = [...document.querySelectorAll(".mail")].find((one) => one.getAttribute("href") === left);
          return row?.checkVisibility() && Math.abs(row.getBoundingClientRect().top - y) <= 2;
        }, [left, y]);
        assert.strictEqual(await page.locator(".mail").count(), 150);
      };
      assert(await page.evaluate(() => scrollY > 3000), "the list is long");

      await row.click();
      await page.waitForSelector(".detail .timeline, .detail .state");
      await page.goBack();
      await isAsLeft();

      await row.click();
      await page.waitForSelector(".detail .state");
      if (width === 360) {
        await page.click("text=Back to the list");
        await isAsLeft();
        await page.goForward();
        await page.waitForSelector(".detail .state");
      }
      await page.keyboard.press("g");
      await page.keyboard.press("r");
      await page.waitForSelector("h1 >> text=Relays");
      assert.strictEqual(await page.evaluate(() => scrollY), 0);
      const mail = { from: "a@example.com", to: "b@example.org", subject: "meanwhile", text: "t", delay: "1h" };
      await page.request.post(`${url}/v1/mails`, { data: mail });
      await page.goBack();
      await page.waitForSelector(".detail .state");
      await page.goBack();
      await isAsLeft();
      await page.waitForSelector(".fresh >> text='1 new'");
      await page.close();
    }
  },

  /** Who signs out in one tab is out in all, and their streams have ended. */
  async out(browser, watch) {
    const context = await browser.newContext();
    const pages = [];
    for (let n = 0; n < 3; n++) pages.push(watch(await context.newPage()));
    await pages[0].goto(`${url}/mails`);
    await signIn(pages[0], secret);
    for (const page of pages) {
      await page.goto(`${url}/about`);
      await page.waitForSelector("h1 >> text=About");
    }
    await quiet(pages[0]);
    // The last one signs out; the first one has the stream.
    await pages[2].click("text=Sign out");
    for (const page of pages.slice(0, 2)) await page.waitForSelector("text=You are not signed in any more", { timeout: 5000 });
    await signIn(pages[0], secret);
    await pages[0].waitForSelector("h1 >> text=About");
    said("in");
    await lines.next();
    // Its token is gone from the configuration, which was read again.
    await pages[0].waitForSelector("text=You are not signed in any more", { timeout: 5000 });
  },

  /** The page says that the service is gone, finds it again, and has missed nothing. */
  async restart(browser, watch) {
    const page = watch(await browser.newPage());
    await page.goto(`${url}/events`);
    await page.waitForSelector("h1");
    // Its stream of events may not be open yet: it is to miss nothing all the same.
    said("open");
    await lines.next();
    await page.waitForSelector(".lost", { timeout: 20_000 });
    said("lost");
    await lines.next();
    await page.waitForSelector(".lost", { state: "detached", timeout: 20_000 });
    await page.waitForSelector(".events >> text=meanwhile@example.org", { timeout: 20_000 });
    assert.strictEqual(await page.locator("text=were missed").count(), 0);
  },

  /** A list of many mails is there at once, and can be walked and counted. */
  async crowd(browser, watch) {
    const page = watch(await browser.newPage());
    // As long as a walk over all of them may take.
    const patience = { timeout: 60_000 + Number(secret) / 10 };
    await page.goto(`${url}/`);
    await page.waitForSelector(".card");
    const begun = Date.now();
    await page.goto(`${url}/mails`);
    await page.waitForSelector(".mail");
    const list = Date.now() - begun;
    await page.click("button >> text=More");
    await page.waitForFunction(() => document.querySelectorAll(".mail").length === 100);
    await page.click("text=Count");
    await page.waitForFunction((least) => {
      const counts = [...document.body.textContent.matchAll(/([\d,]+) mails/g)];
      return counts.some(([, count]) => Number(count.replaceAll(",", "")) >= least);
    }, Number(secret), patience);
    await page.click(".bar >> text=Cancel…");
    await page.waitForSelector("dialog >> text=/Withdraw \\d+[\\d,]+ mails/", patience);
    said(`the first row of ${Number(secret).toLocaleString("en")} mails took ${list} ms`);
    assert(list < 5000, `${list} ms`);
  },

  /** While mail pours in, the page answers at once, stays small, and counts right. */
  async load(browser, watch) {
    const context = await browser.newContext();
    const pages = [];
    for (const view of ["/events", "/mails", "/"]) {
      const page = watch(await context.newPage());
      await page.goto(url + view);
      await page.waitForSelector("h1");
      await quiet(page);
      // How late a timer is, is how long somebody who clicks would wait.
      await page.evaluate(() => {
        window.late = [];
        let due = performance.now() + 50;
        setInterval(() => {
          window.late.push(performance.now() - due);
          due = performance.now() + 50;
        }, 50);
      });
      pages.push(page);
    }
    const [events, mails, overview] = pages;
    const memory = async (page) => {
      const session = await context.newCDPSession(page);
      await session.send("HeapProfiler.collectGarbage");
      const { metrics } = await session.send("Performance.enable").then(() => session.send("Performance.getMetrics"));
      await session.detach();
      return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
    };
    await events.waitForTimeout(1000);
    const before = await Promise.all(pages.map(memory));
    for (const page of pages) await page.evaluate(() => (window.late.length = 0));
    said("open");

    // It is used meanwhile: another view, and back.
    await mails.waitForSelector(".fresh");
    const begun = Date.now();
    await mails.click("nav >> text=Relays");
    await mails.waitForSelector("h1 >> text=Relays");
    const click = Date.now() - begun;
    await mails.click("nav >> text=Mails");
    await mails.waitForSelector(".mail");
    const { value } = await lines.next();
    const late = await Promise.all(pages.map((page) => page.evaluate(() => window.late.sort((a, b) => a - b)[Math.floor(window.late.length * 0.99)])));
    const count = Number(value).toLocaleString("en");
    await overview.waitForSelector(`dd >> text="${count}"`, { timeout: 20_000 });
    await mails.click(".fresh");
    await mails.waitForSelector(".fresh", { state: "detached" });
    const after = await Promise.all(pages.map(memory));
    const grown = after.map((now, at) => (now.JSHeapUsedSize - before[at].JSHeapUsedSize) / 2 ** 20);
    const nodes = after.map((now) => now.Nodes);
    said(`${count} mails; 99 of 100 timers were late by at most ${late.map(Math.round)} ms, a click took ${click} ms, ` +
      `the heaps grew by ${grown.map((one) => one.toFixed(1))} MiB, and there are ${nodes} nodes`);
    assert((await events.locator(".events li").count()) <= 300, "events are bounded");
    assert(Math.max(...late) < 500, `timers were late by ${late} ms`);
    assert(click < 2000, `a click took ${click} ms`);
    assert(Math.max(...grown) < 8, `the heaps grew by ${grown} MiB`);
    assert(Math.max(...nodes) < 12_000, `there are ${nodes} nodes`);
  },

  /** Who was signed in is asked again after a restart, and hears what happens from then on. */
  async ended(browser, watch) {
    const page = watch(await browser.newPage());
    await page.goto(`${url}/mails`);
    await signIn(page, secret);
    await page.waitForSelector("h1 >> text=Mails");
    await quiet(page);
    said("in");
    await lines.next();
    await page.waitForSelector("text=You are not signed in any more", { timeout: 20_000 });
    await signIn(page, secret);
    await page.waitForSelector("h1 >> text=Mails");
    said("in again");
    await page.waitForSelector(".fresh >> text='1 new'", { timeout: 20_000 });
  },

  /** Whatever stands in the address, the page is there, and says what is wrong. */
  async odd(browser, watch) {
    const page = watch(await browser.newPage());
    const odd = ["%E0%A4%A", "%00", "..%2f..%2fabout", "<img src=x onerror=alert(1)>", "__proto__"];
    const addresses = odd.flatMap((one) => ["/mails/", "/relays/", "/inbox/"].map((view) => view + one));
    for (const one of ["constructor", "__proto__", "%00", "%22", "9e99"]) {
      addresses.push(`/mails?state=${one}&q=${one}`, `/mails?q=state%3A${one}`, `/?range=${one}`, `/dead?by=${one}`,
        `/events?kind=${one}&mail=${one}`, `/audit?act=${one}&cursor=${one}`, `/inbox?to=${one}`);
    }
    const { mails } = await (await page.request.get(`${url}/v1/mails?limit=1`)).json();
    for (const one of ["constructor", "__proto__"]) addresses.push(`/mails/${mails[0].id}?part=${one}&form=${one}`, `/mails/${mails[0].id}?part=says&form=${one}`);
    for (const address of addresses) {
      await page.goto(url + address);
      await page.waitForSelector("h1, h2, .problem", { timeout: 5000 }).catch(() => assert.fail(`${address} shows nothing`));
      await quiet(page);
      assert((await page.locator("main").innerText()).length > 20, `${address} shows next to nothing`);
    }
    // Nor does what is typed go wrong.
    await page.goto(`${url}/mails`);
    for (const typed of ["constructor:", "-__proto__:x", 'to:"', "((", "\u202e:"]) {
      await page.fill("#search", "");
      await page.type("#search", typed);
      await page.keyboard.press("Enter");
      await quiet(page);
      await page.waitForSelector("h1 >> text=Mails");
    }
  },

  /** With tokens the page asks for one; what its scope may not do is not offered. */
  async token(browser, watch) {
    const context = await browser.newContext();
    const page = watch(await context.newPage());
    await page.goto(`${url}/mails`);
    await page.waitForSelector("input:focus");
    await signIn(page, "wrong-token-wrong-token");
    await page.waitForSelector(".problem");
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      assert.deepStrictEqual(await obstacles(page), []);
    }
    await signIn(page, secret);
    await page.waitForSelector("h1 >> text=Mails");
    const [cookie] = await context.cookies();
    assert(cookie.httpOnly && cookie.sameSite === "Strict" && cookie.name.endsWith(new URL(url).port), JSON.stringify(cookie));
    assert(!(await page.evaluate(() => JSON.stringify([document.cookie, { ...localStorage }, location.href]))).includes(secret));
    for (const view of ["/mails", "/dead", "/relays", "/relays/primary"]) {
      await page.goto(url + view);
      await page.waitForSelector("h1");
      await page.waitForTimeout(300);
      for (const act of ["Retry…", "Cancel…", "Purge…", "Pause…"]) assert.strictEqual(await page.locator(`button:has-text("${act}")`).count(), 0, `${act} in ${view}`);
    }
    const refused = await page.evaluate(() => fetch("/v1/relays/primary/pause", { method: "POST" }).then((answer) => answer.status));
    assert.strictEqual(refused, 403);
    await page.goto(`${url}/about`);
    await page.click("text=Sign out");
    await page.waitForSelector("input[type=password]");
  },
};

run(modes[mode], (what) => (["restart", "ended"].includes(mode) && /ERR_(CONNECTION_(REFUSED|RESET|CLOSED)|INCOMPLETE|EMPTY_RESPONSE|NETWORK|ABORTED|SOCKET_NOT_CONNECTED)/.test(what)) || (["token", "ended", "out"].includes(mode) && /status of (401|403)/.test(what)) || (mode === "odd" && /status of (400|404|422)/.test(what)));
