"""Metrics of a running gateway: what is not counted as it happens is brought up to date when it is asked for."""

import trio

from rig import doors, script, speech
from rig.raw_client import fetch
from securellm.chat import Settlement


async def test_the_state_of_the_parts_is_shown(serving, provider):
    """The breaker of each provider and the audit log are shown as they are now."""
    with trio.fail_after(20):
        gateway = await serving(provider, telemetry={"metrics_public": True})
        text = (await fetch(gateway.base_url, "GET", "/metrics")).body.decode()
        assert 'securellm_circuit_breaker_state{provider="openai"} 0.0' in text
        assert "securellm_audit_available 1.0" in text


async def test_a_bookkeeper_that_fails_touches_no_request(serving, provider):
    """Whoever is told of settlements and breaks: requests are answered and counted, and so is the failure (54)."""

    def fail(settlement: Settlement) -> None:
        raise RuntimeError("an exporter is broken")

    provider.choose = lambda request: script.answer(200, speech.CHAT.whole("Hello"))
    with trio.fail_after(20):
        gateway = await serving(provider, telemetry={"metrics_public": True})
        gateway.runtime.ledger.subscribe(fail)
        for _ in range(3):
            body = doors.CHAT.body("openai/m1")
            assert (await fetch(gateway.base_url, "POST", doors.CHAT.path, body, doors.CHAT.auth())).status == 200
        text = (await fetch(gateway.base_url, "GET", "/metrics")).body.decode()
        assert "securellm_bookkeeper_failures_total 3.0" in text
        assert 'securellm_requests_total{endpoint="chat.completions",status="success"} 3.0' in text
