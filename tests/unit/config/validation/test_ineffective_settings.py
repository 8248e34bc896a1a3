"""check notes settings that do nothing as they stand, each at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw import config
from fastgw.filters import TYPES

MAIN = """\
version: 1
listeners: {main: {address: "127.0.0.1:0"}}
upstreams:
  u: {targets: [{url: "http://a.test"}%s]%s}
  v: {targets: [{url: "http://b.test"}]}
routes: [{name: r, %s}, {name: all, paths: [/all], upstream: {u: 1, v: 1}}]
"""
SECOND = ', {url: "http://c.test"}'


def loaded(folder: Path, more: str = "", settings: str = "", route: str = "upstream: u") -> config.Loaded:
    file = folder / "gw.yaml"
    file.write_text(MAIN % (more, settings, route))
    return config.load(str(file), TYPES)


@pytest.mark.parametrize(
    ("more", "settings", "route", "note"),
    [
        (
            "",
            (", hedge: {}"),
            "upstream: u",
            "4:42: upstreams.u.hedge: the upstream has only one target: requests cannot be hedged",
        ),
        (
            "",
            ", load_balancing: {sticky: {cookie: at}}",
            "upstream: u",
            "4:59: upstreams.u.load_balancing.sticky: the upstream has only one target: all requests go to it anyway, "
            "with and without the cookie",
        ),
        (
            ', {url: "http://a.test"}',
            "",
            "upstream: u",
            "4:41: upstreams.u.targets[1]: duplicate of targets[0]",
        ),
        *(
            (
                "",
                "",
                f"upstream: u, forwarded: {policy}, forwarded_header: true",
                f"{at}: routes[0].forwarded_header: it has no effect with `forwarded: {policy}`",
            )
            for policy, at in (("strip", "6:51"), ("pass", "6:50"))
        ),
        ("", "", "upstream: u, forwarded: set, forwarded_header: true", ""),
        (", {url: 'http://c.test', weight: 0}", "", "upstream: u", ""),
        (
            "",
            ", retries: {per_try_timeout: 2s, conditions: [per_try_timeout]}",
            "upstream: u, timeout: 2s",
            '6:33: routes[0].timeout: `per_try_timeout` of upstream "u" is 2s: the route\'s timeout is not longer',
        ),
        ("", ", retries: {per_try_timeout: 2s, conditions: [per_try_timeout]}", "upstream: u, timeout: 3s", ""),
        ("", ", retries: {per_try_timeout: 2s, conditions: [per_try_timeout]}", "upstream: u", ""),
        (
            "",
            "",
            "upstream: u, fallback: {upstream: u}",
            "6:44: routes[0].fallback.upstream: it is the upstream of the route itself, which is not tried again",
        ),
        ("", "", "upstream: {u: 1, v: 1}, fallback: {upstream: u}", ""),
        (
            "",
            "",
            ("upstream: {u: 1, v: 0}"),
            "6:37: routes[0].upstream.v: it gets no requests: its share is 0 and no canary uses it",
        ),
        ("", "", "upstream: {u: 1, v: 0}, split: {canaries: [{upstream: v, cookies: {a: b}}]}", ""),
        (SECOND, ", hedge: {}, load_balancing: {sticky: {cookie: at}}", "upstream: u", ""),
    ],
)
def test_what_does_nothing_is_noted(tmp_path: Path, more: str, settings: str, route: str, note: str) -> None:
    notes = [str(each).removeprefix(f"{tmp_path}/gw.yaml:") for each in loaded(tmp_path, more, settings, route).notes]
    assert len(notes) == bool(note)
    assert not note or notes[0].startswith(note), notes


@pytest.mark.parametrize(
    ("listener", "more", "wanted"),
    [
        ("protocol: tcp, upstream: t", "", ["5:10: routes[0]: it gets no requests: no listener has `protocol: http`"]),
        (
            "protocol: tcp, upstream: t",
            ", {name: b, paths: [/b], respond: {body: b}}",
            ["5:10: routes[0]: all 2 routes get no requests: no listener has `protocol: http`"],
        ),
        ('protocol: tcp, upstream: t}, web: {address: "127.0.0.1:0"', "", []),
    ],
)
def test_routes_without_a_listener_for_requests_are_noted(
    tmp_path: Path, listener: str, more: str, wanted: list[str]
) -> None:
    """One note for all of them, and none where a provider may add the listener."""
    file = tmp_path / "gw.yaml"
    text = f"""\
