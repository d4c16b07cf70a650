"""A burst of events of one folder tree → the few that matter. Pure: no file, no clock.

The burst is played on a sketch of the tree that knows only what the events name. What is left is the
difference between before and after, told as steps that can be carried out one after the other:

- created then deleted is nothing; deleted then created is modified; many changes are one
- moved is moved, however many steps it took; what was made here and moved is created at its last place
- what replaces a file (an editor's save: written aside, then renamed over it) is a change of that file
- first the steps that change the shape of the tree, each possible when its turn comes; then contents, under
  their last paths and in the order in which they were touched, since they are read from the disk only then

Events may lie a little (one was missed, one was told twice): then the answer is a guess that is right in the
end, as whoever carries it out looks at the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Path: TypeAlias = tuple[str, ...]
"""Names from the root of the tree down; () is the root itself."""


@dataclass(frozen=True, slots=True)
class Created:
    """Something new is at `path`."""

    path: Path
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Modified:
    """The content of the file at `path` may be another."""

    path: Path


@dataclass(frozen=True, slots=True)
class Deleted:
    """`path` is gone. A folder had been emptied before, unless it went `whole`: it was moved out of the tree."""

    path: Path
    folder: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """What was at `old` is at `new`, with all below it; a file that was at `new` is replaced."""

    old: Path
    new: Path
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Rearranged:
    """All these moves and deletions at once, each told by its path before any of them: what a scan sees. Input
    only.
    """

    moves: tuple[Moved, ...]
    deleted: tuple[Deleted, ...] = ()


Event: TypeAlias = Created | Modified | Deleted | Moved | Rearranged
Step: TypeAlias = Created | Modified | Deleted | Moved

Known: TypeAlias = Callable[[Path], bool | None]
"""What was there before the burst: whether a path was a folder; None when nothing was there."""


def coalesce(events: Iterable[Event], known: Known) -> list[Step]:
    """The steps that have the effect of all `events` in their order. Empty: nothing has changed.

    A folder that was deleted and created again stays what it was, as each file in it does.
    Cost: one question to `known` for each path that the events name.
    """
    sketch = _Sketch(known)
    for event in events:
        sketch.play(event)
    return list(_Plan(sketch).steps())


class _Node:
    """A file or folder. `home` is where it was before the burst; None for what the burst made."""

    __slots__ = ("alive", "children", "dirty", "folder", "home", "name", "parent", "whole")

    def __init__(self, *, folder: bool, home: tuple[_Node, str] | None = None) -> None:
        self.folder = folder
        self.home = home
        self.alive = True
        self.whole = False
        """Died with all that was in it, so what the events did not name is gone too."""
        self.dirty = 0
        """When the content was last touched: a number that grows; 0 for never."""
        self.parent: _Node | None = None
        self.name = ""
        self.children: dict[str, _Node] = {}

    @property
    def place(self) -> tuple[_Node, str] | None:
        return None if self.parent is None else (self.parent, self.name)

    def attach(self, parent: _Node, name: str) -> None:
        self.detach()
        self.parent, self.name = parent, name
        parent.children[name] = self

    def detach(self) -> None:
        if self.parent is not None:
            del self.parent.children[self.name]
            self.parent = None

    def below(self, other: _Node) -> bool:
        """Whether it is `other` or lies in it."""
        at: _Node | None = self
        while at is not None:
            if at is other:
                return True
            at = at.parent
        return False


class _Sketch:
    """The tree after the events so far, as far as they named it."""

    def __init__(self, known: Known) -> None:
        self._ask = known
        self.root = _Node(folder=True)
        self.root.home = (self.root, "")
        self.known: dict[tuple[_Node, str], _Node] = {}
        """What was where before the burst, by its home."""
        self.order: dict[_Node, int] = {}
        """When a node was last made, moved or deleted: a number that grows."""
        self._clock = 0

    def play(self, event: Event) -> None:
        self._clock += 1
        match event:
            case Created(path, folder):
                self._created(path, folder=folder)
            case Modified(path):
                self._touch(path)
            case Deleted(path, folder, whole):
                node = self._find(path)
                if node is not None and node is not self.root:
                    self._kill(node, whole=whole and node.folder)
            case Moved(old, new, folder):
                self._moved(old, new, folder=folder)
            case Rearranged(moves, deleted):
                self._rearranged(moves, deleted)

    # What the events say.

    def _created(self, path: Path, *, folder: bool) -> _Node:
        parent, name = self._parent(path)
        there = self._child(parent, name)
        if there is not None and there.folder is folder:
            # Told twice: by an event and by whoever listed the folder.
            if not folder:
                there.dirty = self._clock
            return there
        if there is not None:
            self._kill(there)
        return self._put(_Node(folder=folder), parent, name)

    def _touch(self, path: Path) -> None:
        node = self._find(path)
        if node is None or node.folder:
            node = self._created(path, folder=False)
        node.dirty = self._clock

    def _moved(self, old: Path, new: Path, *, folder: bool) -> None:
        if old == new or not old or not new:
            return
        node = self._find(old) or self._reborn(old)
        if node is None or node.folder is not folder:
            if node is not None:
                self._kill(node, whole=node.folder)
            self._created(new, folder=folder)
            return
        parent, name = self._parent(new)
        if parent.below(node):
            return
        node.detach()
        self._settle(node, parent, name)

    def _rearranged(self, moves: Sequence[Moved], deleted: Sequence[Deleted]) -> None:
        found = [(move.new, self._find(move.old) or _Node(folder=move.folder)) for move in moves]
        gone = [(self._find(event.path), event.whole) for event in deleted]
        for _, node in found:
            node.detach()
        for dead, whole in gone:
            if dead is not None and dead is not self.root:
                self._kill(dead, whole=whole and dead.folder)
        for new, node in sorted(found, key=lambda pair: len(pair[0])):
            self._settle(node, *self._parent(new))

    # What that does to the sketch.

    def _settle(self, node: _Node, parent: _Node, name: str) -> None:
        """`node`, which is nowhere just now, comes to a place and replaces what is there."""
        there = self._child(parent, name)
        if there is not None:
            self._kill(there)
        self._put(node, parent, name)

    def _put(self, node: _Node, parent: _Node, name: str) -> _Node:
        """Attaches `node` at a free place. If it is new and something known was there, it *is* that again."""
        was = self.known.get((parent, name))
        if (
            node.home is None
            and was is not None
            and not was.alive
            and not was.whole
            and was.folder is node.folder
        ):
            was.alive = True
            was.attach(parent, name)
            self.order[was] = self._clock
            was.dirty = node.dirty or self._clock
            node.alive = False
            for child_name, child in list(node.children.items()):
                child.detach()
                self._put(child, was, child_name)
            return was
        node.attach(parent, name)
        self.order[node] = self._clock
        if node.home is None and not node.folder:
            node.dirty = node.dirty or self._clock
        return node

    def _kill(self, node: _Node, *, whole: bool = False) -> None:
        node.detach()
        node.alive = False
        node.whole = whole and node.folder
        self.order[node] = self._clock
        for child in list(node.children.values()):
            self._kill(child, whole=whole)
        if node.home is None or not node.home[0].below(self.root):
            return
        heir = node.home[0].children.get(node.home[1])
        if heir is not None and heir.home is None and heir.folder is node.folder and not node.whole:
            # Moved aside, replaced by a new one, then deleted: the way some editors save.
            heir.detach()
            self._put(heir, *node.home)

    def _reborn(self, path: Path) -> _Node | None:
        """What was taken for deleted and then moves: it was there all the time."""
        parent = self._find(path[:-1])
        was = None if parent is None else self.known.get((parent, path[-1]))
        if was is None or was.alive:
            return None
        was.alive = True
        was.whole = False
        return was

    def _find(self, path: Path) -> _Node | None:
        """What is at `path` now; None when nothing is."""
        at = self.root
        for name in path:
            child = self._child(at, name)
            if child is None:
                return None
            at = child
        return at

    def _parent(self, path: Path) -> tuple[_Node, str]:
        """The folder that holds `path`; it is made when the events forgot to."""
        at = self.root
        for depth in range(1, len(path)):
            found = self._child(at, path[depth - 1])
            if found is None or not found.folder:
                found = self._created(path[:depth], folder=True)
            at = found
        return at, path[-1]

    def _child(self, parent: _Node, name: str) -> _Node | None:
        """What has this name in `parent` now; it is asked for when it is named for the first time."""
        child = parent.children.get(name)
        home = (parent, name)
        if child is not None or parent.home is None or not parent.folder or home in self.known:
            return child
        folder = self._ask((*_home_path(parent), name))
        if folder is None:
            return None
        node = _Node(folder=folder, home=home)
        node.attach(parent, name)
        self.known[home] = node
        self.order[node] = self._clock
        return node


def _home_path(node: _Node) -> Path:
    names: list[str] = []
    while node.home is not None and node.home[0] is not node:
        names.append(node.home[1])
        node = node.home[0]
    return tuple(reversed(names))


class _Plan:
    """Turns the tree as it was into the sketch, step by step.

    `_at` says where things are at this point of the plan. A step waits until its place is free, its
    target folder is there, and what it would take along has left.
    """

    def __init__(self, sketch: _Sketch) -> None:
        self._root = sketch.root
        self._order = sketch.order
        known = list(sketch.known.values())
        self._at: dict[_Node, tuple[_Node, str]] = {n: n.home for n in known if n.home is not None}
        self._holds: dict[tuple[_Node, str], _Node] = {place: n for n, place in self._at.items()}
        self._nodes = known + [n for n in self._order if n.home is None and n.alive]
        self._inside: dict[_Node, int] = {}
        for node in known:
            if node.alive:
                self._count(node, 1)
        self._aside: set[_Node] = set()

    def steps(self) -> Iterator[Step]:
        yield from self._shape()
        contents = [
            node
            for node in self._nodes
            if node.alive and node.dirty and not node.folder and node is not self._root
        ]
        for node in sorted(contents, key=lambda n: n.dirty):
            path = self._path(node)
            yield Created(path) if node.home is None else Modified(path)

    def _shape(self) -> Iterator[Step]:
        waiting = [n for n in sorted(self._nodes, key=self._order.__getitem__) if self._differs(n)]
        while waiting:
            blocked: list[_Node] = []
            for node in waiting:
                steps = self._step(node)
                if steps is None:
                    blocked.append(node)
                else:
                    yield from steps
            if len(blocked) == len(waiting):
                yield self._step_aside(blocked)
            waiting = blocked

    def _differs(self, node: _Node) -> bool:
        if node.home is None:
            return node.folder
        if node.alive:
            return node.place != node.home
        return True

    def _step(self, node: _Node) -> Sequence[Step] | None:
        """The step that brings `node` where it belongs; () when there is nothing left to do; None: not yet."""
        if not node.alive:
            return self._deletion(node)
        if node.parent is None:
            return ()
        place = (node.parent, node.name)
        there = self._holds.get(place)
        if not self._present(node.parent) or self._lies_in(node.parent, node):
            return None
        if there is not None and (there.alive or there.folder or node.folder):
            return None
        if node.home is None:
            if there is not None:
                return None
            self._set(node, place)
            return (Created(self._path(node), folder=True),)
        old = self._path(node)
        if there is not None:
            # A file takes the place of a dead one: the move replaces it.
            self._unset(there)
        self._set(node, place)
        return (Moved(old, self._path(node), node.folder),)

    def _deletion(self, node: _Node) -> Sequence[Step] | None:
        place = self._at.get(node)
        if place is None or not self._present(place[0]):
            return ()
        if not node.folder:
            heir = place[0].children.get(place[1])
            if heir is not None and not heir.folder and heir.home is not None:
                # Whatever comes here replaces it.
                return None
        if self._inside.get(node, 0):
            return None
        parent = place[0]
        if not parent.alive:
            # It goes with the folder it lies in.
            return ()
        path = self._path(node)
        self._unset(node)
        return (Deleted(path, node.folder, node.whole),)

    def _step_aside(self, blocked: Sequence[_Node]) -> Step:
        """Moves that wait for each other: one goes out of the way, under a name of its own, until its turn."""
        # Each goes aside once; then nothing is in anybody's way any more, so this comes to an end.
        able = [n for n in blocked if n in self._at and n.alive and n not in self._aside]
        wanted = {n.place for n in blocked}
        node = next((n for n in able if self._at[n] in wanted), able[0])
        parent = self._at[node][0]
        if not parent.alive or self._lies_in(parent, node) or self._moves(parent):
            parent = self._root
        old = self._path(node)
        place = (parent, f"{node.name}.synd-aside-{len(self._aside)}")
        self._aside.add(node)
        self._set(node, place)
        return Moved(old, self._path(node), node.folder)

    def _moves(self, node: _Node) -> bool:
        """Whether it, or a folder it lies in, is not where it belongs yet."""
        at = node
        while at is not self._root:
            if self._at.get(at) != at.place:
                return True
            at = self._at[at][0]
        return False

    # Where things are at this point of the plan.

    def _present(self, node: _Node) -> bool:
        return node is self._root or node in self._at

    def _lies_in(self, node: _Node, other: _Node) -> bool:
        at = node
        while at is not self._root:
            if at is other:
                return True
            if at not in self._at:
                return False
            at = self._at[at][0]
        return False

    def _path(self, node: _Node) -> Path:
        names: list[str] = []
        while node is not self._root:
            place = self._at.get(node) or node.place
            assert place is not None
            names.append(place[1])
            node = place[0]
        return tuple(reversed(names))

    def _set(self, node: _Node, place: tuple[_Node, str]) -> None:
        living = 1 + self._inside.get(node, 0)
        if node in self._at:
            self._count(node, -living)
            del self._holds[self._at[node]]
        self._at[node] = place
        self._holds[place] = node
        self._count(node, living)

    def _unset(self, node: _Node) -> None:
        del self._holds[self._at.pop(node)]

    def _count(self, node: _Node, by: int) -> None:
        """Keeps, for each folder, how many living things lie in it: they leave before it goes."""
        at = self._at[node][0]
        while at is not self._root:
            self._inside[at] = self._inside.get(at, 0) + by
            at = self._at[at][0]
