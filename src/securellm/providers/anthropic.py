"""Anthropic: https://api.anthropic.com. Pure.

Source: docs.anthropic.com/en/api, read 2026-11. It has no text completions of OpenAI's kind, no embeddings and no
Responses; the chat door is answered by Messages. Usage is part of every stream.
"""

from securellm.chat import Dialect, Endpoint
from securellm.providers.base import Adapter, Auth, EndpointPath, Quirks

DEFAULT_VERSION = b"2023-06-01"  # sent as `anthropic-version` when the caller names none

ADAPTER = Adapter(
    name="anthropic",
    base_url="https://api.anthropic.com",
    endpoints={
        Endpoint.MESSAGES: EndpointPath("/messages", Dialect.ANTHROPIC),
        Endpoint.COUNT_TOKENS: EndpointPath("/messages/count_tokens", Dialect.ANTHROPIC),
        Endpoint.CHAT: EndpointPath("/messages", Dialect.ANTHROPIC),
    },
    # Twenty to a page by default; 1000 is the most it gives, so one request is the whole list.
    models=EndpointPath("/models?limit=1000", Dialect.ANTHROPIC),
    auth=Auth.X_API_KEY,
    quirks=Quirks(include_usage="always", other_models=("fallbacks",)),  # fallbacks: whom it asks after a refusal
)
