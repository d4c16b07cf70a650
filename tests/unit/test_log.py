"""Log lines: an event, fields, no secret."""

import io
import logging

import pytest

from synd import log

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.fixture
def lines():
    """What is logged below `synd` from here on."""
    kept = {
        n: (
            logging.getLogger(n).handlers[:],
            logging.getLogger(n).level,
            logging.getLogger(n).propagate,
        )
        for n in ("synd", "syndd")
    }
    stream = io.StringIO()
    log.set_up("INFO", stream, stamp=False)
    yield stream
    for name, (handlers, level, propagate) in kept.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.mark.parametrize(
    "text",
    [
        f"token {JWT} was refused",
        "Authorization: Bearer s3cr3t",
        "authtoken = s3cr3t",
        "https://b.s3.amazonaws.com/k?X-Amz-Signature=s3cr3t&x=1",
        "https://h/p?token=s3cr3t",
        '{"Authorization": "Bearer s3cr3t"}',
    ],
)
def test_redact_when_a_secret_is_inside_takes_it_out(text):
    """Whatever way a secret comes into a text, it does not leave with it."""
    clean = log.redact(text)

    assert "s3cr3t" not in clean
    assert "eyJ" not in clean


def test_redact_when_nothing_is_secret_changes_nothing():
    """Ordinary lines stay as they are."""
    text = "upload.done entity=syn1 path=/mnt/synapse/P/token.txt took_s=0.3"

    assert log.redact(text) == text


def test_record_when_it_has_fields_shows_them_after_the_event(lines):
    """An event word, then fields."""
    logging.getLogger("synd.x").info("upload.done", extra=log.fields(entity="syn1", took_s=0.3))

    assert lines.getvalue() == "INFO synd.x upload.done entity=syn1 took_s=0.3\n"


def test_record_when_a_field_or_traceback_is_secret_hides_it(lines):
    """Fields and tracebacks are cleaned as well."""
    try:
        raise ValueError(f"bad token {JWT}")
    except ValueError:
        logging.getLogger("syndd.x").exception("it.failed", extra=log.fields(token=JWT))

    assert "eyJ" not in lines.getvalue()
    assert "Traceback" in lines.getvalue()
    assert lines.getvalue().startswith("ERROR syndd.x it.failed token=[token]\n")


def test_set_up_when_called_twice_logs_once(lines):
    """A level change does not double the lines."""
    log.set_up("INFO", lines, stamp=False)
    logging.getLogger("synd").info("once")

    assert lines.getvalue().count("once") == 1
