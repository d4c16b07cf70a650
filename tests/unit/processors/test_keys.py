"""Keys of jobs and artifacts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd.processors.base import ArtifactKind
from synd.processors.keys import cache_key, workflow_key

MD5 = "0123456789abcdef0123456789abcdef"

namespaces = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
ids = st.text(min_size=1, max_size=12).filter(
    lambda t: (
        t == t.strip() and t not in (".", "..") and t.isprintable() and not set(t) & set("/\\")
    )
)
md5s = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
versions = st.integers(0, 10**6)
kinds = st.sampled_from(ArtifactKind)
processors = st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True).filter(
    lambda t: t.lower() not in ("data", "index", ".", "..")
)


@pytest.mark.req("S1-06")
def test_workflow_key_always_joins_its_parts():
    """Namespace, id, md5 and version of the pipeline."""
    assert workflow_key("synapse", "syn123", MD5, 1) == f"synapse/syn123/{MD5}/v1"


@pytest.mark.req("S1-06")
def test_workflow_key_when_case_and_blanks_differ_is_the_same():
    """Namespace and md5 have no case; an id has."""
    assert workflow_key(" Synapse ", " syn123\n", f" {MD5.upper()} ", 1) == workflow_key(
        "synapse", "syn123", MD5, 1
    )
    assert workflow_key("synapse", "SYN123", MD5, 1) != workflow_key("synapse", "syn123", MD5, 1)


@pytest.mark.req("S1-08")
def test_cache_key_always_joins_its_parts():
    """Kind, processor and its version are added."""
    assert (
        cache_key("synapse", "syn123", ArtifactKind.INDEX, "bam_index", MD5, 2)
        == f"synapse/syn123/index/bam_index/{MD5}-v2"
    )


@pytest.mark.req("S1-08")
@pytest.mark.req("S1-05", "S1-79")
def test_cache_key_when_one_part_differs_is_another():
    """Raising one processor's version leaves the keys of all others alone."""
    parts = ("synapse", "syn1", ArtifactKind.DATA, "bam_index", MD5, 1)
    others = [
        ("synapse", "syn1", ArtifactKind.INDEX, "bam_index", MD5, 1),
        ("synapse", "syn1", ArtifactKind.DATA, "tabix_interval", MD5, 1),
        ("synapse", "syn1", ArtifactKind.DATA, "bam_index", MD5, 2),
        ("synapse", "syn1", ArtifactKind.DATA, "bam_index", MD5[::-1], 1),
        ("synapse", "syn2", ArtifactKind.DATA, "bam_index", MD5, 1),
        ("other", "syn1", ArtifactKind.DATA, "bam_index", MD5, 1),
    ]

    assert len({cache_key(*p) for p in [parts, *others]}) == 1 + len(others)


@pytest.mark.req("S1-07", "S1-78")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("namespace", ""),
        ("namespace", " \t"),
        ("namespace", "a/b"),
        ("namespace", ".."),
        ("namespace", None),
        ("id", ""),
        ("id", "  "),
        ("id", "."),
        ("id", ".."),
        ("id", "a/b"),
        ("id", "a\\b"),
        ("id", "a\0b"),
        ("id", "a\x1fb"),
        ("id", "a\x7fb"),
        ("id", "a\x85b"),
        ("id", "a\ud800b"),
        ("id", 123),
        ("md5", ""),
        ("md5", None),
        ("md5", MD5[:-1]),
        ("md5", MD5 + "0"),
        ("md5", "g" + MD5[1:]),
        ("md5", "\u0661" + MD5[1:]),
        ("pipeline_version", -1),
        ("pipeline_version", 1.0),
        ("pipeline_version", "1"),
        ("pipeline_version", True),
        ("pipeline_version", None),
    ],
)
def test_workflow_key_when_a_part_is_bad_names_the_field(field, value):
    """No key is made of a bad part; a file without an md5 has none."""
    parts = {"namespace": "synapse", "id": "syn1", "md5": MD5, "pipeline_version": 1}

    with pytest.raises(ValueError, match=rf"^{field}\b"):
        workflow_key(**{**parts, field: value})


@pytest.mark.req("S1-08")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("namespace", ""),
        ("id", "../x"),
        ("kind", "other"),
        ("kind", "DATA"),
        ("kind", None),
        ("processor_id", ""),
        ("processor_id", "a b"),
        ("processor_id", "a/b"),
        ("processor_id", ".."),
        ("processor_id", "data"),
        ("processor_id", "INDEX"),
        ("processor_id", "\u00e9"),
        ("processor_id", "bam\n"),
        ("md5", ""),
        ("processor_version", -1),
        ("processor_version", False),
    ],
)
def test_cache_key_when_a_part_is_bad_names_the_field(field, value):
    """Its parts cannot be mistaken for one another, nor leave the folder they may name."""
    parts = {
        "namespace": "synapse",
        "id": "syn1",
        "kind": ArtifactKind.DATA,
        "processor_id": "bam_index",
        "md5": MD5,
        "processor_version": 1,
    }

    with pytest.raises(ValueError, match=rf"^{field}\b"):
        cache_key(**{**parts, field: value})


@pytest.mark.req("S1-68", "S1-06")
@given(a=st.tuples(namespaces, ids, md5s, versions), b=st.tuples(namespaces, ids, md5s, versions))
def test_workflow_key_always_is_one_to_one(a, b):
    """The same parts give the same key, other parts another."""
    assert workflow_key(*a) == workflow_key(*a)
    assert (workflow_key(*a) == workflow_key(*b)) == (a == b)


@pytest.mark.req("S1-68", "S1-08")
@given(
    a=st.tuples(namespaces, ids, kinds, processors, md5s, versions),
    b=st.tuples(namespaces, ids, kinds, processors, md5s, versions),
)
def test_cache_key_always_is_one_to_one(a, b):
    """The same parts give the same key, other parts another."""
    assert cache_key(*a) == cache_key(*a)
    assert (cache_key(*a) == cache_key(*b)) == (a == b)


@pytest.mark.req("S1-68")
@given(a=st.text(max_size=12), b=st.text(max_size=40), n=st.integers(-5, 5))
def test_keys_when_given_anything_are_made_or_refused(a, b, n):
    """Whatever the text, the answer is a key of four parts or ValueError."""
    try:
        key = workflow_key(a, b, MD5, n)
    except ValueError:
        return
    assert len(key.split("/")) == 4
    assert ".." not in key.split("/")
