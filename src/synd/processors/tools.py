"""Which program or package does each step here: found once, with versions; what is missing is named.

Nothing is imported or started before a step is asked for. pysam is imported by `Tool.module` alone, and
that is called in workers only: it holds the interpreter for as long as it runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Final

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import sorting
from synd.processors.base import Tools

_VERSION = re.compile(r"\d+(?:\.\d+)+[\w.+-]*")
_VERSION_S: Final = 10.0


class Step(StrEnum):
    """What has to be done. The values are for people."""

    DECODE = "unpack gzip"
    SORT = "sort text"
    COMPRESS = "block compression"
    TEXT_INDEX = "index of text"
    ALIGNMENTS = "sort and index BAM, CRAM, SAM"
    VARIANTS = "sort and index BCF"
    SEQUENCES = "index of FASTA"
    BIGBED = "read bigBed"
    GFF3 = "GTF to GFF3"


@dataclass(frozen=True, slots=True)
class Choice:
    """Who can do a step."""

    program: str = ""
    """On PATH; empty: no program is used for it."""
    packaged: str = ""
    """The package of an operating system that has the program; empty: none is known."""
    module: str = ""
    """The Python package that can do it as well."""
    own: str = ""
    """Our own code, which is always here."""
    gain: str = ""
    """What the first choice has over the others."""


CHOICES: Final[Mapping[Step, Choice]] = MappingProxyType(
    {
        Step.DECODE: Choice(module="isal", own="zlib", gain="3 to 4 times faster"),
        Step.SORT: Choice("sort", "coreutils", own="synd", gain="2 to 3.5 times faster"),
        Step.COMPRESS: Choice("bgzip", "tabix", module="isal", own="zlib", gain="smaller files"),
        Step.TEXT_INDEX: Choice("tabix", "tabix", "pysam", gain="starts sooner"),
        Step.ALIGNMENTS: Choice("samtools", "samtools", "pysam", gain="1.5 times faster"),
        Step.VARIANTS: Choice("bcftools", "bcftools", "pysam", gain="1.5 times faster"),
        Step.SEQUENCES: Choice("samtools", "samtools", "pysam", gain="starts sooner"),
        Step.BIGBED: Choice("bigBedToBed", "", "pyBigWig"),
        Step.GFF3: Choice("gffread", "gffread"),
    }
)
EXTRA: Final = "synd[genomics]"
"""What brings all the Python packages."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Who does a step here."""

    step: Step
    name: str
    path: str = ""
    """Of the program; empty: it is a package, or our own code."""
    package: str = ""
    """Name of the module to import."""
    find_version: Callable[[], str] = field(default=str, compare=False, repr=False)
    """Asked once; `Toolchain` sees to that."""

    @property
    def native(self) -> bool:
        return bool(self.path)

    @property
    def version(self) -> str:
        return self.find_version()

    def module(self) -> ModuleType:
        """The package, imported."""
        return importlib.import_module(self.package)

    def __str__(self) -> str:
        """Name and version: a part of an artifact's toolchain."""
        return f"{self.name} {self.version}".strip()


class Toolchain:
    """The choice for each step, made when it is first asked for."""

    def __init__(
        self,
        tools: Tools = Tools.AUTO,
        *,
        which: Callable[[str], str | None] = shutil.which,
        has_module: Callable[[str], bool] | None = None,
        sort_usable: Callable[[], bool] = sorting.gnu_sort_usable,
    ) -> None:
        self.tools = tools
        self._which = which
        self._has_module = has_module or _installed
        self._sort_usable = sort_usable
        self._found: dict[Step, Tool] = {}

    def get(self, step: Step) -> Tool:
        """Who does that step. Raises StageFailed(TOOL_MISSING) that names what to install."""
        if (tool := self._found.get(step)) is None:
            found = self._choose(step)
            tool = self._found[step] = replace(found, find_version=cache(found.find_version))
        return tool

    def find(self, step: Step) -> Tool | None:
        """The same; None when nobody can."""
        try:
            return self.get(step)
        except StageFailed:
            return None

    def missing(self, step: Step) -> str:
        """What is missing for that step, for people; empty: nothing."""
        try:
            self.get(step)
        except StageFailed as error:
            return error.message
        return ""

    def _choose(self, step: Step) -> Tool:
        choice = CHOICES[step]
        if self.tools is not Tools.BUILTIN and choice.program:
            path = self._which(choice.program)
            if path and (step is not Step.SORT or self._sort_usable()):
                return Tool(step, choice.program, path, find_version=lambda: program_version(path))
        if self.tools is not Tools.NATIVE or not choice.program:
            if choice.module and self._has_module(choice.module):
                name = choice.module
                return Tool(step, name, package=name, find_version=lambda: package_version(name))
            if choice.own:
                return Tool(step, choice.own, find_version=_own_version(choice.own))
        raise self._lacking(step, choice)

    def _lacking(self, step: Step, choice: Choice) -> StageFailed:
        ways = []
        named = []
        if choice.program and self.tools is not Tools.BUILTIN:
            named.append(choice.program)
            if choice.packaged:
                ways.append(f"the package {choice.packaged}")
        if choice.module and self.tools is not Tools.NATIVE:
            named.append(choice.module)
            ways.append(f"pip install '{EXTRA}'")
        if not named:
            only = choice.program or choice.module
            return StageFailed(
                f"to {_spoken(step)} there is only {only}, which SYND_TOOLS={self.tools} rules out",
                failure=Failure.TOOL_MISSING,
                hint="set SYND_TOOLS=auto",
            )
        have = " or ".join(ways)
        text = f"{' or '.join(named)} is missing, which is needed to {_spoken(step)}"
        hint = f"install {have}" if have else f"put {named[0]} on PATH"
        return StageFailed(f"{text} ({hint})", failure=Failure.TOOL_MISSING, hint=hint)

    def describe(self) -> list[dict[str, str]]:
        """For each step: who does it, its version, what is missing or would gain. Cost: some processes."""
        rows = []
        for step in Step:
            tool = self.find(step)
            choice = CHOICES[step]
            first = choice.program or choice.module
            rows.append(
                {
                    "step": str(step),
                    "tool": tool.name if tool else "",
                    "version": tool.version if tool else "",
                    "path": tool.path if tool else "",
                    "missing": self.missing(step),
                    "better": f"{first}: {choice.gain}"
                    if tool and tool.name != first and choice.gain
                    else "",
                }
            )
        return rows


def program_version(path: str) -> str:
    """What the program says its version is; empty when it does not."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_S,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = (done.stdout or done.stderr).decode("utf-8", "replace").partition("\n")[0]
    found = _VERSION.search(first)
    return found[0] if found else ""


def package_version(name: str) -> str:
    """The version of an installed package; empty when it does not tell."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _own_version(name: str) -> Callable[[], str]:
    def found() -> str:
        if name == "zlib":
            import zlib

            return zlib.ZLIB_RUNTIME_VERSION
        return package_version(name)

    return found


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


_SPOKEN: Final[Mapping[Step, str]] = MappingProxyType(
    {
        Step.COMPRESS: "compress in blocks",
        Step.TEXT_INDEX: "index text",
        Step.SEQUENCES: "index FASTA",
        Step.GFF3: "make GFF3 of GTF",
    }
)


def _spoken(step: Step) -> str:
    return _SPOKEN.get(step, str(step))
