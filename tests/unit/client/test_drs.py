"""Names of DRS objects, and where they are asked for."""

import pytest

from synd.client.drs import is_drs, object_url
from synd.errors import NotSupported


@pytest.mark.req("S1-45")
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("drs://host.org/123", "https://host.org/ga4gh/drs/v1/objects/123"),
        ("drs://host.org:8443/123", "https://host.org:8443/ga4gh/drs/v1/objects/123"),
        ("DRS://host.org/aB", "https://host.org/ga4gh/drs/v1/objects/aB"),
        ("drs://host.org/a%2Fb", "https://host.org/ga4gh/drs/v1/objects/a%2Fb"),
        ("drs://host.org/a/b", "https://host.org/ga4gh/drs/v1/objects/a%2Fb"),
        ("drs://host.org/a b", "https://host.org/ga4gh/drs/v1/objects/a%20b"),
        ("drs://host.org/../x", "https://host.org/ga4gh/drs/v1/objects/..%2Fx"),
        ("drs://[::1]:443/x", "https://[::1]:443/ga4gh/drs/v1/objects/x"),
    ],
)
def test_name_when_it_has_a_host_then_leads_to_its_object_by_https(name: str, url: str) -> None:
    """The id is one part of the path, whatever it holds."""
    assert url == object_url(name)


@pytest.mark.parametrize(
    "name",
    [
        "drs://dg.4503:01b-23",
        "drs://dg.4503:01b-23/",
        "drs://host.org/",
        "drs://host.org",
        "drs:///id",
        "drs://user@host.org/id",
        "drs://host.org:port/id",
        "https://host.org/id",
        "",
    ],
)
def test_name_when_it_has_no_host_or_no_id_then_is_refused(name: str) -> None:
    """Compact identifiers, logins, and what is no DRS at all."""
    with pytest.raises(NotSupported):
        object_url(name)


@pytest.mark.parametrize(
    ("link", "answer"), [("drs://h/i", True), ("Drs://h/i", True), ("https://drs/", False)]
)
def test_link_when_its_scheme_is_drs_then_is_told(link: str, answer: bool) -> None:
    """Schemes have no case."""
    assert answer is is_drs(link)
