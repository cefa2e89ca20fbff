"""OpenAI: https://api.openai.com. Pure.

Source: platform.openai.com/docs/api-reference, read 2026-11. The Messages door is answered by chat completions. There
is no endpoint that counts the tokens of a Messages body, so the gateway counts them itself.
"""

from securellm.chat import Dialect, Endpoint
from securellm.providers.base import Adapter, EndpointPath, Quirks
from securellm.wire.words import Capabilities

ADAPTER = Adapter(
    name="openai",
    base_url="https://api.openai.com",
    endpoints={
        Endpoint.CHAT: EndpointPath("/chat/completions", Dialect.OPENAI),
        Endpoint.COMPLETIONS: EndpointPath("/completions", Dialect.OPENAI),
        Endpoint.EMBEDDINGS: EndpointPath("/embeddings", Dialect.OPENAI),
        Endpoint.RESPONSES: EndpointPath("/responses", Dialect.RESPONSES),
        Endpoint.MESSAGES: EndpointPath("/chat/completions", Dialect.OPENAI),
    },
    models=EndpointPath("/models", Dialect.OPENAI),
    # Reasoning models refuse `max_tokens`; every current chat model takes `max_completion_tokens`. Messages with
    # `reasoning_content` are refused. Its SDKs send an idempotency key on every POST that they may repeat.
    quirks=Quirks(capabilities=Capabilities(reasoning_content=False, max_completion_tokens=True), idempotency_key=True),
)
