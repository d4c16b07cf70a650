"""Runs the whole set of tests: those that mount, kill or take long beside all others where there are two cores.

``python tools/run_tests.py [PYTEST ARGUMENTS…]``: with arguments it is one pytest with these. The output of each part is
shown whole, one after the other; the exit status is the first that is not 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

PARTS = ("not (fuse or crash or slow) and not live", "(fuse or crash or slow) and not live")
NOTHING_RAN = 5
"""pytest's exit status when no test was chosen."""


def main(arguments: list[str]) -> int:
    if arguments or len(os.sched_getaffinity(0)) < 2:
        return subprocess.call([sys.executable, "-m", "pytest", "-m", "not live", *arguments])
    with tempfile.TemporaryFile("w+b") as kept:
        beside = subprocess.Popen(_pytest(PARTS[1]), stdout=kept, stderr=subprocess.STDOUT)
        try:
            here = subprocess.call(_pytest(PARTS[0]))
            there = beside.wait()
        finally:
            # A signal, or Ctrl-C: pytest then ends what its tests started.
            if beside.poll() is None:
                beside.terminate()
                beside.wait()
            kept.seek(0)
            sys.stdout.flush()
            sys.stdout.buffer.write(kept.read())
            sys.stdout.flush()
    return next((status for status in (here, there) if status not in (0, NOTHING_RAN)), 0)


def _pytest(marks: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-m", marks]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
