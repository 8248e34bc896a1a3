"""Templates of error pages: text with the values of a fault, escaped."""

import re
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Final

import orjson

VALUES: Final = ("status", "title", "detail", "fault", "request_id")
"""Names of the values in templates."""
_PLACEHOLDER: Final = re.compile(r"\{(" + "|".join(VALUES) + r")\}")
_NAMED: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_PROGRAM: Final = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
"""Parts of HTML in which braces belong to another language, and comments."""


class ErrorTemplate:
    """Text with `{name}` for the values of a fault. Other braces are text."""

    __slots__ = ("_escape", "_parts", "text")

    def __init__(self, text: str, escape: Callable[[str], str]) -> None:
        """Create it. `escape`: makes text of a value."""
        self.text = text
        self._escape = escape
        self._parts = _PLACEHOLDER.split(text)  # text and names in turns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ErrorTemplate) and (self.text, self._escape) == (other.text, other._escape)

    def __hash__(self) -> int:
        return hash(self.text)

    def render(self, values: Mapping[str, str]) -> bytes:
        made = self._parts.copy()
        escaped = {name: self._escape(values[name]) for name in dict.fromkeys(made[1::2])}
        made[1::2] = [escaped[name] for name in made[1::2]]
        return "".join(made).encode(errors="replace")


def unknown_placeholders(text: str, *, is_html: bool) -> Iterator[tuple[int, str]]:
    """Yield offset and name of each `{name}` that is sent as it is, outside scripts and style sheets."""
    if is_html:
        text = _PROGRAM.sub(lambda found: " " * len(found[0]), text)
    return ((found.start(), found[1]) for found in _NAMED.finditer(text) if found[1] not in VALUES)


def html_template(text: str) -> ErrorTemplate:
    return ErrorTemplate(text, escape)


DEFAULT_PAGE: Final = html_template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<title>{status} {title}</title>
<style>
body {font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1.5rem}
h1 {font-size: 1.5rem}
code {opacity: 0.7; overflow-wrap: anywhere}
code:empty {display: none}
code::before {content: "Request "}
</style>
</head>
<body>
<h1>{status} {title}</h1>
<p>{detail}</p>
<code>{request_id}</code>
</body>
</html>
""")
"""Page for people: complete in itself, in the colors of the browser, so that a `Content-Security-Policy` can forbid all
else."""


def json_template(text: str) -> ErrorTemplate:
    """Return a template of JSON, with placeholders in its strings. Raises `ValueError` if it does not become JSON."""
    made = ErrorTemplate(text, _escape_json)
    try:
        orjson.loads(made.render(dict.fromkeys(VALUES, "x") | {"status": "404"}))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}; expected a document with placeholders in its strings") from error
    return made


def _escape_json(value: str) -> str:
    return orjson.dumps(value).decode()[1:-1]
