"""Which files stay local."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from syndd.watch.ignore import Ignore


def p(text):
    return tuple(text.rstrip("/").split("/"))


RULES = {
    "a name anywhere": ({"": "*.o"}, ["a.o", "d/a.o"], ["a.c", "d/o"]),
    "only at the top": ({"": "/a"}, ["a"], ["d/a"]),
    "only folders": ({"": "build/"}, ["build/", "d/build/"], ["build"]),
    "all but one": ({"": "*.o\n!keep.o"}, ["a.o"], ["keep.o", "d/keep.o"]),
    "the deeper file decides": ({"": "*.o", "d": "!*.o"}, ["a.o", "e/a.o"], ["d/a.o", "d/e/a.o"]),
    "a deeper file speaks of its folder": ({"d": "/a"}, ["d/a"], ["a", "d/e/a"]),
    "not out of an ignored folder": ({"": "d/", "d": "!a"}, ["d/", "d/a"], ["e/a"]),
    "all in a folder but one": ({"": "d/**\n!d/keep"}, ["d/a", "d/e/"], ["d/keep", "d/"]),
    "any depth": ({"": "a/**/b"}, ["a/b", "a/x/y/b"], ["b", "x/b"]),
    "comments and blanks": ({"": "# a\n\n\\#b"}, ["#b"], ["a", "# a"]),
    "a built-in one called back": ({"": "!*.part"}, [], ["a.part"]),
    "built-in": ({}, ["a.part", ".git/", "d/.git/x", ".f.swp", "f~", ".syndignore"], ["a", ".x"]),
    "a dropping never is called back": ({"": "!*~"}, ["f~"], ["f"]),
}


@pytest.mark.parametrize(("files", "local", "sent"), RULES.values(), ids=RULES)
def test_rule_always_covers(tmp_path, files, local, sent):
    """As gitignore(5) has it."""
    for folder, text in files.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / ".syndignore").write_text(text)
    ignore = Ignore(tmp_path)

    assert all(ignore.covers(p(path), folder=path.endswith("/")) for path in local)
    assert not any(ignore.covers(p(path), folder=path.endswith("/")) for path in sent)


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_rules_always_mean_what_git_means(tmp_path):
    """The same files through `git check-ignore`."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True, timeout=30)
    rules = {
        "": "*.log\n!keep.log\n/only\nbuild/\nd/*.t\n**/deep\nx/**/z\n[ab].q\n",
        "d": "!a.log\nlocal\n",
    }
    (tmp_path / "d").mkdir()
    for folder, text in rules.items():
        for name in (".gitignore", ".syndignore"):
            (tmp_path / folder / name).write_text(text)
    paths = [
        f"{folder}{name}"
        for folder in ("", "d/", "d/e/", "x/", "x/y/", "build/", "deep/")
        for name in (
            "a.log",
            "keep.log",
            "only",
            "build",
            "f.t",
            "deep",
            "z",
            "a.q",
            "c.q",
            "local",
        )
    ]
    done = subprocess.run(
        ["git", "-c", "core.excludesFile=", "check-ignore", "--no-index", "--stdin"],
        input="\n".join(paths), cwd=tmp_path, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    ignore = Ignore(tmp_path)

    assert set(done.stdout.split()) == {q for q in paths if ignore.covers(p(q), folder=False)}


def test_option_always_comes_before_the_files(tmp_path):
    """A file of the tree may call back what an option covers."""
    (tmp_path / ".syndignore").write_text("!b.tmp")
    ignore = Ignore(tmp_path, ["*.tmp"])

    assert ignore.covers(("a.tmp",), folder=False)
    assert not ignore.covers(("b.tmp",), folder=False)


def test_file_is_read_again_once_told(tmp_path):
    """And only then."""
    ignore = Ignore(tmp_path)
    assert not ignore.covers(("a",), folder=False)
    (tmp_path / ".syndignore").write_text("a")
    assert not ignore.covers(("a",), folder=False)
    ignore.forget()

    assert "ignored by .syndignore" == ignore.covers(("a",), folder=False)


def test_line_that_is_no_pattern_is_reported_and_the_others_hold(tmp_path):
    """A slip of the pen does not send everything."""
    (tmp_path / ".syndignore").write_text("!\n*.o\n")
    ignore = Ignore(tmp_path)

    assert ignore.covers(("a.o",), folder=False)
    assert {(".syndignore",): "'!' is no pattern"} == ignore.problems


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_ignore_file_that_is_no_file_is_none(tmp_path, kind):
    """Nothing is followed, nothing is waited for."""
    at = tmp_path / ".syndignore"
    (tmp_path / "rules").write_text("*")
    {
        "link": lambda: at.symlink_to(tmp_path / "rules"),
        "pipe": lambda: os.mkfifo(at),
        "folder": at.mkdir,
    }[kind]()

    assert not Ignore(tmp_path).covers(("a",), folder=False)


def test_name_not_utf8_is_matched_too(tmp_path):
    """Names and patterns are bytes."""
    (tmp_path / ".syndignore").write_bytes(b"n\xff*\n")

    assert Ignore(tmp_path).covers((os.fsdecode(b"n\xff1"),), folder=False)
