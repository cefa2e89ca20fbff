"""Nothing that a provider or a caller may say breaks the gateway: spoiled streams, bodies and requests.

A spoiled answer ends in the provider's terminal event, in an error event or in an error status; a spoiled request is
served or refused as the caller's mistake. Never an internal error, never two endings, never output that is not JSON.
"""

import json
import os
import random

import pytest
import trio

from rig import doors, script
from rig.mutate import spoil_json, spoil_stream
from rig.pairs import FAMILIES, Pair
from rig.raw_client import events_of
from rig.speech import Tool
from securellm.chat import Dialect, Endpoint, Relay, Status
from securellm.errors import CallerError, UpstreamInvalid, UpstreamTruncated
from securellm.wire.body import peek, splice
from securellm.wire.relay import open_relay
from securellm.wire.translate import translate_request

_SCALE = float(os.environ.get("SECURELLM_TEST_SCALE", "1.0"))
STREAMS = max(100, int(600 * _SCALE))  # of each family, decoded without a gateway
REQUESTS = max(100, int(600 * _SCALE))
_DIALECTS = {
    "chat": Dialect.OPENAI,
    "completions": Dialect.OPENAI,
    "responses": Dialect.RESPONSES,
    "messages": Dialect.ANTHROPIC,
    "ollama": Dialect.OLLAMA,
}
_CALLS = (Tool("look", '{"at":"é"}'), Tool("wait", "{}"))
_IMAGE = "data:image/png;base64,iVBORw0KGgo="
_RICH_CHAT = {
    "model": "p/m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": _IMAGE}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}],
    "tool_choice": "auto",
    "max_tokens": 10,
    "stop": ["x"],
    "temperature": 0.5,
    "metadata": {"a": "b"},
    "stream": True,
    "stream_options": {"include_usage": True},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
}
_RICH_MESSAGES = {
    "model": "p/m",
    "max_tokens": 10,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "done", "is_error": False}],
        },
    ],
    "tools": [{"name": "look", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "u"},
    "stream": True,
}


def _relay(pair: Pair, *, stream: bool, chance: random.Random) -> Relay:
    return open_relay(
        Endpoint(pair.door.name if pair.door.name != "chat" else "chat.completions"),
        _DIALECTS[pair.speech.name],
        stream=stream,
        show_usage=chance.random() < 0.5,
        injected_usage=chance.random() < 0.5,
        request_id="r",
        model="p/m",
        created_s=1,
        num_ctx=chance.choice([None, 4096]),
    )


def _spoiled_stream(pair: Pair, chance: random.Random) -> bytes:
    assert pair.speech.events is not None
    tools = () if pair.door.name == "completions" else chance.choice([(), _CALLS])
    return spoil_stream(chance, pair.speech.events(("Hel", "lo"), tools))


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
def test_spoiled_streams(pair: Pair):
    """Whatever becomes of a stream's events, the relay ends in one known way and what it wrote is JSON."""
    for seed in range(STREAMS):
        chance = random.Random(seed)
        data, relay, out = _spoiled_stream(pair, chance), _relay(pair, stream=True, chance=chance), b""
        step = chance.choice([1, 7, 50, len(data) or 1])
        try:
            for start in range(0, len(data), step):
                relayed = relay.feed(data[start : start + step])
                out += relayed.data + relayed.held
            relayed = relay.end()
            out += relayed.data + relayed.held
            assert relay.terminal or relay.failure is not None, (seed, data)
        except (UpstreamInvalid, UpstreamTruncated) as error:
            out += relay.fail(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data!r}") from error
        if not pair.same_dialect:
            for _, said in events_of(out):
                assert said == "[DONE]" or isinstance(json.loads(said), dict), (seed, data)
        usage = relay.meter.usage
        assert usage is None or min(usage.prompt_tokens, usage.completion_tokens) >= 0, (seed, data)


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
def test_spoiled_bodies(pair: Pair):
    """A spoiled whole body, or error body, becomes JSON of the caller's dialect or UpstreamInvalid."""
    for seed in range(STREAMS):
        chance = random.Random(seed)
        body = pair.speech.whole("Hello", _CALLS)
        for _ in range(chance.choice([1, 1, 2, 3])):
            body = spoil_json(chance, body)
        data = json.dumps(body).encode()
        data = data[: chance.randrange(len(data))] if chance.random() < 0.1 else data
        relay = _relay(pair, stream=False, chance=chance)
        try:
            answer = relay.whole(data)
            assert relay.failure is not None or pair.same_dialect or isinstance(json.loads(answer), dict)
        except UpstreamInvalid:
            pass
        refused = _relay(pair, stream=False, chance=chance).refused(chance.choice([400, 429, 500]), data)
        assert pair.same_dialect or isinstance(json.loads(refused), dict)


