"""What goes up to a provider and what comes down from it; where requests may go (guarantees 8, 23, 37, 53)."""

import pytest
import trio

from rig import doors, script, speech
from rig.gateway import PROVIDER_KEY
from rig.pairs import PAIRS, STREAMED, Pair

_CANARY = "canary-7f3a"
_CALLERS = {
    "cookie": f"session={_CANARY}",
    "proxy-authorization": f"Basic {_CANARY}",
    "forwarded": f"for={_CANARY}",
    "x-forwarded-for": "203.0.113.9",
    "x-real-ip": "203.0.113.9",
    "x-custom": _CANARY,
    "user-agent": f"agent/{_CANARY}",
    "connection": "keep-alive, x-named-hop, traceparent",
    "x-named-hop": _CANARY,
    "traceparent": f"00-{_CANARY}-named-by-connection-01",
    "te": "trailers",
    "accept-encoding": "gzip, br",
    "x-request-id": "the-callers-own-id",
}


@pytest.mark.parametrize("pair", PAIRS, ids=str)
async def test_headers_up(gateway, provider, pair: Pair):
    """Only the allow-list goes up, with the operator's key, the hop mark and identity encoding."""
    provider.enqueue(*pair.answers())
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model), _CALLERS)
        assert response.status == 200, response
        (asked,) = provider.asked
        head = asked.head.decode("latin-1")
        assert _CANARY not in head
        assert gateway.key not in head
        for name in ("cookie", "forwarded", "x-forwarded-for", "x-real-ip", "x-custom", "x-named-hop", "traceparent"):
            assert asked.header(name) is None
        assert asked.header("accept-encoding") == "identity"
        assert asked.header("x-securellm-hop") is not None
        assert asked.header("host") == f"127.0.0.1:{provider.port}"
        assert asked.header("content-type") == "application/json"
        assert int(asked.header("content-length") or "-1") == len(asked.body)
        if pair.provider == "anthropic":
            assert asked.header("x-api-key") == PROVIDER_KEY
            assert asked.header("anthropic-version") == "2023-06-01"
            assert asked.header("authorization") is None
        elif pair.provider == "ollama":
            assert PROVIDER_KEY not in head
        else:
            assert asked.header("authorization") == f"Bearer {PROVIDER_KEY}"
            assert asked.header("x-api-key") is None
        settlement = await gateway.only_settlement()
        assert settlement.client_request_id == "the-callers-own-id"
        assert response.header("x-request-id") == settlement.request_id != "the-callers-own-id"


async def test_advice_goes_up_where_it_means_something(gateway, provider):
    """Beta and trace headers reach a provider of the same dialect unchanged."""
    provider.choose = lambda request: next(pair for pair in PAIRS if pair.path == request.path).answers()
    headers = {"anthropic-beta": "a-1,b-2", "traceparent": "00-1-2-01", "openai-beta": "x=v1"}
    with trio.fail_after(10):
        await gateway.ask(doors.MESSAGES, doors.MESSAGES.body("anthropic/m1"), headers)
        await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1"), headers)
        messages, chat = provider.asked
        assert messages.header("anthropic-beta") == "a-1,b-2"
        assert messages.header("traceparent") == chat.header("traceparent") == "00-1-2-01"
        assert messages.header("openai-beta") is None
        assert chat.header("openai-beta") == "x=v1"
        assert chat.header("anthropic-beta") is None


