"""Who is asked again, how often, and who is left alone (guarantees 24, 25, 53)."""

import json

import pytest
import trio

from rig import doors, script, speech
from rig.pairs import FAMILIES, PAIRS, Pair
from rig.raw_client import BodyCut, open_client
from rig.speech import MODEL
from securellm.chat import Status

_CHAT = doors.CHAT
_GOOD = script.answer(200, speech.CHAT.whole("Hello"))
_AUTO = {"targets": ["openai/m1", "compat/m1"]}


def _bad(status: int, headers: dict[str, str] | None = None) -> list[script.Step]:
    return script.answer(status, speech.CHAT.error(status), headers)


@pytest.mark.parametrize(("failures", "allowed", "attempts"), [(0, 2, 1), (1, 2, 2), (2, 2, 3), (5, 1, 2), (5, 0, 1)])
async def test_attempts_are_exact(serving, provider, failures: int, allowed: int, attempts: int):
    """A provider that fails k times is asked min(k, max_retries) + 1 times, and the headers and the record say so."""
    for _ in range(failures):
        provider.enqueue(*_bad(503))
    provider.default = _GOOD
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, providers={"openai": {"max_retries": allowed}})
        response = await gateway.ask(_CHAT, _CHAT.body("openai/m1"))
        good = failures <= allowed
        assert response.status == (200 if good else 503)
        assert len(provider.asked) == attempts
        assert response.header("x-securellm-attempts") == str(attempts)
        settlement = await gateway.only_settlement()
        assert [attempt.http_status for attempt in settlement.attempts] == [503] * (attempts - good) + [200] * good
        assert [attempt.number for attempt in settlement.attempts] == list(range(1, attempts + 1))
        assert settlement.outcome.status is (Status.SUCCESS if good else Status.FAILED)
        assert len({request.body for request in provider.asked}) == 1
        assert len({request.header("idempotency-key") for request in provider.asked}) == 1
        assert [request.header("x-securellm-attempt") for request in provider.asked] == [
            str(number) for number in range(1, attempts + 1)
        ]


@pytest.mark.parametrize("size", [20_000, 100_000, 700_000])
async def test_a_large_body_goes_up_whole_each_time(serving, provider, size: int):
    """A prompt with escapes and UTF-8, its model spliced: the second attempt sends what the first one did."""
    message = {"role": "user", "content": 'an "é"\n' * (size // 9)}
    body = json.dumps({"model": "openai/m1", "messages": [message]}, ensure_ascii=False).encode()
    provider.enqueue(*_bad(503))
    provider.default = _GOOD
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, providers={"openai": {"max_retries": 1}})
        assert (await gateway.ask(_CHAT, body)).status == 200
        expected = body.replace(b'"openai/m1"', b'"m1"')
        assert [request.body for request in provider.asked] == [expected, expected]
        assert (await gateway.only_settlement()).bytes_in == len(body)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_statuses_that_are_retried(serving, provider, status: int):
    """These statuses are worth a second attempt."""
    provider.enqueue(*_bad(status))
    provider.default = _GOOD
    with trio.fail_after(10):
        gateway = await serving({"openai": provider}, providers={"openai": {"max_retries": 1}})
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == 200
        assert len(provider.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 501, 504, 307])
async def test_statuses_that_are_not_retried(serving, provider, status: int):
    """Every other status is final."""
    provider.enqueue(*_bad(status))
    provider.default = _GOOD
    with trio.fail_after(10):
        gateway = await serving({"openai": provider}, providers={"openai": {"max_retries": 1}})
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status >= 400
        assert len(provider.asked) == 1


async def test_retry_after_is_honoured(serving, provider):
    """The second attempt comes no earlier than the provider's Retry-After."""
    provider.enqueue(*_bad(429, {"retry-after": "1"}))
    provider.default = _GOOD
    with trio.fail_after(15):
        gateway = await serving({"openai": provider}, providers={"openai": {"max_retries": 1}})
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == 200
        first, second = provider.asked
        assert 0.95 <= second.arrived_s - first.arrived_s < 10


