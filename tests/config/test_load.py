"""Loading: which source goes before which, what is enabled, where things live, and what every variable does."""

from pathlib import Path

import pytest

from securellm.config import Config, ConfigMistakes, load_config
from securellm.config.table import BUILT_IN
from securellm.config.tree import Rates
from securellm.config.values import FALSE_WORDS, TRUE_WORDS

SAMPLE = Path(__file__).parent / "sample.toml"
SAMPLE_ENVIRON = {
    "SAMPLE_OPENAI_KEY": "sk-sample-openai",
    "SAMPLE_CALLER_KEY": "slb_sample",
    "SAMPLE_SIGNING_KEY": "11" * 32,
    "SAMPLE_REDIS_URL": "redis://:secret@127.0.0.1:6379/0",
    "SAMPLE_CONTENT_KEY": "22" * 32,
}


def _load(text: str = "", *, folder: Path, flags: dict[str, str] | None = None, **environ: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text)
    environ.setdefault("STATE_DIRECTORY", str(folder / "state"))
    return load_config(environ={"CONFIG_PATH": str(path), **environ}, flags=flags)


def _enabled(config: Config) -> list[str]:
    return [name for name, provider in config.providers.items() if provider.enabled]


def _mistakes(**environ: str) -> list[str]:
    with pytest.raises(ConfigMistakes) as caught:
        load_config(environ=environ)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_without_any_file(tmp_path: Path) -> None:
    """No file, no variable: loopback, port 8080, a key is needed, only the demo answers."""
    config = load_config(environ={"STATE_DIRECTORY": str(tmp_path)})
    assert (config.server.host, config.server.port, config.security.require_auth) == ("127.0.0.1", 8080, True)
    assert _enabled(config) == ["demo"]
    assert (config.source, config.warnings) == (None, ())


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each source goes over the one before it, setting by setting."""
    text = "[server]\nport = 1001\nhost = 'filehost'\n"
    assert _load(folder=tmp_path).server.port == 8080
    assert _load(text, folder=tmp_path).server.port == 1001
    assert _load(text, folder=tmp_path, SERVER_PORT="1002").server.port == 1002
    config = _load(text, folder=tmp_path, SERVER_PORT="1002", flags={"server.port": "1003"})
    assert (config.server.port, config.server.host) == (1003, "filehost")


def test_a_flag_is_checked_like_everything_else(tmp_path: Path) -> None:
    """A wrong flag is told by its name."""
    with pytest.raises(ConfigMistakes, match=r"--port: got 'many', expected an integer"):
        load_config(environ={"STATE_DIRECTORY": str(tmp_path)}, flags={"server.port": "many"})


def test_an_empty_variable_is_unset(tmp_path: Path) -> None:
    """An empty variable leaves the file's value."""
    assert _load("[server]\nport = 1001\n", folder=tmp_path, SERVER_PORT="").server.port == 1001


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """CONFIG_PATH and --config name a file that must be there, even when the default need not."""
    missing = tmp_path / "missing.toml"
    assert _mistakes(CONFIG_PATH=str(missing)) == [f"{missing}: cannot be read: No such file or directory"]
    with pytest.raises(ConfigMistakes, match="cannot be read"):
        load_config(missing, environ={})


