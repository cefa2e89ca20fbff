"""Recorded bodies: where they lie, who may read them, what the record says of them, and that they can be erased."""

import errno
import hashlib
from pathlib import Path

import msgspec
import pytest
import trio

from securellm.audit.content import (
    HASHED_AT_ONCE_BYTES,
    MAX_KEPT_BYTES,
    ContentStore,
    Kept,
    content_path,
    erase_content,
    hash_file,
    keep_body,
    load_content_key,
    mode_of,
    open_content_store,
    read_content,
)
from securellm.audit.sealing import ContentDamaged
from securellm.chat import Endpoint
from securellm.config.tree import Audit, AuditContent, Config
from securellm.errors import AuditUnavailable, ConfigError
from securellm.ids import encode_uuid7

ID = encode_uuid7(1_795_348_800_000, bytes(10))  # 2026-11-22T12:00:00Z
KEY = bytes(range(32))


def _read(directory: Path, kind: str = "request", key: bytes = KEY) -> bytes:
    return b"".join(read_content(content_path(directory, ID, kind), ID, kind, key))


async def test_sealing(tmp_path: Path) -> None:
    """A body lies encrypted under the day and the id of its request, for its owner alone; its hash is the file's."""
    store = ContentStore(tmp_path, KEY)
    with trio.fail_after(10):
        digest = await store.seal(ID, "request", b"a prompt")
    path = tmp_path / "content" / "2026-11-22" / f"{ID}.request"
    assert path == content_path(tmp_path, ID, "request")
    assert hash_file(path) == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert b"prompt" not in path.read_bytes()
    assert _read(tmp_path) == b"a prompt"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {directory.stat().st_mode & 0o777 for directory in (path.parent, path.parent.parent)} == {0o700}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


async def test_redacted(tmp_path: Path) -> None:
    """In mode `redacted` the secret is not even in the encrypted file."""
    with trio.fail_after(10):
        await ContentStore(tmp_path, KEY).seal(ID, "answer", b"call sk-0123456789abcdef0123", mode="redacted")
    assert _read(tmp_path, "answer") == b"call [redacted:key]"


@pytest.mark.parametrize("mode", ["none", "hash", "redacted", "full"])
async def test_what_the_record_says(tmp_path: Path, mode: str) -> None:
    """Each mode adds its own: hashes of the bodies as they were, then hashes of the encrypted files."""
    request, answer = await keep_body(mode, b"x" * (HASHED_AT_ONCE_BYTES + 1)), Kept(mode)
    for chunk in (b"one", b"", b"two"):
        answer.feed(chunk)
    with trio.fail_after(10):
        hashes = await ContentStore(tmp_path, KEY).seal_both(ID, mode, request, answer)
    hashed = mode != "none"
    assert hashes.answer == (hashlib.sha256(b"onetwo").hexdigest() if hashed else None)
    assert (hashes.request is not None) == hashed
    recorded = mode in ("redacted", "full")
    assert hashes.content == (mode if recorded else None)
    assert (tmp_path / "content").exists() == recorded
    if recorded:
        assert hashes.answer_content == hash_file(content_path(tmp_path, ID, "answer"))
        assert _read(tmp_path, "answer") == b"onetwo"


async def test_no_answer_no_file(tmp_path: Path) -> None:
    """A request that was never answered has the body of the request only."""
    with trio.fail_after(10):
        hashes = await ContentStore(tmp_path, KEY).seal_both(ID, "full", await keep_body("full", b"x"), Kept("full"))
    assert (hashes.answer, hashes.answer_content) == (None, None)
    assert hashes.request_content is not None
    assert not content_path(tmp_path, ID, "answer").exists()


def test_very_long_bodies() -> None:
    """What is kept of a body is bounded; its hash is of all of it."""
    kept = Kept("full")
    block = bytes(MAX_KEPT_BYTES // 4)
    for _ in range(5):
        kept.feed(block)
    assert len(kept.body() or b"") == MAX_KEPT_BYTES
    assert kept.sha256() == hashlib.sha256(block * 5).hexdigest()


async def test_a_disk_that_refuses(tmp_path: Path) -> None:
    """The refusal is the log's own, and nothing half is left."""
    (tmp_path / "content").write_bytes(b"in the way")
    with trio.fail_after(10), pytest.raises(AuditUnavailable, match="cannot be recorded") as raised:
        await ContentStore(tmp_path, KEY).seal(ID, "request", b"x")
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno in (errno.EEXIST, errno.ENOTDIR)


async def test_erasing(tmp_path: Path) -> None:
    """Both bodies go, and only those of this request; a second time there is nothing to erase."""
    other = encode_uuid7(1_795_348_800_000, bytes([1]) * 10)
    store = ContentStore(tmp_path, KEY)
    with trio.fail_after(10):
        for request_id, kind in ((ID, "request"), (ID, "answer"), (other, "request")):
            await store.seal(request_id, kind, b"x")
    assert erase_content(tmp_path, ID) == ["request", "answer"]
    assert erase_content(tmp_path, ID) == []
    assert [path.name for path in (tmp_path / "content" / "2026-11-22").iterdir()] == [f"{other}.request"]


@pytest.mark.parametrize("request_id", ["../../etc/passwd", "", "x" * 36, "0d7e0f3a-2f43-4b0a-9b0e-0123456789ab"])
def test_only_ids_of_ours_are_paths(tmp_path: Path, request_id: str) -> None:
    """What is no UUIDv7 names no file, so no path can be smuggled in."""
    with pytest.raises(ValueError, match=r"UUID"):
        erase_content(tmp_path, request_id)


async def test_another_key(tmp_path: Path) -> None:
    """Without the key there is nothing to read."""
    with trio.fail_after(10):
        await ContentStore(tmp_path, KEY).seal(ID, "request", b"x")
    with pytest.raises(ContentDamaged):
        _read(tmp_path, key=bytes(32))


def test_modes_of_doors() -> None:
    """A door has its own mode or the default; counting tokens goes with messages."""
    content = AuditContent(default="hash", chat="full", messages="none")
    assert [mode_of(content, door) for door in (Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.COUNT_TOKENS)] == [
        "full",
        "hash",
        "none",
    ]
    assert mode_of(content, Endpoint.SYNC) == "hash"


def test_the_key_is_made_when_needed(tmp_path: Path) -> None:
    """A configuration that records no bodies has no content key; one that does has a private file."""
    plain = Config(state_dir=tmp_path, log_dir=tmp_path / "log")
    assert open_content_store(plain) is None
    hashing = msgspec.structs.replace(plain, audit=Audit(content=AuditContent("hash")))
    assert open_content_store(hashing) is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError):
        load_content_key(plain, create=False)
    full = msgspec.structs.replace(plain, audit=Audit(content=AuditContent("none", responses="full")))
    assert open_content_store(full) is not None
    assert (tmp_path / "content.key").stat().st_mode & 0o777 == 0o600
    assert load_content_key(full) == load_content_key(full, create=False)