async def test_no_retry_that_would_pass_the_deadline(serving, provider):
    """A Retry-After beyond the request's deadline is handed to the caller at once."""
    provider.default = _bad(429, {"retry-after": "30"})
    with trio.fail_after(10):
        gateway = await serving(
            {"openai": provider}, timeouts={"total_s": 5.0}, providers={"openai": {"max_retries": 3}}
        )
        response = await gateway.ask(_CHAT, _CHAT.body("openai/m1"))
        assert (response.status, response.header("retry-after")) == (429, "30")
        assert len(provider.asked) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("pair", FAMILIES, ids=str)
async def test_nothing_is_retried_after_the_first_chunk(serving, provider, pair: Pair, how: str):
    """Once a chunk has reached the caller there is one attempt, retries allowed or not."""
    assert pair.speech.events is not None
    events = pair.speech.events(("Hello",))
    first = next(number for number, event in enumerate(events) if b"Hello" in event)
    read = trio.Event()  # a reset must not overtake the chunks
    opening = script.stream(events[: first + 1], pair.speech.kind, ended=False)
    provider.default = [*opening, script.until(read), script.fin() if how == "fin" else script.rst()]
    with trio.fail_after(10):
        gateway = await serving({pair.provider: provider}, providers={pair.provider: {"max_retries": 3}})
        async with open_client(gateway.base_url) as client:
            await client.request("POST", pair.door.path, pair.door.body(pair.model, stream=True), pair.door.auth())
            assert (await client.read_head()).status == 200
            await client.read_until(b"Hello")
            read.set()
            with pytest.raises(BodyCut):
                await client.read_body()
        assert (await gateway.only_settlement()).outcome.status is Status.TRUNCATED
        assert len(provider.asked) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_fallback_along_auto(serving, provider, second_provider, stream: bool):
    """`auto` goes on to the next target before the commit point; headers and record name who answered."""
    provider.default = _bad(503)
    pair = next(pair for pair in PAIRS if str(pair) == "chat-compat")
    second_provider.default = pair.answers("Hello", stream_it=stream)
    with trio.fail_after(10):
        gateway = await serving({"openai": provider, "compat": second_provider}, auto=_AUTO)
        response = await gateway.ask(_CHAT, _CHAT.body("auto", stream=stream))
        assert response.status == 200, response
        assert response.header("x-securellm-provider") == "compat"
        assert response.header("x-securellm-attempts") == "2"
        assert (len(provider.asked), len(second_provider.asked)) == (1, 1)
        assert second_provider.asked[0].json()["model"] == MODEL
        settlement = await gateway.only_settlement()
        assert settlement.provider == "compat"
        assert [(attempt.provider, attempt.http_status) for attempt in settlement.attempts] == [
            ("openai", 503),
            ("compat", 200),
        ]


async def test_fallback_from_a_provider_that_is_gone(serving, second_provider):
    """A target that refuses connections is passed over within the same request."""
    with trio.fail_after(10):
        with trio.socket.socket() as closed:
            await closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        second_provider.default = _GOOD
        gateway = await serving({"openai": f"http://127.0.0.1:{port}", "compat": second_provider}, auto=_AUTO)
        response = await gateway.ask(_CHAT, _CHAT.body("auto"))
        assert response.status == 200, response
        settlement = await gateway.only_settlement()
        assert [attempt.error_code for attempt in settlement.attempts] == ["connect_failed", None]


async def test_no_fallback_for_the_callers_own_mistake(serving, provider, second_provider):
    """A 400 of the first target is the caller's to mend: the second is not asked."""
    provider.default = _bad(400)
    second_provider.default = _GOOD
    with trio.fail_after(10):
        gateway = await serving({"openai": provider, "compat": second_provider}, auto=_AUTO)
        assert (await gateway.ask(_CHAT, _CHAT.body("auto"))).status == 400
        assert second_provider.asked == []


