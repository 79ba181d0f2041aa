"""What the figures were made on."""

import os
import platform
import subprocess
import time
from pathlib import Path


def facts(directory: Path) -> dict:
    kind = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True).stdout.strip()
    syncs = sync_times(directory / "probe", 1000)
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release().split("-")[0],
        "filesystem": "ext4" if kind == "ext2/ext3" else kind,
        "fdatasync_p50_ms": syncs[len(syncs) // 2],
        "fdatasync_p99_ms": syncs[len(syncs) * 99 // 100],
        "busy_before": round(busy(2.0), 2),
    }


def busy(seconds: float) -> float:
    """The share of all cores that something else takes meanwhile."""
    before = cpu_ticks()
    time.sleep(seconds)
    idle, total = (after - earlier for after, earlier in zip(cpu_ticks(), before))
    return 1 - idle / total


def cpu_ticks() -> tuple[int, int]:
    """Idle and waiting, and all (proc(5), /proc/stat)."""
    with open("/proc/stat") as file:
        ticks = [int(each) for each in file.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def sync_times(path: Path, count: int) -> list[float]:
    """How long it takes to append a mail to a file and sync it, the shortest first, in milliseconds."""
    times = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(count):
            started = time.perf_counter()
            file.write(b"x" * 2048)
            os.fdatasync(file.fileno())
            times.append(round((time.perf_counter() - started) * 1000, 3))
    path.unlink()
    return sorted(times)
