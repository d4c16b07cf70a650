"""Annotations from text, and those that the service would refuse."""

from __future__ import annotations

import pytest

from synd.errors import UsageError
from synd.mirror.annotations import annotation_from_text, check_annotation


@pytest.mark.parametrize(
    ("text", "known", "wanted"),
    [
        ("liver", None, ("STRING", ("liver",))),
        ("a\nb", None, ("STRING", ("a", "b"))),
        ("007", ("LONG", ("1",)), ("LONG", ("7",))),
        ("1e3", ("DOUBLE", ("1",)), ("DOUBLE", ("1000.0",))),
        ("TRUE", ("BOOLEAN", ("false",)), ("BOOLEAN", ("true",))),
        ("many", ("LONG", ("1",)), ("STRING", ("many",))),
    ],
)
def test_text_is_of_the_type_that_was_there_if_it_can_be(text, known, wanted):
    """A line is a value."""
    assert wanted == annotation_from_text(text, known)


@pytest.mark.parametrize("key", ["tissue", "a.b_c,d", "_x", "9"])
def test_annotation_that_the_service_takes_is_let_through(key):
    """At its limits too."""
    check_annotation(key, ("STRING", ("x" * 400, "y" * 100)))
    check_annotation(key, ("STRING", ("x",) * 100))


@pytest.mark.parametrize(
    "key", ["", "bad-key", "with blank", "größe", "a/b", "_accessRequirementIds"]
)
def test_name_that_the_service_refuses_is_refused_here(key):
    """Before anything waits to be sent."""
    with pytest.raises(UsageError, match="cannot be the name"):
        check_annotation(key, ("STRING", ("x",)))


@pytest.mark.parametrize(
    ("values", "said"), [(("x",) * 101, "101 values"), (("x" * 400, "y" * 101), "501 characters")]
)
def test_values_beyond_what_the_service_takes_are_refused_here(values, said):
    """With the number that is allowed."""
    with pytest.raises(UsageError, match=said):
        check_annotation("key", ("STRING", values))
