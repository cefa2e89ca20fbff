"""Requests and answers that cross from one family's door to another's provider. Pure.

The doors that cross are chat completions and messages; the providers' dialects OpenAI, Anthropic and Ollama. A request
is read into neutral words and written again (`*_door.py`, `*_provider.py`), guarded by the table of fields; an answer
is decoded into neutral events and encoded again (`*_decoder.py`, `*_answer.py`). Streams and whole answers go through
the same events and the same encoder, so after accumulation they are equal for any cutting of the bytes.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from securellm.chat import Dialect, Endpoint, Meter, Relayed
from securellm.errors import (
    BadRequest,
    ProviderError,
    SecureLLMError,
    UnsupportedEndpoint,
    UpstreamInvalid,
    UpstreamTruncated,
)
from securellm.wire.anthropic_answer import AnthropicAnswer
from securellm.wire.anthropic_decoder import AnthropicDecoder
from securellm.wire.anthropic_door import parse_messages_request
from securellm.wire.anthropic_provider import encode_messages_request
from securellm.wire.envelope import encode_error, encode_error_event, parse_error
from securellm.wire.fields import sift
from securellm.wire.ollama_decoder import OllamaDecoder
from securellm.wire.ollama_provider import encode_ollama_request
from securellm.wire.openai_answer import OpenAIAnswer
from securellm.wire.openai_decoder import OpenAIDecoder
from securellm.wire.openai_door import parse_chat_request
from securellm.wire.openai_provider import encode_chat_request
from securellm.wire.reading import read_document
from securellm.wire.words import (
    Capabilities,
    ContextTruncated,
    Dropped,
    Ended,
    Event,
    Failed,
    Finished,
    JSONObject,
    RedactedThinking,
    RefusalDelta,
    Request,
    Started,
    TextDelta,
    ThinkingDelta,
    ThinkingEnded,
    ToolArguments,
    ToolStarted,
    UsageReported,
)

ANY = Capabilities()


class Translated(msgspec.Struct, frozen=True):
    """A request in the provider's dialect, and what was left out of it."""

    body: bytes
    dropped: tuple[str, ...]


def translate_request(
    door: Endpoint,
    provider_dialect: Dialect,
    body: bytes,
    *,
    model: str,
    max_output_tokens: int,
    num_ctx: int | None = None,
    capabilities: Capabilities = ANY,
) -> Translated:
    """The caller's body for a provider of another dialect.

    `model` is the provider's own id; `max_output_tokens` stands in where the dialect must say one and the caller did
    not; `num_ctx` is Ollama's window in tokens. Raises UnsupportedField and BadRequest with the field in `param`,
    UnsupportedEndpoint for a pair that does not cross.
    """
    document = read_document(body)
    dropped = Dropped()
    if door not in (Endpoint.CHAT, Endpoint.MESSAGES) or door.dialect is provider_dialect:
        raise _uncrossable(door, provider_dialect)
    if provider_dialect is Dialect.RESPONSES:
        raise _uncrossable(door, provider_dialect)
    sift(door, provider_dialect, document, dropped)
    parse = parse_chat_request if door is Endpoint.CHAT else parse_messages_request
    request = parse(document, dropped)
    encoded = _encode(
        provider_dialect,
        request,
        model=model,
        max_output_tokens=max_output_tokens,
        num_ctx=num_ctx,
        capabilities=capabilities,
        dropped=dropped,
    )
    try:
        written = msgspec.json.encode(encoded)
    except RecursionError as exc:  # read with fewer frames below it than it is written with
        raise BadRequest("the body is nested too deeply") from exc
    return Translated(
        body=written,
        dropped=dropped.names(),
    )


def open_translating_relay(
    endpoint: Endpoint,
    provider_dialect: Dialect,
    *,
    stream: bool,
    show_usage: bool,
    injected_usage: bool,
    request_id: str,
    model: str,
    created_s: int,
    num_ctx: int | None = None,
) -> "TranslatingRelay":
    """The relay of one answer to `endpoint` from a provider of another dialect; keywords as in `relay.open_relay`.

    `stream` and `injected_usage` need no attention here: the caller of the relay picks `feed` or `whole`, and a
    translated stream shows usage exactly when `show_usage` says so.
    """
    identity = request_id.replace("-", "")
    answer: _Answer
    if endpoint is Endpoint.CHAT:
        answer = OpenAIAnswer(request_id=identity, model=model, created_s=created_s, show_usage=show_usage)
    elif endpoint is Endpoint.MESSAGES:
        answer = AnthropicAnswer(request_id=identity, model=model)
    else:
        raise _uncrossable(endpoint, provider_dialect)
    # Ids of calls must be unique in a conversation, and OpenAI takes at most 40 characters.
    prefix = ("call_" if endpoint is Endpoint.CHAT else "toolu_") + identity
    decoder: _Decoder
    match provider_dialect:
        case Dialect.OPENAI:
            decoder = OpenAIDecoder(prefix)
        case Dialect.ANTHROPIC:
            decoder = AnthropicDecoder()
        case Dialect.OLLAMA:
            decoder = OllamaDecoder(prefix, num_ctx)
        case _:
            raise _uncrossable(endpoint, provider_dialect)
    return TranslatingRelay(endpoint.dialect, provider_dialect, decoder, answer, request_id)


