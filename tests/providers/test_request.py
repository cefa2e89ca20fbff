"""What goes up to a provider and what comes down: allow-lists, credentials, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm import __version__
from securellm.chat import Dialect, Endpoint, Headers
from securellm.config.secrets import Secret
from securellm.config.tree import Provider as Section
from securellm.errors import UnsupportedEndpoint
from securellm.providers.base import Provider, UpstreamRequest
from securellm.providers.registry import describe
from securellm.providers.request import (
    HEADERS_UP,
    NEVER_UP,
    AnswerHead,
    _meanings,
    allowed_up,
    build_models_request,
    build_request,
    dropped_headers,
    headers_up,
    read_answer_head,
)

KEY = "sk-canary-0123456789abcdef"


def _provider(name: str, **settings: object) -> Provider:
    return describe(name, Section(enabled=True, api_key=Secret(KEY), **settings))


def _build(provider: Provider, headers: Headers, endpoint: Endpoint = Endpoint.CHAT) -> UpstreamRequest:
    return build_request(provider, endpoint, headers, b'{"model":"m"}', request_id="id-1", attempt=2)


def _values(request: UpstreamRequest, name: bytes) -> list[bytes]:
    return [value for key, value in request.headers if key == name]


def test_a_whole_request() -> None:
    """A plain chat to OpenAI: the body untouched, our key, identity encoding, the hop mark, one idempotency key."""
    request = _build(_provider("openai"), [(b"content-type", b"application/json"), (b"host", b"gateway.test")])
    assert (request.method, request.url) == ("POST", "https://api.openai.com/v1/chat/completions")
    assert request.origin == "https://api.openai.com:443"
    assert request.body == b'{"model":"m"}'
    assert sorted(request.headers) == [
        (b"accept-encoding", b"identity"),
        (b"authorization", b"Bearer " + KEY.encode()),
        (b"content-type", b"application/json"),
        (b"idempotency-key", b"id-1"),
        (b"user-agent", b"securellm-bridge/" + __version__.encode()),
        (b"x-securellm-attempt", b"2"),
        (b"x-securellm-hop", b"1"),
    ]


def test_a_translated_body_is_json_whatever_the_caller_sent() -> None:
    """The caller's content type goes up with the caller's bytes; a translated body has its own."""
    form: Headers = [(b"content-type", b"application/x-www-form-urlencoded")]  # what `curl -d` says of anything
    assert _values(_build(_provider("openai"), form, Endpoint.CHAT), b"content-type") == [form[0][1]]
    assert _values(_build(_provider("openai"), form, Endpoint.MESSAGES), b"content-type") == [b"application/json"]


def test_anthropic_headers() -> None:
    """Anthropic gets x-api-key, and the caller's version or the default; betas go along untouched."""
    request = _build(_provider("anthropic"), [(b"anthropic-beta", b"a"), (b"anthropic-beta", b"b")], Endpoint.MESSAGES)
    assert _values(request, b"x-api-key") == [KEY.encode()]
    assert _values(request, b"authorization") == []
    assert _values(request, b"anthropic-version") == [b"2023-06-01"]
    assert _values(request, b"anthropic-beta") == [b"a", b"b"]
    newer = _build(_provider("anthropic"), [(b"anthropic-version", b"2024-01-01")], Endpoint.MESSAGES)
    assert _values(newer, b"anthropic-version") == [b"2024-01-01"]


def test_dialect_headers_stay_in_their_dialect() -> None:
    """Headers of Anthropic's door mean nothing to others: versions go nowhere, betas are told as dropped."""
    headers: Headers = [(b"anthropic-version", b"2023-06-01"), (b"anthropic-beta", b"a"), (b"openai-beta", b"b")]
    openai = _build(_provider("openai"), headers, Endpoint.MESSAGES)
    assert _values(openai, b"anthropic-version") == _values(openai, b"anthropic-beta") == []
    assert _values(openai, b"openai-beta") == [b"b"]
    assert dropped_headers(headers, Dialect.OPENAI) == ("anthropic-beta",)
    assert dropped_headers(headers, Dialect.ANTHROPIC) == ("openai-beta",)
    assert dropped_headers(headers, Dialect.OLLAMA) == ("anthropic-beta", "openai-beta")


