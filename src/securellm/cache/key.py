"""What an answer is kept under: everything that may have a say in it, hashed. Pure.

The body counts whole, whatever its fields are called, but for the four that change nothing in an answer. It is read
and not compared as text: the order of keys, white space, escapes and the spelling of a number (`1`, `1.0`, `10e-1`)
make no difference, while numbers that differ in any digit do, also beyond what a double can hold. A body that two
readers may read differently (a key twice in one object) has no key, and so no entry. Beside the body count whose answer
it is (the team, else the user, else the key), the front door, the provider and model that the request resolves to, the
headers that change what a provider does, and the configuration's epoch.
"""

import hashlib
import json
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

from securellm.chat import Caller, Endpoint, Headers

# The caller's `stream` and `stream_options` choose the form, which is made anew; `user` and `metadata` are labels.
IGNORED = frozenset({"stream", "stream_options", "user", "metadata"})
# Headers that go up to the provider and change what it does.
HEADERS = frozenset({b"anthropic-version", b"anthropic-beta", b"openai-beta"})

_KINDS = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS, Endpoint.RESPONSES, Endpoint.MESSAGES})
# What a Responses body may ask for that leaves more behind at the provider than an answer.
_STATEFUL = ("background", "conversation")
_VERSION = b"securellm-answer-1"  # changes with whatever changes what an entry means


class _NoKey(Exception):
    """The body cannot be told apart from others for certain."""


class _Number(str):
    """A number as it is compared."""


def tenant_of(caller: Caller) -> str:
    """Whose answers a caller may be given: its team's, else its user's, else those of its key."""
    if caller.team_id is not None:
        return f"team {caller.team_id}"
    if caller.user_id is not None:
        return f"user {caller.user_id}"
    return f"key {caller.key_id}" if caller.key_id is not None else "nobody"


def answer_key(
    endpoint: Endpoint,
    body: bytes,
    *,
    tenant: str,
    provider: str,
    model: str,
    epoch: str,
    headers: Headers,
    headers_up: Iterable[str] = (),
) -> bytes | None:
    """The key of the answer, 32 bytes; None for a request whose answer is not to be kept.

    `headers` are the caller's; of these count the known ones and `headers_up`, what the operator sends on besides.
    """
    if endpoint not in _KINDS:
        return None
    try:
        members = json.loads(
            body, parse_int=_number, parse_float=_number, parse_constant=_refuse, object_pairs_hook=_object
        )
        if not isinstance(members, dict):
            return None
        if endpoint is Endpoint.RESPONSES and any(members.get(name) for name in _STATEFUL):
            return None
        canonical = bytearray()
        _append(canonical, {name: value for name, value in members.items() if name not in IGNORED})
    except (_NoKey, ValueError, RecursionError):
        return None
    counted = HEADERS | {name.lower().encode() for name in headers_up}
    said = sorted([name.decode("latin-1"), value.decode("latin-1")] for name, value in headers if name in counted)
    _append(canonical, [tenant, endpoint.value, provider, model, epoch, said])
    return hashlib.sha256(_VERSION + canonical).digest()


def _number(text: str) -> _Number:
    """The same text for the same number, to its last digit."""
    try:
        sign, digits, exponent = Decimal(text).as_tuple()
    except InvalidOperation as exc:
        raise _NoKey from exc
    if not isinstance(exponent, int):
        raise _NoKey
    kept = "".join(map(str, digits)).lstrip("0")
    stripped = kept.rstrip("0")
    if not stripped:
        return _Number("-0" if sign else "0")
    return _Number(f"{'-' if sign else ''}{stripped}e{exponent + len(kept) - len(stripped)}")


def _refuse(text: str) -> object:
    raise _NoKey  # NaN and the infinities are not JSON


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NoKey
    return members


def _append(canonical: bytearray, value: object) -> None:
    """A form in which two values are alike only if they are the same: each part says what it is and where it ends."""
    match value:
        case None:
            canonical += b"0"
        case bool():
            canonical += b"t" if value else b"f"
        case _Number():
            canonical += b"n%s;" % value.encode()
        case str():
            text = value.encode("utf-8", "surrogatepass")
            canonical += b"s%d:" % len(text)
            canonical += text
        case list():
            canonical += b"["
            for element in value:
                _append(canonical, element)
            canonical += b"]"
        case dict():
            canonical += b"{"
            for name in sorted(value):
                _append(canonical, name)
                _append(canonical, value[name])
            canonical += b"}"
