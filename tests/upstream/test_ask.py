"""Asking under virtual time: which timer fires and when, how often an origin is asked, what ends a stream.

The client is a scripted one in memory, so that every wait is virtual; the real clients pass their own suites. Every
test runs over one that waits under the asker's scope and one that keeps the time itself, and nobody sees which.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rig.scripted_asking import NoBody, ScriptedClient, ScriptedClients, SlowHold, SlowPage, Step
from securellm.audit.bodies import Bodies, BodyRecorder
from securellm.audit.content import Kept
from securellm.chat import Attempt, Call, Caller, Endpoint, Headers, Status
from securellm.config.tree import Audit, CircuitBreaker, Heartbeat, Timeouts
from securellm.config.tree import Provider as ProviderConfig
from securellm.errors import ConnectFailed, ConnectTimeout, ShuttingDown, UpstreamTruncated
from securellm.holdings import Holdings
from securellm.ids import new_request_id
from securellm.ledger import Page
from securellm.limits.in_flight import InFlightBytes
from securellm.permit import Permit
from securellm.providers.registry import describe
from securellm.routing import PassedOver, Route, Target
from securellm.upstream.ask import Asker
from securellm.upstream.client import StaleConnection
from securellm.upstream.origins import Origins
from securellm.upstream.reply import Reply
from securellm.upstream.stream import Upstream
from securellm.wire.body import peek

CHUNK = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
WHOLE = b'{"id":"c1","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}'
SSE: Headers = [(b"content-type", b"text/event-stream")]
JSON: Headers = [(b"content-type", b"application/json")]
NO_BODIES = Bodies(BodyRecorder(Audit(), None), "none", Kept("none"))
SILENT = Heartbeat()
TIMEOUTS = Timeouts(connect_s=5, first_token_s=120, idle_s=60, total_s=600)


@pytest.fixture(autouse=True, params=[False, True], ids=["scope", "timed"])
def _who_keeps_the_time(request: pytest.FixtureRequest) -> Iterator[None]:
    ScriptedClients.timed = request.param
    yield
    ScriptedClients.timed = False


def make_target(name: str, **settings: Any) -> Target:
    section = ProviderConfig(kind="openai-compatible", enabled=True, base_url=f"http://{name}.test", **settings)
    return Target(describe(name, section), "m")


def make_permit(*targets: Target, stream: bool = True, skipped: tuple[PassedOver, ...] = ()) -> Permit:
    body = json.dumps({"model": "m", "stream": stream, "messages": []}).encode()
    call = Call(Endpoint.CHAT, "/v1/chat/completions", [], NoBody(), "127.0.0.1", new_request_id(), trio.current_time())
    holdings = Holdings(InFlightBytes(1000).open_charge())
    route = Route(targets, "m", skipped)
    deadline_s = trio.current_time() + TIMEOUTS.total_s
    page = Page(None, "", lambda: 0)
    peeked = peek(Endpoint.CHAT, body)
    return Permit(call, Caller(None, None), peeked, body, route, holdings, page, NO_BODIES, deadline_s)


def make_asker(
    clients: dict[str, ScriptedClient],
    origins: Origins | None = None,
    spread: Callable[[], float] = lambda: 0.0,
    heartbeat: Heartbeat = SILENT,
) -> Asker:
    clients_ = ScriptedClients(clients)
    return Asker(clients_, origins or Origins(), TIMEOUTS, heartbeat, lambda target: None, spread)


async def read_all(upstream: Upstream) -> tuple[bytes, bytes, bool]:
    """Everything sent at once, what was held back, and whether the stream was cut."""
    data = b""
    async with upstream:
        while True:
            pulled = await upstream.pull()
            data += pulled.data
            if pulled.last:
                return data, pulled.held, pulled.abort


def codes(attempts: list[Attempt]) -> list[str | None]:
    return [attempt.error_code or attempt.skipped for attempt in attempts]


async def test_a_stream_passes_and_its_end_is_held(autojump_clock: MockClock):
    """The provider's bytes in order; the terminal frame is what waits for the record."""
    client = ScriptedClient((200, SSE, [PING, CHUNK, 30.0, CHUNK, DONE]))
    permit = make_permit(make_target("a"))
    upstream = await make_asker({"a": client}).ask(permit)
    assert isinstance(upstream, Upstream)
    assert await read_all(upstream) == (PING + CHUNK + CHUNK, DONE, False)
    assert upstream.outcome.status is Status.SUCCESS
    assert permit.complete
    assert client.closed == 1


