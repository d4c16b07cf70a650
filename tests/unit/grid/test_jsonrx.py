"""Text of frames to messages and back."""

import json

import pytest

from synd.grid import jsonrx
from synd.grid.jsonrx import (
    Complete,
    Data,
    GatewayError,
    MalformedError,
    Notification,
    Patches,
    Refused,
    Snapshot,
    Unknown,
)

PATCH = [[[66535, 1]], [2]]


@pytest.mark.req("S0-31")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[8,"connected"]', Notification("connected")),
        ('[8,"future",{"a":1},2]', Notification("future", {"a": 1})),
        ("[5,3]", Complete(3)),
        ("[5,3,null]", Complete(3)),
        ('[4,1,{"type":"snapshot","body":"https://x/y"}]', Data(1, Snapshot("https://x/y"))),
        ('[4,1,{"type":"patches","body":[]}]', Data(1, Patches([]))),
        (json.dumps([4, 1, {"type": "patches", "body": [PATCH]}]), Data(1, Patches([PATCH]))),
        (json.dumps([4, 1, {"type": "patch", "body": PATCH}]), Data(1, Patches([PATCH]))),
        (json.dumps([4, 1, PATCH]), Data(1, Patches([PATCH]))),
        ('[6,1,{"message":"no","errno":7}]', Refused(1, "no", 7)),
        ('[6,1,"plainly no"]', Refused(1, '"plainly no"', None)),
        ("[6,1]", Refused(1, "no reason given", None)),
        ('{"message":"Internal server error"}', GatewayError("Internal server error")),
        ('{"other":1}', GatewayError('{"other": 1}')),
        ("3", GatewayError("3")),
        ("[7,1]", Unknown(7)),
        ('[99,"x"]', Unknown(99)),
    ],
)
def test_parse_when_known_or_unknown_then_is_a_value(text, message):
    """Every form of the service's history has one value; what is not known yet is one as well."""
    assert jsonrx.parse(text) == message


@pytest.mark.parametrize(
    "text",
    [
        "", "oops", "[", "[]", '["8"]', "[true]", "[8]", "[8,1]", "[5]", '[5,"1"]', "[5,true]", "[5,1.0]", "[4,1]",
        "[4,1,7]", '[4,1,{"type":"delta","body":1}]', '[4,1,{"type":"patches","body":{}}]',
        '[4,1,{"type":"patches","body":[7]}]', '[4,1,{"type":"snapshot"}]', '[4,1,{"type":"patch","body":[]}]',
        "[4,1,{}]", "[8,NaN]", "[" * 100_000, '[8,"x",' + "9" * 5000 + "]",
    ],
)  # fmt: skip
def test_parse_when_malformed_then_refuses(text):
    """What the protocol does not allow is never guessed at."""
    with pytest.raises(MalformedError):
        jsonrx.parse(text)


def test_synchronize_when_written_then_is_a_list_of_pairs():
    """The clock goes out as pairs, the empty one as an empty list; never as another kind of value."""
    assert jsonrx.synchronize(1, []) == '[1,1,"synchronize-clock",[]]'
    assert jsonrx.synchronize(2, {66536: 9, 66535: 5}.items()) == (
        '[1,2,"synchronize-clock",[[66535,5],[66536,9]]]'
    )


def test_patch_when_it_holds_half_a_surrogate_pair_then_goes_out_escaped():
    """Any cell's text can be sent, whether or not it is valid in UTF-8."""
    text = jsonrx.patch(3, [[[66536, 1]], [0, "\ud83d é"]])

    assert text.isascii()
    assert json.loads(text)[3][1][1] == "\ud83d é"


@pytest.mark.parametrize("text", ["x" * 100_001, "é" * 40_000, "", "short"])
def test_frames_when_long_then_are_pieces_below_the_bound(text):
    """A long message is cut between characters into frames the gateway takes."""
    pieces = jsonrx.frames(text)

    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= jsonrx.FRAME_BYTES for piece in pieces)
