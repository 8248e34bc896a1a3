"""Whatever a file says, the answer is a configuration or a list of problems; and every value has its place."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import config
from fastgw.config.formats import json as from_json
from fastgw.config.formats import toml
from fastgw.config.formats import yaml as from_yaml
from fastgw.filters import TYPES

GOOD = from_yaml.read(Path(__file__).parents[4].joinpath("examples", "gateway.yaml").read_text())[0]
KEYS = st.sampled_from(["type", "enforced", "url", "tls", "to", "paths", "a", "", "[", 'q"', "size"])
TEXTS = st.sampled_from(
    ["", "/", "users", "unix:", "http://[", "http://a:b@c", "\n", "\u2028", "~", "1s", "*", "{x}", "%"]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def locations(value, path=()):
    """Every path of a document below its root."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from locations(inner, (*path, step))


def spots(trace, path=()):
    for step, inner in trace.children.items():
        yield (*path, step)
        yield from spots(inner, (*path, step))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(locations(GOOD))), ANY), min_size=1, max_size=3))
def test_any_file_is_answered(tmp_path_factory, changes):
    document = copy.deepcopy(GOOD)
    for path, value in changes:
        owner = document
        try:
            for step in path[:-1]:
                owner = owner[step]
            owner[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took away what was to be changed
    file = tmp_path_factory.mktemp("any") / "a.json"
    file.write_text(json.dumps(document))
    try:
        config.load(str(file), TYPES)
    except config.ConfigError as error:
        for problem in error.problems:
            assert problem.line > 0
            assert "\n" not in str(problem)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, ANY, max_size=4), st.sampled_from([None, 1]))
def test_every_value_has_its_place(document, indent):
    text = json.dumps(document, indent=indent)
    assert set(spots(from_json.trace(text).root)) == set(locations(document))
    yaml = json.dumps(document, indent=indent, ensure_ascii=False)
    assert from_yaml.read(yaml)[0] == document
    assert set(spots(from_yaml.trace(yaml).root)) == set(locations(document))


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    for form in (from_yaml, from_json, toml):
        try:
            form.read(text)
        except from_yaml.SyntaxProblem:
            continue
        form.trace(text)


@pytest.mark.parametrize("name", ["gateway", "teams/accounts", "teams/billing", "teams/catalog"])
def test_toml_has_the_places_of_the_golden_files(name):
    text = Path(__file__).parents[3].joinpath("contract", "check", "toml", f"{name}.toml").read_text()
    assert set(spots(toml.trace(text).root)) == set(locations(toml.read(text)[0]))