@pytest.mark.parametrize("pings", [False, True])
async def test_first_token_timer(autojump_clock: MockClock, pings: bool):
    """Pings are no tokens: 504 first_token_timeout at 120 s, and a timeout is not asked again (guarantee 22)."""
    steps: list[Step] = [PING, 10.0] * 100 if pings else [1000.0]
    client = ScriptedClient((200, SSE, steps))
    permit = make_permit(make_target("a"))
    reply = await make_asker({"a": client}).ask(permit)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.outcome.error_code) == (504, "first_token_timeout")
    assert reply.outcome.status is Status.TIMEOUT
    assert trio.current_time() == pytest.approx(120)
    assert client.closed == len(client.sent) == 1


async def test_first_token_just_in_time(autojump_clock: MockClock):
    """A token at 119 s is in time."""
    client = ScriptedClient((200, SSE, [119.0, CHUNK, DONE]))
    assert isinstance(await make_asker({"a": client}).ask(make_permit(make_target("a"))), Upstream)


async def test_idle_timer_ignores_pings(autojump_clock: MockClock):
    """60 s without an event of meaning end the stream with an error event, however many pings come."""
    client = ScriptedClient((200, SSE, [CHUNK, 59.0, CHUNK, *([PING, 10.0] * 100)]))
    upstream = await make_asker({"a": client}).ask(make_permit(make_target("a")))
    assert isinstance(upstream, Upstream)
    data, held, abort = await read_all(upstream)
    assert data.count(CHUNK) == 2
    assert abort
    assert b"idle_timeout" in held
    assert DONE not in data + held
    assert upstream.outcome.status is Status.TIMEOUT
    assert trio.current_time() == pytest.approx(119)


async def test_total_timer_in_the_middle(autojump_clock: MockClock):
    """600 s end a stream that never stalls."""
    client = ScriptedClient((200, SSE, [CHUNK, 30.0] * 100))
    upstream = await make_asker({"a": client}).ask(make_permit(make_target("a")))
    assert isinstance(upstream, Upstream)
    _, held, abort = await read_all(upstream)
    assert abort
    assert b"total_timeout" in held
    assert trio.current_time() == pytest.approx(600)


async def test_total_timer_covers_a_whole_body(autojump_clock: MockClock):
    """An answer that is not a stream has no first token and no idle timer, only the total."""
    client = ScriptedClient((200, JSON, [500.0, WHOLE]), (200, JSON, [700.0, WHOLE]))
    asker = make_asker({"a": client})
    reply = await asker.ask(make_permit(make_target("a"), stream=False))
    assert isinstance(reply, Reply)
    assert reply.body == WHOLE
    reply = await asker.ask(make_permit(make_target("a"), stream=False))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.outcome.error_code) == (504, "total_timeout")
    assert trio.current_time() == pytest.approx(1100)


async def test_a_providers_own_bound_caps_an_attempt(autojump_clock: MockClock):
    """timeout_secs of a provider ends one attempt earlier than the total."""
    client = ScriptedClient((200, JSON, [500.0, WHOLE]))
    reply = await make_asker({"a": client}).ask(make_permit(make_target("a", timeout_secs=20), stream=False))
    assert isinstance(reply, Reply)
    assert reply.outcome.error_code == "total_timeout"
    assert trio.current_time() == pytest.approx(20)


@pytest.mark.parametrize("failures", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 529, None])
async def test_attempts_are_failures_plus_one(autojump_clock: MockClock, failures: int, status: int | None):
    """k failures make min(k, max_retries) + 1 attempts, each in the record (guarantee 24)."""
    bad = ConnectFailed("no") if status is None else (status, JSON, [b'{"error":{"message":"no"}}'])
    client = ScriptedClient(*[bad] * failures, *[(200, JSON, [WHOLE])] * 5)
    settings = CircuitBreaker(failure_threshold=100)
    permit = make_permit(make_target("a", circuit_breaker=settings), stream=False)
    reply = await make_asker({"a": client}).ask(permit)
    assert isinstance(reply, Reply)
    assert len(client.sent) == min(failures, 3) + 1
    assert reply.status == (200 if failures <= 3 else status or 502)
    assert permit.asked == min(failures, 3) + 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 501, 504])
