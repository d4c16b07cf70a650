"""A project that is edited while daemons die, and what must be true of it afterwards.

The editing program keeps a manifest outside the mount, and writes into it only what was acknowledged; the
one change under way is noted before it is begun, so that it may be there or not.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tests.support.world import Remote, World

CYCLES = int(os.environ.get("CRASH_CYCLES", "6"))
"""How many cycles the crash tests run; the long form is 200. (Variables of synd itself reach no test.)"""

SETTLED_S = 120

EDITS = r"""
import json, random
top, manifest_path, seed = argv[0], argv[1], int(argv[2])
numbers = random.Random(seed)
manifest = json.load(open(manifest_path))

def note():
    # Outside the mount, and only of what was acknowledged.
    with open(manifest_path + '.new', 'w') as f:
        json.dump(manifest, f)
        f.flush(); os.fsync(f.fileno())
    os.rename(manifest_path + '.new', manifest_path)

def write(name, data, mode):
    manifest['maybe'] = [name, data]; note()
    with open(os.path.join(top, name), mode) as f:
        f.write(data); f.flush(); os.fsync(f.fileno())
    manifest['files'][name] = manifest['files'].get(name, '') + data if mode == 'a' else data
    manifest['maybe'] = None; note()

for step in range(int(argv[3])):
    names = sorted(manifest['files'])
    what = numbers.random()
    text = f'{seed}-{step} ' * numbers.randrange(1, 3000)
    if what < 0.45 or not names:
        folder = numbers.choice(['', 'd1/', 'd2/'])
        os.makedirs(os.path.join(top, folder), exist_ok=True)
        write(f'{folder}f{seed}-{step}.txt', text, 'w')
    elif what < 0.65:
        write(numbers.choice(names), text, 'w')
    elif what < 0.75:
        write(numbers.choice(names), text, 'a')
    elif what < 0.88:
        old, new = numbers.choice(names), f'r{seed}-{step}.txt'
        manifest['move'] = [old, new]; note()
        os.rename(os.path.join(top, old), os.path.join(top, new))
        manifest['files'][new] = manifest['files'].pop(old)
        manifest['move'] = None; note()
    else:
        name = numbers.choice(names)
        manifest['gone'] = name; note()
        os.unlink(os.path.join(top, name))
        del manifest['files'][name]
        manifest['gone'] = None; note()
print('done')
"""


def md5_of(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def die(world: World) -> None:
    """kill -9 of holder and daemon, as far as they live; their mount goes with them."""
    world.die()


class Loop:
    """A project that is edited while daemons die."""

    def __init__(self, root: Path, server: Remote, **settings: Any) -> None:
        self.project = server.project(f"Crash {root.name} {time.time_ns()}")
        self.server = server
        self.world = World(
            root, server, projects=[self.project], upload_delay_s=0.05, delete_delay_s=0.2,
            delete_hold_count=100_000, freshness_s=2, request_concurrency=16,
            requests_per_minute=0, **settings,
        )  # fmt: skip
        self.manifest = root / "manifest.json"
        self.manifest.write_text(json.dumps({"files": {}}))

    @property
    def top(self) -> str:
        return self.world.at("@id", self.project) + "/"

    def edit(self, seed: int, steps: int) -> bool:
        """Edits, as long as it lasts; whether it came to its end."""
        done = self.world.python(
            EDITS, self.top, str(self.manifest), str(seed), str(steps), timeout_s=60
        )
        return done.out.strip() == "done"

    def die(self) -> None:
        """Daemon and holder are gone, and the mount with them."""
        die(self.world)

    def settle(self) -> None:
        done = self.world.synd("wait", "--timeout", str(SETTLED_S), timeout_s=SETTLED_S + 30)
        assert done.status == 0, f"{done.out}{done.err}\n{self.world.log()[-4000:]}"

    def check(self) -> None:
        """The service has what the manifest says; the one change under way may be there or not."""
        told = json.loads(self.manifest.read_text())
        wanted = {name: md5_of(text) for name, text in told["files"].items()}
        held = {p: h.md5 for p, h in self.server.tree(self.project).items() if h.kind == "file"}
        allowed: list[dict[str, str | None]] = [dict(wanted)]
        if told.get("maybe"):
            name, text = told["maybe"]
            before = told["files"].get(name)
            forms = [text] if before is None else [text, before + text, before, ""]
            allowed += [{**wanted, name: md5_of(form)} for form in forms]
            # Cut short in the middle of a write: any part of it, at the end of what was there.
            if name in held and name in wanted | {name: ""}:
                allowed.append({**wanted, name: held[name]})
        if told.get("move"):
            old, new = told["move"]
            if old in wanted:
                moved: dict[str, str | None] = dict(wanted)
                moved[new] = moved.pop(old)
                allowed.append(moved)
        if told.get("gone"):
            allowed.append({k: v for k, v in wanted.items() if k != told["gone"]})
        assert held in allowed, _difference(held, wanted)

    def forget_the_unsure(self) -> None:
        """Makes the manifest say what is there of the one change that was cut short."""
        told = json.loads(self.manifest.read_text())
        if not any(told.get(key) for key in ("maybe", "move", "gone")):
            return
        code = r"""
import json
top, path = argv[0], argv[1]
told = json.load(open(path))
for name in [(told.get('maybe') or [None])[0], *(told.get('move') or []), told.get('gone')]:
    if name is None:
        continue
    try:
        told['files'][name] = open(os.path.join(top, name)).read()
    except FileNotFoundError:
        told['files'].pop(name, None)
told['maybe'] = told['move'] = told['gone'] = None
json.dump(told, open(path, 'w'))
print('ok')
"""
        done = self.world.python(code, self.top, str(self.manifest))
        assert done.out.strip() == "ok", done.err

    def local_bytes_agree(self) -> None:
        """What the mount shows is what the manifest says."""
        code = r"""
import json
told = json.load(open(argv[1]))
for name, text in sorted(told['files'].items()):
    got = open(os.path.join(argv[0], name)).read()
    if got != text:
        print(name, len(got), len(text))
print('checked')
"""
        done = self.world.python(code, self.top, str(self.manifest))
        assert done.out.strip() == "checked", done.out + done.err


def _difference(held: dict[str, str | None], wanted: dict[str, str]) -> str:
    return json.dumps(
        {
            "missing": sorted(set(wanted) - set(held)),
            "too many": sorted(set(held) - set(wanted)),
            "other bytes": sorted(n for n in set(held) & set(wanted) if held[n] != wanted[n]),
        }
    )
