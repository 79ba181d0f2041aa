"""Who hands in mail. A producer is a program that says `ready`, reads a count from its standard input, hands in so many
mails, answers with a line of JSON {per_s, p50_ms, p99_ms}, and reads the next count; so its own start is not measured."""

import json
import os
import select
import subprocess
import time

from .processes import Tree
from .sink import source

START = 20.0


class Producer:
    def __init__(self, command: list, **options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        self.tree = Tree(command, **pipes, **options)
        self.rest = b""
        if self.line(START) != "ready":
            self.end()
            raise RuntimeError(f"{command[0]} is not ready")

    def begin(self, count: int) -> None:
        self.tree.root.stdin.write(f"{count}\n".encode())

    def finish(self, seconds: float) -> dict:
        return json.loads(self.line(seconds))

    def line(self, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        out = self.tree.root.stdout
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise RuntimeError(f"no answer of {self.tree.root.args} within {seconds:.0f} s")
            part = os.read(out.fileno(), 65536)
            if not part:
                raise RuntimeError(f"{self.tree.root.args} ended with {self.tree.root.wait()}")
            self.rest += part
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()

    def end(self) -> None:
        self.tree.end()


class Source:
    """smtp-source as a producer: it tells no times, only how long all took."""

    def __init__(self, port: int):
        self.port, self.tree = port, None

    def begin(self, count: int) -> None:
        self.count, self.started = count, time.monotonic()
        self.tree = Tree(source(self.port, count))

    def finish(self, seconds: float) -> dict:
        if self.tree.root.wait(seconds) != 0:
            raise RuntimeError("smtp-source failed")
        return {}

    def end(self) -> None:
        if self.tree:
            self.tree.end()
