"""The effective configuration as text, secrets as `***`, and its epoch. Pure."""

from pathlib import Path

import msgspec

from securellm.config.secrets import Secret
from securellm.config.table import dotted
from securellm.config.tree import Config

_NOT_EFFECTIVE = ("epoch", "source", "warnings")  # about the loading, not about what is done


def epoch_of(config: Config) -> str:
    """The first 16 hex digits of the SHA-256 of the effective configuration; secrets count only as set or not."""
    from hashlib import sha256  # not at the top: OpenSSL takes milliseconds to load

    return sha256(msgspec.json.encode(effective(config), order="sorted")).hexdigest()[:16]


def effective(config: Config) -> dict[str, object]:
    """The tree as plain values; secrets are `***`."""
    plain = msgspec.to_builtins(config, enc_hook=_plain)
    for said_by_its_url in ("path", "server"):
        del plain["database"][said_by_its_url]
    return {key: value for key, value in plain.items() if key not in _NOT_EFFECTIVE}


def encode_toml(config: Config) -> str:
    """The effective configuration as TOML for people. Settings without a value are left out."""
    lines: list[str] = []
    _encode_section(effective(config), (), lines)
    return "\n".join(lines).strip() + "\n"


def _encode_section(section: dict[str, object], path: tuple[str, ...], lines: list[str]) -> None:
    values = {key: value for key, value in section.items() if not isinstance(value, dict) and value is not None}
    if values and path:
        lines.extend(["", f"[{dotted(path)}]"])
    for key, value in values.items():
        lines.append(f"{dotted((key,))} = {msgspec.json.encode(value).decode()}")
    for key, value in section.items():
        if isinstance(value, dict):
            _encode_section(value, (*path, key), lines)


def _plain(value: object) -> object:
    if isinstance(value, Secret | Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} in the configuration")
