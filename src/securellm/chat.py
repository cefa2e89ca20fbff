"""The neutral words in which the edges, the gateway and the upstream speak of one request. Pure.

A lane turns bytes into a `Call`; the gateway turns the call into a `Permit` and the permit into an `Upstream`
or an `Answer`; a `Relay` turns the provider's bytes into the caller's; `Outcome` and `Settlement` say how it ended.
"""

import enum
from typing import NamedTuple, NewType, Protocol

import msgspec

from securellm.errors import ProviderError, SecureLLMError

RequestId = NewType("RequestId", str)  # our UUIDv7, made before authentication
KeyId = NewType("KeyId", str)  # the eight characters of a key that may be shown

Headers = list[tuple[bytes, bytes]]  # names in lower case, in order, repeats allowed


class Dialect(enum.Enum):
    """A way of speaking on the wire: the framing of streams and the shape of bodies and errors."""

    OPENAI = "openai"  # chat completions, completions, embeddings
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"  # providers only
    RESPONSES = "responses"  # OpenAI Responses; its error bodies are OpenAI's

    __hash__ = object.__hash__  # every table of dialects and endpoints is asked for each request; Enum's is in Python


_DIALECT_OF = {
    "messages": Dialect.ANTHROPIC,
    "messages.count_tokens": Dialect.ANTHROPIC,
    "responses": Dialect.RESPONSES,
}  # every other door speaks OpenAI's


class Endpoint(enum.Enum):
    """A front door at which providers are asked for something, and whose requests leave records."""

    CHAT = "chat.completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COUNT_TOKENS = "messages.count_tokens"
    SYNC = "models.sync"  # asks providers for their models; nothing is routed to it
    ADMIN = "admin"  # what an administrator does over HTTP; no provider is asked

    def __init__(self, value: str) -> None:
        self.dialect = _DIALECT_OF.get(value, Dialect.OPENAI)  # the caller's at this door

    __hash__ = object.__hash__  # as Dialect's


class BodySource(Protocol):
    """The request's body as it arrives; whoever reads sets the bounds and deadlines."""

    @property
    def length(self) -> int | None:
        """The announced Content-Length in bytes, None when chunked."""

    def receive_nowait(self) -> bytes | None:
        """The next piece if it is here already, b"" at the end, None when it has to be waited for."""

    async def receive(self) -> bytes:
        """The next piece, b"" at the end. The first call answers `Expect: 100-continue`."""


class HeadNotes(msgspec.Struct, eq=False):
    """What was found in a head, so that it need not be found again where the next one says the same.

    Whoever reads a head makes them, empty, and the gateway fills them in. They decide nothing: a key that was found is
    looked up for each request.
    """

    says: int | None = None  # see `intake.read_head`
    key_id: KeyId | None = None  # of the one key in it, if it is of our form
    key_digest: bytes = b""
    key_pepper: bytes | None = None  # under which the digest was made

    def __repr__(self) -> str:
        """Without the digest."""
        return f"<HeadNotes says={self.says} key_id={self.key_id}>"


class Call(msgspec.Struct, frozen=True):
    """One request at a front door, body not yet read. `target` is the canonical path with its query."""

    endpoint: Endpoint
    target: str
    headers: Headers
    body: BodySource
    client_ip: str
    request_id: RequestId
    started_s: float  # trio.current_time() when the head was complete
    notes: HeadNotes = msgspec.field(
        default_factory=HeadNotes
    )  # the same for heads that differ in Content-Length alone

    def header(self, name: bytes) -> str | None:
        """The first header of that (lower-case) name, decoded as latin-1."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts in buckets that never overlap, except that reasoning is part of output.

    `input_tokens` is input that was neither read from nor written to a cache, and neither audio nor image.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """All input, cached or not."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.audio_input_tokens
            + self.image_tokens
        )

    @property
    def completion_tokens(self) -> int:
        """All output, reasoning and audio included."""
        return self.output_tokens + self.audio_output_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.audio_input_tokens
            + self.image_tokens
            + self.output_tokens
            + self.audio_output_tokens
        )  # written out: it is asked for of every request


class Meter(msgspec.Struct, eq=False):
    """What a relay learns about one answer while its bytes pass. Mutable; one per attempt."""

    usage: Usage | None = None  # as the provider reported it, last non-null value of each field
    finish_reason: str | None = None  # in OpenAI's words
    native_finish: str | None = None  # in the provider's
    upstream_id: str | None = None  # the id in the body, an attribute only
    upstream_model: str | None = None  # the model that the provider says it used
    semantic_events: int = 0
    output_bytes: int = 0  # UTF-8 bytes of text, reasoning and tool arguments; what an estimate rests on
    context_truncated: bool = False  # the provider cut the prompt to its window (Ollama)


