"""The key of an answer: whatever may have a say in it changes the key, and nothing else does."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.cache.key import IGNORED, answer_key, tenant_of
from securellm.chat import Caller, Endpoint, Headers, KeyId

# Every field that OpenAI and Anthropic document for the front doors (2026-11), each with two values.
FIELDS: dict[Endpoint, dict[str, tuple[Any, Any]]] = {
    Endpoint.CHAT: {
        "messages": ([{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]),
        "model": ("gpt-4o", "gpt-4o-mini"),
        "audio": ({"voice": "ash"}, {"voice": "ballad"}),
        "frequency_penalty": (0, 0.5),
        "function_call": ("none", "auto"),
        "functions": ([], [{"name": "f"}]),
        "logit_bias": ({"1": 2}, {"1": 3}),
        "logprobs": (True, False),
        "max_completion_tokens": (1, 2),
        "max_tokens": (1, 2),
        "modalities": (["text"], ["text", "audio"]),
        "n": (1, 2),
        "parallel_tool_calls": (True, False),
        "prediction": (None, {"type": "content", "content": "x"}),
        "presence_penalty": (0, 1),
        "prompt_cache_key": ("a", "b"),
        "reasoning_effort": ("low", "high"),
        "response_format": ({"type": "text"}, {"type": "json_object"}),
        "safety_identifier": ("a", "b"),
        "seed": (2**53, 2**53 + 1),
        "service_tier": ("auto", "flex"),
        "stop": ("a", ["a"]),
        "store": (True, False),
        "temperature": (0, 1),
        "tool_choice": ("none", "auto"),
        "tools": ([{"type": "function", "function": {"name": "f"}}], []),
        "top_logprobs": (1, 2),
        "top_p": (0.1, 0.2),
        "verbosity": ("low", "high"),
        "web_search_options": ({}, {"search_context_size": "low"}),
    },
    Endpoint.COMPLETIONS: {
        "model": ("a", "b"),
        "prompt": ("a", ["a"]),
        "best_of": (1, 2),
        "echo": (True, False),
        "logprobs": (1, 2),
        "suffix": ("a", "b"),
        "max_tokens": (1, 2),
        "temperature": (0.0, 1e-300),
    },
    Endpoint.EMBEDDINGS: {
        "model": ("a", "b"),
        "input": ("a", [1, 2]),
        "dimensions": (10, 20),
        "encoding_format": ("float", "base64"),
    },
    Endpoint.RESPONSES: {
        "model": ("a", "b"),
        "input": ("a", [{"role": "user", "content": "a"}]),
        "include": ([], ["reasoning.encrypted_content"]),
        "instructions": ("a", "b"),
        "max_output_tokens": (1, 2),
        "max_tool_calls": (1, 2),
        "previous_response_id": ("a", "b"),
        "prompt": ({"id": "a"}, {"id": "b"}),
        "reasoning": ({"effort": "low"}, {"effort": "high"}),
        "store": (True, False),
        "text": ({"format": {"type": "text"}}, {"format": {"type": "json_object"}}),
        "tools": ([], [{"type": "web_search"}]),
        "truncation": ("auto", "disabled"),
    },
    Endpoint.MESSAGES: {
        "model": ("a", "b"),
        "messages": (
            [{"role": "user", "content": "a"}],
            [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        ),
        "max_tokens": (1, 2),
        "container": ("a", "b"),
        "context_management": ({}, {"edits": []}),
        "mcp_servers": ([], [{"name": "a"}]),
        "service_tier": ("auto", "standard_only"),
        "stop_sequences": (["a"], ["b"]),
        "system": ("a", [{"type": "text", "text": "a"}]),
        "temperature": (0.5, 0.25),
        "thinking": ({"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}),
        "tool_choice": ({"type": "auto"}, {"type": "any"}),
        "tools": ([{"name": "a"}], [{"name": "a", "cache_control": {"type": "ephemeral"}}]),
        "top_k": (1, 2),
        "top_p": (0.1, 0.11),
    },
}


def key(body: object, endpoint: Endpoint = Endpoint.CHAT, **changes: Any) -> bytes | None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers: Headers = changes.pop("headers", [])
    inputs = {"tenant": "team a", "provider": "openai", "model": "gpt-4o", "epoch": "e1", **changes}
    return answer_key(endpoint, text, headers=headers, **inputs)


def _cases() -> list[Any]:
    return [
        pytest.param(endpoint, name, id=f"{endpoint.value}-{name}")
        for endpoint, fields in FIELDS.items()
        for name in fields
    ]


@pytest.mark.parametrize(("endpoint", "name"), _cases())
def test_every_field_counts(endpoint: Endpoint, name: str) -> None:
    """A field changed, or taken away, is another question."""
    body = {field: values[0] for field, values in FIELDS[endpoint].items()}
    other = {**body, name: FIELDS[endpoint][name][1]}
    less = {field: value for field, value in body.items() if field != name}
    assert len({key(body, endpoint), key(other, endpoint), key(less, endpoint)}) == 3
    assert key(body, endpoint) is not None


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(name=st.text(min_size=1), value=values, place=st.sampled_from(["top", "inside"]))
def test_an_unknown_field_counts(name: str, value: object, place: str) -> None:
    """Whatever a provider adds tomorrow is part of the question, at any depth."""
    body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}]}
    target = body if place == "top" else body["messages"][0]
    if name in target:
        return
    before = key(body)
    target[name] = value
    if place == "top" and name in IGNORED:
        assert key(body) == before
    else:
        assert key(body) != before


@given(value=values, other=values)
def test_different_values_have_different_keys(value: object, other: object) -> None:
    """Two values share a key only if they are the same JSON."""
    same = key({"x": value}) == key({"x": other})
    assert same == (_plain(value) == _plain(other))


def _plain(value: object) -> object:
    """As compared by the rules of JSON, with exact numbers: `1` is `1.0` and is not `true`; -0 and 0 are told apart."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int | float):
        from fractions import Fraction

        return ("number", Fraction(json.dumps(value)), value == 0 and str(value).startswith("-"))
    if isinstance(value, list):
        return [_plain(element) for element in value]
    if isinstance(value, dict):
        return {("name", name): _plain(element) for name, element in value.items()}
    return value


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_labels_and_the_form_do_not_count(name: str) -> None:
    """The fields on the list change nothing at the top level, and count inside of something."""
    body = {"model": "m", "messages": []}
    assert key({**body, name: "x"}) == key(body) == key({**body, name: {"y": 1}})
    assert key({**body, "tools": [{name: 1}]}) != key({**body, "tools": [{name: 2}]})


