"""Whatever the file and the environment say, loading ends in a configuration or in ConfigMistakes."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rig.toml import encode_toml
from securellm.config import Config, ConfigMistakes, load_config
from securellm.config.table import SETTINGS, Setting

SECRET = "sk-CANARY-0123456789abcdef"
_NAMES = ["openai", "ollama", "box", "openai/gpt-4o", "box/*", "fast", "openai_rpm", "x y", "é", "UPPER", "a.b", ""]
_TEXTS = [
    "",
    "env:K",
    "file:none",
    "auto",
    "openai/gpt",
    "box",
    "http://h:1/v1",
    "http://[",
    "http://h:x",
    "sqlite:a",
    SECRET,
]
_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(_TEXTS),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20),
)
_VALUES = st.one_of(
    _SCALARS, st.lists(_SCALARS, max_size=3), st.dictionaries(st.sampled_from(_NAMES[:6]), _SCALARS, max_size=2)
)


@st.composite
def _documents(draw: st.DrawFn) -> dict[str, object]:
    document: dict[str, object] = {}
    for setting in draw(st.lists(st.sampled_from(SETTINGS), max_size=8)):
        path = [draw(st.sampled_from(_NAMES)) if part == "*" else part for part in setting.path]
        path = path[: draw(st.integers(1, len(path)))] if draw(st.integers(0, 9)) == 0 else path
        here = document
        for part in path[:-1]:
            below = here.setdefault(part, {})
            if not isinstance(below, dict):
                break
            here = below
        else:
            here[path[-1]] = draw(_VALUES)
    return document


@example({"security": {"tls": {"cert_path": SECRET}}}, {})  # a key where a path belongs
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    _documents(), st.dictionaries(st.sampled_from([row.env for row in SETTINGS if row.env]), st.sampled_from(_TEXTS))
)
def test_any_file_and_environment(tmp_path: Path, document: dict[str, object], environ: dict[str, str]) -> None:
    """Never another exception, never a secret in what is said, and every mistake of the file has its line."""
    path = tmp_path / "config.toml"
    path.write_text(encode_toml(document))
    variables = {name.replace("<NAME>", "OPENAI"): text for name, text in environ.items()}
    loaded = _load(path, {"STATE_DIRECTORY": str(tmp_path), "K": SECRET, **variables})
    if isinstance(loaded, Config):
        return
    assert loaded.mistakes
    assert SECRET[:12] not in str(loaded)
    placeless = [mistake for mistake in loaded.mistakes if mistake.line is None]
    assert all(mistake.place.startswith("environment variable") for mistake in placeless), str(loaded)


def _load(path: Path, environ: dict[str, str]) -> Config | ConfigMistakes:
    try:
        return load_config(path, environ=environ)
    except ConfigMistakes as exc:
        return exc


def test_the_rows_are_settings() -> None:
    """The strategy draws from the real table."""
    assert all(isinstance(setting, Setting) for setting in SETTINGS)


def test_very_deep_nesting(tmp_path: Path) -> None:
    """A file of nothing but brackets is a mistake, not a crash."""
    path = tmp_path / "config.toml"
    path.write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigMistakes, match="not TOML: nested too deeply"):
        load_config(path, environ={})
