"""The signing key: private, made once, never shown."""

import threading
from pathlib import Path

import pytest

from securellm.audit.keys import SigningKey, load_signing_key
from securellm.config.secrets import Secret
from securellm.errors import ConfigError


def test_the_first_use_makes_a_private_key(tmp_path: Path) -> None:
    """<state>/audit.key is made with mode 0600, in a directory of mode 0700, and is read back ever after."""
    state = tmp_path / "state"
    made = load_signing_key(state)
    path = state / "audit.key"
    assert (path.stat().st_mode & 0o777, state.stat().st_mode & 0o777) == (0o600, 0o700)
    assert load_signing_key(state).public == made.public
    assert [entry.name for entry in state.iterdir()] == ["audit.key"]


def test_two_installations_have_two_names(tmp_path: Path) -> None:
    """Keys are random, and the installation's id follows from the key."""
    one, other = load_signing_key(tmp_path / "a"), load_signing_key(tmp_path / "b")
    assert one.installation != other.installation
    assert one.public.name == f"securellm-audit/{one.installation}"
    assert len(one.installation) == 16


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    """Whoever is slower takes the key of whoever was faster."""
    barrier, names = threading.Barrier(8), []

    def load() -> None:
        barrier.wait()
        names.append(load_signing_key(tmp_path).installation)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 8
    assert len(set(names)) == 1


def test_a_reference_goes_before_the_file(tmp_path: Path) -> None:
    """With audit.signing_key set, no file is made."""
    key = load_signing_key(tmp_path, Secret(bytes(range(32)).hex()))
    assert key.public == SigningKey(bytes(range(32))).public
    assert list(tmp_path.iterdir()) == []


def test_looking_makes_nothing(tmp_path: Path) -> None:
    """Without `create` an absent key is an error."""
    with pytest.raises(ConfigError, match=r"audit\.key cannot be read or made: No such file"):
        load_signing_key(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key with mode 0640 may have been read; the message says what to do."""
    load_signing_key(tmp_path)
    (tmp_path / "audit.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_signing_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"secret-but-short", b"\xff" * 64, b"g" * 64, b"0" * 65])
def test_what_is_no_key_is_refused_unshown(tmp_path: Path, content: bytes) -> None:
    """The message says what is expected and repeats nothing of what may be a secret."""
    (tmp_path / "audit.key").write_bytes(content)
    (tmp_path / "audit.key").chmod(0o600)
    with pytest.raises(ConfigError, match="expected 64 hexadecimal digits") as raised:
        load_signing_key(tmp_path)
    assert "secret-but-short" not in str(raised.value)


def test_a_key_does_not_show_itself() -> None:
    """repr and str name the installation, never the key."""
    seed = bytes(range(32))
    assert seed.hex() not in repr(SigningKey(seed)) + str(SigningKey(seed))
