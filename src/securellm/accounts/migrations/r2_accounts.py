"""Revision 2: users, teams, budgets; what a key belongs to, is granted and may do; machines that share a server."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add what is new, and make the index of the audit log anew: it is filled again from the files."""
    op.create_table(
        "teams",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at_s", LONG, nullable=False),
        sa.Column("disabled_at_s", LONG),
        *_rates(),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at_s", LONG, nullable=False),
        sa.Column("team_id", sa.String(64)),
        sa.Column("disabled_at_s", LONG),
        *_rates(),
    )
    op.create_index("users_by_team", "users", ["team_id"])
    with op.batch_alter_table("keys") as keys:
        keys.add_column(sa.Column("user_id", sa.String(64)))
        keys.add_column(sa.Column("team_id", sa.String(64)))
        for name in ("models", "providers", "endpoints", "networks"):
            keys.add_column(sa.Column(name, sa.Text))
        for column in _rates():
            keys.add_column(column)
        keys.add_column(sa.Column("previous_digest", sa.LargeBinary(32)))
        keys.add_column(sa.Column("previous_until_s", LONG))
        keys.create_index("keys_by_user", ["user_id"])
    op.create_table(
        "budgets",
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("subject", sa.String(64), primary_key=True),
        sa.Column("window", sa.String(8), primary_key=True),
        sa.Column("limit_nusd", sa.BigInteger),
        sa.Column("limit_tokens", sa.BigInteger),
        sa.Column("rolling_s", LONG, nullable=False),
    )
    _add_spending()
    with op.batch_alter_table("events") as events:
        events.add_column(sa.Column("actor", sa.String(160), nullable=False, server_default=""))
        events.add_column(sa.Column("changed", sa.Text, nullable=False, server_default=""))
        events.add_column(sa.Column("taken_until_s", LONG))
    _make_index_anew()


def _add_spending() -> None:
    where = ("budget_id", sa.String(160)), ("start_s", sa.BigInteger), ("end_s", sa.BigInteger)
    op.create_table(
        "budget_spent",
        *(sa.Column(name, kind, primary_key=True, autoincrement=False) for name, kind in where),
        sa.Column("nusd", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
    )
    op.create_index("budget_spent_by_end", "budget_spent", ["end_s"])
    op.create_table(
        "budget_leases",
        *(sa.Column(name, kind, primary_key=True, autoincrement=False) for name, kind in where),
        sa.Column("owner", sa.String(32), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("settled_nusd", sa.BigInteger, nullable=False),
        sa.Column("settled_tokens", sa.BigInteger, nullable=False),
        sa.Column("nusd", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("expires_at_s", sa.BigInteger, nullable=False),
    )


def _rates() -> tuple[sa.Column[int], ...]:
    return tuple(sa.Column(name, LONG) for name in ("rpm", "burst", "tpm", "concurrent"))


def _make_index_anew() -> None:
    op.execute("DROP TABLE IF EXISTS audit_logs")
    op.execute("DROP TABLE IF EXISTS audit_positions")
    op.create_table(
        "audit_logs",
        sa.Column("node", sa.String(32), primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("timestamp", sa.String(27), nullable=False),
        sa.Column("event_type", sa.String(32), nullable=False),
        sa.Column("request_id", sa.String(64)),
        sa.Column("client_request_id", sa.String(128)),
        sa.Column("epoch", sa.String(16)),
        sa.Column("user_id", sa.String(128)),
        sa.Column("key_id", sa.String(64)),
        sa.Column("client_ip", sa.String(64)),
        sa.Column("endpoint", sa.String(64)),
        sa.Column("requested_model", sa.String(512)),
        sa.Column("provider", sa.String(64)),
        sa.Column("model", sa.String(512)),
        sa.Column("stream", sa.Integer),
        sa.Column("attempt", sa.Integer),
        sa.Column("status", sa.String(16)),
        sa.Column("http_status", sa.Integer),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.String(512)),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("total_tokens", sa.BigInteger),
        sa.Column("usage_source", sa.String(16)),
        sa.Column("estimated_cost_usd", sa.Float),
        sa.Column("cost_nusd", sa.BigInteger),
        sa.Column("price_table", sa.String(64)),
        sa.Column("finish_reason", sa.String(64)),
        sa.Column("duration_ms", sa.Float),
        sa.Column("first_token_ms", sa.Float),
        sa.Column("bytes_in", sa.BigInteger),
        sa.Column("bytes_out", sa.BigInteger),
        sa.Column("cache", sa.String(8)),
        sa.Column("upstream_request_id", sa.String(512)),
        sa.Column("content", sa.String(16)),
        sa.Column("action", sa.String(32)),
        sa.Column("count", sa.BigInteger),
        sa.Column("attempts", sa.Integer),
    )
    op.create_index("audit_logs_by_time", "audit_logs", ["timestamp"])
    op.create_index("audit_logs_by_request", "audit_logs", ["request_id"])
    op.create_index("audit_logs_by_user", "audit_logs", ["user_id", "timestamp"])
    op.create_table(
        "audit_positions",
        sa.Column("node", sa.String(32), primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("file", sa.String(64), nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("line_offset", sa.BigInteger, nullable=False),
        sa.Column("line_hash", sa.String(64), nullable=False),
    )