class Relayed(NamedTuple):
    """What one read from the provider becomes."""

    data: bytes = b""  # to the caller now
    held: bytes = b""  # to the caller once the outcome is durable: the terminal frame and whatever follows it
    semantic: bool = False  # at least one event that is not a ping, a comment or an empty opening


class Relay(Protocol):
    """How the provider's answer becomes the caller's, for one attempt. No I/O, never waits."""

    meter: Meter
    terminal: bool  # the provider's own terminal event has passed
    failure: ProviderError | None  # the provider's in-band error event has passed

    def feed(self, data: bytes) -> Relayed:
        """Take the next bytes of a stream, cut anywhere. Raises UpstreamInvalid."""

    def end(self) -> Relayed:
        """The provider's stream is over. Raises UpstreamTruncated when no terminal or error event has passed."""

    def fail(self, error: SecureLLMError) -> bytes:
        """The error event that ends the caller's stream after the commit point."""

    def whole(self, body: bytes) -> bytes:
        """A complete 2xx body that is not a stream, in the caller's dialect. Raises UpstreamInvalid."""

    def refused(self, status: int, body: bytes) -> bytes:
        """The provider's error body in the caller's dialect; unchanged in the same dialect."""


class Grants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key may be used for; None is everything, an empty tuple is nothing.

    `models` are ids or patterns as `openai/*`; `networks` are addresses or networks as `10.0.0.0/8`.
    """

    models: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    endpoints: tuple[str, ...] | None = None  # by Endpoint's values
    networks: tuple[str, ...] | None = None


EVERYTHING = Grants()


class Caller(msgspec.Struct, frozen=True):
    """Who is calling. `key_id` is None where authentication is off; a key need not belong to a user or a team."""

    key_id: KeyId | None
    user_id: str | None
    name: str = ""
    role: str = "user"  # admin, operator, auditor, user
    team_id: str | None = None
    grants: Grants = EVERYTHING


class Status(enum.Enum):
    """How a request ended, in the audit's words."""

    __hash__ = object.__hash__  # as Dialect's

    SUCCESS = "success"
    FAILED = "failed"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    TRUNCATED = "truncated"
    REJECTED = "rejected"
    INTERRUPTED = "interrupted"
    SHUTDOWN = "shutdown"


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One provider asked, or passed over (`skipped` says why, and then nothing was sent)."""

    number: int
    provider: str
    model: str
    http_status: int | None = None
    error_code: str | None = None
    duration_ms: float = 0.0
    usage: Usage | None = None
    upstream_request_id: str | None = None
    skipped: str | None = None


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a request ended, as the lane hands it to `settle`."""

    status: Status
    http_status: int | None = None  # what the caller was sent; None when nothing was
    error_code: str | None = None
    error_message: str | None = None


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """Everything that the bookkeeping learns of one request; made once, by `settle`."""

    request_id: RequestId
    client_request_id: str | None
    endpoint: Endpoint
    caller: Caller | None
    client_ip: str
    requested_model: str | None
    provider: str | None
    model: str | None
    stream: bool
    outcome: Outcome
    attempts: tuple[Attempt, ...]
    usage: Usage | None
    usage_source: str | None  # reported, counted, estimated; None when nothing was used
    finish_reason: str | None
    first_token_ms: float | None
    duration_ms: float
    bytes_in: int
    bytes_out: int
    dropped: tuple[str, ...]
    upstream_request_id: str | None
    context_truncated: bool
    config_epoch: str
    cost_nusd: int | None = None  # of all attempts, in nano-USD; None when nothing was used
    cache: str = "off"  # off, miss, hit
    saved_nusd: int | None = None  # what the answer cost when it was made; of a hit
    overrun_nusd: int | None = None  # what was used beyond what had been reserved of a budget


class Receipt(Protocol):
    """The promise that a settlement will be on disk."""

    async def durable(self) -> None:
        """Return once it is on disk. Raises AuditUnavailable when it is not in time."""

    def let_go(self) -> None:
        """Nobody waits any more: who still does gets AuditUnavailable at once. The record is written all the same."""


class Answer(msgspec.Struct, frozen=True):
    """A complete answer in the caller's dialect: a refusal, an error or a whole body. Settled, and durable."""

    status: int
    headers: Headers
    body: bytes
