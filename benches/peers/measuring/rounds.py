"""One peer's measurement: warm up, find how many mails fit into a round, measure some rounds, take the medians."""

import contextlib
import functools
import json
import shutil
import statistics
import sys
import time

from .processes import Memory, Tree, adopt_orphans, reap
from .settings import PRODUCERS, Settings
from .sink import Sink

WARM = PRODUCERS * 10
YARDSTICK = 20_000
MOST = 200_000
ENDING = 12.0


class Bench(contextlib.ExitStack):
    """Holds what a peer needs and ends it in reverse order, whatever happens."""

    def __init__(self, settings: Settings):
        super().__init__()
        adopt_orphans()
        self.settings = settings
        self.begun = time.monotonic()

    @functools.cached_property
    def sink(self) -> Sink:
        return self.keep(Sink())

    def has_time_for(self, seconds: float) -> bool:
        """Whether so much more can be measured, and everything ended, within the limit."""
        return time.monotonic() - self.begun + seconds + ENDING < self.settings.limit

    def keep(self, thing):
        """Has this ended when the bench is left."""
        self.callback(thing.end)
        return thing

    def tree(self, command: list, **options) -> Tree:
        return self.keep(Tree(command, **options))

    def log(self, name: str):
        """A file for what a program has to say; it stays, so that a failure can be looked into."""
        logs = self.settings.work / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        return self.enter_context(open(logs / f"{name}.log", "wb"))

    def directory(self, name: str):
        path = self.settings.directory(name)
        self.callback(shutil.rmtree, path, ignore_errors=True)
        return path


def measure(bench: Bench, peer: list[Tree], producer, timed=None, most: int = MOST) -> dict:
    """What a peer does with what the producer hands in. Where that one tells no times, `timed` hands in as many once more,
    in a round of its own. `peer` is what CPU and memory are counted of."""
    settings = bench.settings
    yardsticks = [bench.sink.yardstick(yardstick_count(settings))]
    one_round(bench, peer, producer, min(WARM, settings.mails or WARM))
    count = settings.mails or fitting(bench, peer, producer, most)
    rounds, times = [], []
    with Memory(peer) as memory:
        took = 0.0
        while len(rounds) < settings.rounds and (not rounds or bench.has_time_for(took)):
            began = time.monotonic()
            rounds.append(one_round(bench, peer, producer, count))
            if timed:
                times.append(one_round(bench, peer, timed, count))
            took = time.monotonic() - began
    yardsticks.append(bench.sink.yardstick(yardstick_count(settings)))
    reap()
    yardstick = statistics.mean(yardsticks)
    middle = lambda key, of: statistics.median(each[key] for each in of)
    times = times or rounds
    return {
        "mails": count,
        "rounds": len(rounds),
        "accept_per_s": round(middle("accept_per_s", times)),
        "accept_p50_ms": round(middle("p50_ms", times), 3),
        "accept_p99_ms": round(middle("p99_ms", times), 3),
        "per_s": round(middle("per_s", rounds)),
        "per_s_of_rounds": [round(each["per_s"]) for each in rounds],
        "smtp_source_per_s": round(yardstick),
        "ratio": round(middle("per_s", rounds) / yardstick, 4),
        "cpu_s_per_1000": round(middle("cpu", rounds) / count * 1000, 4),
        "peak_mb": round(memory.peak, 1),
        "missing": sum(each["missing"] for each in rounds + (times if timed else [])),
    }


def yardstick_count(settings: Settings) -> int:
    return min(YARDSTICK, 10 * settings.mails) if settings.mails else YARDSTICK


def fitting(bench: Bench, peer: list[Tree], producer, most: int) -> int:
    """How many mails fit into a round. What has just started is slow (connections, caches, compilers at run time), so
    what one or two seconds take is tried first."""
    rate = one_round(bench, peer, producer, min(WARM, most))["per_s"]
    for seconds in (1, 2):
        rate = one_round(bench, peer, producer, max(PRODUCERS, min(most, int(rate * seconds))))["per_s"]
    return max(PRODUCERS, min(most, int(rate * bench.settings.seconds)))


def one_round(bench: Bench, peer: list[Tree], producer, count: int) -> dict:
    for tree in peer:
        tree.require_alive()
    before, cpu = bench.sink.count(), sum(tree.cpu() for tree in peer)
    limit = 4 * bench.settings.seconds + 10
    started = time.monotonic()
    producer.begin(count)
    arrived, after = bench.sink.wait(before + count, limit)
    told = producer.finish(limit)
    took = arrived - started
    # The last mails are still being settled: what that costs belongs to them.
    time.sleep(0.5)
    cpu = sum(tree.cpu() for tree in peer) - cpu
    missing = count - (after - before)
    print(f"  {count} mails in {took:.2f} s, {missing} missing", file=sys.stderr, flush=True)
    return {
        "per_s": (after - before) / took,
        "accept_per_s": told.get("per_s", 0),
        "p50_ms": told.get("p50_ms", 0),
        "p99_ms": told.get("p99_ms", 0),
        "cpu": cpu,
        "missing": missing,
    }


def tell(peer: str, answer: str, means: str, figures: dict) -> None:
    """The one line of JSON. `answer` is one of synced, memory, nothing: where the mail is once the caller has its answer."""
    print(json.dumps({"peer": peer, "answer": answer, "means": means, **figures}), flush=True)
