"""The configuration as one frozen tree of structs, named after the sections and keys of the file. Pure.

Types and defaults are written here and nowhere else; what a setting means, its unit, its environment variable and its
bounds stand in `table.py`. A tree is only made by `load.py`, which has checked it. A reload makes a new tree and swaps
one reference; a request keeps the tree it began with.
"""

from pathlib import Path

import msgspec

from securellm.config.database import Place, passwords_in
from securellm.config.secrets import Secret

MEBIBYTE_BYTES = 1024 * 1024


class Server(msgspec.Struct, frozen=True):
    """`[server]`: where we listen and what one connection or request may cost."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    request_timeout_secs: float = 600.0
    max_request_size_bytes: int = 34 * MEBIBYTE_BYTES
    trusted_proxies: tuple[str, ...] = ()
    max_head_bytes: int = 65_536
    head_timeout_s: float = 10.0
    body_idle_timeout_s: float = 15.0
    body_min_rate_bytes_s: int = 1024
    write_stall_timeout_s: float = 30.0
    keep_alive_timeout_s: float = 75.0
    max_in_flight_bytes: int = 1024 * MEBIBYTE_BYTES
    max_connections: int = 10_000


class Database(msgspec.Struct, frozen=True):
    """`[database]`: the store of accounts. `url` is for people; what it names is `path`, a SQLite file, or `server`."""

    url: str = ""
    max_connections: int = 10
    max_stale_s: float = 60.0
    path: Path = Path()
    server: Secret | None = None  # the whole URL, which may hold a password

    @property
    def place(self) -> Place:
        """Where the store is: the server's URL, else the file."""
        return self.path if self.server is None else self.server


class Redis(msgspec.Struct, frozen=True):
    """`[redis]`: what several machines share. No `url`: Redis is not used."""

    url: Secret | None = None
    connect_timeout_secs: float = 1.0
    ttl_secs: float = 3600.0


class CircuitBreaker(msgspec.Struct, frozen=True):
    """`[providers.<name>.circuit_breaker]`: when a provider is left alone, and for how long."""

    failure_threshold: int = 5
    success_threshold: int = 2
    timeout_secs: float = 60.0


class Provider(msgspec.Struct, frozen=True):
    """`[providers.<name>]`: one provider. Only an `enabled` one exists for routing; no `base_url`: the built-in one."""

    enabled: bool = False
    kind: str = "openai-compatible"
    api_key: Secret | None = None
    base_url: str | None = None
    timeout_secs: float | None = None
    max_retries: int = 3
    num_ctx: int | None = None
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    rate_limit_per_minute: int | None = None
    max_connections: int = 1000
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    headers_up: tuple[str, ...] = ()


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what one subject may do; None is no bound. `burst` goes with `rpm`, None is a second's worth."""

    rpm: int | None = None
    burst: int | None = None
    tpm: int | None = None
    concurrent: int | None = None


# What the first users have in force; providers that are not here have no bound of their own.
DEFAULT_RATES = {
    "deepseek": Rates(60, 10),
    "openai": Rates(3500, 100),
    "anthropic": Rates(50, 5),
    "ollama": Rates(10_000, 1000),
    "llamacpp": Rates(10_000, 1000),
}


class RateLimit(msgspec.Struct, frozen=True):
    """`[rate_limit]`: how fast. `providers` holds what `<provider>_rpm` and the like say, over `DEFAULT_RATES`."""

    enabled: bool = True
    store: str = "auto"
    shadow: bool = False
    when_unreachable: str = "degrade"
    per_key: Rates = Rates()
    per_user: Rates = Rates()
    per_team: Rates = Rates()
    per_model: Rates = Rates()
    models: dict[str, Rates] = msgspec.field(default_factory=dict)
    providers: dict[str, Rates] = msgspec.field(default_factory=lambda: dict(DEFAULT_RATES))


class Model(msgspec.Struct, frozen=True):
    """`[models."<provider>/<model>"]`: what is known of a model; None where nothing is."""

    free: bool = False
    context: int | None = None
    max_output: int | None = None
    input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None
    cache_read_usd_per_mtok: float | None = None
    cache_write_5m_usd_per_mtok: float | None = None
    cache_write_1h_usd_per_mtok: float | None = None
    reasoning_usd_per_mtok: float | None = None
    audio_input_usd_per_mtok: float | None = None
    audio_output_usd_per_mtok: float | None = None
    image_usd_per_mtok: float | None = None


class Auto(msgspec.Struct, frozen=True):
    """`[auto]`: who answers the model `auto`."""

    targets: tuple[str, ...] = ()
    order: str = "list"


class Timeouts(msgspec.Struct, frozen=True):
    """`[timeouts]`: the four timers of a request. `total_s` is also `server.request_timeout_secs`."""

    connect_s: float = 5.0
    first_token_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 600.0


class Heartbeat(msgspec.Struct, frozen=True):
    """`[heartbeat]`: the silence in a stream, by front door, after which a sign of life is sent; 0 sends none."""

    chat_s: float = 0.0
    completions_s: float = 0.0
    messages_s: float = 0.0
    responses_s: float = 0.0


