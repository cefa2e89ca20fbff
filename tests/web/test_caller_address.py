"""Whose word on the caller's address is believed."""

import pytest

from securellm.errors import ConfigError
from securellm.web.caller_address import client_ip, parse_networks

NETWORKS = parse_networks(("10.0.0.0/8", "192.168.1.7", "fd00::/8"))

CASES = [
    # peer, X-Forwarded-For fields, expected
    ("203.0.113.9", [b"198.51.100.1"], "203.0.113.9"),  # not a proxy of ours: its word counts for nothing
    ("10.1.2.3", [], "10.1.2.3"),
    ("10.1.2.3", [b"198.51.100.1"], "198.51.100.1"),
    ("10.1.2.3", [b"1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # what stands left was written by the caller
    ("10.1.2.3", [b"1.1.1.1", b"198.51.100.1"], "198.51.100.1"),  # several fields are one list
    ("10.1.2.3", [b"198.51.100.1, 192.168.1.7"], "198.51.100.1"),  # two proxies of ours
    ("10.1.2.3", [b"10.9.9.9"], "10.9.9.9"),  # nobody but proxies: the leftmost
    ("10.1.2.3", [b"unknown"], "10.1.2.3"),
    ("10.1.2.3", [b"198.51.100.1, <script>"], "10.1.2.3"),
    ("10.1.2.3", [b"198.51.100.1:4711"], "198.51.100.1"),
    ("fd00::1", [b"[2001:db8::1]:4711"], "2001:db8::1"),
    ("::ffff:10.1.2.3", [b"198.51.100.1"], "198.51.100.1"),
    ("::ffff:203.0.113.9", [], "203.0.113.9"),
    ("", [b"198.51.100.1"], ""),
]


@pytest.mark.parametrize(("peer", "fields", "expected"), CASES)
def test_rightmost_untrusted(peer: str, fields: list[bytes], expected: str) -> None:
    """The address is the rightmost that no trusted proxy has; only trusted proxies are believed."""
    assert client_ip(peer, [(b"x-forwarded-for", field) for field in fields], NETWORKS) == expected


def test_nobody_is_trusted_by_default() -> None:
    """Without trusted proxies the header is nothing."""
    assert client_ip("10.1.2.3", [(b"x-forwarded-for", b"1.1.1.1")], ()) == "10.1.2.3"


def test_a_network_that_is_none() -> None:
    """A mistake in the setting is a ConfigError that names it."""
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies.*10\.0\.0\.0/99"):
        parse_networks(("10.0.0.0/99",))
