"""Admitting, asking and settling without any lane: what is refused before a body is read, and what the books say.

Time is virtual; the provider is the built-in demo, which answers in this process.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from rig.doors import KEY
from securellm.accounts.snapshot import Accounts
from securellm.accounts.spending import SpendingDatabase
from securellm.accounts.store import open_store
from securellm.chat import Answer, Call, Endpoint, Headers, Outcome, Settlement, Status
from securellm.config import load_config
from securellm.gateway import Gateway
from securellm.ids import new_request_id
from securellm.ledger import Ledger
from securellm.limits.budgets import Budgets
from securellm.limits.limiter import Limiter
from securellm.limits.process import ProcessStore
from securellm.permit import Permit
from securellm.pricing.kept import load_table
from securellm.serving import make_serving
from securellm.upstream.stream import Upstream

SERVER = (
    "max_request_size_bytes = 1000\nmax_in_flight_bytes = 1500\nbody_min_rate_bytes_s = 100\nbody_idle_timeout_s = 10"
)
GOOD = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello there"}]}


class Body:
    """A body that comes in pieces; a number is a pause in seconds. `read` counts the pieces that were asked for."""

    def __init__(self, *steps: bytes | float, length: int | None = None) -> None:
        self.length = length
        self.read = 0
        self._steps = list(steps)

    def receive_nowait(self) -> bytes | None:
        return None

    async def receive(self) -> bytes:
        self.read += 1
        await trio.lowlevel.checkpoint()
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, bytes):
                return step
            await trio.sleep(step)
        return b""


def json_body(document: Any) -> Body:
    data = json.dumps(document).encode()
    return Body(data, length=len(data))


def make_call(body: Body, *headers: tuple[bytes, bytes], endpoint: Endpoint = Endpoint.CHAT, key: str = KEY) -> Call:
    head: Headers = [(b"authorization", f"Bearer {key}".encode()), *headers]
    return Call(endpoint, "/v1/x", head, body, "127.0.0.1", new_request_id(), trio.current_time())


class Books:
    def __init__(self) -> None:
        self.settled: list[Settlement] = []

    def only(self) -> Settlement:
        assert len(self.settled) == 1, self.settled
        return self.settled[0]


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
async def gateway(tmp_path: Path, books: Books) -> AsyncIterator[Gateway]:
    path = tmp_path / "config.toml"
    path.write_text(f"[server]\n{SERVER}\n[providers.demo]\nenabled = true\n")
    environ = {"CONFIG_PATH": str(path), "API_KEYS": KEY, "STATE_DIRECTORY": str(tmp_path / "state")}
    config = load_config(environ=environ)
    async with open_store(config) as store:
        # The key is the configuration's: the store is never read, because a thread and a virtual clock do not mix.
        accounts = Accounts(config, store)
        limiter = Limiter(config.rate_limit, ProcessStore(), accounts.rates, lambda: 0)
        serving = make_serving(config, load_table(config), limiter)
        ledger = Ledger(None, tariff=serving.tariff, now_us=lambda: 0)
        ledger.subscribe(books.settled.append)
        yield Gateway(serving, accounts, Budgets(SpendingDatabase(config), accounts.budgets), None, ledger)
    await serving.clients.aclose()


def code_of(answer: Permit | Answer) -> str:
    assert isinstance(answer, Answer)
    error = json.loads(answer.body)["error"]
    return str(error["code"])


async def test_the_key_is_checked_before_the_body_is_read(autojump_clock: MockClock, gateway: Gateway, books: Books):
    """A wrong key is refused without asking for a byte of the body."""
    body = json_body(GOOD)
    answer = await gateway.admit(make_call(body, key="wrong-key-wrong-key"))
    assert (code_of(answer), body.read) == ("invalid_api_key", 0)
    assert books.only().outcome.status is Status.REJECTED


@pytest.mark.parametrize("length", [None, 1001])
async def test_a_large_body_is_refused(autojump_clock: MockClock, gateway: Gateway, books: Books, length: int | None):
    """Over the limit: 413 that names the setting; an announced length is refused before the body is read."""
    body = Body(b"x" * 600, b"x" * 401, length=length)
    answer = await gateway.admit(make_call(body))
    assert code_of(answer) == "payload_too_large"
    assert isinstance(answer, Answer)
    assert answer.status == 413
    assert b"1000" in answer.body
    assert b"max_request_size_bytes" in answer.body
    assert body.read == (2 if length is None else 0)
    assert gateway.statistics().in_flight.charged_bytes == 0


async def test_bodies_in_flight_are_bounded(autojump_clock: MockClock, gateway: Gateway, books: Books):
    """Bodies that together pass the budget: 429 with Retry-After, and room again when one has been settled."""
    large = {**GOOD, "user": "u" * 700}
    first = await gateway.admit(make_call(json_body(large)))
    assert isinstance(first, Permit)
    refused = await gateway.admit(make_call(json_body(large)))
    assert code_of(refused) == "bytes_in_flight"
    assert isinstance(refused, Answer)
    assert dict(refused.headers)[b"retry-after"] == b"1"
    gateway.settle(first, Outcome(Status.CANCELLED))
    assert isinstance(await gateway.admit(make_call(json_body(large))), Permit)


@pytest.mark.parametrize(
    ("steps", "after_s"),
    [((b"{", 11.0, b"}"), 10), ((b"{", 5.0) * 100, 10.02), ((b"x" * 300, 9.0, b"x", 9.0), 13.01)],
)
async def test_a_slow_body_has_an_end(
    autojump_clock: MockClock, gateway: Gateway, books: Books, steps: tuple[bytes | float, ...], after_s: float
):
    """A body that stops, or trickles below the least rate, is 408 in bounded time."""
    begun_s = trio.current_time()
    answer = await gateway.admit(make_call(Body(*steps)))
    assert code_of(answer) == "request_timeout"
    assert b"server.body_min_rate_bytes_s" in answer.body
    assert trio.current_time() - begun_s == pytest.approx(after_s, abs=0.1)
    assert books.only().outcome.http_status == 408


async def test_a_steady_body_may_take_its_time(autojump_clock: MockClock, gateway: Gateway):
    """Slow is not stopped: above the least rate a body may last longer than the idle time."""
    data = json.dumps({**GOOD, "user": "u" * 800}).encode()
    steps: list[bytes | float] = []
    for start in range(0, len(data), 300):
        steps += [data[start : start + 300], 4.0]
    begun_s = trio.current_time()
    assert isinstance(await gateway.admit(make_call(Body(*steps))), Permit)
    assert trio.current_time() - begun_s == pytest.approx(12)


async def test_a_caller_who_goes_while_sending_is_settled(autojump_clock: MockClock, gateway: Gateway, books: Books):
    """Cancelled in the middle of the body: one settlement, nothing charged."""
    with trio.move_on_after(1):
        await gateway.admit(make_call(Body(b"{", 5.0)))
    assert books.only().outcome.status is Status.CANCELLED
    assert gateway.statistics().in_flight.charged_bytes == 0


@pytest.mark.parametrize(
    ("header", "code", "status"),
    [
        ((b"x-securellm-hop", b"1"), "loop_detected", 508),
        ((b"x-api-base", b"http://evil.test"), "destination_not_allowed", 400),
        ((b"content-encoding", b"gzip"), "invalid_request", 400),
        ((b"x-provider", b"nobody"), "invalid_request", 400),
    ],
)
async def test_heads_that_are_refused(
    autojump_clock: MockClock, gateway: Gateway, header: tuple[bytes, bytes], code: str, status: int
):
    """Loops, destinations and encodings are refused from the head."""
    answer = await gateway.admit(make_call(json_body(GOOD), header))
    assert isinstance(answer, Answer)
    assert (code_of(answer), answer.status) == (code, status)


async def test_two_providers_wanted_at_once(autojump_clock: MockClock, gateway: Gateway):
    """X-Provider twice is refused when the two differ, whichever comes first; said twice alike it is one wish."""
    demo, other = (b"x-provider", b"demo"), (b"x-provider", b"nobody")
    for pair in ((demo, other), (other, demo)):
        answer = await gateway.admit(make_call(json_body(GOOD), *pair))
        assert isinstance(answer, Answer)
        assert (code_of(answer), answer.status) == ("provider_conflict", 400)
    assert isinstance(await gateway.admit(make_call(json_body(GOOD), demo, demo)), Permit)


async def test_a_whole_answer_is_settled_once(autojump_clock: MockClock, gateway: Gateway, books: Books):
    """The answer comes with its receipt; the books say who answered, what was used, and how we know."""
    permit = await gateway.admit(make_call(json_body(GOOD), (b"x-request-id", b"theirs")))
    assert isinstance(permit, Permit)
    answer = await gateway.ask(permit)
    assert isinstance(answer, Answer)
    settled = books.only()
    assert (settled.provider, settled.model, settled.requested_model) == ("demo", "echo", "demo/echo")
    assert settled.outcome == Outcome(Status.SUCCESS, 200)
    assert settled.usage is not None
    usage = json.loads(answer.body)["usage"]
    assert settled.usage.prompt_tokens == usage["prompt_tokens"]
    assert settled.usage.completion_tokens == usage["completion_tokens"]
    assert settled.usage_source == "reported"
    assert settled.client_request_id == "theirs"
    assert settled.bytes_out == len(answer.body)
    assert [attempt.http_status for attempt in settled.attempts] == [200]
    assert gateway.settle(permit, Outcome(Status.CANCELLED)) is permit.receipt
    assert len(books.settled) == 1
    assert gateway.statistics().open_requests == 0


async def test_a_stream_given_up_is_estimated(autojump_clock: MockClock, gateway: Gateway, books: Books):
    """Output that was delivered is never counted as nothing: the estimate says that it is one (guarantee 3)."""
    document = {**GOOD, "model": "demo/lorem", "stream": True}
    permit = await gateway.admit(make_call(json_body(document)))
    assert isinstance(permit, Permit)
    upstream = await gateway.ask(permit)
    assert isinstance(upstream, Upstream)
    async with upstream:
        for _ in range(5):
            await upstream.pull()
    gateway.settle(permit, Outcome(Status.CANCELLED))
    settled = books.only()
    assert settled.usage_source == "estimated"
    assert settled.usage is not None
    assert settled.usage.output_tokens > 0
    assert settled.bytes_out > 0
    assert settled.attempts[0].error_code == "cancelled"


async def test_nothing_asked_is_nothing_used(autojump_clock: MockClock, gateway: Gateway, books: Books):
    """A request that ends before a provider was asked has no usage at all."""
    permit = await gateway.admit(make_call(json_body(GOOD)))
    assert isinstance(permit, Permit)
    gateway.settle(permit, Outcome(Status.CANCELLED))
    assert (books.only().usage, books.only().usage_source, books.only().attempts) == (None, None, ())


class Broken:
    length = None

    def receive_nowait(self) -> bytes | None:
        return None

    async def receive(self) -> bytes:
        raise ZeroDivisionError("a defect")


async def test_a_defect_while_admitting_is_no_cancellation(autojump_clock: MockClock, gateway: Gateway, books: Books):
    """What nobody foresaw is a 500 with its settlement, not a caller who went away."""
    call = make_call(json_body(GOOD))
    answer = await gateway.admit(msgspec.structs.replace(call, body=Broken()))
    assert isinstance(answer, Answer)
    assert (answer.status, code_of(answer)) == (500, "internal_error")
    assert books.only().outcome.status is Status.FAILED


async def test_stopping_refuses_new_requests(autojump_clock: MockClock, gateway: Gateway):
    """After stop_accepting a request is 503 with Retry-After."""
    gateway.stop_accepting()
    answer = await gateway.admit(make_call(json_body(GOOD)))
    assert isinstance(answer, Answer)
    assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"1")


async def test_a_bookkeeper_that_fails_touches_no_request(autojump_clock: MockClock, gateway: Gateway, books: Books):
    """The others still hear of the settlement, and the failure is counted."""

    def broken(settlement: Settlement) -> None:
        raise ValueError("no")

    gateway._ledger._bookkeepers.insert(0, broken)
    permit = await gateway.admit(make_call(json_body(GOOD)))
    assert isinstance(permit, Permit)
    assert isinstance(await gateway.ask(permit), Answer)
    assert books.only().outcome.status is Status.SUCCESS
    assert gateway.statistics().ledger.failures == 1
