"""Which call of a tool a fragment belongs to, in streams whose indexes cannot be relied on. Pure.

OpenAI numbers the calls of an answer and sends the id and the name once. Its followers give every call the index 0, no
index at all, indexes with holes, or the id and the name with each fragment; some never send an id. The rules, in order:

1. A known id belongs to its call, unless that call's arguments are complete and the fragment opens another with a name.
2. A new id opens a call; a call that has begun without one under the same index takes it over.
3. Without an id the index decides, then "the last call". A name after complete arguments opens another call, and so
   does a different name.

Calls come out with dense indexes in the order in which they opened, and with an id that is unique in the answer.
"""

import msgspec

from securellm.wire.provider_json import object_of, text_of
from securellm.wire.words import Event, JSONObject, ToolArguments, ToolStarted


class _Call:
    __slots__ = ("fragments", "given_id", "id", "index", "name")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.given_id: str | None = None
        self.name = ""
        self.fragments: list[str] = []

    @property
    def complete(self) -> bool:
        return is_complete(self.fragments)


class ToolCalls:
    """The calls of one answer. `prefix` begins the ids of calls to which the provider gave none."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def fragment(self, delta: JSONObject) -> list[Event]:
        """The events of one entry of `delta.tool_calls`."""
        function, index = object_of(delta.get("function")), delta.get("index")
        position = index if isinstance(index, int) else None
        name = text_of(function.get("name"))
        call = self._find(position, text_of(delta.get("id")), name)
        if position is not None:
            self._by_index[position] = call
        return self._extend(call, name, function.get("arguments"))

    def whole(self, call: JSONObject) -> list[Event]:
        """The events of one entry of `message.tool_calls`."""
        function = object_of(call.get("function"))
        opened = self._open(text_of(call.get("id")))
        return self._extend(opened, text_of(function.get("name")), function.get("arguments"))

    def close(self) -> list[Event]:
        """The calls that never got a name, with what they hold; the caller's side must show them all the same."""
        return [event for call in self._calls if not call.name for event in self._announce(call)]

    def _find(self, position: int | None, id_: str, name: str) -> _Call:
        if id_:
            known = self._by_id.get(id_)
            if known is None:
                return self._adopt(position, id_, name) or self._open(id_)
            if not name or not known.complete or position is None or self._by_index.get(position) is known:
                return known
            return self._open(id_)
        call = None if position is None else self._by_index.get(position)
        if call is None:
            if name or not self._calls:
                return self._open_or_continue(position, name)
            return self._calls[-1]
        return self._open("") if _opens_another(call, name) else call

    def _open_or_continue(self, position: int | None, name: str) -> _Call:
        """A head without an id under no known index: new, except where a server repeats the name with each fragment."""
        last = self._calls[-1] if self._calls and position is None else None
        if last is not None and last.name == name and last.fragments and not last.complete:
            return last
        return self._open("")

    def _adopt(self, position: int | None, id_: str, name: str) -> _Call | None:
        call = None if position is None else self._by_index.get(position)
        if call is None or call.given_id is not None or _opens_another(call, name):
            return None
        call.given_id = id_
        self._by_id[id_] = call
        return call

    def _open(self, id_: str) -> _Call:
        call = _Call(len(self._calls))
        self._calls.append(call)
        unused = bool(id_) and id_ not in self._by_id
        call.id = id_ if unused else f"{self._prefix}{call.index}"
        if id_:
            call.given_id = id_
            self._by_id[id_] = call
        return call

    def _extend(self, call: _Call, name: str, arguments: object) -> list[Event]:
        events: list[Event] = []
        fragment = _fragment_text(arguments)
        if not call.name and name:
            call.name = name
            events += self._announce(call)
        if fragment:
            call.fragments.append(fragment)
            if call.name:
                events.append(ToolArguments(call.index, fragment))
        return events

    @staticmethod
    def _announce(call: _Call) -> list[Event]:
        held = "".join(call.fragments)
        started = ToolStarted(call.index, call.id, call.name)
        return [started, ToolArguments(call.index, held)] if held else [started]


def is_complete(fragments: list[str]) -> bool:
    """Whether the fragments together are the text of a JSON object; looks closer only at what ends like one."""
    if not fragments or not fragments[-1].rstrip().endswith("}"):
        return False
    try:
        return isinstance(msgspec.json.decode("".join(fragments)), dict)
    except (msgspec.DecodeError, RecursionError):
        return False


def _opens_another(call: _Call, name: str) -> bool:
    """Whether a head with that name, where `call` is open, is the head of another call."""
    if not name or not call.name:
        return False
    return call.complete or name != call.name


def _fragment_text(arguments: object) -> str:
    """Arguments are text; some servers send the object itself."""
    if isinstance(arguments, str):
        return arguments
    return msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else ""
