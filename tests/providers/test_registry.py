"""Where requests go: the final URL of every built-in provider and endpoint, and what a base URL becomes."""

import pytest

from securellm.chat import Dialect, Endpoint
from securellm.config.secrets import Secret
from securellm.config.tree import CircuitBreaker, Config
from securellm.config.tree import Provider as Section
from securellm.errors import ConfigError, DestinationRefused
from securellm.providers.base import BreakerSettings
from securellm.providers.registry import ADAPTERS, describe, describe_providers, parse_base_url, providers_with

CHAT, COMPLETIONS, EMBEDDINGS = Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS
RESPONSES, MESSAGES, COUNT_TOKENS = Endpoint.RESPONSES, Endpoint.MESSAGES, Endpoint.COUNT_TOKENS

FINAL_URLS = {
    "openai": {
        CHAT: "https://api.openai.com/v1/chat/completions",
        COMPLETIONS: "https://api.openai.com/v1/completions",
        EMBEDDINGS: "https://api.openai.com/v1/embeddings",
        RESPONSES: "https://api.openai.com/v1/responses",
        MESSAGES: "https://api.openai.com/v1/chat/completions",
    },
    "anthropic": {
        CHAT: "https://api.anthropic.com/v1/messages",
        MESSAGES: "https://api.anthropic.com/v1/messages",
        COUNT_TOKENS: "https://api.anthropic.com/v1/messages/count_tokens",
    },
    "deepseek": {
        CHAT: "https://api.deepseek.com/chat/completions",
        COMPLETIONS: "https://api.deepseek.com/beta/completions",
        RESPONSES: "https://api.deepseek.com/responses",
        MESSAGES: "https://api.deepseek.com/chat/completions",
    },
    "ollama": {
        CHAT: "http://localhost:11434/api/chat",
        COMPLETIONS: "http://localhost:11434/v1/completions",
        EMBEDDINGS: "http://localhost:11434/v1/embeddings",
        RESPONSES: "http://localhost:11434/v1/responses",
        MESSAGES: "http://localhost:11434/api/chat",
    },
    "groq": {
        CHAT: "https://api.groq.com/openai/v1/chat/completions",
        RESPONSES: "https://api.groq.com/openai/v1/responses",
        MESSAGES: "https://api.groq.com/openai/v1/chat/completions",
    },
    "gemini": {
        CHAT: "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        EMBEDDINGS: "https://generativelanguage.googleapis.com/v1beta/openai/embeddings",
        MESSAGES: "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
    },
    "nvidia": {
        CHAT: "https://integrate.api.nvidia.com/v1/chat/completions",
        COMPLETIONS: "https://integrate.api.nvidia.com/v1/completions",
        EMBEDDINGS: "https://integrate.api.nvidia.com/v1/embeddings",
        MESSAGES: "https://integrate.api.nvidia.com/v1/chat/completions",
    },
    "mistral": {
        CHAT: "https://api.mistral.ai/v1/chat/completions",
        EMBEDDINGS: "https://api.mistral.ai/v1/embeddings",
        MESSAGES: "https://api.mistral.ai/v1/chat/completions",
    },
    "openrouter": {
        CHAT: "https://openrouter.ai/api/v1/chat/completions",
        COMPLETIONS: "https://openrouter.ai/api/v1/completions",
        EMBEDDINGS: "https://openrouter.ai/api/v1/embeddings",
        RESPONSES: "https://openrouter.ai/api/v1/responses",
        MESSAGES: "https://openrouter.ai/api/v1/chat/completions",
    },
    "vllm": {
        CHAT: "http://localhost:8000/v1/chat/completions",
        COMPLETIONS: "http://localhost:8000/v1/completions",
        EMBEDDINGS: "http://localhost:8000/v1/embeddings",
        RESPONSES: "http://localhost:8000/v1/responses",
        MESSAGES: "http://localhost:8000/v1/chat/completions",
    },
    "llamacpp": {
        CHAT: "http://localhost:5001/v1/chat/completions",
        COMPLETIONS: "http://localhost:5001/v1/completions",
        EMBEDDINGS: "http://localhost:5001/v1/embeddings",
        RESPONSES: "http://localhost:5001/v1/responses",
        MESSAGES: "http://localhost:5001/v1/chat/completions",
    },
    "demo": {
        CHAT: "demo://demo/v1/chat/completions",
        COMPLETIONS: "demo://demo/v1/completions",
        EMBEDDINGS: "demo://demo/v1/embeddings",
        MESSAGES: "demo://demo/v1/chat/completions",
        COUNT_TOKENS: "demo://demo/v1/messages/count_tokens",
    },
}

