"""The form of keys and what is kept of them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.accounts.keys import KeyRecord, digest_key, mint_key, parse_key, same_digest
from securellm.chat import KeyId

RANDOM = st.binary(min_size=37, max_size=37)


@given(RANDOM)
def test_a_minted_key_has_the_promised_form(random: bytes) -> None:
    """`slb_<id8>_<43 characters>`, whatever the bytes, and its id is found again."""
    minted = mint_key(random)
    assert re.fullmatch(r"slb_[a-z2-7]{8}_[A-Za-z0-9_-]{43}", minted.text)
    assert minted.text[4:12] == minted.id
    assert parse_key(minted.text) == minted.id


@given(RANDOM, RANDOM)
def test_other_bytes_another_key(one: bytes, other: bytes) -> None:
    """No two draws share a key: all 296 bits are in it."""
    assert (mint_key(one).text == mint_key(other).text) == (one == other)


def test_too_few_random_bytes() -> None:
    """A short draw is a defect, not a weaker key."""
    with pytest.raises(ValueError, match="expected 37"):
        mint_key(bytes(36))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "slb_",
        "sk-0123456789abcdef",
        "slb_aaaaaaaa_" + "x" * 42,
        "slb_aaaaaaaa_" + "x" * 44,
        "slb_AAAAAAAA_" + "x" * 43,
        "slb_aaaaaaa1_" + "x" * 43,
        "slb_aaaaaaaa_" + "x" * 42 + "é",
        "slb_aaaaaaaa_" + "x" * 43 + "\n",
        " slb_aaaaaaaa_" + "x" * 43,
    ],
)
def test_other_texts_are_no_keys(text: str) -> None:
    """A text that is not exactly of the form is told apart without asking the store."""
    assert parse_key(text) is None


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_not(text: str) -> None:
    """No text breaks the parser."""
    assert parse_key(text) in (None, text[4:12])


def test_digests_need_the_pepper() -> None:
    """Another pepper or another key gives another digest; the same pair gives the same 32 bytes."""
    digest = digest_key(b"pepper-pepper-pepper", "key")
    assert len(digest) == 32
    assert same_digest(digest, digest_key(b"pepper-pepper-pepper", "key"))
    assert not same_digest(digest, digest_key(b"pepper-pepper-peppeR", "key"))
    assert not same_digest(digest, digest_key(b"pepper-pepper-pepper", "kez"))
    assert b"key" not in digest


def test_states() -> None:
    """A key holds until its second of expiry, and never again once revoked."""
    record = KeyRecord(KeyId("aaaaaaaa"), bytes(32), "n", "user", 100, expires_at_s=200)
    assert [record.state(now_s) for now_s in (100, 199.9, 200, 300)] == ["active", "active", "expired", "expired"]
    assert KeyRecord(KeyId("a"), b"", "", "user", 0, revoked_at_s=1).state(0) == "revoked"
    assert KeyRecord(KeyId("a"), b"", "", "user", 0).state(10**12) == "active"


def test_reprs_show_no_secret() -> None:
    """Neither the key nor its digest is in what may be logged."""
    minted = mint_key(bytes(range(37)))
    assert minted.text not in repr(minted)
    assert minted.text[13:] not in f"{minted}"
    assert repr(b"\x07" * 32) not in repr(KeyRecord(minted.id, b"\x07" * 32, "n", "user", 0))
