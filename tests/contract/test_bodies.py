"""Same dialect means bytes, in both directions; usage is fetched always and shown to who asked (guarantees 12, 13)."""

import hashlib
import json

import pytest
import trio

from rig import doors, script, speech
from rig.pairs import PAIRS, Pair
from rig.speech import MODEL, OUTPUT_TOKENS

_SAME = tuple(pair for pair in PAIRS if pair.same_dialect)
_ODD = (
    b'{ "zeta":1.0e2 ,\r\n\t"messages" : [{"role":"user","content":"\\u00e9\xc3\xa9 \\/ "}],"max_tokens":5,'
    b'"prompt":"x","input" :"y","unknown_field":{"b":1,"a":[1, 2 ,3 ]}, "model":"m1" , "x":12345678901234567890}\n'
)


@pytest.mark.parametrize("pair", _SAME, ids=str)
async def test_bodies_are_forwarded_byte_for_byte(gateway, provider, pair: Pair):
    """With a bare model and X-Provider nothing is edited: the hashes of what was sent and received are equal."""
    body = json.dumps(pair.speech.whole("Hello é"), indent=3, ensure_ascii=False).encode()
    provider.enqueue(*script.answer(200, body))
    with trio.fail_after(10):
        response = await gateway.ask(pair.door, _ODD, {"x-provider": pair.provider})
        assert response.status == 200, response
        assert _sha256(provider.asked[0].body) == _sha256(_ODD)
        assert _sha256(response.body) == _sha256(body)
        settlement = await gateway.only_settlement()
        assert settlement.bytes_in == len(_ODD)


@pytest.mark.parametrize("pair", _SAME, ids=str)
async def test_a_prefix_is_spliced_out(gateway, provider, pair: Pair):
    """A `provider/model` name costs the model's own bytes and no others."""
    provider.enqueue(*pair.answers())
    with trio.fail_after(10):
        body = _ODD.replace(b'"m1"', b'"' + pair.model.encode() + b'"')
        assert (await gateway.ask(pair.door, body)).status == 200
        assert provider.asked[0].body == _ODD


@pytest.mark.parametrize("pair", _SAME, ids=str)
async def test_the_same_request_twice_is_the_same_upstream(gateway, provider, pair: Pair):
    """Two identical requests give identical upstream bytes, and headers that differ in ids at most."""
    provider.default = pair.answers()
    with trio.fail_after(10):
        for _ in range(2):
            await gateway.ask(pair.door, pair.door.body(pair.model))
        first, second = provider.asked
        assert first.body == second.body
        ids = {"idempotency-key", "x-request-id", "traceparent"}
        assert [header for header in first.headers if header[0] not in ids] == [
            header for header in second.headers if header[0] not in ids
        ]


@pytest.mark.parametrize("pair", [pair for pair in _SAME if pair.speech.events is not None], ids=str)
async def test_streams_come_back_byte_for_byte(gateway, provider, pair: Pair):
    """A stream's frames come back as they were sent: comments, spacing, unknown events, CRLF."""
    assert pair.speech.events is not None
    events = [*pair.speech.events(("Hé", "llo"))]
    odd = [b": a comment\n\n", b'event: x.unknown\r\ndata:  {"type":"x.unknown", "object":"x","choices":[]}\r\n\r\n']
    if pair.door.dialect == "anthropic":
        odd = [b": a comment\n\n", b'event: x_unknown\r\ndata: {"type":"x_unknown"}\r\n\r\n']
    data = b"".join([events[0], *odd, *events[1:]])
    provider.enqueue(*script.stream(script.cut(data, *range(7, len(data), 7)), "sse"))
    fields = {"stream_options": {"include_usage": True}} if pair.door.dialect == "openai" else {}
    with trio.fail_after(10):
        body = pair.door.body("m1", stream=True, **fields)
        response = await gateway.ask(pair.door, body, {"x-provider": pair.provider})
        assert response.body == data
        assert provider.asked[0].body == body


_USAGE_DOORS = tuple(pair for pair in _SAME if pair.door.name in {"chat", "completions"})


