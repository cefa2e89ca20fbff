"""What the file, the environment and the flags say: entries by path, later ones over earlier ones, mistakes collected.

An entry knows where it came from, so that a mistake found later (in `checks.py`) can still name its place.
"""

from collections.abc import Mapping

import msgspec

from securellm.config import table
from securellm.config.mistakes import Mistake, WrongValue, nearest_name, shown
from securellm.config.table import BY_PATH, CHILDREN, Path, Setting, dotted, pattern_of, provider_variable
from securellm.config.values import check, read_text, url_of_service

PROVIDER_VARIABLES = {"ENABLED": "enabled", "API_KEY": "api_key", "BASE_URL": "base_url"}
DEFAULT = "default"  # a single value in the place of a table that has this key stands for this key
LLAMACPP_MODEL = "LLAMACPP_MODEL_NAME"  # kept from the Rust proxy: the one model that llama.cpp serves


class Entry(msgspec.Struct, frozen=True):
    """One setting as given. `place` is what a mistake names; `literal`: as text, secrets as values themselves."""

    value: object
    setting: Setting
    place: str
    line: int | None = None
    literal: bool = False


class Sources:
    """The entries of every source and what was found wrong on the way. Filled once, by `load.py`."""

    def __init__(self) -> None:
        self.entries: dict[Path, Entry] = {}
        self.wrong: set[Path] = set()  # given, but with a value that cannot be used
        self.sections: dict[Path, int | None] = {}  # the tables of the file, with their lines
        self.mistakes: list[Mistake] = []
        self.warnings: list[str] = []

    def value(self, *path: str) -> object:
        """What was given for the path, None when nothing was."""
        entry = self.entries.get(path)
        return None if entry is None else entry.value

    def was_given(self, path: Path) -> bool:
        """Whether the setting was given at all, even with a wrong value: then its absence is no mistake."""
        return path in self.entries or path in self.wrong

    def add_mistake(self, path: Path, message: str, nearest: str | None = None) -> None:
        """Note a mistake at the place where the path was given."""
        entry = self.entries.get(path)
        place = entry.place if entry else dotted(path)
        line = entry.line if entry else self.sections.get(path)
        self.mistakes.append(Mistake(place, message, line, nearest))

    def providers(self) -> list[str]:
        """Every provider that is built in or named by the file, the built-in ones first."""
        named = [path[1] for path in (*self.sections, *self.entries) if len(path) > 1 and path[0] == "providers"]
        return list(dict.fromkeys((*table.BUILT_IN, *named)))

    # -- the file ------------------------------------------------------------------------------------------------

    def read_file(self, document: Mapping[str, object], lines: Mapping[Path, int]) -> None:
        """Take the entries of a parsed TOML file."""
        self._walk(document, (), lines)

    def _walk(self, section: Mapping[str, object], path: Path, lines: Mapping[Path, int]) -> None:
        for key, value in section.items():
            here = (*path, key)
            pattern = pattern_of(here)
            line = lines.get(here)
            if pattern is None:
                self.mistakes.append(Mistake(dotted(here), "unknown setting", line, _nearest(here)))
            elif pattern in BY_PATH:
                self._take(here, BY_PATH[pattern], value, dotted(here), line)
            elif isinstance(value, dict):
                self.sections[here] = line
                self._walk(value, here, lines)
            elif (*pattern, DEFAULT) in BY_PATH:
                self._take((*here, DEFAULT), BY_PATH[*pattern, DEFAULT], value, dotted(here), line)
            else:
                self.mistakes.append(Mistake(dotted(here), f"got {_kind_shown(value)}, expected a table", line))

    # -- the environment and the flags ----------------------------------------------------------------------------

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take the entries of the environment; an empty variable is like an unset one."""
        known: set[str] = {LLAMACPP_MODEL}
        for setting in table.SETTINGS:
            if setting.env and not setting.env.startswith("<"):
                known.add(setting.env)
                self._take_variable(setting.env, setting.path, setting, environ)
        owners: dict[str, str] = {}
        for provider in self.providers():
            for suffix, key in PROVIDER_VARIABLES.items():
                variable = provider_variable(provider, suffix)
                known.add(variable)
                if owners.setdefault(variable, provider) != provider:
                    self.add_mistake(("providers", provider), f"shares {variable} with provider {owners[variable]}")
                    break
                if provider != "demo" or key == "enabled":
                    setting = BY_PATH["providers", "*", key]
                    self._take_variable(variable, ("providers", provider, key), setting, environ)
        model = environ.get(LLAMACPP_MODEL, "").strip()
        if model:
            setting = BY_PATH["providers", "*", "models"]
            self._take(("providers", "llamacpp", "models"), setting, [model], _variable(LLAMACPP_MODEL), None)
        self._warn_of_near_misses(environ, known)

    def read_flags(self, flags: Mapping[Path, str]) -> None:
        """Take what was said on the command line, as text by path."""
        for path, text in flags.items():
            setting = BY_PATH[path]
            self._take_text(path, setting, text, f"--{path[-1].replace('_', '-')}")

    def _take_variable(self, variable: str, path: Path, setting: Setting, environ: Mapping[str, str]) -> None:
        text = environ.get(variable, "")
        if text.strip():
            self._take_text(path, setting, text, _variable(variable))

    def _take_text(self, path: Path, setting: Setting, text: str, place: str) -> None:
        try:
            value = read_text(setting, text)
        except WrongValue as exc:
            self.mistakes.append(Mistake(place, str(exc)))
            self.wrong.add(path)
            return
        if not setting.built and setting.ambient:
            name = place.removeprefix("environment variable ")
            self.warnings.append(f"{name} is set, but {_feature(setting)} is not built in this version")
        self._take(path, setting, value, place, None, literal=True)

    def _take(
        self, path: Path, setting: Setting, value: object, place: str, line: int | None, *, literal: bool = False
    ) -> None:
        """Check one value and keep it. Secrets from the environment are values themselves, not references."""
        try:
            if literal and setting.kind in (table.Kind.SECRET, table.Kind.SECRETS):
                checked = _literal_secrets(setting, value)
            elif literal and setting.kind is table.Kind.SECRET_URL:
                checked = url_of_service(setting, str(value))
            else:
                checked = check(setting, value)
        except WrongValue as exc:
            self.mistakes.append(Mistake(place, str(exc), line))
            self.wrong.add(path)
            return
        self.entries[path] = Entry(checked, setting, place, line, literal)

    def _warn_of_near_misses(self, environ: Mapping[str, str], known: set[str]) -> None:
        """A misspelt variable cannot be an error, as the environment belongs to everybody; it can be told."""
        sections = ("SERVER_", "DATABASE_", "REQUIRE_", "LOG_", "CONFIG_", "API_KEY")
        for variable in sorted(environ):
            if variable.startswith(sections) and variable not in known and environ[variable].strip():
                close = [name for name in known if _one_edit_apart(variable, name)]
                if close:
                    self.warnings.append(f"environment variable {variable} is not read; did you mean {close[0]}?")


def _literal_secrets(setting: Setting, value: object) -> object:
    values = [value] if setting.kind is table.Kind.SECRET else value
    assert isinstance(values, list)  # read_text made it
    for secret in values:
        if not isinstance(secret, str) or not secret.isascii() or not secret.isprintable():
            raise WrongValue("holds characters that cannot be in a header (line breaks or non-ASCII)")
    return value if setting.kind is table.Kind.SECRET else tuple(values)


def _variable(name: str) -> str:
    return f"environment variable {name}"


def _feature(setting: Setting) -> str:
    return setting.help.rstrip(".").split(";")[0].lower() if len(setting.path) == 1 else ".".join(setting.path)


def _kind_shown(value: object) -> str:
    return "a text" if isinstance(value, str) else shown(value)


def _nearest(path: Path) -> str | None:
    """The nearest known name in the same section, or the same name in another section."""
    section, key = path[:-1], path[-1]
    pattern = pattern_of(section) if section else ()
    siblings = CHILDREN.get(pattern or (), set()) - {"*"}
    near = nearest_name(key, siblings)
    if near:
        return dotted((*section, near))
    elsewhere = [setting.name for setting in table.SETTINGS if setting.path[-1] == key]
    return elsewhere[0] if elsewhere else None


def _one_edit_apart(left: str, right: str) -> bool:
    """Whether one inserted, removed or changed letter, or one swap of neighbours, makes the two the same."""
    if left == right or abs(len(left) - len(right)) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    if len(left) == len(right):
        swapped = left[at : at + 2] == right[at : at + 2][::-1] and left[at + 2 :] == right[at + 2 :]
        return swapped or left[at + 1 :] == right[at + 1 :]
    longer, shorter = (left, right) if len(left) > len(right) else (right, left)
    return longer[at + 1 :] == shorter[at:]
