// Every view, light and dark, on a phone, a tablet and a desk: nothing is wider than the screen, no word of a button or
// heading is cut or broken, and axe finds nothing serious. node views.cjs URL NAME [FOLDER]: with a folder, pictures of all of them are left there, beginning with the
// name; without one, only the widths and colours that differ most are looked at.
"use strict";
const { mkdirSync } = require("node:fs");
const { obstacles, quiet, run } = require("./watched.cjs");

const [url, name, folder] = process.argv.slice(2);
const looks = [["light", 1280], ["dark", 360], ["light", 360], ["dark", 1280], ["light", 768], ["dark", 768]];

/** What is looked at, by name: an address, and what is done there first. */
async function views(request) {
  const json = async (path) => (await request.get(url + path)).json();
  const newest = async (q) => (await json(`/v1/mails?limit=1&q=${encodeURIComponent(q)}`)).mails[0]?.id;
  const { relays } = await json("/v1/relays");
  const all = {
    overview: ["/"], "overview-week": ["/?range=7d"], mails: ["/mails"], none: ["/mails?q=subject%3Anothing-is-called-this"],
    search: ["/mails", async (page) => {
      await page.click("#search");
      await page.keyboard.type("sta");
      await page.keyboard.press("ArrowDown");
      await page.keyboard.press("Enter");
      await page.waitForSelector("#suggestions li >> text=state:deferred");
    }],
    relays: ["/relays"], relay: [`/relays/${encodeURIComponent(relays[0].name)}`], dead: ["/dead"], "dead-domains": ["/dead?by=domain"],
    events: ["/events"], audit: ["/audit"], about: ["/about"],
    keys: ["/", (page) => page.keyboard.press("?")],
    palette: ["/", async (page) => {
      await page.keyboard.press("Control+k");
      await page.keyboard.type("re");
    }],
    pause: ["/relays", (page) => page.locator("text=Pause…").first().click()],
  };
  for (const [key, q] of Object.entries({ delivered: "state:delivered", deferred: "state:deferred", failed: "state:dead" })) {
    const id = await newest(q);
    if (id) all[`mail-${key}`] = [`/mails/${id}?state=${q.slice(6)}`];
  }
  const id = await newest("state:delivered");
  if (id) {
    all["mail-says"] = [`/mails/${id}?part=says`];
    all["mail-facts"] = [`/mails/${id}?part=facts`];
    all.selected = ["/mails", async (page) => {
      for (const at of [0, 1]) await page.locator(".entry input").nth(at).check();
    }];
    all.question = ["/mails?state=dead", async (page) => {
      if (!(await page.locator(".bar >> text=Purge…").count())) return;
      await page.click(".bar >> text=Purge…");
      await page.waitForSelector("dialog[open], .problem");
    }];
  }
  const captures = relays.filter((relay) => relay.kind === "capture").map((relay) => relay.name);
  if (captures.length) all.inbox = ["/inbox"];
  const captured = captures.length && (await newest(`relay:${captures.join(",")} state:delivered`));
  if (captured) all.letter = [`/inbox/${captured}`, (page) => page.waitForSelector(".text, iframe")];
  return all;
}

/** Buttons, headings, tabs, numbers and dialogs whose words or fields do not fit into them, or are broken into two lines. To be run in the page. */
function cut() {
  const isCut = (one) => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== "inline";
  const isFolded = (one) => one.matches("button, .button, .state, kbd, .big") && one.getBoundingClientRect().height > 2 * parseFloat(getComputedStyle(one).lineHeight);
  const isInRows = (one) => new Set([...one.children].map((tab) => tab.offsetTop)).size > 1;
  const rows = [...document.querySelectorAll(".list .tabs")].filter(isInRows).map(() => "the states stand in more than one row");
  const all = [...document.querySelectorAll("button, .button, h1, h2, .state, kbd, .tabs > *, .card > *, dialog")];
  return all.filter((one) => one.checkVisibility() && (isCut(one) || isFolded(one))).map((one) => one.outerHTML.slice(0, 120)).concat(rows);
}

/** The names of the view and the state that are shown, where they are not seen whole in the row of such names. To be run in the page. */
function outside() {
  const isOutside = (name) => {
    const { left, right } = name.getBoundingClientRect();
    const { left: from, right: to } = name.closest("nav").getBoundingClientRect();
    return left < Math.max(from, 0) - 1 || right > Math.min(to, innerWidth) + 1;
  };
  const names = [...document.querySelectorAll("nav [aria-current]")].filter((name) => name.checkVisibility());
  return names.filter(isOutside).map((name) => name.textContent);
}

/** What fields suggest that does not fit into them, where nothing says that it goes on. To be run in the page. */
function suggestions() {
  const pen = document.createElement("canvas").getContext("2d");
  return [...document.querySelectorAll("input[placeholder]")].filter((field) => {
    const { font, paddingLeft, paddingRight, textOverflow } = getComputedStyle(field);
    pen.font = font;
    const room = field.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
    return field.checkVisibility() && !field.value && textOverflow !== "ellipsis" && pen.measureText(field.placeholder).width > room;
  }).map((field) => field.placeholder);
}

/** What README.md shows, and how much of it from the top. */
const SHOWN = { "many-mail-failed-light-1280": 590, "three-letter-dark-1280": 700 };

/** How many views are looked at at once: of one that is not in front, no picture can be relied upon. */
const BESIDE = folder ? 1 : 3;

run(async (browser, watch, troubles) => {
  if (folder) mkdirSync(folder, { recursive: true });
  const only = process.env.POSTRIDER_VIEWS?.split(",");
  for (const [turn, [theme, width]] of (folder ? looks : looks.slice(0, 2)).entries()) {
    const height = width === 360 ? 740 : 900;
    const context = await browser.newContext({ colorScheme: theme, viewport: { width, height } });
    const left = Object.entries(await views(context.request)).filter(([view]) => !only || only.includes(view));
    const look = async ([view, [address, first]]) => {
      const page = watch(await context.newPage());
      await page.goto(url + address);
      await page.waitForSelector("h1:visible, h2:visible");
      await quiet(page);
      await first?.(page);
      await quiet(page);
      const beside = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (beside > 0) troubles.push(`${view} is ${beside} pixels wider than ${width}`);
      for (const name of await page.evaluate(outside)) troubles.push(`${view} ${theme} ${width}: ${name} is beside the row of names`);
      for (const what of await page.evaluate(suggestions)) troubles.push(`${view} ${theme} ${width}: cut: ${what}`);
      for (const what of await page.evaluate(cut)) troubles.push(`${view} ${theme} ${width}: cut: ${what}`);
      const picture = `${name}-${view}-${theme}-${width}`;
      const clip = SHOWN[picture] && { x: 0, y: 0, width, height: SHOWN[picture] };
      if (folder) await page.screenshot({ path: `${folder}/${picture}.png`, clip });
      if (turn < 2) for (const what of await obstacles(page)) troubles.push(`${view} ${theme} ${width}: ${what}`);
      await page.close();
    };
    await Promise.all(Array.from({ length: BESIDE }, async () => {
      for (let view; (view = left.shift()); ) await look(view);
    }));
    await context.close();
  }
});
