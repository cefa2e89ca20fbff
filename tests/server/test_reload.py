"""SIGHUP to a process that serves alone."""

import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from rig.edge import EdgeRuntime, edge_config
from rig.raw_client import encode_request, fetch, open_client
from rig.waiting import until_true
from securellm.config import Config
from securellm.config.tree import Security, Server, Tls
from securellm.errors import ConfigError
from securellm.server import bind_sockets, serve


@asynccontextmanager
async def _serving(runtime: EdgeRuntime, load: Callable[[], Config]) -> AsyncIterator[str]:
    async def run(*, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        await serve(runtime, sockets=bind_sockets(runtime.config), load=load, task_status=task_status)

    async with trio.open_nursery() as nursery:
        urls = await nursery.start(run)
        yield urls[0]
        nursery.cancel_scope.cancel()


def _with_head(config: Config, max_head_bytes: int) -> Config:
    server = msgspec.structs.replace(config.server, max_head_bytes=max_head_bytes)
    return msgspec.structs.replace(config, server=server, epoch=f"head {max_head_bytes}")


async def test_new_connections_have_the_new_limits() -> None:
    """After SIGHUP a connection is held to the new configuration, one that was open goes on under its own."""
    runtime = EdgeRuntime(edge_config(head_timeout_s=10))
    wanted = _with_head(runtime.config, 1024)
    long_head = {"x-long": "x" * 4000}
    with trio.fail_after(20):
        async with _serving(runtime, lambda: wanted) as url, open_client(url) as before:
            await before.send(encode_request("GET", "/livez"))
            assert (await before.read_response()).status == 200
            signal.raise_signal(signal.SIGHUP)
            await until_true(lambda: runtime.config is wanted)
            assert (await fetch(url, "GET", "/livez", None, long_head)).status == 431
            await before.send(encode_request("GET", "/livez", None, long_head))
            assert (await before.read_response()).status == 200
    assert runtime.ledger.events == ["prepared", "config_reloaded"]


def _make_certificate(folder: Path, name: str) -> Tls:
    tls = Tls(cert_path=folder / "cert.pem", key_path=folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(
        [*command, "-keyout", str(tls.key_path), "-out", str(tls.cert_path)], check=True, capture_output=True
    )
    return tls


async def _certificate_of(url: str, server_name: str | None) -> bytes:
    """The certificate that is shown in a handshake, as DER; with or without a name that is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tcp = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    async with trio.SSLStream(tcp, context, server_hostname=server_name, https_compatible=True) as stream:
        await stream.do_handshake()
        found: bytes = stream.getpeercert(binary_form=True)
        return found


async def test_a_renewed_certificate_is_taken(tmp_path: Path) -> None:
    """The same paths with another certificate: handshakes after the reload show it; a broken one is refused."""
    tls = _make_certificate(tmp_path, "old")
    config = msgspec.structs.replace(edge_config(head_timeout_s=10), security=Security(tls=tls))
    runtime = EdgeRuntime(config)
    with trio.fail_after(30):
        async with _serving(runtime, lambda: msgspec.structs.replace(config, epoch="new")) as url:
            old = await _certificate_of(url, "localhost")
            (tmp_path / "cert.pem").write_text("broken")
            signal.raise_signal(signal.SIGHUP)
            await until_true(lambda: runtime.ledger.events == ["config_reload_refused"])
            assert await _certificate_of(url, "localhost") == old
            _make_certificate(tmp_path, "new")
            signal.raise_signal(signal.SIGHUP)
            await until_true(lambda: runtime.config.epoch == "new")
            new = await _certificate_of(url, "localhost")
            assert new != old
            assert await _certificate_of(url, None) == new
            assert new == ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())


async def test_a_refused_reload_goes_on_with_the_old() -> None:
    """What cannot be read, and what needs a restart, changes nothing; the next SIGHUP is obeyed."""
    runtime = EdgeRuntime(edge_config())
    old = runtime.config
    wanted = _with_head(old, 2048)

    def unreadable() -> Config:
        raise ConfigError("1 mistake in the configuration")

    answers = [unreadable, lambda: msgspec.structs.replace(old, server=Server(port=1)), lambda: wanted]
    with trio.fail_after(20):
        async with _serving(runtime, lambda: answers.pop(0)()) as url:
            for refusals in (1, 2):
                signal.raise_signal(signal.SIGHUP)
                await until_true(lambda refusals=refusals: len(runtime.ledger.events) == refusals)
                assert runtime.config is old
                assert (await fetch(url, "GET", "/livez")).status == 200
            signal.raise_signal(signal.SIGHUP)
            await until_true(lambda: runtime.config is wanted)
    assert runtime.ledger.events == ["config_reload_refused"] * 2 + ["prepared", "config_reloaded"]