async def test_what_is_not_retried(autojump_clock: MockClock, status: int):
    """Other statuses are answers: one attempt. 401 and 403 are about our key and become 502 upstream_auth."""
    client = ScriptedClient((status, JSON, [b'{"error":{"message":"no"}}']))
    reply = await make_asker({"a": client}).ask(make_permit(make_target("a")))
    assert isinstance(reply, Reply)
    assert len(client.sent) == 1
    assert reply.status == (502 if status in (401, 403) else status)


async def test_retry_after_is_honoured(autojump_clock: MockClock):
    """The wait is at least what the provider asks for; more than a minute goes to the caller at once."""
    short = (429, [*JSON, (b"retry-after", b"7")], [b"{}"])
    client = ScriptedClient(short, (200, JSON, [WHOLE]), (429, [*JSON, (b"retry-after", b"90")], [b"{}"]))
    asker = make_asker({"a": client})
    await asker.ask(make_permit(make_target("a"), stream=False))
    assert [at for at, _ in client.sent] == pytest.approx([0, 7])
    reply = await asker.ask(make_permit(make_target("a"), stream=False))
    assert isinstance(reply, Reply)
    assert (reply.status, dict(reply.headers)[b"retry-after"]) == (429, b"90")
    assert reply.outcome.status is Status.RATE_LIMITED
    assert trio.current_time() == pytest.approx(7)


async def test_no_retry_past_the_deadline(autojump_clock: MockClock):
    """A wait that would outlast the request is not begun."""
    client = ScriptedClient(590.0, (503, [*JSON, (b"retry-after", b"30")], [b"{}"]))
    reply = await make_asker({"a": client}).ask(make_permit(make_target("a"), stream=False))
    assert isinstance(reply, Reply)
    assert reply.status == 503
    assert trio.current_time() == pytest.approx(590)


async def test_nothing_is_retried_after_an_answer_has_begun(autojump_clock: MockClock):
    """A stream that breaks after its first token ends there: one attempt, an error event, no terminal one."""
    client = ScriptedClient((200, SSE, [CHUNK, UpstreamTruncated("cut")]))
    permit = make_permit(make_target("a"), make_target("b"))
    upstream = await make_asker({"a": client}).ask(permit)
    assert isinstance(upstream, Upstream)
    data, held, abort = await read_all(upstream)
    assert (data, abort, len(client.sent)) == (CHUNK, True, 1)
    assert b"upstream_truncated" in held
    assert upstream.outcome.status is Status.TRUNCATED
    assert not permit.complete


async def test_an_error_event_before_the_first_token_is_a_status(autojump_clock: MockClock):
    """200 with an in-band error first is not 200 to the caller, and may be asked again."""
    error = b'data: {"error":{"message":"overloaded","type":"server_error","code":503}}\n\n'
    client = ScriptedClient((200, SSE, [PING, error]), (200, SSE, [CHUNK, DONE]))
    permit = make_permit(make_target("a"))
    assert isinstance(await make_asker({"a": client}).ask(permit), Upstream)
    assert len(client.sent) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_our_key_refused_inside_a_200_is_our_fault(autojump_clock: MockClock, stream: bool):
    """An in-band 401 is 502 upstream_auth like the status would be."""
    error = b'{"error":{"message":"no","type":"authentication_error","code":401}}'
    script = (200, SSE, [b"data: " + error + b"\n\n"]) if stream else (200, JSON, [error])
    reply = await make_asker({"a": ScriptedClient(script)}).ask(make_permit(make_target("a"), stream=stream))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.outcome.error_code) == (502, "upstream_auth")