def test_connection_cannot_strip_our_headers() -> None:
    """What the caller's Connection names is taken from the caller's headers only: never our key or our encoding."""
    headers: Headers = [
        (b"connection", b"keep-alive, Traceparent"),
        (b"connection", b"authorization, content-type,x-securellm-hop, accept-encoding"),
        (b"traceparent", b"00-1-2-01"),
        (b"content-type", b"text/plain"),
        (b"accept", b"text/event-stream"),
    ]
    request = _build(_provider("openai"), headers)
    assert _values(request, b"authorization") == [b"Bearer " + KEY.encode()]
    assert _values(request, b"accept-encoding") == [b"identity"]
    assert _values(request, b"x-securellm-hop") == [b"1"]
    assert _values(request, b"content-type") == [b"application/json"]
    assert _values(request, b"traceparent") == _values(request, b"connection") == []
    assert _values(request, b"accept") == [b"text/event-stream"]


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from(sorted(NEVER_UP | HEADERS_UP | {b"x-forwarded-for", b"x-securellm-hop", b"x-team"})),
                st.binary(min_size=1, max_size=12).map(bytes.lower),
            ),
            st.binary(max_size=12),
        )
    ),
    st.lists(st.sampled_from([*sorted(NEVER_UP), b"x-team", b"x-forwarded-host", b"x-securellm-hop"])),
)
def test_only_allowed_headers_go_up(headers: Headers, additions: list[bytes]) -> None:
    """Whatever the caller sends and the operator adds, credentials, addresses and hop-by-hop headers never go up."""
    allowed = HEADERS_UP | {b"openai-beta", b"x-team"}
    kept, present = headers_up(headers, allowed_up(Dialect.OPENAI, additions))
    assert present == {name for name, _ in kept}
    assert {name for name, _ in kept} <= allowed
    assert [pair for pair in kept if pair not in headers] == []


def test_additions_per_provider() -> None:
    """`headers_up` lets one more header through, at that provider only, and no credential however it is asked for."""
    headers: Headers = [(b"x-team", b"blue"), (b"authorization", b"Bearer callers-own"), (b"cookie", b"a=b")]
    section = {"headers_up": ("X-Team", "Authorization", "Cookie")}
    with_it = _build(_provider("openai", **section), headers)
    assert _values(with_it, b"x-team") == [b"blue"]
    assert _values(with_it, b"authorization") == [b"Bearer " + KEY.encode()]
    assert _values(with_it, b"cookie") == []
    assert _values(_build(_provider("openai"), headers), b"x-team") == []


def test_idempotency_keys() -> None:
    """The caller's key goes up everywhere; ours only where the provider knows the header, the same on every attempt."""
    callers = [(b"idempotency-key", b"mine")]
    assert _values(_build(_provider("openai"), callers), b"idempotency-key") == [b"mine"]
    assert _values(_build(_provider("groq"), callers), b"idempotency-key") == [b"mine"]
    assert _values(_build(_provider("groq"), []), b"idempotency-key") == []
    first, second = (
        build_request(_provider("openai"), Endpoint.CHAT, [], b"", request_id="id-1", attempt=attempt)
        for attempt in (1, 2)
    )
    assert _values(first, b"idempotency-key") == _values(second, b"idempotency-key") == [b"id-1"]


def test_a_repeated_single_header_goes_up_once() -> None:
    """Two content types would let two readers see two requests; the first one counts."""
    request = _build(_provider("openai"), [(b"content-type", b"application/json"), (b"content-type", b"text/plain")])
    assert _values(request, b"content-type") == [b"application/json"]


def test_no_key_no_credential() -> None:
    """A provider without a key is asked without one."""
    request = _build(describe("ollama", Section(enabled=True)), [])
    assert _values(request, b"authorization") == _values(request, b"x-api-key") == []


