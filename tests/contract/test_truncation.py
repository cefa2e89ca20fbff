"""A stream that dies upstream is never delivered as a finished answer (guarantee 1)."""

import pytest
import trio

from rig import script
from rig.pairs import FAMILIES, PAIRS, Pair
from rig.raw_client import open_client
from rig.speech import OUTPUT_TOKENS, Tool
from securellm.chat import Status

_PIECES = tuple(f"piece {number} " for number in range(20))
_TERMINALS = (b"[DONE]", b"message_stop", b"response.completed")
_FINISHES = (b'"finish_reason":"', b'"stop_reason":"')


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_dies_after_twenty_pieces(gateway, provider, pair: Pair, how: str):
    """Twenty pieces, then FIN or RST: all twenty arrive, then the error event, then the body is cut."""
    read = trio.Event()
    dying = script.fin() if how == "fin" else script.rst()
    provider.enqueue(*_opening(pair, _PIECES), script.until(read), dying)
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            await client.request("POST", pair.door.path, pair.door.body(pair.model, stream=True), pair.door.auth())
            assert (await client.read_head()).status == 200
            delivered = await client.read_until(b"piece 19 ")
            read.set()
            body, cut = await _rest(client, delivered)
        assert pair.door.text_of_stream is not None
        assert pair.door.text_of_stream(body) == "".join(_PIECES)
        _assert_truncated(pair, body, cut)
        await _assert_settled(gateway, body)
        assert len(provider.asked) == 1


@pytest.mark.parametrize("pair", [pair for pair in FAMILIES if pair.door.name != "completions"], ids=str)
async def test_dies_inside_a_tool_argument(gateway, provider, pair: Pair):
    """FIN half-way through a tool's arguments is truncation, and the half is not closed as if it were whole."""
    assert pair.speech.events is not None
    events = pair.speech.events(("Hel", "lo"), (Tool("look", '{"at":"somewhere far"}'),))
    half = next(number for number, event in enumerate(events) if b"far" in event)
    if pair.speech.kind == "ndjson":
        pieces = [*events[:half], events[half][:-30]]  # a line of JSON that is never finished
    else:
        pieces = events[:half]
    provider.enqueue(*script.stream(pieces, pair.speech.kind, ended=False), script.fin())
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert response.status == 200
        _assert_truncated(pair, response.body, response.cut)
        await _assert_settled(gateway, response.body)


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_ends_properly_without_a_terminal_event(gateway, provider, pair: Pair):
    """A chunked body that closes in order, but without the terminal event, is truncated all the same."""
    assert pair.speech.events is not None
    provider.enqueue(*script.stream(pair.speech.events(_PIECES)[: len(_PIECES)], pair.speech.kind))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert response.status == 200
        _assert_truncated(pair, response.body, response.cut)
        await _assert_settled(gateway, response.body)


@pytest.mark.parametrize("ended", [True, False], ids=["closed", "fin"])
@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_empty_stream(gateway, provider, pair: Pair, ended: bool):
    """A 200 with an empty body never becomes a stream: a real 502 `upstream_truncated`, and no output in the bill."""
    steps = script.stream([], pair.speech.kind, ended=ended)
    provider.enqueue(*steps, script.fin())
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert response.status == 502, response
        error = pair.door.error_of(response)
        if pair.door.dialect != "anthropic":
            assert error["code"] == "upstream_truncated"
        settlement = await gateway.only_settlement()
        assert settlement.outcome.error_code == "upstream_truncated"
        assert settlement.outcome.status is Status.TRUNCATED
        assert settlement.usage is None or settlement.usage.completion_tokens == 0
        assert len(provider.asked) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_whole_body_cut(gateway, provider, pair: Pair, how: str):
    """A whole body shorter than announced is a real 502 `upstream_truncated`."""
    steps = script.answer(200, pair.speech.whole("Hello"), length=100_000)
    provider.enqueue(*steps, script.fin() if how == "fin" else script.rst())
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert response.status == 502, response
        pair.door.error_of(response)
        settlement = await gateway.only_settlement()
        assert settlement.outcome.error_code == "upstream_truncated"
        assert settlement.outcome.status is Status.TRUNCATED


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_usage_reported_before_the_cut_is_kept(gateway, provider, pair: Pair):
    """What the provider said of its usage before it died goes to the bill; the rest is an estimate, never zero."""
    assert pair.speech.events is not None
    events = pair.speech.events(("Hel", "lo"))
    provider.enqueue(*script.stream(events[:-1], pair.speech.kind, ended=False), script.fin())
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        _assert_truncated(pair, response.body, response.cut, finished=True)
        settlement = await gateway.only_settlement()
        assert settlement.outcome.status is Status.TRUNCATED
        assert settlement.usage is not None
        if pair.speech.name in {"chat", "completions", "messages"}:
            assert settlement.usage.completion_tokens == OUTPUT_TOKENS
            assert settlement.usage_source == "reported"
        else:
            assert settlement.usage_source == "estimated"
        assert settlement.usage.completion_tokens > 0


def _opening(pair: Pair, pieces: tuple[str, ...]) -> list[script.Step]:
    """The head of a stream and its events up to the last of the pieces."""
    assert pair.speech.events is not None
    events = pair.speech.events(pieces)
    # Responses repeats the text in its closing events; everybody else says a piece once.
    last = next(number for number, event in enumerate(events) if pieces[-1].encode() in event)
    return script.stream(events[: last + 1], pair.speech.kind, ended=False)


async def _rest(client, delivered: bytes) -> tuple[bytes, str | None]:
    from rig.raw_client import BodyCut

    try:
        return delivered + await client.read_body(), None
    except BodyCut as cut:
        return delivered + cut.data, cut.how


def _assert_truncated(pair: Pair, body: bytes, cut: str | None, *, finished: bool = False) -> None:
    """No terminal event, no reason to finish unless the provider gave one, an error event, and the body cut."""
    for terminal in (*_TERMINALS, *(() if finished else _FINISHES)):
        assert terminal not in body, body[-400:]
    error = pair.door.error_event_of(body)
    if pair.door.dialect == "openai":
        assert error["code"] == "upstream_truncated", error
    assert error["message"]
    assert cut is not None, "the chunked body was closed as if it were complete"


async def _assert_settled(gateway, body: bytes) -> None:
    settlement = await gateway.only_settlement()
    assert settlement.outcome.status is Status.TRUNCATED, settlement
    assert settlement.outcome.error_code == "upstream_truncated"
    assert settlement.outcome.http_status == 200
    assert settlement.bytes_out > 0
    assert settlement.bytes_out <= len(body)
    assert settlement.usage is not None, "bytes were delivered"
    assert settlement.usage.completion_tokens > 0
    assert settlement.usage_source == "estimated"