async def test_dropped_advice_is_reported(gateway, provider):
    """A beta header that the other dialect cannot take is listed in `x-securellm-dropped` (guarantee 30)."""
    provider.default = script.answer(200, speech.CHAT.whole())
    with trio.fail_after(10):
        body = doors.MESSAGES.body("openai/m1", metadata={"user_id": "u"})
        response = await gateway.ask(doors.MESSAGES, body, {"anthropic-beta": "a-1"})
        assert response.status == 200, response
        assert "anthropic-beta" in (response.header("x-securellm-dropped") or "")
        assert "anthropic-beta" in (await gateway.only_settlement()).dropped


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pair", STREAMED, ids=str)
async def test_headers_down(gateway, provider, pair: Pair, stream: bool):
    """Rate limits come down under their own names, nothing else of the provider's does."""
    head = {
        "x-ratelimit-remaining-requests": "5",
        "anthropic-ratelimit-requests-remaining": "6",
        "openai-processing-ms": "12",
        "x-request-id": "req_upstream",
        "request-id": "req_upstream",
        "set-cookie": f"a={_CANARY}",
        "server": _CANARY,
        "x-internal": _CANARY,
    }
    assert pair.speech.events is not None
    if stream:
        provider.enqueue(*script.stream(pair.speech.events(), pair.speech.kind, head))
    else:
        provider.enqueue(*script.answer(200, pair.speech.whole(), head))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=stream))
        assert response.status == 200, response
        assert _CANARY not in str(response.headers)
        assert response.header("x-upstream-ratelimit-remaining-requests") == "5"
        assert response.header("x-ratelimit-remaining-requests") is None
        assert response.header("anthropic-ratelimit-requests-remaining") == "6"
        assert response.header("openai-processing-ms") == "12"
        assert response.header("x-request-id") != "req_upstream"
        assert len([name for name, _ in response.headers if name == "x-request-id"]) == 1
        assert (await gateway.only_settlement()).upstream_request_id == "req_upstream"
        if stream:
            assert response.header("x-accel-buffering") == "no"
            assert "no-cache" in (response.header("cache-control") or "")
            assert "no-transform" in (response.header("cache-control") or "")
            assert response.header("content-length") is None
        assert response.header("content-encoding") is None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pair", STREAMED, ids=str)
async def test_gzip_upstream_is_decoded(gateway, provider, pair: Pair, stream: bool):
    """A provider that insists on gzip is decoded as it arrives; the caller sees plain bytes and no content-encoding."""
    assert pair.speech.events is not None
    if stream:
        provider.enqueue(*script.stream(pair.speech.events(("Hel", "lo")), pair.speech.kind, gzip=True))
    else:
        provider.enqueue(*script.answer(200, pair.speech.whole("Hello"), gzip=True))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=stream))
        assert response.status == 200, response
        assert response.header("content-encoding") is None
        if stream:
            assert pair.door.text_of_stream is not None
            assert pair.door.text_of_stream(response.body) == "Hello"
        else:
            assert pair.door.text_of_whole(response.json()) == "Hello"


@pytest.mark.parametrize("field", ["api_base", "base_url", "custom_host"])
@pytest.mark.parametrize("door", [doors.CHAT, doors.MESSAGES, doors.RESPONSES], ids=lambda door: door.name)
async def test_callers_choose_no_destination(gateway, provider, second_provider, door, field: str):
    """A top-level field that would say where to go is 400; no connection is made anywhere."""
    with trio.fail_after(10):
        response = await gateway.ask(door, door.body("openai/m1", **{field: second_provider.base_url}))
        assert response.status == 400, response
        error = door.error_of(response)
        if door.dialect != "anthropic":
            assert (error["code"], error["param"]) == ("destination_not_allowed", field)
        assert field in error["message"]
        assert provider.connections == second_provider.connections == []


async def test_deeper_destinations_are_data(gateway, provider, second_provider):
    """The same names below the top level go through untouched and are never read."""
    provider.default = script.answer(200, speech.CHAT.whole())
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"base_url": second_provider.base_url}}}]
    body = doors.CHAT.body("m1", tools=tools, metadata={"api_base": second_provider.base_url})
    with trio.fail_after(10):
        response = await gateway.ask(doors.CHAT, body, {"x-provider": "openai"})
        assert response.status == 200, response
        assert provider.asked[0].body == body
        assert second_provider.connections == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(gateway, provider, second_provider, status: int):
    """A redirect is a broken answer: 502, and neither the request nor the key is seen where it points."""
    provider.default = script.answer(status, b"", {"location": f"{second_provider.base_url}/v1/chat/completions"})
    with trio.fail_after(10):
        response = await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1"))
        assert response.status == 502, response
        assert doors.CHAT.error_of(response)["code"] == "upstream_invalid"
        assert second_provider.connections == []
        assert second_provider.base_url.encode() not in response.body
        assert response.header("location") is None
