"""Identifiers refuse nonsense where they are made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd import ids
from synd.errors import UsageError


@pytest.mark.parametrize(
    ("text", "number"), [("syn123", 123), ("SYN7", 7), ("42", 42), (" syn5 ", 5), (9, 9)]
)
def test_entity_id_when_well_spelled_is_its_number(text, number):
    """``syn123``, ``123`` and the number itself name one entity."""
    assert ids.entity_id(text) == number


@pytest.mark.parametrize("text", ["", "syn", "syn0", "0", "syn-1", "synx", "syn1.2", "1" * 13, "١"])
def test_entity_id_when_nonsense_is_refused(text):
    """Nothing but the service's own spelling is taken, nor another script's digits."""
    with pytest.raises(UsageError):
        ids.entity_id(text)


@given(st.integers(1, 10**12 - 1))
def test_syn_always_is_undone_by_entity_id(number):
    """The public spelling leads back to the number."""
    assert ids.entity_id(ids.syn(number)) == number


@pytest.mark.parametrize(
    ("text", "parts"), [("syn5.3", (5, 3)), ("syn5", (5, None)), ("5.1", (5, 1))]
)
def test_entity_version_when_well_spelled_is_its_parts(text, parts):
    """``syn5.3`` is version 3 of syn5."""
    assert ids.entity_version(text) == parts


@pytest.mark.parametrize("text", ["syn5.0", "syn5.", "syn5.x", ".3", "syn5.3.4"])
def test_entity_version_when_nonsense_is_refused(text):
    """Versions count from 1, and there is one."""
    with pytest.raises(UsageError):
        ids.entity_version(text)


@pytest.mark.parametrize("value", [0, -1, "x", "", "1.5"])
def test_version_when_not_from_one_up_is_refused(value):
    """Versions count from 1."""
    with pytest.raises(UsageError):
        ids.version(value)


def test_md5_when_spelled_large_is_lowered():
    """One content has one name."""
    assert ids.md5(" D41D8CD98F00B204E9800998ECF8427E ") == "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize("text", ["", "d41d", "g" * 32, "a" * 33, "a" * 31])
def test_md5_when_nonsense_is_refused(text):
    """32 hexadecimal digits."""
    with pytest.raises(UsageError):
        ids.md5(text)


@pytest.mark.parametrize("text", ["-1", "x", "", "1 ", "²"])
def test_file_handle_id_when_nonsense_is_refused(text):
    """Decimal digits only."""
    with pytest.raises(UsageError):
        ids.file_handle_id(text)


def test_content_key_when_md5_is_known_is_the_md5():
    """Bytes are named by content wherever possible; else by their file handle."""
    digest = ids.md5("a" * 32)

    assert ids.content_key(digest, ids.FileHandleId(7)) == "a" * 32
    assert ids.content_key(None, ids.FileHandleId(7)) == "h7"
    with pytest.raises(UsageError):
        ids.content_key(None, None)


@pytest.mark.req("S1-28")
@pytest.mark.parametrize("text", ["../etc/passwd", "h", "h-1", "", "a" * 32 + "/", "H7", "/"])
def test_check_content_key_when_it_could_leave_the_cache_is_refused(text):
    """No key names a path outside of the cache's folder."""
    with pytest.raises(UsageError):
        ids.check_content_key(text)
