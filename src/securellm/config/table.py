"""The table of every setting: path, kind, unit, bounds, environment variable, help. Pure.

Loading, the mistakes it finds, the nearest known name and docs/configuration.md all come from these rows. Types and
defaults are those of `tree.py`. In a path, `*` stands for a name that the operator chooses. A row with `built=False`
is known but refused, because this version does not have the feature. Long because it is data: one row a setting.
"""

import enum

import msgspec

from securellm.config import tree

Path = tuple[str, ...]


class Kind(enum.Enum):
    """How a value is written and checked; the text is what the documentation says."""

    BOOL = "true or false"
    INT = "integer"
    SECONDS = "number of seconds"
    TEXT = "text"
    CHOICE = "one of"
    PATH = "path"
    URL = "URL"
    SECRET_URL = "URL, or secret reference"
    SECRET = "secret reference"
    TEXTS = "list of texts"
    SECRETS = "list of secret references"
    ORIGINS = "list of origins"
    NETWORKS = "list of addresses or networks"
    HEADERS = "list of header names"
    USD = "number of US dollars"
    ANY = "anything"


class Setting(msgspec.Struct, frozen=True):
    """One row. `env` is its environment variable, `ambient` says that an unbuilt one only warns when set there."""

    path: Path
    kind: Kind
    help: str
    unit: str = ""
    env: str | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    built: bool = True
    only: bool | int | str | None = None  # the one value that is built, where the others are not
    ambient: bool = False
    default_text: str | None = None  # where the default is not a constant

    @property
    def name(self) -> str:
        """The dotted path, with `<name>`, `<provider>/<model>` and the like in the place of `*`."""
        names = (
            _PLACEHOLDER.get(self.path[:place], "<name>") if part == "*" else part
            for place, part in enumerate(self.path)
        )
        return dotted(tuple(names))


class BuiltIn(msgspec.Struct, frozen=True):
    """What the configuration must know of a built-in provider; everything else is in `providers/`."""

    kind: str
    needs_key: bool


COMPATIBLE = "openai-compatible"
BUILT_IN: dict[str, BuiltIn] = {
    "openai": BuiltIn("openai", needs_key=True),
    "anthropic": BuiltIn("anthropic", needs_key=True),
    "deepseek": BuiltIn("deepseek", needs_key=True),
    "ollama": BuiltIn("ollama", needs_key=False),
    "groq": BuiltIn(COMPATIBLE, needs_key=True),
    "gemini": BuiltIn(COMPATIBLE, needs_key=True),
    "nvidia": BuiltIn(COMPATIBLE, needs_key=True),
    "mistral": BuiltIn(COMPATIBLE, needs_key=True),
    "openrouter": BuiltIn(COMPATIBLE, needs_key=True),
    "vllm": BuiltIn(COMPATIBLE, needs_key=False),
    "llamacpp": BuiltIn(COMPATIBLE, needs_key=False),
    "demo": BuiltIn("demo", needs_key=False),
}
DECLARED_KINDS = (COMPATIBLE, "openai", "anthropic", "deepseek", "ollama")  # what [providers.<own name>] may be
LOG_LEVELS = ("trace", "debug", "info", "warn", "warning", "error")  # trace and warn: the Rust proxy's words
CONTENT_MODES = ("none", "hash", "redacted", "full")
ENDPOINTS = ("chat.completions", "completions", "embeddings", "responses", "messages", "messages.count_tokens")

_PLACEHOLDER: dict[Path, str] = {
    ("models",): '"<provider>/<model>"',
    ("aliases",): "<alias>",
    ("rate_limit",): "<provider>_rpm",
    ("rate_limit", "models"): '"<provider>/<model>"',
}


def _rows(section: str, *rows: Setting) -> tuple[Setting, ...]:
    prefix = tuple(section.split(".")) if section else ()
    return tuple(msgspec.structs.replace(row, path=prefix + row.path) for row in rows)


def _row(key: str, kind: Kind, help: str, **options: object) -> Setting:
    return Setting((key,), kind, help, **options)  # type: ignore[arg-type]  # the options are Setting's own fields