async def test_an_empty_stream_is_truncated(autojump_clock: MockClock):
    """200 and nothing: 502 upstream_truncated, not an empty answer (guarantee 1)."""
    client = ScriptedClient((200, SSE, []))
    reply = await make_asker({"a": client}).ask(make_permit(make_target("a")))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.outcome.error_code) == (502, "upstream_truncated")


async def test_fallback_is_at_once(autojump_clock: MockClock):
    """The next target is asked without a wait; the record shows both attempts (guarantee 25)."""
    dead = ScriptedClient(ConnectFailed("no"))
    alive = ScriptedClient((200, SSE, [CHUNK, DONE]))
    permit = make_permit(make_target("a"), make_target("b"))
    upstream = await make_asker({"a": dead, "b": alive}).ask(permit)
    assert isinstance(upstream, Upstream)
    assert trio.current_time() == 0
    assert dict(upstream.headers)[b"x-securellm-provider"] == b"b"
    assert dict(upstream.headers)[b"x-securellm-attempts"] == b"2"
    assert codes(permit.attempts) == ["connect_failed"]


@pytest.mark.parametrize(
    ("failure", "falls_back"),
    [
        (ConnectTimeout("late"), True),
        (UpstreamTruncated("cut"), True),
        ((401, JSON, [b"{}"]), True),
        ((529, JSON, [b"{}"]), True),
        ((400, JSON, [b"{}"]), False),
        ((404, JSON, [b"{}"]), False),
        ((200, SSE, [1000.0]), False),
    ],
)
async def test_what_falls_back(autojump_clock: MockClock, failure: Any, falls_back: bool):
    """What another target may heal goes on to it; a bad request and a slow answer do not."""
    second = ScriptedClient((200, SSE, [CHUNK, DONE]))
    permit = make_permit(make_target("a"), make_target("b"))
    answer = await make_asker({"a": ScriptedClient(failure), "b": second}).ask(permit)
    assert isinstance(answer, Upstream if falls_back else Reply)
    assert len(second.sent) == falls_back


async def test_a_dead_primary_is_left_alone(autojump_clock: MockClock):
    """60 requests a second apart reach a dead primary at most five times; the rest wait for nothing (guarantee 25)."""
    dead = ScriptedClient(*[ConnectFailed("no")] * 60)
    alive = ScriptedClient(*[(200, JSON, [WHOLE])] * 60)
    asker = make_asker({"a": dead, "b": alive})
    first, second = make_target("a"), make_target("b")
    for _ in range(59):
        begun_s = trio.current_time()
        permit = make_permit(first, second, stream=False)
        reply = await asker.ask(permit)
        assert isinstance(reply, Reply)
        assert reply.status == 200
        assert trio.current_time() == begun_s
        await trio.sleep(1)
    assert len(dead.sent) == 5
    assert codes(permit.attempts) == ["circuit_open"]


async def test_an_open_breaker_says_when(autojump_clock: MockClock):
    """With nobody else to ask: 503 circuit_open with Retry-After, and nothing is sent."""
    client = ScriptedClient(*[ConnectFailed("no")] * 5)
    target = make_target("a", max_retries=0)
    asker = make_asker({"a": client})
    for _ in range(5):
        await asker.ask(make_permit(target))
    reply = await asker.ask(make_permit(target))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.outcome.error_code) == (503, "circuit_open")
    assert dict(reply.headers)[b"retry-after"] == b"60"
    assert len(client.sent) == 5


async def test_retries_of_many_callers_are_bounded(autojump_clock: MockClock):
    """100 callers of an origin that fails make at most ten retries between them (guarantee 24)."""
    client = ScriptedClient(*[(500, JSON, [b"{}"])] * 400)
    target = make_target("a", circuit_breaker=CircuitBreaker(failure_threshold=10_000))
    asker = make_asker({"a": client})
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(asker.ask, make_permit(target, stream=False))
    assert 100 < len(client.sent) <= 110


async def test_a_stale_connection_is_replaced_once(autojump_clock: MockClock):
    """The request goes out again at once, as an attempt of its own that costs no retry (T16)."""
    client = ScriptedClient(StaleConnection("gone"), (200, JSON, [WHOLE]))
    permit = make_permit(make_target("a", max_retries=0), stream=False)
    reply = await make_asker({"a": client}).ask(permit)
    assert isinstance(reply, Reply)
    assert reply.status == 200
    assert codes(permit.attempts) == ["stale_connection"]
    assert permit.asked == 2


