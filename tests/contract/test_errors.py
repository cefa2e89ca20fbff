"""Errors keep their status, their Retry-After and the envelope of the caller's dialect (guarantee 23)."""

import json

import pytest
import trio

from rig import doors, script, speech
from rig.pairs import PAIRS, STREAMED, Pair
from securellm.chat import Status

_STATUSES = (400, 402, 404, 408, 413, 422, 429, 500, 502, 503, 504, 529)
_NEVER_OPEN = {"circuit_breaker": {"failure_threshold": 1000}}


def _settings(pair: Pair) -> dict[str, object]:
    return {"providers": {pair.provider: _NEVER_OPEN}}


@pytest.mark.parametrize(
    ("pair", "stream"),
    [*((pair, False) for pair in PAIRS), *((pair, True) for pair in STREAMED)],
    ids=lambda value: {False: "whole", True: "stream"}[value] if isinstance(value, bool) else str(value),
)
async def test_provider_errors(serving, provider, pair: Pair, stream: bool):
    """A provider's error keeps its status and Retry-After; its body is unchanged, or translated across dialects."""
    with trio.fail_after(20):
        gateway = await serving({pair.provider: provider}, **_settings(pair))
        for count, status in enumerate(_STATUSES, start=1):
            body = json.dumps(pair.speech.error(status, f"scripted {status}"), indent=2).encode()
            provider.enqueue(*script.answer(status, body, {"retry-after": "7", "x-ratelimit-limit-requests": "9"}))
            response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=stream))
            assert response.status == status, response
            assert response.header("retry-after") == "7", response
            assert response.header("x-securellm-error-source") == "upstream", response
            assert response.header("x-upstream-ratelimit-limit-requests") == "9", response
            assert response.header("x-request-id"), response
            if pair.same_dialect:
                assert response.body == body
            else:
                assert f"scripted {status}" in pair.door.error_of(response)["message"]
            settlement = await gateway.settled(count)
            assert settlement.outcome.http_status == status
            assert settlement.outcome.status is (Status.RATE_LIMITED if status == 429 else Status.FAILED), settlement
            assert settlement.outcome.error_code
            assert [attempt.http_status for attempt in settlement.attempts] == [status]
            assert settlement.usage is None or settlement.usage.completion_tokens == 0
        assert len(provider.asked) == len(_STATUSES) == len(gateway.settlements)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_our_own_key_refused(gateway, provider, pair: Pair):
    """A provider's 401 or 403 is about the operator's key: 502 `upstream_auth`, and nothing of its text."""
    with trio.fail_after(10):
        for count, status in enumerate((401, 403), start=1):
            provider.enqueue(*script.answer(status, pair.speech.error(status, "bad key sk-secret")))
            response = await gateway.ask(pair.door, pair.door.body(pair.model))
            assert response.status == 502, response
            error = pair.door.error_of(response)
            if pair.door.dialect != "anthropic":
                assert error["code"] == "upstream_auth"
            assert b"sk-secret" not in response.body
            settlement = await gateway.settled(count)
            assert settlement.outcome.error_code == "upstream_auth"
            assert settlement.outcome.status is Status.FAILED


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if not pair.same_dialect], ids=str)
async def test_errors_of_no_known_shape(serving, provider, pair: Pair):
    """An error body that cannot be understood still gives the status, in the caller's envelope."""
    with trio.fail_after(10):
        gateway = await serving({pair.provider: provider}, **_settings(pair))
        for body in (b"", b"null", b"<html>oops</html>", b"\xff\xfe", b'{"error":', b"[]", b'{"error":7}'):
            provider.enqueue(*script.answer(500, body))
            response = await gateway.ask(pair.door, pair.door.body(pair.model))
            assert response.status == 500, body
            pair.door.error_of(response)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_whole_answers_of_no_known_shape(gateway, provider, pair: Pair):
    """A 200 whose body is not JSON is not an answer where it must be translated; nothing is settled as used output."""
    if pair.same_dialect:
        provider.enqueue(*script.answer(200, b""))
    else:
        provider.enqueue(*script.answer(200, b"<html>"))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert response.status == 502, response
        pair.door.error_of(response)
        settlement = await gateway.only_settlement()
        assert settlement.outcome.status is not Status.SUCCESS


