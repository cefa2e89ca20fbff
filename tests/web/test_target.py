"""One spelling per endpoint: the table of targets that are canonical, and of those that are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securellm.errors import InvalidTarget
from securellm.web.target import parse_target

CANONICAL = {
    "/": ("/", ""),
    "/v1/chat/completions": ("/v1/chat/completions", ""),
    "/v1/messages?beta=true": ("/v1/messages", "beta=true"),
    "/v1/models?limit=5&after_id=a%20b": ("/v1/models", "limit=5&after_id=a%20b"),
    "/v1/models/openai/gpt-4o": ("/v1/models/openai/gpt-4o", ""),
    "/v1/models/openai%2Fgpt-4o": ("/v1/models/openai/gpt-4o", ""),
    "/v1/models/ollama%2fllama3%3A8b": ("/v1/models/ollama/llama3:8b", ""),
    "/v1/models/ollama/llama3:8b": ("/v1/models/ollama/llama3:8b", ""),
    "/v1/models/a%252Fb": ("/v1/models/a%2Fb", ""),  # decoded once
    "/v1/models/%C3%BC": ("/v1/models/ü", ""),
    "/v1/models/": ("/v1/models/", ""),  # canonical, though no such path
    "/x?a=//../%61": ("/x", "a=//../%61"),  # a query decides nothing
}
OTHER_SPELLINGS = [
    "//",
    "//v1/models",
    "/v1//models",
    "/%761/models",
    "/v1%2Fmodels",
    "/v1%2fmodels",
    "/v1/models%3Fa",
    "/v1/./models",
    "/v1/../v1/models",
    "/..",
    "/v1/models/..",
    "/v1/models/../../api/metrics",
    "/v1/models/%2e%2e/x",
    "/v1/models/a%2F..%2Fb",
    "/v1/models/%67pt",  # needless
    "/v1/models/a%2",
    "/v1/models/a%zz",
    "/v1/models/%00",
    "/v1/models/%0d%0a",
    "/v1/models/%ff",
    "/v1/models//a",
    "http://evil/v1/models",
    "https://gateway.test/v1/models",
    "*",
    "evil:443",
    "",
    "v1/models",
    "/v1/models#a",
    "/v1/models?a#b",
    "/v1/models\\x",
    "/v1/models;<a>",
    "/a b",
    "/a\x00b",
    "/a\x7fb",
    "/ü",
]


@pytest.mark.parametrize(("raw", "parsed"), CANONICAL.items(), ids=CANONICAL.keys())
def test_canonical_targets_are_taken(raw: str, parsed: tuple[str, str]) -> None:
    """The plain spelling is routed as it is; a model's id is decoded exactly once."""
    assert tuple(parse_target(raw.encode("ascii"))) == parsed


@pytest.mark.parametrize("raw", OTHER_SPELLINGS)
def test_other_spellings_are_refused(raw: str) -> None:
    """Whatever else could be normalised to one of our paths is refused, not normalised."""
    with pytest.raises(InvalidTarget):
        parse_target(raw.encode("utf-8"))


@given(st.binary(max_size=40))
def test_never_two_spellings_of_one_path(tail: bytes) -> None:
    """Of any bytes at all, the ones taken outside the models' ids are their own only spelling."""
    try:
        target = parse_target(b"/" + tail)
    except InvalidTarget:
        return
    if not target.path.startswith("/v1/models/"):
        assert (b"/" + tail).partition(b"?")[0] == target.path.encode("ascii")