MODEL_LISTS = {
    "openai": "https://api.openai.com/v1/models",
    "anthropic": "https://api.anthropic.com/v1/models?limit=1000",
    "deepseek": "https://api.deepseek.com/models",
    "ollama": "http://localhost:11434/api/tags",
    "groq": "https://api.groq.com/openai/v1/models",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai/models",
    "nvidia": "https://integrate.api.nvidia.com/v1/models",
    "mistral": "https://api.mistral.ai/v1/models",
    "openrouter": "https://openrouter.ai/api/v1/models",
    "vllm": "http://localhost:8000/v1/models",
    "llamacpp": "http://localhost:5001/v1/models",
    "demo": None,
}


@pytest.mark.parametrize("name", FINAL_URLS)
def test_final_urls(name: str) -> None:
    """Every endpoint of every built-in provider has exactly the URL that users' firewalls and scripts know."""
    provider = describe(name, Section(enabled=True))
    assert {door: spec.url for door, spec in provider.endpoints.items()} == FINAL_URLS[name]
    assert provider.models_url == MODEL_LISTS[name]


def test_every_built_in_is_pinned() -> None:
    """No family is left out of the tables above; the generic one has no address of its own."""
    assert set(FINAL_URLS) == set(MODEL_LISTS) == set(ADAPTERS) - {"openai-compatible"}


@pytest.mark.parametrize(
    ("name", "base_url", "chat"),
    [
        ("openai", "https://proxy.test", "https://proxy.test/v1/chat/completions"),
        ("openai", "https://proxy.test/", "https://proxy.test/v1/chat/completions"),
        ("openai", "https://proxy.test/v1", "https://proxy.test/v1/chat/completions"),
        ("openai", "https://proxy.test/team/x/", "https://proxy.test/team/x/chat/completions"),
        ("anthropic", "https://proxy.test:8443", "https://proxy.test:8443/v1/messages"),
        ("anthropic", "https://proxy.test/claude", "https://proxy.test/claude/messages"),
        ("deepseek", "https://proxy.test", "https://proxy.test/chat/completions"),
        ("deepseek", "https://proxy.test/v1", "https://proxy.test/v1/chat/completions"),
        ("ollama", "http://gpu.test:11434", "http://gpu.test:11434/api/chat"),
        ("ollama", "http://gpu.test/ollama", "http://gpu.test/ollama/api/chat"),
        ("groq", "https://proxy.test", "https://proxy.test/v1/chat/completions"),
        ("own", "http://[::1]:9000", "http://[::1]:9000/v1/chat/completions"),
        ("own", "http://host.test/api/v3", "http://host.test/api/v3/chat/completions"),
    ],
)
def test_base_urls(name: str, base_url: str, chat: str) -> None:
    """An empty path gets the adapter's prefix; any other path is kept and the endpoint appended; the host is kept."""
    assert describe(name, Section(enabled=True, base_url=base_url)).endpoints[CHAT].url == chat


def test_text_completions_of_deepseek_follow_the_path() -> None:
    """DeepSeek's `/beta` is a prefix for an empty path only: a path that the operator gives is kept as it is."""
    provider = describe("deepseek", Section(enabled=True, base_url="https://proxy.test/beta"))
    assert provider.endpoints[COMPLETIONS].url == "https://proxy.test/beta/completions"


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        ("https://API.Example.test", "https://api.example.test:443"),
        ("http://api.example.test/v1", "http://api.example.test:80"),
        ("https://api.example.test:8443/v1", "https://api.example.test:8443"),
        ("http://[2001:db8::1]/v1", "http://[2001:db8::1]:80"),
    ],
)
def test_origins_write_the_port(base_url: str, origin: str) -> None:
    """An origin is scheme, lower-case host and port, so that two spellings of one place are one."""
    assert describe("own", Section(enabled=True, base_url=base_url)).origin == origin


def test_a_key_is_bound_to_its_origin() -> None:
    """A described provider's key goes to the provider's origin and is refused to any other."""
    provider = describe("openai", Section(enabled=True, api_key=Secret("sk-canary-0123456789")))
    assert provider.api_key is not None
    assert provider.api_key.for_origin("https://api.openai.com:443") == "sk-canary-0123456789"
    with pytest.raises(DestinationRefused):
        provider.api_key.for_origin("https://api.openai.com.evil.test:443")


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://host.test",
        "host.test/v1",
        "https://",
        "https://user:secret-canary@host.test",
        "https://host.test/v1?key=secret-canary",
        "https://host.test/v1#x",
        "https://host.test:0",
        "https://host.test:99999",
    ],
)
def test_bad_base_urls_are_refused(base_url: str) -> None:
    """A base URL that is none, or that carries credentials or a query, is refused without repeating it."""
    with pytest.raises(ConfigError) as caught:
        parse_base_url(base_url, "providers.own.base_url")
    assert "providers.own.base_url" in caught.value.message
    assert "secret-canary" not in caught.value.message


