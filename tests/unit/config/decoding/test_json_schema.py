"""The JSON Schema accepts what `check` accepts, refuses the mistakes that an editor can see, and explains every key."""

import json
import tomllib
from pathlib import Path

import pytest

from fastgw import config
from fastgw.config.decoding.json_schema import field_docs, schema
from fastgw.config.formats import yaml
from fastgw.config.settings.gateway import Config
from fastgw.filters import TYPES

EXAMPLES = sorted(Path(__file__).parents[4].joinpath("examples").glob("*.*"))
HEAD = "version: 1\nlisteners: {main: {address: 'localhost:0'}}\n"


@pytest.fixture(scope="module")
def judge():
    import jsonschema  # not by every process that collects this file: it takes 2 s

    drawn = json.loads(json.dumps(schema(TYPES)))
    jsonschema.Draft202012Validator.check_schema(drawn)
    return jsonschema.Draft202012Validator(drawn)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_examples_are_right(judge, file):
    text = file.read_text()
    judge.validate(tomllib.loads(text) if file.suffix == ".toml" else yaml.read(text)[0])
    config.load(str(file), TYPES)


@pytest.mark.parametrize(
    "text",
    [
        "workers: auto\nlimits: {body_bytes: 5, header_bytes: 8KiB}\nstatus: null",
        "admin: {token: a}",
        "admin: {token: {env: A}, tls: {certificates: [{certificate: a, key: b}], client_auth: {ca: c}}}",
        "admin: {token: {file: a}}\nstatus: {}\ntimeouts: {drain: {delay: 0}}",
        "admin: null\ntimeouts: {drain: {delay: 10s}}",
        "filters: {size: null, request_id: {enforced: true}, other: {type: size, body: 1MiB}, gone: null}",
        "routes: [{name: a, redirect: {to: /}, headers: {x: y}, filters: {headers: {request: {set: {a: b}}}}}]",
    ],
)
def test_what_is_right(judge, text):
    judge.validate(yaml.read(HEAD + text)[0])


@pytest.mark.parametrize(
    "text",
    [
        "workers: 0",
        "admin: {token: 5}",
        "admin: {token: ''}",
        "admin: {token: {env: A, file: b}}",
        "admin: {token: {value: a}}",
        "admin: {tls: {}}",
        "admin: {tls: {certificates: [{certificate: a}]}}",
        "admin: {tls: {certificates: [{certificate: a, key: b}], min_version: '0.9'}}",
        "timeouts: {drain: {delay: 5}}",
        "timeouts: {keepalive: 10}",
        "limits: {body_bytes: 5 KiB}",
        "routez: []",
        "routes: [{paths: [/]}]",
        "routes: [{name: a, paths: []}]",
        "filters: {size: {}}",
        "filters: {size: {body: 1MiB, typo: 1}}",
        "filters: {other: {body: 1MiB}}",
        "filters: {other: {type: nonsense}}",
        "upstreams: {u: {targets: []}}",
        "upstreams: {'a b': {targets: [{url: 'http://a'}]}}",
    ],
)
def test_what_is_wrong(judge, text):
    import jsonschema

    with pytest.raises(jsonschema.ValidationError):
        judge.validate(yaml.read(HEAD + text)[0])


def test_every_key_is_explained(judge):
    definitions = judge.schema["$defs"]
    structs = {"Config": judge.schema, **{name: drawn for name, drawn in definitions.items() if name != "filters"}}
    assert {"Route", "Upstream", "filter size"} <= structs.keys()
    for name, drawn in structs.items():
        assert drawn["description"], name
        assert [key for key, field in drawn["properties"].items() if "description" not in field] == [], name


def test_a_docstring_belongs_to_the_field_above_it():
    assert field_docs(Config)["workers"].startswith("Number of worker processes.")
    assert field_docs(Config)["status"].startswith("The status listener.")