SETTINGS: tuple[Setting, ...] = (
    *_rows(
        "",
        _row(
            "state_dir",
            Kind.PATH,
            "Where the key store and the pepper live.",
            default_text="`$STATE_DIRECTORY`; as root `/var/lib/securellm`; else `$XDG_STATE_HOME/securellm`",
        ),
    ),
    *_rows(
        "server",
        _row("host", Kind.TEXT, "Address or name to listen on.", env="SERVER_HOST"),
        _row("port", Kind.INT, "Port to listen on; 0 takes a free one.", env="SERVER_PORT", least=0, most=65_535),
        _row(
            "workers",
            Kind.INT,
            "Processes that share the port, the limits and the budgets.",
            env="SERVER_WORKERS",
            least=1,
            most=64,
        ),
        _row(
            "request_timeout_secs",
            Kind.SECONDS,
            "The same setting as `timeouts.total_s`, under its older name; both and different is an error.",
            unit="s",
            least=0.001,
        ),
        _row(
            "max_request_size_bytes",
            Kind.INT,
            "A longer body is refused with 413. Images in base64 set the default: Anthropic takes 32 MB.",
            unit="bytes",
            least=1,
        ),
        _row(
            "trusted_proxies",
            Kind.NETWORKS,
            "Peers whose `X-Forwarded-For` is believed, for the caller's address only.",
        ),
        _row(
            "max_head_bytes",
            Kind.INT,
            "A longer request head is refused with 431.",
            unit="bytes",
            least=1024,
            most=16 * tree.MEBIBYTE_BYTES,
        ),
        _row("head_timeout_s", Kind.SECONDS, "A request head must be complete in this time.", unit="s", least=0.001),
        _row(
            "body_idle_timeout_s",
            Kind.SECONDS,
            "A body that brings no byte for this long is refused with 408.",
            unit="s",
            least=0.001,
        ),
        _row(
            "body_min_rate_bytes_s",
            Kind.INT,
            "A body that arrives slower than this on average is refused with 408; 0 turns the check off.",
            unit="bytes/s",
            least=0,
        ),
        _row(
            "write_stall_timeout_s",
            Kind.SECONDS,
            "A reader that takes no byte for this long is cut off, and the provider's connection with it.",
            unit="s",
            least=0.001,
        ),
        _row(
            "keep_alive_timeout_s",
            Kind.SECONDS,
            "An idle connection is closed after this; keep it above the idle time of a load balancer in front.",
            unit="s",
            least=0.001,
        ),
        _row(
            "max_in_flight_bytes",
            Kind.INT,
            "All bodies being served together; over it a request is refused with 429.",
            unit="bytes",
            least=1,
        ),
        _row("max_connections", Kind.INT, "Connections open at one time; further ones wait.", least=1),
    ),
    *_rows(
        "database",
        _row(
            "url",
            Kind.SECRET_URL,
            "The key store: `sqlite:<path>` or `postgresql://user@host/database`, as sqlx or SQLAlchemy write it.",
            env="DATABASE_URL",
            default_text="`sqlite:<state_dir>/models.db`",
        ),
        _row(
            "max_connections",
            Kind.INT,
            "Connections to a database server at most, by each worker; two are used at most, as by SQLite.",
            least=1,
            most=1000,
        ),
        _row(
            "max_stale_s",
            Kind.SECONDS,
            "How long known keys go on working while the store does not answer; after that every request is 503.",
            unit="s",
            least=0,
        ),
    ),
    *_rows(
        "redis",
        _row(
            "url",
            Kind.SECRET_URL,
            "Redis: `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://`.",
            env="REDIS_URL",
        ),
        _row(
            "connect_timeout_secs",
            Kind.SECONDS,
            "Time to connect to Redis; no request waits for it.",
            unit="s",
            least=0.001,
        ),
        _row("ttl_secs", Kind.SECONDS, "How long a cached answer is kept, also in memory.", unit="s", least=1),
    ),
    *_rows(
        "providers.*",
        _row(
            "enabled",
            Kind.BOOL,
            "Whether the provider exists for routing.",
            env="<NAME>_ENABLED",
            default_text="true when it has a key, or when the file has its section and it can work without one",
        ),
        _row(
            "kind",
            Kind.CHOICE,
            "How a provider of your own speaks; the built-in ones know theirs.",
            choices=DECLARED_KINDS,
            default_text="the built-in one",
        ),
        _row("api_key", Kind.SECRET, "The provider's key.", env="<NAME>_API_KEY"),
        _row(
            "base_url",
            Kind.URL,
            "Where the provider is. An empty path gets the provider's own prefix, any other is kept.",
            env="<NAME>_BASE_URL",
            default_text="the built-in one",
        ),
        _row("timeout_secs", Kind.SECONDS, "Caps one attempt.", unit="s", least=0.001, default_text="none"),
        _row("max_retries", Kind.INT, "Further attempts after the first, before the first byte.", least=0, most=20),
        _row(
            "num_ctx",
            Kind.INT,
            "Ollama only: the context window that is asked for.",
            unit="tokens",
            least=1,
            default_text="Ollama's own",
        ),
        _row(
            "rate_limit_per_minute",
            Kind.INT,
            "An alias of `rate_limit.<provider>_rpm`; both and different is an error.",
            unit="1/min",
            least=0,
        ),
        _row("max_connections", Kind.INT, "Connections to the provider at one time; further requests wait.", least=1),
        _row("models", Kind.TEXTS, "Ids of models that the provider owns, beside those it tells of itself."),
        _row(
            "endpoints",
            Kind.TEXTS,
            'Endpoints that an OpenAI-compatible provider has beside its kind\'s own, as `["responses"]`.',
            choices=ENDPOINTS,
        ),
        _row("headers_up", Kind.HEADERS, "Names of request headers that are passed on beside the usual ones."),
    ),
    *_rows(
        "providers.*.circuit_breaker",
        _row("failure_threshold", Kind.INT, "Failures in a row that open the breaker.", least=1),
        _row("success_threshold", Kind.INT, "Successes of a half-open breaker that close it.", least=1),
        _row("timeout_secs", Kind.SECONDS, "Time until an open breaker lets a probe through.", unit="s", least=0.001),
    ),
    *_rows(
        "rate_limit",
        _row("enabled", Kind.BOOL, "Whether anything is limited, by rate or by number."),
        _row(
            "store",
            Kind.CHOICE,
            "Where the counts are: `auto` is redis if `redis.url` is set, shared with several workers, else process.",
            choices=("auto", "process", "shared", "redis"),
        ),
        _row("shadow", Kind.BOOL, "Count and report what would be refused, and refuse nothing."),
        _row(
            "when_unreachable",
            Kind.CHOICE,
            "Without Redis: `degrade` keeps to this machine's share of the limits, `refuse` answers 503.",
            choices=("degrade", "refuse"),
        ),
        _row("*", Kind.INT, "`<provider>_rpm`, `_burst`, `_tpm` and `_concurrent`; 0 is no limit.", least=0),
    ),
    *(
        row
        for section, whose in (
            ("per_key", "a key"),
            ("per_user", "a user"),
            ("per_team", "a team"),
            ("per_model", "a model"),
            ("models.*", "this model"),
        )
        for row in _rows(
            f"rate_limit.{section}",
            _row("rpm", Kind.INT, f"Requests of {whose} in a minute; 0 is no limit.", unit="1/min", least=0),
            _row("burst", Kind.INT, f"Requests of {whose} at once, when it was quiet before.", least=1),
            _row("tpm", Kind.INT, f"Tokens of {whose} in a minute, in and out; 0 is no limit.", unit="1/min", least=0),
            _row("concurrent", Kind.INT, f"Requests of {whose} at one time; 0 is no limit.", least=0),
        )
    ),
    *_rows(
        "models.*",
        _row("free", Kind.BOOL, "Marks the model as costing nothing."),
        _row("context", Kind.INT, "The model's context window.", unit="tokens", least=1, default_text="unknown"),
        _row(
            "max_output",
            Kind.INT,
            "The most it may answer; sent as `max_tokens` where the provider demands one and the caller gave none.",
            unit="tokens",
            least=1,
            default_text="unknown",
        ),
        *(
            _row(
                f"{bucket}_usd_per_mtok",
                Kind.USD,
                f"The price of {tokens}.",
                unit="USD per million tokens",
                least=0,
                most=1_000_000,
                default_text=otherwise,
            )
            for bucket, tokens, otherwise in (
                ("input", "input tokens; with it the model has a price, and the shipped one is left aside", "none"),
                ("output", "output tokens", "as `input`"),
                ("cache_read", "input read from a cache", "as `input`"),
                ("cache_write_5m", "input written to a cache for five minutes, or for a time not said", "as `input`"),
                ("cache_write_1h", "input written to a cache for an hour", "as `cache_write_5m`"),
                ("reasoning", "reasoning, where it is not that of other output", "as `output`"),
                ("audio_input", "audio in the input", "as `input`"),
                ("audio_output", "audio in the output", "as `output`"),
                ("image", "images in the input", "as `input`"),
            )
        ),
    ),
    *_rows("aliases", _row("*", Kind.TEXT, "Another name for a model: `<provider>/<model>`.")),
    *_rows(
        "auto",
        _row("targets", Kind.TEXTS, "`<provider>/<model>`, in the order in which they are tried."),
        _row(
            "order",
            Kind.CHOICE,
            "`list`: in the order of `targets`; `price`: the cheapest first, free ones before all others.",
            choices=("list", "price"),
        ),
    ),
    *_rows(
        "timeouts",
        _row("connect_s", Kind.SECONDS, "To the provider's accepting, TLS included.", unit="s", least=0.001),
        _row(
            "first_token_s", Kind.SECONDS, "To the first event of a stream that says something.", unit="s", least=0.001
        ),
        _row(
            "idle_s", Kind.SECONDS, "Between two such events; pings and comments do not count.", unit="s", least=0.001
        ),
        _row("total_s", Kind.SECONDS, "For the whole request, every attempt included.", unit="s", least=0.001),
    ),
    *_rows(
        "heartbeat",
        _row(
            "chat_s",
            Kind.SECONDS,
            "Silence in a stream of /v1/chat/completions before a comment is sent; 0: none.",
            unit="s",
            least=0,
        ),
        _row(
            "completions_s",
            Kind.SECONDS,
            "Silence in a stream of /v1/completions before a comment is sent; 0: none.",
            unit="s",
            least=0,
        ),
        _row(
            "messages_s",
            Kind.SECONDS,
            "Silence in a stream of /v1/messages before a `ping` is sent; 0: none.",
            unit="s",
            least=0,
        ),
        _row(
            "responses_s",
            Kind.SECONDS,
            "Silence in a stream of /v1/responses before a comment is sent; 0: none.",
            unit="s",
            least=0,
        ),
    ),
    *_rows(
        "drain",
        _row("term_s", Kind.SECONDS, "After SIGTERM open requests may go on for this long.", unit="s", least=0),
        _row("interrupt_s", Kind.SECONDS, "The same after Ctrl-C.", unit="s", least=0),
        _row(
            "announce_s",
            Kind.SECONDS,
            "After SIGTERM new requests are still taken, not ready, for this.",
            unit="s",
            least=0,
        ),
    ),
    *_rows(
        "budgets",
        _row("rolling_s", Kind.SECONDS, "The length of a rolling window.", unit="s", least=60),
        _row(
            "unknown_max_output_tokens",
            Kind.INT,
            "What is reserved for output when neither the request nor the catalogue says how much it can be.",
            unit="tokens",
            least=1,
        ),
    ),
    *(
        row
        for section, whose in (("per_key", "a key"), ("per_user", "a user"), ("per_team", "a team"))
        for row in _rows(
            f"budgets.{section}",
            _row("usd", Kind.USD, f"What {whose} may spend in a window.", unit="USD", least=0),
            _row("tokens", Kind.INT, f"Tokens that {whose} may use in a window, in and out.", unit="tokens", least=0),
            _row("window", Kind.CHOICE, "Calendar days and months are in UTC.", choices=("day", "month", "rolling")),
        )
    ),
    *_rows(
        "cache",
        _row("enabled", Kind.BOOL, "Whether answers are kept and given again to the same caller's same question."),
        _row(
            "store",
            Kind.CHOICE,
            "Where they are: `auto` is redis if `redis.url` is set, else memory.",
            choices=("auto", "memory", "redis"),
        ),
        _row("max_bytes", Kind.INT, "All entries in memory together.", unit="bytes", least=1),
        _row("max_entry_bytes", Kind.INT, "A longer answer is not kept.", unit="bytes", least=1),
        _row("tools", Kind.BOOL, "Whether answers that call tools are kept, too."),
    ),
    *_rows(
        "security",
        _row("api_keys", Kind.SECRETS, "Keys that callers may use, beside those of the store.", env="API_KEYS"),
        _row("require_auth", Kind.BOOL, "Whether callers need a key.", env="REQUIRE_AUTH"),
        _row("allowed_origins", Kind.ORIGINS, "Web pages that may call from a browser (CORS)."),
        _row(
            "pepper",
            Kind.SECRET,
            "What keys are hashed with.",
            default_text="`<state_dir>/pepper`, made when missing",
        ),
        _row(
            "cut_revoked",
            Kind.BOOL,
            "Whether answers that are under way end when their key is revoked or expires; else they are finished.",
        ),
    ),
    *_rows(
        "security.tls",
        _row("cert_path", Kind.PATH, "Certificate chain in PEM; with it the gateway speaks HTTPS."),
        _row("key_path", Kind.PATH, "The certificate's private key in PEM."),
        _row("client_ca_path", Kind.PATH, "Who signs the certificates of callers.", built=False),
        _row("require_client_cert", Kind.BOOL, "Only `false` is built.", only=False),
    ),
    *_rows(
        "admin",
        _row("bind", Kind.TEXT, "`host:port` where administration is offered beside `<state_dir>/admin.sock`."),
    ),
    *_rows(
        "audit",
        _row("enabled", Kind.BOOL, "Whether every request leaves its records."),
        _row(
            "mode",
            Kind.CHOICE,
            "When the disk does not take a record: `strict` refuses with 503, `relaxed` answers and counts the gap.",
            choices=("strict", "relaxed"),
        ),
        _row(
            "log_path",
            Kind.PATH,
            "The directory of the audit files.",
            env="LOG_DIR",
            default_text="`$LOGS_DIRECTORY`; as root `/var/log/securellm`; else `<state_dir>/log`",
        ),
        _row(
            "retention_days",
            Kind.INT,
            "For how many days (UTC) files are kept, whatever their number.",
            unit="days",
            least=1,
            most=36_500,
        ),
        _row(
            "commit_timeout_s",
            Kind.SECONDS,
            "How long a record may take to the disk before its request is refused.",
            unit="s",
            least=0.01,
        ),
        _row(
            "group_commit_ms",
            Kind.INT,
            "How long records may wait to share a write to the disk while many requests are under way; 0: not at all.",
            unit="ms",
            least=0,
            most=1_000,
        ),
        _row("checkpoint_copy", Kind.PATH, "A second directory that every signed checkpoint is written to."),
        _row(
            "signing_key",
            Kind.SECRET,
            "What checkpoints are signed with: 64 hexadecimal digits.",
            default_text="`<state_dir>/audit.key`, made when missing",
        ),
        _row(
            "content_key",
            Kind.SECRET,
            "What recorded bodies are encrypted with: 64 hexadecimal digits.",
            default_text="`<state_dir>/content.key`, made when needed",
        ),
    ),
    *_rows(
        "audit.content",
        _row(
            "default",
            Kind.CHOICE,
            "For the doors that have no setting of their own.",
            choices=CONTENT_MODES,
        ),
        *(
            _row(door, Kind.CHOICE, f"For `{path}`.", choices=CONTENT_MODES, default_text="as `default`")
            for door, path in (
                ("chat", "/v1/chat/completions"),
                ("completions", "/v1/completions"),
                ("embeddings", "/v1/embeddings"),
                ("responses", "/v1/responses"),
                ("messages", "/v1/messages` and `/v1/messages/count_tokens"),
            )
        ),
    ),
    *_rows(
        "telemetry",
        _row("metrics_enabled", Kind.BOOL, "Whether `/api/metrics` exists."),
        _row("metrics_public", Kind.BOOL, "Whether it answers without a key."),
        _row("tracing_enabled", Kind.BOOL, "Only `false` is built.", only=False),
        _row("log_level", Kind.CHOICE, "The least grave lines that are logged.", env="LOG_LEVEL", choices=LOG_LEVELS),
        _row("otlp_endpoint", Kind.URL, "Where traces are sent.", env="OTLP_ENDPOINT", built=False, ambient=True),
    ),
)

