"""Writes docs/errors.md, formats.md, configuration.md, cli.md and man/synd.1 from the tables in the code.

`make docs` runs it; a test fails when the files are not what it would write.
"""

from __future__ import annotations

import dataclasses
import errno
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import typer

from synd import config, errors
from synd.cli.main import program
from synd.jobs.failures import Failure
from synd.processors.base import Tools
from synd.processors.select import formats_table
from synd.processors.tools import Toolchain

ROOT = Path(__file__).parent.parent
GENERATED = "<!-- made by `make docs`; do not edit -->"


def errors_page() -> str:
    """The table of errors: when, errno, HTTP status, exit code, whether trying again can help."""
    lines = [
        "# Errors",
        "",
        GENERATED,
        "",
        "Every error has a class, and the class decides what programs see: `errno` through the mount,",
        "the HTTP status through the control API, and the exit code of `synd` (`sysexits.h`). A hint says",
        'what to do. With `--json` an error is one object on standard output: `{"schema", "error"}`.',
        "",
        "| Class | When | errno | HTTP | Exit | Trying again helps |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for cls in errors.table():
        when = " ".join((cls.__doc__ or "").split()).rstrip(".")
        if cls is errors.SyndError:
            when = "Base of all; by itself: a fault of synd"
        lines.append(
            f"| {cls.__name__} | {when} | {errno.errorcode[cls.errno]} | {cls.status} "
            f"| {cls.exit_code} | {cls.retry.value} |"
        )
    lines += [
        "",
        "Exit codes that are no errors: 0 done; 75 also when `synd down` or `synd wait` leave something",
        "unsent; 65 also when `synd cache verify` found damage, or `synd wait` meets a change that is blocked",
        "or held, which waiting does not send; 69 also when `synd doctor` found what does",
        "not work; 141 when the reader of our output went away.",
        "",
    ]
    return "\n".join(lines)


def formats_page() -> str:
    """What becomes of each format, and what each class of failure means."""
    lines = [
        "# Formats",
        "",
        GENERATED,
        "",
        "What a file is, its content decides; its name only proposes (where it claims nothing, the annotation",
        "`fileFormat`). `synd prepare`, or asking for `/v1/data/ID` or",
        "`/v1/index/ID` of the control API, makes what is missing: the least work that is correct, from the best",
        "case to the worst. `synd formats` tells by which tools on this machine.",
        "",
        "| Format | Data | Index | Least work | Processor |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.format} | {row.data} | {' '.join(row.indexes)} "
        f"| {', '.join(str(one) for one in row.least)} | {row.processor} |"
        for row in formats_table(Toolchain(Tools.BUILTIN))
    ]
    lines += [
        "",
        "An index is served only with the very bytes that it was built from.",
        "",
        "One job needs about 40 MB and 1.2 times `sort_memory` for text, 1.2 times `samtools_memory` for each of its",
        "`tool_threads` for alignments. Where control groups can be made, one that takes twice that and 256 MB is ended:",
        "`OUT_OF_MEMORY`.",
        "",
        "## Classes of failure",
        "",
        "| Class | Means | Tried again by itself | Remembered against the content |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one} | {one.meaning.text} | {one.meaning.again} "
        f"| {'yes' if one.meaning.of_content else 'no'} |"
        for one in Failure
    ]
    lines += [
        "",
        "`after-change`: once what stood in the way has changed: a login, an installation, REF_PATH, room on the disk;",
        "`synd retry ID` asks for it. What is remembered is not tried for `negative_ttl` seconds.",
        "",
    ]
    return "\n".join(lines)


def configuration_page() -> str:
    """The table of settings."""
    kinds = get_type_hints(config.Config)
    lines = [
        "# Configuration",
        "",
        GENERATED,
        "",
        "Settings are read from `config.toml` (`synd config path` says where), then from environment",
        "variables named `SYND_` and the setting in capitals, then from flags. `synd config set NAME VALUE`",
        "writes the file. Sizes are bytes (`_bytes`), times are seconds (`_s`, or as the text says).",
        "",
        "| Setting | Kind | Default | Meaning |",
        "| --- | --- | --- | --- |",
    ]
    for field in dataclasses.fields(config.Config):
        kind = "list" if field.type == "tuple[str, ...]" else kinds[field.name].__name__
        default = field.default
        shown = (
            "" if default in ("", ()) else str(default).lower() if kind == "bool" else str(default)
        )
        lines.append(
            f"| `{field.name}` | {kind} | {f'`{shown}`' if shown else ''} | {field.metadata['doc']} |"
        )
    lines += [
        "",
        "## Environment",
        "",
        "| Variable | Meaning |",
        "| --- | --- |",
        "| `SYND_HOME` | One folder for configuration, state, cache and socket |",
        "| `SYND_ENDPOINT` | Base URL of the service, without `/repo/v1` |",
        "| `SYNAPSE_AUTH_TOKEN` | Access token; beats keyring and `~/.synapseConfig` |",
        "| `XDG_CONFIG_HOME`, `XDG_STATE_HOME`, `XDG_CACHE_HOME`, `XDG_RUNTIME_DIR` | Where things lie without `SYND_HOME` |",
        "| `NO_COLOR` | No colours |",
        "",
    ]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command as the parser knows it."""

    path: str
    help: str
    usage: str
    arguments: list[tuple[str, str]]
    options: list[tuple[str, str]]


def commands() -> list[Command]:
    """All commands, in the order of `synd --help`."""
    return list(_walk(typer.main.get_command(program()), "synd"))


def _walk(command: Any, path: str) -> Iterator[Command]:
    subcommands = getattr(command, "commands", None)
    if subcommands is not None:
        for name, one in subcommands.items():
            yield from _walk(one, f"{path} {name}")
        return
    arguments, options = [], []
    shown = []
    for parameter in command.params:
        text = " ".join((getattr(parameter, "help", None) or "").split())
        metavar = parameter.metavar or parameter.name.upper()
        if parameter.param_type_name == "argument":
            arguments.append((metavar, text))
            plain = metavar.strip("[]")
            shown.append(plain if parameter.required else f"[{plain}]")
        elif parameter.name != "help":
            names = ", ".join([*parameter.opts, *parameter.secondary_opts])
            value = "" if parameter.is_flag else f" {metavar}"
            options.append((f"{names}{value}", text))
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *shown])
    yield Command(path, " ".join((command.help or "").split()), usage, arguments, options)


def cli_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        GENERATED,
        "",
        "Every command takes `--json` and then prints one object with a `schema` number. Exit codes are in",
        "[errors.md](errors.md).",
        "",
    ]
    for command in commands():
        lines += [f"## {command.path}", "", f"    {command.usage}", "", command.help, ""]
        rows = [*command.arguments, *command.options]
        if rows:
            lines += ["| | |", "| --- | --- |"]
            lines += [f"| `{name.replace('|', chr(92) + '|')}` | {text} |" for name, text in rows]
            lines.append("")
    return "\n".join(lines)


def man_page() -> str:
    """synd(1)."""
    lines = [
        '.TH SYND 1 "" "synd" "User Commands"',
        ".SH NAME",
        r"synd \- Synapse as a folder",
        ".SH SYNOPSIS",
        ".B synd",
        ".I COMMAND",
        "[OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        "synd mounts projects of Synapse (synapse.org) as a folder. A daemon streams reads from a cache that",
        "is addressed by content; this program starts, asks and stops it.",
        ".SH COMMANDS",
    ]
    for command in commands():
        lines += [".SS", _roff(command.usage), ".PP", _roff(command.help)]
        for name, text in [*command.arguments, *command.options]:
            lines += [".TP", f".B {_roff(name)}", _roff(text) or "."]
    lines += [".SH EXIT STATUS"]
    codes: dict[int, list[str]] = {}
    for cls in errors.table():
        codes.setdefault(cls.exit_code, []).append(cls.__name__)
    lines += [".TP", ".B 0", "done"]
    for code, names in sorted(codes.items()):
        lines += [".TP", f".B {code}", ", ".join(names)]
    lines += [
        ".SH ENVIRONMENT",
        ".TP",
        ".B SYND_HOME",
        "one folder for configuration, state, cache and socket",
        ".TP",
        ".B SYND_ENDPOINT",
        "base URL of the service",
        ".TP",
        ".B SYNAPSE_AUTH_TOKEN",
        "access token",
        "",
    ]
    return "\n".join(lines)


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped)


PAGES = {
    "docs/errors.md": errors_page,
    "docs/formats.md": formats_page,
    "docs/configuration.md": configuration_page,
    "docs/cli.md": cli_page,
    "docs/man/synd.1": man_page,
}


def main() -> int:
    """Writes what is not current."""
    for name, page in PAGES.items():
        path = ROOT / name
        text = page()
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
