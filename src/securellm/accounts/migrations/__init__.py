"""The revisions of the store, one file each, as alembic reads them: what changed, and how an older store is brought on.

They speak of tables by name and never of `schema.py`, which is about the last revision only. What was released is not
changed again.
"""
