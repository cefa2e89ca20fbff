"""Which differences between two configurations a running gateway cannot take. Pure."""

from securellm.config.tree import Config

# What is opened once, at the start, and held: sockets, files, stores, memory that several processes share.
FIXED: tuple[tuple[str, ...], ...] = (
    ("state_dir",),
    ("log_dir",),
    ("server", "host"),
    ("server", "port"),
    ("server", "workers"),
    ("server", "max_connections"),
    ("database", "url"),
    ("database", "max_connections"),
    ("redis", "url"),
    ("redis", "connect_timeout_secs"),
    ("rate_limit", "store"),
    ("cache", "enabled"),
    ("cache", "store"),
    ("cache", "max_bytes"),
    ("admin", "bind"),
    ("audit", "enabled"),
    ("audit", "mode"),
    ("audit", "log_path"),
    ("audit", "retention_days"),
    ("audit", "commit_timeout_s"),
    ("audit", "group_commit_ms"),
    ("audit", "checkpoint_copy"),
    ("audit", "signing_key"),
    ("security", "pepper"),
)


def fixed_changes(before: Config, after: Config) -> list[str]:
    """The dotted names of the settings that differ and need a restart."""
    changes = [".".join(path) for path in FIXED if _at(before, path) != _at(after, path)]
    had, has = (config.security.tls.cert_path is not None for config in (before, after))
    if had != has:  # another certificate can be taken, another protocol cannot
        changes.append("security.tls")
    return changes


def _at(config: Config, path: tuple[str, ...]) -> object:
    value: object = config
    for part in path:
        value = getattr(value, part)
    return value
