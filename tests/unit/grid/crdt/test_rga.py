"""Sequences against the rule in its plainest form: one list of elements, searched from the begin."""

from hypothesis import given, settings
from hypothesis import strategies as st

from synd.grid.crdt.rga import Rga

NODE = (1, 9)
SIDS = (7, 8)


class Plain:
    """[id, content or None when deleted] in order."""

    def __init__(self):
        self.elements = []

    def place(self, key):
        return next((n for n, (known, _) in enumerate(self.elements) if known == key), None)

    def insert(self, after, key, text):
        if any(self.place((key[0] + n, key[1])) is not None for n in range(len(text))):
            return
        if after == NODE:
            at = 0
        elif (found := self.place(after)) is None:
            return
        else:
            at = found + 1
        while at < len(self.elements) and self.elements[at][0] > key:
            at += 1
        self.elements[at:at] = [[(key[0] + n, key[1]), letter] for n, letter in enumerate(text)]

    def delete(self, key, span):
        for element in self.elements:
            (time, sid), _ = element
            if sid == key[1] and key[0] <= time < key[0] + span:
                element[1] = None


def unfolded(rga):
    return [
        [(chunk.time + n, chunk.sid), None if chunk.data is None else chunk.data[n]]
        for chunk in rga
        for n in range(chunk.span)
    ]


KEY = st.tuples(st.integers(2, 40), st.sampled_from(SIDS))
INSERT = st.tuples(
    st.just("insert"), KEY | st.just(NODE), KEY, st.text("abc", min_size=1, max_size=5)
)
DELETE = st.tuples(st.just("delete"), KEY, st.integers(0, 12))


def run(operations):
    rga, plain = Rga(NODE), Plain()
    for name, *what in operations:
        if name == "insert":
            after, key, text = what
            rga.insert(after, key, len(text), text)
            plain.insert(after, key, text)
        else:
            rga.delete(*what)
            plain.delete(*what)
    return rga, plain


@settings(max_examples=300, deadline=None)
@given(st.lists(INSERT | DELETE, max_size=25))
def test_sequence_after_any_operations_is_that_of_the_plain_rule(operations):
    """Order, ids and tombstones; each element is found by its id."""
    rga, plain = run(operations)

    assert unfolded(rga) == plain.elements
    assert rga.live == sum(content is not None for _, content in plain.elements)
    assert rga.last_key() == (plain.elements[-1][0] if plain.elements else NODE)
    for key, _ in plain.elements:
        found = rga.find(key)
        assert found is not None
        assert found.time <= key[0] < found.time + found.span
    assert rga.find((41 + 5, SIDS[0])) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(INSERT | DELETE, max_size=20), st.lists(INSERT | DELETE, max_size=10))
def test_sequence_when_read_back_takes_further_operations_alike(before, after):
    """The runs are the whole state."""
    rga, _ = run(before)
    again = Rga.of(NODE, [_copy(chunk) for chunk in rga])
    for other in (rga, again):
        for name, *what in after:
            if name == "insert":
                other.insert(what[0], what[1], len(what[2]), what[2])
            else:
                other.delete(*what)

    assert unfolded(again) == unfolded(rga)


def _copy(chunk):
    return type(chunk)(chunk.time, chunk.sid, chunk.span, chunk.data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_sequences_when_two_sessions_edit_at_once_become_the_same(data):
    """Each session's operations in their order, sessions interleaved at will."""
    streams = []
    for sid in SIDS:
        time, mine = 10, []
        own = [NODE, (2, 1), (3, 1), (4, 1)]
        for _ in range(data.draw(st.integers(0, 6))):
            text = data.draw(st.text("abc", min_size=1, max_size=3))
            mine.append(("insert", data.draw(st.sampled_from(own)), (time, sid), text))
            own += [(time + n, sid) for n in range(len(text))]
            time += len(text)
        streams.append(mine)
    base = [("insert", NODE, (2, 1), "xyz")]
    mixed, left = [], [list(stream) for stream in streams]
    while any(left):
        stream = data.draw(st.sampled_from([one for one in left if one]))
        mixed.append(stream.pop(0))

    one, _ = run(base + streams[0] + streams[1])
    two, _ = run(base + streams[1] + streams[0])
    three, _ = run(base + mixed)

    assert unfolded(one) == unfolded(two) == unfolded(three)
