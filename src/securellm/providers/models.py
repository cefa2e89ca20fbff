"""What is known of a model, how providers list theirs, and how `/v1/models` shows them. Pure."""

import calendar
import itertools
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from securellm.chat import Dialect
from securellm.errors import UpstreamInvalid
from securellm.providers.base import Provider
from securellm.providers.registry import ADAPTERS

MAX_MODELS = 10_000  # of one provider's list; the longest known has about a thousand
MAX_ID_CHARS = 256

_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?[Zz])?", re.ASCII)
_CONTEXT_FIELDS = ("context_window", "context_length", "max_context_length", "max_model_len", "max_input_tokens")
_MAX_OUTPUT_FIELDS = ("max_completion_tokens", "max_output_length", "max_tokens")


class ModelCard(msgspec.Struct, frozen=True):
    """One model of one provider. None where the provider and our catalogue say nothing."""

    provider: str
    model: str  # the provider's own id
    context: int | None = None  # window in tokens
    max_output: int | None = None  # tokens
    created_s: int = 0  # Unix seconds as the provider says; 0 is unknown
    display_name: str | None = None
    free: bool = False  # no price is due

    @property
    def id(self) -> str:
        """The id by which callers name it."""
        return f"{self.provider}/{self.model}"


def parse_models(provider: Provider, body: bytes) -> list[ModelCard]:
    """The models in a provider's own list, in its order. Raises UpstreamInvalid when it is not such a list.

    OpenAI's and Anthropic's lists are `data`, Ollama's `models`; some servers send the bare array. Entries without a
    usable id are left out.
    """
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise UpstreamInvalid(f"provider {provider.name} sent a list of models that is not JSON") from exc
    listing = ADAPTERS[provider.kind].models
    key = "models" if listing is not None and listing.dialect is Dialect.OLLAMA else "data"
    entries = decoded.get(key) if isinstance(decoded, dict) else decoded
    if not isinstance(entries, list):
        raise UpstreamInvalid(f"provider {provider.name} sent no list of models, expected {key!r}")
    cards: dict[str, ModelCard] = {}
    for entry in entries[:MAX_MODELS]:
        card = _parse_entry(provider, entry) if isinstance(entry, dict) else None
        if card is not None:
            cards.setdefault(card.model, card)
    return list(cards.values())


def card_openai(card: ModelCard) -> dict[str, Any]:
    """A model as OpenAI's API shows it. `created` is 0 when the provider gave no date."""
    shown: dict[str, Any] = {"id": card.id, "object": "model", "created": card.created_s, "owned_by": card.provider}
    if card.context is not None:
        shown["context_window"] = card.context
    if card.max_output is not None:
        shown["max_completion_tokens"] = card.max_output
    return shown


def card_anthropic(card: ModelCard) -> dict[str, Any]:
    """A model as Anthropic's API shows it. `created_at` is the epoch when the provider gave no date."""
    shown: dict[str, Any] = {
        "type": "model",
        "id": card.id,
        "display_name": card.display_name or card.model,
        "created_at": encode_date(card.created_s),
    }
    if card.context is not None:
        shown["max_input_tokens"] = card.context
    if card.max_output is not None:
        shown["max_tokens"] = card.max_output
    return shown


def list_openai(cards: Iterable[ModelCard]) -> dict[str, Any]:
    """The whole list in OpenAI's shape."""
    return {"object": "list", "data": [card_openai(card) for card in cards]}


def list_anthropic(cards: Iterable[ModelCard]) -> dict[str, Any]:
    """The whole list in Anthropic's shape, on one page."""
    data = [card_anthropic(card) for card in cards]
    return {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def parse_date_s(text: str) -> int:
    """Unix seconds of an RFC 3339 date or UTC time, 0 when it is neither."""
    match = _DATE.fullmatch(text)
    if match is None:
        return 0
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]):
        return 0
    return calendar.timegm((year, month, day, hour, minute, second))


def encode_date(seconds: int) -> str:
    """RFC 3339, in UTC, of Unix seconds."""
    days, rest = divmod(seconds, 86_400)
    for year in itertools.count(1970):
        length = 366 if calendar.isleap(year) else 365
        if days < length:
            break
        days -= length
    month = 1
    while days >= calendar.monthrange(year, month)[1]:
        days -= calendar.monthrange(year, month)[1]
        month += 1
    return f"{year:04}-{month:02}-{days + 1:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"


def _parse_entry(provider: Provider, entry: dict[str, Any]) -> ModelCard | None:
    model = entry.get("id") or entry.get("model") or entry.get("name")
    if not isinstance(model, str) or not model.isprintable() or len(model) > MAX_ID_CHARS:
        return None
    model = model.removeprefix(provider.quirks.model_id_prefix)
    if not model:
        return None
    name = entry.get("display_name")
    return ModelCard(
        provider=provider.name,
        model=model,
        context=_first_count(entry, _CONTEXT_FIELDS),
        max_output=_first_count(entry, _MAX_OUTPUT_FIELDS),
        created_s=_created_s(entry),
        display_name=name if isinstance(name, str) else None,
    )


def _first_count(entry: dict[str, Any], fields: tuple[str, ...]) -> int | None:
    for field in fields:
        value = entry.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _created_s(entry: dict[str, Any]) -> int:
    created = entry.get("created")
    if isinstance(created, int) and 0 < created < 2**33:
        return created
    written = entry.get("created_at")
    return parse_date_s(written) if isinstance(written, str) else 0
