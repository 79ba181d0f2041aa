"""peers.svg: mails a second from end to end as bars, grouped by what an answer means."""

from html import escape

GROUPS = {
    "synced": "Synced to disk before the answer",
    "written": "Written, not synced, before the answer",
    "memory": "In memory only at the answer",
    "nothing": "Nothing kept",
}
WIDTH, NAMES, RIGHT, LEFT = 860, 330, 84, 20
ROW, BAR, HEADING, TOP, BOTTOM = 26, 16, 36, 64, 44

# Card and colours change together with the reader's scheme, so that the picture is legible wherever it is shown; a viewer
# that knows no schemes shows the light card.
STYLE = """\
svg { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
.card { fill: #ffffff } text { fill: #24292f } .quiet { fill: #57606a } .title { font-size: 16px; font-weight: 600 }
.group { font-weight: 600 } .grid { stroke: #d8dee4 } .value { font-variant-numeric: tabular-nums }
.ours { font-weight: 600 }
.synced { fill: #0a7d55 } .written { fill: #2f6fc4 } .memory { fill: #c77700 } .nothing { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  .card { fill: #151b23 } text { fill: #e6edf3 } .quiet { fill: #9ea7b1 } .grid { stroke: #343b44 }
  .synced { fill: #2fb380 } .written { fill: #5b9bf0 } .memory { fill: #e09a3a } .nothing { fill: #7d8590 }
}"""


def draw(lines: list[dict]) -> str:
    shown = [line for line in lines if "error" not in line]
    groups = {answer: [line for line in shown if line["answer"] == answer] for answer in GROUPS}
    groups = {answer: sorted(some, key=lambda line: -line["per_s"]) for answer, some in groups.items() if some}
    height = TOP + sum(HEADING + ROW * len(some) for some in groups.values()) + BOTTOM
    step, last = ticks(max((line["per_s"] for line in shown), default=1))
    scale = (WIDTH - LEFT - NAMES - RIGHT) / last
    zero = LEFT + NAMES
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title">',
        '<title id="title">Mails a second from end to end, by what an answer means</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="card" width="{WIDTH}" height="{height}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="30">Mails a second, from the first handed in to the last delivered</text>',
        f'<text class="quiet" x="{LEFT}" y="50">2 KiB mails, 64 producers, smtp-sink as the relay; one machine, one run</text>',
    ]
    for value in range(0, last + 1, step):
        x = zero + value * scale
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP + 6}" y2="{height - BOTTOM + 6}"/>')
        out.append(f'<text class="quiet" x="{x:.1f}" y="{height - BOTTOM + 24}" text-anchor="middle">{value:,}</text>')
    y = TOP
    for answer, some in groups.items():
        out.append(f'<rect class="{answer}" x="{LEFT}" y="{y + 15}" width="11" height="11" rx="2"/>')
        out.append(f'<text class="group" x="{LEFT + 18}" y="{y + 25}">{GROUPS[answer]}</text>')
        y += HEADING
        for line in some:
            ours = " ours" if line["peer"].startswith("Postrider") else ""
            length, middle = max(line["per_s"] * scale, 1.5), y + ROW / 2 + 4.5
            out.append(f'<text class="name{ours}" x="{LEFT + 18}" y="{middle}">{escape(line["peer"])}</text>')
            bar = f'x="{zero}" y="{y + (ROW - BAR) / 2}" width="{length:.1f}" height="{BAR}"'
            out.append(f'<rect class="{answer}" {bar}/>')
            value = f'class="value{ours}" x="{zero + length + 6:.1f}" y="{middle}"'
            out.append(f"<text {value}>{line['per_s']:,}</text>")
            y += ROW
    return "\n".join([*out, "</svg>"]) + "\n"


def ticks(most: int) -> tuple[int, int]:
    """A round step that makes four to eight lines, and the last of them."""
    step = 1
    while True:
        for size in (1, 2, 5):
            if most / (step * size) <= 6:
                return step * size, -(-most // (step * size)) * step * size
        step *= 10
