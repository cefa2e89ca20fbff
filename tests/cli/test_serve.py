"""serve as a process of its own: the banner, the first key, the curl line, the signals, and its refusals."""

import http.client
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from securellm.cli.serve import encode_banner, encode_curl
from securellm.config import load_config

STARTED_WITHIN_S = 60


class Served:
    """A `securellm serve` that has said where it is."""

    def __init__(self, process: "subprocess.Popen[str]", banner: str) -> None:
        self.process = process
        self.banner = banner
        found = re.search(r"on (http\S+)", banner)
        assert found is not None, banner
        self.url = found[1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Signal it; its exit code and everything it logged."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=STARTED_WITHIN_S)
        return self.process.returncode, log


@contextmanager
def _serve(state: Path, *arguments: str, **environ: str) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, "-m", "securellm", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PYTHONPATH": "src",
            "PATH": "",
            "STATE_DIRECTORY": str(state),
            "LOGS_DIRECTORY": str(state / "log"),
            "OLLAMA_ENABLED": "0",
            **environ,
        },
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("  curl"):
                break
        else:
            raise AssertionError(process.communicate()[1])
        yield Served(process, "".join(lines))
    finally:
        process.kill()
        process.communicate()


def _refused(state: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "securellm", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=STARTED_WITHIN_S,
        env={
            "PYTHONPATH": "src",
            "PATH": "",
            "STATE_DIRECTORY": str(state),
            "LOGS_DIRECTORY": str(state / "log"),
            "OLLAMA_ENABLED": "0",
            **environ,
        },
    )


def _run_curl(line: str) -> tuple[int, bytes]:
    """What curl would do with the printed line."""
    words = shlex.split(line)
    assert words[0] == "curl"
    headers = [words[at + 1] for at, word in enumerate(words) if word == "-H"]
    url = urlsplit(words[1])
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=STARTED_WITHIN_S)
    fields = dict(header.split(": ", 1) for header in headers)
    connection.request("POST", url.path, words[words.index("-d") + 1], fields)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_from_nothing_to_an_answer(tmp_path: Path) -> None:
    """With no configuration: a key is made and printed once, the printed curl line works, SIGTERM ends with 0.

    The second start makes no key, and the first still works. No log line holds the key.
    """
    state = tmp_path / "state"
    with _serve(state) as served:
        curl = next(line for line in served.banner.splitlines() if "curl" in line)
        status, body = _run_curl(curl)
        assert status == 200
        assert json.loads(body)["choices"][0]["message"]["content"]
        key = re.search(r"slb_\w{8}_[\w-]{43}", served.banner)
        assert key is not None
        assert "shown this once" in served.banner
        assert f"docs       {served.url}/docs" in served.banner
        code, log = served.stop()
        assert code == 0
        assert key[0] not in log
        assert all(json.loads(line)["level"] for line in log.splitlines())
    with _serve(state) as served:
        assert "slb_" not in served.banner
        curl = next(line for line in served.banner.splitlines() if "curl" in line)
        assert '"authorization: Bearer $SECURELLM_API_KEY"' in curl
        status, _ = _run_curl(curl.replace("$SECURELLM_API_KEY", key[0]))
        assert status == 200
        assert served.stop(signal.SIGINT)[0] == 0


