#!/usr/bin/env python3
"""Postrider as a service: smtp-source hands in over SMTP, `postrider run` spools and relays to smtp-sink."""

from measuring import settings
from measuring.processes import free_port
from measuring.producer import Producer, Source
from measuring.rounds import Bench, measure, tell
from measuring.sink import wait_for_port

CONFIGURATION = """\
[spool]
path = "{spool}"

[[relays]]
name = "sink"
url = "smtp://127.0.0.1:{sink}"
connections = {connections}

[http]
listen = "off"

[smtp]
listen = "127.0.0.1:{port}"
"""

with Bench(settings.from_command_line(__doc__)) as bench:
    directory, port = bench.directory("postrider"), free_port()
    configuration = directory / "postrider.toml"
    configuration.write_text(
        CONFIGURATION.format(
            spool=directory / "spool", sink=bench.sink.port, connections=settings.PRODUCERS, port=port
        )
    )
    # It logs as it comes, each mail a line.
    log = bench.log("postrider")
    service = bench.tree(
        [bench.settings.postrider, "run", "--config", configuration], cwd=directory, stdout=log, stderr=log
    )
    wait_for_port(port)
    source = bench.keep(Source(port))
    timed = bench.keep(Producer([bench.settings.helpers / "smtp_times", f"127.0.0.1:{port}"]))
    figures = measure(bench, [service], source, timed)
    tell("Postrider as a service, SMTP in", "synced", "the mail is in the spool", figures)
