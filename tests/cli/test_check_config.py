"""check-config and info: what they print and what they end with."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from securellm.cli.group import cli

CLEAN = {
    "CONFIG_PATH": None,
    "STATE_DIRECTORY": "/nonexistent",
    **dict.fromkeys(("OPENAI_API_KEY", "GROQ_API_KEY", "ANTHROPIC_API_KEY", "API_KEYS")),
}


def _run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env={**CLEAN, **environ})


def test_no_mistakes() -> None:
    """Without a file: the defaults are fine, and the enabled providers are named."""
    done = _run("check-config", OPENAI_API_KEY="sk-x")
    assert done.exit_code == 0
    first, second = done.output.splitlines()
    assert first == "defaults and environment (no file): no mistakes"
    assert second.startswith("providers: openai, demo; epoch ")


def test_every_mistake_and_exit_code_1(tmp_path: Path) -> None:
    """All mistakes are told with line and nearest name; the end is 1; nothing goes to standard output."""
    path = tmp_path / "config.toml"
    path.write_text("[server]\nprot = 1\nhost = 5\n")
    done = _run("check-config", "--config", str(path))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "line 2: server.prot: unknown setting; did you mean server.port?" in done.stderr
    assert "line 3: server.host: got 5, expected a text that is not empty" in done.stderr


def test_routes_are_followed(tmp_path: Path) -> None:
    """Guarantee 43: a bare alias that no catalogue knows is found by following it, one that is known is fine."""
    path = tmp_path / "config.toml"
    text = '[providers.openai]\napi_key = "env:OPENAI_API_KEY"\n[aliases]\nfast = "gpt-4o-mini"\n'
    path.write_text(text)
    assert _run("check-config", "--config", str(path), OPENAI_API_KEY="sk-x").exit_code == 0
    path.write_text(text + 'slow = "no-such-model"\n')
    done = _run("check-config", "--config", str(path), OPENAI_API_KEY="sk-x")
    assert done.exit_code == 1
    assert "has a route that leads nowhere:\n  aliases.slow: no provider owns model no-such-model" in done.stderr


def test_print_shows_no_secret() -> None:
    """--print shows the effective configuration with stars for secrets."""
    done = _run("check-config", "--print", OPENAI_API_KEY="sk-CANARY", API_KEYS="slb_CANARY_long_enough")
    assert done.exit_code == 0
    assert "CANARY" not in done.output
    assert '[providers.openai]\nenabled = true\nkind = "openai"\napi_key = "***"' in done.output


def test_warnings_go_to_standard_error() -> None:
    """What is only a warning does not change the end."""
    done = _run("check-config", OTLP_ENDPOINT="http://CANARY")
    assert done.exit_code == 0
    assert "warning: OTLP_ENDPOINT is set, but telemetry.otlp_endpoint is not built in this version" in done.stderr
    assert "CANARY" not in done.output


def test_info_of_a_provider_that_is_off() -> None:
    """Final URLs, the state of the key, and the command that turns it on."""
    done = _run("info", "groq")
    assert done.exit_code == 0
    assert "groq (groq): not enabled" in done.output
    assert "https://api.groq.com/openai/v1/chat/completions" in done.output
    assert "missing (GROQ_API_KEY or api_key in the file)" in done.output
    assert done.output.endswith("Enable it with: GROQ_API_KEY=<your key> securellm serve\n")


def test_info_of_a_provider_that_is_on() -> None:
    """The key is told as set and never shown; the operator's own URL is used."""
    done = _run("info", "openai", OPENAI_API_KEY="sk-CANARY", OPENAI_BASE_URL="http://box:9/proxy")
    assert "openai (openai): enabled" in done.output
    assert "http://box:9/proxy/chat/completions" in done.output
    assert "CANARY" not in done.output


@pytest.mark.parametrize(("name", "said"), [("demo", "demo/echo"), ("vllm", "none needed"), ("ollama", "/api/chat")])
def test_info_of_others(name: str, said: str) -> None:
    """Providers without a key, and the demo, have their own words."""
    done = _run("info", name)
    assert done.exit_code == 0
    assert said in done.output


def test_info_of_nothing() -> None:
    """An unknown provider comes with the nearest one."""
    done = _run("info", "opneai")
    assert done.exit_code == 1
    assert "no provider opneai. Did you mean: securellm info openai" in done.output