@pytest.mark.parametrize(
    "dialect", [Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.OLLAMA], ids=lambda dialect: dialect.value
)
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.MESSAGES], ids=lambda endpoint: endpoint.value)
def test_spoiled_requests(endpoint: Endpoint, dialect: Dialect):
    """A spoiled request is translated into JSON, or it is the caller's mistake."""
    for seed in range(REQUESTS):
        chance = random.Random(seed)
        body = _RICH_CHAT if endpoint is Endpoint.CHAT else _RICH_MESSAGES
        for _ in range(chance.choice([0, 1, 1, 2])):
            body = spoil_json(chance, body)
        data = json.dumps(body).encode()
        try:
            peeked = peek(endpoint, data)
            if dialect is endpoint.dialect:
                sent = splice(data, peeked, model="m", include_usage=peeked.stream and endpoint is Endpoint.CHAT)
            else:
                sent = translate_request(endpoint, dialect, data, model="m", max_output_tokens=50, num_ctx=None).body
            assert json.loads(sent)["model"] == "m"
        except CallerError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data!r}") from error


@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_spoiled_streams_through_the_gateway(gateway, provider, pair: Pair):
    """The same through the whole gateway: a status of an error, or a stream with exactly one ending; one settlement."""
    count = max(10, int(30 * _SCALE))
    settings = []
    with trio.fail_after(60):
        for seed in range(count):
            provider.enqueue(*script.stream([_spoiled_stream(pair, random.Random(seed))], pair.speech.kind))
            response = await gateway.ask(pair.door, pair.door.body(pair.model, stream=True))
            settlement = await gateway.settled(seed + 1)
            settings.append(settlement)
            assert settlement.outcome.error_code != "internal_error", (seed, response)
            if response.status != 200:
                pair.door.error_of(response)
                assert settlement.outcome.status is not Status.SUCCESS
            elif settlement.outcome.status is Status.SUCCESS:
                assert response.cut is None, seed
                assert pair.door.terminal in response.body, seed
            elif not pair.same_dialect or settlement.outcome.error_code == "upstream_truncated":
                pair.door.error_event_of(response.body)
        assert len(gateway.settlements) == count


@pytest.mark.parametrize("door", [doors.CHAT, doors.MESSAGES], ids=lambda door: door.name)
async def test_spoiled_requests_through_the_gateway(gateway, provider, door):
    """Spoiled requests are served or refused in the door's envelope; never an internal error."""
    chance = random.Random(7)
    pairs = [pair for pair in FAMILIES if pair.door is door]
    provider.choose = lambda request: next(pair for pair in pairs if pair.path == request.path).answers()
    rich = _RICH_CHAT if door is doors.CHAT else _RICH_MESSAGES
    with trio.fail_after(60):
        for _ in range(max(20, int(60 * _SCALE))):
            body = spoil_json(chance, {**rich, "model": chance.choice(pairs).model, "stream": False})
            response = await gateway.ask(door, json.dumps(body).encode())
            assert response.status in {200, 400, 404, 502}, (body, response)
            if response.status != 200:
                door.error_of(response)
