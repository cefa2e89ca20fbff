"""Revision 1: keys, events, models and the index of the audit log, as the first versions made them without alembic."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Nothing: a store of this revision is where migrations begin."""
