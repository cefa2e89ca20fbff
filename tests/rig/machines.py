"""Machines of a test's own: network namespaces, each with a link for callers, one for Redis and one for the store.

A hub has the servers; a machine has a gateway. Everything is inside of the namespaces: nothing of the network of the
machine that the tests run on is touched. A link that is cut loses everything without a word, as a pulled cable does.
"""

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import trio

from rig.administration import Administrator
from rig.fake_provider import FakeProvider
from rig.postgres_server import PostgresServer
from rig.raw_client import RawClient, Response
from rig.redis_server import RedisServer
from rig.toml import encode_toml

CALLERS, REDIS, STORE = "callers", "redis", "store"
LINKS = (CALLERS, REDIS, STORE)
GATEWAY_PORT, PROVIDER_PORT = 8080, 9000  # whatever else listens on them is in other networks
MAX_STALE_S = 4
LANE = os.environ.get("SECURELLM_TEST_LANE", "auto")  # in which gateways serve; as users have it unless said otherwise
OUTPUT_NUSD = 15_000  # a token of the model `dear`
_STARTED_S = 60.0
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


class Namespace:
    """A network of its own, with loopback."""

    def __init__(self, name: str) -> None:
        self.name = name
        run_ip("netns", "add", name)
        run_ip("-n", name, "link", "set", "lo", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in it: the sockets it makes and the processes it starts belong there. Nothing may wait."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.name}") as here:
            _set_network(here.fileno())
            try:
                yield
            finally:
                _set_network(before.fileno())

    def delete(self) -> None:
        """Take it away, with its links."""
        run_ip("netns", "del", self.name)


