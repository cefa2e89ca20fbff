"""The tables of the store: revision 2, as `migrations/` makes them of earlier ones.

Times are Unix seconds. Every change of the accounts adds one to the generation in the same transaction, and whoever
holds a snapshot polls that one row. `schema_version` is what this program goes by, and what an earlier version looks at
before it refuses a store that is newer; `alembic_version` says the same to alembic.
"""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

REVISION = 2

# SQLite has one integer of 64 bits, which must be called INTEGER where it counts by itself; PostgreSQL has two.
LONG = BigInteger().with_variant(Integer, "sqlite")

METADATA = MetaData()

SCHEMA_VERSION = Table(
    "schema_version",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at_s", LONG, nullable=False),
)

ALEMBIC_VERSION = Table("alembic_version", METADATA, Column("version_num", String(32), primary_key=True))

META = Table(
    "meta",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Integer, nullable=False),
)
GENERATION = "generation"  # the row of `meta` that counts changes
PEPPER_MARK = "pepper"  # the row that tells another pepper from the one that the digests were made with


def _rates() -> tuple[Column[int], ...]:
    """The rates of a key, a user or a team; NULL is what the configuration says, 0 is no limit."""
    return tuple(Column(name, LONG) for name in ("rpm", "burst", "tpm", "concurrent"))


TEAMS = Table(
    "teams",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("created_at_s", LONG, nullable=False),
    Column("disabled_at_s", LONG),
    *_rates(),
)

USERS = Table(
    "users",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("created_at_s", LONG, nullable=False),
    Column("team_id", String(64)),
    Column("disabled_at_s", LONG),
    *_rates(),
    Index("users_by_team", "team_id"),
)

KEYS = Table(
    "keys",
    METADATA,
    Column("id", String(8), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),  # HMAC-SHA256 of the whole key under the pepper
    Column("name", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at_s", LONG, nullable=False),
    Column("expires_at_s", LONG),
    Column("revoked_at_s", LONG),
    Column("user_id", String(64)),
    Column("team_id", String(64)),
    Column("models", Text),  # what it is granted: JSON arrays of texts, NULL is everything
    Column("providers", Text),
    Column("endpoints", Text),
    Column("networks", Text),
    *_rates(),
    Column("previous_digest", LargeBinary(32)),  # of the key before it was rotated, which is good until then
    Column("previous_until_s", LONG),
    Index("keys_by_creation", "created_at_s"),
    Index("keys_by_user", "user_id"),
)

BUDGETS = Table(
    "budgets",
    METADATA,
    Column("kind", String(8), primary_key=True),  # key, user, team
    Column("subject", String(64), primary_key=True),
    Column("window", String(8), primary_key=True),  # day, month, rolling
    Column("limit_nusd", BigInteger),  # NULL is no bound
    Column("limit_tokens", BigInteger),
    Column("rolling_s", LONG, nullable=False),
)

# What was spent of a budget, in its window, or in a bucket of a rolling one; and what is leased of it to a process.
# `budget_id` is `bounds.budget_id`; a budget that is taken away and made again goes on.
BUDGET_SPENT = Table(
    "budget_spent",
    METADATA,
    Column("budget_id", String(160), primary_key=True),
    Column("start_s", BigInteger, primary_key=True, autoincrement=False),
    Column("end_s", BigInteger, primary_key=True, autoincrement=False),
    Column("nusd", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Index("budget_spent_by_end", "end_s"),
)

BUDGET_LEASES = Table(
    "budget_leases",
    METADATA,
    Column("budget_id", String(160), primary_key=True),
    Column("start_s", BigInteger, primary_key=True, autoincrement=False),
    Column("end_s", BigInteger, primary_key=True, autoincrement=False),
    Column("owner", String(32), primary_key=True),  # one run of one process
    Column("number", BigInteger, nullable=False),  # of the owner's last exchange about it
    Column("settled_nusd", BigInteger, nullable=False),  # in all: what of it is in budget_spent
    Column("settled_tokens", BigInteger, nullable=False),
    Column("nusd", BigInteger, nullable=False),  # what is leased now
    Column("tokens", BigInteger, nullable=False),
    Column("expires_at_s", BigInteger, nullable=False),  # then whoever comes next charges it
)

EVENTS = Table(
    "events",  # what was done to the store and is not yet in the audit log, oldest first
    METADATA,
    Column("id", LONG, primary_key=True),
    Column("at_s", LONG, nullable=False),
    Column("action", String(32), nullable=False),
    # The id of the key, user, team, budget or request. SQLite keeps to no length, and the first files said 64.
    Column("subject", String(160).with_variant(String(64), "sqlite"), nullable=False),
    Column("actor", String(160), nullable=False, server_default=""),
    Column("changed", Text, nullable=False, server_default=""),
    Column("taken_until_s", LONG),  # somebody is telling it, and is given up after that
    sqlite_autoincrement=True,  # an id that was told is never given again
)

MODELS = Table(
    "models",
    METADATA,
    Column("provider", String(64), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("context", LONG),
    Column("max_output", LONG),
    Column("created_s", LONG, nullable=False),
    Column("display_name", String(256)),
    Column("seen_at_s", LONG, nullable=False),
)

# The index of the audit log: a row a record, made from the files and from nothing else, so it may be dropped at any
# time. The columns are named as the fields of a record; what is not here is in the files.
# `node` tells the machines apart that share a server; it is empty in a file, which one machine has.
AUDIT_LOGS = Table(
    "audit_logs",
    METADATA,
    Column("node", String(32), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("timestamp", String(27), nullable=False),
    Column("event_type", String(32), nullable=False),
    Column("request_id", String(64)),
    Column("client_request_id", String(128)),
    Column("epoch", String(16)),
    Column("user_id", String(128)),
    Column("key_id", String(64)),
    Column("client_ip", String(64)),
    Column("endpoint", String(64)),
    Column("requested_model", String(512)),
    Column("provider", String(64)),
    Column("model", String(512)),
    Column("stream", Integer),  # 0 or 1
    Column("attempt", Integer),
    Column("status", String(16)),
    Column("http_status", Integer),
    Column("error_code", String(64)),
    Column("error_message", String(512)),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("total_tokens", BigInteger),
    Column("usage_source", String(16)),
    Column("estimated_cost_usd", Float),  # to look at; sums are made of cost_nusd
    Column("cost_nusd", BigInteger),
    Column("price_table", String(64)),
    Column("finish_reason", String(64)),
    Column("duration_ms", Float),
    Column("first_token_ms", Float),
    Column("bytes_in", BigInteger),
    Column("bytes_out", BigInteger),
    Column("cache", String(8)),
    Column("upstream_request_id", String(512)),
    Column("content", String(16)),
    Column("action", String(32)),
    Column("count", BigInteger),
    Column("attempts", Integer),  # how many there were
    Index("audit_logs_by_time", "timestamp"),
    Index("audit_logs_by_request", "request_id"),
    Index("audit_logs_by_user", "user_id", "timestamp"),
)

AUDIT_POSITIONS = Table(
    "audit_positions",
    METADATA,
    Column("node", String(32), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("file", String(64), nullable=False),  # how far the index has come: up to this place of this file
    Column("offset", BigInteger, nullable=False),
    Column("line_offset", BigInteger, nullable=False),  # where the last line begins, and its SHA-256: if it has
    Column("line_hash", String(64), nullable=False),  # changed, the file was cut back, and is read anew
)
