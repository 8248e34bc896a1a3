"""Rules of the operator, from the configuration or from a file."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fastgw.config.base import redacted_problems
from fastgw.config.base.problems import Path
from fastgw.config.base.route_patterns import parse_regex
from fastgw.config.base.settings_base import SettingsErrors
from fastgw.config.formats import yaml
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.filters.api import Settings
from fastgw.filters.policies.waf.rules.rule import RequestPart, Rule, Severity

MOST_RULES: Final = 1000
LOWEST_ID: Final = 10_000


class CustomRule(Settings):
    """A rule of your own."""

    id: Annotated[int, Meta(ge=LOWEST_ID, le=899999)]
    """Number of the rule, for the log and for `exclude`."""
    pattern: str
    """RE2 regular expression in ASCII. It is searched in text that is decoded, in lower case, and without comments and
    repeated white space; case does not matter. A space also matches a line break; `\\x20` is a space alone."""
    targets: tuple[Literal["path", "arguments", "cookies", "headers", "body"], ...] = ("path", "arguments", "cookies")
    """Parts of a request that are searched. `arguments`: names and values of the query and of the fields of a body.
    `body`: bodies that have no fields, such as text."""
    severity: Literal["critical", "error", "warning", "notice"] = "critical"
    """The score that a match adds: 5, 4, 3 or 2."""
    tags: tuple[str, ...] = ()
    """Tags for the log and for `exclude`, in addition to `attack-custom`."""
    paranoia: Annotated[int, Meta(ge=1, le=4)] = 1
    """Lowest level at which the rule is used."""

    def __post_init__(self) -> None:
        parse_regex(self.pattern)
        if not self.targets:
            raise ValueError("expected at least one of the targets path, arguments, cookies, headers and body")

    def rule(self) -> Rule:
        """Return the rule as data."""
        pattern = b"(?i)" + self.pattern.encode()
        targets, severity = frozenset(map(RequestPart, self.targets)), Severity[self.severity.upper()]
        return Rule(self.id, "custom", severity, self.paranoia, targets, pattern, self.tags)


def read_rules(content: bytes, file: str) -> list[CustomRule]:
    """Read a YAML list of rules. Raises `ValueError`, whose text has the file and the position of each wrong rule."""
    try:
        text = content.decode()
        entries, _ = yaml.read(text)
        if not isinstance(entries, list) or len(entries) > MOST_RULES:
            raise ValueError(f"{file}:1: expected a list of at most {MOST_RULES} rules")
        lines = yaml.trace(text).root
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected UTF-8") from error
    except SyntaxProblem as error:
        raise ValueError(f"{file}:{error.mark[0]}: {redacted_problems.wrong(error.wrong)}") from error
    rules, errors = [], list[tuple[Path, str]]()
    for index, entry in enumerate(entries):
        try:
            rules.append(msgspec.convert(entry, CustomRule))
        except msgspec.ValidationError as error:
            line, column = lines.find((index,)).value
            errors.append((("rules_file",), f"{file}:{line}:{column}: {error}"))
    if errors:
        raise SettingsErrors(errors)
    return rules
