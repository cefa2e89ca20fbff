"""One value, from the file or from the environment, checked against its row of the table. Pure.

The file is strict (a boolean is `true`, never `"true"`); the environment has only text, so there booleans are one of
eight words, lists are separated by commas, and anything else is an error that names the variable.
"""

import re
from urllib.parse import urlsplit

from securellm.config.database import check_database_url, is_server_url, passwords_in
from securellm.config.mistakes import WrongValue, shown
from securellm.config.secrets import is_reference
from securellm.config.table import Kind, Setting

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")

_REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,9})?")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST_PORT = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253})|[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9]+)?|[A-Za-z0-9]")

# Never passed on, whatever the operator says: credentials of the caller and headers of one connection only.
_NEVER_UP = frozenset(
    (
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "x-securellm-hop",
    )
)


def read_text(setting: Setting, text: str) -> object:
    """A value from the environment or a flag as the file would hold it. Raises WrongValue."""
    if setting.kind is Kind.BOOL:
        word = text.strip().lower()
        if word in TRUE_WORDS or word in FALSE_WORDS:
            return word in TRUE_WORDS
        raise WrongValue(f"got {shown(text)}, expected one of {', '.join(TRUE_WORDS + FALSE_WORDS)}")
    if setting.kind is Kind.INT:
        if not _INTEGER.fullmatch(text.strip()):
            raise WrongValue(f"got {shown(text)}, expected an integer")
        return int(text)
    if setting.kind in (Kind.SECONDS, Kind.USD):
        if not _NUMBER.fullmatch(text.strip()):
            raise WrongValue(f"got {shown(text)}, expected a number")
        return float(text)
    if setting.kind in (Kind.TEXTS, Kind.SECRETS, Kind.ORIGINS, Kind.NETWORKS, Kind.HEADERS):
        return [part.strip() for part in text.split(",") if part.strip()]
    if setting.kind is Kind.CHOICE:
        return text.strip().lower()
    return text.strip()


def check(setting: Setting, value: object) -> object:
    """The value as the tree keeps it: lists become tuples, seconds floats. Raises WrongValue.

    Secrets come back as their references; `load.py` resolves them. URLs of the store are read by `database.py`.
    """
    match setting.kind:
        case Kind.BOOL:
            if not isinstance(value, bool):
                raise WrongValue(f"got {shown(value)}, expected true or false")
            return value
        case Kind.INT:
            return _bounded(setting, value, int)
        case Kind.SECONDS | Kind.USD:
            return _bounded(setting, value, float)
        case Kind.CHOICE:
            if value not in setting.choices:
                raise WrongValue(f"got {shown(value)}, expected one of {', '.join(setting.choices)}")
            return value
        case Kind.SECRET | Kind.SECRET_URL:
            return _reference(value) if setting.kind is Kind.SECRET else _secret_url(setting, value)
        case Kind.SECRETS | Kind.TEXTS | Kind.ORIGINS | Kind.NETWORKS | Kind.HEADERS:
            return _list(setting, value)
        case Kind.URL:
            text = _text(value)
            return _base_url(text) if setting.path[-1] == "base_url" else text
        case Kind.TEXT:
            text = _text(value)
            if setting.path == ("server", "host") and not _HOST.fullmatch(text):
                raise WrongValue(f"got {shown(text)}, expected an address or a host name")
            if setting.path == ("admin", "bind") and not _HOST_PORT.fullmatch(text):
                raise WrongValue(f"got {shown(text)}, expected host:port, like 127.0.0.1:8081")
            return text
        case Kind.PATH:
            return _text(value)
        case Kind.ANY:
            return value


