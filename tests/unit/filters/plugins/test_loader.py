"""Filters of installed packages: found by entry point or by class, and every way in which that can be wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw import config
from fastgw.config.base.settings_codec import decode, encode
from fastgw.filters import TYPES
from tests.support.extension import FILTER, importable, install
from tests.support.memory import SERVICE

AB = "\n\n".join(f"class {name}(fastgw.filters.api.Settings):\n    {name.lower()}: int = 1\n" for name in ("A", "B"))
HEAD = 'version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where packages are; those that are installed: `fastgw-greeting`, imported as `greeting_filter`."""
    packages = tmp_path / "site"
    packages.mkdir()
    install(
        packages,
        "fastgw-greeting",
        {"greeting_filter/__init__.py": FILTER, "greeting_filter/more.py": FILTER.replace("greeting", "farewell")},
        {"greeting": "greeting_filter:Greeting"},
    )
    with importable(packages):
        yield packages


def loaded(text: str) -> config.Config:
    return config.load_text((HEAD + text).encode(), "/nowhere/a.yaml", TYPES).config


def wrong(text: str) -> list[str]:
    """What is wrong, without the name of the file."""
    with pytest.raises(config.ConfigError) as caught:
        loaded(text)
    return [str(problem).removeprefix("/nowhere/a.yaml:") for problem in caught.value.problems]


@pytest.mark.parametrize("package", ["fastgw-greeting", "fastgw_greeting", "Fastgw.Greeting", "greeting_filter"])
def test_an_entry_point_is_a_type_like_any_other(folder: Path, package: str) -> None:
    """The package is named as pip or as `import` does."""
    made = loaded(f"extensions: [{package}]\nfilters: {{greeting: {{word: hi}}, again: {{type: greeting}}}}\n")
    assert [use.settings.word for use in made.filters.values()] == ["hi", "hello"]
    assert made.extensions == (package,)


def test_a_module_without_entry_points_offers_its_classes_by_their_names(folder: Path) -> None:
    (folder / "mine.py").write_text(FILTER.replace("Greeting", "Mine").replace('"greeting"', '"mine"'))
    made = loaded("extensions: [mine]\nfilters: {mine: {word: hi}, again: {type: mine}, third: {type: 'mine:Mine'}}\n")
    assert [use.settings.word for use in made.filters.values()] == ["hi", "hello", "hello"]
    (folder / "taken.py").write_text(FILTER.replace('"greeting"', '"size"'))
    assert wrong("extensions: [taken]\n") == [
        '3:14: extensions[0]: its filter "size" has the name of a filter of "fastgw"'
    ]


def test_settings_of_an_extension_pass_between_processes(folder: Path) -> None:
    made = loaded("extensions: [fastgw-greeting]\nfilters: {greeting: {word: hi}}\n")
    assert decode(encode(made), config.Config, TYPES.built_in) == made


@pytest.mark.parametrize("package", ["fastgw-greeting", "greeting_filter", "greeting_filter.more"])
def test_a_class_is_a_type_where_its_package_is_named(folder: Path, package: str) -> None:
    made = loaded(f'extensions: [{package}]\nfilters: {{bye: {{type: "greeting_filter.more:Greeting", word: bye}}}}\n')
    assert made.filters["bye"].settings.word == "bye"
    assert made.filters["bye"].type == "greeting_filter.more:Greeting"


def test_any_file_may_name_packages(folder: Path) -> None:
    """They count for all files: an included file may use what the main one names."""
    (folder / "a.yaml").write_text(HEAD + "include: [b.yaml]\nfilters: {greeting: {}}\n")
    (folder / "b.yaml").write_text("extensions: [fastgw-greeting]\nfilter_sets: {set: {greeting: {}}}\n")
    made = config.load(str(folder / "a.yaml"), TYPES)
    assert made.config.filters["greeting"].settings.word == "hello"
    again = config.load_sources(made.sources, made.captured, TYPES)
    assert again.config == made.config


def test_nothing_is_imported_that_is_not_named(folder: Path) -> None:
    assert wrong("filters: {greeting: {}}\n") == [
        '3:11: filters.greeting: unknown filter type "greeting"; '
        "the package fastgw-greeting has it: add it to `extensions`"
    ]
    assert wrong("filters: {greeting: {type: greeting_filter.Greeting}}\n") == [
        '3:28: filters.greeting.type: unknown filter type "greeting_filter.Greeting"; '
        'a class is written as "package.module:Class", here "greeting_filter:Greeting"'
    ]
    assert wrong('filters: {a: {type: "greeting_filter:Greeting"}}\n') == [
        '3:21: filters.a.type: "greeting_filter:Greeting" is of the package "greeting_filter"; '
        "expected it under `extensions: [greeting_filter]`"
    ]
    assert "greeting_filter" not in sys.modules


