"""The store's URL in the forms of sqlx and of SQLAlchemy, made one. Pure.

The two agree but for three slashes: sqlx reads `sqlite:///srv/x.db` as the absolute path /srv/x.db, SQLAlchemy as the
relative srv/x.db. sqlx wins, as the first users of this program come from there; only a bare file name, which nobody
means to lie in the root directory, is read as SQLAlchemy does. A URL with a driver (`sqlite+pysqlite:///srv/x.db`) is
SQLAlchemy's in full.
"""

from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote

from securellm.config.values import WrongValue

_DRIVERS = ("pysqlite", "aiosqlite")  # SQLAlchemy's names; the file is the same, and we bring our own driver
_HARMLESS_OPTIONS = {"mode": ("rwc", "rw"), "cache": ("private",)}


def read_database_url(url: str) -> PurePosixPath:
    """The SQLite file that the URL names, absolute or relative to the working directory. Raises WrongValue.

    No part of a wrong URL is shown, as it may hold a password.
    """
    scheme, colon, rest = url.partition(":")
    family, _, driver = scheme.lower().partition("+")
    if not colon:
        raise WrongValue("expected a URL like sqlite:/path/models.db")
    if family in ("postgres", "postgresql"):
        raise WrongValue("PostgreSQL is not built in this version; expected sqlite:<path>")
    if family != "sqlite" or driver not in ("", *_DRIVERS):
        raise WrongValue("expected a URL that begins with sqlite:")
    rest, _, options = rest.partition("?")
    _check_options(options)
    name = _path_of(rest, sqlalchemy=bool(driver))
    if name in ("", ":memory:"):
        raise WrongValue("a store in memory would lose every key at the end; name a file, like sqlite:/path/models.db")
    return PurePosixPath(name)


def _path_of(rest: str, *, sqlalchemy: bool) -> str:
    rest = unquote(rest)
    if not rest.startswith("//"):
        return rest  # sqlite:models.db, sqlite:/srv/models.db
    path = rest[2:]
    if path.startswith("//"):
        return path[1:]  # four slashes: absolute to both
    relative = sqlalchemy or "/" not in path[1:]
    return path[1:] if path.startswith("/") and relative else path


def _check_options(options: str) -> None:
    for name, value in parse_qsl(options, keep_blank_values=True):
        if value not in _HARMLESS_OPTIONS.get(name, ()):
            raise WrongValue("expected no options in the URL but mode=rwc")
