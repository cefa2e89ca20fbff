"""The forms in which sqlx and SQLAlchemy write the address of a SQLite file."""

import pytest

from securellm.config.database import read_database_url
from securellm.config.mistakes import WrongValue


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:models.db", "models.db"),
        ("sqlite:./data/models.db", "data/models.db"),
        ("sqlite:/srv/models.db", "/srv/models.db"),
        ("sqlite://models.db", "models.db"),
        ("sqlite://data/models.db", "data/models.db"),
        ("sqlite:///srv/models.db", "/srv/models.db"),
        ("sqlite:////srv/models.db", "/srv/models.db"),
        ("sqlite:///models.db", "models.db"),
        ("sqlite:///srv/models.db?mode=rwc", "/srv/models.db"),
        ("sqlite+pysqlite:///data/models.db", "data/models.db"),
        ("sqlite+pysqlite:////srv/models.db", "/srv/models.db"),
        ("sqlite+aiosqlite:////srv/models.db", "/srv/models.db"),
        ("SQLITE:/srv/models.db", "/srv/models.db"),
        ("sqlite:/srv/my%20models.db", "/srv/my models.db"),
    ],
)
def test_forms_that_name_a_file(url: str, path: str) -> None:
    """Both programs' forms give the file that their users mean."""
    assert str(read_database_url(url)) == path


@pytest.mark.parametrize(
    "url",
    [
        "models.db",
        "sqlite:",
        "sqlite::memory:",
        "sqlite://",
        "sqlite://:memory:",
        "sqlite:models.db?mode=memory",
        "sqlite:models.db?mode=ro",
        "sqlite+pysqlcipher:///x.db",
        "postgres://u:CANARY@h/d",
        "postgresql+psycopg://u:CANARY@h/d",
        "mysql://u:CANARY@h/d",
    ],
)
def test_forms_that_are_refused(url: str) -> None:
    """No file, a store in memory, another database: refused, and the URL is not repeated."""
    with pytest.raises(WrongValue) as caught:
        read_database_url(url)
    assert "CANARY" not in str(caught.value)
