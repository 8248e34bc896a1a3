"""Syntax errors are told in words of our own, where the mistake is, and the same whichever parser has found them."""

import sys

import pytest
from typer.testing import CliRunner

from fastgw.cli import app
from fastgw.config.formats import json, toml, yaml
from fastgw.config.formats.excerpt import excerpt
from fastgw.config.formats.positions import SyntaxProblem
from tests.support.table import for_each

YAML = {
    "a: [1, 2\nb: 3\n": ("a list in brackets is not closed", 1, 4),
    "a: [1": ("a list in brackets is not closed", 1, 4),
    "x:\n  a: {b: [1]\n": ("an object in braces is not closed", 2, 6),
    "a: {b: 1\nc: 2\n": ("an object in braces is not closed", 1, 4),
    "a: [b: c: d]": ("unexpected text in a list in brackets", 1, 9),
    "a: {b: c: d}": ("unexpected text in an object in braces", 1, 9),
    "upstreams: {users: [\n": ("the file ends within brackets or braces", 2, 1),
    "a: ]": ("a value cannot start with this character", 1, 4),
    "a: b: c": ("a second `: ` on the same line", 1, 5),
    "a: 1\n  b: 2": ("a key where the value of the previous line continues", 2, 4),
    "a: 1\nb: 'x\nc: 2\n": ("a quoted string is not closed", 2, 4),
    'a: "\\u12"': ("an invalid escape sequence", 1, 7),
    "a:\n\tb: 1": ("a tab in the indentation", 2, 1),
    "a: @x": ("a string cannot start with this character", 1, 4),
    "a: %x": ("a string cannot start with this character", 1, 4),
    "a: 1\nb\nc: 2": ("a line without `:`", 2, 1),
    "x:\n    a: 1\n  b: 2": ("it does not belong to the object that starts on line 1", 3, 3),
    "a: 'x' y": ("it does not belong to the object that starts on line 1", 1, 8),
    "- a\nb: 1": ("it does not belong to the list that starts on line 1", 2, 1),
    "a: - b": ("a list item on the line of its key", 1, 4),
    "a: ? b": ("a key is not possible here", 1, 4),
    "a: & b": ("`&` or `*` without a name", 1, 5),
    "a: !x! y": ("an invalid tag", 1, 7),
    "a: |x\n x": ("an invalid character behind `|` or `>`", 1, 5),
    "%YAML 3.0\n---\na: 1": ("an invalid directive", 1, 1),
    "a: 1\nb: \x01": ("a control character", 2, 4),
}
TOML = {
    "a = ": ("the file ends where a value is missing", 1, 4),
    "a = [\n1,\n\n": ("the file ends where a value is missing", 2, 3),
    "a = yes": ("an invalid value", 1, 5),
    "a: 1": ("`:` behind a key", 1, 2),
    "a b": ("a key without `=`", 1, 3),
    "a = 1 2": ("something behind a value", 1, 7),
    'a = "x\nb = 1': ("a string is not closed", 1, 7),
    "a = 'x": ("a string is not closed", 1, 7),
    "a = [1 2]": ("a list is not closed", 1, 8),
    "a = {b = 1\n}": ("an inline table is not closed", 1, 11),
    "[[a]": ("the name of a table is not closed", 1, 4),
    "a = 1\n  a = 2 # again": ("a duplicate key, or a table that is defined already", 2, 3),
    "[a]\n[b]\n[a]\nc = 1": ("a duplicate key, or a table that is defined already", 3, 1),
    "a = {b=1,b=2}": ("a duplicate key, or a table that is defined already", 1, 13),
    'a = "\\q"': ("an unknown escape sequence", 1, 8),
    'a = "\\u12"': ("an invalid escape sequence", 1, 8),
    "= 1": ("it is neither a key nor a table", 1, 1),
    "a = {x=1,}": ("a key cannot start with this character", 1, 10),
}
JSON = {
    '{"a": 1,\n}': (
        "a key is missing",
        *((1, 8) if sys.version_info >= (3, 13) else (2, 1)),
    ),  # the comma is named there
    "{'a': 1}": ("a key is missing", 1, 2),
    '{"a": }': ("a value is missing", 1, 7),
    '{"a" 1}': ("a key without `:`", 1, 6),
    '{"a": [1 2]}': ("unexpected text in a list or an object", 1, 10),
    '{"a": 1} x': ("something behind the end", 1, 10),
    '{"a": "x': ("a string is not closed", 1, 7),
    '{"a": "\x01"}': ("a control character", 1, 8),
    '{"a": "\\q"}': ("an invalid escape sequence", 1, 8),
    '{"NaN": 1,\n "a": NaN}': ("NaN", 2, 7),
    '{"a": ["-Infinity", -Infinity]}': ("-Infinity", 1, 21),
    '{"a": "\\u00e9",\n  "b": "x\\ud800"}': ("an unpaired surrogate", 2, 8),
    '{"a": {"\\udc00": 1}}': ("an unpaired surrogate", 1, 8),
    "[NaNs]": ("NaN", 1, 2),
    f'{{"a": 1.{"0" * 5000}, "b": [1,\n -{"1" * 5000}]}}': ("a number with too many digits", 2, 2),
}


def flaw(reader, text):
    with pytest.raises(SyntaxProblem) as caught:
        reader.read(text)
    return caught.value


