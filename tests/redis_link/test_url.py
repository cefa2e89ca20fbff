"""URLs of Redis: every kind is read, a wrong one is refused without being shown."""

import pytest

from securellm.errors import ConfigError
from securellm.redis_link.url import Address, Place, parse_place


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://", Place("redis", (Address("localhost", 6379),))),
        ("redis://cache", Place("redis", (Address("cache", 6379),))),
        ("redis://cache:7000/3", Place("redis", (Address("cache", 7000),), db=3)),
        ("redis://[::1]:7000?db=4", Place("redis", (Address("::1", 7000),), db=4)),
        ("redis://:p%40ss@cache", Place("redis", (Address("cache", 6379),), password="p@ss")),
        (
            "redis://me:a%3Ab%2F@cache/1",
            Place("redis", (Address("cache", 6379),), db=1, username="me", password="a:b/"),
        ),
        (
            "rediss://cache?ssl_ca_certs=/ca.pem",
            Place("rediss", (Address("cache", 6379),), tls=True, options=(("ssl_ca_certs", "/ca.pem"),)),
        ),
        ("unix:///run/redis.sock?db=2", Place("unix", path="/run/redis.sock", db=2)),
        ("unix://me:pw@/run/redis.sock", Place("unix", path="/run/redis.sock", username="me", password="pw")),
        (
            "redis+sentinel://me:pw@a,b:5000/main/2?sentinel_password=s",
            Place(
                "redis+sentinel",
                (Address("a", 26379), Address("b", 5000)),
                service="main",
                db=2,
                username="me",
                password="pw",
                sentinel_password="s",
            ),
        ),
        (
            "redis+cluster://a:1,b?tls=true",
            Place("redis+cluster", (Address("a", 1), Address("b", 6379)), tls=True),
        ),
    ],
)
def test_every_kind_is_read(url: str, place: Place) -> None:
    """Addresses, database, user, password and TLS are where the URL says, with the defaults of their kind."""
    assert parse_place(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hunter2@cache:port",
        "redis://me:hunter2@a,b",
        "redis://me:hunter2@cache/hunter2",
        "redis://me:hunter2@cache?db=hunter2",
        "redis://me:hunter2@cache?socket_timeout=99",
        "redis://me:hunter2@cache:99999",
        "unix://hunter2@host/run/redis.sock",
        "unix://",
        "redis+sentinel://:hunter2@a,b",
        "redis+cluster://:hunter2@a/7",
        "redis+cluster://:hunter2@a,,b",
        "memcached://hunter2",
    ],
)
def test_a_wrong_one_is_refused(url: str) -> None:
    """It is a mistake in the configuration, and nothing of the URL is in what is said about it."""
    with pytest.raises(ConfigError) as caught:
        parse_place(url)
    assert caught.value.message.startswith("redis.url cannot be used: ")
    assert "hunter2" not in caught.value.message


def test_a_place_shows_no_secret() -> None:
    """Text and repr of a place have neither user nor password, whatever the kind."""
    place = parse_place("redis+sentinel://bob:hunter2@a:1,b:2/main?sentinel_password=hunter2")
    assert str(place) == "redis+sentinel://a:1,b:2/main"
    assert repr(place) == "<Place redis+sentinel://a:1,b:2/main>"