def test_the_flag_goes_before_config_path(tmp_path: Path) -> None:
    """The path that is passed wins over CONFIG_PATH."""
    (tmp_path / "a.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "b.toml").write_text("[server]\nport = 2\n")
    config = load_config(tmp_path / "a.toml", environ={"CONFIG_PATH": str(tmp_path / "b.toml")})
    assert (config.server.port, config.source) == (1, tmp_path / "a.toml")


def test_the_sample_loads() -> None:
    """The sample has every built setting and no mistake."""
    config = load_config(SAMPLE, environ=SAMPLE_ENVIRON)
    assert _enabled(config) == ["openai", "ollama", "my-box"]
    assert config.providers["openai"].api_key is not None
    assert config.providers["openai"].api_key.reveal() == "sk-sample-openai"
    assert config.models["my-box/*"].free
    assert config.server.request_timeout_secs == config.timeouts.total_s == 300


def _mutants(text: str) -> list[tuple[int, str, str]]:
    """Every key and section name of the sample with one letter changed: line, the mutant's key, the mutant."""
    lines = text.splitlines()
    mutants = []
    for number, line in enumerate(lines):
        key = line.strip("[]") if line.startswith("[") else line.partition("=")[0].strip()
        if not key or line.startswith("#") or key.startswith(("aliases.", "providers.my-box")) or '"' in key:
            continue
        if number and _section(lines, number) == "aliases" and "=" in line:
            continue  # an alias may have any name
        at = line.index(key) + len(key) // 2
        letter = "x" if line[at] != "x" else "y"
        changed = line[:at] + letter + line[at + 1 :]
        new_key = key[: len(key) // 2] + letter + key[len(key) // 2 + 1 :]
        mutants.append((number + 1, new_key, "\n".join([*lines[:number], changed, *lines[number + 1 :]])))
    return mutants


def _section(lines: list[str], number: int) -> str:
    return next((line.strip("[]") for line in reversed(lines[:number]) if line.startswith("[")), "")


MUTANTS = _mutants(SAMPLE.read_text())


def test_there_are_many_mutants() -> None:
    """The mutations cover the sample."""
    assert len(MUTANTS) > 50


@pytest.mark.parametrize(("line", "key", "text"), MUTANTS, ids=[f"{line}-{key}" for line, key, _ in MUTANTS])
def test_one_wrong_letter_is_told(line: int, key: str, text: str, tmp_path: Path) -> None:
    """Guarantee 43: one wrong letter in any key is an error that names it and its line; secrets stay secret."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigMistakes) as caught:
        load_config(path, environ=SAMPLE_ENVIRON)
    told = [mistake for mistake in caught.value.mistakes if mistake.line == line]
    assert told, str(caught.value)
    assert any(mistake.place.endswith(key) or key.startswith(mistake.place) for mistake in told)
    assert all(secret not in str(caught.value) for secret in SAMPLE_ENVIRON.values())


def test_every_mistake_at_once(tmp_path: Path) -> None:
    """Mistakes of the file come first, by line, then those of the environment."""
    with pytest.raises(ConfigMistakes) as caught:
        _load("[timeouts]\nidle_s = 0\n[server]\nprot = 1\n", folder=tmp_path, REQUIRE_AUTH="ture", SERVER_PORT="x")
    assert [mistake.line for mistake in caught.value.mistakes] == [2, 4, None, None]
    assert str(caught.value).startswith(f"4 mistakes in the configuration ({tmp_path / 'config.toml'}):\n  line 2: ")


@pytest.mark.parametrize("word", [*TRUE_WORDS, *FALSE_WORDS, "TRUE", "Off"])
def test_words_for_truth(word: str) -> None:
    """The environment has eight words for true and false, in any case."""
    config = load_config(environ={"REQUIRE_AUTH": word, "STATE_DIRECTORY": "/s"})
    assert config.security.require_auth is (word.lower() in TRUE_WORDS)


@pytest.mark.parametrize("word", ["ture", "y", "2", "enabled", "none", "truee"])
def test_other_words_are_mistakes(word: str) -> None:
    """Anything else is an error that names the variable."""
    (told,) = _mistakes(REQUIRE_AUTH=word)
    assert told.startswith(f"environment variable REQUIRE_AUTH: got '{word}', expected one of true, 1, yes, on")


def test_the_variables_of_the_server() -> None:
    """SERVER_*, LOG_LEVEL, LOG_DIR and DATABASE_URL reach their settings."""
    config = load_config(
        environ={
            "SERVER_HOST": "0.0.0.0",
            "SERVER_PORT": "9999",
            "SERVER_WORKERS": "1",
            "LOG_LEVEL": "WARN",
            "LOG_DIR": "/var/log/here",
            "DATABASE_URL": "sqlite:/srv/keys.db",
            "STATE_DIRECTORY": "/srv/state:/srv/other",
        }
    )
    assert (config.server.host, config.server.port, config.server.workers) == ("0.0.0.0", 9999, 1)
    assert (config.telemetry.log_level, config.log_dir) == ("warn", Path("/var/log/here"))
    assert (config.database.path, config.state_dir) == (Path("/srv/keys.db"), Path("/srv/state"))
    assert config.database.url == "sqlite:////srv/keys.db"


def test_the_audit(tmp_path: Path) -> None:
    """It is on and strict without a word; paths are made absolute, keys resolved, and they count as secrets."""
    default = load_config(environ={"STATE_DIRECTORY": "/s"}).audit
    assert (default.enabled, default.mode, default.retention_days, default.commit_timeout_s) == (True, "strict", 90, 5)
    path = tmp_path / "config.toml"
    path.write_text(
        '[audit]\nlog_path = "logs"\ncheckpoint_copy = "/mnt/copies"\n'
        'signing_key = "env:SIGNS"\ncontent_key = "env:SEALS"\n'
    )
    config = load_config(path, environ={"STATE_DIRECTORY": "/s", "SIGNS": "11" * 32, "SEALS": "22" * 32})
    assert config.log_dir == config.audit.log_path == Path("logs").absolute()
    assert config.audit.checkpoint_copy == Path("/mnt/copies")
    assert [secret.reveal() for secret in config.secrets()] == ["11" * 32, "22" * 32]


@pytest.mark.parametrize(
    ("text", "default", "chat", "modes"),
    [
        ("", "none", None, {"none"}),
        ('[audit]\ncontent = "hash"', "hash", None, {"hash"}),
        ('[audit.content]\nchat = "full"', "none", "full", {"none", "full"}),
        ('[audit.content]\ndefault = "hash"\nchat = "redacted"', "hash", "redacted", {"hash", "redacted"}),
    ],
)
def test_what_is_recorded_of_bodies(text: str, default: str, chat: str | None, modes: set[str], tmp_path: Path) -> None:
    """`content` is one mode for all doors, or a table with a default and doors of their own."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    content = load_config(path, environ={"STATE_DIRECTORY": "/s"}).audit.content
    assert (content.default, content.chat, content.modes()) == (default, chat, modes)


def test_the_keys_of_callers() -> None:
    """API_KEYS is a comma list of values, REQUIRE_AUTH turns authentication off."""
    config = load_config(environ={"API_KEYS": "slb_one, slb_two,", "REQUIRE_AUTH": "false", "STATE_DIRECTORY": "/s"})
    assert [key.reveal() for key in config.security.api_keys] == ["slb_one", "slb_two"]
    assert not config.security.require_auth


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "demo"])
def test_the_variables_of_a_provider(name: str) -> None:
    """<PROVIDER>_API_KEY enables it, _BASE_URL moves it, _ENABLED has the last word, for every built-in one."""
    upper = name.upper()
    variables = {f"{upper}_API_KEY": "sk-value", f"{upper}_BASE_URL": "http://box:9/v1", "STATE_DIRECTORY": "/s"}
    provider = load_config(environ=variables).providers[name]
    assert provider.enabled
    assert provider.base_url == "http://box:9/v1"
    assert provider.api_key is not None
    assert provider.api_key.reveal() == "sk-value"
    assert not load_config(environ={**variables, f"{upper}_ENABLED": "false"}).providers[name].enabled


