"""The store's URL: a SQLite file in the forms of sqlx and of SQLAlchemy, made one, or a PostgreSQL server. Pure.

For a file the two agree but for three slashes: sqlx reads `sqlite:///srv/x.db` as the absolute path /srv/x.db,
SQLAlchemy as the relative srv/x.db. sqlx wins, as the first users of this program come from there; only a bare file
name, which nobody means to lie in the root directory, is read as SQLAlchemy does. A URL with a driver
(`sqlite+pysqlite:///srv/x.db`) is SQLAlchemy's in full. The URL of a server is libpq's; what may be a
password in it is never shown.
"""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, unquote

from securellm.config.mistakes import WrongValue
from securellm.config.secrets import Secret

Place = Path | Secret  # a SQLite file, or the URL of a PostgreSQL server

_DRIVERS = ("pysqlite", "aiosqlite")  # SQLAlchemy's names; the file is the same, and we bring our own driver
_HARMLESS_OPTIONS = {"mode": ("rwc", "rw"), "cache": ("private",)}
_SERVER = re.compile(r"postgres(?:ql)?(?:\+psycopg)?://", re.IGNORECASE)
_PASSWORD_OPTION = re.compile(r"(?<=[?&])(?:ssl)?password=([^&]*)", re.IGNORECASE)


def is_server_url(url: str) -> bool:
    """Whether the URL names a PostgreSQL server."""
    return _SERVER.match(url) is not None


def passwords_in(url: str) -> list[str]:
    """Every password that the URL of a server holds, as it is written and as it is meant."""
    written = [found for found in (_authority_password(url), *_PASSWORD_OPTION.findall(url)) if found]
    return list(dict.fromkeys([*written, *map(unquote, written)]))


def shown_url(url: str) -> str:
    """The URL of a server without what may be secret: scheme, user, hosts and database."""
    _, _, rest = url.partition("://")
    authority, slash, tail = rest.partition("?")[0].partition("/")
    login, at, hosts = authority.rpartition("@")
    return f"postgresql://{login.partition(':')[0]}{at}{hosts}{slash}{tail}"


def describe_place(place: Place) -> str:
    """The store in a message: its file, or its server's URL without a password."""
    return shown_url(place.reveal()) if isinstance(place, Secret) else str(place)


def check_database_url(url: str) -> None:
    """See that the URL names a file or a server. Raises WrongValue, which shows no part of it."""
    if not is_server_url(url):
        read_database_url(url)


def read_database_url(url: str) -> PurePosixPath:
    """The SQLite file that the URL names, absolute or relative to the working directory. Raises WrongValue.

    No part of a wrong URL is shown, as it may hold a password.
    """
    scheme, colon, rest = url.partition(":")
    family, _, driver = scheme.lower().partition("+")
    if not colon:
        raise WrongValue("expected a URL like sqlite:/path/models.db or postgresql://user@host/database")
    if family in ("postgres", "postgresql"):
        raise WrongValue("expected postgresql://<user>@<host>/<database>; psycopg is the one driver that is known")
    if family != "sqlite" or driver not in ("", *_DRIVERS):
        raise WrongValue("expected a URL that begins with sqlite: or postgresql://")
    rest, _, options = rest.partition("?")
    _check_options(options)
    name = _path_of(rest, sqlalchemy=bool(driver))
    if name in ("", ":memory:"):
        raise WrongValue("a store in memory would lose every key at the end; name a file, like sqlite:/path/models.db")
    return PurePosixPath(name)


def _authority_password(url: str) -> str:
    authority = url.partition("://")[2].partition("?")[0].partition("/")[0]
    return authority.rpartition("@")[0].partition(":")[2]


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
