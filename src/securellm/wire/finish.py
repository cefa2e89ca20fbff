"""Why a model stopped: every dialect's word and OpenAI's for it, both ways. Pure.

The maps are total: a word that is not in them passes through unchanged, and the provider's own word always travels
beside the translated one (`native_finish_reason` on OpenAI choices, `native_stop_reason` on Anthropic messages).
Sources: the types StopReason of anthropic 2.12 and Choice.finish_reason of openai 3.54 (November 2026); done_reason of
Ollama's server (stop, length, load, unload).
"""

from securellm.chat import Dialect

_TO_OPENAI: dict[Dialect, dict[str, str]] = {
    Dialect.OPENAI: {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "content_filter": "content_filter",
        "function_call": "tool_calls",
    },
    Dialect.ANTHROPIC: {
        "end_turn": "stop",
        "max_tokens": "length",
        "stop_sequence": "stop",
        "tool_use": "tool_calls",
        "pause_turn": "stop",
        "refusal": "content_filter",
        "model_context_window_exceeded": "length",
    },
    Dialect.RESPONSES: {"max_output_tokens": "length", "max_tokens": "length"},  # why a response is incomplete
    Dialect.OLLAMA: {"stop": "stop", "length": "length", "load": "stop", "unload": "stop"},
}

_TO_ANTHROPIC = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def finish_reason(dialect: Dialect, native: str) -> str:
    """OpenAI's word for a provider's reason to stop."""
    return _TO_OPENAI[dialect].get(native, native)


def stop_reason(finish: str) -> str:
    """Anthropic's word for one of OpenAI's."""
    return _TO_ANTHROPIC.get(finish, finish)