def _bounded(setting: Setting, value: object, kind: type[int] | type[float]) -> int | float:
    noun = "an integer" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise WrongValue(f"got {shown(value)}, expected {noun}")
    if value != value or value in (float("inf"), float("-inf")):
        raise WrongValue(f"got {value}, expected {noun}")
    if setting.least is not None and value < setting.least:
        raise WrongValue(f"got {shown(value)}, expected at least {setting.least:g}")
    if setting.most is not None and value > setting.most:
        raise WrongValue(f"got {shown(value)}, expected at most {setting.most:g}")
    return kind(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise WrongValue(f"got {shown(value)}, expected a text that is not empty")
    if not value.isprintable():
        raise WrongValue("got a text with control characters")
    return value


def _reference(value: object) -> str:
    """The value is never shown: it may well be the secret."""
    if not isinstance(value, str) or not is_reference(value):
        raise WrongValue("secrets are references here: write env:NAME or file:PATH, not the secret itself")
    return value


def redis_url(text: str) -> str:
    """A URL of Redis, which may hold a password: nothing of a wrong one is shown. Raises WrongValue."""
    if text.partition("://")[0] not in _REDIS_SCHEMES:
        *most, last = (f"{scheme}://" for scheme in _REDIS_SCHEMES)
        raise WrongValue(f"got a URL of no known kind, expected {', '.join(most)} or {last}")
    return text


def url_of_service(setting: Setting, text: str) -> str:
    """A URL which may hold a password: nothing of a wrong one is shown. Raises WrongValue."""
    if setting.path[0] == "redis":
        return redis_url(text)
    check_database_url(text)
    return text


def _secret_url(setting: Setting, value: object) -> str:
    """A reference, or a URL that holds no password."""
    if isinstance(value, str) and is_reference(value):
        return value
    text = url_of_service(setting, _text(value))
    if is_server_url(text):
        has_password = bool(passwords_in(text))
    else:
        has_password = ":" in text.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if has_password:
        raise WrongValue("a password in the file is not allowed; write the whole URL as env:NAME or file:PATH")
    return text


def _list(setting: Setting, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise WrongValue(f"got {'a text' if isinstance(value, str) else shown(value)}, expected a list")
    good: list[str] = []
    wrong: list[str] = []
    for element in value:
        try:
            good.append(_element(setting, element))
        except WrongValue as error:
            wrong.append(str(error))
    if wrong:
        raise WrongValue("; ".join(dict.fromkeys(wrong)))
    return tuple(good)


def _element(setting: Setting, value: object) -> str:
    if setting.kind is Kind.SECRETS:
        return _reference(value)
    text = _text(value)
    if setting.choices and text not in setting.choices:
        raise WrongValue(f"got {shown(text)}, expected one of {', '.join(setting.choices)}")
    if setting.kind is Kind.ORIGINS:
        return _origin(text)
    if setting.kind is Kind.NETWORKS:
        return _network(text)
    if setting.kind is Kind.HEADERS:
        return _header(text)
    return text


def _header(text: str) -> str:
    name = text.lower()
    if not _HEADER.fullmatch(name):
        raise WrongValue(f"got {shown(text)}, expected the name of a header")
    if name in _NEVER_UP:
        raise WrongValue(f"{name} is never passed on: it belongs to the caller's connection or is a credential")
    return name


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise WrongValue(f"got {shown(text)}, expected an origin like https://app.example") from None
    named = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not host or port == 0 or "@" in parts.netloc or text != named:
        raise WrongValue(f"got {shown(text)}, expected an origin like https://app.example, each one by name")
    return text.lower()


def _network(text: str) -> str:
    from ipaddress import ip_network  # not at the top: few configurations need it

    try:
        return str(ip_network(text))
    except ValueError:
        raise WrongValue(f"got {shown(text)}, expected an address or a network like 10.0.0.0/8") from None


def _base_url(text: str) -> str:
    """An absolute http(s) URL with nothing in it but host, port and path. No part of a wrong one is shown."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise WrongValue("expected a URL like https://host:port/path") from None
    if parts.scheme not in ("http", "https"):
        raise WrongValue("expected a URL that begins with http:// or https://")
    if "@" in parts.netloc:
        raise WrongValue("a user name or password in the URL is not allowed; use api_key")
    if not host or not _HOST.fullmatch(host) or port == 0:
        raise WrongValue("expected a host, and a port between 1 and 65535 if any, after http:// or https://")
    if "?" in text or "#" in text:
        raise WrongValue("a query or fragment in the URL is not allowed")
    if any(character.isspace() for character in text) or "\\" in text or not text.isascii():
        raise WrongValue("expected a URL without spaces, backslashes or non-ASCII characters")
    if any(part in (".", "..") for part in parts.path.split("/")):
        raise WrongValue("expected a path without . or ..")
    return text.rstrip("/")
