"""Filters in a configuration: their settings, and which level may replace or remove what another said."""

from enum import IntEnum

import pytest

from fastgw import config
from fastgw.config.base.value_types import Size
from fastgw.config.decoding import filter_levels as levels
from fastgw.config.settings.gateway import Settings
from fastgw.filters import TYPES as FILTER_TYPES


class Phase(IntEnum):
    EARLY, LATE = 1, 2

    @property
    def early(self):
        return self is Phase.EARLY


class Block(Settings):
    deny: tuple[str, ...] = ()


class Limit(Settings):
    body: Size
    least: Size = 0

    def __post_init__(self):
        if self.body < self.least:
            raise ValueError("`body` is below `least`; expected the same or more")


Block.phase = Block.phase_of_listener = Phase.EARLY
Limit.phase = Limit.phase_of_listener = Phase.LATE
TYPES = {"block": Block, "limit": Limit}


def write(folder, text):
    file = folder / "gw.yaml"
    file.write_text(text)
    return str(file)


def told(folder, text):
    with pytest.raises(config.ConfigError) as caught:
        config.load(write(folder, text), TYPES)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


LEVELS = """
version: 1
listeners:
  public: {{address: "127.0.0.1:0", filters: {{{listener}}}}}
  inner: {{address: "127.0.0.1:0"}}
upstreams:
  u: {{targets: [{{url: "http://u"}}], filters: {{{upstream}}}}}
filter_sets:
  s: {{{set}}}
filters: {{{gateway}}}
routes:
  - {{name: r, upstream: u, use: [s], filters: {{{route}}}}}
"""


def at(**levels):
    return LEVELS.format(**({"listener": "", "upstream": "", "set": "", "gateway": "", "route": ""} | levels))


def test_an_instance_has_a_name_a_type_and_settings(tmp_path):
    loaded = config.load(write(tmp_path, at(route="limit: {body: 1KiB}, other: {type: limit, body: 2}")), TYPES)
    first, second = loaded.config.routes[0].filters.values()
    assert (first.name, first.type, first.enforced, first.settings) == ("limit", "limit", False, Limit(body=1024))
    assert (second.name, second.type, second.settings) == ("other", "limit", Limit(body=2))


@pytest.mark.parametrize(
    ("filters", "line"),
    [
        ("limit: {}", "12:48: routes[0].filters.limit.body: missing; expected a size"),
        ("limit: {body: 1, least: 2}", "12:55: routes[0].filters.limit: `body` is below `least`; expected the same"),
        ("limit: {bdy: 1}", '12:56: routes[0].filters.limit.bdy: unknown key; did you mean "body"?'),
        ("limit: 5", "12:55: routes[0].filters.limit: 5; expected an object, null or off"),
        ("limt: {body: 1}", '12:48: routes[0].filters.limt: unknown filter type "limt"; did you mean "limit"?'),
        ("x: {type: 5}", "12:58: routes[0].filters.x.type: 5 without quotes; expected a string"),
        ("block: {enforced: 1}", "12:66: routes[0].filters.block.enforced: 1; expected true or false"),
    ],
)
def test_wrong_instances(tmp_path, filters, line):
    (only,) = told(tmp_path, at(route=filters))
    assert only.startswith(f"gw.yaml:{line}")


@pytest.mark.parametrize(
    ("where", "place", "who"),
    [
        ({"route": "limit: null"}, "12:48: routes[0].filters.limit: ", "a route cannot switch it off"),
        ({"route": "limit: {body: 2}"}, "12:48: routes[0].filters.limit: ", "a route cannot replace it"),
        ({"upstream": "limit: null"}, "7:47: upstreams.u.filters.limit: ", "an upstream cannot switch it off"),
        ({"listener": "limit: null"}, "4:46: listeners.public.filters.limit: ", "a listener cannot switch it off"),
        (
            {"set": "limit: null"},
            '12:34: routes[0].use[0]: filter set "s" has "limit", ',
            "a route cannot switch it off",
        ),
    ],
)
def test_what_the_gateway_enforces_stays(tmp_path, where, place, who):
    assert told(tmp_path, at(gateway="limit: {body: 1, enforced: true}", **where)) == [
        f"gw.yaml:{place}enforced by the gateway (gw.yaml:10); {who}"
    ]


def test_every_level_may_enforce(tmp_path):
    enforced = "limit: {body: 1, enforced: true}"
    assert told(tmp_path, at(listener=enforced, upstream="limit: null")) == [
        'gw.yaml:7:47: upstreams.u.filters.limit: enforced by listener "public" (gw.yaml:4); '
        "an upstream cannot switch it off"
    ]
    assert told(tmp_path, at(upstream=enforced, route="limit: null")) == [
        'gw.yaml:12:48: routes[0].filters.limit: enforced by upstream "u" (gw.yaml:7); a route cannot switch it off'
    ]
    assert told(tmp_path, at(set=enforced, route="limit: null")) == [
        'gw.yaml:12:48: routes[0].filters.limit: enforced by filter set "s" (gw.yaml:12); a route cannot switch it off'
    ]