async def test_the_idempotency_key_is_the_same_for_every_attempt(autojump_clock: MockClock):
    """Attempts of one request differ in their number only (guarantee 24)."""
    client = ScriptedClient((500, JSON, [b"{}"]), (200, JSON, [WHOLE]))
    await make_asker({"a": client}).ask(make_permit(make_target("a"), stream=False))
    first, second = (dict(request.headers) for _, request in client.sent)
    assert (first.pop(b"x-securellm-attempt"), second.pop(b"x-securellm-attempt")) == (b"1", b"2")
    assert first == second


async def test_cancelling_asks_nobody_again(autojump_clock: MockClock):
    """A caller who is gone while a retry is waited for, or an answer: no further attempt, the exchange is closed."""
    for scripts in ([ConnectFailed("no"), (200, JSON, [WHOLE])], [(200, JSON, [1000.0]), (200, JSON, [WHOLE])]):
        client = ScriptedClient(*scripts)
        permit = make_permit(make_target("a"), stream=False)
        with trio.move_on_after(0.1) as gone:
            await make_asker({"a": client}).ask(permit)
        assert gone.cancelled_caught
        await trio.sleep(100)
        assert len(client.sent) == 1


async def test_heartbeats_lose_nothing(autojump_clock: MockClock):
    """A comment after each 20 s of silence, nothing lost, and silence still has an end (guarantee 36)."""
    client = ScriptedClient((200, SSE, [CHUNK, 50.0, CHUNK, DONE]), (200, SSE, [CHUNK, 100.0]))
    asker = make_asker({"a": client}, heartbeat=Heartbeat(chat_s=20))
    upstream = await asker.ask(make_permit(make_target("a")))
    assert isinstance(upstream, Upstream)
    data, held, abort = await read_all(upstream)
    assert (data, held, abort) == (CHUNK + b": heartbeat\n\n" * 2 + CHUNK, DONE, False)
    begun_s = trio.current_time()
    upstream = await asker.ask(make_permit(make_target("a")))
    assert isinstance(upstream, Upstream)
    data, held, abort = await read_all(upstream)
    assert (data, abort) == (CHUNK + b": heartbeat\n\n" * 2, True)
    assert trio.current_time() == pytest.approx(begun_s + 60)
    assert client.closed == 2


