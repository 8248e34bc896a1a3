"""`{env: NAME}`: a variable of the environment in place of any plain value, and never told when it does not fit."""

from __future__ import annotations

import json

import pytest

from fastgw import config
from fastgw.config.base.value_types import Address, Url
from fastgw.config.decoding.json_schema import schema
from fastgw.config.loading.writer import effective
from fastgw.diff import as_text, differences
from fastgw.filters import TYPES

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"
HELD = "hunter2-of-somebody-else"


def load(folder, text):
    file = folder / "a.yaml"
    file.write_text(text)
    return config.load(str(file), TYPES)


def problems(folder, text):
    with pytest.raises(config.ConfigError) as caught:
        load(folder, text)
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


@pytest.fixture
def variables(monkeypatch):
    def put(**held):
        for name, value in held.items():
            monkeypatch.setenv(name, value)

    return put


def test_it_is_read_as_the_type_of_its_setting(tmp_path, variables):
    variables(
        WORKERS="3", ADDRESS=":8080", NETWORKS="10.0.0.0/8, ::1", IDLE="90s", SIZE="1MiB", PLAIN="4096",
        VERIFY="false", STATUS="503", SINK="stdout", BODY="${not} expanded", TO="u", TARGETS="http://a:1,https://b",
    )  # fmt: skip
    made = load(
        tmp_path,
        """
version: 1
workers: {env: WORKERS}
listeners: {main: {address: {env: ADDRESS}, trusted_proxies: {env: NETWORKS}}}
timeouts: {keepalive: {env: IDLE}}
limits: {body_bytes: {env: SIZE}, header_bytes: {env: PLAIN}}
access_logs: [{sink: {env: SINK}}]
upstreams: {u: {targets: {env: TARGETS}, tls: {verify: {env: VERIFY}}}}
routes:
  - {name: a, paths: [/a], upstream: {env: TO}}
  - {name: b, respond: {status: {env: STATUS}, body: {env: BODY}}}
""",
    ).config
    assert made.workers == 3
    assert made.listeners["main"].address == Address(host="", port=8080)
    assert [*map(str, made.listeners["main"].trusted_proxies)] == ["10.0.0.0/8", "::1/128"]
    assert (made.timeouts.keepalive, made.limits.body_bytes, made.limits.header_bytes) == (90.0, 1024**2, 4096)
    assert [each.url for each in made.upstreams["u"].targets] == [Url("http", "a", 1), Url("https", "b", 443)]
    assert made.upstreams["u"].tls.verify is False
    assert made.routes[0].upstream == "u"
    assert (made.routes[1].respond.status, made.routes[1].respond.body) == (503, "${not} expanded")
    assert made.access_logs[0].sink == "stdout"


@pytest.mark.parametrize("workers", ["auto", "2"])
def test_one_of_several_types_is_found(tmp_path, variables, workers):
    variables(WORKERS=workers)
    made = load(tmp_path, f"{HEAD}workers: {{env: WORKERS}}\nroutes: []\n").config
    assert made.workers == (workers if workers == "auto" else 2)


def test_a_mapping_that_may_have_such_a_key_keeps_it(tmp_path):
    (route,) = load(tmp_path, f"{HEAD}routes: [{{name: a, headers: {{env: prod}}, respond: {{}}}}]\n").config.routes
    assert route.headers == {"env": "prod"}


def test_an_include_may_be_named_so(tmp_path, variables):
    variables(PART="b.yaml")
    (tmp_path / "b.yaml").write_text("routes: [{name: b, respond: {}}]\n")
    assert load(tmp_path, f"{HEAD}include: [{{env: PART}}]\n").config.routes[0].name == "b"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "workers: {env: GW_NONE}",
            "a.yaml:3:16: workers.env: the environment variable GW_NONE is not set; "
            'expected a whole number from 1 to 1024 or "auto"',
        ),
        (
            "limits: {body_bytes: {env: GW_HELD}}",
            "a.yaml:3:28: limits.body_bytes.env: the environment variable GW_HELD does not have a valid value for "
            "this setting; "
            'expected a size such as "32KiB" or "10MB" or null',
        ),
        (
            "access_logs: [{format: {env: GW_HELD}}]",
            "a.yaml:3:30: access_logs[0].format.env: the environment variable GW_HELD does not have a valid value "
            "for this setting; "
            'expected "json", "ecs", "gelf", "combined", "common" or "w3c"',
        ),
        (
            "routes: [{name: a, upstream: {env: GW_HELD}}]",
            "a.yaml:3:30: routes[0].upstream: the environment variable GW_HELD does not have a valid value for this "
            "setting; "
            "none is defined",
        ),
        ("timeouts: {env: GW_HELD}", 'a.yaml:3:12: timeouts.env: unknown key; expected one of "drain", "filters"'),
        ("consumers: [{name: {env: GW_EMPTY}}]", "the environment variable GW_EMPTY is empty; expected a name of"),
    ],
)
def test_what_is_wrong_names_the_variable_and_the_setting_and_not_what_it_holds(tmp_path, variables, text, line):
    variables(GW_HELD=HELD, GW_EMPTY="")
    (told,) = problems(tmp_path, HEAD + text + "\n")
    assert line in told
    assert HELD not in told