@pytest.mark.parametrize(
    ("name", "modules", "points", "told"),
    [
        ("a-b", {"m.py": "1/0"}, {"x": "m:X"}, '"m" cannot be imported: ZeroDivisionError: division by zero'),
        ("a-b", {"m.py": "raise SystemExit(3)"}, {"x": "m:X"}, '"m" cannot be imported: SystemExit: 3'),
        ("a-b", {"m.py": "def"}, {"x": "m:X"}, '"m" cannot be imported: SyntaxError: invalid syntax (m.py, line 1)'),
        ("a-b", {"m.py": "import gone_away"}, {"x": "m:X"}, 'there is no module "m": it needs "gone_away"'),
        ("a-b", {"m.py": ""}, {"x": "n.o:X"}, 'there is no module "n.o"'),
        ("a-b", {"m.py": FILTER}, {"x": "m:Greetings"}, '"m" has no class "Greetings"; did you mean "m:Greeting"?'),
        ("a-b", {"m.py": "X = 1"}, {"x": "m:X"}, '"m:X" is not a filter; expected a subclass of `fastgw.filters.api.F'),
        ("a-b", {"m.py": FILTER}, {"x": "m:Filter"}, '"m:Filter" has no phase; expected `class Filter(Filter, name='),
        ("a-b", {"m.py": FILTER}, {"x": "m:Greeting"}, '"m:Greeting" is called "greeting", and not "x"; expected the'),
        (
            "a-b",
            {"m.py": FILTER.replace('name="greeting"', 'name="size"')},
            {"size": "m:Greeting"},
            'its filter "size" has the name of a filter of "fastgw"',
        ),
        (
            "a-b",
            {"m.py": FILTER.replace("word: str", "word: complex")},
            {"greeting": "m:Greeting"},
            "the settings of \"m:Greeting\" cannot be read: TypeError: <class 'complex'> in settings has no written",
        ),
        (
            "a-b",
            {
                "m.py": FILTER.replace("word: str", "either: A | B = A()\n    word: str").replace(
                    "class Gre", f"import fastgw\n\n{AB}\nclass Gre"
                )
            },
            {"greeting": "m:Greeting"},
            'the settings of "m:Greeting" cannot be read: TypeError: If a type union contains multiple Struct types',
        ),
        (
            "a-b",
            {"m.py": FILTER.replace("phase=", "api=2, phase=")},
            {"greeting": "m:Greeting"},
            '"m:Greeting" is written for filter API version 2; expected 1, which fastgw has',
        ),
        (
            "a-b",
            {"m.py": re.sub(r"phase=[\w.]+", "phase='authorize'", FILTER)},
            {"greeting": "m:Greeting"},
            'the phase of "m:Greeting" is not a `Phase`; did you mean `Phase.AUTHORIZE`?',
        ),
        (
            "a-b",
            {"m.py": FILTER.replace("phase=", "order='1', phase=")},
            {"greeting": "m:Greeting"},
            'the order of "m:Greeting" is not an integer',
        ),
        ("b-c", {}, {}, 'package "a-b" is not installed; expected the name of an installed package, as pip shows it'),
        ("aa-b", {"m.py": FILTER}, {"greeting": "m:Greeting"}, 'package "a-b" is not installed; did you mean "aa-b"?'),
    ],
)
def test_what_is_wrong_with_a_package_is_one_line(
    tmp_path: Path, name: str, modules: dict[str, str], points: dict[str, str], told: str
) -> None:
    install(tmp_path, name, modules, points)
    with importable(tmp_path):
        (line,) = wrong("extensions: [a-b]\n")
    assert line.startswith(f"3:14: extensions[0]: {told}")
    assert "\n" not in line


def test_two_packages_cannot_offer_the_same_name(folder: Path) -> None:
    install(folder, "another", {"another.py": FILTER}, {"greeting": "another:Greeting"})
    (line,) = wrong("extensions: [fastgw-greeting, another]\n")
    assert line == '3:31: extensions[1]: its filter "greeting" has the name of a filter of "greeting_filter"'


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("greeting", 'extensions: "greeting"; expected a list (each element: a string)'),
        ("[1]", "extensions[0]: 1 without quotes; expected a string"),
        ("['']", 'extensions[0]: ""; expected a non-empty string'),
        ("['a b']", 'extensions[0]: package "a b" is not installed'),
        ("[../x]", 'extensions[0]: package "../x" is not installed'),
    ],
)
def test_what_names_no_package(value: str, told: str) -> None:
    lines = wrong(f"extensions: {value}\n")
    assert any(told in line for line in lines), lines


def test_a_wrong_class_is_told_where_it_is_named(folder: Path) -> None:
    text = 'extensions: [greeting_filter]\nfilters: {a: {type: "greeting_filter:Welcome"}}\n'
    assert wrong(text) == ['4:21: filters.a.type: "greeting_filter" has no class "Welcome"']


def test_a_package_that_is_mended_is_found(tmp_path: Path) -> None:
    """A reload after `pip install` sees it: nothing is remembered of the failure."""
    with importable(tmp_path):
        assert wrong("extensions: [late]\n")
        install(tmp_path, "late", {"late.py": "1/0"}, {"greeting": "late:Greeting"})
        assert wrong("extensions: [late]\n")
        (tmp_path / "late.py").write_text(FILTER)
        assert loaded("extensions: [late]\nfilters: {greeting: {}}\n").filters


def test_the_same_in_json(folder: Path) -> None:
    said = {**SERVICE, "extensions": ["fastgw-greeting"], "filters": {"greeting": {"word": 1}}}
    with pytest.raises(config.ConfigError, match="word: 1 without quotes"):
        config.load_text(json.dumps(said).encode(), "/nowhere/a.json", TYPES)


def test_settings_that_raise_are_a_bug_of_their_filter(tmp_path: Path) -> None:
    """The load ends with an error at the filter, as for a `build` that raises: a reload leaves the running one."""
    raising = "    def __post_init__(self) -> None:\n        len(1)\n\n    def build"
    install(tmp_path, "a-b", {"m.py": FILTER.replace("    def build", raising)}, {"greeting": "m:Greeting"})
    with importable(tmp_path):
        assert wrong("extensions: [a-b]\nfilters: {greeting: {}}\n") == [
            "4:21: filters.greeting: a bug: TypeError: object of type 'int' has no len()"
        ]
