"""What each kind of request leaves in the audit log: pairs, events or nothing (contract, requirement 1; 3, 5)."""

import json
import socket
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from rig import doors, script, speech
from rig.books import INPUT_NUSD, OUTPUT_NUSD, PRICED, check_pairs, events, only_entry, read_books, verify
from rig.gateway import RunningGateway
from rig.raw_client import fetch, open_client
from rig.speech import INPUT_TOKENS, OUTPUT_TOKENS
from rig.waiting import until_true
from securellm.accounts.store import open_store

_CHAT = doors.CHAT
_GOOD = script.answer(200, speech.CHAT.whole("Hello"))
_PRICES = {"openai/m1": PRICED, "compat/m1": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}}
_COST_NUSD = INPUT_TOKENS * INPUT_NUSD + OUTPUT_TOKENS * OUTPUT_NUSD


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_good_answer(serving, provider, stream: bool):
    """Who, what, from whom, how much and for how much: all of it stands in the two records."""
    provider.default = script.stream(speech.CHAT.events(("Hel", "lo"))) if stream else _GOOD
    with trio.fail_after(10):
        gateway = await serving(provider, models=_PRICES)
        body = _CHAT.body("openai/m1", stream=stream)
        response = await gateway.ask(_CHAT, body, {"x-request-id": "mine-1"})
        entry = await only_entry(gateway)
    for record in (entry.intent, entry.closing):
        assert record["request_id"] == response.header("x-request-id")
        assert record["client_request_id"] == "mine-1"
        assert (record["client_ip"], record["key_id"]) == ("127.0.0.1", "config01")
        assert (record["endpoint"], record["stream"], record["epoch"]) == (
            "chat.completions",
            stream,
            gateway.config.epoch,
        )
        assert (record["requested_model"], record["provider"], record["model"]) == ("openai/m1", "openai", "m1")
    closing = entry.closing
    assert (closing["status"], closing["http_status"], closing["finish_reason"]) == ("success", 200, "stop")
    assert (closing["prompt_tokens"], closing["completion_tokens"]) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert (closing["usage_source"], closing["cost_nusd"]) == ("reported", _COST_NUSD)
    assert closing["bytes_in"] == len(body)
    assert closing["bytes_out"] == len(response.body)
    assert ("first_token_ms" in closing) is stream
    assert closing["duration_ms"] > 0
    assert "error_code" not in closing
    assert not entry.attempts


@pytest.mark.parametrize(
    ("target", "body", "settings", "expected"),
    [
        ("openai/m1", b"{", {}, ("rejected", 400, "invalid_request")),
        ("openai/m1", b'{"model":"openai/m1","model":"x","messages":[]}', {}, ("rejected", 400, "duplicate_key")),
        ("openai/m1", b'{"messages":[]}', {}, ("rejected", 400, "invalid_request")),
        ("openai/m1", b"null", {}, ("rejected", 400, "invalid_request")),
        ("nothing-of-that-name", None, {}, ("rejected", 404, "model_not_found")),
        ("dear/m1", None, {}, ("rejected", 403, "unpriced_model")),
        ("openai/m1", None, {"max_request_size_bytes": 20}, ("rejected", 413, "payload_too_large")),
        ("openai/m1", None, {"max_in_flight_bytes": 20}, ("rate_limited", 429, "bytes_in_flight")),
    ],
    ids=lambda value: value[2] if isinstance(value, tuple) else None,
)
async def test_a_refusal_of_ours(
    serving, provider, target: str, body: bytes | None, settings: Mapping[str, Any], expected: tuple[str, int, str]
):
    """A known caller's request that is refused leaves its pair, with what he was told; no provider is asked."""
    dear = {"enabled": True, "kind": "openai-compatible", "base_url": provider.base_url}
    with trio.fail_after(10):
        gateway = await serving(provider, server=settings, providers={"dear": dear})
        response = await gateway.ask(_CHAT, body if body is not None else _CHAT.body(target))
        entry = await only_entry(gateway)
    assert not provider.asked
    closing = entry.closing
    assert (closing["status"], closing["http_status"], closing["error_code"]) == expected, closing
    assert (response.status, _CHAT.error_of(response)["code"]) == expected[1:]
    assert closing["bytes_out"] == len(response.body)
    assert closing["key_id"] == "config01"
    assert "provider" not in closing
    assert "usage" not in closing


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_a_refusal_of_the_provider(serving, provider, status: int):
    """The provider's own error: its status, an attempt, no usage and no cost."""
    provider.default = script.answer(status, speech.CHAT.error(status))
    with trio.fail_after(10):
        gateway = await serving(provider, models=_PRICES)
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == status
        entry = await only_entry(gateway)
    closing = entry.closing
    assert (closing["status"], closing["http_status"]) == ("rate_limited" if status == 429 else "failed", status)
    assert [attempt["http_status"] for attempt in entry.asked] == [status]
    assert "scripted" not in json.dumps(closing), "a provider's own words"
    assert "usage" not in closing
    assert "cost_nusd" not in closing


