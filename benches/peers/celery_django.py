#!/usr/bin/env python3
"""Celery over Redis, its task sending with Django's mail: a connection for each mail, as Django does it."""

import os
from importlib.metadata import distributions

from measuring import redis, settings
from measuring.producer import Producer
from measuring.rounds import Bench, measure, tell

PROGRAM = settings.HERE / "programs" / "celery"
WORKERS = 4
"""Two for each core of a small machine. With 16, two cores did no more mails and took three times the memory."""

with Bench(settings.from_command_line(__doc__, redis.VARIANTS)) as bench:
    python = bench.settings.work / "python"
    server, port = redis.start(bench)
    environment = dict(os.environ, SINK_PORT=str(bench.sink.port), REDIS_PORT=str(port), PYTHONDONTWRITEBYTECODE="1")
    options = ["-P", "prefork", "-c", WORKERS, "-l", "WARNING", "-O", "fair", "--without-gossip", "--without-mingle"]
    log = bench.log("celery")
    workers = bench.tree(
        [python / "bin" / "python", "-m", "celery", "-A", "tasks", "worker", *options],
        cwd=PROGRAM,
        env=environment,
        stdout=log,
        stderr=log,
    )
    producer = bench.keep(Producer([python / "bin" / "python", "produce.py"], cwd=PROGRAM, env=environment))
    figures = measure(bench, [workers, server], producer)
    [site] = (python / "lib").glob("python*/site-packages")
    versions = {each.name.lower(): each.version for each in distributions(path=[str(site)])}
    figures["versions"] = {name: versions[name] for name in ("celery", "kombu", "redis", "django")}
    name = redis.peer("Celery", versions["celery"], bench.settings.variant)
    tell(name, *redis.answer(bench.settings.variant), figures)
