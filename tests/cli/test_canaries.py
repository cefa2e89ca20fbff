"""Guarantee 6: secrets with known text go in everywhere, the process is driven hard, and none comes out anywhere."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

PROVIDER_KEY = "sk-canaryprovider-0123456789abcdef"
CALLER_KEY = "slb_canaryca_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
WRONG_KEY = "slb_canarywr_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
PLAIN_KEY = "canaryplainkeywithoutanyshape"
CANARIES = ("canaryprovid", "canaryca", "canarywr", "canaryplain", "canaryredis", "canaryfile")
WITHIN_S = 60


class _Provider(threading.Thread):
    """A provider that answers its first request with its own words about the key, and drops every later one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.seen: list[bytes] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer:
                self.seen.append(peer.recv(65_536))
                if len(self.seen) == 1:
                    body = json.dumps({"error": {"message": f"Incorrect API key provided: {PROVIDER_KEY}"}}).encode()
                    head = f"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
                    peer.sendall(f"{head}\r\nconnection: close\r\n\r\n".encode() + body)


def test_no_secret_comes_out(tmp_path: Path) -> None:
    """Logs at the finest level, answers, metrics, the printed configuration: none holds a secret or its beginning."""
    provider = _Provider()
    (tmp_path / "groq-key").write_text("gsk_canaryfile0123456789")
    path = tmp_path / "config.toml"
    path.write_text(
        f"""
[providers.demo]
enabled = true
[providers.openai]
base_url = "http://127.0.0.1:{provider.port}"
max_retries = 0
[providers.groq]
api_key = "file:groq-key"
base_url = "http://127.0.0.1:{provider.port}"
[providers.gone]
kind = "openai-compatible"
base_url = "http://127.0.0.1:1"
max_retries = 0
"""
    )
    environ = {
        "PYTHONPATH": "src",
        "PATH": "",
        "CONFIG_PATH": str(path),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "LOG_LEVEL": "trace",
        "OPENAI_API_KEY": PROVIDER_KEY,
        "GONE_API_KEY": PLAIN_KEY,
        "API_KEYS": f"{CALLER_KEY},{PLAIN_KEY}",
        "REDIS_URL": "redis://user:canaryredis@127.0.0.1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "securellm", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    ) as process:
        assert process.stdout is not None
        banner = process.stdout.readline()
        port = int(banner.rpartition(":")[2])
        answers = [
            _ask(port, key, path, model)
            for key in (CALLER_KEY, PLAIN_KEY, WRONG_KEY, "canarywrong no key at all")
            for path, model in (
                ("/v1/chat/completions", "demo/echo"),
                ("/v1/chat/completions", "openai/gpt-4o"),
                ("/v1/messages", "openai/gpt-4o"),
                ("/v1/responses", "gone/model"),
                ("/v1/chat/completions", "groq/llama"),
                ("/v1/chat/completions", "nobody/model"),
                ("/v1/models", None),
                ("/api/health", None),
                ("/api/metrics", None),
                ("/docs", None),
                ("//admin", None),
            )
        ]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WITHIN_S)
    provider.listener.close()
    printed = [
        subprocess.run(
            [sys.executable, "-m", "securellm", *words], capture_output=True, text=True, timeout=WITHIN_S, env=environ
        )
        for words in (["check-config", "--print"], ["info", "openai"], ["keys", "list"])
    ]
    assert process.returncode == 0
    assert any(PROVIDER_KEY.encode() in request for request in provider.seen)  # the key did go where it belongs
    assert {status for status, _ in answers} >= {200, 400, 401, 404, 502}
    everything = [banner, out, err, *(text for _, text in answers), *(done.stdout + done.stderr for done in printed)]
    for canary in CANARIES:
        leaks = [text for text in everything if canary in text]
        assert leaks == [], canary


def _ask(port: int, key: str, path: str, model: str | None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    if model is None:
        connection.request("GET", path, headers=headers)
    else:
        body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}], "input": "hello"}
        connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode() + str(response.getheaders())
    connection.close()
    return response.status, text
