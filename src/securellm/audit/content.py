"""Recorded bodies: encrypted files beside the chain, which holds their hashes, so that they can be erased.

`content/<date>/<request id>.<request|answer>` in the audit directory; the date is the UTC day in the request's id, so
whoever has the id finds the file. How it is encrypted is in `sealing`. A file appears whole or not at all, and is on
disk before its hash is handed out. Erasing is deleting the file: the chain then still says that there was one, and
verifies. Redacting and encrypting are done in threads, few at a time; the bodies that wait are those of open requests,
which the gateway bounds.
"""

import hashlib
import os
import secrets
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import trio

from securellm.audit.disk import sync_directory
from securellm.audit.entries import NO_HASHES, Hashes
from securellm.audit.files import DIRECTORY_MODE, FILE_MODE, reason_of
from securellm.audit.keyfile import load_key
from securellm.audit.redaction import redact
from securellm.chat import Endpoint
from securellm.config import Config
from securellm.config.tree import AuditContent
from securellm.errors import AuditUnavailable

Kind = Literal["request", "answer"]
KINDS: tuple[Kind, ...] = ("request", "answer")
CONTENT = "content"
KEY_FILE = "content.key"
MAX_KEPT_BYTES = 64 * 1024 * 1024  # of one body; the rest of a longer one is hashed and not kept
THREADS = 2  # that encrypt at the same time
HASHED_AT_ONCE_BYTES = 256 * 1024  # a longer body is hashed in a thread: this much takes less than a millisecond

_SETTINGS: dict[Endpoint, str] = {
    Endpoint.CHAT: "chat",
    Endpoint.COMPLETIONS: "completions",
    Endpoint.EMBEDDINGS: "embeddings",
    Endpoint.RESPONSES: "responses",
    Endpoint.MESSAGES: "messages",
    Endpoint.COUNT_TOKENS: "messages",
}


def mode_of(content: AuditContent, endpoint: Endpoint) -> str:
    """What is recorded of bodies at a door: `none`, `hash`, `redacted` or `full`."""
    setting = _SETTINGS.get(endpoint)
    own = getattr(content, setting) if setting is not None else None
    return own if own is not None else content.default


class Kept:
    """What one body leaves for the record, while it goes by."""

    __slots__ = ("_hash", "_parts", "size_bytes")

    def __init__(self, mode: str) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256() if mode != "none" else None
        self._parts: list[bytes] | None = [] if mode in ("redacted", "full") else None

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        if self._hash is None:
            return
        self._hash.update(data)
        if self._parts is not None and self.size_bytes < MAX_KEPT_BYTES:
            self._parts.append(data[: MAX_KEPT_BYTES - self.size_bytes])
        self.size_bytes += len(data)

    def sha256(self) -> str | None:
        """Of the whole body, in hex; None in mode `none`."""
        return self._hash.hexdigest() if self._hash is not None else None

    def body(self) -> bytes | None:
        """What is to be sealed; None when nothing is."""
        return b"".join(self._parts) if self._parts is not None else None


async def keep_body(mode: str, body: bytes) -> Kept:
    """A body that is there as a whole."""
    kept = Kept(mode)
    if mode != "none" and len(body) > HASHED_AT_ONCE_BYTES:
        await trio.to_thread.run_sync(kept.feed, body)
    else:
        kept.feed(body)
    return kept