def test_the_variables_of_a_declared_provider(tmp_path: Path) -> None:
    """A provider that the file declares has variables too, `-` as `_`."""
    text = '[providers.my-box]\nkind = "openai-compatible"\nbase_url = "http://box:1"\n'
    config = _load(text, folder=tmp_path, MY_BOX_API_KEY="sk-value", MY_BOX_BASE_URL="http://box:2/v1")
    provider = config.providers["my-box"]
    assert (provider.enabled, provider.base_url) == (True, "http://box:2/v1")


def test_a_wrong_truth_of_a_provider_names_the_variable() -> None:
    """A typo in <PROVIDER>_ENABLED does not silently enable or disable."""
    (told,) = _mistakes(OLLAMA_ENABLED="yess")
    assert told.startswith("environment variable OLLAMA_ENABLED: got 'yess', expected one of")


def test_llamacpp_model_name() -> None:
    """LLAMACPP_MODEL_NAME is the one model of llamacpp."""
    environ = {"LLAMACPP_ENABLED": "1", "LLAMACPP_MODEL_NAME": "qwen", "STATE_DIRECTORY": "/s"}
    assert load_config(environ=environ).providers["llamacpp"].models == ("qwen",)


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("", []),
        ("[providers.ollama]\nnum_ctx = 8192\n", ["ollama"]),
        ("[providers.vllm]\nmax_retries = 1\n", ["vllm"]),
        ('[providers.openai]\nbase_url = "http://box:1"\n', ["openai"]),
        ("[providers.openai]\nmax_retries = 1\n", []),
        ("[providers.ollama]\nenabled = false\n", []),
        ("[providers.demo]\nenabled = true\n", ["demo"]),
        ('[providers.box]\nkind = "openai-compatible"\nbase_url = "http://box:1"\n', ["box"]),
    ],
)
def test_what_is_enabled_by_the_file(text: str, enabled: list[str], tmp_path: Path) -> None:
    """Unset `enabled`: true for a section that can work without a key; the demo needs to be asked for."""
    assert _enabled(_load(text, folder=tmp_path)) == enabled


