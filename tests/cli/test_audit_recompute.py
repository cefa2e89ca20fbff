"""`securellm audit recompute`: the files are read, each record with its own table, and what differs ends with 1."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from securellm.cli.audit_recompute import recompute
from securellm.config.tree import Config, Model, Provider
from securellm.pricing.kept import keep_table, load_table
from securellm.pricing.table import PriceTable

CONFIG = Config(
    providers={"box": Provider(enabled=True)},
    models={"box/*": Model(input_usd_per_mtok=1.5, output_usd_per_mtok=2.0)},
)
COST_NUSD = 12 * 1500 + 3 * 2000


@pytest.fixture
def table(tmp_path: Path) -> PriceTable:
    """A table that is kept where the command looks."""
    table = load_table(CONFIG)
    keep_table(tmp_path / "state", table)
    return table


def _record(table: PriceTable, request_id: str = "r", cost_nusd: int = COST_NUSD) -> bytes:
    usage = {"input_tokens": 12, "output_tokens": 3}
    attempt = {"number": 1, "provider": "box", "model": "m", "usage": usage, "cost_nusd": cost_nusd}
    record = {"timestamp": "2026-11-22T11:04:05.123456Z", "event_type": "response_sent", "request_id": request_id}
    record |= {"cost_nusd": cost_nusd, "price_table": table.sha256, "attempts": [attempt]}
    return json.dumps(record).encode() + b"\n"


def _run(tmp_path: Path, *arguments: str) -> Result:
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path / "state"}"\n')
    environ = {"LOG_DIR": str(tmp_path / "log")}
    return CliRunner().invoke(recompute, [*arguments, "--config", str(config)], env=environ)


def _write(tmp_path: Path, name: str, *lines: bytes) -> Path:
    (tmp_path / "log").mkdir(exist_ok=True)
    path = tmp_path / "log" / name
    path.write_bytes(b"".join(lines))
    return path


def test_every_file_is_confirmed(tmp_path: Path, table: PriceTable) -> None:
    """All audit files of all slots are read, but for a line that is being written; number, sum and verdict are told."""
    _write(tmp_path, "audit.2026-11-21.log", _record(table))
    _write(tmp_path, "audit.2026-11-22.w2.log", _record(table), _record(table)[:-20])
    _write(tmp_path, "audit.2026-11-22.checkpoints", b"no JSON\n")
    done = _run(tmp_path)
    assert (done.exit_code, done.stdout) == (
        0,
        "2 records with a cost in 2 files, together 0.000048000 USD; every recorded cost is confirmed\n",
    )


def test_what_differs_is_named(tmp_path: Path, table: PriceTable) -> None:
    """A cost that was changed is told with its file, line and request; the end is 1."""
    path = _write(tmp_path, "audit.2026-11-22.log", _record(table), _record(table, "bad", COST_NUSD + 1))
    done = _run(tmp_path, str(path))
    assert done.exit_code == 1
    figures = f"recorded {COST_NUSD + 1} nano-USD, recomputed {COST_NUSD}"
    assert done.stdout == f"audit.2026-11-22.log:2 bad the cost is another one: {figures}\n"
    assert "2 records with a cost in 1 files" in done.stderr
    assert "1 of them could not be confirmed" in done.stderr


def test_a_table_that_was_changed_or_lost(tmp_path: Path, table: PriceTable) -> None:
    """Without the table nothing is confirmed, and another table is never taken in its place."""
    _write(tmp_path, "audit.2026-11-22.log", _record(table))
    kept = tmp_path / "state" / "prices" / f"{table.sha256}.json"
    kept.write_bytes(kept.read_bytes() + b" ")
    changed = _run(tmp_path)
    assert changed.exit_code == 1
    assert "has been changed" in changed.output
    kept.unlink()
    lost = _run(tmp_path)
    assert lost.exit_code == 1
    assert "the table of prices that it names was not kept here" in lost.output


def test_json_for_programs(tmp_path: Path, table: PriceTable) -> None:
    """--json prints a line for each record."""
    _write(tmp_path, "audit.2026-11-22.log", _record(table))
    done = _run(tmp_path, "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "place": "audit.2026-11-22.log:1",
            "request_id": "r",
            "recorded_nusd": COST_NUSD,
            "recomputed_nusd": COST_NUSD,
            "problem": None,
        }
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be read ends with 1."""
    done = _run(tmp_path, str(tmp_path / "nothing.log"))
    assert done.exit_code == 1
    assert "cannot be read: No such file or directory" in done.stderr
