"""`securellm explain` tells what the gateway then does: the same bytes, the same bounds, the same refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from rig import doors
from rig.administration import make_key, open_administration
from rig.doors import KEY
from rig.fixtures import Lane
from rig.gateway import PROVIDER_KEY, RunningGateway
from rig.pairs import PAIRS, Pair
from securellm.chat import Grants

CHAT = doors.CHAT
ENDPOINTS = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "messages.count_tokens",
}
SHOWN_PAIRS = [pair for pair in PAIRS if pair.provider in ("openai", "anthropic", "ollama")]


@pytest.fixture(
    params=[("reference", "httpx", False), pytest.param(("express", "native", False), marks=pytest.mark.compiled)],
    ids=["reference", "express"],
)
def lane(request: pytest.FixtureRequest) -> Lane:
    """The lane that serves, with its own client: what is told holds for both."""
    name: Lane = request.param
    return name


async def run_explain(gateway: RunningGateway, body: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The command as it is typed beside a gateway, with its configuration."""
    assert gateway.config.source is not None
    folder = gateway.config.source.parent
    path = folder / "request.json"
    await trio.Path(path).write_bytes(body)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME", "LANG")}
    kept.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[2] / "src"))
    environ = {
        **kept,
        "CONFIG_PATH": str(gateway.config.source),
        "RIG_PROVIDER_KEY": PROVIDER_KEY,
        "API_KEYS": KEY,
        "STATE_DIRECTORY": str(folder / "state"),
        "LOGS_DIRECTORY": str(folder / "log"),
    }
    command = [sys.executable, "-m", "securellm", "explain", str(path), *arguments]
    return await trio.run_process(command, env=environ, capture_stdout=True, capture_stderr=True, check=False)


