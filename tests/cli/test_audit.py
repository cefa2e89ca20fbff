"""`securellm audit`: what it finds, shows, follows, writes and deletes, over real files, with and without an index."""

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from rig.audit_days import DAY, Slot, pair, raw, record
from securellm.accounts.database import open_database
from securellm.audit.content import ContentStore, content_path, hash_file
from securellm.audit.files import SlotLock
from securellm.cli.group import cli
from securellm.ids import encode_uuid7

NOON_MS = 1_795_348_800_000  # 2026-11-22T12:00:00Z
ID = encode_uuid7(NOON_MS, bytes(10))
KEY = bytes(range(32))
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    path = tmp_path / "logs"
    path.mkdir()
    return path


@pytest.fixture
def config(tmp_path: Path, logs: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    for name in ("audit.key", "content.key"):
        (state / name).write_text(KEY.hex())
        (state / name).chmod(0o600)
    path = tmp_path / "config.toml"
    path.write_text(f'state_dir = "{state}"\n[audit]\nlog_path = "{logs}"\n')
    return path


@pytest.fixture
def slot(logs: Path) -> Slot:
    """A log of two requests, an event, and a request that is open."""
    slot = Slot(logs)
    slot.write(
        *pair(
            "10:00:00",
            "a",
            ends="10:00:01.500000Z",
            user_id="alice",
            provider="openai",
            model="gpt",
            total_tokens=12,
            cost_nusd=1_500,
            estimated_cost_usd=raw("0.0000015"),
            duration_ms=raw("1500.25"),
            http_status=200,
        ),
        *pair("11:00:00", "b", user_id="bob", provider="demo", model="echo", status="failed", http_status=502),
        record("11:30:00", "security_event", action="authentication_failed", count=3, client_ip="10.0.0.9"),
        record("12:00:00", "request_received", ID, user_id="alice", requested_model="=cmd()\x1b[2J"),
    )
    return slot


def _run(config: Path, *arguments: object) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, arguments), "--config", str(config)])


def _ids(result: Result) -> list[str | None]:
    assert result.exit_code == 0, result.output
    return [json.loads(line).get("request_id") for line in result.stdout.splitlines()]


def _make_store(config: Path) -> Path:
    path = config.parent / "state" / "models.db"
    open_database(path, 0).close()
    return path


@pytest.mark.parametrize("indexed", [False, True])
def test_query(config: Path, slot: Slot, indexed: bool) -> None:
    """The same answers from the index as from the files: ends and events, newest last, by every filter."""
    if indexed:
        _make_store(config)
    assert _ids(_run(config, "query", "--json")) == ["a", "b", None]
    assert _ids(_run(config, "query", "--json", "--all")) == ["a", "a", "b", "b", None, ID]
    assert _ids(_run(config, "query", "--json", "--limit", 2)) == ["b", None]
    assert _ids(_run(config, "query", "--json", "--user", "alice", "--all")) == ["a", "a", ID]
    assert _ids(_run(config, "query", "--json", "--status", "failed", "--status", "timeout")) == ["b"]
    assert _ids(_run(config, "query", "--json", "--event", "request_received")) == ["a", "b", ID]
    assert _ids(_run(config, "query", "--json", "--provider", "openai", "--model", "gpt")) == ["a"]
    assert _ids(_run(config, "query", "--json", "--request", "b", "--all")) == ["b", "b"]
    assert _ids(_run(config, "query", "--json", "--since", f"{DAY}T11:00Z", "--until", f"{DAY}T12:15+01:00")) == ["b"]
    assert _ids(_run(config, "query", "--json", "--since", "2026-11-23")) == []
    (row,) = [json.loads(line) for line in _run(config, "query", "--json", "--request", "a").stdout.splitlines()]
    assert (row["total_tokens"], row["cost_nusd"], row["estimated_cost_usd"], row["seq"]) == (12, 1_500, 1.5e-6, 2)


def test_query_for_people(config: Path, slot: Slot) -> None:
    """A table, or a sentence; what a caller wrote does not reach the terminal as a command."""
    shown = _run(config, "query", "--all")
    assert shown.stdout.splitlines()[2].split() == [
        *("2026-11-22", "10:00:01", "success", "200", "alice", "openai/gpt", "12", "0.000002", "1500", "a"),
    ]
    assert "authentication_failed x3  10.0.0.9" in shown.stdout
    assert "begun" in shown.stdout.splitlines()[-1]
    assert "\x1b" not in shown.stdout
    assert _run(config, "query", "--user", "nobody").stdout == "Nothing matches.\n"
    assert "--limit shows more" in _run(config, "query", "--limit", 1).stderr


