"""The heads of answers: what crosses from the provider, and what the gateway says of itself."""

import email.utils
import functools

from securellm.chat import Dialect, Endpoint, Headers, RequestId
from securellm.permit import Permit
from securellm.providers.request import AnswerHead

CONTENT_TYPE_JSON = (b"content-type", b"application/json")
CONTENT_TYPE_SSE = (b"content-type", b"text/event-stream; charset=utf-8")
AGAINST_BUFFERING: Headers = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]

_ASKED_ONCE = (b"x-securellm-attempts", b"1")
_ANTHROPIC = Dialect.ANTHROPIC  # an enum's members are slow to look up


def id_headers(endpoint: Endpoint | None, request_id: RequestId) -> Headers:
    """Our id of the request, under the names that the callers of that door look for."""
    value = request_id.encode("ascii")
    if endpoint is not None and endpoint.dialect is _ANTHROPIC:
        return [(b"x-request-id", value), (b"request-id", value)]
    return [(b"x-request-id", value)]


def served_by(permit: Permit) -> Headers:
    """Who answered, after how many attempts, and what was left out on the way."""
    headers = id_headers(permit.endpoint, permit.request_id)
    target = permit.answered_by
    if target is not None:
        headers += _named(target.provider.name, target.model)
    hold = permit.holdings.hold
    if hold is not None:
        headers += hold.headers()
    asked = permit.asked
    headers.append(_ASKED_ONCE if asked == 1 else (b"x-securellm-attempts", b"%d" % asked))
    if permit.dropped:
        headers.append((b"x-securellm-dropped", ", ".join(permit.dropped).encode("ascii", "backslashreplace")))
    return headers


@functools.lru_cache(maxsize=1024)
def _named(provider: str, model: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-securellm-provider", provider.encode("latin-1")),
        (b"x-securellm-model", model.encode("ascii", "backslashreplace")),
    )


def answer_headers(permit: Permit, head: AnswerHead, *, stream: bool, translated: bool) -> Headers:
    """The head of a 2xx. `translated` answers get the content type of the caller's dialect, others keep theirs."""
    headers = typed_headers(head, CONTENT_TYPE_SSE if stream else CONTENT_TYPE_JSON, replace=translated)
    if stream:
        headers += AGAINST_BUFFERING
    headers += served_by(permit)
    if permit.meter is not None and permit.meter.context_truncated:
        headers.append((b"x-securellm-context-truncated", b"true"))
    return headers


def typed_headers(head: AnswerHead, content_type: tuple[bytes, bytes], *, replace: bool) -> Headers:
    """The provider's headers that go down, with `content_type` behind them where it has none or is to be replaced."""
    if head.content_type is None:
        return [*head.down, content_type]
    if replace:
        return [*(header for header in head.down if header[0] != b"content-type"), content_type]
    return [*head.down]


def retry_after_s(provider_headers: Headers, *, now_s: float) -> float | None:
    """The provider's Retry-After (RFC 9110, 10.2.3) in seconds from `now_s` (Unix time); None when there is none."""
    for name, value in provider_headers:
        if name == b"retry-after":
            text = value.decode("latin-1").strip()
            try:
                return max(0.0, float(text))
            except ValueError:
                pass
            try:
                return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now_s)
            except ValueError:
                return None
    return None
