"""A Redis of our own for a queue, on its own port and in its own directory."""

from .processes import Tree, free_port
from .rounds import Bench
from .sink import wait_for_port

AS_IT_COMES = "as it comes"
SYNCED = "appendfsync always"
VARIANTS = (SYNCED, AS_IT_COMES)


def start(bench: Bench) -> tuple[Tree, int]:
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--daemonize", "no", "--dir", bench.directory("redis")]
    if bench.settings.variant == SYNCED:
        command += ["--appendonly", "yes", "--appendfsync", "always"]
    tree = bench.tree(command, stdout=bench.log("redis"))
    wait_for_port(port)
    return tree, port


def peer(queue: str, version: str, variant: str) -> str:
    """What a queue over this Redis is called."""
    short = ".".join(version.split(".")[:2])
    return f"{queue} {short}, Redis {'with ' if variant == SYNCED else ''}{variant}"


def answer(variant: str) -> tuple[str, str]:
    """What an answer means that a caller has from this Redis."""
    if variant == SYNCED:
        return "synced", "the job is in Redis' append-only file"
    return "memory", "the job is in Redis, which writes a snapshot now and then"
