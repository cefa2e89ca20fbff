"""The URL of a PostgreSQL server: a secret, shown without what may be a password, and not without a shared pepper."""

from pathlib import Path

import pytest

from securellm.config import load_config
from securellm.config.database import describe_place, is_server_url, passwords_in, shown_url
from securellm.config.mistakes import ConfigMistakes
from securellm.config.secrets import Secret
from securellm.config.show import encode_toml, epoch_of

PEPPER = {"PEPPER": "0123456789abcdef0123456789abcdef", "HOME": "/h"}
FILE = '[security]\npepper = "env:PEPPER"\n[database]\nurl = "{url}"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("url", "shown", "passwords"),
    [
        ("postgresql://h/d", "postgresql://h/d", []),
        ("postgres://u:CANARY@h:5433/d", "postgresql://u@h:5433/d", ["CANARY"]),
        ("postgresql+psycopg://u:CAN%40RY@h/d?sslmode=require", "postgresql://u@h/d", ["CAN%40RY", "CAN@RY"]),
        ("postgresql://u:CAN@RY@h1,h2:1/d", "postgresql://u@h1,h2:1/d", ["CAN@RY"]),
        ("postgresql://u@h/d?password=CANARY&a=b", "postgresql://u@h/d", ["CANARY"]),
        ("POSTGRES://u@h?sslpassword=CANARY", "postgresql://u@h", ["CANARY"]),
    ],
)
def test_what_is_shown(url: str, shown: str, passwords: list[str]) -> None:
    """Scheme, user, hosts and database; every password that is in it is known, for the redaction of logs."""
    assert is_server_url(url)
    assert (shown_url(url), passwords_in(url)) == (shown, passwords)
    assert describe_place(Secret(url)) == shown


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_reference(file: Path, scheme: str) -> None:
    """The whole URL comes from the environment; no text made of the configuration has the password."""
    url = f"{scheme}://u:CANARY@h/d"
    file.write_text(FILE.format(url="env:STORE"))
    config = load_config(file, environ={**PEPPER, "STORE": url})
    assert config.database.server == config.database.place == Secret(url)
    assert config.database.url == "postgresql://u@h/d"
    assert "CANARY" not in repr(config) + encode_toml(config)
    assert {"CANARY", url} <= {secret.reveal() for secret in config.secrets()}
    other = load_config(file, environ={**PEPPER, "STORE": url.replace("CANARY", "OTHER")})
    assert epoch_of(other) == epoch_of(config)


def test_a_url_without_a_password_may_stand_in_the_file(file: Path) -> None:
    """As with a socket's peer authentication or a passfile; DATABASE_URL may hold one and goes over it."""
    file.write_text(FILE.format(url="postgresql://u@h/d"))
    assert load_config(file, environ=PEPPER).database.server == Secret("postgresql://u@h/d")
    given = load_config(file, environ={**PEPPER, "DATABASE_URL": "postgres://u:CANARY@other/d"})
    assert given.database.server == Secret("postgres://u:CANARY@other/d")
    back = load_config(file, environ={**PEPPER, "DATABASE_URL": "sqlite:/srv/models.db"})
    assert (back.database.server, back.database.place) == (None, Path("/srv/models.db"))


@pytest.mark.parametrize(
    "url", ["postgresql://u:CANARY@h/d", "postgresql://u@h/d?password=CANARY", "postgresql+asyncpg://u@h/CANARY"]
)
def test_what_may_not_stand_in_the_file(file: Path, url: str) -> None:
    """A password, or a driver that is not ours: refused, and the URL is not repeated."""
    file.write_text(FILE.format(url=url))
    with pytest.raises(ConfigMistakes) as caught:
        load_config(file, environ=PEPPER)
    assert len(caught.value.mistakes) == 1
    assert "CANARY" not in caught.value.message


def test_the_pepper_must_be_given(file: Path) -> None:
    """Machines that share keys must share what they are hashed with."""
    file.write_text('[database]\nurl = "postgresql://u@h/d"\n')
    with pytest.raises(ConfigMistakes, match=r"line 2: database\.url: a PostgreSQL server needs security\.pepper"):
        load_config(file, environ={"HOME": "/h"})


def test_a_reference_to_a_file(file: Path) -> None:
    """What a reference names may as well be a SQLite file; what it lacks is told by its own name."""
    file.write_text('[database]\nurl = "env:STORE"\n')
    assert load_config(file, environ={"HOME": "/h", "STORE": "sqlite:/srv/x.db"}).database.path == Path("/srv/x.db")
    with pytest.raises(ConfigMistakes, match="environment variable STORE is not set"):
        load_config(file, environ={"HOME": "/h"})
    with pytest.raises(ConfigMistakes, match=r"database\.url: expected a URL that begins with sqlite:"):
        load_config(file, environ={"HOME": "/h", "STORE": "mysql://u@h/d"})
