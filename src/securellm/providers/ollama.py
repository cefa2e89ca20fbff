"""Ollama: http://localhost:11434. Pure.

Chat goes to the native `/api/chat`: its OpenAI-compatible endpoint cannot set the context window, and cuts longer
prompts silently. Completions, embeddings and Responses (stateless, since 0.13.3) go to its OpenAI-compatible endpoints.
Source: docs.ollama.com/api and docs.ollama.com/api/openai-compatibility, read 2026-11.
"""

from securellm.chat import Dialect, Endpoint
from securellm.providers.base import Adapter, EndpointPath

ADAPTER = Adapter(
    name="ollama",
    base_url="http://localhost:11434",
    prefix="",
    endpoints={
        Endpoint.CHAT: EndpointPath("/api/chat", Dialect.OLLAMA),
        Endpoint.MESSAGES: EndpointPath("/api/chat", Dialect.OLLAMA),
        Endpoint.COMPLETIONS: EndpointPath("/v1/completions", Dialect.OPENAI),
        Endpoint.EMBEDDINGS: EndpointPath("/v1/embeddings", Dialect.OPENAI),
        Endpoint.RESPONSES: EndpointPath("/v1/responses", Dialect.RESPONSES),
    },
    models=EndpointPath("/api/tags", Dialect.OLLAMA),
    needs_key=False,  # its hosted service takes a Bearer key, which is sent when configured
    local=True,
)
