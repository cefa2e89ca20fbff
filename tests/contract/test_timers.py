"""Four timers, each with its own code: connect, first token, idle, total; pings do not count (guarantee 22)."""

import pytest
import trio

from rig import doors, script, speech
from rig.pairs import FAMILIES, PAIRS, Pair
from rig.raw_client import open_client
from rig.trouble import open_silent_listener
from securellm.chat import Status

_LIMIT_S = 0.3
_NO_LOG = {"enabled": False}  # a disk that stalls for a moment is no timer's business: audit_e2e/test_disk.py has it
_LATE = 10  # a timer that fires after ten times its limit has not fired
_GENEROUS = {"max_retries": 3}
_PINGS = {"sse": b": ping\n\n", "ndjson": b"\n"}
_WHOLE = tuple(pair for pair in PAIRS if pair.provider in {"openai", "anthropic", "ollama"})


def _settings(pair: Pair, **timeouts: float) -> dict[str, object]:
    # Retries are allowed, so that a timeout that is retried shows as a second attempt.
    return {"timeouts": timeouts, "providers": {pair.provider: _GENEROUS}, "audit": _NO_LOG}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_connect_timeout(serving, stream: bool):
    """A handshake that is never answered is 504 `connect_timeout`, asked once, and its connection is closed."""
    with trio.fail_after(15):
        async with open_silent_listener() as silent:
            gateway = await serving(
                {"openai": silent.base_url},
                timeouts={"connect_s": _LIMIT_S},
                providers={"openai": _GENEROUS},
                audit=_NO_LOG,
            )
            started_s = trio.current_time()
            response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1", stream=stream))
            _assert_in_time(started_s)
            assert response.status == 504, response
            assert doors.CHAT.error_of(response)["code"] == "connect_timeout"
            await _assert_settled(gateway, "connect_timeout", 504)
            (connection,) = silent.connections
            await connection.closed.wait()


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_first_token_timeout(serving, provider, pair: Pair):
    """Headers and endless pings, but no token: a real 504 `first_token_timeout`, and the connection is closed."""
    provider.default = [script.stream_head(pair.speech.kind), script.pings(_PINGS[pair.speech.kind], every_s=0.05)]
    with trio.fail_after(15):
        gateway = await serving({pair.provider: provider}, **_settings(pair, first_token_s=_LIMIT_S))
        started_s = trio.current_time()
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        _assert_in_time(started_s)
        assert response.status == 504, response
        _assert_code(pair, pair.door.error_of(response), "first_token_timeout")
        await _assert_settled(gateway, "first_token_timeout", 504)
        await _assert_asked_once_and_closed(provider)


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_first_token_timeout_before_the_head(serving, provider, pair: Pair):
    """The same timer covers the wait for the head of the answer."""
    provider.default = [script.never()]
    with trio.fail_after(15):
        gateway = await serving({pair.provider: provider}, **_settings(pair, first_token_s=_LIMIT_S))
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        assert response.status == 504, response
        await _assert_settled(gateway, "first_token_timeout", 504)
        await _assert_asked_once_and_closed(provider)


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_idle_timeout(serving, provider, pair: Pair):
    """After the first tokens only pings: the stream ends in an `idle_timeout` error event, cut, and closed upstream."""
    provider.default = [*_begin(pair), script.pings(_PINGS[pair.speech.kind], every_s=0.05)]
    with trio.fail_after(15):
        gateway = await serving({pair.provider: provider}, **_settings(pair, idle_s=_LIMIT_S))
        started_s = trio.current_time()
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        _assert_in_time(started_s)
        assert response.status == 200
        assert response.cut is not None
        assert pair.door.terminal not in response.body
        _assert_code(pair, pair.door.error_event_of(response.body), "idle_timeout")
        settlement = await _assert_settled(gateway, "idle_timeout", 200)
        assert settlement.usage is not None
        assert settlement.usage.completion_tokens > 0
        await _assert_asked_once_and_closed(provider)


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_total_timeout_of_a_stream(serving, provider, pair: Pair):
    """A stream that keeps talking is ended by the total timer, with its own code."""
    assert pair.speech.events is not None
    piece = next(event for event in pair.speech.events(("again ",)) if b"again" in event)
    provider.default = [*_begin(pair), script.pings(piece, every_s=0.05)]
    with trio.fail_after(15):
        gateway = await serving({pair.provider: provider}, **_settings(pair, total_s=4 * _LIMIT_S, idle_s=_LIMIT_S))
        started_s = trio.current_time()
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
        _assert_in_time(started_s, 4 * _LIMIT_S)
        assert response.status == 200
        assert response.cut is not None
        _assert_code(pair, pair.door.error_event_of(response.body), "total_timeout")
        await _assert_settled(gateway, "total_timeout", 200)
        await _assert_asked_once_and_closed(provider)