@pytest.mark.parametrize("failing", ["500", "hangs up"])
async def test_a_dead_primary_is_left_alone(serving, provider, second_provider, failing: str):
    """Of twenty requests at most five reach a dead primary; all are answered, and each skip has its reason."""
    provider.default = _bad(500) if failing == "500" else [script.fin()]
    second_provider.default = _GOOD
    with trio.fail_after(30):
        gateway = await serving(
            {"openai": provider, "compat": second_provider}, auto=_AUTO, providers={"openai": {"max_retries": 3}}
        )
        for _ in range(20):
            assert (await gateway.ask(_CHAT, _CHAT.body("auto"))).status == 200
        assert 1 <= len(provider.asked) <= 5
        assert len(second_provider.asked) == 20
        skipped = [settlement.attempts[0].skipped for settlement in gateway.settlements[-10:]]
        answered_by_compat_alone = [len(settlement.attempts) == 1 for settlement in gateway.settlements[-10:]]
        # The route either leaves an unhealthy target out, or the record says why it was passed over.
        assert all(reason == "circuit_open" for reason in skipped) or all(answered_by_compat_alone)


async def test_an_open_breaker_without_a_fallback(serving, provider):
    """Nobody else to ask: 503 `circuit_open` with Retry-After, and the provider is not asked."""
    provider.default = _bad(500)
    with trio.fail_after(20):
        gateway = await serving({"openai": provider})
        for _ in range(5):
            assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == 500
        response = await gateway.ask(_CHAT, _CHAT.body("openai/m1"))
        assert response.status == 503
        assert _CHAT.error_of(response)["code"] == "circuit_open"
        assert 1 <= int(response.header("retry-after") or "0") <= 60
        assert len(provider.asked) == 5
        settlement = await gateway.settled(6)
        assert settlement.outcome.error_code == "circuit_open"


async def test_one_probe_reopens_the_way(serving, provider):
    """After its time-out an open breaker lets one probe through; two successes close it."""
    breaker = {"failure_threshold": 2, "success_threshold": 2, "timeout_secs": 1.0}
    provider.enqueue(*_bad(500))
    provider.enqueue(*_bad(500))
    provider.default = _GOOD
    with trio.fail_after(20):
        gateway = await serving({"openai": provider}, providers={"openai": {"circuit_breaker": breaker}})
        statuses = [(await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status for _ in range(3)]
        assert statuses == [500, 500, 503]
        await trio.sleep(1.0)  # the breaker's own time-out; there is no event to wait for
        statuses = [(await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status for _ in range(3)]
        assert statuses == [200, 200, 200]
        assert len(provider.asked) == 5


async def test_a_crowd_does_not_multiply_the_load(serving, provider):
    """Forty callers at a failing provider cost forty attempts and the retry bucket, not forty times four."""
    provider.default = _bad(503)
    never = {"circuit_breaker": {"failure_threshold": 1000}, "max_retries": 3}
    with trio.fail_after(60):
        gateway = await serving({"openai": provider}, providers={"openai": never})
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(gateway.ask, _CHAT, _CHAT.body("openai/m1"))
        assert 40 <= len(provider.asked) <= 50
        assert len(gateway.settlements) == 40


async def test_a_kept_connection_that_was_closed_costs_no_request(serving, provider):
    """A provider that closes a kept connection between two requests is asked again on a new one, once."""
    closing = trio.Event()
    provider.enqueue(*_GOOD, script.until(closing), script.fin())
    provider.default = _GOOD
    with trio.fail_after(10):
        gateway = await serving({"openai": provider})
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == 200
        closing.set()
        response = await gateway.ask(_CHAT, _CHAT.body("openai/m1"))
        assert response.status == 200, response
        assert len(provider.asked) == 2
