"""One request of an administrator: what it says, what it does to the store, and the pair of records that it leaves."""

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
import trio

from securellm.accounts.store import Store
from securellm.chat import Caller, Endpoint
from securellm.errors import BadRequest, PayloadTooLarge, SlowBody, StoreUnavailable
from securellm.web.answers import json_answer
from securellm.web.asgi import EdgeRequest
from securellm.web.routes import Access, Route, Schema, View

if TYPE_CHECKING:
    from quart.wrappers import Response

PREFIX = "/api/admin"
TAG = "Administration"
MAX_BODY_BYTES = 1024 * 1024  # a thousand grants of the longest kind fit
BODY_S = 10.0
STORE_S = 10.0  # a store that takes longer is told as being away
SHOWN_CHARS = 64  # of a name that the caller gave, in a message

_PLACE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `([^`]*)`")

T = TypeVar("T")


class Asking:
    """See the module."""

    def __init__(self, edge: EdgeRequest, caller: Caller) -> None:
        self.runtime = edge.runtime
        self.caller = caller
        self._edge = edge

    @property
    def actor(self) -> str:
        """Who does it, for the audit log."""
        return str(self.caller.key_id)

    @property
    def document(self) -> msgspec.Raw:
        """The OpenAPI document of all these endpoints."""
        return msgspec.Raw(self._edge.app.documents.openapi)

    async def body(self, kind: type[T]) -> T:
        """The body as what it must be; none at all is an empty object. Raises BadRequest, which names the field."""
        data = bytearray()
        with trio.CancelScope(deadline=trio.current_time() + BODY_S) as scope:
            while piece := await self._edge.body.receive():
                data += piece
                if len(data) > MAX_BODY_BYTES:
                    raise PayloadTooLarge(f"the body is over the limit of {MAX_BODY_BYTES} bytes")
        if scope.cancelled_caught:
            raise SlowBody(f"the body took more than {BODY_S:g} s")
        try:
            return msgspec.json.decode(bytes(data) or b"{}", type=kind)
        except msgspec.ValidationError as error:
            raise _mistake(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadRequest("the body is not JSON; expected an object") from None

    def query(self, *known: str) -> dict[str, str]:
        """The query's parameters. Raises BadRequest for one that is not known or given twice."""
        found: dict[str, str] = {}
        for name, value in parse_qsl(self._edge.target.partition("?")[2], keep_blank_values=True):
            if name not in known:
                which = f"expected {', '.join(known)}" if known else "expected none"
                raise BadRequest(f"query: got an unknown parameter, {which}", param=name[:SHOWN_CHARS])
            if name in found:
                raise BadRequest(f"{name}: got it twice in the query, expected it once", param=name)
            found[name] = value
        return found

    async def read(self, act: Callable[[Store], T]) -> T:
        """Ask the store. Raises what `act` raises, and StoreUnavailable when it does not answer."""
        store: Store = self.runtime.store
        with trio.move_on_after(STORE_S):
            return await store.in_thread(act, store)
        raise StoreUnavailable(
            f"the store does not answer within {STORE_S:g} s; what was asked may still be done", retry_after_s=1.0
        )

    async def change(self, act: Callable[[Store], T]) -> T:
        """Change the store; what it says is in force in this process when this returns."""
        changed = await self.read(act)
        with trio.move_on_after(STORE_S):
            await self.runtime.accounts.refresh()
        return changed


Act = Callable[..., Awaitable[Any]]  # (Asking, **parts of the path) -> what is answered as JSON


def endpoint(
    method: str, path: str, act: Act, summary: str, answer: Schema, *, schema: Schema | None = None, status: int = 200
) -> Route:
    """One endpoint of administration, below `PREFIX`."""
    return Route(
        path=PREFIX + path,
        methods=(method,),
        access=Access.ADMIN,
        view=_recorded(act, status),
        summary=summary,
        tag=TAG,
        schema=schema,
        answers={str(status): answer},
        recorded=Endpoint.ADMIN,
    )


def _recorded(act: Act, status: int) -> View:
    async def view(edge: EdgeRequest, **parts: str) -> "Response":
        caller = edge.caller
        assert caller is not None  # every one of these routes needs a key
        asking = Asking(edge, caller)

        async def run() -> Any:
            return await act(asking, **parts)

        return json_answer(await edge.runtime.gateway.record(edge.call(Endpoint.ADMIN), caller, run), status)

    return view


def _mistake(told: str) -> BadRequest:
    """What msgspec says, with the field first, as everywhere here."""
    place, field = _PLACE.search(told), _FIELD.match(told)
    names = [found[1] for found in (place, field) if found is not None and found[1]]
    param = ".".join(names)[: 2 * SHOWN_CHARS]
    said = _PLACE.sub("", told)
    message = said[0].lower() + said[1:]
    return BadRequest(f"{param}: {message}" if param else message, param=param or None)
