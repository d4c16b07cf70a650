"""Streaming md5."""

import hashlib
import os

import pytest

from synd import digest

DATA = os.urandom(digest.CHUNK * 2 + 17)
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


def test_md5_of_file_when_longer_than_a_chunk_is_of_all_bytes(file):
    """Chunk seams do not show."""
    assert digest.md5_of_file(file) == MD5
    assert digest.md5_of_bytes(DATA) == MD5


def test_md5_of_fd_when_the_offset_has_moved_starts_at_the_start(file):
    """The descriptor's offset is neither used nor moved: others may share it."""
    with open(file, "rb") as opened:
        opened.seek(100)

        assert digest.md5_of_fd(opened.fileno()) == MD5
        assert opened.tell() == 100


def test_md5_of_fd_when_told_to_stop_ends_early(file):
    """A hash of a large file can be given up."""
    asked = []
    with open(file, "rb") as opened:
        digest.md5_of_fd(opened.fileno(), stop=lambda: asked.append(1) or True)

    assert len(asked) == 1


def test_md5_of_file_when_empty_is_the_well_known_one(tmp_path):
    """No bytes have an md5 too."""
    (tmp_path / "empty").touch()

    assert digest.md5_of_file(tmp_path / "empty") == "d41d8cd98f00b204e9800998ecf8427e"
