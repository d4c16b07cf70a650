"""The one table of errors."""

import errno
import logging

import pytest

from synd import errors

ALL = errors.table()
SYSEXITS = {64, 65, 66, 69, 70, 73, 74, 75, 76, 77, 78, 130}


@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)
class TestEveryClass:
    def test_class_always_has_codes_that_others_understand(self, cls):
        """errno is one of Linux, status is an HTTP error, exit code is one of sysexits.h."""
        assert cls.errno in errno.errorcode
        assert 400 <= cls.status < 600
        assert cls.exit_code in SYSEXITS
        assert cls.level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)

    def test_class_always_says_when_it_is_raised(self, cls):
        """The first line of the docstring is the text of docs/errors.md."""
        assert cls.__doc__ and cls.__doc__.strip()

    def test_by_name_of_its_own_name_finds_it(self, cls):
        """A name sent over the control API leads back to the class."""
        assert errors.by_name(cls.__name__) is cls


def test_by_name_when_unknown_is_the_base():
    """A newer daemon's class does not break an older CLI."""
    assert errors.by_name("FromTheFuture") is errors.SyndError


def test_table_always_starts_with_the_base_and_holds_each_once():
    """The table is whole and without doubles."""
    assert ALL[0] is errors.SyndError
    assert len(set(ALL)) == len(ALL)


def test_problem_when_everything_is_known_carries_it():
    """A problem body says what failed, to what, and what to do."""
    error = errors.NotFound("no such file", hint="look again", entity="syn1", path="/x")

    assert error.problem() == {
        "type": "NotFound",
        "title": "no such file",
        "status": 404,
        "errno": "ENOENT",
        "exit_code": 66,
        "retry": "no",
        "hint": "look again",
        "entity": "syn1",
        "path": "/x",
    }


def test_problem_when_little_is_known_leaves_the_rest_out():
    """Absent beats empty."""
    assert set(errors.Busy("held").problem()) == {
        "type", "title", "status", "errno", "exit_code", "retry",
    }  # fmt: skip


def test_str_always_is_the_message():
    """Logs and texts show the message alone."""
    assert str(errors.Stale("moved on", hint="again")) == "moved on"
