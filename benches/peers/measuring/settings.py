"""What one run is asked for: where it works, how long, with which binaries. Every peer's script takes the same options."""

import argparse
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent

SIZE = 2048
PRODUCERS = 64
"""As many connections, callers or threads hand in mail at once, each waiting for its answer before the next."""


@dataclass
class Settings:
    mails: int | None
    seconds: float
    rounds: int
    work: Path
    postrider: Path
    helpers: Path
    limit: float
    variant: str

    @property
    def scratch(self) -> Path:
        """Where spools and queues go: on the disk that is measured, never in memory."""
        return self.work / "run"

    def directory(self, name: str) -> Path:
        path = self.scratch / f"{name}-{os.getpid()}"
        path.mkdir(parents=True)
        return path


def add_options(parser: argparse.ArgumentParser) -> None:
    work = REPOSITORY / "target" / "peers"
    parser.add_argument("--mails", type=int, help="so many mails a round, instead of as many as fit into --seconds")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long a round is to take (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="how many rounds; the median counts (default: 3)")
    parser.add_argument("--limit", type=float, default=60.0, help="the most seconds that a peer may take (default: 60)")
    parser.add_argument("--work", type=Path, default=work, help="where everything is installed and run")
    parser.add_argument("--postrider", type=Path, default=REPOSITORY / "target" / "release" / "postrider")
    parser.add_argument("--helpers", type=Path, default=work / "cargo" / "release", help="where programs/rust was built")


def from_command_line(description: str, variants: tuple[str, ...] = ("",)) -> Settings:
    parser = argparse.ArgumentParser(description=description)
    add_options(parser)
    if len(variants) > 1:
        parser.add_argument("variant", nargs="?", choices=variants, default=variants[0])
    given = parser.parse_args()
    # Ended from outside, a script leaves by the same way as after a mistake: what it started is ended first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return Settings(
        mails=given.mails,
        seconds=given.seconds,
        rounds=given.rounds,
        work=given.work.resolve(),
        postrider=given.postrider.resolve(),
        helpers=given.helpers.resolve(),
        limit=given.limit,
        variant=getattr(given, "variant", ""),
    )