version: 1
listeners: {{main: {{address: "127.0.0.1:0", {listener}}}}}
upstreams:
  t: {{targets: ["tcp://a.test:1"]}}
routes: [{{name: a, respond: {{body: a}}}}{more}]
"""
    file.write_text(text)
    told = [str(note).removeprefix(f"{file}:") for note in config.load(str(file), TYPES).notes]
    assert told == wanted
    file.write_text(text + "providers: {kubernetes: {}}\n")
    assert config.load(str(file), TYPES).notes == ()


def test_targets_without_weights_are_noted(tmp_path: Path) -> None:
    file = tmp_path / "gw.yaml"
    file.write_text((MAIN % ("", "", "upstream: u")).replace('"http://a.test"', '"http://a.test", weight: 0'))
    (note,) = config.load(str(file), TYPES).notes
    assert str(note).endswith("4:7: upstreams.u.targets: all targets have weight 0: every request is answered 503")


def test_targets_that_come_from_elsewhere_may_be_more_next_time(tmp_path: Path) -> None:
    (tmp_path / "targets.yaml").write_text('- {url: "http://a.test"}\n')
    file = tmp_path / "gw.yaml"
    text = MAIN % ("", ", hedge: {}", "upstream: u")
    file.write_text(text.replace('[{url: "http://a.test"}]', "{file: targets.yaml}"))
    assert config.load(str(file), TYPES).notes == ()


def test_a_word_that_is_nearly_one_of_a_few_is_told(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as raised:
        loaded(tmp_path, settings=", load_balancing: {algorithm: leastconnections}")
    (problem,) = raised.value.problems
    assert problem.path == "upstreams.u.load_balancing.algorithm"
    assert (problem.hint, problem.expected[:15]) == ('did you mean "least_connections"?', '"round_robin", ')


def test_a_short_key_for_cookies_is_told_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as raised:
        loaded(tmp_path, SECOND, ", load_balancing: {sticky: {cookie: at, key: short}}")
    (problem,) = raised.value.problems
    assert (problem.line, problem.path) == (4, "upstreams.u.load_balancing.sticky.key")
    assert (problem.wrong, problem.expected) == ("5 characters", "at least 16")


def test_targets_that_were_put_in_place_of_a_files_are_noted(tmp_path: Path) -> None:
    """Also when the file says something else by now: it does not count until the configuration is read again."""
    (tmp_path / "targets.yaml").write_text('- {url: "http://a.test"}\n')
    file = tmp_path / "gw.yaml"
    own = MAIN % (SECOND, "", "upstream: u")
    for text, count in ((own.replace('[{url: "http://b.test"}]', "{file: targets.yaml}"), 1), (own, 0)):
        file.write_text(text)
        made = config.load(str(file), TYPES)
        put = config.Source("put", b'[{"url": "http://put.test"}]', suffix=".json", upstream="v")
        captured = dict.fromkeys(made.captured, b'- {url: "http://new.test"}')
        loaded = config.load_sources([*made.sources, put], captured, TYPES)
        assert [str(target.url) for target in loaded.config.upstreams["v"].targets] == ["http://put.test"]
        assert len(loaded.notes) == count
        assert all(
            "the admin API has replaced the targets of `file: targets.yaml`" in each.wrong for each in loaded.notes
        )


@pytest.mark.parametrize("kind", ["consul", "nacos", "eureka", "docker"])
def test_the_note_on_targets_that_were_put_names_the_registry(tmp_path: Path, kind: str) -> None:
    address = "unix:/var/run/docker.sock" if kind == "docker" else "http://127.0.0.1:1"
    file = tmp_path / "gw.yaml"
    file.write_text(
        (MAIN % (SECOND, "", "upstream: u")).replace('[{url: "http://b.test"}]', f"{{{kind}: users}}")
        + f'providers: {{{kind}: {{address: "{address}"}}}}\n'
    )
    made = config.load(str(file), TYPES)
    put = config.Source("put", b'[{"url": "http://put.test"}]', suffix=".json", upstream="v")
    notes = config.load_sources([*made.sources, put], made.captured, TYPES).notes
    assert any(f"the admin API has replaced the targets of `{kind}: users`;" in each.wrong for each in notes)


EMPTY_STEP = "has an empty step: it is the path of a member without a name"


@pytest.mark.parametrize(
    ("part", "route", "wanted"),
    [
        ("target: a..b", "", [f'target: "a..b" {EMPTY_STEP}']),
        ("target: a.b, allow: [x, .y]", "", [f'allow: ".y" {EMPTY_STEP}']),
        ("deny: [x.]", "", [f'deny: "x." {EMPTY_STEP}']),
        ("wrap: x", "", ["wrap: it has no effect: the answer is an object, unless `is_collection` is true"]),
        ("wrap: x, is_collection: true", "", []),
        ("concurrency: 3, max: 5", "", ["concurrency: it has no effect without `for_each`", "max: it has no effect"]),
        (
            "required: true, default: {}, error_as: x",
            "",
            [
                "default: it has no effect: if the part fails, the response fails (`required`)",
                "error_as: it has no effect: if the part fails, the response fails (`required`)",
            ],
        ),
        ("default: {}, error_as: x", "", ["error_as: it has no effect: `default` stands in its place"]),
        ("error_as: x", "", []),
        ("allow: [a], deny: [b]", "", ["deny: it has no effect: only the members of `allow` are used"]),
        (
            "flatmap: [{type: del, args: [a]}], allow: [a], deny: [b], mapping: {c: d}",
            "",
            [f"{key}: it has no effect: `flatmap` is in its place" for key in ("allow", "deny", "mapping")],
        ),
        ("default: {}", "", []),
        ("body: pass, method: POST", ", methods: [GET]", ["body: it has no effect: GET requests have no body"]),
        ("body: pass, method: POST", ", methods: [GET, POST]", []),
        ("body: {a: 1}", "", ["body: it is the body of a GET request: `method` is left out, and GET by default"]),
        ("body: {a: 1}, method: GET", "", []),
    ],
)
def test_settings_of_parts_that_do_nothing(tmp_path: Path, part: str, route: str, wanted: list[str]) -> None:
    parts = f"compose: {{parts: [{{name: a, upstream: u, path: /a, {part}}}]}}{route}"
    told = [str(each) for each in loaded(tmp_path, route=parts).notes]
    assert len(told) == len(wanted), told
    where = "routes[0].compose.parts[0]."
    assert all(where + each in note for each, note in zip(wanted, told, strict=True)), told


def test_a_default_that_a_response_of_all_parts_never_has(tmp_path: Path) -> None:
    parts = "compose: {all_or_nothing: true, parts: [{name: a, upstream: u, path: /a, default: {}}]}"
    (note,) = loaded(tmp_path, route=parts).notes
    assert "parts[0].default: it has no effect: if the part fails, the response fails (`all_or_nothing`)" in str(note)


def test_settings_for_the_elements_of_a_list(tmp_path: Path) -> None:
    of_list = "for_each: '{part.a.ids}', after: [a], max: 5, concurrency: 2, wrap: x"
    each = f"{{name: b, upstream: u, path: '/b/{{item}}', {of_list}}}"
    parts = f"compose: {{parts: [{{name: a, upstream: u, path: /a}}, {each}]}}"
    assert loaded(tmp_path, route=parts).notes == ()