async def test_a_request_that_comes_while_stopping(serving, provider):
    """It is refused with 503 and leaves its pair, as `shutdown`."""
    with trio.fail_after(10):
        gateway = await serving(provider)
        gateway.runtime.gateway.stop_accepting()
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == 503
        entry = await only_entry(gateway)
    assert (entry.closing["status"], entry.closing["error_code"]) == ("shutdown", "shutting_down")


async def test_a_body_that_stops(serving, provider):
    """A body that stops coming is refused with 408, and a caller who leaves in the middle of it was cancelled."""
    body = _CHAT.body("openai/m1")
    head = {**_CHAT.auth(), "content-length": str(len(body))}
    with trio.fail_after(10):
        gateway = await serving(provider, server={"body_idle_timeout_s": 0.3})
        async with open_client(gateway.base_url) as slow, open_client(gateway.base_url) as gone:
            for client in (slow, gone):
                await client.request("POST", _CHAT.path, None, head)
                await client.send(body[:20])
            await until_true(lambda: gateway.runtime.gateway.statistics().in_flight.charged_bytes == 2 * len(body))
            gone.rst()
            assert (await slow.read_head()).status == 408
        await gateway.settled(2)
        left, stopped = check_pairs(await read_books(gateway)).values()
    if left.closing["status"] != "cancelled":
        left, stopped = stopped, left
    assert left.closing["status"] == "cancelled"
    assert "http_status" not in left.closing
    assert (stopped.closing["status"], stopped.closing["http_status"]) == ("rejected", 408)
    assert not provider.asked


