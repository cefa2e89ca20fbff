"""Which changes a running gateway can take."""

from pathlib import Path

import msgspec

from securellm.config import Config, Secret
from securellm.config.changes import FIXED, fixed_changes
from securellm.config.tree import Provider, Redis, Security, Server, Timeouts, Tls


def test_fixed_settings_exist() -> None:
    """Every path of the table is one of the tree, so that a misspelt one cannot let a change through."""
    config = Config()
    for path in FIXED:
        value: object = config
        for part in path:
            value = getattr(value, part)


def test_what_is_fixed_is_named() -> None:
    """All of them are named, also a secret; two equal configurations differ in nothing."""
    changed = msgspec.structs.replace(
        Config(), state_dir=Path("/x"), server=Server(port=1, workers=2), redis=Redis(url=Secret("redis://x"))
    )
    assert fixed_changes(Config(), changed) == ["state_dir", "server.port", "server.workers", "redis.url"]
    assert fixed_changes(changed, changed) == []


def test_tls_cannot_be_switched() -> None:
    """Another certificate can be taken, but plain HTTP cannot become HTTPS, nor the other way round."""
    first, second = (
        msgspec.structs.replace(Config(), security=Security(tls=Tls(cert_path=Path(name), key_path=Path("k"))))
        for name in ("/a", "/b")
    )
    assert fixed_changes(first, second) == []
    assert fixed_changes(first, Config()) == fixed_changes(Config(), first) == ["security.tls"]


def test_what_a_reload_is_for() -> None:
    """Providers, keys, limits of one connection and timers can change without a restart."""
    changed = msgspec.structs.replace(
        Config(),
        providers={"openai": Provider(enabled=True)},
        security=Security(api_keys=(Secret("k"),)),
        server=Server(max_head_bytes=4096),
        timeouts=Timeouts(idle_s=1.0),
        epoch="other",
    )
    assert fixed_changes(Config(), changed) == []
