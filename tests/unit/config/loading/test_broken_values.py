"""Values that cannot be decoded: each is one problem with its position, wherever it is, and hides no other problem."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from fastgw import config
from fastgw.filters import TYPES
from tests.support.table import for_each
from tests.test_docs_blocks import SECRET, StandIns, blocks, variables

PART = {"version": 1, "listeners": {"main": {"address": "127.0.0.1:8080"}}}
BROKEN = [{"unknown": {}}]
"""Neither a list of words nor one of known objects."""
NAMES = {"listeners", "upstreams", "filter_sets", "maps", "caches", "apps", "headers"}
"""Objects whose keys are names of a user's choice."""
ANY_JSON = {"data", "default", "inline", "set", "template"}
"""Settings with any JSON value, or one that only the filter checks. So has `body` in a part of a composition."""
FOLDER = re.compile(r"^/(?:etc|run|var)/(?:[\w-]+/)+")
"""Folders of files that the manual's configurations name."""
Steps = tuple[str | int, ...]


def breakages(value: Any, steps: Steps = ()) -> Iterator[tuple[Steps, str, Any]]:
    """Every list and object below a value, with what may take its place: each element or member broken, or one more."""
    inner: Any = ()
    if isinstance(value, list):
        if value:
            yield steps, "elements", [BROKEN for _ in value]
        yield steps, "another element", [*value, BROKEN]
        inner = enumerate(value)
    elif isinstance(value, dict):
        if value:
            yield steps, "members", dict.fromkeys(value, BROKEN)
        yield steps, "another member", {**value, "unknown": BROKEN}
        inner = value.items()
    for step, each in inner:
        yield from breakages(each, (*steps, step))


def with_value(whole: Any, steps: Steps, value: Any) -> Any:
    if not steps:
        return value
    first, *others = steps
    changed = dict(whole) if isinstance(whole, dict) else list(whole)
    changed[first] = with_value(whole[first], tuple(others), value)
    return changed


def kind_of(steps: Steps) -> Steps:
    """The steps without indexes and names: places that the same code reads have the same."""
    above = (None, *steps)
    return tuple(
        "*" if isinstance(step, int) or outer in NAMES else step for outer, step in zip(above, steps, strict=False)
    )


def is_valid_anyway(steps: Steps, value: Any) -> bool:
    """Whether a value is in a setting that takes any, or is an object of such settings alone."""
    return (
        not ANY_JSON.isdisjoint(steps)
        or ("parts" in steps and "body" in steps)
        or (isinstance(value, dict) and ANY_JSON.issuperset(value))
    )


def local(value: Any) -> Any:
    """A configuration whose files are below the working directory."""
    if isinstance(value, dict):
        return {key: local(each) for key, each in value.items()}
    if isinstance(value, list):
        return [local(each) for each in value]
    return FOLDER.sub("", value) if isinstance(value, str) else value


def test_a_broken_value_anywhere_in_the_manuals_configurations_is_reported_with_its_position(
    tmp_path, tmp_path_factory, monkeypatch
):
    """The files that they name can be read: rules about their contents are checked beside what is broken, too."""
    monkeypatch.chdir(tmp_path)
    stand_ins = StandIns(tmp_path_factory.mktemp("files"))
    met: set[tuple[Steps, str]] = set()
    accepted: list[tuple[Steps, str]] = []
    for block in blocks("yaml"):
        for document in yaml.safe_load_all(block.values[0]):
            if not isinstance(document, dict) or "apiVersion" in document:
                continue
            whole = PART | local(document)
            stand_ins.put(tmp_path, whole)
            for name in variables(whole):
                monkeypatch.setenv(name, "redis://127.0.0.1:6379/0" if "REDIS" in name else SECRET)
            for steps, kind, value in breakages(whole):
                if not steps or (kind_of(steps), kind) in met:
                    continue
                met.add((kind_of(steps), kind))
                text = json.dumps(with_value(whole, steps, value), default=str)
                try:
                    config.load_text(text.encode(), "gateway.json", TYPES)
                except config.ConfigError as error:
                    odd = [str(each) for each in error.problems if not each.line or "Broken" in str(each)]
                    assert not odd, (steps, kind)
                else:
                    if not is_valid_anyway(steps, value):
                        accepted.append((steps, kind))
    assert not accepted, "\n".join(map(str, accepted))
    assert len(met) > 1000


