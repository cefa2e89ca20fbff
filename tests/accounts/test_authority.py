"""What a key may be used for: patterns of models, doors and networks, each by itself and all together."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securellm.accounts.authority import check_address, check_caller, check_model, may_use
from securellm.chat import Caller, Endpoint, Grants
from securellm.errors import AddressRefused, EndpointRefused, ModelRefused

NAMES = st.text(
    st.characters(codec="ascii", exclude_categories=("C",), exclude_characters="*"), min_size=1, max_size=20
)
PROVIDERS = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)


def _caller(**grants: tuple[str, ...] | None) -> Caller:
    return Caller(None, None, grants=Grants(**grants))


@pytest.mark.parametrize(
    ("models", "granted", "refused"),
    [
        (None, ["openai/gpt-5", "x/y/z"], []),
        ((), [], ["openai/gpt-5", "demo/echo"]),
        (("*",), ["openai/gpt-5", "x/y/z"], []),
        (("openai/*",), ["openai/gpt-5", "openai/a/b"], ["openai2/gpt-5", "azure/openai/gpt-5", "OpenAI/gpt-5"]),
        (("openai/gpt-5",), ["openai/gpt-5"], ["openai/gpt-5-mini", "openai/gpt", "openai/GPT-5"]),
        (("openai/gpt-5*",), ["openai/gpt-5", "openai/gpt-5-mini"], ["openai/gpt-4"]),
        (("a/b", "c/*"), ["a/b", "c/d"], ["a/d", "b/c"]),
        (("vllm/meta/llama*",), ["vllm/meta/llama-3"], ["vllm/llama-3"]),
        (("openai/gpt.5",), ["openai/gpt.5"], ["openai/gpt-5"]),
    ],
)
def test_patterns(models: tuple[str, ...] | None, granted: list[str], refused: list[str]) -> None:
    """A pattern ends in * or names one model; case, dots and slashes mean what they are."""
    caller = _caller(models=models)
    for name in granted:
        assert may_use(caller, *name.split("/", 1))
    for name in refused:
        assert not may_use(caller, *name.split("/", 1))
        with pytest.raises(ModelRefused, match="may not use") as caught:
            check_model(caller, *name.split("/", 1))
        assert (caught.value.status, caught.value.param) == (403, "model")


@given(PROVIDERS, NAMES, PROVIDERS, NAMES)
@settings(max_examples=200)
def test_a_model_is_granted_by_its_own_name_alone(provider: str, model: str, other: str, name: str) -> None:
    """Exactly that model; with a star all models of exactly that provider."""
    same = (provider, model) == (other, name)
    assert may_use(_caller(models=(f"{provider}/{model}",)), other, name) == same
    assert may_use(_caller(models=(f"{provider}/*",)), other, name) == (provider == other)
    assert may_use(_caller(models=("*",)), other, name)
    assert may_use(_caller(providers=(provider,)), other, name) == (provider == other)


@given(PROVIDERS, NAMES, st.integers(0, 20))
@settings(max_examples=200)
def test_a_shorter_pattern_grants_more(provider: str, model: str, cut: int) -> None:
    """Every beginning of a model's name, with a star, grants it; and so does each longer list."""
    whole = f"{provider}/{model}"
    pattern = f"{whole[: max(len(provider) + 1, len(whole) - cut)]}*"
    assert may_use(_caller(models=(pattern,)), provider, model)
    assert may_use(_caller(models=("none/none", pattern)), provider, model)


def test_every_grant_must_hold() -> None:
    """The matrix: a request passes when its provider, model, door and address are all granted, or not spoken of."""
    good = {"models": ("p/*",), "providers": ("p",), "endpoints": ("messages",), "networks": ("10.0.0.0/8",)}
    bad = {"models": ("q/*",), "providers": ("q",), "endpoints": ("embeddings",), "networks": ("192.0.2.0/24",)}
    for choice in itertools.product((None, good, bad, ()), repeat=4):
        grants = {
            name: None if side is None else () if side == () else side[name]
            for name, side in zip(good, choice, strict=True)
        }
        caller = _caller(**grants)
        fine = dict(zip(good, (side is None or side is good for side in choice), strict=True))
        assert may_use(caller, "p", "m") == (fine["models"] and fine["providers"])
        try:
            check_caller(caller, Endpoint.MESSAGES, "10.1.2.3")
            refusal = None
        except (EndpointRefused, AddressRefused) as error:
            refusal = type(error)
        if fine["endpoints"]:
            assert refusal is (None if fine["networks"] else AddressRefused)
        else:
            assert refusal is EndpointRefused


@pytest.mark.parametrize("endpoint", Endpoint)
def test_every_door_can_be_granted(endpoint: Endpoint) -> None:
    """Each by its own name, which opens no other."""
    for other in Endpoint:
        caller = _caller(endpoints=(other.value,))
        if other is endpoint:
            check_caller(caller, endpoint, "::1")
        else:
            with pytest.raises(EndpointRefused, match=endpoint.value):
                check_caller(caller, endpoint, "::1")


@pytest.mark.parametrize(
    ("networks", "address", "granted"),
    [
        (("10.0.0.0/8",), "10.255.0.1", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", True),
        (("10.0.0.0/8",), "::ffff:11.0.0.1", False),
        (("192.0.2.7",), "192.0.2.7", True),
        (("192.0.2.7",), "192.0.2.70", False),
        (("fd00::/8",), "fd12::1", True),
        (("fd00::/8",), "fd12::1%eth0", True),
        (("fd00::/8", "10.0.0.0/8"), "10.0.0.1", True),
        (("::/0",), "10.0.0.1", False),
        (("0.0.0.0/0",), "unix", False),
        (("0.0.0.0/0",), "", False),
        (("not a network", "10.0.0.1"), "10.0.0.1", True),
        (("not a network",), "10.0.0.1", False),
        ((), "10.0.0.1", False),
        (None, "unix", True),
    ],
)
def test_addresses(networks: tuple[str, ...] | None, address: str, granted: bool) -> None:
    """IPv4 within IPv6 is IPv4; what is no address comes from no network."""
    caller = _caller(networks=networks)
    if granted:
        check_address(caller, address)
    else:
        with pytest.raises(AddressRefused):
            check_address(caller, address)
