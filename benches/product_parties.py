"""Who is measured by the product's bench: the gateway on each lane, nginx, and the mock provider behind both."""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import Absent, Cores, Running, clean_environment, free_port, open_running, wait_for

MODEL = "gpt-4o-mini"  # as the mock calls it
INPUT_NUSD = 3_000  # a token, at 3 USD per million
OUTPUT_NUSD = 15_000
NGINX_PATH = "/usr/sbin"
LANES = ("reference", "express")

NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_body_buffer_size 256k;
  client_max_body_size 32m;
  tcp_nodelay on;
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  upstream mock {{
    server 127.0.0.1:{mock}; keepalive 1024; keepalive_requests 100000000; keepalive_timeout 300s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""

BASE = """
[server]
port = {port}
[providers.mock]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{mock}/v1"
models = ["{model}"]
[telemetry]
metrics_enabled = true
metrics_public = true
log_level = "warning"
"""
PRICED = '[models."mock/*"]\ninput_usd_per_mtok = 3\noutput_usd_per_mtok = 15\n'
FREE = '[models."mock/*"]\nfree = true\n'
STRICT = '[audit]\nmode = "strict"\n'
NO_AUDIT = "[audit]\nenabled = false\n"
NO_KEYS = "[security]\nrequire_auth = false\n"
NO_LIMITS = "[rate_limit]\nenabled = false\n"
# Far above the load: each is asked and none refuses.
LIMITS = """
[rate_limit]
enabled = true
mock_rpm = 1_000_000_000
mock_burst = 1_000_000
[rate_limit.per_key]
rpm = 1_000_000_000
burst = 1_000_000
tpm = 1_000_000_000_000
concurrent = 100_000
[rate_limit.per_model]
rpm = 1_000_000_000
burst = 1_000_000
"""
BUDGETS = "[budgets.per_key]\nusd = 1_000_000_000\n"


@dataclass(frozen=True)
class Features:
    """What a gateway of a bench has switched on; all of it is what the product promises its figures for."""

    keys: bool = True
    limits: bool = True
    budgets: bool = True
    audit: bool = True

    def config(self, port: int, mock_port: int) -> str:
        """The configuration file."""
        parts = [BASE.format(port=port, mock=mock_port, model=MODEL), PRICED if self.budgets else FREE]
        parts.append(STRICT if self.audit else NO_AUDIT)
        parts.append("" if self.keys else NO_KEYS)
        parts.append(LIMITS if self.limits else NO_LIMITS)
        parts.append(BUDGETS if self.budgets else "")
        return "".join(parts)


@dataclass
class Tally:
    """How many good answers a party has given since it was started."""

    whole: int = 0
    streamed: dict[int, int] = field(default_factory=dict)  # chunks of the stream -> how many

    def add(self, answers: int, chunks: int | None) -> None:
        """Count answers of one kind."""
        if chunks is None:
            self.whole += answers
        else:
            self.streamed[chunks] = self.streamed.get(chunks, 0) + answers


@dataclass
class Party:
    """One server under load."""

    name: str
    port: int
    model: str
    running: Running | None = None  # once it is started
    headers: dict[str, str] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)


@dataclass
class Gateway(Party):
    """A gateway under load, with what its books are checked by."""

    folder: Path = Path()
    features: Features = Features()
    key_id: str = ""

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the product with this gateway's configuration."""
        return _securellm(self.folder, *arguments)


class Mock(Party):
    """The provider: it can be told what to answer, and counts."""

    def control(self, **settings: int) -> None:
        """Set chunks, interval_us, delay_us, reset."""
        self._get("/__ctl?" + "&".join(f"{name}={value}" for name, value in settings.items()))

    def statistics(self) -> dict[str, int]:
        """What it was asked since the last reset."""
        counted: dict[str, int] = json.loads(self._get("/__stats"))
        return counted

    def _get(self, path: str) -> bytes:
        return fetch(self.port, path)


def fetch(port: int, path: str, headers: dict[str, str] | None = None) -> bytes:
    """The body of a GET that must be answered 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise AssertionError(f"{path}: {answer.status} {body[:300]!r}")
    return body


@contextlib.contextmanager
def open_mock(program: Path, folder: Path, cores: Cores) -> Iterator[Mock]:
    """The mock provider."""
    port = free_port()
    with open_running([program, "-p", str(port)], cores.loading, folder / "mock.log", {}) as running:
        wait_for(running, port, "/health")
        yield Mock("direct", port, MODEL, running)


@contextlib.contextmanager
def open_nginx(folder: Path, mock: Mock, cores: Cores) -> Iterator[Party]:
    """nginx as a plain reverse proxy that buffers nothing. Raises Absent where it is not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{NGINX_PATH}")
    if program is None:
        raise Absent("nginx is not installed, so there are no ratios to it")
    port = free_port()
    home = folder / "nginx"
    home.mkdir()
    config = home / "nginx.conf"
    config.write_text(NGINX.format(folder=home, mock=mock.port, port=port))
    with open_running([program, "-c", config, "-p", home], cores.measured, home / "log", {}) as running:
        wait_for(running, port, "/health")
        yield Party("nginx", port, MODEL, running)


def prepare_gateway(name: str, folder: Path, mock: Mock, features: Features) -> Gateway:
    """A configuration and a stored key for a gateway; nothing is started."""
    home = folder / name
    home.mkdir()
    port = free_port()
    gateway = Gateway(name, port, f"mock/{MODEL}", folder=home, features=features)
    (home / "config.toml").write_text(features.config(port, mock.port))
    if features.keys:
        made = json.loads(gateway.command("keys", "create", "--name", "bench", "--json").stdout)
        gateway.headers = {"authorization": f"Bearer {made['key']}"}
        gateway.key_id = made["id"]
    return gateway


@contextlib.contextmanager
def open_gateway(gateway: Gateway, lane: str, core: int) -> Iterator[Gateway]:
    """Start it. Raises Absent when this version or this machine has no such lane."""
    command = [sys.executable, "-m", "securellm", "serve", "--lane", lane]
    with open_running(command, core, gateway.folder / "log.txt", _environment(gateway.folder)) as running:
        try:
            wait_for(running, gateway.port, "/readyz")
        except AssertionError as exc:
            if lane == "express" and "express lane" in str(exc):
                raise Absent(f"the express lane: {running.output().strip().splitlines()[-1]}") from exc
            raise
        gateway.running = running
        yield gateway


def _securellm(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "securellm", *arguments],
        env=clean_environment(_environment(folder)),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"securellm {' '.join(arguments)}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    return done


def _environment(folder: Path) -> dict[str, str]:
    return {
        "STATE_DIRECTORY": str(folder / "state"),
        "LOGS_DIRECTORY": str(folder / "audit"),
        "CONFIG_PATH": str(folder / "config.toml"),
    }


def flags(values: dict[str, Any]) -> list[str]:
    """Options of a program as a list of words."""
    return [word for name, value in values.items() for word in (f"-{name}", str(value))]
