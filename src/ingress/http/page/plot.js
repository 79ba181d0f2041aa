// A plot of what the service counted: one line each, drawn as SVG, with the numbers in a table beside it for
// whoever does not see it.

import { html } from "./api.js";
import { brief, exact, number } from "./words.js";
import { Link } from "./parts.js";

const WIDTH = 600;
const HEIGHT = 140;

/** How long a plot is, how far its points are apart, and what a point counts. */
export const ranges = { "1h": ["1h", "30s"], "24h": ["24h", "10m"], "7d": ["7d", "1h"] };

export const rangeOf = (parameters) => (Object.hasOwn(ranges, parameters.get("range")) ? parameters.get("range") : "1h");

/** The address of the series of a range. */
export function seriesPath(range, relay = "") {
  const [from, step] = ranges[range];
  return `/v1/series?from=${from}&step=${step}${relay ? `&relay=${encodeURIComponent(relay)}` : ""}`;
}

/** Chooses a range; each is an address. */
export function Ranges({ range, base }) {
  return html`<nav class="tabs small" aria-label="Range">${Object.keys(ranges).map((name) => html`<${Link} key=${name}
    to=${name === "1h" ? base : `${base}?range=${name}`} aria-current=${name === range ? "true" : undefined}>${name.replace("h", " h").replace("d", " d")}<//>`)}</nav>`;
}

/** A scale that ends at 1, 2 or 5 times a power of ten. */
function ceiling(most) {
  if (most <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= most);
}

/** `lines`: pairs of a name and what a point is at. */
export function Plot({ points, lines, title, unit = "" }) {
  if (!points || points.length < 2) return html`<p class="faint">There is nothing to plot yet.</p>`;
  const top = ceiling(Math.max(...points.flatMap((point) => lines.map(([name]) => point[name] ?? 0))));
  const x = (at) => ((at / (points.length - 1)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - (value / top) * HEIGHT).toFixed(1);
  const path = (name) => points.map((point, at) =>
    point[name] == null ? "" : `${points[at - 1]?.[name] == null ? "M" : "L"}${x(at)} ${y(point[name])}`).join("");
  // A point that stands alone is a dot: a line that goes nowhere, with round ends.
  const dots = (name) => points.map((point, at) =>
    point[name] == null || points[at - 1]?.[name] != null || points[at + 1]?.[name] != null ? "" : `M${x(at)} ${y(point[name])}h0`).join("");
  const drawn = lines.filter(([name]) => points.some((point) => point[name]));
  const ends = [points[0], points.at(-1)].map((point) => brief(point.at));
  return html`<figure class="plot">
    <figcaption>${title} <span class="legend">${lines.length > 1 && lines.map(([name, label]) => html`<span class="key ${name}">${label || name}</span>`)}</span></figcaption>
    <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
      ${[0, 0.5, 1].map((part) => html`<line class="grid" x1="0" x2=${WIDTH} y1=${HEIGHT * part} y2=${HEIGHT * part} />`)}
      ${drawn.map(([name]) => html`<path class="curve ${name}" d=${path(name)} /><path class="curve dots ${name}" d=${dots(name)} />`)}
    </svg>
    <div class="axis" aria-hidden="true"><span>${ends[0]}</span><span>${drawn.length ? `top: ${number(top)}${unit}` : "none in this time"}</span><span>${ends[1]}</span></div>
    <details><summary>Numbers</summary><div class="scroll" tabindex="0" role="region" aria-label=${`${title}, numbers`}><table><thead><tr><th>From</th>${lines.map(([name, label]) => html`<th>${label || name}</th>`)}</tr></thead>
      <tbody>${points.filter((point) => lines.some(([name]) => point[name])).slice(-60).reverse().map((point) => html`<tr key=${point.at}><td>${exact(point.at)}</td>
        ${lines.map(([name]) => html`<td>${point[name] == null ? "" : unit ? `${point[name].toFixed(2)}${unit}` : number(point[name])}</td>`)}</tr>`)}</tbody></table></div></details>
  </figure>`;
}
