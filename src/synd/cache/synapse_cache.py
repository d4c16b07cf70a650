"""The official client's cache (``~/.synapseCache``): take verified files from it, enter ours.

Layout, map format and lock protocol are the client's (synapseclient 4.14: core/cache.py, lock.py):
``<root>/<handle % 1000>/<handle>/.cacheMap`` is JSON, absolute path → modified time and md5, and is
rewritten under the lock folder ``.cacheMap.lock``.

Rules that keep both sides whole:
- In: an entry is a hint, no proof (the client itself has recorded new bytes under an old handle).
  Bytes become an object only if their own md5 is the one the service tells for the handle. The map
  does not say which service it belongs to; the md5 makes that harmless. No md5, no adoption.
- Out: a reflink or a copy, never a hard link: users and the client edit those files in place.
- A file that is there already is never overwritten.
- Paths below `exclude` (our own mounts) are neither looked at nor recorded.

Blocking; for workers only.
"""

from __future__ import annotations

import configparser
import json
import logging
import math
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from synd.cache.disk import clone, copy
from synd.cache.objects import How, ObjectStore
from synd.clock import Deadline
from synd.digest import md5_of_file
from synd.errors import Busy
from synd.ids import FileHandleId, Md5, content_key
from synd.log import fields

log = logging.getLogger(__name__)

MAP = ".cacheMap"
LOCK = ".cacheMap.lock"
FANOUT = 1000
POLL_S = 0.5
BREAK_AFTER_S = 10.0
"""A lock folder older than this belongs to nobody: its holder died."""

GIVE_UP_AFTER_S = 70.0
_WAITS_FOR = "the lock of the Synapse cache"

CacheMap = dict[str, object]


def location(environ: Mapping[str, str] | None = None) -> Path:
    """The folder that the official client uses: ``[cache] location``, else ~/.synapseCache."""
    env = os.environ if environ is None else environ
    home = Path(env.get("HOME") or Path.home())
    found = "~/.synapseCache"
    config = configparser.RawConfigParser()
    with suppress(configparser.Error, OSError, UnicodeDecodeError):
        config.read(home / ".synapseConfig")
        found = config.get("cache", "location", fallback=found)
    if found == "~" or found.startswith("~/"):
        found = str(home) + found[1:]
    return Path(os.path.expandvars(os.path.expanduser(found))).absolute()


