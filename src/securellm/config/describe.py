"""docs/configuration.md, made from the table of settings. Pure.

    python -m securellm.config.describe > docs/configuration.md

A test holds the file in step with the table.
"""

from securellm.config import table
from securellm.config.sources import LLAMACPP_MODEL
from securellm.config.table import Kind, Setting
from securellm.config.values import FALSE_WORDS, TRUE_WORDS

_OPENING = f"""# Configuration

<!-- made by: python -m securellm.config.describe > docs/configuration.md -->

The gateway runs with no configuration at all: then the provider `demo` answers, and Ollama if it is running on this
machine. Every setting has a default. A TOML file goes over the defaults, the environment over the file, and a flag of
`securellm serve` over the environment. The file is the one named by `--config`, else by `CONFIG_PATH`, else
`/etc/securellm/config.toml` if it is there; a file that is named must exist.

`securellm check-config` tells every mistake at once, with its line and the nearest known name, and
`securellm check-config --print` shows what is in effect, with `***` for secrets. `serve` refuses to start on a mistake.

```toml
[server]
port = 8080

[providers.openai]
api_key = "env:OPENAI_API_KEY"        # the environment variable of that name

[providers.anthropic]
api_key = "file:anthropic-key"        # $CREDENTIALS_DIRECTORY/anthropic-key, else the file beside this one

[providers.my-box]
kind = "openai-compatible"
base_url = "http://10.0.0.5:8000/v1"

[models."my-box/*"]
free = true
context = 32768

[aliases]
fast = "openai/gpt-4o-mini"

[auto]
targets = ["my-box/llama-3", "anthropic/claude-sonnet-4-5"]
```

## How values are written

- **Names.** A setting that is not in the tables below is an error that names the nearest one.
- **Secrets.** In the file a secret is a reference: `env:NAME` or `file:PATH`. A bare file name is looked up in
  `$CREDENTIALS_DIRECTORY` first (systemd's `LoadCredential=`); other relative paths start at the file's folder. What a
  reference names must exist when the gateway starts. An environment variable holds the secret itself.
- **Truth.** In the file `true` or `false`, and nothing else. In the environment, in any case, one of
  {", ".join(f"`{word}`" for word in TRUE_WORDS)} or {", ".join(f"`{word}`" for word in FALSE_WORDS)}; anything else is
  an error that names the variable.
- **Lists** in the environment are separated by commas. An environment variable that is empty counts as unset.
- **Not built.** Settings marked *not built* are known, but this version has no such feature, so they are refused; in
  the environment, where it may be meant for another program, `OTLP_ENDPOINT` only warns.
"""

_SECTION_NOTES: dict[str, str] = {
    "database": """The store is a SQLite file, or a PostgreSQL server where several machines share it
([operations.md](operations.md#postgresql)); a server needs `security.pepper`, and a URL with a password in it must be a
secret reference as a whole. `sqlite:models.db` is relative to the working directory,
`sqlite:/srv/models.db` and `sqlite:////srv/models.db` are absolute. With three slashes `sqlite:///srv/models.db` is
absolute, as sqlx reads it; a bare file name (`sqlite:///models.db`) and any URL with a driver
(`sqlite+pysqlite:///srv/models.db`) are relative, as SQLAlchemy reads them. A store in memory is refused: every key
would be lost at the end.""",
    "providers.<name>": f"""Built in: {", ".join(f"`{name}`" for name in table.BUILT_IN)}.
Any other name is a provider of your own, with `kind` and `base_url`; it is made of small letters, digits, `-` and `_`.

The environment variables carry the provider's name in capitals, `-` as `_`: `MY_BOX_API_KEY`. They work for the
built-in providers and for those that the file has. `{LLAMACPP_MODEL}` is the one model of `llamacpp`, as `models` would
have it.

`demo` is enabled without a file, else by `enabled = true`; it takes no other setting. A `base_url` has a scheme, a
host, and perhaps a port and a path; no user name, no query, and not the gateway's own address.""",
    "rate_limit": """`<provider>_rpm` is the same as `rate_limit_per_minute` in the provider's section. Without a word
on them, deepseek has 60 requests a minute and a burst of 10, openai 3500 and 100, anthropic 50 and 5, ollama and
llamacpp 10,000 and 1,000; others have no limit. A key, user or team can have its own, see [limits.md](limits.md).""",
    "budgets": """A key, user or team can have its own budget, see [limits.md](limits.md); these hold for all that have
none. A request that does not fit is refused with 402 before any provider is asked.""",
    'models."<provider>/<model>"': 'What is known of a model; `"<provider>/*"` stands for all of a provider.',
    "aliases": "An alias goes before everything else that a model's name could mean; it leads to a model.",
    "security.tls": "Both paths or none.",
    "audit": "What is recorded, and how it is kept and checked, is in [audit.md](audit.md).",
    "audit.content": """What is recorded of prompts and answers: `none` (their sizes), `hash` (their SHA-256),
`redacted` (hash, and the bodies, encrypted, without what looks like a secret) or `full` (hash, and the bodies as they
are, encrypted). `content = "hash"` in `[audit]` is short for `default = "hash"` here.""",
}

