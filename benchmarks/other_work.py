"""An explanation on a machine where other work begins in the middle: fixed threads against threads that follow it.

    python benchmarks/other_work.py --rounds 3

Beside `jopa explain`, a process that keeps one core busy begins after some seconds and stays to the end. Needs two
cores with nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time

from measuring import machine, table

EXPLAIN = [sys.executable, "-m", "jopa", "explain", "Why is the sky blue?", "--max-new-tokens", "20"]
BUSY = [sys.executable, "-c", "while True: pass"]
LONGEST = 600  # seconds of an explanation


def seconds(options: list[str], after: float | None) -> float:
    """How long an explanation takes, with the other work beginning after so many seconds."""
    others: list[subprocess.Popen[bytes]] = []
    timer = threading.Timer(after or 0, lambda: others.append(subprocess.Popen(BUSY)))
    if after is not None:
        timer.start()
    started = time.perf_counter()
    try:
        subprocess.run([*EXPLAIN, "--no-answer-cache", *options], check=True, capture_output=True, timeout=LONGEST)
        return time.perf_counter() - started
    finally:
        timer.cancel()
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Take turns, and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--after", type=float, default=5.0, help="seconds until the other work begins")
    options = parser.parse_args()
    n = os.cpu_count() or 1
    ways = {"automatic": [], f"--threads {n}": ["--threads", str(n)], "--threads 1": ["--threads", "1"]}
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(options.rounds):
        for name, given in ways.items():
            alone, beside = found[name]
            alone.append(seconds(given, None))
            beside.append(seconds(given, options.after))
    rows = [(name, *(f"{statistics.median(times):.1f}" for times in both)) for name, both in found.items()]
    print(machine() + "\n")
    print(table(["threads", "alone, s", f"other work from second {options.after:g} on, s"], rows))


if __name__ == "__main__":
    main()
