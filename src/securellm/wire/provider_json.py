"""Reading a provider's JSON: tolerant of what is missing or of the wrong kind, strict about what is no JSON. Pure."""

import msgspec

from securellm.errors import UpstreamInvalid
from securellm.wire.words import JSONObject


def read_answer(data: bytes) -> JSONObject:
    """A provider's JSON object. Raises UpstreamInvalid, also for half of a surrogate pair."""
    try:
        answer = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise UpstreamInvalid("the provider sent something that is not valid json") from exc
    if not isinstance(answer, dict):
        raise UpstreamInvalid("the provider sent json that is not an object")
    return answer


def text_of(value: object) -> str:
    """A string, else the empty one."""
    return value if isinstance(value, str) else ""


def object_of(value: object) -> JSONObject:
    """An object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects_of(value: object) -> list[JSONObject]:
    """The objects in an array; none for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
