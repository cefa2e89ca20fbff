"""The documentation is complete and right: settings, doors, errors, providers, metrics and commands stand in docs/."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from securellm import errors
from securellm.audit import verify
from securellm.audit.record import Record
from securellm.chat import Dialect, Endpoint
from securellm.cli import audit_verify
from securellm.cli.group import cli
from securellm.config.table import SETTINGS
from securellm.providers.base import Provider
from securellm.providers.registry import ADAPTERS, describe
from securellm.telemetry.metrics import Metrics
from securellm.web.administration.application import ROUTES as ADMINISTRATION
from securellm.web.app import all_routes
from securellm.web.routes import Access
from securellm.wire.envelope import encode_error
from securellm.wire.fields import FIELDS, Fate

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def _rows(name: str, after: str = "") -> list[list[str]]:
    """The cells of every table row of a page, from the line that starts with `after` to the next heading."""
    text = (DOCS / name).read_text()
    if after:
        text = re.split(r"^#", text.partition(f"\n{after}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
        assert text, f"{name} has no {after!r}"
    lines = [line for line in text.splitlines() if line.startswith("|") and not re.fullmatch(r"[|:\- ]+", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _code(cell: str) -> str:
    return cell.strip("`")


def _leaves(kind: type[errors.SecureLLMError] = errors.SecureLLMError) -> Iterator[type[errors.SecureLLMError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _leaves(child)


def _made(kind: type[errors.SecureLLMError]) -> errors.SecureLLMError:
    if issubclass(kind, errors.ProviderAnswered):
        return kind("text", status=502)
    return kind("text")


def test_every_error_is_documented() -> None:
    """docs/errors.md has one row for each code, with its status, its type and its type on Anthropic doors."""
    expected = {}
    for kind in _leaves():
        error = _made(kind)
        body = msgspec.json.decode(encode_error(Dialect.ANTHROPIC, error, "id"))
        expected[error.code] = (str(error.status), error.type, body["error"]["type"])
    written = {
        _code(row[0]): (row[1], _code(row[2]), _code(row[3]))
        for row in _rows("errors.md", "## Every code")
        if "`" in row[0]
    }
    assert written == expected


def test_every_setting_is_documented() -> None:
    """docs/configuration.md names every setting and every environment variable of the table."""
    text = (DOCS / "configuration.md").read_text()
    names = [setting.name for setting in SETTINGS] + [setting.env for setting in SETTINGS if setting.env]
    assert [name for name in names if name not in text and f"`{name.rpartition('.')[2]}`" not in text] == []


def _provider(name: str) -> Provider:
    from securellm.config.tree import Provider as Section

    needs_address = not ADAPTERS[name].base_url
    return describe(name, Section(base_url="http://10.0.0.7:9000/v1") if needs_address else Section())


def test_every_provider_is_documented() -> None:
    """docs/providers.md gives each built-in provider's base URL and the final URL of a chat, as they are used."""
    written = {_code(row[0]): (_code(row[1]), _code(row[2])) for row in _rows("providers.md", "## Built in")[1:]}
    assert set(written) == set(ADAPTERS) - {"openai-compatible"}
    del written["demo"]
    door = {"anthropic": Endpoint.MESSAGES}
    for name, (base_url, chat_url) in written.items():
        provider = _provider(name)
        assert (base_url, chat_url) == (
            ADAPTERS[name].base_url,
            provider.endpoints[door.get(name, Endpoint.CHAT)].url,
        )


def test_the_doors_of_every_provider_are_documented() -> None:
    """docs/providers.md says of each provider and door whether it is answered, and whether by translation."""
    doors = [
        Endpoint.CHAT,
        Endpoint.COMPLETIONS,
        Endpoint.EMBEDDINGS,
        Endpoint.RESPONSES,
        Endpoint.MESSAGES,
        Endpoint.COUNT_TOKENS,
    ]
    written = {_code(row[0]): row[1:] for row in _rows("providers.md", "## Which doors each one answers")[1:]}
    expected = {}
    for name in ADAPTERS:
        endpoints = _provider(name).endpoints
        expected[name] = [
            "" if door not in endpoints else "✓" if endpoints[door].dialect is door.dialect else "translated"
            for door in doors
        ]
    assert written == expected


