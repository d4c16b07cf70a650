"""Presigned URLs and the files behind them."""

import os
from urllib.parse import parse_qs, urlsplit

import pytest

from synd.digest import md5_of_bytes
from synd.registry.blobs import EMPTY_MD5, BadUrlError, BlobStore, BlobUrl, PartUrl, Presigner

NOW = 1_769_846_400
MD5 = "900150983cd24fb0d6963f7d28e17f72"


@pytest.fixture
def presigner():
    return Presigner("00" * 32, "http://127.0.0.1:1", 60)


def target(url):
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


class TestPresigner:
    def test_download_url_carries_what_the_official_client_reads(self, presigner):
        """`X-Amz-Date` and `X-Amz-Expires` are present and in the expected shape."""
        query = parse_qs(urlsplit(presigner.get(MD5, "a.txt", "text/plain", NOW)).query)

        assert query["X-Amz-Date"] == ["20260131T080000Z"]
        assert query["X-Amz-Expires"] == ["60"]

    def test_check_gives_back_what_was_signed(self, presigner):
        """Name and type travel in the URL, whatever signs they hold."""
        url = presigner.get(MD5, "a (b) & c.txt", "text/plain; charset=utf-8", NOW)

        assert presigner.check("GET", target(url), NOW + 59) == BlobUrl(
            MD5, 'attachment; filename="a (b) & c.txt"', "text/plain; charset=utf-8"
        )
        assert isinstance(presigner.check("HEAD", target(url), NOW), BlobUrl)

    def test_part_url_is_for_put_alone(self, presigner):
        """The method is part of what is signed."""
        url = target(presigner.put_part(7, 3, NOW))

        assert presigner.check("PUT", url, NOW) == PartUrl(7, 3)
        with pytest.raises(BadUrlError) as caught:
            presigner.check("GET", url, NOW)
        assert caught.value.status == 403

    def test_check_after_the_expiry_is_403(self, presigner):
        """A URL lives as long as it says, not a second longer."""
        url = target(presigner.get(MD5, "a", "b", NOW))

        with pytest.raises(BadUrlError, match="expired") as caught:
            presigner.check("GET", url, NOW + 60)
        assert caught.value.status == 403

    @pytest.mark.parametrize(
        "change",
        [
            lambda url: url.replace(MD5, EMPTY_MD5),
            lambda url: url.replace("Expires=60", "Expires=9999"),
            lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"),
            lambda url: url.partition("&X-Amz-Signature")[0],
        ],
        ids=["other blob", "longer life", "wrong signature", "no signature"],
    )
    def test_check_of_a_changed_url_is_403(self, presigner, change):
        """Nothing in a URL can be changed by who holds it."""
        with pytest.raises(BadUrlError) as caught:
            presigner.check("GET", change(target(presigner.get(MD5, "a", "b", NOW))), NOW)
        assert caught.value.status == 403

    def test_check_of_a_foreign_path_is_404(self, presigner):
        """What does not look like one of ours is not there."""
        with pytest.raises(BadUrlError) as caught:
            presigner.check("GET", "/elsewhere", NOW)
        assert caught.value.status == 404


class TestBlobStore:
    def test_put_names_content_by_md5_and_keeps_it_once(self, tmp_path):
        """Equal content is one file."""
        store = BlobStore(tmp_path)

        assert store.put(b"abc") == MD5 == store.put(b"abc")
        assert store.size(MD5) == 3
        assert list(store.tmp.iterdir()) == []

    def test_link_copies_no_bytes_on_one_file_system(self, tmp_path):
        """The blob shares its extents or its inode with the source."""
        store = BlobStore(tmp_path / "data")
        source = tmp_path / "source"
        source.write_bytes(b"hello")
        md5 = md5_of_bytes(b"hello")

        way = store.link(os.fspath(source), md5)

        assert way in ("hardlink", "reflink")
        assert way == "reflink" or os.stat(store.path(md5)).st_ino == source.stat().st_ino
        assert store.link(os.fspath(source), md5) == "known"
