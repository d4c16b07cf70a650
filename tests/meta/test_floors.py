"""Imports point down: the floors of docs/ARCHITECTURE.md, lowest first."""

import pytest

from tests.support.source import imports, modules

FLOORS = [
    ["synd.errors", "synd.ids", "synd.clock"],
    [
        "synd.model",
        "synd.events",
        "synd.paths",
        "synd.digest",
        "synd.ranges",
        "synd.retry",
        "synd.validation",
        # The document alone, which the local registry keeps and clients read.
        "synd.grid.crdt",
        "synd.config",
        "synd.log",
    ],
    ["synd.client", "synd.store", "synd.cache", "synd.registry"],
    ["synd.jobs"],
    ["synd.mirror", "synd.grid", "synd.runs", "synd.processors"],
    ["synd.curation"],
    ["synd.control"],
    ["synd.testing", "synd.cli"],
    [
        "syndd.instance",
        "syndd.notify",
        "syndd.mount",
        "syndd.watch",
        "syndd.schedule",
    ],
    ["syndd.control"],
    [
        "syndd.lifecycle",
        "syndd.needs",
        "syndd.intents",
        "syndd.places",
        "syndd.showing",
        "syndd.difference",
        "syndd.undo",
        "syndd.states",
        "syndd.edits",
        "syndd.artifacts",
        "syndd.curating",
        "syndd.savedrows",
        "syndd.promises",
        "syndd.belonging",
        "syndd.answers",
        "syndd.app",
        "syndd.__main__",
    ],
]
SINGLE = {0, 1, 7, 10}
"""Floors of single modules, which may use their neighbours; on the others, rooms stand side by side."""

MODULES = modules()
KNOWN = frozenset(MODULES)


def floor(module: str) -> tuple[int, str] | None:
    """Number and room of a module; None for the packages themselves, which hold nothing."""
    for number, rooms in enumerate(FLOORS):
        for room in rooms:
            if module == room or module.startswith(room + "."):
                return number, room
    return None


@pytest.mark.parametrize("module", [m for m in MODULES if m not in ("synd", "syndd")])
class TestEveryModule:
    def test_module_always_has_a_floor(self, module):
        """A new room is given its place here and in ARCHITECTURE.md."""
        assert floor(module) is not None

    def test_module_always_imports_from_below_or_its_own_room(self, module):
        """No import points up, nor into a room beside."""
        own = floor(module)
        wrong = []
        for target, line in imports(MODULES[module], KNOWN):
            there = floor(target)
            if there is None or own is None or there[1] == own[1]:
                continue
            beside = there[0] == own[0] and own[0] in SINGLE
            if there[0] >= own[0] and not beside:
                wrong.append(f"{module}:{line} imports {target}")

        assert not wrong, "\n".join(wrong)

    def test_module_always_leaves_private_names_to_their_owner(self, module):
        """A name with an underscore stays in its module."""
        import ast

        wrong = [
            f"{module}:{node.lineno} imports {alias.name} of {node.module}"
            for node in ast.walk(ast.parse(MODULES[module].read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("synd")
            for alias in node.names
            if alias.name.startswith("_") and not alias.name.startswith("__")
        ]

        assert not wrong, "\n".join(wrong)

    def test_module_always_says_what_it_is_for(self, module):
        """Its first words are a docstring (empty package files aside)."""
        import ast

        text = MODULES[module].read_text()
        if text.strip():
            assert ast.get_docstring(ast.parse(text))


def test_library_never_imports_the_daemon():
    """`synd` is importable, and useful, without `syndd`."""
    wrong = [
        f"{module}:{line}"
        for module, path in MODULES.items()
        if module.split(".")[0] == "synd"
        for target, line in imports(path, KNOWN)
        if target.split(".")[0] == "syndd"
    ]

    assert not wrong
