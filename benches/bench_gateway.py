"""What a request costs on the reference lane: CPU time of the server's process beside a bare Hypercorn and Quart-Trio.

One client, one connection, one request after the other: this measures work, not throughput. The gateway runs with one
upstream (`hello_server.py`, in a process of its own whose CPU is not counted) and the built-in demo.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hello_server

KEY = "bench-key-" + "x" * 32
ROUNDS = 3
START_S = 60.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Client:
    """One kept connection; sends a request and reads its whole answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def ask(self, model: str, stream: bool) -> bytes:
        """The body of the answer. Raises AssertionError unless it is 200."""
        message = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        body = json.dumps(message | ({"stream": True} if stream else {}), separators=(",", ":")).encode()
        self._socket.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer "
            + KEY.encode()
            + b"\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        status = self._file.readline()
        headers = {}
        while (line := self._file.readline()) != b"\r\n":
            if not line:
                raise AssertionError(f"{model}: the connection ended after {status!r}")
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        answer = self._file.read(int(headers[b"content-length"])) if b"content-length" in headers else self._chunked()
        if b" 200 " not in status:
            raise AssertionError(f"{status!r}: {answer[:300]!r}")
        return answer

    def _chunked(self) -> bytes:
        parts = []
        while length := int(self._file.readline(), 16):
            parts.append(self._file.read(length))
            self._file.readline()
        self._file.readline()
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def _process(arguments: list[str], port: int, environment: dict[str, str]) -> Iterator[int]:
    """A server process that answers on `port`, as its pid; ended on the way out."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + START_S
            while not _is_ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise AssertionError(f"{arguments[0]} does not serve: {log.read()[-2000:].decode()}")
                time.sleep(0.1)
            yield process.pid
        finally:
            process.kill()
            process.wait()


def _is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            probe.sendall(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
            return b" 200 " in probe.recv(100)
    except OSError:
        return False


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _measure(pid: int, port: int, model: str, stream: bool, requests: int) -> float:
    """CPU microseconds of the process for one request; the answers are checked."""
    client = Client(port)
    try:
        client.ask(model, stream)
        before = _cpu_s(pid)
        for _ in range(requests):
            answer = client.ask(model, stream)
            if not answer or (stream and not answer.endswith(b"data: [DONE]\n\n")):
                raise AssertionError(f"{model}: not a whole answer: {answer[-200:]!r}")
        return (_cpu_s(pid) - before) / requests * 1e6
    finally:
        client.close()


def run(short: bool) -> list[dict[str, Any]]:
    """One row a case; ratios are to the bare server's same case."""
    json_requests, streams = (20, 2) if short else (500, 50)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hello_port, yardstick_port, port = _free_port(), _free_port(), _free_port()
        config = directory / "config.toml"
        config.write_text(
            f'[providers.hello]\nkind = "openai-compatible"\nbase_url = "http://127.0.0.1:{hello_port}/v1"\n'
            '[models."hello/*"]\nfree = true\n[providers.demo]\nenabled = true\n[telemetry]\nlog_level = "warning"\n'
        )
        hello = str(Path(hello_server.__file__))
        stack.enter_context(_process([hello, str(hello_port)], hello_port, {}))
        yardstick = stack.enter_context(_process([hello, str(yardstick_port)], yardstick_port, {}))
        settings = {
            "CONFIG_PATH": str(config),
            "STATE_DIRECTORY": str(directory / "state"),
            "LOGS_DIRECTORY": str(directory / "logs"),
            "SERVER_PORT": str(port),
            "API_KEYS": KEY,
        }
        start = ["-c", "from securellm.cli.main import main; main()", "serve"]
        gateway = stack.enter_context(_process(start, port, settings))
        cases = {
            "bare Hypercorn + Quart-Trio, JSON": (yardstick, yardstick_port, "m", False, json_requests),
            "gateway, demo, JSON": (gateway, port, "demo/echo", False, json_requests),
            "gateway, upstream, JSON": (gateway, port, "hello/m", False, json_requests),
            f"bare, stream of {hello_server.CHUNKS}": (yardstick, yardstick_port, "m", True, streams),
            f"gateway, upstream, stream of {hello_server.CHUNKS}": (gateway, port, "hello/m", True, streams),
        }
        best = dict.fromkeys(cases, float("inf"))
        for _ in range(1 if short else ROUNDS):
            for name, case in cases.items():
                best[name] = min(best[name], _measure(*case))
    rows, base = [], 1.0
    for name, microseconds in best.items():
        base = microseconds if name.startswith("bare") else base
        ratio = round(microseconds / base, 2) if base else ""
        rows.append({"case": name, "cpu_us_per_request": round(microseconds), "ratio": ratio})
    return rows