async def test_a_provider_that_is_not_there(serving, provider):
    """Nobody answers, then its breaker is open: attempts that were made are told from targets that were passed over."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with trio.fail_after(10):
        gateway = await serving(
            {"compat": nowhere}, providers={"compat": {"circuit_breaker": {"failure_threshold": 1}}}
        )
        for status in (502, 503):
            assert (await gateway.ask(_CHAT, _CHAT.body("compat/m1"))).status == status
        failed, passed = check_pairs(await read_books(gateway)).values()
    assert (failed.closing["status"], failed.closing["error_code"]) == ("failed", "connect_failed")
    assert [attempt["error_code"] for attempt in failed.asked] == ["connect_failed"]
    assert (passed.closing["status"], passed.closing["error_code"]) == ("failed", "circuit_open")
    assert not passed.asked
    assert [attempt["skipped"] for attempt in passed.closing["attempts"]] == ["circuit_open"]
    for entry in (failed, passed):
        assert "usage" not in entry.closing


async def test_counting_tokens(serving, provider):
    """count_tokens leaves its pair, counted by the provider or estimated by us; it uses nothing and costs nothing."""
    provider.default = script.answer(200, {"input_tokens": 11})
    with trio.fail_after(10):
        gateway = await serving(provider, models=_PRICES)
        for model in ("anthropic/m1", "openai/m1"):
            response = await gateway.ask(doors.COUNT_TOKENS, doors.COUNT_TOKENS.body(model))
            assert response.status == 200
        counted, estimated = check_pairs(await read_books(gateway)).values()
    assert len(provider.asked) == 1
    for entry in (counted, estimated):
        assert entry.closing["status"] == "success"
        assert entry.closing["endpoint"] == "messages.count_tokens"
        assert "completion_tokens" not in entry.closing
        assert entry.closing.get("cost_nusd", 0) == 0
    assert [len(counted.asked), len(estimated.asked)] == [1, 0]


async def test_asking_for_the_models(serving, provider):
    """`/api/models/sync` leaves its pair: for an operator, and for a key whose role does not allow it."""
    with trio.fail_after(10):
        gateway = await serving(provider)
        async with open_store(gateway.config) as store:
            operator = store.create_key("ops", "operator")
        assert operator is not None
        await gateway.runtime.accounts.refresh()
        headers = {"authorization": f"Bearer {operator.text}"}
        response = await fetch(gateway.base_url, "POST", "/api/models/sync", b"", headers)
        assert response.status == 200, response
        refused = await fetch(gateway.base_url, "POST", "/api/models/sync", b"", _CHAT.auth())
        assert refused.status == 403
        entries = check_pairs(await read_books(gateway))
    done, denied = entries[response.header("x-request-id")], entries[refused.header("x-request-id")]
    assert len(entries) == 2
    assert (done.closing["status"], done.closing["http_status"], done.closing["endpoint"]) == (
        "success",
        200,
        "models.sync",
    )
    assert (denied.closing["status"], denied.closing["http_status"]) == ("rejected", 403)
    assert denied.closing["error_code"] == "permission_denied"


async def test_what_leaves_nothing(gateway):
    """The front page, the documents, health, readiness, metrics, models and unknown paths leave no record."""
    with trio.fail_after(10):
        before = len(await read_books(gateway))
        for target in ("/", "/docs", "/livez", "/readyz", "/api/health", "/api/metrics", "/v1/models", "/nowhere"):
            await gateway.get(target)
        records = await read_books(gateway)
    assert len(records) == before, records[before:]


async def test_a_failed_authentication(serving, provider):
    """One event for many of them, with their number and address; no pair, and no provider is asked."""
    with trio.fail_after(20):
        gateway = await serving(provider)
        for _ in range(20):
            assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"), key="sk-wrong")).status == 401
        await gateway.stop()
        records = await _at_rest(gateway)
    found = events(records, "authentication_failed")
    assert sum(event["count"] for event in found) == 20
    assert {event["client_ip"] for event in found} == {"127.0.0.1"}
    assert len(found) <= 4, "one line a second"
    assert not check_pairs(records)
    assert not provider.asked


async def test_records_come_before_what_they_speak_of(serving, provider, second_provider):
    """When a provider reads a request its intent, or the record of the attempt, is in the log; so is the end before
    the caller has the last of the answer."""
    seen: list[tuple[str, int]] = []
    log = None

    def look(answered: script.Script):
        def choose(request: Any) -> script.Script:
            records = [json.loads(line) for path in log.glob("*.log") for line in path.read_bytes().splitlines()]
            mine = [record for record in records if record["event_type"] in ("request_received", "attempt_started")]
            seen.append((mine[-1]["provider"], mine[-1].get("attempt", 1)))
            return answered

        return choose

    provider.choose = look(script.answer(503, speech.CHAT.error(503)))
    second_provider.choose = look(script.answer(503, speech.CHAT.error(503)))
    with trio.fail_after(20):
        gateway: RunningGateway = await serving(
            {"openai": provider, "compat": second_provider},
            providers={"compat": {"max_retries": 1}},
            auto={"targets": ["openai/m1", "compat/m1"]},
        )
        log = gateway.config.log_dir
        async with open_client(gateway.base_url) as client:
            await client.request("POST", _CHAT.path, _CHAT.body("auto"), _CHAT.auth())
            assert (await client.read_response()).status == 503
            assert log.joinpath(next(log.glob("*.log")).name).read_bytes().count(b'"request_failed"') == 1
        entry = await only_entry(gateway)
    assert seen == [("openai", 1), ("compat", 2), ("compat", 3)]
    assert [(record["provider"], record["attempt"]) for record in entry.attempts] == seen[1:]
    assert [attempt["number"] for attempt in entry.asked] == [1, 2, 3]


async def test_a_fallback_is_billed_to_who_answered(serving, provider, second_provider):
    """The closing record names the provider that answered, at its price; the first attempt cost nothing."""
    provider.default = script.answer(503, speech.CHAT.error(503))
    second_provider.default = _GOOD
    with trio.fail_after(10):
        gateway = await serving(
            {"openai": provider, "compat": second_provider},
            models=_PRICES,
            auto={"targets": ["openai/m1", "compat/m1"]},
        )
        assert (await gateway.ask(_CHAT, _CHAT.body("auto"))).status == 200
        entry = await only_entry(gateway)
        await gateway.stop()
    assert (entry.intent["provider"], entry.closing["provider"]) == ("openai", "compat")
    assert [attempt.get("cost_nusd") for attempt in entry.asked] == [None, 11 * 1000 + 7 * 2000]
    assert [record["provider"] for record in entry.attempts] == ["compat"]
    verify(gateway.config.state_dir.parent)


async def _at_rest(gateway: RunningGateway) -> list[dict[str, Any]]:
    records = []
    for path in sorted(gateway.config.log_dir.glob("audit.*.log")):
        records += [json.loads(line) for line in path.read_bytes().splitlines()]
    return records


async def test_without_an_audit_log(serving, provider):
    """`audit.enabled = false`: answers as ever, no files, and health says that it is off."""
    provider.default = _GOOD
    with trio.fail_after(10):
        gateway = await serving(provider, audit={"enabled": False})
        assert (await gateway.ask(_CHAT, _CHAT.body("openai/m1"))).status == 200
        health = (await gateway.get("/api/health")).json()
    assert health["status"] == "healthy"
    assert health["audit"]["status"] == "disabled", health
    assert not list(gateway.config.log_dir.glob("audit.*"))