@pytest.mark.parametrize("options", ["none", "false", "other", "null"])
@pytest.mark.parametrize("pair", _USAGE_DOORS, ids=str)
async def test_usage_is_asked_for_and_hidden(gateway, provider, pair: Pair, options: str):
    """Who did not ask for usage does not see it; we do. The one edit of the request is `include_usage`."""
    fields = {
        "none": {},
        "false": {"stream_options": {"include_usage": False}},
        "other": {"stream_options": {"include_obfuscation": False}},
        "null": {"stream_options": None},
    }[options]
    assert pair.speech.events is not None
    events = pair.speech.events()
    provider.enqueue(*script.stream(events))
    with trio.fail_after(10):
        body = pair.door.body("m1", stream=True, **fields)
        response = await gateway.ask(pair.door, body, {"x-provider": pair.provider})
        assert response.status == 200, response
        assert response.body == b"".join(event for event in events if b'"choices":[]' not in event)
        sent = provider.asked[0].json()
        assert sent["stream_options"]["include_usage"] is True
        asked = json.loads(body)
        assert sent == {**asked, "stream_options": {**(asked.get("stream_options") or {}), "include_usage": True}}
        settlement = await gateway.only_settlement()
        assert settlement.usage is not None
        assert settlement.usage.completion_tokens == OUTPUT_TOKENS
        assert settlement.usage_source == "reported"


@pytest.mark.parametrize("pair", _USAGE_DOORS, ids=str)
async def test_usage_is_shown_to_who_asked(gateway, provider, pair: Pair):
    """Who asked sees the provider's own usage chunk, and the request is not edited."""
    assert pair.speech.events is not None
    events = pair.speech.events()
    provider.enqueue(*script.stream(events))
    with trio.fail_after(10):
        body = pair.door.body("m1", stream=True, stream_options={"include_usage": True})
        response = await gateway.ask(pair.door, body, {"x-provider": pair.provider})
        assert response.body == b"".join(events)
        assert provider.asked[0].body == body


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("provider_name", ["anthropic", "ollama"])
async def test_usage_across_dialects_has_openais_shape(gateway, provider, provider_name: str, asked: bool):
    """Across dialects the usage chunk is shown to who asked, with no choices, before [DONE]; to nobody else."""
    pair = next(pair for pair in PAIRS if pair.door is doors.CHAT and pair.provider == provider_name)
    provider.enqueue(*pair.answers(stream_it=True))
    fields = {"stream_options": {"include_usage": True}} if asked else {}
    with trio.fail_after(10):
        response = await gateway.ask(doors.CHAT, doors.CHAT.body(pair.model, stream=True, **fields))
        values = [json.loads(line[6:]) for line in response.body.split(b"\n\n") if line.startswith(b"data: {")]
        usages = [value for value in values if value.get("usage")]
        if not asked:
            assert usages == []
        else:
            (chunk,) = usages
            assert chunk is values[-1]
            assert chunk["choices"] == []
            assert chunk["usage"]["completion_tokens"] == OUTPUT_TOKENS
            assert chunk["usage"]["total_tokens"] == OUTPUT_TOKENS + speech.INPUT_TOKENS


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_missing_usage_is_estimated(gateway, provider, stream: bool):
    """A provider that reports none: an estimate, flagged, above zero since output was delivered."""
    if stream:
        events = speech.CHAT.events(("Hello there",), usage=False)
        provider.enqueue(*script.stream(events))
    else:
        whole = speech.CHAT.whole("Hello there")
        del whole["usage"]
        provider.enqueue(*script.answer(200, whole))
    with trio.fail_after(10):
        response = await gateway.ask(doors.CHAT, doors.CHAT.body(f"openai/{MODEL}", stream=stream))
        assert response.status == 200
        settlement = await gateway.only_settlement()
        assert settlement.usage_source == "estimated"
        assert settlement.usage is not None
        assert settlement.usage.completion_tokens > 0
        assert settlement.usage.prompt_tokens > 0


@pytest.mark.parametrize("identity", [None, "", "chatcmpl-same"])
async def test_odd_ids_lose_no_settlement(gateway, provider, identity: str | None):
    """Provider's ids that are null, empty or repeated leave one settlement each, under our own id (guarantee 5)."""
    provider.default = script.answer(200, {**speech.CHAT.whole(), "id": identity})
    with trio.fail_after(10):
        for _ in range(3):
            assert (await gateway.ask(doors.CHAT, doors.CHAT.body("openai/m1"))).status == 200
        await gateway.settled(3)
        assert len({settlement.request_id for settlement in gateway.settlements}) == len(gateway.settlements) == 3


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
