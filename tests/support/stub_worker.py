"""A worker program for tests: reads its document, and does what `steps` in it says.

Each step is a list: a word and its values. It knows nothing of synd, as another engine's program might not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time


def say(event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def main() -> int:
    document = json.load(sys.stdin)
    work = document["work_dir"]
    say("started", pid=os.getpid())
    for word, *values in document["steps"]:
        match word:
            case "say":
                say(values[0], **values[1])
            case "print":
                print(values[0], flush=True)
            case "stderr":
                sys.stderr.write(values[0])
                sys.stderr.flush()
            case "write":
                with open(os.path.join(work, values[0]), "w") as file:
                    file.write(values[1])
            case "tell":
                # Outside the work folder, so that it is there afterwards.
                with open(values[0] + ".new", "w") as file:
                    json.dump(facts(document), file)
                os.rename(values[0] + ".new", values[0])
            case "child":
                # A helper that holds our pipes, and that nobody waits for.
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            case "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case "wait":
                while not os.path.exists(values[0]):
                    time.sleep(0.01)
            case "close":
                os.close(1)
            case "memory":
                keep = bytearray(values[0])
                keep[::4096] = b"x" * len(keep[::4096])
            case "work":
                # Bytes that move, and not a word.
                end = time.monotonic() + values[0]
                with open(os.path.join(work, "bytes"), "wb") as file:
                    while time.monotonic() < end:
                        file.write(b"x" * 4096)
                        file.flush()
                        time.sleep(0.01)
            case "nap":
                time.sleep(values[0])
            case "die":
                os.kill(os.getpid(), values[0])
            case "exit":
                return int(values[0])
    say("done", format="bed")
    return 0


def facts(document: dict[str, object]) -> dict[str, object]:
    """What a test wants to know of us."""
    with open("/proc/self/oom_score_adj") as file:
        oom = int(file.read())
    return {
        "document": document,
        "pid": os.getpid(),
        "session": os.getsid(0),
        "nice": os.nice(0),
        "oom": oom,
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "argv": sys.argv,
    }


if __name__ == "__main__":
    sys.exit(main())