class _Decoder(Protocol):
    """A provider's bytes to events."""

    def feed(self, data: bytes) -> Iterator[Event]: ...

    def end(self) -> Iterator[Event]: ...

    def whole(self, body: bytes) -> Iterator[Event]: ...


class _Answer(Protocol):
    """Events to the caller's bytes."""

    def stream(self, event: Event) -> tuple[bytes, bytes]: ...

    def whole(self, events: list[Event]) -> bytes: ...


class TranslatingRelay:
    """A `chat.Relay` between two dialects.

    What was translated before a broken frame is passed on first; the error is raised by the next call, so that the
    cutting of the bytes does not decide how much the caller sees.
    """

    def __init__(self, door: Dialect, provider: Dialect, decoder: _Decoder, answer: _Answer, request_id: str) -> None:
        self.meter = Meter()
        self.terminal = False
        self.failure: ProviderError | None = None
        self._door = door
        self._provider = provider
        self._decoder = decoder
        self._answer = answer
        self._request_id = request_id
        self._broken: UpstreamInvalid | None = None

    def __repr__(self) -> str:
        return (
            f"<TranslatingRelay {self._provider.value} to {self._door.value}"
            f" terminal={self.terminal} failure={self.failure!r}>"
        )

    def feed(self, data: bytes) -> Relayed:
        """Take the next bytes of a stream, cut anywhere. Raises UpstreamInvalid."""
        if self._over():
            return Relayed()
        return self._relay(self._decoder.feed(data))

    def end(self) -> Relayed:
        """The provider's stream is over. Raises UpstreamTruncated when no terminal or error event has passed."""
        if self._over():
            return Relayed()
        relayed = self._relay(self._decoder.end())
        if not self._over():
            raise UpstreamTruncated("the provider's stream ended before its terminal event")
        return relayed

    def fail(self, error: SecureLLMError) -> bytes:
        """The error event that ends the caller's stream after the commit point."""
        return encode_error_event(self._door, error, self._request_id)

    def whole(self, body: bytes) -> bytes:
        """A complete answer in the caller's dialect, or the error that the provider put there (then `failure` is set).

        Raises UpstreamInvalid.
        """
        try:
            events = list(self._decoder.whole(body))
            for event in events:
                self._note(event)
            if self.failure is not None:
                return encode_error(self._door, self.failure, self._request_id)
            return self._answer.whole(events)
        except RecursionError as exc:
            raise UpstreamInvalid("the provider's answer is nested too deeply") from exc

    def refused(self, status: int, body: bytes) -> bytes:
        """The provider's error body in the caller's dialect."""
        return encode_error(self._door, parse_error(self._provider, status, body), self._request_id)

    def _over(self) -> bool:
        return self.terminal or self.failure is not None

    def _relay(self, events: Iterable[Event]) -> Relayed:
        if self._broken is not None:
            raise self._broken
        data: list[bytes] = []
        held = b""
        semantic = False
        try:
            for event in events:
                semantic = self._note(event) or semantic
                if self.failure is not None:
                    held = self.fail(self.failure)
                    break
                now, later = self._answer.stream(event)
                data.append(now)
                if self.terminal:
                    held = later
                    break
        except UpstreamInvalid as exc:
            if not any(data):
                raise
            self._broken = exc
        except RecursionError as exc:
            raise UpstreamInvalid("the provider's answer is nested too deeply") from exc
        return Relayed(b"".join(data), held, semantic)

    def _note(self, event: Event) -> bool:
        """Keep the meter; True when the event is semantic."""
        meter = self.meter
        match event:
            case TextDelta(text=text) | RefusalDelta(text=text) | ThinkingDelta(text=text):
                meter.output_bytes += len(text.encode())
            case ToolArguments(fragment=fragment):
                meter.output_bytes += len(fragment.encode())
            case ToolStarted() | ThinkingEnded() | RedactedThinking():
                pass
            case Finished(reason=reason, native=native):
                meter.finish_reason, meter.native_finish = reason, native
            case Ended():
                self.terminal = True
            case Started(id=id_, model=model):
                meter.upstream_id, meter.upstream_model = id_, model
                return False
            case UsageReported(usage=usage):
                meter.usage = usage
                return False
            case ContextTruncated():
                meter.context_truncated = True
                return False
            case Failed(error=error):
                self.failure = error
                return False
        meter.semantic_events += 1
        return True


def _encode(
    dialect: Dialect,
    request: Request,
    *,
    model: str,
    max_output_tokens: int,
    num_ctx: int | None,
    capabilities: Capabilities,
    dropped: Dropped,
) -> JSONObject:
    if dialect is Dialect.ANTHROPIC:
        return encode_messages_request(
            request, model=model, max_output_tokens=max_output_tokens, capabilities=capabilities, dropped=dropped
        )
    if dialect is Dialect.OLLAMA:
        return encode_ollama_request(request, model=model, num_ctx=num_ctx, dropped=dropped)
    return encode_chat_request(request, model=model, capabilities=capabilities, dropped=dropped)


def _uncrossable(door: Endpoint, dialect: Dialect) -> UnsupportedEndpoint:
    return UnsupportedEndpoint(
        f"the endpoint {door.value} is not translated for a provider that speaks {dialect.value}"
    )
