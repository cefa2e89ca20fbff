"""The messages between a supervisor and its worker."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.workers.link import LINE_BYTES_AT_MOST, Lines, Message, Word, encode_message

MESSAGES = st.builds(Message, st.sampled_from(Word), st.text(max_size=20), st.text(max_size=20), st.integers(0, 9))


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(0, 500)))
def test_any_cutting_gives_the_same_messages(messages: list[Message], places: list[int]) -> None:
    """However a socket cuts the bytes, the messages that come out are those that went in."""
    data = b"".join(map(encode_message, messages))
    lines, found, before = Lines(), [], 0
    for place in [*sorted(min(place, len(data)) for place in places), len(data)]:
        found += lines.feed(data[before:place])
        before = place
    assert found == messages


def test_what_is_no_message_is_refused() -> None:
    """An unknown word, and a line without an end, are errors."""
    with pytest.raises(msgspec.MsgspecError):
        Lines().feed(b'{"word":"dance"}\n')
    with pytest.raises(ValueError, match="more than"):
        Lines().feed(b"x" * (LINE_BYTES_AT_MOST + 1))
