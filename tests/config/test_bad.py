"""Each bad configuration in bad/ is a file named after its mistake, with the expected message beside it."""

from pathlib import Path

import pytest

from securellm.config import ConfigMistakes, load_config

BAD = Path(__file__).parent / "bad"
NAMES = sorted(path.stem for path in BAD.glob("*.toml"))


def test_the_folder_is_read() -> None:
    """Every bad file has its message, and every message its file."""
    assert len(NAMES) > 60
    assert sorted(path.stem for path in BAD.glob("*.txt")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_mistake_is_told(name: str, tmp_path: Path) -> None:
    """The one mistake of the file is told, with its line and the nearest name, and nothing else; no secret is shown."""
    path = BAD / f"{name}.toml"
    with pytest.raises(ConfigMistakes) as caught:
        load_config(path, environ={"STATE_DIRECTORY": str(tmp_path)})
    told = [str(mistake).replace(str(path), "config.toml") for mistake in caught.value.mistakes]
    assert told == [path.with_suffix(".txt").read_text().rstrip("\n")]
    assert "CANARY" not in str(caught.value)
