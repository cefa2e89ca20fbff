"""Secrets: a type that cannot be formatted, bound to an origin, and where references lead."""

import copy
import json
import pickle
from pathlib import Path

import msgspec
import pytest

from securellm.config.secrets import Secret, SecretMissing, is_reference, resolve_reference
from securellm.errors import DestinationRefused

VALUE = "sk-CANARY-0123456789"


@pytest.mark.parametrize("text", [repr(Secret(VALUE)), str(Secret(VALUE)), f"{Secret(VALUE)}", f"{Secret(VALUE)!s}"])
def test_a_secret_shows_itself_as_stars(text: str) -> None:
    """Every way of formatting gives `***`."""
    assert text == "***"


def test_formats_with_a_width() -> None:
    """A format specification applies to the stars."""
    assert f"{Secret(VALUE):>6}" == "   ***"


def test_a_secret_inside_other_things() -> None:
    """Containers and structs that hold a secret do not show it, nor do its attributes' names."""
    assert "CANARY" not in repr([Secret(VALUE), {"key": Secret(VALUE)}])
    assert not hasattr(Secret(VALUE), "__dict__")


def test_a_secret_cannot_be_encoded() -> None:
    """JSON, msgspec and pickle refuse it."""
    with pytest.raises(TypeError):
        json.dumps(Secret(VALUE))
    with pytest.raises(TypeError):
        msgspec.json.encode(Secret(VALUE))
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Secret(VALUE))
    assert copy.deepcopy(Secret(VALUE)) == Secret(VALUE)


def test_secrets_compare_by_value_and_origin() -> None:
    """Equal values are equal secrets, if bound alike; nothing else is equal to a secret."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != Secret("a").bound_to("https://x:443")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


def test_a_bound_secret_goes_to_its_origin_only() -> None:
    """Guarantee 8: another scheme, host or port gets nothing, and an unbound secret goes nowhere."""
    bound = Secret(VALUE).bound_to("https://api.example:443")
    assert bound.for_origin("https://api.example:443") == VALUE
    for other in ("http://api.example:443", "https://api.example:8443", "https://api.example.evil:443", ""):
        with pytest.raises(DestinationRefused) as caught:
            bound.for_origin(other)
        assert "CANARY" not in str(caught.value)
    with pytest.raises(DestinationRefused):
        Secret(VALUE).for_origin("https://api.example:443")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("env:X", True),
        ("file:x", True),
        ("file:/a/b", True),
        ("env:", False),
        ("file: ", False),
        (VALUE, False),
        ("", False),
    ],
)
def test_what_is_a_reference(text: str, answer: bool) -> None:
    """`env:` and `file:` with something behind them."""
    assert is_reference(text) is answer


def test_a_variable(tmp_path: Path) -> None:
    """`env:` reads the variable and takes white space away."""
    assert resolve_reference("env:K", environ={"K": f" {VALUE}\n"}).reveal() == VALUE


def test_a_bare_name_is_looked_up_with_the_credentials_first(tmp_path: Path) -> None:
    """$CREDENTIALS_DIRECTORY first, then beside the configuration; a path with a slash never goes to credentials."""
    credentials, beside = tmp_path / "credentials", tmp_path / "etc"
    (beside / "sub").mkdir(parents=True)
    credentials.mkdir()
    (beside / "key").write_text("beside\n")
    (beside / "sub" / "key").write_text("below")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert resolve_reference("file:key", environ=environ, beside=beside).reveal() == "beside"
    (credentials / "key").write_text("credential\n")
    assert resolve_reference("file:key", environ=environ, beside=beside).reveal() == "credential"
    assert resolve_reference("file:sub/key", environ=environ, beside=beside).reveal() == "below"
    assert resolve_reference(f"file:{beside}/key", environ=environ).reveal() == "beside"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"one\ntwo", "cannot be in a header"),
        ("schlüssel".encode(), "cannot be in a header"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * 70_000, "expected a secret"),
    ],
)
def test_files_that_hold_no_secret(content: bytes, message: str, tmp_path: Path) -> None:
    """A file that cannot be a key is refused at load, without its content in the message or the cause."""
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(SecretMissing, match=message) as caught:
        resolve_reference(f"file:{path}", environ={})
    assert caught.value.__cause__ is None
    assert "two" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is told by its path."""
    with pytest.raises(SecretMissing, match=r"key cannot be read: No such file"):
        resolve_reference("file:key", environ={}, beside=tmp_path)
