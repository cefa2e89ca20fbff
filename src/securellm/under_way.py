"""Requests under way in all workers: listed for operators, and ended by id for whoever may.

Whoever ends a request leaves an event in the audit log that says so, before it is ended; the request's own record says
that it was cancelled.
"""

from typing import Any

import msgspec

from securellm.chat import Caller
from securellm.gateway import Gateway
from securellm.ledger import Ledger
from securellm.permit import OpenRequest
from securellm.workers.channel import Channel

LIST, CANCEL = "requests", "cancel"  # commands between workers


class Listed(msgspec.Struct, frozen=True):
    """The requests of all workers, the oldest first, and the workers that did not say theirs."""

    requests: list[OpenRequest]
    missing: list[str]


class UnderWay:
    """One worker's view of all."""

    def __init__(self, gateway: Gateway, ledger: Ledger, channel: Channel) -> None:
        self._gateway = gateway
        self._ledger = ledger
        self._channel = channel
        channel.register(LIST, self._list_here)
        channel.register(CANCEL, self._cancel_here)

    async def requests(self) -> Listed:
        """What is being served now."""
        replies = await self._channel.ask_all(LIST)
        found = [msgspec.convert(item, OpenRequest) for reply in replies if not reply.error for item in reply.result]
        missing = [f"worker {reply.worker}: {reply.error}" for reply in replies if reply.error]
        return Listed(sorted(found, key=lambda request: -request.age_s), missing)

    async def cancel(self, request_id: str, by: Caller, *, own: bool) -> bool:
        """End a request, with `own` only one of the caller's; False when there is no such request.

        Raises AuditUnavailable.
        """
        asked: dict[str, Any] = {"request_id": request_id, "key_id": by.key_id, "user_id": by.user_id, "own": own}
        if not any(await self._ask(asked | {"look": True})):
            return False
        detail: dict[str, str | int] = {"request_id": request_id, "by": by.key_id or "anonymous"}
        await self._ledger.note("request_cancelled", detail=detail).durable()
        return any(await self._ask(asked))

    async def _ask(self, arguments: dict[str, Any]) -> list[bool]:
        return [reply.result is True for reply in await self._channel.ask_all(CANCEL, arguments)]

    async def _list_here(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        return [msgspec.structs.asdict(request) for request in self._gateway.requests()]

    async def _cancel_here(self, arguments: dict[str, Any]) -> bool:
        by = Caller(arguments["key_id"], arguments["user_id"])
        owner = by if arguments["own"] else None
        request_id = str(arguments["request_id"])
        if arguments.get("look"):
            return self._gateway.is_open(request_id, of=owner)
        whose = "its owner" if owner is not None else "an operator"
        return self._gateway.cancel(request_id, f"the request was ended by {whose}", of=owner)