class Machine:
    """One machine with its gateway; `number` is part of its addresses."""

    def __init__(self, number: int, hub: Namespace, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.number = number
        self.namespace = Namespace(f"{hub.name}-{number}")
        self._environ: dict[str, str] = {}
        self._gateway: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        for place, link in enumerate(LINKS):
            ours, theirs = f"{link}{number}", link
            run_ip(*f"-n {hub.name} link add {ours} type veth peer name {theirs} netns {self.namespace.name}".split())
            for name, device, end in ((hub.name, ours, 1), (self.namespace.name, theirs, 2)):
                run_ip("-n", name, "address", "add", f"10.91.{number}{place}.{end}/24", "dev", device)
                run_ip("-n", name, "link", "set", device, "up")

    def address_of(self, link: str) -> str:
        """Where the hub is over that link, as this machine sees it."""
        return f"10.91.{self.number}{LINKS.index(link)}.1"

    @property
    def host(self) -> str:
        """Where its gateway listens."""
        return f"10.91.{self.number}{LINKS.index(CALLERS)}.2"

    def cut(self, link: str) -> None:
        """Pull the cable: what is sent gets lost, and nobody is told."""
        run_ip("-n", self.hub.name, "link", "set", f"{link}{self.number}", "down")

    def mend(self, link: str) -> None:
        """Plug it in again."""
        run_ip("-n", self.hub.name, "link", "set", f"{link}{self.number}", "up")

    @contextlib.asynccontextmanager
    async def open_client(self) -> AsyncIterator[RawClient]:
        """A caller on the hub, on a connection of its own."""
        with self.hub.entered():
            peer = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with peer:
            await peer.connect((self.host, GATEWAY_PORT))
            yield RawClient(peer)

    async def get(self, target: str, key: str) -> Response:
        """One GET with a key."""
        async with self.open_client() as client:
            await client.request("GET", target, None, {"authorization": f"Bearer {key}"})
            return await client.read_response()

    def administrator(self, key: str) -> Administrator:
        """Whoever administers this machine's gateway."""
        return Administrator(self.folder / "state" / "admin.sock", key)

    def configure(self, sections: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """The settings of its gateway, and its environment."""
        self.rewrite(sections)
        ours = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        self._environ = {
            **ours,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"),
            "STATE_DIRECTORY": str(self.folder / "state"),
            "LOGS_DIRECTORY": str(self.folder / "log"),
            "CONFIG_PATH": str(self.folder / "config.toml"),
            **environ,
        }

    def rewrite(self, sections: Mapping[str, Any]) -> None:
        """The file that `reload` reads."""
        (self.folder / "config.toml").write_text(encode_toml(sections))

    def start(self) -> None:
        """Start its gateway; `wait_until_answered` is next."""
        with (self.folder / "output").open("ab") as output:
            command = self._command("serve", "--host", self.host, "--port", str(GATEWAY_PORT), "--lane", LANE)
            self._gateway = subprocess.Popen(
                command, env=self._environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def wait_until_answered(self, target: str, key: str = "") -> None:
        """Return when its gateway answers 200 there."""
        assert self._gateway is not None
        until_s = time.monotonic() + _STARTED_S
        while True:
            asking = http.client.HTTPConnection(self.host, GATEWAY_PORT, timeout=5)
            with contextlib.closing(asking), contextlib.suppress(OSError, http.client.HTTPException):
                with self.hub.entered():
                    asking.request("GET", target, headers={"authorization": f"Bearer {key}"})
                if asking.getresponse().status == 200:
                    return
            assert self._gateway.poll() is None, self.output
            assert time.monotonic() < until_s, self.output
            time.sleep(0.05)

    def reload(self) -> None:
        """SIGHUP: take the settings that are in the file now."""
        assert self._gateway is not None
        self._gateway.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End its gateway."""
        gateway, self._gateway = self._gateway, None
        if gateway is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            gateway.send_signal(signal.SIGTERM)
            gateway.wait(5)
        gateway.kill()
        gateway.wait(10)

    def command(self, *words: str) -> bytes:
        """What a `securellm` command says that is given on this machine."""
        done = subprocess.run(
            self._command(*words), env=self._environ, check=True, capture_output=True, timeout=_STARTED_S
        )
        return done.stdout

    @property
    def output(self) -> str:
        """What its gateway has printed and logged."""
        return (self.folder / "output").read_text(errors="replace")

    def _command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace.name, sys.executable, "-m", "securellm", *words]


class Site:
    """Two machines and the servers that they share, as a company would run them."""

    def __init__(self, hub: Namespace, machines: tuple[Machine, Machine], redis: RedisServer, store: PostgresServer):
        self.hub = hub
        self.machines = machines
        self.admin_key = ""
        with hub.entered():
            store.create_database("gateway")
        for machine in machines:
            at = {
                "OPENAI_KEY": "sk-x",
                "PEPPER": "a pepper that the machines share",
                "REDIS_URL": f"redis://{machine.address_of(REDIS)}:{redis.port}",
                "DATABASE_URL": store.url("gateway", machine.address_of(STORE)).reveal(),
            }
            machine.configure(self.sections(machine), at)

    def sections(self, machine: Machine, **more: Any) -> dict[str, Any]:
        """The settings of a machine's gateway: the model `free` costs nothing, of `dear` the output alone costs."""
        openai = {
            "enabled": True,
            "api_key": "env:OPENAI_KEY",
            "base_url": f"http://{machine.address_of(CALLERS)}:{PROVIDER_PORT}",
            "max_retries": 0,
        }
        return {
            "providers": {"openai": openai},
            "models": {
                "openai/free": {"free": True},
                "openai/dear": {"input_usd_per_mtok": 0, "output_usd_per_mtok": OUTPUT_NUSD // 1000},
            },
            "rate_limit": {"openai_rpm": 0, **more},
            "database": {"max_stale_s": MAX_STALE_S},
            "security": {"pepper": "env:PEPPER"},
            "telemetry": {"metrics_public": True},
        }

    def start(self) -> None:
        """Start both gateways and make the administrator's key."""
        for machine in self.machines:
            machine.start()
        for machine in self.machines:
            machine.wait_until_answered("/readyz")
        self.admin_key = json.loads(self.machines[0].command("keys", "create", "--role", "admin", "--json"))["key"]
        for machine in self.machines:
            machine.wait_until_answered("/v1/models", self.admin_key)

    @contextlib.asynccontextmanager
    async def provider(self) -> AsyncIterator[FakeProvider]:
        """A fake provider on the hub, for both."""
        fake = FakeProvider(["free", "dear"])
        with self.hub.entered():
            listener = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await listener.bind(("0.0.0.0", PROVIDER_PORT))
            listener.listen(1024)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fake.serve, listener)
                yield fake
                nursery.cancel_scope.cancel()


@contextlib.contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """Everything runs inside the block."""
    with contextlib.ExitStack() as closing:
        hub = Namespace(f"slb{os.getpid()}")
        closing.callback(hub.delete)
        machines = []
        for number in (1, 2):
            machine = Machine(number, hub, folder / f"machine{number}")
            closing.callback(machine.namespace.delete)
            closing.callback(machine.stop)
            machines.append(machine)
        with hub.entered():
            redis = RedisServer(folder, "--bind", "0.0.0.0", "--protected-mode", "no")
            closing.callback(redis.kill)
            redis.start()
            store = PostgresServer(networked=True)
            closing.callback(store.close)
            store.start()
        site = Site(hub, (machines[0], machines[1]), redis, store)
        site.start()
        yield site


def can_make_namespaces() -> bool:
    """Whether this user may; it takes root."""
    name = f"slb{os.getpid()}-probe"
    try:
        run_ip("netns", "add", name)
        run_ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def run_ip(*words: str) -> None:
    """One command of `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def _set_network(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")
