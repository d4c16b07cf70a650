"""Entity names and file names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd import paths
from synd.errors import UsageError
from synd.ids import EntityId

ID = EntityId(123)
anything = st.text(min_size=1, max_size=300)


@given(anything)
def test_to_file_name_always_fits_a_file_system(name):
    """No slash, no NUL, no dots that mean folders, at most 255 bytes, no name of synd's own."""
    made = paths.to_file_name(name, ID)

    assert "/" not in made
    assert "\0" not in made
    assert "@" not in made
    assert made not in (".", "..", "")
    assert len(made.encode(errors="surrogatepass")) <= paths.NAME_MAX


@given(st.text(alphabet="abcXYZ019 ,_-+()'.", min_size=1, max_size=200))
def test_to_file_name_when_the_service_allows_the_name_changes_nothing(name):
    """What users see is the entity's name."""
    if name in (".", ".."):
        return

    assert paths.to_file_name(name, ID) == name


def test_to_file_name_when_taken_is_told_apart_by_id_before_the_extension():
    """Programs still know the kind by the extension."""
    assert paths.to_file_name("a.csv", ID, taken=True) == "a %syn123.csv"
    assert paths.marked_entity("a %syn123.csv") == ID


def test_to_file_name_when_too_long_is_cut_and_marked():
    """256 letters do not fit; the id keeps the name unique, the extension stays."""
    made = paths.to_file_name("x" * 252 + ".csv", ID)

    assert len(made) <= 255
    assert made.endswith(" %syn123.csv")
    assert paths.marked_entity(made) == ID


@given(st.text(alphabet="a%@/.é", min_size=1, max_size=40))
def test_to_file_name_when_two_names_differ_so_do_the_files(name):
    """The escape is reversible, so no two names fall on one."""
    other = name + "%"

    assert paths.to_file_name(name, ID) != paths.to_file_name(other, ID)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.txt@3", ("a.txt", 3)),
        ("a@b@12", ("a@b", 12)),
        ("a.txt", None),
        ("a@0", None),
        ("a@", None),
        ("@3", None),
        ("a@x", None),
    ],
)
def test_split_version_when_asked_for_is_name_and_number(name, parts):
    """``NAME@3`` is version 3; anything else asks for none."""
    assert paths.split_version(name) == parts


@pytest.mark.parametrize("name", ["a.txt", "A (1).csv", "it's", "x" * 256, " trimmed "])
def test_check_entity_name_when_allowed_is_the_trimmed_name(name):
    """The service trims too."""
    assert paths.check_entity_name(name) == name.strip()


@pytest.mark.parametrize(
    ("name", "said"), [("a@b", "'@'"), ("a/b", "'/'"), ("x" * 257, "256"), ("  ", "empty")]
)
def test_check_entity_name_when_refused_says_what_is_wrong(name, said):
    """The message names the sign, or the length."""
    with pytest.raises(UsageError, match=said):
        paths.check_entity_name(name)


@pytest.mark.parametrize(
    "name", [".DS_Store", "a.txt~", ".a.txt.swp", ".#a", "#a#", "~$a.docx", ".~lock.a#", "4913"]
)
def test_is_dropping_when_an_editor_left_it_is_true(name):
    """Such names are never uploaded."""
    assert paths.is_dropping(name)


@pytest.mark.parametrize("name", ["a.txt", "swp", "notes.md", ".hidden.csv", "a#b", "data~1.csv"])
def test_is_dropping_when_a_user_made_it_is_false(name):
    """A user's file is never mistaken for rubbish."""
    assert not paths.is_dropping(name)
