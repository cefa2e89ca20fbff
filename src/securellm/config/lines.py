"""On which line of a TOML file each key stands, as tomllib does not tell. Pure.

The text has been parsed by tomllib before, so this only has to find its way through valid TOML: table headers, keys
(bare, quoted, dotted), and values, whose strings, comments and brackets are stepped over. Keys inside inline tables
are found too. Elements of arrays of tables share the first line of their name.
"""

import re
import tomllib

Path = tuple[str, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(r'''"""(?:[^\\]|\\.)*?"""+|\'\'\'.*?\'\'\'+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def locate_keys(text: str) -> dict[Path, int]:
    """Map each path of valid TOML to the line, from 1, on which it is first named."""
    return _Scanner(text).scan()


class _Scanner:
    """Walks once over the text; `at` is the place reached."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._counted_to = 0
        self._line = 1

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                self.at += 2 if self.text.startswith("[[", self.at) else 1
                table = self._key(())
                self.at = self.text.find("]", self.at)
                while self.at < len(self.text) and self.text[self.at] == "]":
                    self.at += 1
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self.lines

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._skip(_SPACE)
        self.at += 1  # "="
        self._skip(_SPACE)
        self._value(path)

    def _key(self, prefix: Path) -> Path:
        path = prefix
        while True:
            self._skip(_SPACE)
            match = _KEY.match(self.text, self.at)
            if match is None:
                raise ValueError("not TOML")
            path = (*path, _unquoted(match.group()))
            self.lines.setdefault(path, self._line_here())
            self.at = match.end()
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return path
            self.at += 1

    def _value(self, path: Path) -> None:
        first = self.text[self.at : self.at + 1]
        if first in ('"', "'"):
            self._skip(_STRING)
        elif first == "[":
            self._sequence("]", path)
        elif first == "{":
            self._sequence("}", path)
        else:
            self._skip(_SCALAR)

    def _sequence(self, closing: str, path: Path) -> None:
        self.at += 1
        while True:
            self._skip(_BLANK)
            here = self.text[self.at : self.at + 1]
            if here in (closing, ""):
                self.at += 1
                return
            if here == ",":
                self.at += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._value(path)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def _line_here(self) -> int:
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line


def _unquoted(key: str) -> str:
    if key[0] not in "\"'":
        return key
    (name,) = tomllib.loads(f"{key} = 0")
    return name
