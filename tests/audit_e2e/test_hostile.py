"""Nothing that a caller or a provider writes can keep a request from being recorded, or the next one (5)."""

import json
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.books import PRICED, check_pairs, read_books, verify
from rig.gateway import RunningGateway
from rig.raw_client import fetch

_CHAT = doors.CHAT
_LONG = "x" * 300_000


def _whole(**over: Any) -> dict[str, Any]:
    return {**speech.CHAT.whole("Hello"), **over}


def _usage(value: Any) -> dict[str, Any]:
    return _whole(usage={"prompt_tokens": value, "completion_tokens": value, "total_tokens": value})


@pytest.mark.parametrize(
    "answer",
    [
        _usage(2**53),
        _usage(2**63),
        _usage(10**30),
        _usage(-5),
        _usage("7"),
        _usage(True),
        _usage([]),
        _whole(usage=[]),
        _whole(usage={"prompt_tokens": {}, "prompt_tokens_details": 7}),
        _whole(id=_LONG, model=_LONG),
        _whole(id={"a": 1}, model=7),
        _whole(choices=[{"index": 0, "finish_reason": _LONG, "message": {"role": "assistant", "content": "Hello"}}]),
        _whole(choices=[{"index": 0, "finish_reason": {}, "message": {"role": "assistant", "content": "\ud800"}}]),
        _whole(choices=None),
        _whole(choices=[None]),
    ],
    ids=lambda answer: json.dumps({name: answer[name] for name in ("usage", "id", "choices")})[:60],
)
async def test_what_a_provider_may_say(serving, provider, answer: dict[str, Any]):
    """Figures without sense and texts without end: a pair, a cost that is no nonsense, and the next request is fine."""
    provider.enqueue(*script.answer(200, answer, {"x-request-id": "u" * 3000}))
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(10):
        gateway: RunningGateway = await serving(provider, models={"openai/m1": PRICED})
        first = await gateway.ask(_CHAT, _CHAT.body("openai/m1"))
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == 200
        odd, fine = check_pairs(await read_books(gateway)).values()
        await gateway.stop()
    assert odd.closing["http_status"] == first.status
    assert odd.closing.get("cost_nusd", 0) >= 0
    assert fine.closing["usage_source"] == "reported"
    verify(gateway.config.state_dir.parent)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-request-id": "i" * 5000}, None),
        ({"x-request-id": "caf\xe9 \xff"}, None),
        ({"x-request-id": '"}{\\u0000'}, None),
        ({}, {"model": f"openai/{_LONG}"}),
        ({}, {"model": "openai/\ud800"}),
        ({}, {"model": "openai/\u0000\u2028\x7f"}),
        ({}, {"model": ""}),
        ({}, {"model": 7}),
        ({}, {"model": ["openai/m1"]}),
        ({}, {"model": "openai/m1", _LONG: 1}),
        ({}, {"model": "anthropic/m1", **{f"odd{number}" * 100: 1 for number in range(500)}}),
        ({}, {"model": "openai/m1", "stream": "yes"}),
    ],
    ids=range(12),
)
async def test_what_a_caller_may_say(serving, provider, headers: dict[str, str], body: dict[str, Any] | None):
    """Ids, names and fields without end or sense: a pair of bounded size, and the next request is fine."""
    provider.default = script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(10):
        gateway: RunningGateway = await serving(provider)
        sent = _CHAT.body("openai/m1") if body is None else json.dumps({**_CHAT.fields, **body}).encode()
        first = await fetch(gateway.base_url, "POST", _CHAT.path, sent, {**_CHAT.auth(), **headers})
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == 200
        odd, _ = check_pairs(await read_books(gateway)).values()
        await gateway.stop()
    assert odd.closing["http_status"] == first.status
    assert max(len(json.dumps(record)) for record in (odd.intent, odd.closing)) < 64 * 1024
    verify(gateway.config.state_dir.parent)
