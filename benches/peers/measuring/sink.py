"""Postfix's smtp-sink as the next hop: it takes every mail and keeps none. Its counter tells when a mail has arrived."""

import os
import socket
import subprocess
import tempfile
import time

from .processes import Tree, free_port
from .settings import PRODUCERS, SIZE

SBIN = "/usr/sbin"
PATH = os.environ["PATH"] + os.pathsep + SBIN
STALLED = 8.0
"""When no mail has arrived for so many seconds, none is waited for any longer."""


def wait_for_port(port: int, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on port {port} after {seconds:.0f} s") from None
            time.sleep(0.02)


class Sink:
    def __init__(self):
        self.port = free_port()
        # smtp-sink rewrites one line for each mail; in memory that costs it next to nothing.
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.counter = tempfile.TemporaryFile(dir=shared)
        command = [f"{SBIN}/smtp-sink", "-c", "-m", "1024"]
        if os.getuid() == 0:
            command += ["-u", "nobody"]
        command += [f"127.0.0.1:{self.port}", "1024"]
        self.tree = Tree(command, stdout=self.counter, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(self.port)
        except RuntimeError:
            self.end()
            raise

    def count(self) -> int:
        """How many mails have arrived. The counter's line ends in a carriage return; the last whole one counts."""
        size = os.fstat(self.counter.fileno()).st_size
        start = max(0, size - 256)
        tail = os.pread(self.counter.fileno(), 256, start)
        whole = tail[: tail.rfind(b"\r") + 1]
        at = whole.rfind(b"mesg=")
        return int(whole[at + 5 :].split()[0]) if at >= 0 else 0

    def wait(self, target: int, seconds: float) -> tuple[float, int]:
        """Waits until the counter has reached the target. Returns when the last mail arrived, and the count."""
        begun = moved = time.monotonic()
        last = self.count()
        while last < target:
            time.sleep(0.004)
            count, now = self.count(), time.monotonic()
            if count != last:
                last, moved = count, now
            elif now - moved > STALLED:
                break
            if now - begun > seconds:
                break
        return moved, last

    def yardstick(self, count: int) -> float:
        """What smtp-source gets into this sink, in mails a second."""
        before, started = self.count(), time.monotonic()
        subprocess.run(source(self.port, count), check=True, timeout=30)
        arrived, after = self.wait(before + count, 10)
        return (after - before) / (arrived - started)

    def end(self) -> None:
        self.tree.end()
        self.counter.close()


def source(port: int, count: int) -> list[str]:
    """smtp-source with kept connections, so that it hands in mail as the other producers do."""
    options = ["-d", "-s", PRODUCERS, "-l", SIZE, "-m", count]
    return [f"{SBIN}/smtp-source", *map(str, options), f"127.0.0.1:{port}"]