@pytest.mark.parametrize("begun", [False, True])
async def test_an_interruption_ends_it_with_an_error(autojump_clock: MockClock, begun: bool):
    """At the end of the drain a waiting request gets 503 and a stream its dialect's error event (guarantee 21)."""
    client = ScriptedClient((200, SSE, [*([CHUNK] if begun else []), 100.0]))
    permit = make_permit(make_target("a"))
    asker = make_asker({"a": client})

    async def stop() -> None:
        await trio.sleep(10)
        permit.interrupt(ShuttingDown("the gateway is stopping"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        answer = await asker.ask(permit)
        if isinstance(answer, Upstream):
            data, held, abort = await read_all(answer)
            assert begun
            assert (data, abort) == (CHUNK, True)
            assert b"shutting_down" in held
        else:
            assert not begun
            assert answer.status == 503
    assert answer.outcome.status is Status.SHUTDOWN
    assert trio.current_time() == pytest.approx(10)
    assert client.closed == 1


@pytest.mark.parametrize(("total_s", "ends_at_s"), [(600.0, 3.0), (4.0, 3.0), (2.0, 2.0)])
async def test_the_wait_for_the_record_ends_when_the_request_does(
    autojump_clock: MockClock, total_s: float, ends_at_s: float
):
    """An interruption, or the time for the whole request, ends the wait before anything is sent; the disk is at 10."""
    client = ScriptedClient((200, JSON, [WHOLE]))
    permit = make_permit(make_target("a"), stream=False)
    permit.page = SlowPage(permit.page, 10.0)
    permit.deadline_s = total_s

    async def stop() -> None:
        await trio.sleep(3)
        permit.interrupt(ShuttingDown("the gateway is stopping"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        reply = await make_asker({"a": client}).ask(permit)
        assert trio.current_time() == pytest.approx(ends_at_s)
    assert isinstance(reply, Reply)
    expected = "total_timeout" if ends_at_s == total_s else "shutting_down"
    assert reply.outcome.error_code == expected
    assert codes(permit.attempts) == [expected]
    assert client.sent == []


async def test_an_interruption_ends_the_wait_for_a_retry(autojump_clock: MockClock):
    """Nobody is asked again by a request that is over."""
    client = ScriptedClient((503, [*JSON, (b"retry-after", b"30")], [b"{}"]), (200, JSON, [WHOLE]))
    permit = make_permit(make_target("a"), stream=False)

    async def stop() -> None:
        await trio.sleep(10)
        permit.interrupt(ShuttingDown("the gateway is stopping"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        reply = await make_asker({"a": client}).ask(permit)
    assert isinstance(reply, Reply)
    assert reply.outcome.status is Status.SHUTDOWN
    assert trio.current_time() == pytest.approx(10)
    assert (len(client.sent), codes(permit.attempts)) == (1, ["upstream_error"])


async def test_what_ends_a_request_says_nothing_of_the_origin(autojump_clock: MockClock):
    """The breaker counts an attempt that took too long, and not one that we ended, or a caller."""
    origins = Origins()
    target = make_target("a", circuit_breaker=CircuitBreaker(failure_threshold=100))
    client = ScriptedClient(*[(200, SSE, [1000.0])] * 4)
    asker = make_asker({"a": client}, origins)
    failures = origins.of(target.provider).breaker.statistics
    with trio.move_on_after(10):
        await asker.ask(make_permit(target))
    permit = make_permit(target)
    permit.deadline_s = trio.current_time() + 10
    await asker.ask(permit)
    permit = make_permit(target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.ask, permit)
        await trio.sleep(10)
        permit.interrupt(ShuttingDown("the gateway is stopping"))
    assert failures().failures == 0
    await asker.ask(make_permit(target))
    assert failures().failures == 1


async def test_a_trial_that_was_not_made_is_another_ones(autojump_clock: MockClock):
    """A caller who goes away while the provider's limit is asked gives back the half-open breaker's one trial."""
    target = make_target("a", max_retries=0, circuit_breaker=CircuitBreaker(failure_threshold=1))
    asker = make_asker({"a": ScriptedClient(ConnectFailed("no"), (200, JSON, [WHOLE]))})
    await asker.ask(make_permit(target))
    await trio.sleep(60)
    gone = make_permit(target, stream=False)
    gone.holdings.hold = SlowHold()  # type: ignore[assignment]
    with trio.move_on_after(0.01) as scope:
        await asker.ask(gone)
    assert scope.cancelled_caught
    reply = await asker.ask(make_permit(target, stream=False))
    assert isinstance(reply, Reply)
    assert reply.status == 200


@pytest.mark.parametrize("begun", [False, True])
async def test_a_defect_of_ours_is_told_like_any_failure(autojump_clock: MockClock, begun: bool):
    """What nobody foresaw ends in 500, or in the error event of a stream that has begun; never in silence."""
    client = ScriptedClient((200, SSE, [*([CHUNK] if begun else []), ZeroDivisionError("a defect")]))
    permit = make_permit(make_target("a"))
    answer = await make_asker({"a": client}).ask(permit)
    if isinstance(answer, Upstream):
        data, held, abort = await read_all(answer)
        assert begun
        assert (data, abort) == (CHUNK, True)
        assert b"internal_error" in held
    else:
        assert (begun, answer.status) == (False, 500)
    assert (answer.outcome.status, answer.outcome.error_code) == (Status.FAILED, "internal_error")
    assert client.closed == 1


async def test_targets_that_were_passed_over_are_in_the_record(autojump_clock: MockClock):
    """Why a target of auto was not asked stands with the attempts (guarantee 25)."""
    passed = PassedOver(make_target("b"), "circuit_open")
    permit = make_permit(make_target("a"), skipped=(passed,))
    assert codes(permit.attempts) == ["circuit_open"]
    assert permit.asked == 0