@pytest.mark.parametrize("name", ["openai", "gemini", "mistral", "openrouter", "deepseek", "nvidia", "groq"])
def test_keys_are_never_in_urls(name: str) -> None:
    """Bearer for all of OpenAI's dialect, Gemini included; a URL would be logged on the way."""
    request = _build(_provider(name), [])
    assert KEY not in request.url
    assert _values(request, b"authorization") == [b"Bearer " + KEY.encode()]


def test_the_repr_hides_values() -> None:
    """A request in a log or a traceback shows neither its headers nor its body."""
    request = _build(_provider("openai"), [(b"traceparent", b"caller-canary")])
    for text in (repr(request), str(request), f"{request}", repr([request])):
        assert KEY not in text
        assert "canary" not in text
        assert "model" not in text
        assert "api.openai.com" in text


def test_a_missing_endpoint_is_refused() -> None:
    """A provider is never asked at an endpoint that it does not have."""
    with pytest.raises(UnsupportedEndpoint):
        _build(_provider("anthropic"), [], Endpoint.EMBEDDINGS)


def test_the_list_of_models() -> None:
    """A sync asks with our key and our marks; the demo has no list to ask for."""
    request = build_models_request(_provider("anthropic"))
    assert request is not None
    assert (request.method, request.body) == ("GET", b"")
    assert _values(request, b"anthropic-version") == [b"2023-06-01"]
    assert _values(request, b"x-securellm-hop") == [b"1"]
    assert build_models_request(describe("demo", Section(enabled=True, kind="demo"))) is None


def test_headers_down() -> None:
    """Down come the type, hints on when to retry and rate limits under their own name; nothing else."""
    headers: Headers = [
        (b"Content-Type", b"application/json"),
        (b"retry-after", b"3"),
        (b"openai-processing-ms", b"12"),
        (b"anthropic-ratelimit-requests-limit", b"50"),
        (b"x-ratelimit-remaining-tokens", b"7"),
        (b"set-cookie", b"a=b"),
        (b"server", b"x"),
        (b"content-length", b"9"),
        (b"content-encoding", b"gzip"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"x-request-id", b"theirs"),
        (b"x-securellm-provider", b"forged"),
        (b"location", b"https://evil.test"),
    ]
    assert read_answer_head(headers).down == [
        (b"content-type", b"application/json"),
        (b"retry-after", b"3"),
        (b"openai-processing-ms", b"12"),
        (b"anthropic-ratelimit-requests-limit", b"50"),
        (b"x-upstream-ratelimit-remaining-tokens", b"7"),
    ]


def test_the_providers_own_id() -> None:
    """The provider's id is kept for the audit, under whichever name it comes."""
    assert read_answer_head([(b"x-request-id", b"a"), (b"cf-ray", b"c")]).request_id == "a"
    assert read_answer_head([(b"cf-ray", b"c"), (b"Request-Id", b"b")]).request_id == "b"
    assert read_answer_head([(b"date", b"x")]).request_id is None


def test_the_content_type_of_an_answer() -> None:
    """The first one counts, an empty one too; without any there is none."""
    assert read_answer_head([(b"Content-Type", b"a/b"), (b"content-type", b"c/d")]).content_type == b"a/b"
    assert read_answer_head([(b"content-type", b""), (b"content-type", b"c/d")]).content_type == b""
    assert read_answer_head([(b"retry-after", b"1")]).content_type is None


def test_many_names_of_headers_are_not_remembered() -> None:
    """Whatever providers send: what goes down stays the same, and what is remembered of their names is bounded."""
    for number in range(3000):
        odd = b"x-odd-%d" % number
        headers = [(odd, b"1"), (b"X-RateLimit-%d" % number, b"2"), (b"x-" * 5000 + odd, b"3"), (b"request-id", b"4")]
        assert read_answer_head(headers) == AnswerHead([(b"x-upstream-ratelimit-%d" % number, b"2")], None, "4")
    assert len(_meanings) <= 256
    assert max(map(len, _meanings)) <= 64


def test_providers_of_another_configuration() -> None:
    """What is remembered of a provider goes with it: one of the same name with another key sends that key."""
    for number in range(300):
        provider = describe("openai", Section(enabled=True, api_key=Secret(f"key-{number}")))
        assert _values(_build(provider, []), b"authorization") == [b"Bearer key-%d" % number]
