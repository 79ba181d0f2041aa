// The entries of the browser's history: where the page is, and what was seen there, so that Back finds it as it was left.

/** What each entry showed: how far it was scrolled, and what its list held. In memory: what is loaded anew begins anew. */
const kept = new Map();

/** The most entries that are remembered. */
const MOST = 50;

/** How long what comes back may take until it is as long as it was, in ms. */
const PATIENCE = 3000;

/** How long a place is held against what is drawn late, in ms. */
const HOLD = 300;

let next = Date.now();
let here = history.state?.entry ?? next++;
history.scrollRestoration = "manual";
history.replaceState({ ...history.state, entry: here }, "");

/** Keeps something with the entry that is shown. */
export function keep(name, value) {
  const all = kept.get(here) || {};
  // The last that was seen is the last to go.
  kept.delete(here);
  kept.set(here, { ...all, [name]: value });
  if (kept.size > MOST) kept.delete(kept.keys().next().value);
}

/** What was kept with the entry that is shown. */
export const recall = (name) => kept.get(here)?.[name];

/** Goes to a view without loading the page anew. */
export function go(address, replace = false) {
  const from = location.pathname + location.search;
  const before = location.pathname;
  if (replace) history.replaceState({ ...history.state, entry: here }, "", address);
  else {
    keep("scroll", scrollY);
    here = next++;
    history.pushState({ entry: here, from }, "", address);
  }
  dispatchEvent(new PopStateEvent("popstate"));
  const view = (path) => path.split("/")[1];
  if (view(before) !== view(location.pathname)) scrollTo(0, 0);
}

/** Goes to where one came from, if that is it; else there. */
export function goBack(address) {
  if (history.state?.from === address) history.back();
  else go(address);
}

// Whoever signs in next may see less.
addEventListener("signed-out", () => kept.clear());

addEventListener("popstate", (event) => {
  if (!event.isTrusted) return;
  keep("scroll", scrollY);
  here = event.state?.entry ?? next++;
  const scroll = recall("scroll");
  if (scroll != null) find(scroll);
});

/** Scrolls to where it was, as soon as what is there reaches so far; unless somebody scrolls first. */
function find(scroll) {
  const entry = here;
  const begun = performance.now();
  let isLeft = false;
  const leave = () => (isLeft = true);
  const hands = ["wheel", "touchstart", "pointerdown", "keydown"];
  for (const hand of hands) addEventListener(hand, leave, { once: true, passive: true });
  const turn = () => {
    const waited = performance.now() - begun;
    if (!isLeft && here === entry && scrollY !== scroll) scrollTo(0, scroll);
    const isThere = Math.abs(scrollY - scroll) <= 1 && waited > HOLD;
    if (!isLeft && here === entry && !isThere && waited < PATIENCE) return void requestAnimationFrame(turn);
    for (const hand of hands) removeEventListener(hand, leave);
  };
  requestAnimationFrame(turn);
}
