"""The nodes of `scratchfs`, and the log by which the next process has them too."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Node:
    """One content of one thing."""

    number: int
    ino: int
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: dict[bytes, int] = field(default_factory=dict)
    """Of a folder."""
    linked: bool = True
    sealed: bool = False
    heir: int = 0
    """The node that took its place when it was opened for writing."""


class Log:
    """What nodes and names became, in the order in which it happened. Survives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def replay(self, known: dict[int, Node]) -> dict[int, Any]:
        """Brings nodes to where the last process left them; the answers that it gave, by request."""
        answers: dict[int, Any] = {}
        with self._path.open("rb") as log:
            while True:
                try:
                    nodes, names, answered = pickle.load(log)
                except EOFError:
                    return answers
                for values in nodes:
                    before = known.get(values["number"])
                    node = Node(**values, names=before.names if before else {})
                    known[node.number] = node
                for parent, name, child in names:
                    if child:
                        known[parent].names[name] = child
                    else:
                        known[parent].names.pop(name, None)
                answers.update(answered)

    def save(
        self,
        *nodes: Node,
        names: Iterable[tuple[Node, bytes]] = (),
        answered: dict[int, Any] | None = None,
    ) -> None:
        """Writes down what nodes and names are now."""
        values = [{k: v for k, v in vars(node).items() if k != "names"} for node in nodes]
        led = [(folder.number, name, folder.names.get(name, 0)) for folder, name in names]
        os.write(self._fd, pickle.dumps((values, led, answered or {})))