def test_a_document_of_somebody_else_may_not_read_the_environment(variables):
    variables(GW_HELD="2")
    text = HEAD.encode() + b"workers: {env: GW_HELD}\ninclude: [{env: GW_HELD}]\nroutes: []\n"
    with pytest.raises(config.ConfigError) as caught:
        config.load_text(text, "/a.yaml", TYPES, trusted=False)
    told = [str(each) for each in caught.value.problems]
    assert [line.partition(": ")[2].partition(";")[0] for line in told] == [
        "workers.env: a configuration sent to the admin API may not read environment variables",
        "include[0].env: a configuration sent to the admin API may not read environment variables",
    ]


def test_targets_that_came_over_the_api_may_not_either(tmp_path, variables):
    variables(GW_HELD="http://a:1")
    loaded = load(tmp_path, f"{HEAD}upstreams: {{u: {{targets: ['http://b:1']}}}}\nroutes: []\n")
    put = config.Source("upstreams.u.targets", b"[{url: {env: GW_HELD}}]", suffix=".yaml", upstream="u")
    with pytest.raises(
        config.ConfigError, match=("a configuration sent to the admin API may not read environment variables")
    ):
        config.load_sources([*loaded.sources, put], loaded.captured, TYPES)


def test_it_is_shown_as_what_it_is_and_compared_so(tmp_path, variables):
    variables(GW_IDLE="90s", ALICE="a-secret-of-alice")
    text = f"{HEAD}timeouts: {{keepalive: 90s}}\nroutes: []\n"
    plain, held = load(tmp_path, text), load(tmp_path, text.replace("90s", "{env: GW_IDLE}"))
    assert effective(held.config)["timeouts"]["keepalive"] == "90s"
    assert as_text(differences(plain, held)) == "nothing changes"
    secret = load(tmp_path, f"{text}admin: {{token: {{env: ALICE}}}}\n")
    assert effective(secret.config)["admin"]["token"] == "***"


def test_the_schema_knows_it(tmp_path, variables):
    import jsonschema  # not by every process that collects this file: it takes 2 s

    judge = jsonschema.Draft202012Validator(schema(TYPES))
    document = {
        "version": 1,
        "workers": {"env": "W"},
        "listeners": {"main": {"address": {"env": "A"}, "trusted_proxies": {"env": "N"}}},
        "upstreams": {"u": {"targets": ["http://a:1", {"url": {"env": "T"}, "weight": {"env": "W"}}]}},
        "routes": [{"name": "a", "upstream": "u", "timeout": {"env": "D"}}],
    }
    assert [*judge.iter_errors(document)] == []
    assert [*judge.iter_errors({**document, "timeouts": {"env": "T"}})] != []
    assert [*judge.iter_errors(json.loads(json.dumps(document).replace('"W"', '"no name"')))] != []


class TestTargets:
    def test_a_url_is_a_target(self, tmp_path):
        text = "upstreams: {u: {targets: ['http://a:1', {url: 'http://b:2', weight: 3}]}}\nroutes: []\n"
        targets = load(tmp_path, HEAD + text).config.upstreams["u"].targets
        assert [(str(each.url), each.weight) for each in targets] == [("http://a:1", 1), ("http://b:2", 3)]

    def test_what_is_no_url_is_told_at_its_place(self, tmp_path):
        (told,) = problems(tmp_path, f"{HEAD}upstreams: {{u: {{targets: ['http://a:1', b]}}}}\nroutes: []\n")
        assert told == (
            'a.yaml:3:41: upstreams.u.targets[1]: "b" is not an http, https or unix URL; '
            'expected a URL such as "http://host:9000", "tcp://host:5432" or "unix:/path/of.sock"'
        )

    def test_in_a_file_of_targets_too(self, tmp_path):
        (tmp_path / "t.yaml").write_text("['http://a:1', 'http://b:2']\n")
        made = load(tmp_path, f"{HEAD}upstreams: {{u: {{targets: {{file: t.yaml}}}}}}\nroutes: []\n").config
        assert [str(each.url) for each in made.upstreams["u"].targets] == ["http://a:1", "http://b:2"]