@pytest.mark.parametrize("door", doors.DOORS, ids=lambda door: door.name)
async def test_refusals_of_our_own(gateway, provider, door):
    """What the gateway refuses itself has the door's envelope, names no provider and asks none."""
    good = door.body("openai/m1")
    twice = b'{"model":"openai/m1","mod\\u0065l":"openai/m2","messages":[]}'
    cases = [
        ("no key", good, {"authorization": "", "x-api-key": ""}, 401, "authentication_error"),
        ("wrong key", good, {door_header(door): door_value(door, "slb_wrong")}, 401, "authentication_error"),
        ("not JSON", b'{"model":', {}, 400, "bad_request"),
        ("not an object", b"[1]", {}, 400, "bad_request"),
        ("not UTF-8", b'{"model":"openai/m1","x":"\xff"}', {}, 400, "bad_request"),
        ("no model", b"{}", {}, 400, "bad_request"),
        ("the same key twice", twice, {}, 400, "bad_request"),
        ("unknown model", door.body("nobody/m1"), {}, 404, "not_found"),
        ("contradiction", good, {"x-provider": "anthropic"}, 400, "bad_request"),
        ("a second hop", good, {"x-securellm-hop": "1"}, 508, "loop_detected"),
        ("a destination", door.body("openai/m1", api_base="http://127.0.0.1:1/"), {}, 400, "bad_request"),
    ]
    with trio.fail_after(20):
        for name, body, headers, status, kind in cases:
            response = await gateway.ask(door, body, headers)
            assert response.status == status, (name, response)
            error = door.error_of(response)
            assert response.header("x-securellm-error-source") == "gateway", (name, response)
            assert response.header("x-request-id"), (name, response)
            if door.dialect == "anthropic":
                assert response.json()["request_id"] == response.header("x-request-id") == response.header("request-id")
            else:
                assert error["type"] == kind, (name, error)
        assert provider.asked == []


async def test_a_gateway_behind_a_gateway(serving, provider):
    """What one gateway sends to another is told as a loop, also where the second would not take the first one's key."""
    with trio.fail_after(20):
        second = await serving({"openai": provider})
        first = await serving({"openai": second.base_url})
        response = await first.ask(doors.CHAT, doors.CHAT.body("openai/m1"))
        assert response.status == 508, response
        assert doors.CHAT.error_of(response)["code"] == "loop_detected"
        assert provider.asked == []


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_connection_refused(serving, pair: Pair):
    """A provider that nothing listens for is 502 `connect_failed`, with one settlement."""
    with trio.fail_after(10):
        with trio.socket.socket() as closed:
            await closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        gateway = await serving({pair.provider: f"http://127.0.0.1:{port}"})
        response = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert response.status == 502, response
        pair.door.error_of(response)
        assert str(port).encode() not in response.body
        settlement = await gateway.only_settlement()
        assert (settlement.outcome.error_code, settlement.outcome.status) == ("connect_failed", Status.FAILED)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_connection_closed_instead_of_an_answer(gateway, provider, pair: Pair):
    """A provider that hangs up without a head is 502 in the door's envelope, settled once, output unknown."""
    provider.default = [script.fin()]
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model))
        assert response.status == 502, response
        pair.door.error_of(response)
        assert (await gateway.only_settlement()).outcome.status in {Status.FAILED, Status.TRUNCATED}


def door_header(door) -> str:
    return "x-api-key" if door.dialect == "anthropic" else "authorization"


def door_value(door, key: str) -> str:
    return key if door.dialect == "anthropic" else f"Bearer {key}"


def test_error_speech_is_in_the_envelope_of_its_door():
    """The scripted errors of same-dialect providers have the envelope that the doors check."""
    from rig.raw_client import Response

    for pair in PAIRS:
        if pair.same_dialect:
            body = json.dumps(pair.speech.error(429)).encode()
            assert pair.door.error_of(Response(429, [], body, None))["message"] == "scripted"
    assert speech.ollama_error(500) == {"error": "scripted"}
