"""A request may be cancelled at any of its checkpoints: it leaves exactly one pair all the same (3).

`serve_one` is the lane in short: admit, ask, relay, finish, and a settlement in a plain `finally`. It is cancelled at
its first checkpoint, then at its second, and so on, until it comes to its end.
"""

import contextlib
import os
import random
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.books import check_pairs, read_books, verify
from rig.gateway import RunningGateway
from rig.raw_client import BodyCut, open_client
from rig.waiting import until_true
from securellm.chat import Answer, Call, Endpoint, Outcome, Status
from securellm.gateway import Gateway
from securellm.ids import new_request_id

_CHAT = doors.CHAT
_SCALE = float(os.environ.get("SECURELLM_TEST_SCALE", "1.0"))
DEPARTURES = max(20, int(300 * _SCALE))


class Body:
    """A request's body, in two pieces."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._pieces = [data[:20], data[20:]]

    def receive_nowait(self) -> bytes | None:
        return None

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._pieces.pop(0) if self._pieces else b""


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when the n-th step of a task begins; the task is cancelled at its next checkpoint."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task = task
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def serve_one(gateway: Gateway, body: bytes) -> bytes:
    """Everything that the caller would be sent."""
    head = [(name.encode(), value.encode()) for name, value in _CHAT.auth().items()]
    call = Call(Endpoint.CHAT, _CHAT.path, head, Body(body), "127.0.0.1", new_request_id(), trio.current_time())
    permit: Any = None
    try:
        admitted = await gateway.admit(call)
        if isinstance(admitted, Answer):
            return admitted.body
        permit = admitted
        asked = await gateway.ask(permit)
        if isinstance(asked, Answer):
            return asked.body
        sent = b""
        async with asked:
            while True:
                pulled = await asked.pull()
                sent += pulled.data
                if pulled.last:
                    return sent + (await gateway.finish(permit, asked, pulled)).held
    finally:
        if permit is not None and not permit.settled:
            gateway.settle(permit, Outcome(Status.CANCELLED))


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("kind", ["good", "fallback", "cut", "refused"])
async def test_cancelled_at_every_checkpoint(serving, provider, second_provider, kind: str, stream: bool):
    """No record is lost, none is written twice, and no room in the log and no bytes in flight stay taken."""
    good = (
        script.stream(speech.CHAT.events(("Hel", "lo"))) if stream else script.answer(200, speech.CHAT.whole("Hello"))
    )
    body = _CHAT.body("auto", stream=stream)[: -5 if kind == "refused" else None]
    provider.default = [*good[:-2], script.fin()] if kind == "cut" else good
    if kind == "fallback":
        provider.default = script.answer(503, speech.CHAT.error(503))
    second_provider.default = good
    calm = {"circuit_breaker": {"failure_threshold": 100_000}}
    with trio.fail_after(60):
        gateway: RunningGateway = await serving(
            {"openai": provider, "compat": second_provider},
            providers={"openai": calm, "compat": calm},
            auto={"targets": ["openai/m1", "compat/m1"] if kind == "fallback" else ["openai/m1"]},
        )
        core = gateway.runtime.gateway
        steps, cancelled = 0, True
        while cancelled:
            steps += 1
            with trio.CancelScope() as scope:
                breaker = CancelAtStep(trio.lowlevel.current_task(), scope, steps)
                trio.lowlevel.add_instrument(breaker)
                try:
                    await trio.lowlevel.checkpoint()
                    await serve_one(core, body)
                finally:
                    trio.lowlevel.remove_instrument(breaker)
            cancelled = scope.cancelled_caught
        entries = check_pairs(await read_books(gateway))
        figures = core.statistics()
    assert steps > (8 if kind != "refused" else 3)
    assert (figures.open_requests, figures.in_flight.charged_bytes, figures.ledger.audit.reserved) == (0, 0, 0)
    assert len(entries) == figures.ledger.settled
    assert steps - 3 <= len(entries) <= steps, "those that were cancelled before they were admitted have none"
    ends = [entry.closing["status"] for entry in entries.values()]
    last = {"good": "success", "fallback": "success", "cut": "truncated", "refused": "rejected"}[kind]
    assert set(ends) <= {"cancelled", last}
    assert ends[-1] == last


async def test_callers_who_leave_at_any_moment(serving, provider):
    """Through the server: whenever the connection is reset, each request that arrived has its pair, and no more."""
    chance = random.Random(13)
    provider.default = script.stream(speech.CHAT.events(("Hel", "lo")))
    arrived = 0
    with trio.fail_after(120):
        gateway: RunningGateway = await serving(provider)
        limiter = trio.CapacityLimiter(8)

        async def leave(after_s: float) -> None:
            async with limiter, open_client(gateway.base_url) as client:
                await client.request("POST", _CHAT.path, _CHAT.body("openai/m1", stream=True), _CHAT.auth())
                with trio.move_on_after(after_s):
                    with contextlib.suppress(BodyCut):
                        await client.read_response()
                client.rst()

        async with trio.open_nursery() as nursery:
            for _ in range(DEPARTURES):
                nursery.start_soon(leave, chance.uniform(0, 0.05))
        await until_true(lambda: not gateway.runtime.statistics().gateway.open_requests)  # resets are on their way
        entries = check_pairs(await read_books(gateway))
        await gateway.stop()
        arrived = len(gateway.settlements)
    assert len(entries) == arrived
    assert 0 < arrived <= DEPARTURES
    assert {entry.closing["status"] for entry in entries.values()} <= {"cancelled", "success"}
    verify(gateway.config.state_dir.parent)
