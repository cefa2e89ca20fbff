"""The life of `<state_dir>/admin.sock`: its owner's alone, there while the gateway is, never taken from another."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from rig.administration import Administrator, make_key, open_administration, socket_of
from rig.gateway import RunningGateway
from securellm.config.tree import Admin, Config
from securellm.errors import ConfigError
from securellm.web.administration.sockets import open_admin_sockets


@pytest.fixture(autouse=True)
def lax_umask() -> Iterator[None]:
    """Whatever the process lets others do with new files."""
    before = os.umask(0)
    yield
    os.umask(before)


def _config(folder: Path, bind: str | None = None) -> Config:
    return Config(state_dir=folder, admin=Admin(bind))


async def test_it_is_its_owners_alone_and_ends_with_the_gateway(gateway: RunningGateway) -> None:
    """Mode 0600 whatever the umask, a socket that answers, and no file once the gateway has ended."""
    with trio.fail_after(20):
        admin = await open_administration(gateway)
        path = socket_of(gateway)
        mode = path.lstat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        assert (await admin.ask("GET", "/api/admin/workers")).status == 200
        await gateway.stop()
        assert not path.exists()


def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    """A socket behind which nobody listens is no reason not to start; another one stands in its place."""
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(tmp_path / "admin.sock"))
    left.listen()
    left.close()
    with open_admin_sockets(_config(tmp_path), first=True) as sockets:
        assert _answers(tmp_path / "admin.sock")
        assert stat.S_IMODE((tmp_path / "admin.sock").lstat().st_mode) == 0o600
        assert len(sockets) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_living_gateways_socket_is_left_alone(tmp_path: Path) -> None:
    """While somebody listens there a second gateway is refused, and the first one's goes on being reached."""
    with open_admin_sockets(_config(tmp_path), first=True):
        with pytest.raises(ConfigError, match="another gateway"), open_admin_sockets(_config(tmp_path), first=True):
            pass
        assert _answers(tmp_path / "admin.sock")


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """A file, or a link that leads to a socket, is neither removed nor followed."""
    path = tmp_path / "admin.sock"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="no socket"), open_admin_sockets(_config(tmp_path), first=True):
        pass
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no socket"), open_admin_sockets(_config(tmp_path), first=True):
        pass
    assert path.is_symlink()


def test_another_ones_file_is_not_removed_at_the_end(tmp_path: Path) -> None:
    """Where our file was taken away and another one put there, that one stays."""
    path = tmp_path / "admin.sock"
    with open_admin_sockets(_config(tmp_path), first=True):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_long_directory(tmp_path: Path) -> None:
    """A state directory whose path is longer than a Unix socket's may be has its socket all the same."""
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    with open_admin_sockets(_config(folder), first=True):
        assert stat.S_ISSOCK((folder / "admin.sock").lstat().st_mode)
    assert list(folder.iterdir()) == []


def test_only_the_first_worker_has_sockets(tmp_path: Path) -> None:
    """Other workers open neither the file nor a port."""
    with open_admin_sockets(_config(tmp_path, "127.0.0.1:0"), first=False) as sockets:
        assert sockets == []
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
def test_a_port_beside_the_file(tmp_path: Path, bind: str) -> None:
    """With [admin] bind there is a port as well; one that is taken is told by its name."""
    with open_admin_sockets(_config(tmp_path / "one", bind), first=True) as (tcp, local):
        assert (tcp.family in (socket.AF_INET, socket.AF_INET6), local.family) == (True, socket.AF_UNIX)
        port = tcp.getsockname()[1]
        taken = bind.replace(":0", f":{port}") if bind.startswith("127") else f"[::1]:{port}"
        with (
            pytest.raises(ConfigError, match=str(port)),
            open_admin_sockets(_config(tmp_path / "two", taken), first=True),
        ):
            pass
    assert not (tmp_path / "two" / "admin.sock").exists()


async def test_without_bind_there_is_no_port(gateway: RunningGateway, serving: Any, provider: Any) -> None:
    """Administration is on TCP only where it was asked for, and there with the same keys."""
    with trio.fail_after(20):
        assert gateway.admin_port is None
        bound = await serving({"openai": provider}, admin={"bind": "127.0.0.1:0"})
        there = Administrator(socket_of(bound), await make_key(bound, "admin"), f"http://127.0.0.1:{bound.admin_port}")
        assert (await there.ask("GET", "/api/admin/keys")).status == 200
        assert {one.client_ip for one in bound.settlements} == {"127.0.0.1"}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        return True