@pytest.mark.parametrize("events", [yaml.Events, yaml.PureEvents])
@pytest.mark.parametrize(("text", "told"), YAML.items())
def test_yaml(text, told, events, monkeypatch):
    monkeypatch.setattr(yaml, "Events", events)
    error = flaw(yaml, text)
    if events is yaml.PureEvents and "\x01" in text:
        assert error.wrong == "not valid YAML: a control character"  # it counts from where it has read to
    else:
        assert (error.wrong, *error.mark) == (f"not valid YAML: {told[0]}", *told[1:])
    assert error.expected.startswith("expected ")


@pytest.mark.parametrize("events", [yaml.Events, yaml.PureEvents])
def test_yaml_whose_place_each_parser_sees_a_little_elsewhere(events, monkeypatch):
    monkeypatch.setattr(yaml, "Events", events)
    assert flaw(yaml, 'a: "\\q"').wrong == "not valid YAML: an unknown escape sequence"
    assert flaw(yaml, "a: |\n\t x\n").wrong == "not valid YAML: a tab in the indentation"


@for_each(("text", "told"), TOML.items())
def test_toml(text, told):
    error = flaw(toml, text)
    assert (error.wrong, *error.mark) == (f"not valid TOML: {told[0]}", *told[1:])
    assert error.expected.startswith("expected ")


@for_each(("text", "told"), JSON.items())
def test_json(text, told):
    error = flaw(json, text)
    assert (error.wrong, *error.mark) == (f"not valid JSON: {told[0]}", *told[1:])
    assert error.expected.startswith("expected ")


@pytest.mark.parametrize(("reader", "texts"), [(yaml, YAML), (toml, TOML), (json, JSON)])
def test_a_message_quotes_nothing_of_the_file(reader, texts):
    """Whoever can have a file read must not learn by an error what is in it; nor do logs."""
    for text in texts:
        planted = text.replace("a", "hunter")
        error = flaw(reader, planted)
        assert "hunter" not in error.wrong + error.expected


def test_an_excerpt_is_the_line_and_a_mark_below_the_column():
    assert excerpt("a: 1\nb: c: d\n", (2, 5)) == "     2 | b: c: d\n       |     ^"
    assert excerpt("a: 1\r\nb\t: c: d\r\n", (2, 6)) == "     2 | b : c: d\n       |      ^"
    first, second = excerpt("x" + " y" * 500, (1, 501)).split("\n")
    assert len(first) == 109
    assert first[second.index("^")] == "y"


@pytest.mark.parametrize("mark", [(0, 0), (3, 1), (9, 1)])
def test_where_there_is_no_line_there_is_no_excerpt(mark):
    assert excerpt("a: 1\nb: 2\n", mark) == ""


@for_each(
    ("text", "line"),
    [
        ("token: abc\n", 1),
        ("admin:\n  token:\n    text: abc\n", 3),
        ("key_auth:\n  - name: a\n    keys:\n    - abc\n", 4),
        ("consumers:\n- {name: a, key_auth: [\nabc\n]}\n", 3),
        ("keys: [\nabc\n]\n", 2),
        ("private: |\n  MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj\n", 2),
        ("-----BEGIN\nabc\n", 2),
        ("[filters.basic.secret]\na = 1\nb = x\n", 3),
        ("upstream: http://user:pass@host\n", 1),
        ('{"password": "x",\n"y": z}', 2),
    ],
)
def test_no_excerpt_where_a_secret_may_stand(text, line):
    assert excerpt(text, (line, 1)) == ""


def test_check_shows_the_line_and_json_does_not(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\nroutes:\n  - name: a: b\n")
    told = CliRunner().invoke(app, ["check", str(file)])
    assert told.exit_code == 1
    assert told.output.splitlines() == [
        f"{file}:3:12: not valid YAML: a second `: ` on the same line; "
        "expected quotes around a string that contains `: `, or a line of its own for each key",
        "     3 |   - name: a: b",
        "       |            ^",
    ]
    told = CliRunner().invoke(app, ["check", "--format", "json", str(file)])
    assert "name: a" not in told.output
    told = CliRunner().invoke(app, ["diff", str(file), str(file)])
    assert told.output.splitlines()[1:] == ["     3 |   - name: a: b", "       |            ^"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('version: "1"', 'version: "1" in quotes; expected 1 without quotes'),
        (
            'version: 1\nworkers: "4"',
            'workers: "4" in quotes; expected a whole number from 1 to 1024 or "auto" without quotes',
        ),
        ('version: 1\nworkers: "0"', 'workers: "0"; expected a whole number from 1 to 1024 or "auto"'),
        (
            'version: 1\nlimits: {connections: "10"}',
            'limits.connections: "10" in quotes; expected a whole number from 1 to 10000000 without quotes',
        ),
        (
            'version: 1\nlimits: {connections: "0"}',
            'limits.connections: "0"; expected a whole number from 1 to 10000000',
        ),
        ("version: 2", "version: 2; expected 1"),
        ('version: "x"', 'version: "x"; expected 1'),
    ],
)
def test_quotes_around_what_would_be_right_without_them_are_told(tmp_path, said, told):
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{said}\nlisteners: {{main: {{address: ':0'}}}}\nroutes: [{{name: a, respond: {{}}}}]\n")
    lines = CliRunner().invoke(app, ["check", str(file)]).output.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [told]


def test_a_second_file_is_a_clear_mistake() -> None:
    """Users of other gateways give several files."""
    told = CliRunner().invoke(app, ["check", "a.yaml", "b.yaml", "c.yaml"])
    assert told.exit_code == 2
    assert "expected one FILE, but got b.yaml, c.yaml too; one FILE may `include` others" in told.output
