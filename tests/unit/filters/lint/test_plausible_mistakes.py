"""Plausible mistakes of those who write their first configuration: each is an error or a note that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw import config
from fastgw.filters import TYPES
from fastgw.filters.lint.warnings import warnings_of

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"
LAMBDA = "https://lambda.eu-west-1.amazonaws.com"


def route(settings: str) -> str:
    return f"routes: [{{name: r, {settings}}}]"


def filtered(filters: str, settings: str = "") -> str:
    return route(f"upstream: 'http://u', {settings}filters: {{{filters}}}")


def told(folder: Path, text: str) -> list[str]:
    file = folder / "a.yaml"
    file.write_text(HEAD + text)
    try:
        loaded = config.load(str(file), TYPES)
    except config.ConfigError as error:
        return [str(each).replace(f"{folder}/", "") for each in error.problems]
    notes = [str(each).replace(f"{folder}/", "") for each in loaded.notes]
    return notes + [warning for _, warning in warnings_of(loaded.config)]


ERRORS = {
    filtered("fault: {abort: 503}"): '.fault.abort: 503; expected an object with "status", "grpc_status" or "percent"',
    filtered("fault: {delay: 2s}"): '.fault.delay: "2s"; expected an object with "time"',
    filtered("fault: {percent: 10%}"): '.fault.percent: unknown key; expected it in "delay" or "abort"',
    filtered("transform: {json: {set: {a: 1}}}"): '.json: unknown key; expected it in "request" or "response"',
    filtered("transform: {request: {set: {a: 1}}}"): '.request.set: unknown key; expected it in "json"',
    filtered("validate: {schema: a.json}"): '.schema: unknown key; expected it in "body", "query", "path"',
    filtered("validate: {body: a.json}"): '.body: "a.json"; expected an object with "schema", "inline", "required"',
    filtered("waf: {crs: true}"): '.waf.crs: true; expected an object with "rules", "processes", "deadline" or',
    route("lambda: orders"): 'lambda: "orders"; expected an object with "upstream" and "function"',
    route("files: ./public"): 'files: "./public"; expected an object with "root"',
    route("respond: {}") + "\ntelemetry: {traces: {otlp: {url: 'c:4317'}}}": (
        'otlp.url: "c:4317" is not an http, https or unix URL; expected a URL such as "http://host:9000", or "unix:/p'
    ),
    route("upstream: u") + "\nupstreams: {u: {targets: {consul: users}}}": (
        "u.targets.consul: `providers.consul` is missing; expected the address of the registry"
    ),
    "routes: [{openapi: a.yaml}]": 'openapi: "a.yaml"; expected an object with "file"',
    "routes: [{openapi: {file: 5}, upstream: 'http://u'}]": 'upstream: unknown key; expected it in "openapi"',
}
NOTES = {
    filtered("transform: {request: {json: {rename: {a.b: c.d}}}}"): (
        '"a.b" gets a name with a dot, "c.d": `rename` takes a name, not a path; `move` takes a path'
    ),
    filtered(
        "transform: {request: {json: {set: {/a/b: 1}}}}"
    ): '"/a/b" is one name with slashes; a path is written a.b',
    filtered("transform: {request: {json: {deny: [a]}}}", "methods: [GET], "): (
        "`request` has no effect: GET requests have no body"
    ),
    filtered("transform: {request: {json: {set: {a: '${header.x}'}}}}"): (
        "set.a: the `$` of `${header.x}` is taken literally; write {header.x}"
    ),
    filtered("validate: {body: {inline: {}}}", "methods: [GET, HEAD], "): (
        "`body`: GET and HEAD requests have no body: every request is refused, unless `body.required` is false"
    ),
    filtered(
        "cache: {}", "methods: [POST], "
    ): "POST requests are not answered from the cache: the filter has no effect",
    filtered("headers: {maps: {plan: {source: '{header.x}', values: {a: b}}}, request: {remove: [x]}}"): (
        "`maps.plan` is unused: no value of this filter has {map.plan}"
    ),
    filtered("headers: {request: {set: {x-to: 'a {target}'}}}"): (
        "`request`: x-to is always left out: {upstream} and {target} are known in responses only"
    ),
    f"caches: {{big: {{memory: 1GiB}}}}\n{filtered('cache: {}')}": (
        "a.yaml:3:10: caches.big: it is unused: no filter `cache` has it as its `store`"
    ),
    f"workers: 8\ncaches: {{main: {{memory: 1MiB}}}}\n{filtered('cache: {}')}": (
        "caches.main.memory: not enough for 8 workers: few responses are kept, or none are stored; set at least "
        "2MiB, 256KiB for each worker"
    ),
    route("methods: [POST], files: {root: .}"): (
        "routes[0].methods: static files answer GET and HEAD only: every request of this route is refused"
    ),
    route(f"lambda: {{function: f, upstream: '{LAMBDA}'}}"): (
        "routes[0].lambda.upstream: requests are not signed, so AWS answers 403: the upstream has no `credentials` "
        "with `aws_sigv4`; a URL has no filters, so define an upstream for it"
    ),
    f"upstreams: {{l: {{targets: ['{LAMBDA}']}}}}\n" + route("lambda: {function: f, upstream: l}"): (
        "requests are not signed, so AWS answers 403: the upstream has no `credentials` with `aws_sigv4`"
    ),
    route(f"lambda: {{function: 'arn:aws:lambda:us-east-1:1:function:f', upstream: '{LAMBDA}'}}"): (
        "routes[0].lambda.function: the function is in us-east-1, but its requests are sent to eu-west-1"
    ),
}
SIGNED = (
    "filters: {credentials: {aws_sigv4: {region: eu-west-1, service: lambda, access_key_id: a, secret_access_key: b}}}"
)
SAID_WELL = {
    "a path of another form": filtered("transform: {request: {json: {rename: {a.b: c}, set: {d.e: '{header.x}'}}}}"),
    "a body that may be there": filtered("transform: {request: {json: {deny: [a]}}}", "methods: [GET, POST], "),
    "a target in a response": filtered("headers: {response: {set: {x-from: '{target}'}}}"),
    "a map in use": filtered(
        "headers: {maps: {p: {source: '{header.x}', values: {a: b}}}, request: {set: {x-plan: '{map.p}'}}}"
    ),
    "a store for its workers": f"workers: 8\ncaches: {{main: {{memory: 2MiB}}}}\n{filtered('cache: {}')}",
    "a store in use": f"caches: {{big: {{memory: 1GiB}}}}\n{filtered('cache: {store: big}')}",
    "the region of the URL": f"upstreams: {{l: {{targets: ['{LAMBDA}'], {SIGNED}}}}}\n"
    + route("lambda: {function: 'arn:aws:lambda:eu-west-1:1:function:f', upstream: l}"),
}


@pytest.mark.parametrize(("text", "error"), ERRORS.items())
def test_an_error_names_the_keys_or_where_the_key_belongs(tmp_path: Path, text: str, error: str) -> None:
    assert any(error in each for each in told(tmp_path, text)), told(tmp_path, text)


@pytest.mark.parametrize(("text", "note"), NOTES.items())
def test_a_note_says_what_to_do(tmp_path: Path, text: str, note: str) -> None:
    assert any(note in each for each in told(tmp_path, text)), told(tmp_path, text)


@pytest.mark.parametrize("text", SAID_WELL.values(), ids=SAID_WELL)
def test_what_is_meant_is_not_noted(tmp_path: Path, text: str) -> None:
    assert told(tmp_path, text) == []