BY_PATH: dict[Path, Setting] = {setting.path: setting for setting in SETTINGS}
CHILDREN: dict[Path, set[str]] = {}  # the known names below each section, `*` among them
for _setting in SETTINGS:
    for _depth in range(len(_setting.path)):
        CHILDREN.setdefault(_setting.path[:_depth], set()).add(_setting.path[_depth])


def dotted(path: Path) -> str:
    """The path as one writes it: parts that are not bare keys are quoted, unless they are placeholders."""
    return ".".join(part if _is_bare(part) else f'"{part}"' for part in path)


def pattern_of(path: Path) -> Path | None:
    """The path of the row or section that a written path belongs to, None when there is none."""
    pattern: Path = ()
    for part in path:
        names = CHILDREN.get(pattern)
        if names is None or (part not in names and "*" not in names):
            return None
        pattern = (*pattern, part if part in names else "*")
    return pattern


def provider_variable(provider: str, suffix: str) -> str:
    """The environment variable of a provider's setting: `my-box`, `API_KEY` -> `MY_BOX_API_KEY`."""
    return f"{provider.upper().replace('-', '_')}_{suffix}"


def default_of(setting: Setting) -> object:
    """The default of a setting, read from the tree's structs; None where it has none."""
    here: object = tree.Config
    for depth, part in enumerate(setting.path):
        if part == "*":
            here = {"providers": tree.Provider, "models": tree.Model}.get(setting.path[0])
            continue
        if depth == 0 and part in ("providers", "models"):
            continue
        if not isinstance(here, type) or not issubclass(here, msgspec.Struct):
            return None
        fields = {field.name: field.default for field in msgspec.structs.fields(here)}
        default = fields.get(part)
        here = type(default) if isinstance(default, msgspec.Struct) else default
    return here


def _is_bare(part: str) -> bool:
    if part.startswith(("<", '"')):
        return True
    return bool(part) and part.isascii() and part.replace("-", "").replace("_", "").isalnum()
