"""`fastgw filters` and docs/reference/filters.md say what the filters' structs say."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from fastgw.cli import app
from fastgw.config.decoding.decoder import fields_of
from fastgw.config.settings.gateway import Config
from fastgw.filters import TYPES
from fastgw.filters.api import Phase
from fastgw.filters.plugins import examples
from fastgw.filters.plugins.reference_docs import (
    as_markdown,
    as_text,
    manual,
    manuals,
    settings_as_markdown,
    table,
)
from tests.support.extension import FILTER, importable, install
from tests.support.table import for_each

ROOT = Path(__file__).parents[4]
HEAD = 'version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\n'


def told(*arguments: str, code: int = 0) -> str:
    ended = CliRunner().invoke(app, ["filters", *arguments])
    assert ended.exit_code == code, ended.output
    return ended.output


def test_the_document_is_what_the_filters_say() -> None:
    """If this fails, `make docs` writes it anew."""
    assert (ROOT / "docs" / "reference" / "filters.md").read_text() == as_markdown(TYPES)
    assert (ROOT / "docs" / "reference" / "settings.md").read_text() == settings_as_markdown()


def test_every_filter_and_every_part_of_a_configuration_has_an_example() -> None:
    """A short one, which uses it; tests/test_docs_blocks.py checks that it is valid."""
    assert set(examples.FILTERS) == set(TYPES)
    for name, example in examples.FILTERS.items():
        assert re.search(rf"\b{name}\b", example), name
        assert len(example.splitlines()) <= 6, name
    assert "Example:\n\n  filters:\n    size: {body: 10MiB}" in told("size")


def test_every_setting_is_in_the_example_of_its_part() -> None:
    """Each part of the page has an example, and what has no part of its own is in it."""
    _, *parts = re.split("^##+ ", settings_as_markdown(), flags=re.MULTILINE)
    titles = [part.split("\n", 1)[0] for part in parts]
    assert set(titles) == set(examples.SETTINGS)
    assert set(fields_of(Config)) <= set(titles)
    for title, part in zip(titles, parts, strict=True):
        for name in re.findall('<a id="([^"]+)">', part):
            has_part = any(other.startswith(name) for other in titles if other != title)
            assert has_part or f"{name.rpartition('.')[2]}:" in examples.SETTINGS[title], f"{title}: {name}"


@for_each("name", TYPES)
def test_every_filter_and_every_setting_has_its_words(name: str) -> None:
    each = manual(name, TYPES[name])
    assert each.summary
    assert each.summary[0].isupper()
    assert len({setting.name for setting in each.settings}) == len(each.settings)
    for setting in each.settings:
        assert setting.text, f"{each.name}.{setting.name}"
        assert setting.type


def test_filters_are_told_in_running_order() -> None:
    lines = told().splitlines()[1:]
    names = [line.split()[0] for line in lines]
    assert sorted(names) == sorted(TYPES)
    phases = [Phase[line.split()[1].upper()] for line in lines]
    assert phases == sorted(phases)
    assert told("--format", "json") == told("--format", "json")
    assert [each["name"] for each in json.loads(told("--format", "json"))] == names


def test_one_is_told_with_all_its_settings() -> None:
    text = told("headers")
    assert text.startswith("headers (phase transform: once a route is found)\n\nChange the headers of requests to")
    for name in ("request:", "request.remove:", "response.set:", "type:", "enforced:", "shadow:"):
        assert f"\n  {name}" in text
    said = json.loads(told("size", "--format", "json"))
    assert (said["name"], said["phase"], said["early"], said["source"]) == (
        "size",
        "VALIDATE",
        False,
        "fastgw.filters.policies.size:Size",
    )
    assert said["settings"] == [
        {
            "name": "body",
            "type": 'a size such as "32KiB" or "10MB"',
            "required": True,
            "default": None,
            "text": "Maximum size of the request body, in bytes.",
        }
    ]


def test_an_unknown_one_is_one_line() -> None:
    hint = "for a filter of a configuration: fastgw filters headres --file FILE"
    assert told("headres", code=1) == f'fastgw: unknown filter type "headres"; did you mean "headers"?; {hint}\n'


def test_filters_of_extensions_are_told_of_too(tmp_path: Path) -> None:
    """Those that a package offers, and those that the file names by class."""
    packages = tmp_path / "site"
    packages.mkdir()
    install(packages, "fastgw-greeting", {"greeting_filter.py": FILTER}, {"greeting": "greeting_filter:Greeting"})
    file = tmp_path / "gw.yaml"
    file.write_text(
        f'{HEAD}extensions: [fastgw-greeting]\nfilters: {{bye: {{type: "greeting_filter:Greeting", word: 1}}}}\n'
    )
    with importable(packages):
        lines = told("--file", str(file)).splitlines()
        assert sum(line.endswith("Greet the upstream.") for line in lines) == 2
        named = {line.split()[0] for line in lines if line.endswith("Greet the upstream.")}
        assert named == {"greeting", "greeting_filter:Greeting"}
        assert 'word: a string; default "hello"\n      What is said.' in told("greeting", "--file", str(file))
        assert "word: a string" in told("greeting_filter:Greeting", "--file", str(file))
        drawn = json.loads(CliRunner().invoke(app, ["schema", str(file)]).output)
        assert drawn["$defs"]["filter greeting"]["properties"]["word"]["anyOf"][0] == {"type": "string"}
    file.write_text(f"{HEAD}extensions: [nowhere_at_all]\n")
    assert 'package "nowhere_at_all" is not installed' in told("--file", str(file), code=1)


def test_text_is_as_wide_as_a_page_and_tables_line_up() -> None:
    lines = table(manuals(TYPES)).splitlines()
    column = lines[0].index("WHAT IT DOES")
    assert all(line[column - 1] == " " != line[column] for line in lines)
    prose = as_text(manual("size", TYPES["size"])).splitlines()
    assert all(len(line) <= 110 for line in prose if line.startswith("      "))