class ContentStore:
    """Writes the bodies of one audit directory. Nothing is open, so there is nothing to close."""

    def __init__(self, directory: Path, key: bytes) -> None:
        self._directory = directory
        self._key = key
        self._limiter = trio.CapacityLimiter(THREADS)
        self._written = 0
        self._failed = 0

    def __repr__(self) -> str:
        return f"<ContentStore {self._directory}, {self._written} written, {self._failed} failed>"

    async def seal(self, request_id: str, kind: Kind, data: bytes, *, mode: str = "full") -> str:
        """Encrypt a body, with mode `redacted` what is left of it, and write it; the SHA-256 of the file, in hex.

        Raises AuditUnavailable when the disk does not take it. When cancelled, the file is written all the same.
        """
        try:
            digest = await trio.to_thread.run_sync(self._seal, request_id, kind, data, mode, limiter=self._limiter)
        except OSError as exc:
            self._failed += 1
            raise AuditUnavailable(f"a body cannot be recorded: {reason_of(exc)}", retry_after_s=1.0) from exc
        self._written += 1
        return digest

    async def seal_both(self, request_id: str, mode: str, request: Kept, answer: Kept) -> Hashes:
        """What the closing record says of the bodies, which are on disk then. Raises AuditUnavailable."""
        if mode == "none":
            return NO_HASHES
        sealed = [await self._seal_kept(request_id, "request", mode, request)]
        sealed.append(await self._seal_kept(request_id, "answer", mode, answer))
        return Hashes(
            request=request.sha256(),
            answer=answer.sha256() if answer.size_bytes else None,
            content=mode if any(sealed) else None,
            request_content=sealed[0],
            answer_content=sealed[1],
        )

    async def _seal_kept(self, request_id: str, kind: Kind, mode: str, kept: Kept) -> str | None:
        body = kept.body()
        return await self.seal(request_id, kind, body, mode=mode) if body else None

    def _seal(self, request_id: str, kind: Kind, data: bytes, mode: str) -> str:
        from securellm.audit.sealing import SALT_BYTES, encrypt  # not at the top: most logs hold no bodies

        path = content_path(self._directory, request_id, kind)
        text = redact(data) if mode == "redacted" else data
        sealed = encrypt(text, key=self._key, name=_name(request_id, kind), salt=secrets.token_bytes(SALT_BYTES))
        _write(path, sealed)
        return hashlib.sha256(sealed).hexdigest()


def load_content_key(config: Config, *, create: bool = True) -> bytes:
    """The key that bodies are encrypted with, made when there is none. Raises ConfigError."""
    return load_key(config.state_dir / KEY_FILE, config.audit.content_key, "audit.content_key", create=create)


def open_content_store(config: Config) -> ContentStore | None:
    """The store of a configuration; None when no door records bodies. Raises ConfigError."""
    if not config.audit.enabled or not config.audit.content.modes() & {"redacted", "full"}:
        return None
    return ContentStore(config.log_dir, load_content_key(config))


def content_path(directory: Path, request_id: str, kind: Kind) -> Path:
    """Where a body lies. Raises ValueError when the id is not one of ours."""
    parsed = uuid.UUID(request_id)
    if parsed.version != 7:
        raise ValueError("expected a UUIDv7")
    try:
        date = datetime.fromtimestamp((parsed.int >> 80) // 1000, UTC).date().isoformat()
    except (OverflowError, OSError) as exc:
        raise ValueError("expected a UUIDv7 of this age") from exc
    return directory / CONTENT / date / f"{parsed}.{kind}"


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex, as the closing record has it. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_content(path: Path, request_id: str, kind: Kind, key: bytes) -> Iterator[bytes]:
    """A recorded body, a piece at a time. Raises OSError, sealing.ContentDamaged."""
    from securellm.audit.sealing import decrypt

    with path.open("rb") as file:
        yield from decrypt(file, key=key, name=_name(request_id, kind))


def list_content(directory: Path, request_id: str) -> list[Kind]:
    """Which bodies of a request lie there. Raises ValueError."""
    return [kind for kind in KINDS if content_path(directory, request_id, kind).exists()]


def erase_content(directory: Path, request_id: str) -> list[Kind]:
    """Delete what is recorded of a request's bodies; which there were. Raises OSError, ValueError."""
    erased: list[Kind] = []
    for kind in KINDS:
        path = content_path(directory, request_id, kind)
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        sync_directory(path.parent)
        erased.append(kind)
    return erased


def _name(request_id: str, kind: Kind) -> str:
    return f"{request_id}.{kind}"


def _write(path: Path, data: bytes) -> None:
    """Put the file there, whole, and have it on disk. Raises OSError."""
    if not path.parent.is_dir():
        path.parent.parent.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        path.parent.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        sync_directory(path.parent.parent)
        sync_directory(path.parent.parent.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
