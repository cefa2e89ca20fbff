"""Which revision a store has, and what brings an older one up to ours. Everything here blocks.

A new store is made at once as of this version. An older one is changed by alembic, imported only then as it takes half
a second, in one transaction: whoever comes at the same time waits, and a crash leaves the revision that it was. A
newer one is refused and left alone.
"""

from pathlib import Path

from sqlalchemy import Connection, func, insert, inspect, select

from securellm.accounts.database import Database
from securellm.accounts.schema import ALEMBIC_VERSION, GENERATION, META, METADATA, REVISION, SCHEMA_VERSION
from securellm.errors import StoreUnavailable

FOLDER = Path(__file__).parent / "migrations"


def bring_up_to_date(database: Database, now_s: int) -> None:
    """Make the tables, or change them to this version's. Raises StoreUnavailable on a store of a later revision."""
    with database.transaction() as connection:
        found = _revision(connection)
    if found is None or found < REVISION:
        with database.transaction(write=True) as connection:
            found = _revision(connection)  # another process may have been faster
            if found is None:
                _create(connection, now_s)
                return
            if found < REVISION:
                _upgrade(connection, found)
                connection.execute(insert(SCHEMA_VERSION).values(version=REVISION, applied_at_s=now_s))
    if found > REVISION:
        raise StoreUnavailable(
            f"{database.where} has schema revision {found}, this version knows {REVISION}: it was used by a later "
            "version; run that one, or restore the copy that was made before"
        )


def _revision(connection: Connection) -> int | None:
    """The revision of a store, None of an empty one."""
    if not inspect(connection).has_table(SCHEMA_VERSION.name):
        return None
    return connection.execute(select(func.max(SCHEMA_VERSION.c.version))).scalar_one_or_none()


def _create(connection: Connection, now_s: int) -> None:
    METADATA.create_all(connection)
    connection.execute(insert(SCHEMA_VERSION).values(version=REVISION, applied_at_s=now_s))
    connection.execute(insert(ALEMBIC_VERSION).values(version_num=str(REVISION)))
    connection.execute(insert(META).values(name=GENERATION, value=0))


def _upgrade(connection: Connection, found: int) -> None:
    """Every migration after the found revision, in the transaction of the connection."""
    from alembic.migration import MigrationContext  # not at the top: see above
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationStep
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(FOLDER), version_locations=[str(FOLDER)])

    def steps(revision: object, context: object) -> list[MigrationStep]:
        later = list(scripts.iterate_revisions("head", str(found)))
        return [MigrationStep.upgrade_from_script(scripts.revision_map, script) for script in reversed(later)]

    context = MigrationContext.configure(connection, opts={"fn": steps})
    context.stamp(scripts, str(found))  # a store of the first versions has only its schema_version
    with Operations.context(context):
        context.run_migrations()