def test_only_enabled_providers_exist() -> None:
    """A provider that is configured and not enabled is not described."""
    config = Config(providers={"openai": Section(enabled=True), "groq": Section(enabled=False)})
    assert list(describe_providers(config)) == ["openai"]


def test_settings_reach_the_description() -> None:
    """What the section says of retries, time, the breaker and models stands on the provider."""
    section = Section(
        enabled=True,
        max_retries=1,
        timeout_secs=7.5,
        num_ctx=8192,
        models=("a",),
        headers_up=("X-Team",),
        max_connections=3,
        circuit_breaker=CircuitBreaker(failure_threshold=9, success_threshold=1, timeout_secs=2.0),
    )
    provider = describe("ollama", section)
    assert (provider.max_retries, provider.timeout_s, provider.num_ctx, provider.models) == (1, 7.5, 8192, ("a",))
    assert provider.headers_up == (b"x-team",)
    assert provider.max_connections == 3
    assert provider.breaker == BreakerSettings(9, 1, 2.0)


def test_kinds() -> None:
    """`openai-compatible` leaves a built-in name its family; another kind gives an own name that family."""
    assert describe("groq", Section(enabled=True, kind="openai-compatible")).kind == "groq"
    assert describe("mine", Section(enabled=True, base_url="https://x.test")).kind == "openai-compatible"
    claude = describe("claude-eu", Section(enabled=True, kind="anthropic", base_url="https://eu.test"))
    assert (claude.name, claude.kind) == ("claude-eu", "anthropic")
    assert claude.endpoints[MESSAGES].url == "https://eu.test/v1/messages"
    with pytest.raises(ConfigError, match="expected one of"):
        describe("mine", Section(enabled=True, kind="opneai"))


def test_an_own_provider_needs_an_address() -> None:
    """Only a built-in has a base URL to fall back on."""
    with pytest.raises(ConfigError, match="needs a base_url"):
        describe("mine", Section(enabled=True))


def test_declared_endpoints() -> None:
    """A compatible server may declare more: Responses as they are, Messages natively instead of translated."""
    section = Section(
        enabled=True, base_url="https://x.test", endpoints=("responses", "messages", "messages.count_tokens")
    )
    provider = describe("mine", section)
    assert provider.endpoints[RESPONSES].url == "https://x.test/v1/responses"
    assert provider.endpoints[MESSAGES].url == "https://x.test/v1/messages"
    assert provider.endpoints[MESSAGES].dialect is Dialect.ANTHROPIC
    assert provider.endpoints[COUNT_TOKENS].url == "https://x.test/v1/messages/count_tokens"
    with pytest.raises(ConfigError, match="expected any of"):
        describe("mine", Section(enabled=True, base_url="https://x.test", endpoints=("respones",)))
    with pytest.raises(ConfigError, match="OpenAI's dialect"):
        describe("anthropic", Section(enabled=True, endpoints=("responses",)))


def test_declared_hosts() -> None:
    """An address that the operator wrote, or that is this machine by definition, may be private; no other may."""
    assert not describe("openai", Section(enabled=True)).declared_host
    assert describe("openai", Section(enabled=True, base_url="https://10.0.0.1")).declared_host
    assert describe("ollama", Section(enabled=True)).declared_host


def test_the_demo_has_no_address() -> None:
    """The built-in demo cannot be turned into a provider on the network."""
    with pytest.raises(ConfigError, match="has no base_url"):
        describe("demo", Section(enabled=True, kind="demo", base_url="https://x.test"))


def test_who_has_an_endpoint() -> None:
    """Messages about a missing endpoint can name the providers that have it."""
    config = Config(providers={name: Section(enabled=True) for name in ("openai", "anthropic", "mistral")})
    assert providers_with(describe_providers(config), EMBEDDINGS) == ["openai", "mistral"]
    assert providers_with(describe_providers(config), COUNT_TOKENS) == ["anthropic"]


def test_usage_in_streams_is_not_asked_of_those_who_refuse() -> None:
    """Mistral answers `include_usage` with 422 and Anthropic has no such field; the others are asked."""
    asked = {name for name, adapter in ADAPTERS.items() if adapter.quirks.include_usage == "inject"}
    assert set(ADAPTERS) - asked == {"mistral", "anthropic"}
