"""Which addresses a provider's name may lead to (guarantee 8)."""

import pytest

from securellm.upstream.guard import refusal

INSIDE = ["10.0.0.7", "192.168.1.2", "172.16.0.1", "127.0.0.1", "::1", "fd12::1", "::ffff:10.0.0.7"]
NEVER = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "240.0.0.1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_a_declared_name_may_lead_inside(address):
    """Model servers live in private networks: an operator's own name may resolve there, a built-in one may not."""
    assert refusal(address, host="vllm.internal", declared_host=True) is None
    assert refusal(address, host="api.openai.com", declared_host=False) is not None


@pytest.mark.parametrize("address", NEVER)
def test_no_name_leads_to_metadata_or_nowhere(address):
    """DNS rebinding of any name to a metadata service or a non-unicast address is refused."""
    assert refusal(address, host="vllm.internal", declared_host=True) is not None
    assert refusal(address, host="api.openai.com", declared_host=False) is not None


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e"])
def test_public_addresses_are_open_to_all(address):
    """A public address is never refused."""
    for declared in (True, False):
        assert refusal(address, host="api.openai.com", declared_host=declared) is None


def test_an_address_that_the_operator_wrote_is_his_choice():
    """An IP literal in base_url is connected to as it is."""
    assert refusal("169.254.7.7", host="169.254.7.7", declared_host=True) is None
    assert refusal("::1", host="[::1]", declared_host=True) is None


def test_what_is_no_address_is_refused():
    """A resolver that answers with anything else is not followed."""
    assert refusal("api.openai.com", host="api.openai.com", declared_host=True) is not None
