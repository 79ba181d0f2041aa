"""The table in BENCHMARKS.md, between its two markers."""

from pathlib import Path

BEGIN, END = "<!-- made by benches/peers/run: begin -->", "<!-- made by benches/peers/run: end -->"
PICTURE = "benches/peers/peers.svg"
ANSWERS = {"synced": "synced", "written": "written", "memory": "in memory", "nothing": "nothing kept"}


def put(path: Path, facts: dict, lines: list[dict]) -> None:
    text = path.read_text()
    section = f"{BEGIN}\n{machine(facts)}\n\n{rows(lines)}\n\n![Mails a second as bars]({PICTURE})\n{END}"
    if BEGIN in text and END in text:
        before, rest = text.split(BEGIN, 1)
        text = before + section + rest.split(END, 1)[1]
    else:
        text = text.rstrip("\n") + f"\n\n{section}\n"
    path.write_text(text)


def machine(facts: dict) -> str:
    busy = ""
    if facts["busy_before"] > 0.1:
        busy = f" **The machine was not quiet: {facts['busy_before']:.0%} of its cores were busy before the run.**"
    return (
        f"{facts['cores']} cores, {facts['filesystem']}; appending 2 KiB and `fdatasync` alone took"
        f" {facts['fdatasync_p50_ms']:.2f} ms (p50) and {facts['fdatasync_p99_ms']:.2f} ms (p99) before the run.{busy}"
    )


def rows(lines: list[dict]) -> str:
    head = ["what", "what the answer means", "accept p50", "accept p99", "end to end", "of smtp-source"]
    head += ["CPU for 1,000", "peak memory"]
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * 2 + "---:|" * (len(head) - 2)]
    for line in lines:
        if "error" in line:
            out.append(f"| {line['peer']} | {line['error']} |" + " |" * (len(head) - 2))
            continue
        ratio = f"{line['ratio']:.2f}" if line["ratio"] < 0.995 else f"{line['ratio']:.1f}"
        cells = [
            line["peer"],
            f"{ANSWERS[line['answer']]}: {line['means']}",
            milliseconds(line["accept_p50_ms"]),
            milliseconds(line["accept_p99_ms"]),
            f"{line['per_s']:,}/s" + (f" ({line['missing']} mails missing)" if line["missing"] else ""),
            ratio,
            "" if line["cpu_s_per_1000"] is None else f"{line['cpu_s_per_1000']:.2f} s",
            "" if line["peak_mb"] is None else f"{line['peak_mb']:,.0f} MB",
        ]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def milliseconds(time: float) -> str:
    """Two figures that count are enough."""
    return f"{time:,.0f} ms" if time >= 10 else f"{time:.1f} ms" if time >= 1 else f"{time:.2f} ms"
