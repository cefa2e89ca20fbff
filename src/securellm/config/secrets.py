"""Secrets: a type that cannot be formatted, and references to where a secret is kept.

A reference is `env:NAME` or `file:PATH`. A bare file name (no slash) is looked up in `$CREDENTIALS_DIRECTORY` first,
where systemd's LoadCredential puts it, then beside the configuration file. Reading happens once, when the
configuration is loaded, so that a missing secret stops the start and not a request.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

from securellm.errors import DestinationRefused

MASK = "***"
MAX_SECRET_BYTES = 65_536  # a secret file that is longer is some other file


class SecretMissing(Exception):
    """What a reference names is not there or not usable; the message holds no secret."""


class Secret:
    """A secret value that shows itself as `***` and is handed out by name only.

    A secret bound to an origin (scheme, host and port) is given to that origin and to no other.
    """

    __slots__ = ("_origin", "_value")

    def __init__(self, value: str, origin: str | None = None) -> None:
        self._value = value
        self._origin = origin

    def reveal(self) -> str:
        """The value itself. For comparing and for redaction; credentials go out by `for_origin`."""
        return self._value

    def bound_to(self, origin: str) -> "Secret":
        """The same secret, for that origin only."""
        return Secret(self._value, origin)

    def for_origin(self, origin: str) -> str:
        """The value, if the secret is bound to exactly this origin. Raises DestinationRefused."""
        if self._origin is None or self._origin != origin:
            raise DestinationRefused(f"a credential bound to {self._origin or 'no origin'} was asked for by {origin}")
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        from hmac import compare_digest  # not at the top: OpenSSL takes milliseconds to load

        same_value = compare_digest(self._value.encode(), other._value.encode())
        return same_value and self._origin == other._origin

    def __hash__(self) -> int:
        return hash((Secret, self._value, self._origin))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


def is_reference(text: str) -> bool:
    """Whether the text has the form of a reference. Pure."""
    kind, colon, rest = text.partition(":")
    return kind in ("env", "file") and bool(colon) and bool(rest.strip())


def resolve_reference(reference: str, *, environ: Mapping[str, str], beside: Path | None = None) -> Secret:
    """Read what `env:NAME` or `file:PATH` names. `beside` is the folder for relative paths.

    White space around the value is removed, as files end in a newline. Raises SecretMissing.
    """
    kind, _, name = reference.partition(":")
    name = name.strip()
    if kind == "env":
        if not name.isidentifier():
            # The name is not repeated: it may be the secret itself.
            raise SecretMissing("expected the name of an environment variable after env:")
        value = environ.get(name, "").strip()
        if not value:
            raise SecretMissing(f"environment variable {name} is not set or empty")
        return _checked(value, f"environment variable {name}")
    if kind == "file":
        path = _find(name, environ, beside)
        return _checked(_read(path), f"file {path}")
    raise SecretMissing("expected a reference, env:NAME or file:PATH")


def _find(name: str, environ: Mapping[str, str], beside: Path | None) -> Path:
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if "/" not in name and credentials:
        path = Path(credentials) / name
        if path.exists():
            return path
    return (beside or Path()) / name


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as exc:
        raise SecretMissing(f"file {path} cannot be read: {exc.strerror or 'input/output error'}") from exc
    if len(data) > MAX_SECRET_BYTES:
        raise SecretMissing(f"file {path} is over {MAX_SECRET_BYTES} bytes, expected a secret")
    try:
        return data.decode().strip()
    except UnicodeDecodeError as exc:
        # `from None`: the exception holds the bytes of the secret.
        del exc
        raise SecretMissing(f"file {path} is not UTF-8 text") from None


def _checked(value: str, source: str) -> Secret:
    """A secret goes into a header: visible ASCII on one line."""
    if not value:
        raise SecretMissing(f"{source} is empty")
    if not value.isascii() or not value.isprintable():
        raise SecretMissing(f"{source} holds characters that cannot be in a header (line breaks or non-ASCII)")
    return Secret(value)