def test_someone_who_connects_early_waits(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """The port is bound before the heavy imports: a connection made long before the banner is answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started_s = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "securellm", "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            "PYTHONPATH": "src",
            "PATH": "",
            "STATE_DIRECTORY": str(tmp_path),
            "LOGS_DIRECTORY": str(tmp_path),
            "OLLAMA_ENABLED": "0",
        },
    ) as process:
        try:
            early = _connect(port, started_s + STARTED_WITHIN_S)
            listening_s = time.perf_counter() - started_s
            early.settimeout(STARTED_WITHIN_S)
            early.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = early.recv(100)
            ready_s = time.perf_counter() - started_s
            early.close()
        finally:
            process.terminate()
            process.communicate(timeout=STARTED_WITHIN_S)
    assert answer.startswith(b"HTTP/1.1 200")
    record_property("listening_ms", round(listening_s * 1000))
    record_property("ready_ms", round(ready_s * 1000))
    assert listening_s < 3.0


def _connect(port: int, until_s: float) -> socket.socket:
    while True:
        connection = socket.socket()
        try:
            connection.connect(("127.0.0.1", port))
            return connection
        except ConnectionRefusedError:
            connection.close()
            assert time.perf_counter() < until_s


def test_a_port_in_use(tmp_path: Path) -> None:
    """A port in use is told with the command that takes another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = _refused(tmp_path, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "address already in use. Try another: securellm serve --port 8081" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_configuration(tmp_path: Path) -> None:
    """Every mistake is told, and nothing is started or written."""
    (tmp_path / "config.toml").write_text("[server]\nprot = 1\n")
    done = _refused(tmp_path / "state", "--config", str(tmp_path / "config.toml"))
    assert done.returncode == 1
    assert "line 2: server.prot: unknown setting; did you mean server.port?" in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_route_that_leads_nowhere(tmp_path: Path) -> None:
    """An alias that no catalogue knows stops the start, as check-config would have told."""
    (tmp_path / "config.toml").write_text('[providers.vllm]\n[aliases]\nfast = "no-such-model"\n')
    done = _refused(tmp_path, "--port", "0", "--config", str(tmp_path / "config.toml"))
    assert done.returncode == 1
    assert "aliases.fast: no provider owns model no-such-model" in done.stderr


def test_the_express_lane_without_its_extensions(tmp_path: Path) -> None:
    """--lane express is an error that names the remedy, before any key is made."""
    done = _refused(tmp_path, "--lane", "express", "--port", "0", SECURELLM_NO_EXTENSIONS="1")
    assert done.returncode == 1
    assert "the express lane needs the compiled extensions" in done.stderr
    assert "securellm serve --lane reference" in done.stderr
    assert done.stdout == ""


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    """A state directory that is a file is told without a traceback."""
    (tmp_path / "state").write_text("")
    done = _refused(tmp_path / "state", "--port", "0")
    assert done.returncode == 1
    assert re.fullmatch(r"Error: .*/state\S* cannot be .*\n", done.stderr)


def test_ollama_that_answers_is_used(tmp_path: Path) -> None:
    """Without a file, and unless something was said about it, Ollama is enabled when it answers at its address."""
    with socket.create_server(("127.0.0.1", 0)) as ollama:
        environ = {"OLLAMA_ENABLED": "", "OLLAMA_BASE_URL": f"http://127.0.0.1:{ollama.getsockname()[1]}"}
        with subprocess.Popen(
            [sys.executable, "-m", "securellm", "serve", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PYTHONPATH": "src", "PATH": "", "STATE_DIRECTORY": str(tmp_path / "state"), **environ},
        ) as process:
            try:
                asked, _ = ollama.accept()
                assert asked.recv(1000).startswith(b"GET /api/version ")
                asked.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                asked.close()
                assert process.stdout is not None
                lines = [process.stdout.readline() for _ in range(3)]
            finally:
                process.kill()
                process.communicate()
    assert "providers  ollama, demo" in lines[2]


def test_the_banner_without_authentication(tmp_path: Path) -> None:
    """With authentication off no key is asked for, and none is in the curl line."""
    config = load_config(environ={"REQUIRE_AUTH": "false", "STATE_DIRECTORY": str(tmp_path)})
    banner = encode_banner(config, ["http://0.0.0.0:8080"], None)
    assert "none needed: authentication is off" in banner
    assert "authorization" not in banner
    assert "curl http://127.0.0.1:8080/v1/chat/completions" in banner


def test_the_banner_with_a_file(tmp_path: Path) -> None:
    """With a file: its path, its providers, and a model of the first provider that has one."""
    path = tmp_path / "config.toml"
    path.write_text('[providers.vllm]\nmodels = ["llama"]\n')
    config = load_config(path, environ={"STATE_DIRECTORY": str(tmp_path)})
    banner = encode_banner(config, ["https://127.0.0.1:8443"], None)
    assert f"config     {path}" in banner
    assert "providers  vllm" in banner
    assert '"model":"vllm/llama"' in banner


def test_the_banner_with_nothing_to_ask(tmp_path: Path) -> None:
    """Without any provider there is no curl line, and the next command is named."""
    path = tmp_path / "config.toml"
    path.write_text("")
    banner = encode_banner(load_config(path, environ={"STATE_DIRECTORY": "/s"}), ["http://127.0.0.1:1"], None)
    assert "none enabled; see: securellm info openai" in banner
    assert "curl" not in banner


def test_the_curl_line_is_quoted() -> None:
    """A shell reads back what was meant."""
    words = shlex.split(encode_curl("http://h:1", "p/it's", "slb_k"))
    assert words[0:2] == ["curl", "http://h:1/v1/chat/completions"]
    assert "authorization: Bearer slb_k" in words
    assert json.loads(words[-1])["model"] == "p/it's"


def test_a_key_is_shown_even_when_the_start_fails(tmp_path: Path) -> None:
    """A first key that was made before the start failed is not lost: nothing would ever show it again."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("not PEM")
    path = tmp_path / "config.toml"
    path.write_text('[providers.demo]\nenabled = true\n[security.tls]\ncert_path = "cert.pem"\nkey_path = "key.pem"\n')
    done = _refused(tmp_path / "state", "--port", "0", "--config", str(path))
    assert done.returncode == 1
    assert re.search(r"shown this once: slb_\w{8}_[\w-]{43}\n", done.stdout)
    assert re.fullmatch(r"Error: security.tls: the certificate or its key cannot be loaded: .*\n", done.stderr)


def test_a_banner_that_nobody_reads(tmp_path: Path) -> None:
    """A closed standard output does not stop the gateway."""
    with subprocess.Popen(
        [sys.executable, "-m", "securellm", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PYTHONPATH": "src",
            "PATH": "",
            "STATE_DIRECTORY": str(tmp_path),
            "LOGS_DIRECTORY": str(tmp_path),
            "OLLAMA_ENABLED": "0",
        },
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        try:
            message = ""
            while not message.startswith("serving on "):
                message = json.loads(process.stderr.readline())["message"]
            port = int(message.rpartition(":")[2])
        except BaseException:
            process.kill()  # or leaving the block would wait for it for ever
            raise
        with socket.create_connection(("127.0.0.1", port), STARTED_WITHIN_S) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        process.terminate()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(STARTED_WITHIN_S) == 0
