"""chat, models and health against the real gateway, and against servers that answer wrongly."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from rig.gateway import RunningGateway

Serving = Callable[..., Awaitable[RunningGateway]]
ENDED_WITHIN_S = 30


def _environ(url: str, key: str) -> dict[str, str]:
    return {"PYTHONPATH": "src", "PATH": "", "SECURELLM_URL": url, "SECURELLM_API_KEY": key}


async def _securellm(
    url: str, *arguments: str, key: str = "", stdin: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    with trio.fail_after(ENDED_WITHIN_S):
        return await trio.run_process(
            [sys.executable, "-m", "securellm", *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=_environ(url, key),
        )


@pytest.fixture
async def demo(serving: Serving) -> RunningGateway:
    """A gateway whose one provider is the demo."""
    return await serving({}, providers={"demo": {"enabled": True}})


@asynccontextmanager
async def _open_server(*pieces: bytes, hold: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that sends the same bytes to everybody, and closes or holds; with the requests it got."""
    requests: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received:
                received += await stream.receive_some()
            requests.append(received)
            for piece in pieces:
                await stream.send_all(piece)
            if hold:
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", requests
        nursery.cancel_scope.cancel()


def _stream_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def _delta(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


async def test_a_chat_with_the_demo(demo: RunningGateway) -> None:
    """The answer is printed as text, with a line end, and nothing else."""
    done = await _securellm(demo.base_url, "chat", "-m", "grüße", "--model", "demo/echo", key=demo.key)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "grüße\n"


async def test_the_message_may_be_piped(demo: RunningGateway) -> None:
    """Without -m standard input is the message; the other options reach the gateway."""
    done = await _securellm(
        demo.base_url,
        *("chat", "--model", "demo/echo", "--system", "s", "--max-tokens", "9", "--temperature", "0.5"),
        key=demo.key,
        stdin=b"from a pipe",
    )
    assert (done.returncode, done.stdout) == (0, b"from a pipe\n")


async def test_nothing_to_ask(demo: RunningGateway) -> None:
    """An empty message is told before anybody is asked."""
    done = await _securellm(demo.base_url, "chat", "-m", " ", key=demo.key)
    assert done.returncode == 2
    assert b"securellm chat -m 'hello'" in done.stderr


async def test_no_model_and_no_auto(demo: RunningGateway) -> None:
    """Who has configured nothing is told which model works."""
    done = await _securellm(demo.base_url, "chat", "-m", "hello", key=demo.key)
    assert done.returncode == 1
    assert b"no_auto_targets" in done.stderr
    assert b"demo/echo needs no provider" in done.stderr


async def test_a_wrong_key(demo: RunningGateway) -> None:
    """A refused key is told with the command that makes one, and is not repeated."""
    done = await _securellm(demo.base_url, "chat", "-m", "hello", key="slb_wrong_CANARY")
    assert done.returncode == 1
    assert b"securellm keys create" in done.stderr
    assert b"CANARY" not in done.stderr + done.stdout


async def test_models_and_health(demo: RunningGateway) -> None:
    """Both list what the gateway says, as text and as JSON."""
    models = await _securellm(demo.base_url, "models", key=demo.key)
    assert models.stdout == b"demo/echo\ndemo/lorem\n"
    listed = json.loads((await _securellm(demo.base_url, "models", "--json", key=demo.key)).stdout)
    assert [model["id"] for model in listed["data"]] == ["demo/echo", "demo/lorem"]
    health = await _securellm(demo.base_url, "health", key=demo.key)
    assert health.returncode == 0
    assert b"gateway   healthy, version" in health.stdout
    assert b"provider  demo: healthy" in health.stdout
    assert json.loads((await _securellm(demo.base_url, "health", "--json")).stdout)["status"] == "healthy"


@pytest.mark.parametrize("arguments", [["chat", "-m", "x"], ["models"], ["health"]])
async def test_nobody_answers(arguments: list[str]) -> None:
    """Without a gateway every command says how to start one."""
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        done = await _securellm(f"http://127.0.0.1:{unused.getsockname()[1]}", *arguments)
    assert done.returncode == 1
    assert b"(connection refused). Start one with: securellm serve" in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://x:99999999", "http://u:p@x"])
async def test_a_wrong_url(url: str) -> None:
    """SECURELLM_URL is checked before it is used."""
    done = await _securellm(url, "models")
    assert (done.returncode, done.stderr) == (1, b"Error: SECURELLM_URL is not a URL like http://127.0.0.1:8080\n")


async def test_a_key_that_cannot_be_sent() -> None:
    """A key with a line break is refused without being shown."""
    async with _open_server() as (url, requests):
        done = await _securellm(url, "models", key="CANARY\nx")
    assert done.returncode == 1
    assert b"SECURELLM_API_KEY holds characters" in done.stderr
    assert b"CANARY" not in done.stderr
    assert requests == []


@pytest.mark.parametrize(
    ("pieces", "printed", "told"),
    [
        ([_stream_head(), _delta("half")], b"half\n", b"broke off before its end"),
        (
            [_stream_head(), _delta("half"), b'data: {"error":{"message":"cut","code":"upstream_truncated"}}\n\n'],
            b"half\n",
            b"cut (upstream_truncated)",
        ),
        ([_stream_head(), b"data: nonsense\n\n"], b"", b"cannot be read"),
        ([b"HTTP/1.1 502 Bad\r\nconnection: close\r\n\r\n<html>"], b"", b"status 502"),
        ([b"nonsense\r\n"], b"", b"no gateway answers"),
        ([_stream_head(), b": ping\n\n", _delta("a"), _delta("b"), b"data: [DONE]\n\n"], b"ab\n", b""),
    ],
)
async def test_streams_that_go_wrong(pieces: list[bytes], printed: bytes, told: bytes) -> None:
    """What arrived is printed, how it ended is told, and only a stream with its end ends with 0."""
    async with _open_server(*pieces) as (url, _):
        done = await _securellm(url, "chat", "-m", "x")
    assert done.stdout == printed
    assert told in done.stderr
    assert done.returncode == (1 if told else 0)


async def test_the_gateway_may_have_a_path() -> None:
    """A path in SECURELLM_URL goes before ours, and the key goes as Bearer."""
    async with _open_server(_stream_head(), b"data: [DONE]\n\n") as (url, requests):
        await _securellm(f"{url}/proxy/", "chat", "-m", "x", key="slb_k")
    assert requests[0].startswith(b"POST /proxy/v1/chat/completions HTTP/1.1\r\n")
    assert b"authorization: Bearer slb_k\r\n" in requests[0]


def _whole(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nconnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (_whole("200 OK", b'{"status":"degraded","version":"1","uptime_seconds":2}'), 0, b"gateway   degraded"),
        (
            _whole("503 No", b'{"status":"unhealthy","database":{"status":"down","error":"e"}}'),
            1,
            b"database  down (e)",
        ),
        (_whole("200 OK", b"<html>"), 1, b"this is not the gateway"),
        (_whole("500 No", b'{"error":{"message":"m","code":"c"}}'), 1, b"m (c)"),
    ],
)
async def test_health_that_is_not_good(answer: bytes, code: int, said: bytes) -> None:
    """Degraded is fine, unhealthy ends with 1 and says why, and so does whatever is not the gateway."""
    async with _open_server(answer) as (url, _):
        done = await _securellm(url, "health")
    assert done.returncode == code
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (_whole("200 OK", b'{"data":[]}'), b"the gateway has no models"),
        (_whole("200 OK", b"nonsense"), b"this is not the gateway"),
        (_whole("404 No", b"[]"), b"status 404 (404)"),
    ],
)
async def test_models_that_are_not_there(answer: bytes, said: bytes) -> None:
    """An empty list, and answers that are not the gateway's, end with 1 and a sentence."""
    async with _open_server(answer) as (url, _):
        done = await _securellm(url, "models")
    assert done.returncode == 1
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


async def test_ctrl_c_ends_quietly() -> None:
    """Ctrl-C in the middle of an answer ends with 130, and without a traceback."""
    async with _open_server(_stream_head(), _delta("half"), hold=True) as (url, _):
        with trio.fail_after(ENDED_WITHIN_S):
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "securellm", "chat", "-m", "x"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environ(url, ""),
            )
            assert process.stdout is not None
            assert process.stderr is not None
            assert await process.stdout.receive_some() == b"half"
            process.send_signal(signal.SIGINT)
            assert await process.stderr.receive_some() == b"\n"
            assert await process.wait() == 130
