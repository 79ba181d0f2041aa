#!/usr/bin/env python3
"""A thread per mail with Python's smtplib: 64 callers each start a thread for a mail and go on at once."""

import sys

from measuring import settings
from measuring.producer import Producer
from measuring.rounds import Bench, measure, tell

MOST = 2_000
"""Every mail that waits is a thread, so the number of mails is the number of threads that a burst makes."""

with Bench(settings.from_command_line(__doc__)) as bench:
    program = [sys.executable, settings.HERE / "programs" / "thread_per_mail.py", bench.sink.port]
    callers = bench.keep(Producer(program))
    figures = measure(bench, [callers.tree], callers, most=MOST)
    means = "a thread has started"
    tell("a thread per mail (smtplib)", "nothing", means, figures)
