"""Taking a configuration while serving, in the one process of a test."""

from pathlib import Path

import msgspec
import trio

from rig.edge import EdgeRuntime, edge_config
from securellm.config import Config
from securellm.errors import ConfigError
from securellm.workers.reloading import Reloader


def _changed(config: Config, epoch: str = "new") -> Config:
    return msgspec.structs.replace(config, epoch=epoch)


async def test_both_halves() -> None:
    """Nothing is in force before the commit; then it is, and the books say so."""
    with trio.fail_after(5):
        runtime = EdgeRuntime(edge_config())
        wanted = _changed(runtime.config)
        reloader = Reloader(runtime, lambda: wanted)
        assert await reloader.prepare("new") == ""
        assert runtime.config.epoch == ""
        reloader.commit()
        assert runtime.config is wanted
        assert runtime.ledger.events == ["prepared", "config_reloaded"]


async def test_what_was_prepared_is_given_up() -> None:
    """An abort, and a second preparation, close what was prepared; only a reason is written down."""
    with trio.fail_after(5):
        runtime = EdgeRuntime(edge_config())
        reloader = Reloader(runtime, lambda: _changed(runtime.config))
        await reloader.prepare()
        await reloader.prepare()
        await reloader.abort()
        await reloader.abort("another worker could not")
        assert runtime.ledger.events == ["prepared", "given up", "prepared", "given up", "config_reload_refused"]
        assert runtime.config.epoch == ""


async def test_reasons_to_refuse() -> None:
    """A wrong file, another epoch than the supervisor's, a setting that is fixed, a runtime that cannot, a defect."""

    def wrong() -> Config:
        raise ConfigError("2 mistakes in the configuration")

    def defective() -> Config:
        raise RuntimeError("a defect")

    def moved() -> Config:
        return msgspec.structs.replace(edge_config(port=1), state_dir=Path("/x"))

    with trio.fail_after(5):
        runtime = EdgeRuntime(edge_config())
        assert await Reloader(runtime, wrong).prepare() == "2 mistakes in the configuration"
        assert "changed while it was read" in await Reloader(runtime, lambda: _changed(runtime.config)).prepare("other")
        assert await Reloader(runtime, moved).prepare() == "a restart is needed to change state_dir, server.port"
        assert "preparing it failed" in await Reloader(runtime, defective).prepare()
        runtime.refusal = ConfigError("no such directory")
        assert await Reloader(runtime, lambda: _changed(runtime.config)).prepare() == "no such directory"
        assert runtime.ledger.events == []
