#!/usr/bin/env python3
"""Postrider inside a program, as `postrider bench end-to-end` measures it: with its own smtp-sink, and smtp-source before and
after. Mails are counted by the engine when smtp-sink's 250 has come."""

import json
import statistics
import subprocess
import sys
import time

from measuring import settings
from measuring.rounds import MOST, WARM, Bench, tell


def bench_end_to_end(bench: Bench, count: int) -> dict:
    scratch = bench.directory(f"engine-{count}-{len(list(bench.settings.scratch.iterdir()))}")
    command = [bench.settings.postrider, "bench", "end-to-end", "--count", count, "--dir", scratch]
    tree = bench.tree(command, stdout=subprocess.PIPE)
    line = tree.root.communicate(timeout=bench.settings.limit)[0]
    if tree.root.returncode != 0:
        raise RuntimeError(f"postrider bench ended with {tree.root.returncode}")
    return json.loads(line)


with Bench(settings.from_command_line(__doc__)) as bench:
    given = bench.settings
    pilot = bench_end_to_end(bench, given.mails or 10 * WARM)
    count = given.mails or min(MOST, int(pilot["per_s"] * given.seconds))
    rounds, took = [], 0.0
    while len(rounds) < given.rounds and (not rounds or bench.has_time_for(took)):
        began = time.monotonic()
        rounds.append(bench_end_to_end(bench, count))
        took = time.monotonic() - began
        print(f"  {count} mails, {rounds[-1]['per_s']:.0f}/s, {took:.1f} s in all", file=sys.stderr, flush=True)
    middle = lambda key: statistics.median(each[key] for each in rounds)
    figures = {
        "mails": count,
        "rounds": len(rounds),
        "accept_per_s": round(middle("accept_per_s")),
        "accept_p50_ms": round(middle("accept_p50_ms"), 3),
        "accept_p99_ms": round(middle("accept_p99_ms"), 3),
        "per_s": round(middle("per_s")),
        "per_s_of_rounds": [round(each["per_s"]) for each in rounds],
        "smtp_source_per_s": round(middle("smtp_source_per_s")),
        "ratio": round(middle("ratio"), 4),
        "cpu_s_per_1000": round(middle("cpu_s_per_1000"), 4),
        "peak_mb": middle("peak_mb"),
        "missing": 0,
    }
    tell("Postrider inside a program", "synced", "the mail is in the spool", figures)
