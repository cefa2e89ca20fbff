"""The effective configuration as text."""

import tomllib
from pathlib import Path

from securellm.config import load_config
from securellm.config.show import effective, encode_toml


def test_secrets_are_stars(tmp_path: Path) -> None:
    """The dump shows that a secret is set, never which."""
    environ = {"OPENAI_API_KEY": "sk-CANARY-1", "API_KEYS": "slb_CANARY", "STATE_DIRECTORY": str(tmp_path)}
    text = encode_toml(load_config(environ=environ))
    assert "CANARY" not in text
    assert 'api_key = "***"' in text
    assert 'api_keys = ["***"]' in text


def test_the_dump_is_toml(tmp_path: Path) -> None:
    """What is printed is TOML with the effective values, names in quotes where they need them."""
    path = tmp_path / "config.toml"
    path.write_text('[providers.vllm]\n[models."vllm/*"]\ncontext = 4096\n[aliases]\n"a b" = "vllm/x"\n')
    config = load_config(path, environ={"STATE_DIRECTORY": str(tmp_path)})
    dumped = tomllib.loads(encode_toml(config))
    assert dumped["models"] == {"vllm/*": {"free": False, "context": 4096}}
    assert dumped["aliases"] == {"a b": "vllm/x"}
    assert dumped["server"]["port"] == 8080
    assert "epoch" not in effective(config)
