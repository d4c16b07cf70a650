"""Cache folders in a temporary place, and content with its key."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synd.cache.hashing import Hasher
from synd.cache.objects import ObjectStore
from synd.cache.partial import PartialStore
from synd.ids import ContentKey

Content = tuple[ContentKey, bytes]


@pytest.fixture
def content() -> Callable[..., Content]:
    """Makes (key, bytes) of a size; other bytes for every `seed`."""

    def make(size: int, seed: int = 0) -> Content:
        data = random.Random(f"{size}-{seed}").randbytes(size)
        return ContentKey(hashlib.md5(data).hexdigest()), data

    return make


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    store = ObjectStore(tmp_path)
    store.count()
    return store


@pytest.fixture
def partials(tmp_path: Path, objects: ObjectStore) -> PartialStore:
    return PartialStore(tmp_path, objects)


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    hasher = Hasher()
    yield hasher
    hasher.stop()