@pytest.mark.parametrize("body_begun", [False, True], ids=["no head", "half a body"])
@pytest.mark.parametrize("pair", _WHOLE, ids=str)
async def test_total_timeout_of_a_whole_answer(serving, provider, pair: Pair, body_begun: bool):
    """A whole answer has no first-token timer: only the total one ends the wait, with 504."""
    half = script.answer(200, pair.speech.whole("Hello"), length=100_000) if body_begun else []
    provider.default = [*half, script.never()]
    with trio.fail_after(15):
        gateway = await serving({pair.provider: provider}, **_settings(pair, total_s=3 * _LIMIT_S, first_token_s=0.1))
        started_s = trio.current_time()
        response = await gateway.ask(pair.door, pair.door.body(pair.model))
        _assert_in_time(started_s, 3 * _LIMIT_S)
        assert response.status == 504, response
        _assert_code(pair, pair.door.error_of(response), "total_timeout")
        await _assert_settled(gateway, "total_timeout", 504)
        await _assert_asked_once_and_closed(provider)


@pytest.mark.parametrize("ends", ["first token", "pings", "total", "half a body", "cap", "taken back"])
async def test_a_kept_connection_has_the_same_timers(serving, provider, ends: str):
    """What goes out over a connection that was used before ends in time, with the same code, and is closed."""
    stream, limit_s = ends in {"first token", "pings"}, 2 * _LIMIT_S
    code = {"first token": "first_token_timeout", "pings": "first_token_timeout", "taken back": "request_cancelled"}
    scripts = {
        "pings": [script.stream_head(), script.pings(_PINGS["sse"], every_s=0.05)],
        "half a body": [*script.answer(200, speech.CHAT.whole("Hello"), length=100_000), script.never()],
    }
    with trio.fail_after(15):
        total_s = limit_s if ends in {"total", "half a body"} else 60.0
        gateway = await serving(
            {"openai": provider},
            timeouts={"first_token_s": limit_s, "total_s": total_s},
            providers={"openai": {"max_retries": 3} | ({"timeout_secs": limit_s} if ends == "cap" else {})},
            audit=_NO_LOG,
        )
        provider.default = script.answer(200, speech.CHAT.whole("Hello"))
        tries = 1
        while (await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1"))).status != 200:
            tries += 1  # the timers are short, and a busy machine is slow
        warmed = len(provider.asked)
        provider.default = scripts.get(ends, [script.never()])
        async with trio.open_nursery() as nursery:
            if ends == "taken back":
                nursery.start_soon(_take_back, gateway, provider, warmed + 1)
            started_s = trio.current_time()
            response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1", stream=stream))
        if ends != "taken back":
            assert response.status == 504, response
            _assert_in_time(started_s, limit_s)
        assert doors.CHAT.error_of(response)["code"] == code.get(ends, "total_timeout")
        first, second = provider.asked[-2:]
        assert len(provider.asked) == warmed + 1
        assert first.connection is second.connection
        await second.connection.closed.wait()
        await gateway.settled(tries + 1)
        assert gateway.settlements[-1].outcome.error_code == code.get(ends, "total_timeout")
        assert len(gateway.settlements[-1].attempts) == 1


async def _take_back(gateway, provider, number: int) -> None:
    """End the request that waits, as an operator may."""
    await provider.arrived(number)
    (open_,) = gateway.runtime.gateway.requests()
    assert gateway.runtime.gateway.cancel(open_.request_id, "taken back")


async def test_timeout_secs_caps_one_attempt(serving, provider):
    """A provider's `timeout_secs` ends an attempt before the total timer would."""
    provider.default = [script.never()]
    with trio.fail_after(15):
        gateway = await serving({"openai": provider}, providers={"openai": {"timeout_secs": _LIMIT_S}}, audit=_NO_LOG)
        started_s = trio.current_time()
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1"))
        _assert_in_time(started_s)
        assert response.status == 504, response
        assert (await gateway.only_settlement()).outcome.status is Status.TIMEOUT
        await _assert_asked_once_and_closed(provider)


@pytest.mark.parametrize(
    ("capped", "named"),
    [({"timeout_secs": 4 * _LIMIT_S}, "timeout_secs"), ({}, "timeouts.total_s")],  # its first token has to be in time
    ids=["cap", "total"],
)
async def test_the_timer_that_ended_a_stream_is_named(serving, provider, capped, named):
    """The last event of a stream that ran out of time names the setting that set it, and no other."""
    opening = [script.chunk(event) for event in speech.CHAT.events(("a", "b"))[:2]]
    provider.default = [script.stream_head(), *opening, script.never()]
    with trio.fail_after(15):
        gateway = await serving(
            {"openai": provider}, timeouts={"total_s": 8 * _LIMIT_S}, providers={"openai": capped}, audit=_NO_LOG
        )
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1", stream=True))
        message = doors.CHAT.error_event_of(response.body)["message"]
        assert [name for name in ("timeout_secs", "timeouts.total_s") if name in message] == [named]


async def test_silence_below_the_limits_is_no_timeout(serving, provider):
    """Waits under each of the limits, together longer than any one of them, do not end a stream."""
    events = speech.CHAT.events(("a", "b", "c"))[1:]  # without the opening, which says nothing yet
    wait = script.sleep(_LIMIT_S * 0.6)
    steps = [script.stream_head(), wait, *(step for event in events for step in (script.chunk(event), wait))]
    provider.enqueue(*steps, script.end_chunks())
    with trio.fail_after(15):
        gateway = await serving(
            {"openai": provider},
            timeouts={"first_token_s": 3 * _LIMIT_S, "idle_s": 3 * _LIMIT_S, "connect_s": 3 * _LIMIT_S},
            audit=_NO_LOG,
        )
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1", stream=True))
        assert doors.CHAT.text_of_stream is not None
        assert doors.CHAT.text_of_stream(response.body) == "abc"
        assert response.body.endswith(b"data: [DONE]\n\n")


async def test_the_callers_connection_is_usable_after_an_early_error(gateway, provider):
    """A real error status leaves the caller's connection open for the next request."""
    provider.enqueue(*script.answer(500, speech.CHAT.error(500)))
    provider.enqueue(*script.answer(200, speech.CHAT.whole("Hello")))
    with trio.fail_after(10):
        async with open_client(gateway.base_url) as client:
            for status in (500, 200):
                await client.request("POST", doors.CHAT.path, doors.CHAT.body("openai/m1"), doors.CHAT.auth())
                assert (await client.read_response()).status == status


def _begin(pair: Pair) -> list[script.Step]:
    assert pair.speech.events is not None
    events = pair.speech.events(("Hello there ",))
    last = next(number for number, event in enumerate(events) if b"Hello there" in event)
    return script.stream(events[: last + 1], pair.speech.kind, ended=False)


def _assert_in_time(started_s: float, limit_s: float = _LIMIT_S) -> None:
    took_s = trio.current_time() - started_s
    assert limit_s * 0.9 <= took_s <= limit_s * _LATE


def _assert_code(pair: Pair, error: dict[str, object], code: str) -> None:
    if pair.door.dialect == "openai":
        assert error["code"] == code, error
    elif pair.door.dialect == "anthropic":
        assert error["type"] == "timeout_error", error


async def _assert_settled(gateway, code: str, http_status: int):
    settlement = await gateway.only_settlement()
    assert settlement.outcome.status is Status.TIMEOUT, settlement
    assert settlement.outcome.error_code == code
    assert settlement.outcome.http_status == http_status
    return settlement


async def _assert_asked_once_and_closed(provider) -> None:
    (asked,) = provider.asked
    await asked.connection.closed.wait()
    assert len(provider.asked) == 1
