"""The head of a provider's request that is kept for callers whose headers are alike: the same as one made anew."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from securellm.chat import Call, Endpoint, Headers, RequestId
from securellm.config.secrets import Secret
from securellm.config.tree import Provider as Section
from securellm.providers.base import Provider
from securellm.providers.registry import describe
from securellm.providers.request import HEADERS_UP, build_request, dropped_headers
from securellm.routing import Target
from securellm.upstream.prepare import MAX_KEPT_HEAD_BYTES, MAX_KEPT_HEADS, Heads, Prepared, prepare
from securellm.wire.body import peek

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5}'
NAMES = [
    *sorted(HEADERS_UP),
    b"anthropic-beta",
    b"anthropic-version",
    b"authorization",
    b"connection",
    b"openai-beta",
    b"x-other",
    b"x-team",
]
VALUES = [b"a", b"b", b"accept, x-team", b"idempotency-key", b"text/plain"]


def _describe(name: str) -> Provider:
    return describe(name, Section(enabled=True, api_key=Secret(f"key of {name}"), headers_up=("X-Team", "Cookie")))


PROVIDERS = [_describe(name) for name in ("openai", "anthropic", "deepseek")]
KEPT = Heads()  # for all examples together


class Asking:
    def __init__(self, endpoint: Endpoint, headers: Headers, request_id: str) -> None:
        self.call = Call(endpoint, "/", headers, None, "127.0.0.1", RequestId(request_id), 0.0)  # type: ignore[arg-type]
        self.endpoint, self.request_id, self.body = endpoint, RequestId(request_id), BODY
        self.peeked = peek(endpoint, BODY)
        self.dropped: tuple[str, ...] = ()


def _prepare(provider: Provider, asking: Any, heads: Heads) -> Prepared:
    return prepare(asking, Target(provider, "m"), lambda target: None, heads)


@given(
    provider=st.sampled_from(PROVIDERS),
    endpoint=st.sampled_from([Endpoint.CHAT, Endpoint.MESSAGES]),
    headers=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=6),
    request_id=st.sampled_from(["r1", "r2"]),
    attempt=st.integers(1, 3),
)
def test_a_kept_head_is_what_it_would_be(
    provider: Provider, endpoint: Endpoint, headers: Headers, request_id: str, attempt: int
):
    """Whatever came before: the headers in order, with this request's own id and attempt, and what was dropped."""
    asking = Asking(endpoint, headers, request_id)
    found = _prepare(provider, asking, KEPT).request(attempt)
    made = build_request(provider, endpoint, headers, found.body, request_id=request_id, attempt=attempt)
    assert (found.method, found.url, found.origin) == (made.method, made.url, made.origin)
    assert [*found.headers] == [*made.headers]
    dialect = provider.endpoints[endpoint].dialect
    assert asking.dropped[: len(dropped_headers(headers, dialect))] == dropped_headers(headers, dialect)


def test_what_is_prepared_may_be_logged():
    """Neither the prompt nor a key is in what a log would show of it."""
    prepared = _prepare(PROVIDERS[0], Asking(Endpoint.CHAT, [(b"accept", b"a/b")], "r1"), Heads())
    assert prepared.body == BODY
    for shown in (repr(prepared), str(prepared), f"{[prepared]}"):
        assert '"hi"' not in shown
        assert "key of" not in shown


def test_alike_callers_have_one_head():
    """What does not matter to the provider makes no difference, so that a client need not encode it again."""
    provider, heads = _describe("deepseek"), Heads()
    first = _prepare(provider, Asking(Endpoint.CHAT, [(b"accept", b"*/*"), (b"host", b"a")], "r1"), heads)
    second = _prepare(provider, Asking(Endpoint.CHAT, [(b"cookie", b"x"), (b"accept", b"*/*")], "r2"), heads)
    assert isinstance(first.request(1).headers, tuple)
    assert first.request(1).headers is second.request(1).headers
    assert not isinstance(first.request(2).headers, tuple)


def test_what_is_kept_is_bounded():
    """Callers may send what they like: few heads are kept, none is long, and none holds what is never the same."""
    heads = Heads()
    for number in range(2 * MAX_KEPT_HEADS):
        _prepare(PROVIDERS[0], Asking(Endpoint.CHAT, [(b"accept", b"%d" % number)], "r"), heads)
        assert 0 < len(heads._kept) <= MAX_KEPT_HEADS
    held = len(heads._kept)
    for header in ((b"accept", b"x" * MAX_KEPT_HEAD_BYTES), (b"traceparent", b"00"), (b"idempotency-key", b"mine")):
        _prepare(PROVIDERS[0], Asking(Endpoint.CHAT, [header], "r"), heads)
        assert len(heads._kept) == held
