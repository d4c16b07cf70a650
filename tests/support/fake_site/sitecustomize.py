"""With this folder on PYTHONPATH, every `python -m syndd` runs the fake app of tests/support/fake_app.py."""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, _path=None, _target=None):  # type: ignore[no-untyped-def]
        return importlib.machinery.ModuleSpec(name, self) if name == "syndd.app" else None

    def exec_module(self, module: ModuleType) -> None:
        from tests.support.fake_app import FakeApp

        module.build = FakeApp  # type: ignore[attr-defined]


sys.meta_path.insert(0, _Finder())
