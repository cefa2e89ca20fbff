"""Which front door is answered by which provider: the table over which the contract suite runs."""

from dataclasses import dataclass

from rig import doors, speech
from rig.doors import Door
from rig.script import Step, answer, stream
from rig.speech import Speech, Tool


@dataclass(frozen=True)
class Pair:
    """A door in front of a provider: what the provider is called, where it is asked and how it speaks there."""

    door: Door
    provider: str
    path: str
    speech: Speech
    same_dialect: bool

    @property
    def model(self) -> str:
        """The model as the caller names it."""
        return f"{self.provider}/{speech.MODEL}"

    def __str__(self) -> str:
        return f"{self.door.name}-{self.provider}"

    def answers(self, text: str = "Hello", tools: tuple[Tool, ...] = (), *, stream_it: bool = False) -> list[Step]:
        """The script of a good answer."""
        if not stream_it:
            return answer(200, self.speech.whole(text, tools))
        assert self.speech.events is not None
        return stream(self.speech.events((text[: len(text) // 2], text[len(text) // 2 :]), tools), self.speech.kind)


PAIRS = (
    Pair(doors.CHAT, "openai", "/v1/chat/completions", speech.CHAT, True),
    Pair(doors.CHAT, "deepseek", "/chat/completions", speech.CHAT, True),
    Pair(doors.CHAT, "compat", "/v1/chat/completions", speech.CHAT, True),
    Pair(doors.CHAT, "anthropic", "/v1/messages", speech.MESSAGES, False),
    Pair(doors.CHAT, "ollama", "/api/chat", speech.OLLAMA, False),
    Pair(doors.MESSAGES, "anthropic", "/v1/messages", speech.MESSAGES, True),
    Pair(doors.MESSAGES, "openai", "/v1/chat/completions", speech.CHAT, False),
    Pair(doors.MESSAGES, "deepseek", "/chat/completions", speech.CHAT, False),
    Pair(doors.MESSAGES, "compat", "/v1/chat/completions", speech.CHAT, False),
    Pair(doors.MESSAGES, "ollama", "/api/chat", speech.OLLAMA, False),
    Pair(doors.COMPLETIONS, "openai", "/v1/completions", speech.COMPLETIONS, True),
    Pair(doors.EMBEDDINGS, "openai", "/v1/embeddings", speech.EMBEDDINGS, True),
    Pair(doors.RESPONSES, "openai", "/v1/responses", speech.RESPONSES, True),
    Pair(doors.COUNT_TOKENS, "anthropic", "/v1/messages/count_tokens", speech.COUNT_TOKENS, True),
)

PROVIDER_KINDS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "deepseek": "deepseek",
    "ollama": "ollama",
    "compat": "openai-compatible",
}
STREAMED = tuple(pair for pair in PAIRS if pair.speech.events is not None)
# One streamed pair for each (door, dialect of the provider): enough where the provider's name makes no difference.
FAMILIES = tuple(pair for pair in STREAMED if pair.provider not in {"deepseek", "compat"})
