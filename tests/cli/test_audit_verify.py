"""`securellm audit verify` and `public-key`: the configuration's log and key, exit codes, and the file for auditors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rig.tampering import KEY, build_log, split_notes
from securellm.audit import verify
from securellm.cli.group import cli

SEED = bytes(range(32)).hex()  # of KEY


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a log of three days and the key that has signed it."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "audit.key").write_text(SEED + "\n")
    (state / "audit.key").chmod(0o600)
    build_log(state / "log")
    path = tmp_path / "config.toml"
    path.write_text(f'state_dir = "{state}"\n\n[audit]\nlog_path = "{state / "log"}"\n')
    return path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)])


def test_the_configurations_log_and_key(config: Path) -> None:
    """Without arguments: where the gateway writes, and the key that it signs with; the output says whose key it is."""
    done = _run("verify", "--config", config)
    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        "good: 26 records in 3 files, every hash followed; 16 checkpoints, 3 signatures verified",
    )
    assert "the key that is on this machine now" in done.stderr
    assert SEED not in done.output


def test_another_directory_and_key(config: Path, tmp_path: Path) -> None:
    """Given, they need no configuration; with --all every signature counts."""
    log = tmp_path / "state" / "log"
    done = _run("verify", log, "--key", KEY.encode_public_key(), "--all")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "16 signatures verified" in done.stdout


def test_a_bad_log_ends_with_1(config: Path, tmp_path: Path) -> None:
    """The first line names the place; as JSON, too."""
    (tmp_path / "state" / "log" / "audit.2026-11-23.log").unlink()
    done = _run("verify", "--config", config)
    assert (done.exit_code, done.stdout.split(":")[0]) == (1, "BAD")
    done = _run("verify", "--config", config, "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["good"], report["problems"][0]["seq"]) == (1, False, 10)


def test_checkpoints_kept_elsewhere(config: Path, tmp_path: Path) -> None:
    """--checkpoint finds a log that was cut back, --from begins at one."""
    log, kept = tmp_path / "state" / "log", tmp_path / "kept"
    kept.write_bytes(split_notes((log / "audit.2026-11-24.checkpoints").read_bytes())[-1])
    assert _run("verify", "--config", config, "--checkpoint", kept).exit_code == 0
    assert "seq 26 to 26" in _run("verify", "--config", config, "--from", kept).stdout
    for kind in ("log", "checkpoints"):
        (log / f"audit.2026-11-24.{kind}").unlink()
    assert _run("verify", "--config", config).exit_code == 0
    assert _run("verify", "--config", config, "--checkpoint", kept).exit_code == 1


def test_what_cannot_be_read_ends_with_2(config: Path, tmp_path: Path) -> None:
    """No log, no key of that form: no verdict."""
    (tmp_path / "empty").mkdir()
    for arguments in ((tmp_path / "empty", "--config", config), ("--key", tmp_path / "absent", "--config", config)):
        done = _run("verify", *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("not verified: ")


def test_the_public_key(config: Path, tmp_path: Path) -> None:
    """Printed as `verify` takes it; where there is none, none is made, and the message says how one comes about."""
    done = _run("public-key", "--config", config)
    assert (done.exit_code, done.stdout) == (0, KEY.encode_public_key() + "\n")
    (tmp_path / "state" / "audit.key").unlink()
    for command in ("public-key", "verify"):
        done = _run(command, "--config", config)
        assert (done.exit_code, "when the gateway first starts" in done.stderr) == (1, True)
    assert not (tmp_path / "state" / "audit.key").exists()


def test_the_verifier_is_handed_out(config: Path, tmp_path: Path) -> None:
    """One file, run by an interpreter without the product, gives the same verdict; no file is overwritten."""
    target = tmp_path / "verify.py"
    done = _run("verify", "--write-verifier", target)
    assert done.exit_code == 0
    assert verify.__file__
    assert target.read_bytes() == Path(verify.__file__).read_bytes()
    command = [sys.executable, "-I", target, tmp_path / "state" / "log", "--key", KEY.encode_public_key()]
    ran = subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)
    assert (ran.returncode, ran.stdout) == (0, _run("verify", "--config", config).stdout)
    again = _run("verify", "--write-verifier", target)
    assert (again.exit_code, "cannot be written: File exists" in again.stderr) == (1, True)


def test_verifying_does_not_load_a_library_of_cryptography(tmp_path: Path) -> None:
    """With a key given, the command starts as quickly as the file alone."""
    build_log(tmp_path / "log")
    code = (
        "import sys; from securellm.cli.group import cli\n"
        "cli.main(sys.argv[1:], standalone_mode=False)\n"
        "assert not [name for name in sys.modules if name.startswith(('cryptography', 'sqlalchemy', 'trio'))]"
    )
    command = [sys.executable, "-c", code, "audit", "verify", tmp_path / "log", "--key", KEY.encode_public_key()]
    ran = subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