@pytest.mark.parametrize(
    "spelling",
    [
        b'{"a":1,"b":"\xc3\xa9","c":[100,0.5]}',
        b'{ "c" : [1e2 , 5e-1],\n"b":"\\u00e9", "a": 1.0 }',
        b'{"b":"\\u00E9","a":10e-1,"c":[100.000,0.50]}',
    ],
)
def test_spelling_does_not_count(spelling: bytes) -> None:
    """White space, the order of keys, escapes and the way a number is written."""
    assert key(spelling) == key(b'{"a":1,"b":"\xc3\xa9","c":[100,0.5]}')


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"seed":9007199254740993}', b'{"seed":9007199254740992}'),
        (b'{"seed":123456789012345678901234567890}', b'{"seed":123456789012345678901234567891}'),
        (b'{"t":0.1}', b'{"t":0.10000000000000001}'),
        (b'{"t":1}', b'{"t":true}'),
        (b'{"t":1}', b'{"t":"1"}'),
        (b'{"t":null}', b"{}"),
        (b'{"t":["a","b"]}', b'{"t":["ab"]}'),
        (b'{"t":[["a"],"b"]}', b'{"t":[["a","b"]]}'),
        (b'{"t":[1,2]}', b'{"t":[2,1]}'),
        (b'{"t":""}', b'{"t":[]}'),
    ],
)
def test_what_looks_alike_is_told_apart(one: bytes, other: bytes) -> None:
    """Digits beyond a double, types, nesting and order."""
    assert key(one) != key(other)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"a":', b'{"a":{"b":1,"b":2}}', b'{"a":NaN}', b'{"a":1e999999999999999999999}', b"[" * 100_000],
)
def test_what_cannot_be_told_has_no_key(body: bytes) -> None:
    """Then nothing is looked for and nothing kept."""
    assert key(body) is None


@pytest.mark.parametrize("field", ["background", "conversation"])
def test_responses_that_leave_more_behind_have_no_key(field: str) -> None:
    """One that goes on at the provider cannot be stood for by an older answer."""
    assert key({"model": "m", "input": "a", field: True}, Endpoint.RESPONSES) is None


@pytest.mark.parametrize("endpoint", [Endpoint.COUNT_TOKENS, Endpoint.SYNC])
def test_other_doors_have_no_key(endpoint: Endpoint) -> None:
    """What costs nothing is not kept."""
    assert key({"model": "m", "messages": []}, endpoint) is None


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "team b"},
        {"provider": "azure"},
        {"model": "gpt-4o-mini"},
        {"epoch": "e2"},
        {"headers": [(b"anthropic-beta", b"context-1m")]},
        {"headers": [(b"openai-beta", b"x")]},
        {"endpoint": Endpoint.COMPLETIONS},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_stands_beside_the_body_counts(change: dict[str, Any]) -> None:
    """Tenant, provider, model, epoch, front door, and the headers that change what a provider does."""
    body = {"model": "m", "messages": []}
    assert key(body, **change) != key(body)


def test_only_headers_that_matter_count() -> None:
    """Credentials and trace ids do not; what the operator sends on does."""
    body = {"model": "m", "messages": []}
    headers: Headers = [(b"authorization", b"Bearer x"), (b"traceparent", b"00-1"), (b"x-variant", b"b")]
    assert key(body, headers=headers) == key(body)
    assert key(body, headers=headers, headers_up=("X-Variant",)) != key(body)


def test_tenants_are_told_apart() -> None:
    """A team shares; a user of none has its own; a key of nobody has its own; names of one kind are not another's."""
    callers = [
        Caller(KeyId("k1"), "u1", team_id="x"),
        Caller(KeyId("k2"), "u2", team_id="x"),
        Caller(KeyId("k3"), "x"),
        Caller(KeyId("x"), None),
        Caller(KeyId("y"), None),
        Caller(None, None),
    ]
    tenants = [tenant_of(caller) for caller in callers]
    assert tenants[0] == tenants[1]
    assert len(set(tenants)) == 5
