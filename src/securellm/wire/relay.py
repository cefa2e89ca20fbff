"""Which relay turns a provider's answer into the caller's: bytes as they are, or a translation. Pure."""

from securellm.chat import Dialect, Endpoint, Relay
from securellm.wire.scan_anthropic import AnthropicScan
from securellm.wire.scan_openai import OpenAIScan
from securellm.wire.scan_responses import ResponsesScan

_SCANS: dict[Dialect, type[OpenAIScan | AnthropicScan | ResponsesScan]] = {
    Dialect.OPENAI: OpenAIScan,
    Dialect.ANTHROPIC: AnthropicScan,
    Dialect.RESPONSES: ResponsesScan,
}


def open_relay(
    endpoint: Endpoint,
    provider_dialect: Dialect,
    *,
    stream: bool,
    show_usage: bool,
    injected_usage: bool,
    request_id: str,
    model: str,
    created_s: int,
    num_ctx: int | None = None,
) -> Relay:
    """The relay of one attempt.

    `show_usage`: the caller asked for usage in the stream; `injected_usage`: we asked the provider for it, so what only
    we asked for is removed again. `model` and `created_s` are what an answer shows that the provider has not written.
    `num_ctx` is the window that Ollama was told to use.
    """
    if endpoint.dialect is provider_dialect:
        return _SCANS[provider_dialect](
            hide_usage=injected_usage and not show_usage,
            request_id=request_id,
            model=model,
            created_s=created_s,
        )
    from securellm.wire.translate import open_translating_relay  # most requests never need a translator

    return open_translating_relay(
        endpoint,
        provider_dialect,
        stream=stream,
        show_usage=show_usage,
        injected_usage=injected_usage,
        request_id=request_id,
        model=model,
        created_s=created_s,
        num_ctx=num_ctx,
    )