@pytest.mark.parametrize("farther", ["gateway", "listener"])
def test_what_runs_before_routing_cannot_depend_on_the_route(tmp_path, farther):
    (only,) = told(tmp_path, at(**{farther: "block: {}"}, route="block: {deny: [a]}"))
    owner = {"gateway": "the gateway (gw.yaml:10)", "listener": 'listener "public" (gw.yaml:4)'}[farther]
    assert only.endswith(f"routes[0].filters.block: runs before routing, by {owner}; a route cannot replace it")


def test_a_listener_may_replace_what_runs_before_routing_and_a_route_may_add(tmp_path):
    loaded = config.load(write(tmp_path, at(gateway="block: {}", listener="block: {deny: [a]}")), TYPES)
    assert [str(note).replace(f"{tmp_path}/", "") for note in loaded.notes] == [
        "gw.yaml:4:46: listeners.public.filters.block: replaces that of the gateway (gw.yaml:10)"
    ]
    assert config.load(write(tmp_path, at(route="block: {}")), TYPES).notes == ()


def test_replacing_and_removing_is_noted(tmp_path):
    text = at(gateway="limit: {body: 1}", upstream="limit: {body: 2}", set="limit: null", route="x: null")
    notes = config.load(write(tmp_path, text), TYPES).notes
    assert [str(note).replace(f"{tmp_path}/", "") for note in notes] == [
        "gw.yaml:7:47: upstreams.u.filters.limit: replaces that of the gateway (gw.yaml:10)",
        'gw.yaml:12:34: routes[0].use[0]: filter set "s" has "limit", removes that of upstream "u" (gw.yaml:7)',
        "gw.yaml:12:48: routes[0].filters.x: no outer level has a filter with this name",
    ]


VARIANTS = """
version: 1
listeners:
  public: {address: "127.0.0.1:0"}
upstreams:
  a: {targets: [{url: "http://a"}], filters: {x: {type: limit, body: 1, enforced: true}}}
  b: {targets: [{url: "http://b"}]}
filter_sets:
  one: {key: {type: limit, body: 1, enforced: true}}
  two: {key: {type: limit, body: 2}}
  none: {key: null}
  x: {x: {type: limit, body: 2}}
routes:
  - name: r
    use: [USE]
    filters: {FILTERS}
    variants:
      - {weight: 1, upstream: a, use: [FIRST]}
      - {weight: 1, upstream: b, use: [SECOND]}
"""


def of_variants(use="", filters="", first="", second=""):
    given = {"USE": use, "FILTERS": filters, "FIRST": first, "SECOND": second}
    text = VARIANTS
    for name, value in given.items():
        text = text.replace(name, value)
    return text


def notes_on_levels(folder, text):
    """Return the notes, without those on filter sets that the case does not use."""
    notes = config.load(write(folder, text), TYPES).notes
    return [note for note in notes if note.wrong != "it is unused: no route has it in `use`"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("one", "two"), ("one", "one"), ("one", "x"), ("one", "")],
    ids=["another set", "the same set", "a filter of the other upstream", "no set"],
)
def test_variants_replace_nothing_of_each_other(tmp_path, first, second):
    """A request has one of them: its sets, and the filters of its upstream."""
    assert notes_on_levels(tmp_path, of_variants(first=first, second=second)) == []


def test_a_variant_replaces_filters_of_its_upstream_its_route_and_its_earlier_sets(tmp_path):
    notes = notes_on_levels(tmp_path, of_variants(use="two", first="two", second="two, none"))
    assert [str(note).replace(f"{tmp_path}/", "").split(": ", 1)[1] for note in notes] == [
        'routes[0].variants[0].use[0]: filter set "two" has "key", replaces that of filter set "two" (gw.yaml:15)',
        'routes[0].variants[1].use[0]: filter set "two" has "key", replaces that of filter set "two" (gw.yaml:15)',
        'routes[0].variants[1].use[1]: filter set "none" has "key", removes that of filter set "two" (gw.yaml:19)',
    ]
    assert told(tmp_path, of_variants(first="x")) == [
        'gw.yaml:18:40: routes[0].variants[0].use[0]: filter set "x" has "x", enforced by upstream "a" (gw.yaml:6); '
        "a route cannot replace it"
    ]


def test_filters_of_a_route_replace_those_of_all_its_variants(tmp_path):
    (note,) = notes_on_levels(tmp_path, of_variants(filters="key: null", second="two"))
    assert str(note).endswith(f'filters.key: removes that of filter set "two" ({tmp_path}/gw.yaml:19)')
    (only,) = told(tmp_path, of_variants(filters="key: null", first="one", second="two"))
    assert only.endswith('filters.key: enforced by filter set "one" (gw.yaml:18); a route cannot switch it off')


@pytest.mark.parametrize(
    ("gateway", "route", "advice"),
    [
        ("limit: {body: 1}", "limt: off", 'did you mean "limit"?'),
        ("limit: {body: 1}", "block: off", "to switch the filter on with its defaults: `block: {}`"),
    ],
)
def test_removing_a_filter_that_no_outer_level_has_is_noted_with_advice(tmp_path, gateway, route, advice):
    (note,) = config.load(write(tmp_path, at(gateway=gateway, route=route)), TYPES).notes
    assert str(note).endswith(f"no outer level has a filter with this name; {advice}")


