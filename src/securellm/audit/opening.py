"""Open the audit log that a configuration asks for."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from securellm.audit.log import AuditLog, AuditSettings, open_audit_log
from securellm.config import Config


@asynccontextmanager
async def open_audit(config: Config, slot: int = 1) -> AsyncIterator[AuditLog | None]:
    """The log of a writer slot, closed at the end; None when `audit.enabled` is false. Raises ConfigError."""
    if not config.audit.enabled:
        yield None
        return
    from securellm.audit.keys import load_signing_key  # cryptography is imported only where a log is kept

    settings = AuditSettings(
        directory=config.log_dir,
        key=load_signing_key(config.state_dir, config.audit.signing_key),
        mode="relaxed" if config.audit.mode == "relaxed" else "strict",
        retention_days=config.audit.retention_days,
        commit_timeout_s=config.audit.commit_timeout_s,
        group_commit_s=config.audit.group_commit_ms / 1000,
        slot=slot,
        checkpoint_copy=config.audit.checkpoint_copy,
        longest_request_s=config.timeouts.total_s,
    )
    async with open_audit_log(settings, now_us=unix_us) as log:
        yield log


def unix_us() -> int:
    """The time, in microseconds since 1970."""
    return time.time_ns() // 1000
