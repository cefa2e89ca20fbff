"""No secret and no prompt in anything that the process says (guarantee 6): canaries, and every output read for them."""

import json
import signal
from pathlib import Path

import pytest
import trio

from rig import script
from rig.fake_provider import FakeProvider
from rig.process import open_process
from rig.raw_client import encode_request, fetch, open_client

CANARIES = {
    "openai": "sk-canary-openai-Qx7fT2mZ9wLb4RkVu8Yd",
    "anthropic": "sk-ant-canary-Hn5cG8pWs3XjTe6BqKa1",
    "caller": "canary-caller-key-Vz4Mf9Rt6Yk2Gp8Ls",
    "wrong": "slb_canarywr_canary-wrong-Jd7Sx3Qh9Nb5Ew1Ck8Tm4Zv6Ur2Pg",
    "header": "canary-cookie-Wq8Er5Ty2Ui9Op",
    "prompt": "canary-prompt-The-merger-closes-on-Friday",
    "answer": "canary-answer-They-will-pay-nine-billion",
}
SHOWN = 12  # the first characters of a secret are a secret, too
DOORS = [
    ("/v1/chat/completions", "openai/m"),
    ("/v1/chat/completions", "anthropic/m"),
    ("/v1/messages", "anthropic/m"),
    ("/v1/messages", "openai/m"),
    ("/v1/responses", "openai/m"),
    ("/v1/completions", "openai/m"),
    ("/v1/embeddings", "openai/m"),
    ("/v1/messages/count_tokens", "anthropic/m"),
]
ANSWER = {
    "id": "x",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": CANARIES["answer"]}, "finish_reason": "stop"}],
}


def ask(path: str, model: str, *, key: str, stream: bool = False) -> bytes:
    document = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": CANARIES["prompt"]}]}
    document |= {"prompt": CANARIES["prompt"], "input": CANARIES["prompt"], "stream": stream}
    headers = {"authorization": f"Bearer {key}", "cookie": CANARIES["header"], "x-forwarded-for": CANARIES["header"]}
    return encode_request("POST", path, json.dumps(document).encode(), {**headers, "connection": "close"})


def unhappy(provider: FakeProvider) -> None:
    """What the provider does with the requests that follow: each kind of failure in turn."""
    errors = [400, 401, 403, 404, 429, 500]
    scripts = [script.answer(status, {"error": {"message": CANARIES["answer"]}}) for status in errors]
    scripts += [[script.rst()], [script.raw(b"nonsense\r\n\r\n"), script.fin()], script.answer(200, b'{"choices"')]
    scripts += [script.answer(307, b"", {"location": "http://127.0.0.1:9/?key=x"}), [script.never()]]
    scripts += [script.answer(200, ANSWER), script.stream([b"data: {broken\n\n"])]
    turn = iter(range(10**6))
    provider.choose = lambda request: scripts[next(turn) % len(scripts)]


@pytest.mark.slow
async def test_no_canary_in_any_output(provider: FakeProvider, tmp_path: Path):
    """Every door through every outcome at log level debug: the canaries reach the provider and nothing else."""
    config = tmp_path / "config.toml"
    config.write_text(
        f"""
[providers.openai]
enabled = true
api_key = "env:OPENAI_CANARY"
base_url = "{provider.base_url}"
max_retries = 0
circuit_breaker = {{ failure_threshold = 100000 }}
[providers.anthropic]
enabled = true
api_key = "file:anthropic.key"
base_url = "{provider.base_url}"
max_retries = 0
circuit_breaker = {{ failure_threshold = 100000 }}
[models."openai/*"]
free = true
[models."anthropic/*"]
free = true
[timeouts]
first_token_s = 0.5
total_s = 1
[telemetry]
log_level = "debug"
metrics_public = true
"""
    )
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "anthropic.key").write_text(CANARIES["anthropic"])
    environ = {
        "CONFIG_PATH": str(config),
        "CREDENTIALS_DIRECTORY": str(credentials),
        "OPENAI_CANARY": CANARIES["openai"],
        "API_KEYS": CANARIES["caller"],
    }
    unhappy(provider)
    said: list[bytes] = []
    with trio.fail_after(120):
        async with open_process(tmp_path, environ) as process:
            for path, model in DOORS:
                for key in (CANARIES["wrong"], "x", *[CANARIES["caller"]] * 13):
                    for stream in (False, True):
                        async with open_client(process.base_url) as client:
                            await client.send(ask(path, model, key=key, stream=stream))
                            said.append(await client.read_eof())
            for target in ("/", "/docs", "/openapi.json", "/api/health", "/v1/models", "/nowhere", "/api/metrics"):
                for key in (CANARIES["caller"], CANARIES["wrong"]):
                    headers = {"authorization": f"Bearer {key}", "cookie": CANARIES["header"]}
                    answer = await fetch(process.base_url, "GET", target, None, headers)
                    said += [answer.body, repr(answer.headers).encode()]
            async with open_client(process.base_url) as client:
                await client.send(
                    f"GET /{CANARIES['wrong']} HTTP/1.1\r\nbad header {CANARIES['caller']}\r\n\r\n".encode()
                )
                said.append(await client.read_eof())
            assert await process.stop(signal.SIGTERM) == 0
    reached = b"".join(request.head + request.body for request in provider.requests)
    assert CANARIES["prompt"].encode() in reached  # or the test would show nothing
    assert CANARIES["openai"].encode() in reached
    assert CANARIES["anthropic"].encode() in reached
    for name in ("caller", "wrong", "header"):
        assert CANARIES[name].encode() not in reached, name
    written = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    audited = b"".join(path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file())
    assert audited.count(b'"request_received"') > 100  # or the test would show nothing of it
    told = {"stdout": process.stdout, "stderr": process.stderr, "state": written, "audit": audited}
    told["answers"] = b"".join(said)
    for name, canary in CANARIES.items():
        for place, text in told.items():
            if (name, place) == ("answer", "answers"):
                continue  # an answer and a provider's error are for the caller
            assert canary[:SHOWN].encode() not in text, (name, place)
    assert CANARIES["answer"].encode() in told["answers"]
