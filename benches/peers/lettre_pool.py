#!/usr/bin/env python3
"""lettre's own pool without a queue: 64 callers send, each waiting until the relay has taken its mail."""

from measuring import settings
from measuring.producer import Producer
from measuring.rounds import Bench, measure, tell

with Bench(settings.from_command_line(__doc__)) as bench:
    program = [bench.settings.helpers / "lettre_pool", f"127.0.0.1:{bench.sink.port}"]
    callers = bench.keep(Producer(program))
    figures = measure(bench, [callers.tree], callers)
    means = "the caller has waited until the relay took the mail"
    tell("lettre's own pool, no queue", "nothing", means, figures)