def test_a_provider_that_stays_off_is_told(tmp_path: Path) -> None:
    """A section without a key is not enabled, and the start says so."""
    config = _load("[providers.openai]\nmax_retries = 1\n", folder=tmp_path)
    assert config.warnings == ("provider openai is configured but not enabled; set its api_key or enabled",)


def test_what_answered_a_probe_is_enabled() -> None:
    """`found` enables a provider unless something says no."""
    assert "ollama" in _enabled(load_config(environ={"STATE_DIRECTORY": "/s"}, found=("ollama",)))
    off = {"STATE_DIRECTORY": "/s", "OLLAMA_ENABLED": "false"}
    assert "ollama" not in _enabled(load_config(environ=off, found=("ollama",)))


def test_an_ambient_variable_only_warns() -> None:
    """OTLP_ENDPOINT may be meant for others: one warning, without its value."""
    config = load_config(environ={"OTLP_ENDPOINT": "http://CANARY", "HOME": "/h"})
    assert [warning.split(" ")[0] for warning in config.warnings] == ["OTLP_ENDPOINT"]
    assert "CANARY" not in repr(config)


def test_the_url_of_redis_is_a_secret() -> None:
    """REDIS_URL may hold a password: it is in the tree, and in no text made of it."""
    config = load_config(environ={"REDIS_URL": "redis://u:CANARY@h", "HOME": "/h"})
    assert config.redis.url is not None
    assert config.redis.url.reveal() == "redis://u:CANARY@h"
    assert "CANARY" not in repr(config)
    assert config.redis.url in config.secrets()


@pytest.mark.parametrize(
    ("variable", "meant"), [("SERVER_PROT", "SERVER_PORT"), ("API_KEY", "API_KEYS"), ("REQUIRE_AUHT", "REQUIRE_AUTH")]
)
def test_a_misspelt_variable_is_told(variable: str, meant: str) -> None:
    """A variable one letter away from ours is a warning: the environment belongs to everybody."""
    config = load_config(environ={variable: "1", "STATE_DIRECTORY": "/s"})
    assert config.warnings == (f"environment variable {variable} is not read; did you mean {meant}?",)


