"""Usage as real providers reported it -> disjoint buckets -> cost, with the arithmetic written out (guarantees 13, 14).

Each file in usage/ is one answer of the recorded corpus, named by its id: what the provider reported (several times,
where it did so), the buckets, the price in nano-USD a token, the sum, and the provider's own figure where it gave one.
"""

import json
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from securellm.chat import Dialect, Endpoint, Relay, Usage
from securellm.config.tree import Config
from securellm.pricing.cost import cost_nusd
from securellm.pricing.kept import load_table
from securellm.pricing.price import Price
from securellm.pricing.table import record_usage
from securellm.wire.relay import open_relay
from securellm.wire.usage import (
    merge_reported,
    usage_from_anthropic,
    usage_from_ollama,
    usage_from_openai,
    usage_from_responses,
)

VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "usage").glob("*.json"))}
PARSERS = {
    "openai": usage_from_openai,
    "responses": usage_from_responses,
    "anthropic": usage_from_anthropic,
    "ollama": usage_from_ollama,
}
NOT_SHIPPED = {"perplexity", "together", "moonshotai", "cerebras", "huggingface"}
CENTRAL = {"openai", "anthropic", "deepseek", "gemini", "groq", "mistral", "xai", "openrouter", "ollama", "llamacpp"}

CROSSING = {name: vector for name, vector in VECTORS.items() if vector["convention"] != "responses"}  # has one door
every_vector = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())


