"""64 callers start a thread for each mail and go on at once; the thread opens a connection, sends, and ends."""

import json
import smtplib
import sys
import threading
import time

CALLERS = 64
MESSAGE = (
    "From: bench@example.com\r\nTo: user@example.org\r\nSubject: A benchmark\r\n\r\n"
    + ("All work and no play makes a dull mail.\r\n" * 50)[:2048]
).encode()
PORT = int(sys.argv[1])


def send() -> None:
    with smtplib.SMTP("127.0.0.1", PORT, local_hostname="localhost") as relay:
        relay.sendmail("bench@example.com", ["user@example.org"], MESSAGE)


def hand_in(count: int) -> dict:
    numbers, times, senders = iter(range(count)), [], []

    def caller() -> None:
        while next(numbers, None) is not None:
            started = time.perf_counter()
            sender = threading.Thread(target=send)
            sender.start()
            times.append(time.perf_counter() - started)
            senders.append(sender)

    started = time.perf_counter()
    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    took = time.perf_counter() - started
    for each in senders:
        each.join()
    times.sort()
    at = lambda share: times[int((count - 1) * share)] * 1000
    return {"per_s": count / took, "p50_ms": at(0.5), "p99_ms": at(0.99)}


print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(hand_in(int(line))), flush=True)
