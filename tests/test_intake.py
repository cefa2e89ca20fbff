"""Taking a body in: what is here already is not waited for, and the bounds hold for what is not."""

import json

import pytest
import trio
from trio.testing import MockClock

from securellm.chat import Call, Endpoint, Headers
from securellm.config.tree import Server
from securellm.errors import BadRequest, DestinationField, LoopDetected, PayloadTooLarge, ProviderConflict, SlowBody
from securellm.ids import new_request_id
from securellm.intake import LARGE_BYTES, PROVIDER, check_head, check_hop, read_body, read_head, text_bytes, weigh_body
from securellm.limits.in_flight import InFlightBytes


class Body:
    """`here` has arrived; `later` are pieces, and pauses in seconds before them."""

    def __init__(self, here: list[bytes], later: list[bytes | float], length: int | None) -> None:
        self.length = length
        self._here = here
        self._later = later
        self.waited = 0

    def receive_nowait(self) -> bytes | None:
        if self._here:
            return self._here.pop(0)
        return None if self._later else b""

    async def receive(self) -> bytes:
        self.waited += 1
        await trio.lowlevel.checkpoint()
        while self._later:
            step = self._later.pop(0)
            if isinstance(step, bytes):
                return step
            await trio.sleep(step)
        return b""


def call_with(body: Body, headers: Headers | None = None) -> Call:
    return Call(Endpoint.CHAT, "/v1/chat/completions", headers or [], body, "127.0.0.1", new_request_id(), 0.0)


async def take(body: Body, **settings: int) -> bytes:
    return await read_body(call_with(body), InFlightBytes(10**9).open_charge(), Server(**settings))


async def test_a_body_that_is_here_is_not_waited_for(autojump_clock: MockClock) -> None:
    """A whole body that came with the head is taken as the one object it is."""
    data = b"x" * 300
    body = Body([data], [], 300)
    assert await take(body) is data
    assert body.waited == 0


@pytest.mark.parametrize("length", [None, 30])
async def test_pieces_that_are_here_are_not_waited_for(autojump_clock: MockClock, length: int | None) -> None:
    """A body that has arrived in several pieces is joined without a timer for any of them."""
    body = Body([b"x" * 10, b"y" * 10, b"z" * 10], [], length)
    assert await take(body) == b"x" * 10 + b"y" * 10 + b"z" * 10
    assert body.waited == 0


@pytest.mark.parametrize("length", [None, 30])
async def test_a_body_in_pieces_is_gathered(autojump_clock: MockClock, length: int | None) -> None:
    """What is here and what comes later are one body, announced or not."""
    assert await take(Body([b"x" * 10], [b"y" * 10, 1.0, b"z" * 10], length)) == b"x" * 10 + b"y" * 10 + b"z" * 10


@pytest.mark.parametrize(("here", "later"), [([b"x" * 11], []), ([b"x" * 6], [b"x" * 5]), ([], [b"x" * 11])])
async def test_a_large_body_is_refused(autojump_clock: MockClock, here: list[bytes], later: list[bytes]) -> None:
    """The bound holds for a body that announced nothing, whether it is here or not."""
    with pytest.raises(PayloadTooLarge):
        await take(Body(here, [*later], None), max_request_size_bytes=10)


async def test_no_least_rate_is_no_least_rate(autojump_clock: MockClock) -> None:
    """With `server.body_min_rate_bytes_s = 0` a body may be as slow as it likes, so long as it does not stop."""
    later: list[bytes | float] = [part for _ in range(40) for part in (10.0, b"x")]
    assert await take(Body([], later, 40), body_min_rate_bytes_s=0) == b"x" * 40
    with pytest.raises(SlowBody):
        await take(Body([], [part for _ in range(40) for part in (10.0, b"x")], 40))


def check_all(headers: Headers) -> None:
    """What admission makes of a head."""
    head = read_head(call_with(Body([], [], 0), headers))
    check_hop(head)
    check_head(head, headers)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ((b"content-encoding", b"gzip"), BadRequest),
        ((b"x-base-url", b"http://evil.invalid"), DestinationField),
        ((b"X-Portkey-Custom-Host", b"evil.invalid"), DestinationField),
        ((b"x-provider", b"two"), ProviderConflict),
        ((b"x-securellm-hop", b"1"), LoopDetected),
    ],
)
def test_what_a_head_must_not_say_is_seen(header: tuple[bytes, bytes], error: type[Exception]) -> None:
    """Among ordinary headers, wherever it stands, what is wrong is found by the one look at the names."""
    ordinary: Headers = [(b"host", b"a"), (b"x-provider", b"one"), (b"accept", b"*/*"), (b"x-own", b"b")]
    for place in range(len(ordinary) + 1):
        headers = [*ordinary[:place], header, *ordinary[place:]]
        with pytest.raises(error):
            check_all(headers)


def test_an_ordinary_head_is_in_no_doubt() -> None:
    """What every client sends needs no second look; the wish for a provider is told."""
    ordinary: Headers = [(b"host", b"a"), (b"authorization", b"Bearer k"), (b"x-own", b"b"), (b"x-stainless-os", b"c")]
    assert read_head(call_with(Body([], [], 0), ordinary)) == 0
    wished: Headers = [*ordinary, (b"x-provider", b"one"), (b"x-provider", b" one ")]
    head = read_head(call_with(Body([], [], 0), wished))
    assert head & PROVIDER
    check_head(head, wished)


async def test_images_are_no_text_to_the_limits() -> None:
    """Of a large body the images in it do not count as text; a text of that size does, and so does a small body."""

    def body(size_bytes: int, *, image: bool) -> bytes:
        data = "A" * size_bytes
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        content = [part] if image else [{"type": "text", "text": f"base64 {data}"}]
        return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()

    async def counted(given: bytes) -> int:
        return text_bytes(given, await weigh_body(Endpoint.CHAT, given))

    assert await counted(body(LARGE_BYTES, image=True)) < 1000
    for text in (body(LARGE_BYTES, image=False), body(1000, image=True)):
        assert await counted(text) == len(text)