def _merged(vector: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for reported in vector["reported"]:
        merged = merge_reported(merged, reported)
    return merged


def _usage(vector: dict[str, Any]) -> Usage:
    return PARSERS[vector["convention"]](_merged(vector))


def _price(vector: dict[str, Any]) -> Price:
    if vector.get("free"):
        return Price(free=True)
    per_token = vector["nusd_per_token"]
    return Price(**{bucket: int(Decimal(nusd) * 1_000_000) for bucket, nusd in per_token.items()})


def _written_out(arithmetic: str) -> int:
    """The sum of `tokens*nano-USD a token`, rounded once, without the code under test."""
    total = Decimal(0)
    for term in arithmetic.split(" + "):
        tokens, _, nusd = term.partition("*")
        total += Decimal(tokens) * Decimal(nusd or 1)
    return int(total.to_integral_value(ROUND_HALF_UP))


def test_the_table_is_wide_enough() -> None:
    """At least 45 real bodies, of every provider that we know by name, whole and streamed."""
    assert len(VECTORS) >= 45
    assert {vector["provider"] for vector in VECTORS.values()} >= CENTRAL
    kinds = {vector["kind"] for vector in VECTORS.values()}
    assert kinds == {"json", "sse", "ndjson"}
    seen = {bucket for vector in VECTORS.values() for bucket in vector["buckets"]}
    assert seen == set(msgspec.structs.asdict(Usage())) - {"image_tokens"}  # no recording counts images apart


@every_vector
def test_reported_usage_becomes_buckets(vector: dict[str, Any]) -> None:
    """What the provider reported, merged field by field, is these buckets and no others."""
    assert record_usage(_usage(vector)) == vector["buckets"]


@every_vector
def test_the_buckets_are_the_providers_own_total(vector: dict[str, Any]) -> None:
    """The buckets add up to what the provider says that there was, by its own way of counting."""
    merged, usage = _merged(vector), _usage(vector)
    if vector["convention"] == "anthropic":
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        total = sum(merged.get(name) or 0 for name in names)
    elif vector["convention"] == "ollama":
        total = merged.get("prompt_eval_count", 0) + merged.get("eval_count", 0)
    else:
        total = merged["total_tokens"]
    assert usage.total_tokens == total
    assert sum(tokens for bucket, tokens in vector["buckets"].items() if bucket != "reasoning_tokens") == total
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens


@every_vector
def test_the_cost_is_the_written_sum(vector: dict[str, Any]) -> None:
    """Buckets times price is the sum as written out, to the nano-USD."""
    assert _written_out(vector["arithmetic"]) == vector["cost_nusd"]
    assert cost_nusd(_usage(vector), _price(vector)) == vector["cost_nusd"]


def test_the_cost_is_what_the_provider_says() -> None:
    """xAI and OpenRouter put the cost into their answers: ours is the same, to the nano-USD."""
    own = {name: vector for name, vector in VECTORS.items() if "own_cost_nusd" in vector}
    assert len(own) >= 18
    assert {vector["provider"] for vector in own.values()} == {"xai", "openrouter"}
    wrong = {
        name: (cost_nusd(_usage(vector), _price(vector)), vector["own_cost_nusd"])
        for name, vector in own.items()
        if cost_nusd(_usage(vector), _price(vector)) != vector["own_cost_nusd"]
    }
    assert wrong == {}


@every_vector
def test_the_shipped_table_prices_what_was_recorded(vector: dict[str, Any]) -> None:
    """Every recorded model of a provider that we ship prices for has one, under the id that was recorded."""
    price = load_table(Config(), every=True).find(vector["provider"], vector["model"])
    assert (price is None) == (vector["provider"] in NOT_SHIPPED)


# -- whole answers, streams, and what is shown of them ---------------------------------------------------------------


@every_vector
def test_a_stream_costs_what_the_whole_answer_costs(vector: dict[str, Any]) -> None:
    """The same usage in a whole body and at the end of a stream is metered alike, and is these buckets."""
    whole, streamed = _opened(vector, stream=False), _opened(vector, stream=True)
    whole.whole(_body(vector))
    _feed(streamed, _stream(vector))
    assert whole.meter.usage == streamed.meter.usage
    assert streamed.meter.usage is not None
    assert record_usage(streamed.meter.usage) == vector["buckets"]


@every_vector
@pytest.mark.parametrize("asked", [True, False])
def test_usage_is_metered_whether_it_was_asked_for_or_not(vector: dict[str, Any], asked: bool) -> None:
    """A caller who did not ask for usage in a stream is shown none that we caused; what is metered is the same."""
    relay = _opened(vector, stream=True, show_usage=asked, injected_usage=not asked)
    shown = _feed(relay, _stream(vector))
    assert relay.meter.usage is not None
    assert record_usage(relay.meter.usage) == vector["buckets"]
    if vector["convention"] == "openai":
        empty = [event for event in _events(shown) if event.get("choices") == [] and event.get("usage")]
        assert len(empty) == (1 if asked else 0)


@every_vector
def test_a_cumulative_report_is_not_multiplied(vector: dict[str, Any]) -> None:
    """Usage that is repeated with every chunk, as Perplexity does, counts once."""
    relay = _opened(vector, stream=True)
    repeated = {**vector, "reported": [_merged(vector)] * 7}
    _feed(relay, _stream(repeated))
    assert relay.meter.usage is not None
    assert record_usage(relay.meter.usage) == vector["buckets"]


@pytest.mark.parametrize("vector", CROSSING.values(), ids=CROSSING.keys())
def test_crossing_the_dialects_keeps_the_buckets(vector: dict[str, Any]) -> None:
    """At a door of another dialect the meter sees the same usage, whole and streamed."""
    other = Endpoint.MESSAGES if vector["convention"] == "openai" else Endpoint.CHAT
    whole, streamed = _opened(vector, stream=False, door=other), _opened(vector, stream=True, door=other)
    whole.whole(_body(vector))
    _feed(streamed, _stream(vector))
    for relay in (whole, streamed):
        assert relay.meter.usage is not None
        assert record_usage(relay.meter.usage) == vector["buckets"]


_DOORS = {
    "openai": (Endpoint.CHAT, Dialect.OPENAI),
    "responses": (Endpoint.RESPONSES, Dialect.RESPONSES),
    "anthropic": (Endpoint.MESSAGES, Dialect.ANTHROPIC),
    "ollama": (Endpoint.CHAT, Dialect.OLLAMA),
}


def _opened(
    vector: dict[str, Any],
    *,
    stream: bool,
    show_usage: bool = True,
    injected_usage: bool = False,
    door: Endpoint | None = None,
) -> Relay:
    endpoint, dialect = _DOORS[vector["convention"]]
    return open_relay(
        door or endpoint,
        dialect,
        stream=stream,
        show_usage=show_usage,
        injected_usage=injected_usage,
        request_id="rid",
        model=f"{vector['provider']}/{vector['model']}",
        created_s=5,
    )


def _feed(relay: Relay, data: bytes) -> bytes:
    """Everything that the caller is shown of a stream that arrives in pieces of 100 bytes."""
    shown = b""
    for start in range(0, len(data), 100):
        relayed = relay.feed(data[start : start + 100])
        shown += relayed.data + relayed.held
    relayed = relay.end()
    assert relay.terminal
    return shown + relayed.data + relayed.held


def _events(shown: bytes) -> list[dict[str, Any]]:
    payloads = [line.removeprefix(b"data: ") for line in shown.splitlines() if line.startswith(b"data: ")]
    return [json.loads(payload) for payload in payloads if payload != b"[DONE]"]


def _body(vector: dict[str, Any]) -> bytes:
    usage = _merged(vector)
    match vector["convention"]:
        case "openai":
            choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
            body = {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
        case "responses":
            body = {"id": "r", "object": "response", "status": "completed", "output": [], "usage": usage}
        case "anthropic":
            content = [{"type": "text", "text": "hi"}]
            body = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content}
            body |= {"stop_reason": "end_turn", "usage": usage}
        case _:
            body = {"model": "m", "message": {"role": "assistant", "content": "hi"}, "done": True, **usage}
            body |= {"done_reason": "stop"}
    return json.dumps(body).encode()


def _stream(vector: dict[str, Any]) -> bytes:
    reported = vector["reported"]
    match vector["convention"]:
        case "openai":
            return _openai_stream(reported)
        case "responses":
            done = {"id": "r", "object": "response", "status": "completed", "output": [], "usage": _merged(vector)}
            opening = {"id": "r", "object": "response", "status": "in_progress", "output": [], "usage": None}
            return _sse(
                {"type": "response.created", "response": opening},
                {"type": "response.output_text.delta", "delta": "hi", "item_id": "i"},
                {"type": "response.completed", "response": done},
            )
        case "anthropic":
            return _anthropic_stream(reported)
        case _:
            said = {"model": "m", "message": {"role": "assistant", "content": "hi"}, "done": False}
            last = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
            return b"".join(json.dumps(line).encode() + b"\n" for line in (said, last | _merged(vector)))


def _openai_stream(reported: list[dict[str, Any]]) -> bytes:
    """The last report in a chunk without choices, as OpenAI sends it; earlier ones beside text, as Perplexity does."""
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = {**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "h"}, "finish_reason": None}]}
    chunks = [said, *({**said, "usage": usage} for usage in reported[:-1])]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**base, "choices": [], "usage": reported[-1]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def _anthropic_stream(reported: list[dict[str, Any]]) -> bytes:
    """The first report in message_start, where output has hardly begun; the last in message_delta."""
    first = {name: value for name, value in reported[0].items() if name != "output_tokens_details"}
    if len(reported) == 1:
        first["output_tokens"] = 1
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": first}
    deltas = [{"type": "message_delta", "delta": {}, "usage": usage} for usage in reported[1:-1]]
    return _sse(
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        *deltas,
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": reported[-1]},
        {"type": "message_stop"},
    )


def _sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)
