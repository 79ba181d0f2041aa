"""64 threads in two processes queue mails with `delay()`, each waiting for its answer before the next."""

import json
import multiprocessing
import sys
import threading
import time

from tasks import send_mail

THREADS, PROCESSES = 64, 2
TEXT = ("All work and no play makes a dull mail.\r\n" * 50)[:2048]


def part(pipe) -> None:
    """One process: for each count that comes, its start, its end and the time of each call."""
    with send_mail.app.producer_or_acquire() as producer:
        producer.connection.ensure_connection()
    while True:
        numbers, times = iter(range(pipe.recv())), []

        def queue() -> None:
            # next() on a range's iterator is one step under the interpreter's lock.
            while next(numbers, None) is not None:
                started = time.perf_counter()
                send_mail.delay("A benchmark", TEXT, "bench@example.com", "user@example.org")
                times.append(time.perf_counter() - started)

        started = time.monotonic()
        threads = [threading.Thread(target=queue) for _ in range(THREADS // PROCESSES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send((started, time.monotonic(), times))


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    pipes = []
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        context.Process(target=part, args=(theirs,), daemon=True).start()
        pipes.append(ours)
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        for place, pipe in enumerate(pipes):
            pipe.send(count // PROCESSES + (place < count % PROCESSES))
        parts = [pipe.recv() for pipe in pipes]
        took = max(end for _, end, _ in parts) - min(start for start, _, _ in parts)
        times = sorted(each for _, _, some in parts for each in some)
        at = lambda share: times[int((len(times) - 1) * share)] * 1000
        print(json.dumps({"per_s": count / took, "p50_ms": at(0.5), "p99_ms": at(0.99)}), flush=True)
