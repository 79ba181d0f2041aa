#!/usr/bin/env python3
"""BullMQ over Redis, its worker sending with nodemailer over kept connections."""

import json
import os
import shutil

from measuring import redis, settings
from measuring.producer import Producer
from measuring.rounds import Bench, measure, tell

PROGRAM = settings.HERE / "programs" / "bullmq"
PACKAGES = ("bullmq", "ioredis", "nodemailer")

with Bench(settings.from_command_line(__doc__, redis.VARIANTS)) as bench:
    node = bench.settings.work / "node"
    # Node looks for packages beside the program.
    for program in ("worker.mjs", "produce.mjs"):
        shutil.copy(PROGRAM / program, node)
    server, port = redis.start(bench)
    environment = dict(os.environ, SINK_PORT=str(bench.sink.port), REDIS_PORT=str(port))
    log = bench.log("bullmq")
    worker = bench.tree(["node", "worker.mjs"], cwd=node, env=environment, stdout=log, stderr=log)
    producer = bench.keep(Producer(["node", "produce.mjs"], cwd=node, env=environment))
    figures = measure(bench, [worker, server], producer)
    read = lambda name: json.loads((node / "node_modules" / name / "package.json").read_text())["version"]
    figures["versions"] = versions = {name: read(name) for name in PACKAGES}
    name = redis.peer("BullMQ", versions["bullmq"], bench.settings.variant)
    tell(name, *redis.answer(bench.settings.variant), figures)