_ENVIRONMENT = f"""## Environment

| variable | what it sets |
|---|---|
| `CONFIG_PATH` | the file |
{{rows}}
| `{LLAMACPP_MODEL}` | `providers.llamacpp.models`, one model |
| `STATE_DIRECTORY`, `LOGS_DIRECTORY`, `CREDENTIALS_DIRECTORY` | as systemd sets them: state, logs, secrets |
| `XDG_STATE_HOME` | where state is without all of these, for a user that is not root |
| `SECURELLM_URL`, `SECURELLM_API_KEY` | for the commands that call a running gateway, not for `serve` |
"""


def encode_markdown() -> str:
    """The whole page."""
    sections: dict[str, list[Setting]] = {}
    for setting in table.SETTINGS:
        sections.setdefault(setting.name.rpartition(".")[0] if len(setting.path) > 1 else "", []).append(setting)
    parts = [_OPENING]
    for name, rows in sections.items():
        parts.append(f"## [{name}]\n" if name else "## Before the first section\n")
        if name in _SECTION_NOTES:
            parts.append(_SECTION_NOTES[name] + "\n")
        parts.append("\n".join(["| setting | value | default | |", "|---|---|---|---|", *map(_row, rows)]) + "\n")
    rows_of_variables = [
        f"| `{setting.env}` | `{setting.name}`{'' if setting.built else ' (not built: only warns)'} |"
        for setting in table.SETTINGS
        if setting.env
    ]
    parts.append(_ENVIRONMENT.format(rows="\n".join(rows_of_variables)))
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    notes = setting.help
    if setting.env:
        notes += f" Variable `{setting.env}`."
    if not setting.built:
        notes = f"*Not built.* {notes}"
    return f"| `{setting.name.rpartition('.')[2]}` | {_values(setting)} | {_default(setting)} | {notes} |"


def _values(setting: Setting) -> str:
    text = setting.kind.value
    if setting.choices:
        several = "any of" if setting.kind is Kind.TEXTS else "one of"
        return f"{several} {', '.join(f'`{choice}`' for choice in setting.choices)}"
    if setting.least is not None and setting.most is not None:
        text += f", {setting.least} to {setting.most}"
    elif setting.least is not None and setting.least in (0, 1):
        text += f", at least {setting.least:g}"
    elif setting.least is not None and setting.least < 1:
        text += ", over 0"
    return f"{text} ({setting.unit})" if setting.unit else text


def _default(setting: Setting) -> str:
    if setting.default_text is not None:
        return setting.default_text
    default = table.default_of(setting)
    if not setting.built or default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int | float):
        return f"`{default:g}`" if default < 100_000 else f"`{default:,}`".replace(",", "_")
    return f"`{default}`"


if __name__ == "__main__":
    print(encode_markdown(), end="")
