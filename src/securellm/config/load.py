"""Loading: default < file < environment < flag, everything checked, then one frozen tree or one error.

Nothing is asked of the network here. Files are read: the configuration, and those that secrets refer to.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from securellm.config import checks, table
from securellm.config.database import is_server_url, read_database_url, shown_url
from securellm.config.lines import locate_keys
from securellm.config.mistakes import ConfigMistakes, Mistake, WrongValue, shown
from securellm.config.places import choose_log_dir, choose_state_dir
from securellm.config.secrets import Secret, SecretMissing, is_reference, resolve_reference
from securellm.config.show import epoch_of
from securellm.config.sources import Sources
from securellm.config.table import Kind
from securellm.config.tree import DEFAULT_RATES, Config, Rates, Server, Timeouts

DEFAULT_CONFIG_PATH = "/etc/securellm/config.toml"
SHORT_KEY_CHARACTERS = 16  # 64 bits in hex digits; keys that we make have 256 bits

_SYNTAX_PLACE = re.compile(r" ?\(at (?:line (\d+), column \d+|end of document)\)")


def load_config(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    found: tuple[str, ...] = (),
) -> Config:
    """Load and check everything. Raises ConfigMistakes, which lists every mistake at once.

    `path` (a flag) goes before `CONFIG_PATH`; a file named by either must exist, the default one need not. `flags` are
    texts by dotted path. `found` names providers that answered a probe: they are enabled unless something says no.
    """
    environ = os.environ if environ is None else environ
    sources = Sources()
    source = _find_file(path, environ)
    if source is not None:
        _read_file(source, sources)
    sources.read_environment(environ)
    sources.read_flags({tuple(name.split(".")): text for name, text in (flags or {}).items()})
    checks.check_all(sources)
    loading = _Loading(sources, environ, source, found)
    config = loading.build()
    if sources.mistakes:
        raise ConfigMistakes(sources.mistakes, str(source) if source else None)
    return msgspec.structs.replace(config, epoch=epoch_of(config), source=source, warnings=tuple(sources.warnings))


def _find_file(path: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    named = path or environ.get("CONFIG_PATH")
    source = Path(named or DEFAULT_CONFIG_PATH)
    return source if named or source.exists() else None


def _read_file(source: Path, sources: Sources) -> None:
    """Add what the file says. A file that cannot be read at all ends the loading: nothing else would make sense."""
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        message = f"cannot be read: {exc.strerror or 'input/output error'}"
        raise ConfigMistakes([Mistake(str(source), message)]) from exc
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        # `from None`: the exception holds the bytes of the file.
        raise ConfigMistakes([Mistake(str(source), "not UTF-8", line)]) from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        place = _SYNTAX_PLACE.search(str(exc))
        line = int(place.group(1)) if place and place.group(1) else text.count("\n") + 1
        what = _SYNTAX_PLACE.sub("", str(exc))
        raise ConfigMistakes([Mistake(str(source), f"not TOML: {what[:1].lower()}{what[1:]}", line)]) from None
    except RecursionError:
        raise ConfigMistakes([Mistake(str(source), "not TOML: nested too deeply")]) from None
    sources.read_file(document, locate_keys(text))


class _Loading:
    """Turns checked entries into the tree; what it still finds wrong goes to the sources' list."""

    def __init__(
        self, sources: Sources, environ: Mapping[str, str], source: Path | None, found: tuple[str, ...]
    ) -> None:
        self.sources = sources
        self.environ = environ
        self.source = source
        self.found = found
        self.tree: dict[str, object] = {}

    def build(self) -> Config:
        for path, entry in list(self.sources.entries.items()):
            if entry.setting.built and entry.setting.kind not in (
                Kind.SECRET,
                Kind.SECRETS,
                Kind.SECRET_URL,
            ):
                self._put(path, entry.value)
        self._put_total_timeout()
        self._put_places()
        self._put_providers()
        self._put_keys()
        self._put_rates()
        self._check_listener()
        checks.check_routes(self.sources, self._is_enabled, self._owners)
        if self.sources.mistakes:
            return Config()  # never seen by anybody: load_config raises
        return msgspec.convert(self.tree, Config)

    def _put(self, path: tuple[str, ...], value: object) -> None:
        here = self.tree
        for part in path[:-1]:
            below = here.setdefault(part, {})
            assert isinstance(below, dict)  # sections are tables: the file's walk has seen to it
            here = below
        here[path[-1]] = value

    def _put_total_timeout(self) -> None:
        given = self.sources.value("timeouts", "total_s") or self.sources.value("server", "request_timeout_secs")
        total_s = given or Timeouts().total_s
        self._put(("timeouts", "total_s"), total_s)
        self._put(("server", "request_timeout_secs"), total_s)

    def _put_places(self) -> None:
        is_root = os.geteuid() == 0
        home = Path(self.environ.get("HOME") or os.path.expanduser("~"))
        state_dir = choose_state_dir(self.sources.value("state_dir"), self.environ, is_root=is_root, home=home)
        self._put(("state_dir",), state_dir)
        log_path = self.sources.value("audit", "log_path")
        log_dir = choose_log_dir(log_path, self.environ, state_dir, is_root=is_root)
        self._put(("log_dir",), log_dir)
        if isinstance(log_path, str):
            self._put(("audit", "log_path"), log_dir)
        copy = self.sources.value("audit", "checkpoint_copy")
        if isinstance(copy, str):
            self._put(("audit", "checkpoint_copy"), Path(copy).expanduser().absolute())
        self._put_store(state_dir)
        for key in ("cert_path", "key_path"):
            given = self.sources.value("security", "tls", key)
            if isinstance(given, str):
                self._put(("security", "tls", key), self._existing_file(("security", "tls", key), given))

    def _put_store(self, state_dir: Path) -> None:
        """The file or the server that the URL names. Machines that share a server must share the pepper, too."""
        given = self._secret(("database", "url"))
        path = state_dir / "models.db"
        if given is not None and is_server_url(given.reveal()):
            self._put(("database", "server"), given)
            self._put(("database", "url"), shown_url(given.reveal()))
            if not self.sources.was_given(("security", "pepper")):
                message = "a PostgreSQL server needs security.pepper as env:NAME or file:PATH, the same everywhere"
                self.sources.add_mistake(("database", "url"), message)
        else:
            if given is not None:
                try:
                    path = Path(read_database_url(given.reveal())).absolute()
                except WrongValue as exc:
                    self.sources.add_mistake(("database", "url"), str(exc))
            self._put(("database", "url"), f"sqlite:///{path}")
        self._put(("database", "path"), path)

    def _existing_file(self, path: tuple[str, ...], given: str) -> Path:
        file = self._beside() / given
        if not os.access(file, os.R_OK) or not file.is_file():
            beside = "" if Path(given).is_absolute() else f" in {self._beside()}"
            self.sources.add_mistake(path, f"file {shown(given)}{beside} is not there or cannot be read")
        return file

    def _beside(self) -> Path:
        return self.source.parent.absolute() if self.source is not None else Path()

    # -- providers -----------------------------------------------------------------------------------------------

    def _put_providers(self) -> None:
        # In the order of the file, then of the environment, then as built in: so they are listed everywhere.
        paths = (*self.sources.sections, *self.sources.entries)
        named = [path[1] for path in paths if path[0] == "providers" and len(path) > 1]
        sections = self.tree.get("providers", {})
        assert isinstance(sections, dict)  # made by _put
        self.tree["providers"] = {name: sections.get(name, {}) for name in named}
        for name in self.sources.providers():
            given = any(path[:2] == ("providers", name) for path in (*self.sources.entries, *self.sources.sections))
            if not given and not self._is_enabled(name):
                continue
            built_in = table.BUILT_IN.get(name)
            if built_in is not None:
                self._put(("providers", name, "kind"), built_in.kind)
            enabled = self._is_enabled(name)
            self._put(("providers", name, "enabled"), enabled)
            if enabled:
                self._put_provider_key(name)
            elif self.sources.value("providers", name, "enabled") is None:
                self.sources.warnings.append(
                    f"provider {name} is configured but not enabled; set its api_key or enabled"
                )

    def _put_provider_key(self, name: str) -> None:
        path = ("providers", name, "api_key")
        key = self._secret(path)
        if key is not None:
            self._put(path, key)
        built_in = table.BUILT_IN.get(name)
        needed = built_in is not None and built_in.needs_key
        excused = [path, ("providers", name, "base_url")]  # a server of the operator's own may want no key
        said = self.sources.value("providers", name, "enabled") is True
        if said and needed and not any(map(self.sources.was_given, excused)):
            variable = table.provider_variable(name, "API_KEY")
            message = f"provider {name} is enabled without a key; set {variable}, or api_key as a reference"
            self.sources.add_mistake(("providers", name, "enabled"), message)

    def _is_enabled(self, name: str) -> bool:
        """`enabled` if it was set; else whether there is a key, or a section that can work without one."""
        said = self.sources.value("providers", name, "enabled")
        if isinstance(said, bool):
            return said
        if ("providers", name, "enabled") in self.sources.wrong:
            return True
        if name == "demo":
            return self.source is None
        if self.sources.was_given(("providers", name, "api_key")) or name in self.found:
            return True
        if ("providers", name) not in self.sources.sections:
            return False
        built_in = table.BUILT_IN.get(name)
        works_without_key = built_in is None or not built_in.needs_key
        return works_without_key or self.sources.was_given(("providers", name, "base_url"))

    def _owners(self, model: str) -> list[str]:
        """The enabled providers that are known, without asking anybody, to own the bare model name."""
        owners = []
        for name in self.sources.providers():
            models = self.sources.value("providers", name, "models")
            listed = isinstance(models, tuple) and model in models
            if (
                name != "demo"
                and self._is_enabled(name)
                and (listed or ("models", f"{name}/{model}") in self._models())
            ):
                owners.append(name)
        return owners

    def _models(self) -> set[tuple[str, ...]]:
        return {path for path in self.sources.sections if path[0] == "models"}

    def _check_listener(self) -> None:
        host = self.sources.value("server", "host") or Server().host
        given = self.sources.value("server", "port")
        port = given if isinstance(given, int) else Server().port
        for path, entry in list(self.sources.entries.items()):
            if path[-1] == "base_url" and checks.is_own_listener(str(entry.value), str(host), port):
                self.sources.add_mistake(path, "is the gateway's own address; requests would go round in a circle")

    # -- limits --------------------------------------------------------------------------------------------------

    def _put_rates(self) -> None:
        """What is said of each provider, under either name, over the defaults."""
        rates: dict[str, dict[str, int | None]] = {
            name: msgspec.structs.asdict(DEFAULT_RATES.get(name, Rates())) for name in self.sources.providers()
        }
        for path, entry in self.sources.entries.items():
            if path[0] == "rate_limit" and len(path) == 2 and checks.rate_of(self.sources, path[1]) is not None:
                provider, what = checks.rate_of(self.sources, path[1]) or ("", "")
            elif path[0] == "providers" and path[-1] == "rate_limit_per_minute":
                provider, what = path[1], "rpm"
            else:
                continue
            rates[provider][what] = entry.value if isinstance(entry.value, int) else None
            if what == "rpm" and ("rate_limit", f"{provider}_burst") not in self.sources.entries:
                rates[provider]["burst"] = None  # the default burst belongs to the default rate
        self._put(("rate_limit", "providers"), rates)

    # -- secrets -------------------------------------------------------------------------------------------------

    def _put_keys(self) -> None:
        entry = self.sources.entries.get(("security", "api_keys"))
        if entry is not None and isinstance(entry.value, tuple):
            keys = [self._resolved(("security", "api_keys"), key, entry.literal) for key in entry.value]
            if any(key is not None and len(key.reveal()) < SHORT_KEY_CHARACTERS for key in keys):
                self.sources.warnings.append("a key of callers is so short that it can be guessed; make better ones")
            self._put(("security", "api_keys"), tuple(key for key in keys if key is not None))
        for path in (("security", "pepper"), ("audit", "signing_key"), ("audit", "content_key"), ("redis", "url")):
            secret = self._secret(path)
            if secret is not None:
                self._put(path, secret)

    def _secret(self, path: tuple[str, ...]) -> Secret | None:
        entry = self.sources.entries.get(path)
        if entry is None:
            return None
        plain_url = entry.setting.kind is Kind.SECRET_URL and not is_reference(str(entry.value))
        return self._resolved(path, str(entry.value), entry.literal or plain_url)

    def _resolved(self, path: tuple[str, ...], value: str, literal: bool) -> Secret | None:
        if literal:
            return Secret(value)
        try:
            return resolve_reference(value, environ=self.environ, beside=self._beside())
        except SecretMissing as exc:
            self.sources.add_mistake(path, str(exc))
            return None
