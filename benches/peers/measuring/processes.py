"""Programs that are started for a measurement: what CPU and memory they and their children take, and how they are ended."""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """A grandchild whose parent ended becomes a child of this process, so that it can still be found and ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


def processes() -> dict[int, list[str]]:
    """The fields of every /proc/PID/stat from the state on (proc(5), field 3)."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                pass
    return found


def descendants(root: int) -> set[int]:
    """The processes below this one, without itself."""
    parents = {pid: int(fields[1]) for pid, fields in processes().items()}
    return {pid for pid in parents if pid != root and root in ancestry(pid, parents)}


def ancestry(pid: int, parents: dict[int, int]) -> set[int]:
    line = set()
    while pid in parents and pid not in line:
        line.add(pid)
        pid = parents[pid]
    return line


def end_all(pids: set[int], patience: float = 5.0) -> None:
    """Asks these processes to end, and kills those that have not after so many seconds."""
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 2.0)):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            reap()
            pids = {pid for pid in pids if alive(pid)}
            if not pids:
                return
            time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def reap() -> None:
    """Takes leave of adopted children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


class Tree:
    """One program and everything that it starts."""

    def __init__(self, command: list, **options):
        self.root = subprocess.Popen([str(word) for word in command], start_new_session=True, **options)

    def members(self) -> dict[int, list[str]]:
        everything = processes()
        parents = {pid: int(fields[1]) for pid, fields in everything.items()}
        mine = self.root.pid
        # Field 6 is the session: it still tells whose child an orphan is.
        return {
            pid: fields
            for pid, fields in everything.items()
            if mine in ancestry(pid, parents) or int(fields[3]) == mine
        }

    def cpu(self) -> float:
        """CPU seconds so far. utime, stime, and the same of children that have ended and were waited for: what a
        short-lived child took moves to its parent, so that nothing is lost and nothing counts twice."""
        return sum(sum(int(ticks) for ticks in fields[11:15]) for fields in self.members().values()) / TICKS

    def memory(self) -> float:
        """Megabytes of all processes; a page that several share counts once (Pss)."""
        total = 0
        for pid in self.members():
            try:
                lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def require_alive(self) -> None:
        if self.root.poll() is not None:
            raise RuntimeError(f"{self.root.args[0]} ended with {self.root.returncode}")

    def end(self) -> None:
        members = set(self.members()) - {os.getpid()}
        # The root first: a supervisor ends its children itself.
        if self.root.poll() is None:
            self.root.terminate()
            try:
                self.root.wait(5)
            except subprocess.TimeoutExpired:
                pass
        end_all(members | set(self.members()) - {self.root.pid}, patience=2.0)
        if self.root.poll() is None:
            self.root.kill()
            self.root.wait()


class Memory:
    """The most memory that some trees have together, looked at every second."""

    def __init__(self, trees: list[Tree]):
        self.trees, self.peak, self.over = trees, 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self) -> None:
        while True:
            self.peak = max(self.peak, sum(tree.memory() for tree in self.trees))
            if self.over.wait(1.0):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
