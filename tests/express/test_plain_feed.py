"""`PlainFeed` against `Upstream.feed`, its definition: the same is passed on, learnt and counted, read by read."""

import itertools
import math
import os
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.audit.bodies import Bodies, BodyRecorder
from securellm.audit.content import Kept
from securellm.chat import Call, Caller, Dialect, Endpoint, Relayed
from securellm.config.tree import Audit, Provider
from securellm.holdings import Holdings
from securellm.ledger import Page
from securellm.limits.in_flight import InFlightBytes
from securellm.permit import Permit
from securellm.providers.registry import describe
from securellm.routing import Route
from securellm.upstream.origins import Origin
from securellm.upstream.stream import Upstream
from securellm.wire.body import peek
from securellm.wire.scan_anthropic import AnthropicScan
from securellm.wire.scan_openai import OpenAIScan
from securellm.wire.scan_responses import ResponsesScan

pytestmark = pytest.mark.compiled

CONFIG = Provider(kind="openai-compatible", enabled=True, base_url="http://o.test")
EXAMPLES = max(50, int(100 * float(os.environ.get("SECURELLM_TEST_SCALE", "1"))))
ENDPOINTS = {
    Dialect.OPENAI: (Endpoint.CHAT, OpenAIScan),
    Dialect.ANTHROPIC: (Endpoint.MESSAGES, AnthropicScan),
    Dialect.RESPONSES: (Endpoint.RESPONSES, ResponsesScan),
}
OPENINGS = {
    Dialect.OPENAI: b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n',
    Dialect.ANTHROPIC: b'event: message_start\ndata: {"type":"message_start","message":{"id":"m1","model":"m"}}\n\n',
    Dialect.RESPONSES: b'data: {"type":"response.created","response":{"id":"r1","model":"m"}}\n\n',
}
PLAIN = {
    Dialect.OPENAI: b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Gr\xc3\xbc\xc3\x9fe"}}]}\n\n',
    Dialect.ANTHROPIC: b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"hello"}}\n\n',
    Dialect.RESPONSES: b'data: {"type":"response.output_text.delta","sequence_number":4,"delta":"hello"}\n\n',
}
OTHERS = [
    b": ping\n\n",
    b"\n",
    b"data: x\n\n",
    b"data: [DONE]\n\n",
    b'data: {"choices":[{"delta":{"content":""}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
    b'data: {"error":{"message":"x"}}\n\n',
    b'data: {"type":"ping"}\r\n\r\n',
    b'data: {"type":"message_stop"}\n\n',
    b'data: {"type":"response.output_text.delta","delta":"abc"}\n\n',
    b'data: {"type":"response.output_text.delta","delta":""}\n\n',
    b"data: unfinished",
]


class _NoBody:
    length = 0


def _open_upstream(dialect: Dialect, most_output_bytes: float, mode: str) -> Upstream:
    endpoint, scan = ENDPOINTS[dialect]
    call = Call(endpoint, "/v1/x", [], _NoBody(), "127.0.0.1", "r", 0.0)
    holdings = Holdings(InFlightBytes(1000).open_charge())
    holdings.most_output_bytes = most_output_bytes
    bodies = Bodies(BodyRecorder(Audit(), None), mode, Kept(mode))
    body = b'{"model":"m","messages":[],"input":"x"}'
    permit = Permit(
        call, Caller(None, None), peek(endpoint, body), body, Route((), "m", ()), holdings, Page(None, "", lambda: 0),
        bodies, 100.0,
    )  # fmt: skip
    relay = scan(hide_usage=True, request_id="r", model="p/m", created_s=5)
    upstream = Upstream(
        permit, None, relay, Relayed(), status=200, headers=[], origin=Origin(describe("o", CONFIG)), idle_s=7.0,
        now_s=0.0, deadline_s=math.inf, deadline_from="x",
    )  # fmt: skip
    upstream.idle_deadline_s = -1.0
    return upstream


def _seen(upstream: Upstream, feed: Any, pieces: list[bytes]) -> list[Any]:
    """Everything that can be seen of a stream, read by read."""
    seen: list[Any] = []
    meter = upstream.meter
    for number, piece in enumerate(pieces):
        seen.append(
            (
                feed(piece, float(number)),
                *(getattr(meter, name) for name in meter.__slots__),
                upstream.permit.bytes_out,
                upstream.idle_deadline_s,
                repr(upstream._relay),
            )
        )
        if seen[-1][0] is None:
            break
    return seen


@pytest.mark.parametrize("dialect", ENDPOINTS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    data=st.data(),
    places=st.lists(st.integers(0, 1000), max_size=4),
    most=st.sampled_from([math.inf, math.inf, 0, 5, 11, 20]),
)
def test_both_feeds_do_the_same(dialect: Dialect, data: st.DataObject, places: list[int], most: float) -> None:
    """For any events, cut anywhere or between them, and any bound on the output."""
    from securellm._fast.reactor_c import PlainFeed  # without the extensions it cannot be imported

    events = data.draw(st.lists(st.just(PLAIN[dialect]) | st.sampled_from(OTHERS), max_size=6))
    pieces = [OPENINGS[dialect], *events]
    if places:
        stream = b"".join(pieces)
        edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
        pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]

    async def compare() -> None:
        plain, fed = (_open_upstream(dialect, most, "none") for _ in range(2))
        scanner = plain.plain_scanner
        assert scanner is not None
        assert _seen(plain, PlainFeed(scanner, plain), pieces) == _seen(fed, fed.feed, pieces)

    trio.run(compare)


async def test_an_answer_that_is_kept_is_fed() -> None:
    """Where the bytes of the answer are wanted, for the record or for the cache, a lane may not pass them by."""
    assert _open_upstream(Dialect.OPENAI, math.inf, "hash").plain_scanner is None
    collecting = _open_upstream(Dialect.OPENAI, math.inf, "none")
    assert collecting.plain_scanner is not None
    collecting.permit.collected = bytearray()
    assert collecting.plain_scanner is None


async def test_plain_text_needs_no_call() -> None:
    """A read that only says more text never reaches `feed`; what may be more does."""
    from securellm._fast.reactor_c import PlainFeed  # without the extensions it cannot be imported

    upstream = _open_upstream(Dialect.OPENAI, math.inf, "none")
    scanner = upstream.plain_scanner
    assert scanner is not None
    fed: list[bytes] = []

    class Counting:
        """The upstream, with a note of what it is fed."""

        meter, permit, idle_s, most_output_bytes = upstream.meter, upstream.permit, 7.0, math.inf
        idle_deadline_s = 0.0

        def feed(self, data: bytes, now_s: float) -> bytes | None:
            fed.append(data)
            return upstream.feed(data, now_s)

    feed = PlainFeed(scanner, Counting())
    plain, ping, finish = PLAIN[Dialect.OPENAI], OTHERS[0], OTHERS[5]
    for data in (OPENINGS[Dialect.OPENAI], plain, plain * 3, ping, finish, plain[:20], plain[20:], plain):
        feed(data, 1.0)
    assert fed == [OPENINGS[Dialect.OPENAI], finish, plain[:20], plain[20:]]
    assert upstream.meter.semantic_events == 7
