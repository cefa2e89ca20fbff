"""The tables of the store: revision 1.

A later revision is made by a migration that starts from `schema_version`. Times are Unix seconds. Every change of the
keys adds one to the generation in the same transaction, and whoever holds a snapshot polls that one row.
"""

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, String, Table

REVISION = 1

METADATA = MetaData()

SCHEMA_VERSION = Table(
    "schema_version",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at_s", Integer, nullable=False),
)

META = Table(
    "meta",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Integer, nullable=False),
)
GENERATION = "generation"  # the row of `meta` that counts changes

KEYS = Table(
    "keys",
    METADATA,
    Column("id", String(8), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),  # HMAC-SHA256 of the whole key under the pepper
    Column("name", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at_s", Integer, nullable=False),
    Column("expires_at_s", Integer),
    Column("revoked_at_s", Integer),
    Index("keys_by_creation", "created_at_s"),
)

MODELS = Table(
    "models",
    METADATA,
    Column("provider", String(64), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("context", Integer),
    Column("max_output", Integer),
    Column("created_s", Integer, nullable=False),
    Column("display_name", String(256)),
    Column("seen_at_s", Integer, nullable=False),
)
