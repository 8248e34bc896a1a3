"""Errors of a filter: each has the position of its value, and none hides another one of the same filter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.config.base.problems import path_text
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError
from tests.support.table import for_each

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:8080'}}\n"
ROUTE = HEAD + "routes: [{name: a, paths: [/x], upstream: 'http://127.0.0.1:1', filters: %s}]\n"


def problems(text: str) -> list[str]:
    """The problems of a configuration, without the file's name."""
    try:
        loaded = config.load_text(text.encode(), "a.yaml", TYPES)
        with pytest.raises(CompileError) as refused:
            compile(loaded.config, 1, loaded.captured)
        said = refused.value.problems(loaded, TYPES)
    except config.ConfigError as error:
        said = error.problems
    return [str(each).partition(":")[2] for each in said]


def test_each_rule_of_a_json_mapping_is_checked():
    transform = "{transform: {request: {json: {rename: {a: b, c: b, 'x.*': y}}}, response: {json: {%s}}}}"
    at = "routes[0].filters.transform."
    assert problems(ROUTE % (transform % "allow: [a..b], move: {q: 'r.*'}")) == [
        f'3:122: {at}request.json.rename.c: `rename` gives two members the same name, as for "a"; '
        "expected different names",
        f'3:132: {at}request.json.rename["x.*"]: "x.*" ends with `*`; expected the name of a member at the end',
        f'3:164: {at}response.json.allow[0]: "a..b" has an empty step; expected a path such as order.items.*.sku',
        f'3:181: {at}response.json.move.q: "r.*" has more `*` than "q"; expected at most as many',
    ]


def test_each_value_of_a_schema_is_checked_in_each_schema_of_a_filter():
    body = "{inline: {properties: {n: {type: intger}, m: {minimum: '1'}, o: {minLength: -1}, p: 5}}}"
    query = "{inline: {$ref: '#/$defs/none'}}"
    at = "routes[0].filters.validate."
    assert problems(ROUTE % f"{{validate: {{body: {body}, query: {query}}}}}") == [
        f'3:125: {at}body.inline.properties.n.type: "intger": not valid JSON Schema: `type`; expected array, boolean, '
        'integer, null, number, object, string, or a list of them (route "a")',
        f'3:147: {at}body.inline.properties.m.minimum: "1": not valid JSON Schema: `minimum`; expected a number '
        '(route "a")',
        f"3:168: {at}body.inline.properties.o.minLength: -1: not valid JSON Schema: `minLength`; "
        'expected a number from 0 (route "a")',
        f"3:176: {at}body.inline.properties.p: 5: not valid JSON Schema: `p`; expected an object or true or false "
        '(route "a")',
        f'3:205: {at}query.inline["$ref"]: "#/$defs/none": a `$ref` leads to another document, or to nothing; '
        'expected a part of this schema, such as #/$defs/NAME (route "a")',
    ]


ODD_NAMES = ["200", "007", "0", "+1", "-1", "9" * 20, "0" * 900 + "7", "", " ", "a/b", "~", "~1", "a.b", "[0]", "%s"]
ODD_NAMES += ["meta-schema", "$schema", "$ref", "$id", "type", "enum", "pattern", "properties", "patternProperties"]


@for_each("name", ODD_NAMES)
def test_an_error_of_a_schema_is_shown_below_any_name(name: str) -> None:
    for schema in ({"properties": {name: {"type": "strng"}}}, {"$defs": {name: {"items": {"type": "strng"}}}}):
        steps = [*schema, name, *(["items"] if "$defs" in schema else []), "type"]
        at = path_text(("routes", 0, "filters", "validate", "body", "inline", *steps))
        filters = {"validate": {"body": {"inline": schema}, "query": {"inline": {"type": "strng"}}}}
        first, second = problems(ROUTE % json.dumps(filters))
        assert f': {at}: "strng": not valid JSON Schema: `type`; expected array, ' in first
        assert ': routes[0].filters.validate.query.inline.type: "strng": not valid JSON Schema: `type`; ' in second


def test_an_error_below_an_empty_name_is_not_at_its_sibling() -> None:
    schema = {"properties": {"": {"type": "strng", "properties": {"": 5}}, "type": {"title": "strng"}}}
    first, second = problems(ROUTE % json.dumps({"validate": {"body": {"inline": schema}}}))
    assert '.inline.properties[""].type: "strng": not valid JSON Schema: `type`; ' in first
    assert '.inline.properties[""].properties[""]: 5: not valid JSON Schema: ``; expected an object ' in second


def test_of_names_that_are_the_same_number_the_wrong_one_is_shown() -> None:
    schema = {"properties": {"7": {"type": "string"}, "007": {"type": "strng"}, "+7": {"type": "string"}}}
    (said,) = problems(ROUTE % json.dumps({"validate": {"body": {"inline": schema}}}))
    assert '.inline.properties.007.type: "strng": not valid JSON Schema: `type`; ' in said


def test_a_name_of_a_property_is_no_keyword() -> None:
    properties = {"pattern": 5, "type": 5, "patternProperties": {"maximum": "x"}}
    said = problems(ROUTE % json.dumps({"validate": {"body": {"inline": {"properties": properties}}}}))
    assert [each.partition(".inline.properties.")[2] for each in said] == [
        'pattern: 5: not valid JSON Schema: `pattern`; expected an object or true or false (route "a")',
        'type: 5: not valid JSON Schema: `type`; expected an object or true or false (route "a")',
        'patternProperties.maximum: "x": not valid JSON Schema: `maximum`; expected a number (route "a")',
    ]


