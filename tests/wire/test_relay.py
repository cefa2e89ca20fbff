"""Which relay is opened for which pair of dialects."""

import pytest

from securellm.chat import Dialect, Endpoint, Relay
from securellm.wire.relay import open_relay
from securellm.wire.scan_anthropic import AnthropicScan
from securellm.wire.scan_openai import OpenAIScan
from securellm.wire.scan_responses import ResponsesScan

USAGE_CHUNK = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'


def opened(endpoint: Endpoint, dialect: Dialect, *, show_usage: bool = False, injected_usage: bool = False) -> Relay:
    """A relay."""
    return open_relay(
        endpoint,
        dialect,
        stream=True,
        show_usage=show_usage,
        injected_usage=injected_usage,
        request_id="rid",
        model="p/m",
        created_s=5,
    )


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        (Endpoint.CHAT, OpenAIScan),
        (Endpoint.COMPLETIONS, OpenAIScan),
        (Endpoint.EMBEDDINGS, OpenAIScan),
        (Endpoint.RESPONSES, ResponsesScan),
        (Endpoint.MESSAGES, AnthropicScan),
        (Endpoint.COUNT_TOKENS, AnthropicScan),
    ],
)
def test_the_same_dialect_is_scanned(endpoint: Endpoint, kind: type) -> None:
    """The provider's bytes pass where both sides speak alike."""
    assert type(opened(endpoint, endpoint.dialect)) is kind


@pytest.mark.parametrize(
    ("endpoint", "dialect"),
    [
        (Endpoint.CHAT, Dialect.ANTHROPIC),
        (Endpoint.CHAT, Dialect.OLLAMA),
        (Endpoint.MESSAGES, Dialect.OPENAI),
        (Endpoint.MESSAGES, Dialect.OLLAMA),
    ],
)
def test_different_dialects_are_translated(endpoint: Endpoint, dialect: Dialect) -> None:
    """A translating relay fulfils the same protocol."""
    relay = opened(endpoint, dialect)
    assert not isinstance(relay, OpenAIScan | AnthropicScan | ResponsesScan)
    assert (relay.terminal, relay.failure, relay.meter.usage) == (False, None, None)


@pytest.mark.parametrize(
    ("show_usage", "injected_usage", "shown"),
    [(False, True, False), (True, True, True), (True, False, True), (False, False, True)],
)
def test_usage_is_hidden_only_where_we_asked_for_it(show_usage: bool, injected_usage: bool, shown: bool) -> None:
    """What the provider sends of itself stays; what only we asked for goes."""
    relay = opened(Endpoint.CHAT, Dialect.OPENAI, show_usage=show_usage, injected_usage=injected_usage)
    assert (relay.feed(USAGE_CHUNK).data == USAGE_CHUNK) is shown
