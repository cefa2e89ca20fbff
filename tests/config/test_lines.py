"""Where keys stand in a TOML file."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from securellm.config.lines import locate_keys

TEXT = '''# a comment with [brackets] and = signs
top = 1 # [not.a.table]
[a.b]
"quoted key" = "text with # and [x] \\" and ] "
'literal' = 'x'
multi = """
[not.a.table]
key = 1 \\"""
"""
raw = \'\'\'
other = 2
\'\'\'
list = [ # comment ]
  "x", [1, 2], { inside = 1 },
]
inline = { one = 1, two.three = "}", four = [ 1 ] }
dotted.key = 2024-01-01T00:00:00Z

[[tables]]
name = 1
[c."d.e"]
last = true'''


def test_every_kind_of_key() -> None:
    """Bare, quoted and dotted keys, tables, inline tables; strings and comments hold none."""
    lines = locate_keys(TEXT)
    assert lines == {
        ("top",): 2,
        ("a",): 3,
        ("a", "b"): 3,
        ("a", "b", "quoted key"): 4,
        ("a", "b", "literal"): 5,
        ("a", "b", "multi"): 6,
        ("a", "b", "raw"): 10,
        ("a", "b", "list"): 13,
        ("a", "b", "list", "inside"): 14,
        ("a", "b", "inline"): 16,
        ("a", "b", "inline", "one"): 16,
        ("a", "b", "inline", "two"): 16,
        ("a", "b", "inline", "two", "three"): 16,
        ("a", "b", "inline", "four"): 16,
        ("a", "b", "dotted"): 17,
        ("a", "b", "dotted", "key"): 17,
        ("tables",): 19,
        ("tables", "name"): 20,
        ("c",): 21,
        ("c", "d.e"): 21,
        ("c", "d.e", "last"): 22,
    }
    assert tomllib.loads(TEXT)


_KEYS = st.sampled_from(["a", "b-c", "d_1", '"q k"', "'l'", "x.y", '"a.b".c'])
_VALUES = st.sampled_from(
    [
        "1",
        "true",
        '"s"',
        '"#"',
        "'''\na\n'''",
        '"""\n[t]\nk = 1"""',
        "[1,\n2]",
        "{ z = 1 }",
        "1979-05-27",
        '"\\\\"',
        "[]",
    ]
)


@given(st.lists(st.tuples(_KEYS, _VALUES, st.sampled_from(["", " # c", "\n", "\r\n"]))))
def test_every_key_of_a_random_file_is_located(pairs: list[tuple[str, str, str]]) -> None:
    """Whatever the values look like, the keys of one table after another are found on the line where they stand."""
    text, expected = "", {}
    for number, (key, value, after) in enumerate(pairs):
        text += f"[t{number}]\n"
        expected[f"t{number}"] = text.count("\n")
        text += f"{key} = {value}{after}\n"
    assert len(tomllib.loads(text)) == len(pairs)
    lines = locate_keys(text)
    assert {path[0]: line for path, line in lines.items() if len(path) == 1} == expected
    for number in range(len(pairs)):
        below = [line for path, line in lines.items() if path[0] == f"t{number}" and len(path) == 2]
        assert below == [expected[f"t{number}"] + 1]
