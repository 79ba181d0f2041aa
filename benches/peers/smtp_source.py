#!/usr/bin/env python3
"""The yardstick: smtp-source straight into smtp-sink. Nothing is kept between them."""

from measuring import settings
from measuring.producer import Producer, Source
from measuring.rounds import Bench, measure, tell

with Bench(settings.from_command_line(__doc__)) as bench:
    source = bench.keep(Source(bench.sink.port))
    timed = bench.keep(Producer([bench.settings.helpers / "smtp_times", f"127.0.0.1:{bench.sink.port}"]))
    figures = measure(bench, [], source, timed)
    # Its answer is the sink's, and what it costs is not measured.
    figures.update(cpu_s_per_1000=None, peak_mb=None)
    tell("smtp-source, straight into smtp-sink", "nothing", "smtp-sink has taken the mail", figures)