@for_each(
    "schema",
    [
        {"properties": {"X-Api-Key": {"enum": "s3cr3t"}}},
        {"properties": {"X-Api-Key": {"examples": "s3cr3t"}}},
        {"properties": {"X-Api-Key": {"pattern": "(?=s3cr3t)"}}},
        {"properties": {"X-Api-Key": "s3cr3t"}},
        {"properties": {"type": "s3cr3t"}},
        {"properties": "s3cr3t"},
        {"enum": 5307},
        {"examples": 5307},
        {"description": ["s3cr3t"], "not": "s3cr3t"},
        {"allOf": ["s3cr3t"]},
        {"dependentRequired": {"required": "s3cr3t"}},
        {"contains": {"$comment": 1, "else": "s3cr3t"}},
    ],
)
def test_values_of_a_schema_that_may_be_data_are_not_shown(schema: dict[str, Any]) -> None:
    said = problems(ROUTE % json.dumps({"validate": {"headers": {"inline": schema}}}))
    assert said
    for each in said:
        assert ": routes[0].filters.validate.headers.inline." in each
        assert "s3cr3t" not in each
        assert "5307" not in each


def test_an_error_of_jq_is_at_the_expression():
    pytest.importorskip("jq")
    said = problems(ROUTE % "{transform: {request: {jq: .a}, response: {jq: '.a |'}}}")
    assert [each.partition(" syntax")[0] for each in said] == ["3:121: routes[0].filters.transform.response.jq: jq:"]


def test_each_rule_in_a_file_is_checked(tmp_path: Path):
    rules = tmp_path / "rules.yaml"
    rules.write_text('- {id: 10001, pattern: "("}\n- {id: 10002, patern: "x"}\n- {id: 3, pattern: "x"}\n')
    said = problems(f"{HEAD}filters: {{waf: {{rules_file: {rules}}}}}\n")
    assert [each.partition(f"filters.waf.rules_file: {rules}:")[2][:4] for each in said] == ["1:3:", "2:3:", "3:3:"]


TYPES_OF_MEDIA = "expected a media type in lower case without parameters such as"


@pytest.mark.parametrize(
    ("filters", "line"),
    [
        ("{compress: {types: [json]}}", f'compress.types[0]: "json"; {TYPES_OF_MEDIA} "text/html"'),
        ("{compress: {types: [Text/HTML]}}", f'compress.types[0]: "Text/HTML"; {TYPES_OF_MEDIA} "text/html"'),
        (
            "{websocket: {origins: ['https://a.example/']}}",
            'websocket.origins[0]: "https://a.example/"; expected an origin without a path such as '
            '"https://app.example"',
        ),
        (
            "{transform: {response: {xml: {root: a, fields: {}}, input: xml}}}",
            "transform.response.xml.fields: an empty object; expected a non-empty object (each key: a string; "
            "each value: an object)",
        ),
        (
            "{transform: {response: {json: {set: {f: '{header.X Y}'}}}}}",
            'transform.response.json.set.f: "{header.X Y}" has the unknown variable {header.X Y}; expected a variable '
            "such as {header.X-Tenant}, or a path parameter",
        ),
        (
            "{transform: {response: {json: {set: {f: '{id}'}}}}}",
            "transform.response.json.set.f: unknown variable {id}: no path of this route has such a parameter; "
            'expected one of "uuid", ',
        ),
        (
            "{transform: {response: {json: {set: {f: '{hots}'}}}}}",
            "transform.response.json.set.f: unknown variable {hots}: no path of this route has such a parameter; "
            'did you mean "host"?',
        ),
    ],
)
def test_an_error_says_what_is_expected_there(filters, line):
    (said,) = problems(ROUTE % filters)
    assert said.partition("filters.")[2].startswith(line)


def test_the_protocol_of_a_listener_in_an_environment_variable_is_checked(monkeypatch):
    monkeypatch.setenv("PROTOCOL", "http")
    listener = "{address: '127.0.0.1:5432', protocol: {env: PROTOCOL}, upstream: db}"
    upstreams = "upstreams: {db: {targets: [{url: 'tcp://127.0.0.1:5433'}]}}\n"
    (said,) = problems(f"version: 1\nlisteners: {{main: {listener}}}\n{upstreams}")
    assert "listeners.main.upstream: has no effect with `protocol: http`" in said


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [("sctp", '"sctp"'), ("[http]", "a list"), ("true", "true"), ("null", "null")],
)
def test_an_unknown_protocol_of_a_listener_is_one_error(protocol, shown):
    listener = f"{{address: '127.0.0.1:5432', protocol: {protocol}, upstream: db}}"
    upstreams = "upstreams: {db: {targets: [{url: 'tcp://127.0.0.1:5433'}]}}\n"
    (said,) = problems(f"version: 1\nlisteners: {{main: {listener}}}\n{upstreams}")
    assert said == f'2:57: listeners.main.protocol: {shown}; expected "http", "tcp", "tls" or "udp"'
