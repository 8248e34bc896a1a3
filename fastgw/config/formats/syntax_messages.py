"""Messages for syntax errors of YAML, TOML and JSON, in place of those of the libraries, and their positions.

Rule 1: a message quotes nothing of the file, which may be secret. Rule 2: an unclosed bracket or quote is reported
where it opens. Rule 3: an error without a row is reported in the library's words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from fastgw.config.formats.positions import Mark


class SyntaxLocation(Enum):
    """The position that a message points at, of the two that a parser knows."""

    FOUND = "where it went wrong"
    BEGAN = "where what could not be parsed began"


@dataclass(frozen=True, slots=True)
class Row:
    """One error of a library, and its message. In `wrong` and `expected`, `{line}` and `{column}` are those of
    `SyntaxLocation.BEGAN`.
    """

    said: re.Pattern[str]
    """Regular expression that matches the library's message."""
    wrong: str
    expected: str
    where: SyntaxLocation = SyntaxLocation.FOUND


def _row(said: str, wrong: str, expected: str, where: SyntaxLocation = SyntaxLocation.FOUND) -> Row:
    return Row(re.compile(said), wrong, expected, where)


_BEGAN: Final = SyntaxLocation.BEGAN

# Messages of libyaml and of PyYAML's own parser: "context: problem [sign]".
YAML: Final = (
    _row(
        r"(?s)flow sequence: .*\[later\]|flow sequence: .*\[end\]",
        "a list in brackets is not closed",
        "`,` between its items, and `]` behind the last one",
        _BEGAN,
    ),
    _row(
        r"(?s)flow mapping: .*\[later\]|flow mapping: .*\[end\]",
        "an object in braces is not closed",
        "`,` between its keys, and `}` behind the last value",
        _BEGAN,
    ),
    _row(r"flow sequence: ", "unexpected text in a list in brackets", "`,` or `]`, or quotes around the string"),
    _row(r"flow mapping: ", "unexpected text in an object in braces", "`,` or `}`, or quotes around the string"),
    _row(r"flow node: .*\[end\]", "the file ends within brackets or braces", "`]` or `}` for each `[` or `{`"),
    _row(r"node: ", "a value cannot start with this character", "a value, or quotes around the string"),
    _row(
        r"mapping values are not allowed.*\[second\]",
        "a second `: ` on the same line",
        "quotes around a string that contains `: `, or a line of its own for each key",
    ),
    _row(
        r"mapping values are not allowed",
        "a key where the value of the previous line continues",
        "the same indentation as the keys before, and `:` behind each of them",
    ),
    _row(
        r"quoted scalar: found unexpected (?:end of stream|document)",
        "a quoted string is not closed",
        "the same quote at its end",
        _BEGAN,
    ),
    _row(
        r"quoted scalar: found unknown escape", "an unknown escape sequence", "`\\\\` for a backslash, or single quotes"
    ),
    _row(
        r"quoted scalar: ", "an invalid escape sequence", "hexadecimal digits, as many as `\\x`, `\\u` or `\\U` takes"
    ),
    _row(r"cannot start any token.*\[tab\]|tab character", "a tab in the indentation", "spaces"),
    _row(
        r"cannot start any token",
        "a string cannot start with this character",
        "quotes around a string that starts with `@`, `%` or a backtick",
    ),
    _row(
        r"simple key: ",
        "a line without `:`",
        "`key: value`, or more indentation if the previous line continues",
        _BEGAN,
    ),
    _row(
        r"block mapping: ",
        "it does not belong to the object that starts on line {line}",
        "a key in column {column}, and nothing behind a closing quote or bracket",
    ),
    _row(
        r"block collection: ",
        "it does not belong to the list that starts on line {line}",
        "`- ` in column {column}, or a key with less indentation",
    ),
    _row(r"sequence entries are not allowed", "a list item on the line of its key", "each `- ` on a line of its own"),
    _row(r"mapping keys are not allowed", "a key is not possible here", "a key on a line of its own"),
    _row(r"scanning an (?:anchor|alias): ", "`&` or `*` without a name", "quotes around a string that starts with it"),
    _row(r"tag", "an invalid tag", "quotes around a string that starts with `!`"),
    _row(r"block scalar: ", "an invalid character behind `|` or `>`", "the string on the lines below, indented"),
    _row(r"directive|YAML document", "an invalid directive", "`%YAML 1.2`, or no line that starts with `%`"),
    _row(r"characters are not allowed", "a control character", "an escape sequence in double quotes, such as `\\t`"),
)

