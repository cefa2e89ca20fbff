"""`securellm bench` against the real gateway, and against servers that answer wrongly."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from rig.gateway import RunningGateway
from securellm.cli.load import quantile

Serving = Callable[..., Awaitable[RunningGateway]]
ENDED_WITHIN_S = 30
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
HELLO = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def _environ(key: str = "") -> dict[str, str]:
    return {"PYTHONPATH": "src", "PATH": "", "SECURELLM_URL": "http://127.0.0.1:9", "SECURELLM_API_KEY": key}


async def _bench(*arguments: str, key: str = "") -> "subprocess.CompletedProcess[bytes]":
    with trio.fail_after(ENDED_WITHIN_S):
        return await trio.run_process(
            [sys.executable, "-m", "securellm", "bench", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=_environ(key),
        )


async def _figures(*arguments: str, key: str = "") -> tuple[int, dict[str, Any]]:
    done = await _bench(*arguments, "--json", key=key)
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


async def _take_request(stream: trio.SocketStream) -> bytes | None:
    """The next request with its body; None when the peer has closed."""
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return received
        data = await stream.receive_some()
        if not data:
            return None
        received += data


@asynccontextmanager
async def _open_server(
    answer: bytes, *, held: int | None = None, stuck: trio.Event | None = None
) -> AsyncIterator[tuple[str, list[bytes], list[int]]]:
    """A server that answers each request alike, the one after the first `held` never; with requests and connections."""
    heads: list[bytes] = []
    connections: list[int] = []

    async def serve(stream: trio.SocketStream) -> None:
        connections.append(1)
        async with stream:
            while (request := await _take_request(stream)) is not None:
                heads.append(request)
                if held is not None and len(heads) == held + 1:
                    if stuck is not None:
                        stuck.set()
                    await trio.sleep_forever()
                await stream.send_all(answer)
                if b"connection: close" in answer:
                    return

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", heads, connections
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_gateway_is_measured(serving: Serving, stream: bool) -> None:
    """Each request reaches the gateway once and is counted once; only streams have a first token."""
    gateway = await serving({}, providers={"demo": {"enabled": True}})
    options = ["--stream"] if stream else []
    code, figures = await _figures(
        gateway.base_url, "--requests", "23", "--concurrency", "4", *options, key=gateway.key
    )
    assert code == 0
    assert (figures["good"], figures["failed"], figures["errors"]) == (23, 0, {})
    assert figures["interrupted"] is False
    assert set(figures["latency_ms"]) == {"p50", "p90", "p99", "max"}
    assert ("first_token_ms" in figures) == stream
    await gateway.settled(23)
    assert len(gateway.settlements) == 23


async def test_what_people_see(serving: Serving) -> None:
    """The table says where, what, how many and how long."""
    gateway = await serving({}, providers={"demo": {"enabled": True}})
    done = await _bench(gateway.base_url, "--requests", "3", "--key", gateway.key, "--stream")
    lines = done.stdout.decode().splitlines()
    assert lines[0] == f"{gateway.base_url}, demo/echo, 8 at one time, streamed"
    assert lines[1].startswith("requests     3 good, 0 failed, in ")
    assert [line.split("  ")[0] for line in lines[2:]] == ["throughput", "latency", "first token"]
    assert (done.returncode, done.stderr) == (0, b"")


async def test_refusals_are_counted_by_code(serving: Serving) -> None:
    """Requests that the gateway refuses are told by status and code, and without a good one it ends with 1."""
    gateway = await serving({}, providers={"demo": {"enabled": True}})
    code, figures = await _figures(gateway.base_url, "--requests", "5", key="slb_wrong")
    assert code == 1
    assert (figures["good"], figures["failed"]) == (0, 5)
    assert figures["errors"] == {"401 invalid_api_key": 5}
    assert "latency_ms" not in figures


@pytest.mark.parametrize(
    ("answer", "options", "errors"),
    [
        (WHOLE, [], {}),
        (STREAM + HELLO + DONE, ["--stream"], {}),
        (STREAM + HELLO, ["--stream"], {"stream without its end": 4}),
        (STREAM + b'data: {"error":{"code":"upstream_idle"}}\n\n', ["--stream"], {"stream ended in upstream_idle": 4}),
        (STREAM + b"data: nonsense\n\n", ["--stream"], {"unreadable stream": 4}),
        (b"HTTP/1.1 502 No\r\ncontent-length: 0\r\n\r\n", [], {"502": 4}),
        (b"nonsense\r\nconnection: close\r\n\r\n", [], {"badstatusline": 4}),
    ],
)
async def test_answers_that_go_wrong(answer: bytes, options: list[str], errors: dict[str, int]) -> None:
    """Only a whole answer is good, and of a stream only one with its end."""
    async with _open_server(answer) as (url, heads, _):
        code, figures = await _figures(url, "--requests", "4", "--concurrency", "2", *options)
    assert figures["errors"] == errors
    assert (figures["good"], code) == ((0, 1) if errors else (4, 0))
    assert len(heads) == 4


async def test_connections_are_kept_and_no_more_than_asked_for() -> None:
    """Each of the concurrent askers keeps one connection, after the one that looks whether anybody is there."""
    async with _open_server(WHOLE) as (url, heads, connections):
        await _figures(f"{url}/proxy/", "--requests", "30", "--concurrency", "3", "--model", "a/b", "--max-tokens", "7")
    assert len(connections) == 4
    assert all(head.startswith(b"POST /proxy/v1/chat/completions HTTP/1.1\r\n") for head in heads)
    asked = json.loads(heads[0].partition(b"\r\n\r\n")[2])
    assert (asked["model"], asked["max_tokens"], "stream" in asked) == ("a/b", 7, False)


async def test_it_stops_by_itself() -> None:
    """With a server that stops answering, the time given is the end, and what was good until then is told."""
    async with _open_server(WHOLE, held=5) as (url, _, _):
        code, figures = await _figures(url, "--concurrency", "1", "--seconds", "0.5")
    assert (code, figures["good"], figures["interrupted"]) == (0, 5, False)


async def test_ctrl_c_tells_what_was_measured() -> None:
    """Ctrl-C prints the figures so far and ends with 130, without a traceback."""
    stuck = trio.Event()
    async with _open_server(WHOLE, held=5, stuck=stuck) as (url, _, _):
        with trio.fail_after(ENDED_WITHIN_S):
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "securellm", "bench", url, "--concurrency", "1"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environ(),
            )
            assert process.stdout is not None
            assert process.stderr is not None
            await stuck.wait()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            printed = b"".join([piece async for piece in process.stdout])
            assert await process.stderr.receive_some() == b""
    assert b"requests     5 good, 0 failed" in printed
    assert b", interrupted\n" in printed


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://u:p@x"])
async def test_a_wrong_url(url: str) -> None:
    """The URL is checked before it is used."""
    done = await _bench(url)
    assert (done.returncode, done.stderr) == (1, b"Error: URL is not a URL like http://127.0.0.1:8080\n")


async def test_nobody_answers() -> None:
    """Without a gateway it says how to start one, and measures nothing."""
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        done = await _bench(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"(connection refused). Start one with: securellm serve" in done.stderr


def test_shares() -> None:
    """A share is a value that was measured; the last is the greatest."""
    values = [3.0, 1.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 4.0, 4.0]
