"""Servers that speak OpenAI's dialect: groq, gemini, nvidia, mistral, openrouter, vllm, llamacpp, any other. Pure.

Each has chat completions and a list of models, and answers the Messages door by way of chat; what else it has is named
here from its documentation (read 2026-11). A provider whose server has more says so with `endpoints` in its section.
"""

from securellm.chat import Dialect, Endpoint
from securellm.providers.base import Adapter, EndpointPath, Quirks
from securellm.wire.words import Capabilities

PATHS = {
    Endpoint.CHAT: EndpointPath("/chat/completions", Dialect.OPENAI),
    Endpoint.COMPLETIONS: EndpointPath("/completions", Dialect.OPENAI),
    Endpoint.EMBEDDINGS: EndpointPath("/embeddings", Dialect.OPENAI),
    Endpoint.RESPONSES: EndpointPath("/responses", Dialect.RESPONSES),
    Endpoint.MESSAGES: EndpointPath("/messages", Dialect.ANTHROPIC),  # only when declared: the native one
    Endpoint.COUNT_TOKENS: EndpointPath("/messages/count_tokens", Dialect.ANTHROPIC),
}
# Where a server that says it has an endpoint has it: OpenAI's paths, Anthropic's for the Messages family.

_MODELS = EndpointPath("/models", Dialect.OPENAI)
_PLAIN = Quirks(capabilities=Capabilities(max_completion_tokens=False))
# `max_tokens` is understood by all of them, the newer name by some.

_LOCAL = Quirks(capabilities=Capabilities(max_completion_tokens=False, files=False, top_k=True))
# vLLM and llama-server take the samplers of the engines below them.


def _adapter(
    name: str, base_url: str, *also: Endpoint, needs_key: bool = True, local: bool = False, quirks: Quirks = _PLAIN
) -> Adapter:
    return Adapter(
        name=name,
        base_url=base_url,
        endpoints={
            Endpoint.CHAT: PATHS[Endpoint.CHAT],
            Endpoint.MESSAGES: PATHS[Endpoint.CHAT],
            **{endpoint: PATHS[endpoint] for endpoint in also},
        },
        models=_MODELS,
        needs_key=needs_key,
        local=local,
        quirks=quirks,
    )


ADAPTERS = (
    # console.groq.com/docs/api-reference: chat, responses (beta), models. Unknown message fields are refused, so
    # `reasoning_content` is, too.
    _adapter(
        "groq",
        "https://api.groq.com/openai/v1",
        Endpoint.RESPONSES,
        quirks=Quirks(capabilities=Capabilities(reasoning_content=False, files=False)),
    ),
    # ai.google.dev/gemini-api/docs/openai: chat, embeddings, models (ids come as `models/<id>`).
    _adapter(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        Endpoint.EMBEDDINGS,
        quirks=Quirks(
            capabilities=Capabilities(
                reasoning_content=False, max_completion_tokens=False, files=False, parallel_tool_calls=False
            ),
            model_id_prefix="models/",
        ),
    ),
    # docs.api.nvidia.com/nim: chat, completions of the models that have them, embeddings.
    _adapter("nvidia", "https://integrate.api.nvidia.com/v1", Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS),
    # docs.mistral.ai/api: chat, embeddings. It refuses `stream_options.include_usage` with 422 (recorded) and reports
    # usage in the last chunk of every stream; it refuses unknown fields, max_completion_tokens among them.
    _adapter(
        "mistral",
        "https://api.mistral.ai/v1",
        Endpoint.EMBEDDINGS,
        quirks=Quirks(
            include_usage="always",
            capabilities=Capabilities(
                reasoning_content=False, max_completion_tokens=False, stream_usage=False, files=False
            ),
        ),
    ),
    # openrouter.ai/docs/api-reference: chat, completions, embeddings, responses (beta). `models` lists whom it asks
    # when the first cannot answer (openrouter.ai/docs/features/model-routing).
    _adapter(
        "openrouter",
        "https://openrouter.ai/api/v1",
        Endpoint.COMPLETIONS,
        Endpoint.EMBEDDINGS,
        Endpoint.RESPONSES,
        quirks=Quirks(
            capabilities=Capabilities(max_completion_tokens=False, top_k=True, reasoning_details=True),
            other_models=("models",),
        ),
    ),
    # docs.vllm.ai/en/latest/serving/openai_compatible_server: all four on one server.
    _adapter(
        "vllm",
        "http://localhost:8000/v1",
        Endpoint.COMPLETIONS,
        Endpoint.EMBEDDINGS,
        Endpoint.RESPONSES,
        needs_key=False,
        local=True,
        quirks=_LOCAL,
    ),
    # github.com/ggml-org/llama.cpp/tree/master/tools/server: chat, completions, embeddings, responses. The port is the
    # Rust proxy's, kept; llama-server's own default is 8080, which is ours.
    _adapter(
        "llamacpp",
        "http://localhost:5001",
        Endpoint.COMPLETIONS,
        Endpoint.EMBEDDINGS,
        Endpoint.RESPONSES,
        needs_key=False,
        local=True,
        quirks=_LOCAL,
    ),
    # Any other: the operator gives base_url. Completions and embeddings are plain; Responses must be declared.
    _adapter("openai-compatible", "", Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS, needs_key=False),
)
