"""DeepSeek: https://api.deepseek.com. Pure.

Source: api-docs.deepseek.com, read 2026-11. Its OpenAI dialect lives without `/v1`; text completions (fill in the
middle) are a beta under `/beta`; Responses are recorded under `/responses`. No embeddings.
"""

from securellm.chat import Dialect, Endpoint
from securellm.providers.base import Adapter, EndpointPath, Quirks
from securellm.wire.words import Capabilities

ADAPTER = Adapter(
    name="deepseek",
    base_url="https://api.deepseek.com",
    prefix="",
    endpoints={
        Endpoint.CHAT: EndpointPath("/chat/completions", Dialect.OPENAI),
        Endpoint.COMPLETIONS: EndpointPath("/completions", Dialect.OPENAI, prefix="/beta"),
        Endpoint.RESPONSES: EndpointPath("/responses", Dialect.RESPONSES),
        Endpoint.MESSAGES: EndpointPath("/chat/completions", Dialect.OPENAI),
    },
    models=EndpointPath("/models", Dialect.OPENAI),
    # JSON output is `json_object` only; content is text (a `file` part was answered with 400, recorded).
    quirks=Quirks(
        capabilities=Capabilities(
            max_completion_tokens=False, thinking_switch=True, json_schema=False, files=False, content_parts=False
        )
    ),
)