class Drain(msgspec.Struct, frozen=True):
    """`[drain]`: how long open requests may go on when the gateway is told to stop."""

    term_s: float = 600.0
    interrupt_s: float = 5.0
    announce_s: float = 0.0


class Allowance(msgspec.Struct, frozen=True):
    """What one subject may spend in a window of time; None is no bound."""

    usd: float | None = None
    tokens: int | None = None
    window: str = "month"


class Budgets(msgspec.Struct, frozen=True):
    """`[budgets]`: how much. The allowances hold for every subject that has none of its own in the store."""

    rolling_s: float = 30 * 86_400.0
    unknown_max_output_tokens: int = 32_768
    per_key: Allowance = Allowance()
    per_user: Allowance = Allowance()
    per_team: Allowance = Allowance()


class Cache(msgspec.Struct, frozen=True):
    """`[cache]`: answers that were given before. How long they are kept is `redis.ttl_secs`, in memory as well."""

    enabled: bool = False
    store: str = "auto"
    max_bytes: int = 64 * MEBIBYTE_BYTES
    max_entry_bytes: int = MEBIBYTE_BYTES
    tools: bool = False


class Tls(msgspec.Struct, frozen=True):
    """`[security.tls]`: both paths or none."""

    cert_path: Path | None = None
    key_path: Path | None = None
    client_ca_path: Path | None = None
    require_client_cert: bool = False


class Security(msgspec.Struct, frozen=True):
    """`[security]`: who may call."""

    api_keys: tuple[Secret, ...] = ()
    require_auth: bool = True
    allowed_origins: tuple[str, ...] = ()
    cut_revoked: bool = True
    pepper: Secret | None = None
    tls: Tls = Tls()


class Admin(msgspec.Struct, frozen=True):
    """`[admin]`: administration beside `<state>/admin.sock`; `bind` is `host:port`, None for the socket alone."""

    bind: str | None = None


class AuditContent(msgspec.Struct, frozen=True):
    """`[audit.content]`, or `audit.content = "<mode>"`: what is recorded of bodies, by door; None is `default`."""

    default: str = "none"
    chat: str | None = None
    completions: str | None = None
    embeddings: str | None = None
    responses: str | None = None
    messages: str | None = None

    def modes(self) -> set[str]:
        """Every mode that some door has."""
        doors = (self.chat, self.completions, self.embeddings, self.responses, self.messages)
        return {self.default if door is None else door for door in doors}


class Audit(msgspec.Struct, frozen=True):
    """`[audit]`: how requests are recorded. Where is `Config.log_dir`, which `log_path` has a say in."""

    enabled: bool = True
    mode: str = "strict"
    log_path: Path | None = None
    retention_days: int = 90
    commit_timeout_s: float = 5.0
    group_commit_ms: int = 0
    content: AuditContent = AuditContent()
    checkpoint_copy: Path | None = None
    signing_key: Secret | None = None
    content_key: Secret | None = None


class Telemetry(msgspec.Struct, frozen=True):
    """`[telemetry]`: what the gateway tells about itself."""

    metrics_enabled: bool = True
    metrics_public: bool = False
    tracing_enabled: bool = False
    log_level: str = "info"
    otlp_endpoint: str | None = None


class Config(msgspec.Struct, frozen=True):
    """The whole configuration, checked. `epoch` names it; `warnings` are for the log at start."""

    state_dir: Path = Path()
    log_dir: Path = Path()
    server: Server = Server()
    database: Database = Database()
    redis: Redis = Redis()
    providers: dict[str, Provider] = msgspec.field(default_factory=dict)
    rate_limit: RateLimit = RateLimit()
    models: dict[str, Model] = msgspec.field(default_factory=dict)
    aliases: dict[str, str] = msgspec.field(default_factory=dict)
    auto: Auto = Auto()
    timeouts: Timeouts = Timeouts()
    heartbeat: Heartbeat = Heartbeat()
    drain: Drain = Drain()
    budgets: Budgets = Budgets()
    cache: Cache = Cache()
    security: Security = Security()
    admin: Admin = Admin()
    audit: Audit = Audit()
    telemetry: Telemetry = Telemetry()
    epoch: str = ""  # the first 16 hex digits of the SHA-256 of the effective config, secrets left out
    source: Path | None = None  # the file it was read from; None without one
    warnings: tuple[str, ...] = ()

    def secrets(self) -> list[Secret]:
        """Every secret that the configuration holds, for the redaction of logs."""
        keys = [provider.api_key for provider in self.providers.values()]
        server = self.database.server
        ours = (self.security.pepper, self.audit.signing_key, self.audit.content_key, self.redis.url, server)
        passwords = [Secret(password) for password in passwords_in(server.reveal())] if server is not None else []
        return [secret for secret in (*keys, *self.security.api_keys, *ours, *passwords) if secret is not None]
