"""Streams are relayed as they come: nothing is held back, and nobody is waited for without bound (37, 60)."""

import pytest
import trio

from rig import doors, script
from rig.pairs import FAMILIES, PAIRS, Pair
from rig.raw_client import open_client
from securellm.chat import Status

_PIECES = tuple(f"piece {number} " for number in range(8))
_RELAY_BYTES = 8 * 1024 * 1024  # what the kernel's buffers of two connections may hold, and the relay's own 256 KiB


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_each_piece_arrives_before_the_next_is_sent(gateway, provider, pair: Pair, gzip: bool):
    """The provider sends a piece only after the caller has read the one before: nothing is held back."""
    assert pair.speech.events is not None
    events = pair.speech.events(_PIECES)
    read = [trio.Event() for _ in _PIECES]
    steps: list[script.Step] = []
    for step, event in zip(script.stream(events, pair.speech.kind, gzip=gzip)[1:], [*events, b""], strict=False):
        steps.append(step)
        steps += [
            script.until(read[number])
            for number, piece in enumerate(_PIECES)
            if piece.encode() in event and _is_delta(pair, event)
        ]
    head = script.stream([], pair.speech.kind, gzip=gzip)[0]
    provider.enqueue(head, *steps, *([script.end_chunks()] if gzip else []))
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            await client.request("POST", pair.door.path, pair.door.body(pair.model, stream=True), pair.door.auth())
            assert (await client.read_head()).status == 200
            for number, piece in enumerate(_PIECES):
                await client.read_until(piece.encode())
                read[number].set()
            await client.read_body()
        assert (await gateway.only_settlement()).outcome.status is Status.SUCCESS


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_a_caller_who_stops_reading(serving, provider, pair: Pair):
    """The relay stops taking from the provider, then gives up: upstream closed, settled once, never as a success."""
    assert pair.speech.events is not None
    piece = next(event for event in pair.speech.events(("x" * 60_000,)) if b"xxx" in event)
    written = [0]
    opening = pair.speech.events(("Hello",))
    first = next(number for number, event in enumerate(opening) if b"Hello" in event)
    provider.enqueue(
        *script.stream(opening[: first + 1], pair.speech.kind, ended=False), script.flood(piece, written=written)
    )
    with trio.fail_after(30):
        gateway = await serving({pair.provider: provider}, server={"write_stall_timeout_s": 1.0})
        async with open_client(gateway.base_url, receive_buffer_bytes=4096) as client:
            await client.request("POST", pair.door.path, pair.door.body(pair.model, stream=True), pair.door.auth())
            asked = await provider.arrived()
            stalled_s = trio.current_time()
            await asked.connection.closed.wait()
            assert trio.current_time() - stalled_s < 10
            assert written[0] < _RELAY_BYTES
            settlement = await gateway.only_settlement()
            assert settlement.outcome.status in {Status.CANCELLED, Status.TIMEOUT, Status.FAILED}, settlement
            assert settlement.usage is not None


async def test_a_caller_who_reads_slowly_is_served(serving, provider):
    """Slow is not stalled: a reader that keeps taking bytes gets the whole stream past the stall limit."""
    pair = PAIRS[0]
    assert pair.speech.events is not None
    text = "y" * 200_000
    provider.enqueue(*script.stream(pair.speech.events((text,) * 10)))
    with trio.fail_after(30):
        gateway = await serving({pair.provider: provider}, server={"write_stall_timeout_s": 1.0})
        async with open_client(gateway.base_url, receive_buffer_bytes=65536) as client:
            await client.request("POST", pair.door.path, pair.door.body(pair.model, stream=True), pair.door.auth())
            await client.read_head()
            total, next_rest = 0, 400_000
            while piece := await client.read_piece():
                total += len(piece)
                if total > next_rest:
                    next_rest += 400_000
                    await trio.sleep(0.4)  # slower than the provider, faster than the stall limit
            assert total > 2_000_000
        assert (await gateway.only_settlement()).outcome.status is Status.SUCCESS


@pytest.mark.parametrize("pair", [pair for pair in FAMILIES if not pair.same_dialect], ids=str)
async def test_comments_are_not_data(gateway, provider, pair: Pair):
    """Comments and pings of a provider never reach a caller of another dialect as data (guarantee 36)."""
    assert pair.speech.events is not None
    events = pair.speech.events(("Hel", "lo"))
    if pair.speech.kind == "sse":
        events = [piece for event in events for piece in (b": OPENROUTER PROCESSING\n\n", event)]
    provider.enqueue(*script.stream(events, pair.speech.kind))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert pair.door.text_of_stream is not None
        assert pair.door.text_of_stream(response.body) == "Hello"
        assert b"OPENROUTER" not in response.body


async def test_an_in_band_error_ends_the_stream(gateway, provider):
    """A provider's own error event in a stream is its end: passed on, no [DONE] after it, settled as failed."""
    pair = PAIRS[0]
    assert pair.speech.events is not None
    error = b'data: {"error":{"message":"overloaded","type":"server_error","param":null,"code":"overloaded"}}\n\n'
    provider.enqueue(*script.stream([*pair.speech.events(("Hel", "lo"))[:3], error]))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert response.status == 200
        assert pair.door.error_event_of(response.body)["code"] == "overloaded"
        assert b"[DONE]" not in response.body
        settlement = await gateway.only_settlement()
        assert settlement.outcome.status is Status.FAILED
        assert settlement.usage is not None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_in_band_error_before_the_first_token_is_an_error(gateway, provider, stream: bool):
    """An Ollama error line before any token is a real error status, in both modes (guarantee 27)."""
    pair = next(pair for pair in PAIRS if str(pair) == "chat-ollama")
    provider.enqueue(*script.stream([b'{"error":"model ran out of memory"}\n'], "ndjson"))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=stream))
        assert response.status >= 500, response
        assert "ran out of memory" in pair.door.error_of(response)["message"]
        assert (await gateway.only_settlement()).outcome.status is Status.FAILED


async def test_two_requests_on_one_connection(gateway, provider):
    """Whole and streamed answers can follow each other on one connection of the caller's."""
    pair = PAIRS[0]
    provider.choose = lambda request: pair.answers(stream_it=b'"stream"' in request.body)
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            for stream in (False, True, True, False):
                await client.request(
                    "POST", doors.CHAT.path, doors.CHAT.body(pair.model, stream=stream), doors.CHAT.auth()
                )
                response = await client.read_response()
                assert (response.status, response.cut) == (200, None)
        assert (await gateway.settled(4)).outcome.status is Status.SUCCESS


def _is_delta(pair: Pair, event: bytes) -> bool:
    return pair.speech.name != "responses" or event.startswith(b"event: response.output_text.delta")