CANARY = "split: {canaries: [{upstream: u, headers: {X-A: b}}]}"
URL = "{url: 'http://u'}"
ROUTE = "routes: [{name: r, paths: [/], %s}, {name: s, paths: [/s], upstream: v}]\n"


@for_each(
    ("route", "line"),
    [
        ("variants: [{wieght: 5, upstream: u}, {upstream: u}]", "routes[0].variants[0].wieght: unknown key"),
        ('variants: [{weight: "10%", upstream: u}]', 'routes[0].variants[0].weight: "10%"; expected a whole number'),
        ("variants: [{use: [5], upstream: u}]", "routes[0].variants[0].use[0]: 5 without quotes"),
        (
            'compose: {parts: [{name: p, upstream: u, path: /, headers_to_pass: ["a b"]}]}',
            'routes[0].compose.parts[0].headers_to_pass[0]: "a b" is not a token',
        ),
        (
            "compose: {parts: [{name: p, upstream: u, path: /, after: [5]}]}",
            "routes[0].compose.parts[0].after[0]: 5 without quotes",
        ),
        (
            "compose: {parts: [{name: p, upstream: u, path: /, headers: {X-A: [5]}}]}",
            "routes[0].compose.parts[0].headers.X-A: a list",
        ),
        (
            f"variants: [{{weight: [], upstream: u}}, {{weight: 5, respond: {{body: b}}}}], {CANARY}",
            "routes[0].variants[0].weight: a list",
        ),
        (
            f"variants: [{{weight: 1, upstream: [5]}}, {{weight: 5, respond: {{body: b}}}}], {CANARY}",
            "routes[0].variants[0].upstream: a list",
        ),
        (f"variants: 5, {CANARY}", "routes[0].variants: 5"),
        (f"upstream: [5], {CANARY}", "routes[0].upstream: a list"),
        (
            "variants: [{weight: 1, upstream: u}, {upstream: u}], "
            "split: {canaries: [{upstream: [5], headers: {X-A: b}}]}",
            "routes[0].split.canaries[0].upstream: a list",
        ),
        ("upstream: u, fallback: {upstream: [5]}", "routes[0].fallback.upstream: a list"),
    ],
)
def test_a_broken_element_of_a_route_is_one_problem_beside_those_of_other_routes(route, line):
    upstreams = f"upstreams: {{u: {{targets: [{URL}]}}}}\n"
    said = problems(upstreams + ROUTE % route)
    assert said[0].partition(": ")[2].startswith(line)
    assert [each.partition(": ")[2].partition(";")[0] for each in said[1:]] == [
        'routes[1].upstream: unknown upstream "v"'
    ]


@pytest.mark.parametrize("name", ["paths", "methods"])
@pytest.mark.parametrize("value", [True, 5, {"x": 1}])
def test_a_value_that_is_no_list_beside_grpc_is_one_problem(name, value):
    route = {"name": "r", "grpc": {"service": "a.B"}, name: value, "upstream": "nope"}
    first, second = problems(json.dumps({"routes": [route]})[1:-1] + "\n")
    assert f"routes[0].{name}: " in first
    assert 'routes[0].upstream: unknown upstream "nope"' in second


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (
            "{u: {targets: [{url: 'localhost:90'}], health_checks: {active: {type: grpc}}}}",
            'upstreams.u.targets[0].url: "localhost:90" is not',
        ),
        (
            f"{{u: {{targets: [{URL}, {{ulr: 'http://u'}}], health_checks: {{active: {{type: http, path: /}}}}}}}}",
            "upstreams.u.targets[1].ulr: unknown key",
        ),
        (
            "{u: {targets: {dns: a.example, port: 80, scheme: [5]}}}",
            "upstreams.u.targets.scheme: a list",
        ),
    ],
)
def test_a_broken_target_is_one_problem(part, line):
    (said,) = problems(f"upstreams: {part}\n")
    assert said.partition(": ")[2].startswith(line)


def test_the_directory_of_a_cache_has_no_null_byte():
    (said,) = problems('caches: {main: {disk: {path: "a\\0b", size: 100MiB}}}\n')
    assert said.endswith("caches.main.disk: `path` has a null byte; expected the name of a directory")


def problems(text: str) -> list[str]:
    """The problems of a configuration with one listener."""
    with pytest.raises(config.ConfigError) as caught:
        config.load_text(f"{yaml.dump(PART)}{text}".encode(), "gateway.yaml", TYPES)
    return [str(each) for each in caught.value.problems]