class SynapseCache:
    """One such folder. It need not exist."""

    def __init__(
        self,
        root: Path,
        *,
        exclude: Sequence[Path] = (),
        hard_links: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`hard_links`: adopt files of the handle's own folder by hard link where reflinks fail.

        That saves the room of a copy, but whoever edits such a file in place edits the object
        too, and nobody notices before `verify`. So it is off unless the user asks for it.
        """
        self.root = root
        self._exclude = tuple(os.path.abspath(path) + os.sep for path in exclude)
        self._hard_links = hard_links
        self._sleep = sleep

    def folder(self, handle: FileHandleId) -> Path:
        """The folder of one remote file handle."""
        return self.root / str(handle % FANOUT) / str(handle)

    def find(self, handle: FileHandleId, md5: Md5 | None) -> Path | None:
        """A file that holds these very bytes. Cost: one whole read per candidate."""
        for path in self._candidates(handle, md5):
            with suppress(OSError):
                if md5_of_file(path) == md5:
                    return path
        return None

    def adopt(self, handle: FileHandleId, md5: Md5 | None, objects: ObjectStore) -> bool:
        """Whether the content is an object now, taken from a file here. Raises CacheFull."""
        key = content_key(md5, handle)
        own = self.folder(handle)
        for path in self._candidates(handle, md5):
            linked = self._hard_links and path.parent == own
            if objects.adopt_file(key, path, How.HARDLINK if linked else How.REFLINK):
                log.info("cache.adopted", extra=fields(key=key, handle=handle))
                return True
        return False

    def _candidates(self, handle: FileHandleId, md5: Md5 | None) -> Iterator[Path]:
        """Files whose entry still describes them, as far as times tell, newest entry first."""
        if md5 is None:
            return
        entries = self._read(self.folder(handle))
        for path in sorted(entries, key=lambda one: _entry(entries[one])[0], reverse=True):
            modified, recorded = _entry(entries[path])
            if recorded not in (None, md5) or not os.path.isabs(path) or self._excluded(path):
                continue
            try:
                found = os.stat(path)
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(found.st_mode) and same_time(found.st_mtime, modified):
                yield Path(path)

    def _read(self, folder: Path) -> CacheMap:
        # The client writes the map in place. A torn one does not parse, and then the lock tells
        # when it is whole; one that parses needs no lock, as its entries prove nothing anyway.
        try:
            entries = _parse((folder / MAP).read_bytes())
            if entries is None:
                with self.locked(folder, Deadline.after(2 * POLL_S, _WAITS_FOR)):
                    entries = _parse((folder / MAP).read_bytes())
        except (OSError, Busy):
            return {}
        return entries or {}

    def _excluded(self, path: str) -> bool:
        # Both spellings: a link may lead into the mount.
        return (os.path.abspath(path) + os.sep).startswith(self._exclude) or (
            os.path.realpath(path) + os.sep
        ).startswith(self._exclude)

    def enter(
        self,
        handle: FileHandleId,
        file_name: str,
        object_path: Path,
        md5: Md5,
        deadline: Deadline | None = None,
        *,
        only_shared: bool = False,
    ) -> Path | None:
        """Puts a copy of an object into the handle's folder and into its map. Returns the copy.

        None when it cannot be done now: the lock is taken, the name is unusable or holds another
        file, the folder is not writable or full. Nothing is left half done then.
        Cost: a copy on disk, unless extents can be shared; with `only_shared` there is no copy.
        """
        deadline = deadline or Deadline.after(GIVE_UP_AFTER_S, _WAITS_FOR)
        folder = self.folder(handle)
        target = folder / file_name
        if not _usable(file_name) or self._excluded(str(target)):
            return None
        aside = folder / f".synd-{os.getpid()}-{time.monotonic_ns()}"
        try:
            if target.exists():
                # Right bytes may still lack their entry, e.g. after a kill between the two.
                if md5_of_file(target) != md5:
                    return None
            else:
                folder.mkdir(parents=True, exist_ok=True)
                if not _copy(object_path, aside, only_shared=only_shared):
                    return None
            with self.locked(folder, deadline):
                if aside.exists():
                    os.link(aside, target)  # Unlike rename it never replaces a file.
                entries = _parse_file(folder / MAP)
                entries[_map_key(target)] = {
                    "modified_time": floor_time(os.stat(target).st_mtime),
                    "content_md5": md5,
                }
                _write(folder, entries)
        except (OSError, Busy) as error:
            log.info("cache.not-entered", extra=fields(handle=handle, error=error))
            return None
        finally:
            with suppress(OSError):
                aside.unlink()
        return target

    @contextmanager
    def locked(self, folder: Path, deadline: Deadline) -> Iterator[None]:
        """Holds the client's lock on a handle's folder. Raises Busy when the deadline passes.

        There is no owner and no heartbeat in this protocol: hold it for much less than 10 s.
        """
        lock = folder / LOCK
        while not _acquire(lock):
            if deadline.passed:
                raise Busy(f"{lock} is held by another program")
            self._sleep(min(POLL_S, deadline.left_s()))
        try:
            yield
        finally:
            shutil.rmtree(lock, ignore_errors=True)


def _acquire(lock: Path) -> bool:
    try:
        lock.mkdir(parents=True)
    except FileExistsError:
        try:
            age_s = time.time() - lock.stat().st_mtime
        except FileNotFoundError:
            return False
        if age_s <= BREAK_AFTER_S:
            return False
        # As the client does: whoever finds the lock too old owns it from now on.
        log.warning("cache.lock-broken", extra=fields(path=lock, age_s=round(age_s)))
    with suppress(FileNotFoundError):
        os.utime(lock)
        return True
    return False


def _usable(name: str) -> bool:
    """Whether a file handle's name can be a file's name here, and is none of the client's own."""
    reserved = name.startswith(MAP) or "synapse_download_" in name or name in ("", ".", "..")
    return not reserved and not set(name) & set("/\\\0") and len(os.fsencode(name)) < 256


def _copy(source: Path, aside: Path, *, only_shared: bool) -> bool:
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # An ordinary file of the user's, unlike the read-only object.
        write = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if not clone(read, write):
                if only_shared:
                    return False
                copy(read, write)
            # Whole seconds, which is all that the map can say.
            now = int(time.time())
            os.utime(write, (now, now))
            os.fsync(write)
        finally:
            os.close(write)
    finally:
        os.close(read)
    return True


def _map_key(path: Path) -> str:
    return os.path.abspath(path).replace("\\", "/")


def _parse(data: bytes) -> CacheMap | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _parse_file(path: Path) -> CacheMap:
    try:
        return _parse(path.read_bytes()) or {}
    except FileNotFoundError:
        return {}


def _write(folder: Path, entries: CacheMap) -> None:
    aside = folder / f"{MAP}.synd-{os.getpid()}"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(entries, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, folder / MAP)


def _entry(value: object) -> tuple[str, str | None]:
    """(modified time, md5) of an entry in either of its forms; ("", None) matches no file."""
    if isinstance(value, str):
        return value, None
    if isinstance(value, dict):
        modified, md5 = value.get("modified_time"), value.get("content_md5")
        if isinstance(modified, str) and (md5 is None or isinstance(md5, str)):
            return modified, md5
    return "", None


def same_time(mtime: float, recorded: str) -> bool:
    """Whether a map's time is that of a file; one that ends in .000Z knows only whole seconds."""
    return recorded == (floor_time(mtime) if recorded.endswith(".000Z") else _milli_time(mtime))


def floor_time(mtime: float) -> str:
    """The time that goes into a map. Source: the client's `add`, floats included."""
    return _milli_time(math.floor(mtime))


def _milli_time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    if moment.microsecond >= 999_500:
        moment = moment.replace(microsecond=0) + timedelta(seconds=1)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{round(moment.microsecond / 1000):03d}Z"