def test_query_says_when_the_index_cannot_be_used(config: Path, slot: Slot) -> None:
    """Then the files answer; a store that is not there is not made."""
    store = config.parent / "state" / "models.db"
    assert _ids(_run(config, "query", "--json")) == ["a", "b", None]
    assert not store.exists()
    store.write_bytes(b"this is no database" * 100)
    answered = _run(config, "query", "--json")
    assert _ids(answered) == ["a", "b", None]
    assert "reading the files" in answered.stderr
    assert _run(config, "query", "--json", "--files").stderr == ""


@pytest.mark.parametrize("when", ["soon", "2026-13-01", "7y", "9999999w"])
def test_moments_that_are_none(config: Path, slot: Slot, when: str) -> None:
    """The message says what is expected, by the option's name."""
    refused = _run(config, "query", "--since", when)
    assert refused.exit_code == 2
    assert "--since" in refused.stderr
    assert "expected an age" in refused.stderr


def test_no_log_yet(config: Path, logs: Path) -> None:
    """A directory that is not there is told; an empty one is an empty log."""
    assert _run(config, "query").stdout == "Nothing matches.\n"
    assert _run(config, "tail", "--json").stdout == ""
    assert _run(config, "seal").stdout == "There are no audit files.\n"
    logs.rmdir()
    for command in (
        ("query",),
        ("show", ID),
        ("tail",),
        ("export",),
        ("rebuild",),
        ("seal",),
        ("prune",),
        ("erase", ID),
    ):
        refused = _run(config, *command)
        assert refused.exit_code == 1
        assert "there is no audit log yet" in refused.stderr


def test_show(config: Path, slot: Slot) -> None:
    """Every record of the request with every field; as JSON the very lines of the log."""
    story = _run(config, "show", "a")
    assert story.stdout.splitlines()[0] == "2026-11-22T10:00:00.000000Z  request_received  (slot 1, record 1)"
    assert "  estimated_cost_usd: 0.0000015" in story.stdout
    assert "  duration_ms: 1500.25" in story.stdout
    lines = slot.path().read_bytes().splitlines()
    assert _run(config, "show", "a", "--json").stdout.encode().splitlines() == lines[:2]
    assert "\x1b" not in _run(config, "show", ID).stdout
    unknown = _run(config, "show", "nobody\x1b[2J")
    assert (unknown.exit_code, "\x1b" in unknown.stderr) == (1, False)


async def test_recorded_bodies(config: Path, logs: Path, slot: Slot) -> None:
    """A body is printed as it was, when its hash is that of the chain; else it is said what is wrong with it."""
    body = bytes(range(256)) * 1000
    with trio.fail_after(20):
        digest = await ContentStore(logs, KEY).seal(ID, "request", body)
    slot.write(record("12:00:05", "response_sent", ID, status="success", content="full", request_content_sha256=digest))
    shown = _run(config, "show", ID, "--content", "request")
    assert (shown.exit_code, shown.stdout_bytes) == (0, body)
    assert "is not recorded" in _run(config, "show", ID, "--content", "answer").stderr
    key = config.parent / "state" / "content.key"
    key.write_text("22" * 32)
    assert "another key" in _run(config, "show", ID, "--content", "request").stderr
    path = content_path(logs, ID, "request")
    path.write_bytes(path.read_bytes()[:-1])
    assert hash_file(path) != digest
    assert "its hash is another" in _run(config, "show", ID, "--content", "request").stderr
    store = _make_store(config)
    store.rename(store.with_suffix(".away"))
    store.mkdir()
    refused = _run(config, "erase", ID)
    assert (refused.exit_code, path.exists()) == (1, True)
    assert "nothing is erased" in refused.stderr
    store.rmdir()
    store.with_suffix(".away").rename(store)
    assert _run(config, "erase", ID).stdout == f"Erased: request of {ID}.\n"
    assert "was erased" in _run(config, "show", ID, "--content", "request").stderr
    again = _run(config, "erase", ID)
    assert (again.exit_code, "erased already" in again.stderr) == (1, True)
    assert _run(config, "erase", "../../etc").exit_code == 2
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT action, subject FROM events").fetchall() == [("content_erased", ID)]
    connection.close()


def test_tail(config: Path, slot: Slot) -> None:
    """The newest records, whatever they are."""
    shown = _run(config, "tail", "-n", 2)
    assert len(shown.stdout.splitlines()) == 3
    assert _ids(_run(config, "tail", "--json", "-n", 3)) == ["b", None, ID]
    assert _run(config, "tail", "--json", "-n", 0).stdout == ""