async def explained(gateway: RunningGateway, body: bytes, *arguments: str) -> Any:
    """What it tells, as JSON."""
    done = await run_explain(gateway, body, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    assert PROVIDER_KEY.encode() not in done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pair", SHOWN_PAIRS, ids=str)
async def test_what_is_told_is_what_is_sent(gateway: RunningGateway, provider: Any, pair: Pair, stream: bool) -> None:
    """Method, URL, every header in order and the body are byte for byte what the provider then receives."""
    if stream and pair.speech.events is None:
        stream = False
    headers = {"idempotency-key": "k-1", "anthropic-beta": "a-1", "traceparent": "00-0-0-01", "x-forwarded-for": "::1"}
    body = pair.door.body(pair.model, stream=stream)
    sent = {**pair.door.auth(), **headers}
    credentials = ("authorization", "x-api-key")
    options = [f"--header={name}: {value}" for name, value in sent.items() if name not in credentials]
    options += ["--header", "content-type: application/json", "--endpoint", ENDPOINTS[pair.door.path]]
    with trio.fail_after(60):
        told = await explained(gateway, body, "--key", "config01", *options)
        assert provider.asked == []
        provider.default = pair.answers(stream_it=stream)
        answer = await gateway.ask(pair.door, body, headers)
        assert answer.status == 200, answer.body
    (received,) = provider.asked
    request = told["candidates"][0]["request"]
    assert request["body"].encode() == received.body
    assert (request["method"], request["url"]) == (received.method, f"{provider.base_url}{received.target}")
    assert [(name, value) for name, value in request["headers"]] == [
        (name, value.replace(PROVIDER_KEY, "***")) for name, value in received.headers
    ]
    dropped = answer.header("x-securellm-dropped")
    assert ", ".join(request["dropped"]) == (dropped or "")


async def test_the_requests_own_id_is_the_only_thing_left_open(gateway: RunningGateway, provider: Any) -> None:
    """Where our id goes up as the idempotency key, a place is told in its stead, and nothing else differs."""
    pair = next(pair for pair in PAIRS if pair.door is CHAT and pair.provider == "openai")
    body = CHAT.body(pair.model)
    with trio.fail_after(30):
        told = await explained(gateway, body, "--key", "config01", "--header", "content-type: application/json")
        provider.default = pair.answers()
        answer = await gateway.ask(CHAT, body)
    (received,) = provider.asked
    expected = [
        (name, "<request-id>" if value == answer.header("x-request-id") else value.replace(PROVIDER_KEY, "***"))
        for name, value in received.headers
    ]
    assert [tuple(header) for header in told["candidates"][0]["request"]["headers"]] == expected
    assert ("idempotency-key", "<request-id>") in expected


async def test_bounds_are_those_of_the_gateway(serving: Any, provider: Any, second_provider: Any) -> None:
    """Limits with what is taken, the reservation, what budgets have left, and who is passed over, for a key's own."""
    settings: dict[str, Any] = {
        "models": {"openai/m1": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}, "compat/*": {"free": True}},
        "auto": {"targets": ["compat/m1", "openai/m1"]},
        "rate_limit": {"enabled": True, "per_user": {"rpm": 60, "burst": 7}, "openai_rpm": 30},
    }
    with trio.fail_after(40):
        gateway = await serving({"openai": provider, "compat": second_provider}, **settings)
        admin = await open_administration(gateway)
        await admin.do("POST", "/api/admin/users", {"id": "ada"})
        new = {"user_id": "ada", "grants": {"providers": ["openai"]}, "rates": {"tpm": 5000}}
        made = await admin.do("POST", "/api/admin/keys", new)
        await admin.do("PUT", "/api/admin/budgets", {"kind": "user", "subject": "ada", "limit_nusd": 1000})
        body = CHAT.body("auto", max_tokens=100)
        told = await explained(gateway, body, "--key", made["id"])
        text = await run_explain(gateway, body, "--key", made["id"])
        refused = await gateway.ask(CHAT, body, key=made["key"])
    assert told["refusal"] is None
    assert told["caller"]["user_id"] == "ada"
    limits = {(one["scope"], one["measure"]): one for one in told["limits"]}
    assert (limits["key", "tokens"]["limit"], limits["key", "tokens"]["takes"]) == (5000, told["estimated_tokens"])
    assert (limits["user", "requests"]["limit"], limits["user", "requests"]["burst"]) == (60, 7)
    assert limits["provider", "requests"]["limit"] == 30
    first, second = told["candidates"]
    assert (first["provider"], first["request"] is not None) == ("openai", True)
    assert (second["provider"], second["passed_over"], second["request"]) == ("compat", "model_not_allowed", None)
    (budget,) = told["budgets"]
    assert (budget["id"], budget["left_nusd"], budget["fits"]) == ("user:ada:month", 1000, False)
    assert told["reservation"]["cost_nusd"] > 1000
    assert refused.json()["error"]["code"] == "budget_exceeded"
    lines = text.stdout.decode()
    for said in ("does not fit", "model_not_allowed", "user ada", "POST ", "authorization: Bearer ***"):
        assert said in lines, lines


@pytest.mark.parametrize(
    ("model", "fields", "code"),
    [("nobody/m", {}, "model_not_found"), ("openai/m1", {"api_base": "http://x"}, "destination_not_allowed")],
)
async def test_refusals_are_told(gateway: RunningGateway, model: str, fields: dict[str, Any], code: str) -> None:
    """What the gateway would refuse is told with the same code, and ends the explanation there."""
    body = CHAT.body(model, **fields)
    with trio.fail_after(30):
        told = await explained(gateway, body, "--key", "config01")
        refused = await gateway.ask(CHAT, body)
    assert told["refusal"]["code"] == refused.json()["error"]["code"] == code
    assert told["refusal"]["message"] == refused.json()["error"]["message"]
    assert told["candidates"] == []


async def test_keys_are_needed_and_restricted(gateway: RunningGateway) -> None:
    """Without a key, with an unknown or a revoked one nothing is told; a key's addresses count."""
    body = CHAT.body("openai/m1")
    with trio.fail_after(60):
        key = await make_key(gateway, grants=Grants(networks=("10.0.0.0/8",)))
        for arguments in ([], ["--key", "aaaaaaaa"], ["--key", "anonymous"]):
            done = await run_explain(gateway, body, *arguments)
            assert done.returncode != 0, done.stdout
            assert b"Error" in done.stderr
        key_id = key.split("_")[1]
        assert (await explained(gateway, body, "--key", key_id))["refusal"]["code"] == "address_not_allowed"
        assert (await explained(gateway, body, "--key", key_id, "--from", "10.1.2.3"))["refusal"] is None
