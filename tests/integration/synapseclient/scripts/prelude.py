"""What every script starts from: a logged-in client, a project, and files to send."""

import hashlib
import logging
import os
import uuid
from pathlib import Path

import synapseclient

URL = os.environ["REGISTRY_URL"]
OLD = os.environ["PEER_VERSION"] == "4.5.0"
WORK = Path(os.environ["HOME"]) / "work"
WORK.mkdir(exist_ok=True)
logging.getLogger("synapseclient").setLevel(logging.ERROR)


def login(*, silent=True):
    syn = synapseclient.Synapse(skip_checks=True, silent=silent)
    syn.login(silent=True)
    return syn


def write(name, data):
    """A file in the work folder; its path as text."""
    path = WORK / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def md5(path):
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def unique(stem):
    return f"{stem} {uuid.uuid4().hex[:8]}"


def raises(name, call, *args, **options):
    """Checks that a call ends in the client's error of that name; the error."""
    try:
        call(*args, **options)
    except Exception as error:  # noqa: BLE001
        caught = error
    else:
        raise AssertionError(f"{call} ended well")
    assert name in [cls.__name__ for cls in type(caught).__mro__], repr(caught)
    return caught


def fails_with(status, call, *args, **options):
    """Checks that the service refuses a call with that HTTP status."""
    error = raises("SynapseHTTPError", call, *args, **options)
    assert error.response.status_code == status, (status, error)