def test_following_over_midnight(config: Path, slot: Slot) -> None:
    """`tail -f` prints what is written while it runs, goes on with the next day's file, and ends on Ctrl-C."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "securellm", "audit", "tail", "-f", "--json", "-n", "1", "--config", str(config)]
    seen: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            seen.append(json.loads(process.stdout.readline())["request_id"])
            slot.write(record("23:59:59", "request_received", "late"))
            slot.write(record("2026-11-23T00:00:00", "request_received", "early"))
            seen += [json.loads(process.stdout.readline())["request_id"] for _ in range(2)]
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
        finally:
            guard.cancel()
    assert seen == [ID, "late", "early"]


def test_export_as_json_lines(config: Path, slot: Slot) -> None:
    """Byte for byte the lines of the log; with filters fewer; what is no record is counted."""
    assert _run(config, "export").stdout_bytes == slot.path().read_bytes()
    assert _ids(_run(config, "export", "--user", "bob")) == ["b", "b"]
    with slot.path().open("ab") as file:
        file.write(b"no record\n{half")
    exported = _run(config, "export", "--event", "security_event")
    assert len(exported.stdout.splitlines()) == 1
    assert exported.stderr == "1 line is no record; securellm audit verify tells where.\n"


def test_export_as_csv(config: Path, slot: Slot) -> None:
    """A table with the contract's columns first; exact numbers, and no cell that is a formula."""
    slot.write(record("13:00:00", "response_sent", "c", dropped=("user", "seed"), usage={"output_tokens": 2}))
    rows = list(csv.DictReader(io.StringIO(_run(config, "export", "--format", "csv").stdout, newline="")))
    assert list(rows[0])[:6] == ["timestamp", "request_id", "event_type", "user_id", "provider", "model"]
    assert len(rows) == 7
    assert (rows[1]["estimated_cost_usd"], rows[1]["cost_nusd"], rows[1]["duration_ms"]) == (
        "0.0000015",
        "1500",
        "1500.25",
    )
    assert rows[5]["requested_model"].startswith("'=cmd()")
    assert (rows[6]["dropped"], rows[6]["usage"]) == ('["user","seed"]', '{"output_tokens":2}')
    assert _run(config, "export", "--format", "csv", "--user", "nobody").stdout.startswith("timestamp,request_id")


def test_rebuild(config: Path, slot: Slot) -> None:
    """The table is there afterwards, and says what the files say."""
    assert _run(config, "rebuild").stdout == "6 records are indexed.\n"
    assert _run(config, "rebuild").stdout == "6 records are indexed.\n"
    assert _ids(_run(config, "query", "--json")) == ["a", "b", None]


def test_seal_and_prune(config: Path, logs: Path, slot: Slot) -> None:
    """A crashed slot is closed and its open request ended; what is old goes; what is written is refused."""
    old = Slot(logs)
    old.write(*pair("2020-01-01T10:00:00", "old"))
    slot.path().unlink()
    Slot(logs, 2).write(record("2020-01-02T10:00:00", "request_received", "open"))
    lock = SlotLock(logs, 2)
    partly = _run(config, "seal")
    assert partly.exit_code == 1
    assert "Slot 1 is closed with record 3." in partly.stdout
    assert "slot 2 of the audit log" in partly.stderr
    assert "being written by another process" in partly.stderr
    lock.release()
    assert _run(config, "seal").stdout.splitlines() == [
        "Slot 1 is closed already, with record 3.",
        "Slot 2 is closed with record 3; 1 request was interrupted.",
    ]
    assert "slot 7 has no file" in _run(config, "seal", "--slot", 7).stderr
    assert _run(config, "prune").stdout.splitlines() == [
        "Slot 1: 1 day older than 90 days.",
        "Slot 2: 1 day older than 90 days.",
    ]
    assert not old.path("2020-01-01").exists()
    assert _run(config, "prune", "--slot", 1).stdout == "Slot 1: nothing older than 90 days.\n"
    verified = _run(config, "verify", "--all")
    assert verified.exit_code == 0, verified.output


def test_it_needs_the_key_that_is_there(config: Path, slot: Slot) -> None:
    """Closing a slot makes no new key: a log signed by two is what tampering looks like."""
    (config.parent / "state" / "audit.key").unlink()
    refused = _run(config, "seal")
    assert refused.exit_code == 1
    assert "audit.key cannot be read" in refused.stderr


def test_commands_are_imported_one_by_one() -> None:
    """The list of commands costs no import of what they need."""
    heavy = "{'sqlalchemy', 'cryptography', 'trio', 'msgspec'}"
    program = f"import sys, securellm.cli.audit; print(sorted(sys.modules.keys() & {heavy}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("command", [("export",), ("tail", "-f", "--json"), ("export", "--format", "csv")])
def test_a_reader_that_goes_away(config: Path, slot: Slot, command: tuple[str, ...]) -> None:
    """`... | head -1` ends the command without a word."""
    slot.write(*(one for number in range(2_000) for one in pair("13:00:00", f"r{number}", error_message="x" * 200)))
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    arguments = [sys.executable, "-m", "securellm", "audit", *command, "--config", str(config)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            slot.write(*(one for number in range(2_000) for one in pair("2026-11-23T13:00:00", f"s{number}")))
            assert process.stderr.read() == b""
            assert process.wait() == 1
        finally:
            guard.cancel()
