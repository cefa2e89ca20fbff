"""Settings as TOML: what the tests write for the gateway to read."""

import json
from collections.abc import Mapping
from typing import Any


def encode_toml(sections: Mapping[str, Any]) -> str:
    """The sections as TOML, each an inline table on one line."""
    return "".join(f"{_inline(name)} = {_inline(value)}\n" for name, value in sections.items())


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value)
