"""What is wrong with a configuration: every mistake at once, each with its place and the nearest known name. Pure.

No message holds a secret: values are shown only for settings that cannot be one, and then cut to a few characters.
"""

from collections.abc import Iterable

import msgspec

from securellm.errors import ConfigError

SHOWN_CHARACTERS = 10  # shorter than any prefix of a secret that would be worth having


class WrongValue(ValueError):
    """A value that its setting cannot have; the text says what was got and what was expected."""


class Mistake(msgspec.Struct, frozen=True):
    """One mistake. `place` is the dotted path or the environment variable; `line` counts from 1 in the file."""

    place: str
    message: str
    line: int | None = None
    nearest: str | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"{where}{self.place}: {self.message}{hint}"


class ConfigMistakes(ConfigError):
    """The configuration cannot be used; `mistakes` lists everything that is wrong with it."""

    def __init__(self, mistakes: Iterable[Mistake], source: str | None = None) -> None:
        # A stable sort: the file from top to bottom, then what has no line.
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: (mistake.line is None, mistake.line or 0)))
        self.file = source
        count = len(self.mistakes)
        head = f"{count} mistake{'' if count == 1 else 's'} in the configuration"
        if source:
            head += f" ({source})"
        super().__init__("\n".join([f"{head}:", *(f"  {mistake}" for mistake in self.mistakes)]))


def nearest_name(got: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like what was got, None when nothing does."""
    from difflib import get_close_matches  # not at the top: only a mistake needs it

    names = list(known)
    found = get_close_matches(got.lower(), names, n=1, cutoff=0.6)
    return found[0] if found else None


def shown(value: object) -> str:
    """A value in a message, cut so short that a secret put in the wrong place stays secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value) if abs(value) < 10**SHOWN_CHARACTERS else "a very large number"
    if isinstance(value, str):
        short = value[:SHOWN_CHARACTERS]
        return repr(short) + ("…" if len(value) > len(short) else "")
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return f"a {type(value).__name__}"