def test_null_in_place_of_a_filter_of_another_route_says_that_a_route_is_public(tmp_path):
    text = (
        "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\nroutes:\n"
        "  - {name: a, paths: [/a], respond: {}, filters: {limit: {body: 1}}}\n"
        "  - {name: b, paths: [/b], respond: {}, filters: {limit: null}}\n"
    )
    assert config.load(write(tmp_path, text), TYPES).notes == ()


@pytest.mark.parametrize("level", ["gateway", "listener", "upstream", "set", "route"])
@pytest.mark.parametrize("nothing", ["block: ", "block: &anchor "])
def test_nothing_behind_the_colon_of_a_filter_does_not_remove_it(tmp_path, level, nothing):
    """YAML takes it for null, and who forgets the settings does not mean to switch off what shall protect."""
    (only,) = told(tmp_path, at(**{level: nothing}))
    assert only.endswith("block: no value; expected `block: {}` to use it, or `block: null` to remove it")


@pytest.mark.parametrize("null", ["null", "~", "Null"])
def test_a_null_that_is_written_removes_a_filter(tmp_path, null):
    notes = config.load(write(tmp_path, at(gateway="limit: {body: 1}", route=f"limit: {null}")), TYPES).notes
    assert [str(note).split(": ", 1)[1] for note in notes] == [
        f"routes[0].filters.limit: removes that of the gateway ({tmp_path}/gw.yaml:10)"
    ]


def test_null_removes_a_filter_in_json(tmp_path):
    file = tmp_path / "gw.json"
    file.write_text(
        '{"version": 1, "listeners": {"public": {"address": "127.0.0.1:0", "filters": {"limit": null}}},'
        ' "filters": {"limit": {"body": "1B"}}, "routes": []}'
    )
    (note,) = config.load(str(file), TYPES).notes
    assert "listeners.public.filters.limit: removes that of the gateway" in str(note)


def test_levels_add_up_by_instance_name(tmp_path):
    text = at(
        gateway="a: {type: limit, body: 1}, b: {type: limit, body: 1}, c: {type: limit, body: 1}",
        listener="a: {type: limit, body: 2}",
        upstream="b: {type: limit, body: 3}",
        set="b: {type: limit, body: 4}, d: {type: limit, body: 4}",
        route="c: null, d: {type: limit, body: 5}",
    )
    loaded = config.load(write(tmp_path, text), TYPES).config
    route = loaded.routes[0]

    def sizes(stacked):
        return {name: use.settings.body for name, use in levels.accumulate(stacked).items()}

    assert sizes(levels.of_route(loaded, "public", route)) == {"a": 2, "b": 4, "d": 5}
    assert sizes(levels.of_route(loaded, "inner", route)) == {"a": 1, "b": 4, "d": 5}
    assert sizes(levels.of_listener(loaded, "public")) == {"a": 2, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ({"gateway": "block: {shadow: true}"}, "filters.block"),
        ({"listener": "block: {shadow: true}"}, "listeners.public.filters.block"),
        ({"upstream": "limit: {body: 1KiB, shadow: true}"}, "upstreams.u.filters.limit"),
        ({"set": "limit: {body: 1KiB, shadow: true}"}, "filter_sets.s.limit"),
        ({"route": "limit: {body: 1KiB, shadow: true}"}, "routes[0].filters.limit"),
    ],
)
def test_a_filter_that_does_not_act_is_noted(tmp_path, where, line):
    loaded = config.load(write(tmp_path, at(**where)), TYPES)
    (note,) = loaded.notes
    assert (note.path, note.wrong) == (line, "shadow mode: it logs what it would do, and never acts")


@pytest.mark.parametrize(
    ("use", "unknown"),
    [
        ("websocket: {shadow: true}", "messages"),
        ("cache: {shadow: true}", "stored responses"),
        ("mirror: {upstream: u, shadow: true}", "copies of requests"),
        ("grpc_web: {shadow: true}", "translated requests"),
        ("transform: {shadow: true, response: {json: {deny: [a]}}}", "bodies of responses"),
        ("transform: {shadow: true, request: {json: {deny: [a]}}}", ""),
    ],
)
def test_the_note_says_what_a_filter_in_shadow_does_not_judge(tmp_path, use, unknown):
    loaded = config.load(write(tmp_path, at(route=use)), FILTER_TYPES)
    (wrong,) = [note.wrong for note in loaded.notes if note.wrong.startswith("shadow mode")]
    about = f"; what it would do to {unknown} is `unknown`" if unknown else ""
    assert wrong == f"shadow mode: it logs what it would do, and never acts{about}"


def test_shadow_is_true_or_false(tmp_path):
    with pytest.raises(config.ConfigError, match=r'filters.block.shadow: "yes"; expected true or false'):
        config.load(write(tmp_path, at(gateway="block: {shadow: yes}")), TYPES)