def test_rates_of_providers_are_put_over_the_defaults(tmp_path: Path) -> None:
    """The first users' rates hold until something else is said, under either name; a new rate has its own burst."""
    path = tmp_path / "config.toml"
    path.write_text(
        "[providers.openai]\nrate_limit_per_minute = 60\n[rate_limit]\nanthropic_burst = 9\nollama_rpm = 0\n"
    )
    rates = load_config(path, environ={"STATE_DIRECTORY": "/s"}).rate_limit.providers
    assert rates["deepseek"] == Rates(60, 10)
    assert rates["openai"] == Rates(60, None)
    assert rates["anthropic"] == Rates(50, 9)
    assert rates["ollama"] == Rates(0, None)
    assert rates["groq"] == Rates()


def test_state_of_a_user_that_names_nothing(tmp_path: Path) -> None:
    """The explicit setting goes before $STATE_DIRECTORY; logs are below the log directory that systemd names."""
    explicit = _load(f'state_dir = "{tmp_path}/own"\n', folder=tmp_path, LOGS_DIRECTORY="/logs")
    assert (explicit.state_dir, explicit.log_dir) == (tmp_path / "own", Path("/logs"))
    assert explicit.database.path == tmp_path / "own" / "models.db"


def test_the_epoch_names_what_is_in_effect(tmp_path: Path) -> None:
    """Equal settings have one epoch, whatever file and secret they come with; another setting has another."""
    key = '[providers.openai]\napi_key = "env:K"\n'
    first = _load(key, folder=tmp_path, K="one").epoch
    assert len(first) == 16
    assert _load("# a comment\n" + key, folder=tmp_path, K="two").epoch == first
    assert _load(key + "max_retries = 1\n", folder=tmp_path, K="one").epoch != first


def test_a_short_key_is_told() -> None:
    """A key of callers that can be guessed is a warning; the key is not shown."""
    (warning,) = load_config(environ={"API_KEYS": "test", "STATE_DIRECTORY": "/s"}).warnings
    assert "can be guessed" in warning
    assert "test" not in warning


def test_providers_keep_the_order_of_the_file(tmp_path: Path) -> None:
    """Providers stand in the order of the file, and those of the environment after them."""
    text = (
        '[providers.vllm]\n[providers.box]\nkind = "openai-compatible"\nbase_url = "http://b:1"\n[providers.ollama]\n'
    )
    assert _enabled(_load(text, folder=tmp_path, GROQ_API_KEY="gsk_x")) == ["vllm", "box", "ollama", "groq"]


def test_a_target_that_the_file_declares(tmp_path: Path) -> None:
    """An alias may be a bare name that one enabled provider owns, and a model's id may hold slashes."""
    text = """
[providers.vllm]
enabled = true
models = ["meta/llama", "phi"]
[aliases]
small = "phi"
big = "meta/llama"
full = "vllm/meta/llama"
[auto]
targets = ["vllm/phi", "meta/llama"]
"""
    config = _load(text, folder=tmp_path)
    assert config.aliases["big"] == "meta/llama"
    assert config.auto.targets == ("vllm/phi", "meta/llama")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """An editor's byte order mark is skipped; a file that is not UTF-8 is told with its line."""
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")
    assert load_config(path, environ={}).server.port == 1
    path.write_bytes(b"[server]\nhost = '\xff'\n")
    with pytest.raises(ConfigMistakes, match=r"line 2: .*not UTF-8"):
        load_config(path, environ={})


@pytest.mark.parametrize(
    "url", ["http://localhost:8080", "http://127.0.0.1:8080/v1", "http://127.0.0.5:8080", "http://[::1]:8080"]
)
def test_our_own_address_in_other_words(url: str) -> None:
    """Every name of loopback is our own listener while we listen there, with our port."""
    assert _mistakes(OLLAMA_BASE_URL=url) == [
        "environment variable OLLAMA_BASE_URL: is the gateway's own address; requests would go round in a circle"
    ]
    assert load_config(environ={"OLLAMA_BASE_URL": url, "SERVER_PORT": "8081", "STATE_DIRECTORY": "/s"})