def test_every_field_that_does_not_cross_is_documented() -> None:
    """docs/api.md lists, for each door and dialect of provider, the fields that are refused and those dropped."""
    written = {
        (row[0], row[1]): (row[2], row[3])
        for row in _rows("api.md", "## What crosses, and what does not")
        if row[0] in {door.value for door in FIELDS}
    }
    expected = {}
    for door, table in FIELDS.items():
        for dialect in {dialect for field in table.values() for dialect in field.fates}:
            refused, dropped = (
                ", ".join(f"`{name}`" for name in sorted(table) if table[name].fates.get(dialect) is fate)
                for fate in (Fate.REFUSED, Fate.DROPPED)
            )
            expected[door.value, dialect.value] = (refused, dropped)
    assert written == expected


def test_every_endpoint_is_documented() -> None:
    """docs/api.md has every endpoint with its methods and who may call it, and no other."""
    asked = {Access.PUBLIC: "no", Access.KEY: "yes", Access.OPERATOR: "operator"}
    expected = {
        f"{method} {re.sub('<.*>', '{id}', route.path)}": asked[route.access]
        for route in all_routes(metrics_public=False)
        if route.shown
        for method in route.methods
    }
    written = {}
    for row in _rows("api.md", "## Endpoints")[1:]:
        written |= dict.fromkeys(re.findall(r"`((?:GET|POST) [^`]+)`", row[0]), row[1])
    assert written == expected


def test_every_endpoint_of_administration_is_documented() -> None:
    """docs/api.md has every endpoint of administration with every field of its body, and no other."""
    written = {_code(row[0]): set(re.findall(r"`(\w+)`", row[1])) for row in _rows("api.md", "## Administration")[1:]}
    expected = {
        f"{method} {re.sub('<.*>', '{id}', route.path)}": set((route.schema or {}).get("properties", {}))
        for route in ADMINISTRATION
        for method in route.methods
    }
    assert set(written) == set(expected)
    for name, fields in expected.items():
        if name != "PATCH /api/admin/keys/{id}":  # "as for POST"
            assert fields <= written[name], name


def test_every_metric_is_documented() -> None:
    """docs/operations.md has every metric of ours, under the name that a scrape shows."""
    samples = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in Metrics().registry.collect()
    }
    written = {name for row in _rows("operations.md") for name in re.findall(r"`(securellm_\w+)`", row[0])}
    assert written == samples


def test_every_field_of_a_record_is_documented() -> None:
    """docs/audit-format.md has every field of a line, in the order in which they are written."""
    written = [name for row in _rows("audit-format.md", "## Records")[1:] for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(written) == sorted(verify.FIELDS)
    placed = ["v", "seq", "slot", "prev", *Record.__struct_fields__]
    assert placed == verify.FIELDS


def test_the_auditors_commands_are_documented() -> None:
    """The lines of docs/threat-model.md that call the verifier use options that it has; the page names them all."""
    text = (DOCS / "threat-model.md").read_text()
    calls = re.findall(r"^    python verify\.py DIRECTORY (.+)$", text, re.MULTILINE)
    assert len(calls) == 3
    for call in calls:
        options = verify.read_options(["directory", *call.split()])
        assert options.key == ["KEY"]
    known = {option for parameter in audit_verify.verify.params for option in parameter.opts if option[0] == "-"}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) == known - {"--config"}


def _commands(group: click.Command, prefix: str = "") -> Iterator[str]:
    """The full names of a command and of everything below it."""
    if not isinstance(group, click.Group):
        yield prefix
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from _commands(command, f"{prefix} {name}".strip())


def test_every_command_is_documented() -> None:
    """docs/cli.md has every command of the command line."""
    text = (DOCS / "cli.md").read_text()
    names = list(_commands(cli))
    assert "serve" in names
    assert [name for name in names if f"securellm {name}" not in text] == []


@pytest.mark.parametrize("page", sorted(path.name for path in [*DOCS.glob("*.md"), ROOT / "README.md"]))
def test_links_lead_somewhere(page: str) -> None:
    """Links between the pages lead to files that exist."""
    path = ROOT / page if page == "README.md" else DOCS / page
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []
