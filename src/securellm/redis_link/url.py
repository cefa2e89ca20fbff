"""URLs of Redis, read without its library: where it is, as what it runs, who we are there. Pure.

    redis://[user:password@]host[:port][/db]                             one server
    rediss://…                                                           the same over TLS
    unix://[user:password@]/path/of/the.sock[?db=1]                      one server on this machine
    redis+sentinel://[user:password@]host[:port],host[:port]/service[/db]   whoever the sentinels say is the master
    redis+cluster://[user:password@]host[:port],host[:port]              a cluster; the hosts are where to begin

A wrong URL is told of without showing any of it: it may hold a password.
"""

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec

from securellm.errors import ConfigError

REDIS_PORT = 6379
SENTINEL_PORT = 26379

# What may follow a `?`: names of redis-py, but for `tls`, which is for the kinds that have no `rediss` of their own.
OPTIONS = (
    "db",
    "tls",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "sentinel_username",
    "sentinel_password",
)


class Address(NamedTuple):
    """A host and its port."""

    host: str
    port: int


class Place(msgspec.Struct, frozen=True):
    """Where Redis is. `kind` is the URL's scheme; `options` are redis-py's `ssl_…`."""

    kind: str
    addresses: tuple[Address, ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """For people: the place without user, password and options."""
        where = ",".join(f"{address.host}:{address.port}" for address in self.addresses) or self.path
        return f"{self.kind}://{where}" + (f"/{self.service}" if self.service else "")

    def __repr__(self) -> str:
        return f"<Place {self}>"


def parse_place(url: str) -> Place:
    """Read a URL. Raises ConfigError, which shows none of it."""
    kind, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    options = _options(query)
    authority, slash, path = rest.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    place = Place(
        kind,
        tls=kind == "rediss" or options.pop("tls", "false").lower() in ("true", "1", "yes", "on"),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=options.pop("sentinel_username", None),
        sentinel_password=options.pop("sentinel_password", None),
    )
    path_db = ""
    match kind:
        case "redis" | "rediss":
            path_db = path
            place = msgspec.structs.replace(place, addresses=_addresses(hosts or "localhost", REDIS_PORT, most=1))
        case "unix":
            if hosts or not path:
                raise _wrong("expected unix:///path/of/the.sock")
            place = msgspec.structs.replace(place, path=slash + unquote(path))
        case "redis+sentinel":
            service, _, path_db = path.partition("/")
            if not service:
                raise _wrong("expected the service's name after the sentinels: redis+sentinel://host:26379/service/0")
            place = msgspec.structs.replace(place, addresses=_addresses(hosts, SENTINEL_PORT), service=unquote(service))
        case "redis+cluster":
            if path.strip("/") not in ("", "0") or options.get("db", "0") != "0":
                raise _wrong("a cluster has no databases but 0")
            place = msgspec.structs.replace(place, addresses=_addresses(hosts, REDIS_PORT))
        case _:
            raise _wrong("expected redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
    db = _db(options.pop("db", "") or path_db.strip("/"))
    return msgspec.structs.replace(place, db=db, options=tuple(sorted(options.items())))


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query))
    for name in options:
        if name not in OPTIONS:
            raise _wrong(f"it has an option that is not known, expected some of {', '.join(OPTIONS)}")
    return options


def _addresses(hosts: str, default_port: int, *, most: int = 64) -> tuple[Address, ...]:
    found = []
    for text in hosts.split(","):
        host, port = _split(text)
        if not host or not (port == "" or (port.isascii() and port.isdigit() and 0 < int(port) < 65_536)):
            raise _wrong("expected host:port, several of them separated by commas where the kind allows it")
        found.append(Address(unquote(host), int(port or default_port)))
    if len(found) > most:
        raise _wrong(f"expected at most {most} addresses")
    return tuple(found)


def _split(text: str) -> tuple[str, str]:
    """Host and port, the host without the brackets of IPv6."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = text.partition(":")
    return host, port


def _db(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise _wrong("expected the number of a database")
    return int(text)


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"redis.url cannot be used: {what}")