TOML: Final = (
    _row(
        r"Invalid value.*\[end\]",
        "the file ends where a value is missing",
        "a value, or `]` for a list that is not closed",
    ),
    _row(r"Invalid value", "an invalid value", "a number, true, false, a list, an inline table, or a string in quotes"),
    _row(r"Expected '=' after a key.*\[colon\]", "`:` behind a key", "`key = value`; in YAML a file ends in .yaml"),
    _row(r"Expected '=' after a key", "a key without `=`", "`key = value`"),
    _row(r"Expected newline", "something behind a value", "one `key = value` on each line"),
    _row(r"Expected '\]+'", "the name of a table is not closed", "`[name]`, or `[[name]]` for one more item of a list"),
    _row(
        r"Unterminated string|Expected \"?'|Illegal character '\\n'",
        "a string is not closed",
        "the same quote at its end",
    ),
    _row(r"Unclosed array", "a list is not closed", "`,` between its items, and `]` behind the last one"),
    _row(r"Unclosed inline table", "an inline table is not closed", "`,` between its keys, and `}`, all on one line"),
    _row(
        r"Cannot (?:overwrite|mutate|redefine|declare)|Duplicate inline table key",
        "a duplicate key, or a table that is defined already",
        "each key and each `[table]` once",
    ),
    _row(r"Unescaped", "an unknown escape sequence", "`\\\\` for a backslash, or single quotes"),
    _row(
        r"hex value|Unicode scalar", "an invalid escape sequence", "`\\uXXXX` or `\\UXXXXXXXX`, in hexadecimal digits"
    ),
    _row(
        r"Illegal character|invalid character",
        "a control character",
        "an escape sequence in double quotes, such as `\\t`",
    ),
    _row(
        r"initial character",
        "a key cannot start with this character",
        "letters, digits, `_` and `-`, or quotes around the key",
    ),
    _row(r"Invalid statement", "it is neither a key nor a table", "`key = value`, `[table]` or `# comment`"),
    _row(r"date or datetime", "a date that does not exist", "`YYYY-MM-DD`, or a string in quotes"),
)

JSON: Final = (
    _row(
        r"trailing comma|Expecting property name",
        "a key is missing",
        "a key in double quotes, and no `,` behind the last value",
    ),
    _row(r"Expecting value", "a value is missing", "a value, and no `,` behind the last one"),
    _row(r"Expecting ':'", "a key without `:`", "`:` and a value"),
    _row(r"Expecting ','", "unexpected text in a list or an object", "`,`, or the bracket that closes it"),
    _row(r"Extra data", "something behind the end", "one object"),
    _row(r"Unterminated string", "a string is not closed", "a double quote at its end"),
    _row(r"control character", "a control character", "an escape sequence, such as `\\n`"),
    _row(r"escape", "an invalid escape sequence", "one of JSON, such as `\\\\`, `\\n` or `\\u00e9`"),
)


def found_in(rows: Sequence[Row], said: str, found: Mark, began: Mark | None = None) -> tuple[str, str, Mark]:
    """Return the error, the expected form and the position for a library's message `said`. `found`, `began`: the
    positions of `SyntaxLocation`, if the library has them.
    """
    for row in rows:
        if row.said.search(said):
            line, column = began or found
            told = row.wrong.format(line=line, column=column) if "{line}" in row.wrong else row.wrong
            expected = row.expected.format(column=column) if "{column}" in row.expected else row.expected
            return told, f"expected {expected}", (began or found) if row.where is SyntaxLocation.BEGAN else found
    return said.partition(" [")[0], "", found
