"""check notes what filters can never do, and says nothing where they might."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastgw import config
from fastgw.cli import app
from fastgw.config.loading.locate_filter import locate
from fastgw.config.settings.credentials import READABLE
from fastgw.filters import TYPES
from fastgw.filters.api import Filter, FilterMeta, Hooks, Phase, WarningContext
from fastgw.filters.lint.warnings import warnings_of
from fastgw.gateway.hash_keys import unidentified_hash_keys
from tests.support.certificates import Certificates
from tests.support.extension import FILTER, importable, install
from tests.support.memory import SERVICE, probe

ALICE = {
    "name": "alice",
    "groups": ["staff"],
    "key_auth": [{"key": "k" * 32}],
    "basic_auth": [{"username": "alice", "password": "p" * 32}],
    "hmac": [{"key_id": "a", "key": "s" * 32}],
    "certificates": [{"subject": "CN=alice"}],
}
BROWSERS = {"client_id": "web", "client_auth": "none", "session": {"secret": "s" * 32}}
CLIENT = {"client_id": "app", "client_secret": "s"}
JWT = {"algorithms": ["RS256"], "jwks_uri": "https://idp.test/keys"}
ASKED = {"url": "http://10.0.0.1/", "client_id": "gateway", "client_secret": "of-the-gateway"}
UNKNOWN = "no filter before it authenticates the client: "
CUSTOM = {"id": 10001, "pattern": "x", "tags": ["tag"]}
NAMING = {"request": {"set": {"X-Who": "{consumer.name}"}}}


def notes_of(folder: Path, types: Any = TYPES, **settings: object) -> list[str]:
    file = folder / "gw.json"
    file.write_text(json.dumps({**SERVICE, **settings}))
    loaded = config.load(str(file), types)
    found = [*warnings_of(loaded.config), *unidentified_hash_keys(loaded.config)]
    return [f"{each.path}: {each.wrong}" for each in locate(loaded, types, found)]


@pytest.mark.parametrize(
    ("filters", "note"),
    [
        ({"key_auth": {}}, "key_auth: no consumer has a `key_auth`: every request is refused"),
        ({"basic_auth": {}}, "basic_auth: no consumer has a `basic_auth`: every request is refused"),
        ({"hmac": {}}, "hmac: no consumer has a `hmac`: every request is refused"),
        ({"authorize": {}}, f"authorize: {UNKNOWN}every request is refused"),
        (
            {"headers": NAMING},
            f"headers: {UNKNOWN}{{consumer.…}} and {{claims.…}} are always empty",
        ),
        (
            {"waf": {"exclude": [{"rules": [4201, 942100]}]}},
            "waf: `exclude` has 942100, which is the id of no rule here",
        ),
        (
            {"waf": {"exclude": [{"tags": ["attack-slqi", "tag"]}], "custom": [CUSTOM]}},
            'waf: `exclude` has "attack-slqi", which is the tag of no rule here; did you mean "attack-sqli"?',
        ),
        (
            {"sequence": {"routes": ["all", "pay"], "within": "1m", "key": "ip"}},
            'sequence: `routes` has "pay", which is no route; expected one of "all"',
        ),
        (
            {"transform": {"response": {"json": {"deny": ["$.user.password", "user.name"]}}}},
            'transform: "$.user.password" begins with a member `$`; paths begin with a name: user.password',
        ),
        (
            {"transform": {"request": {"json": {"allow": ["items[*].id", "items.*.sku", "a[b]"]}}}},
            'transform: "items[*].id" has a member `items[*]`; elements of an array are a step, `*`',
        ),
        (
            {"headers": {"response": {"add": {"X-Sub": "{claims.sub}"}}}},
            f"headers: {UNKNOWN}{{consumer.…}} and {{claims.…}} are always empty",
        ),
        (
            {"headers": {"request": {"set": {"X-Id": "{request_id}"}}}},
            "headers: no `request_id` filter runs before it: {request_id} is always empty",
        ),
        (
            {"jwt": {**JWT, "jwks_uri": "http://idp.test/keys"}},
            "jwt: `jwks_uri` is http: an attacker in between can replace the keys and forge tokens",
        ),
        (
            {"auth": {"any_of": [{"introspection": ASKED}]}},
            "auth: `url` is http: an attacker in between can read tokens and forge answers",
        ),
        (
            {"oidc": {"issuer": "https://idp.test", "login": BROWSERS}},
            "oidc: no `login.public_url`: the `redirect_uri` is made from the Host header of each request",
        ),
        (
            {"auth": {"any_of": [{"oidc": {"issuer": "https://idp.test", "login": BROWSERS}}]}},
            "auth: no `login.public_url`: the `redirect_uri` is made from the Host header of each request",
        ),
        (
            {"credentials": {"oauth2": {**CLIENT, "token_url": "http://idp.test/token"}}},
            f"credentials: `oauth2.token_url` is http: {READABLE}",
        ),
        (
            {"credentials": {"bearer": "b", "csrf": {"token_url": "http://api.test/csrf"}}},
            f"credentials: `csrf.token_url` is http: {READABLE}",
        ),
    ],
)  # fmt: skip
def test_what_can_never_work_is_noted_at_its_place(tmp_path: Path, filters: dict[str, Any], note: str) -> None:
    assert notes_of(tmp_path, filters=filters) == [f"filters.{note}"]


@pytest.mark.parametrize(
    ("filters", "note"),
    [
        ({"rate_limit": {"limit": 1, "window": "1s", "groups": {"staf": {"limit": 2}}}}, 'the group "staf"; did'),
        ({"rate_limit": {"limit": 1, "window": "1s", "groups": {"gold": {"limit": 2}}}}, 'the group "gold"'),
        ({"quota": {"limit": 1, "period": "day", "groups": {"staf": {"limit": 2}}}}, 'the group "staf"; did you mean'),
        ({"concurrency": {"limit": 1, "priority": {"groups": {"staf": "high"}}}}, 'the group "staf"; did you mean'),
    ],
)
def test_a_limit_for_a_group_that_nobody_is_in_is_noted(tmp_path: Path, filters: dict[str, Any], note: str) -> None:
    """Unless groups come from tokens as well."""
    (name,) = filters
    settings = {"consumers": [ALICE], "quotas": {"file": "quotas"}}
    (told,) = notes_of(tmp_path, filters={"key_auth": {}, **filters}, **settings)
    assert told.startswith(f"filters.{name}: no consumer is in {note}")
    assert notes_of(tmp_path, filters={"jwt": JWT, **filters}, **settings) == []
    assert notes_of(tmp_path, filters={"key_auth": {}, **filters}, consumer_files=["*.none"], **settings) == []


@pytest.mark.parametrize(
    ("name", "settings"), [("jwt", JWT), ("introspection", {**ASKED, "url": "https://idp.test/introspect"})]
)
def test_subjects_of_issuers_that_a_filter_without_issuer_does_not_find_are_noted(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    consumers = [{"name": "bob", "jwt": [{"issuer": "https://idp.test", "subject": "4711"}]}]
    note = "no `issuer`: no client becomes a consumer by `issuer` and `subject`, as a token could name any issuer"
    assert notes_of(tmp_path, filters={name: settings}, consumers=consumers) == [f"filters.{name}: {note}"]
    with_issuer = {**settings, "issuer": "https://idp.test"}
    assert notes_of(tmp_path, filters={name: with_issuer}, consumers=consumers) == []


def test_a_limit_that_would_be_shared_and_methods_that_are_refused_are_noted(tmp_path: Path) -> None:
    limit = {"limit": 10, "window": "1s", "scope": "shared", "cost": {"methods": {"PRI": 5, "POST": 2}}}
    assert notes_of(tmp_path, filters={"rate_limit": limit}) == [
        "filters.rate_limit: `scope: shared` has no effect without `state`: each node counts for itself",
        "filters.rate_limit: `cost.methods`: PRI is always rejected: methods are case-sensitive",
    ]


def test_hashing_on_consumers_where_nobody_is_one_is_noted(tmp_path: Path) -> None:
    def told(**settings: object) -> list[str]:
        upstream = {
            "targets": [{"url": "http://a.test"}, {"url": "http://b.test"}],
            "load_balancing": {"algorithm": "consistent_hash", "hash_on": "consumer"},
        }
        return notes_of(tmp_path, upstreams={"u": upstream}, routes=[{"name": "r", "upstream": "u"}], **settings)

    path = "upstreams.u.load_balancing.hash_on"
    assert told() == [f"{path}: no filter authenticates the client: requests are balanced round robin"]
    assert told(filters={"jwt": JWT}) == []


def test_a_name_that_two_ways_may_give_is_noted(tmp_path: Path) -> None:
    """Unless a group or a claim is asked for as well, or it is the name of a consumer, which no token has."""
    ways = {"any_of": [{"introspection": {**ASKED, "url": "https://idp.test/"}}, {"jwt": JWT}]}
    guest = {"any_of": [{"jwt": JWT}, {"key_auth": {}}], "anonymous": "bob"}
    for auth in (ways, guest):
        for more in ({}, {"claims": {"iss": {"any": ["https://idp.test"]}}}, {"groups": {"any": ["staff"]}}):
            named = {"consumers": {"any": ["alice", "bob"]}, **more}
            notes = notes_of(tmp_path, filters={"auth": auth, "authorize": named}, consumers=[ALICE])
            assert (
                ("is not one of `consumers`, and several methods of `auth` can produce this name") in str(notes)
            ) is (not more)
        only = {"auth": auth, "authorize": {"consumers": {"any": ["alice"]}}}
        assert notes_of(tmp_path, filters=only, consumers=[ALICE]) == []
    one = {"auth": {"any_of": [{"jwt": JWT}, {"key_auth": {}}]}, "authorize": {"consumers": {"any": ["bob"]}}}
    assert notes_of(tmp_path, filters=one, consumers=[ALICE]) == []


def test_a_name_that_is_nearly_that_of_a_consumer_is_noted(tmp_path: Path) -> None:
    consumers = [ALICE, {"name": "guest", "groups": ["staff"]}]
    for name, notes in (
        ("gest", ['filters.auth: `anonymous` is an unknown consumer; did you mean "guest"?']),
        ("guest", []),
        ("nobody", []),
        ("reject", []),
    ):
        filters = {"auth": {"any_of": [{"key_auth": {}}], "anonymous": name}}
        assert notes_of(tmp_path, filters=filters, consumers=consumers) == notes


def test_a_name_of_the_request_from_another_level_is_enough(tmp_path: Path) -> None:
    naming = {"headers": {"response": {"set": {"X-Id": "{request_id}"}}}}
    routes = [{"name": "a", "respond": {}, "filters": naming}]
    assert notes_of(tmp_path, filters={"request_id": {}}, routes=routes) == []


@pytest.mark.parametrize("groups", [{"any": ["ops", "dev"]}, {"all": ["staff", "ops"]}])
def test_a_group_that_nobody_is_in_is_noted(tmp_path: Path, groups: dict[str, Any]) -> None:
    filters = {"auth": {"any_of": [{"key_auth": {}}, {"basic_auth": {}}]}, "authorize": {"groups": groups}}
    (note,) = notes_of(tmp_path, filters=filters, consumers=[ALICE])
    assert note.startswith('filters.authorize: no consumer is in the group "ops"')


@pytest.mark.parametrize(
    ("authorize", "note"),
    [
        (
            {"none_of": [{"consumers": {"any": ["alcie"]}}]},
            '`none_of[0].consumers.any`: "alcie" is an unknown consumer',
        ),
        ({"any_of": [{"consumers": {"all": ["alcie"]}}]}, '`any_of[0].consumers.all`: "alcie" is an unknown consumer'),
        ({"consumers": {"any": ["alice", "alcie"]}}, '`consumers.any`: "alcie" is an unknown consumer'),
        ({"consumers": {"none": ["alcie"]}}, '`consumers.none`: "alcie" is an unknown consumer'),
        (
            {"none_of": [{"groups": {"any": ["staff", "stafff"]}}]},
            "`none_of[0].groups.any`: no consumer is in the group",
        ),
        (
            {"none_of": [{"groups": {"all": ["stafff"]}}]},
            '`none_of[0].groups.all`: no consumer is in the group "stafff"',
        ),
        ({"any_of": [{"groups": {"any": ["stafff"]}}]}, '`any_of[0].groups.any`: no consumer is in the group "stafff"'),
        ({"groups": {"none": ["stafff"]}}, '`groups.none`: no consumer is in the group "stafff"'),
    ],
)
def test_a_name_that_no_condition_can_meet_is_noted(tmp_path: Path, authorize: dict[str, Any], note: str) -> None:
    """A deny list with a misspelt name admits the client that it is to refuse."""
    (reported,) = notes_of(tmp_path, filters={"key_auth": {}, "authorize": authorize}, consumers=[ALICE])
    assert reported.startswith(f"filters.authorize: {note}")
    assert reported.endswith(('; did you mean "alice"?', '; did you mean "staff"?'))


NAMES: dict[str, Any] = {
    "consumers": {"any": ["bob"]},
    "any_of": [{"groups": {"any": ["ops"]}}],
    "none_of": [{"consumers": {"any": ["bob"]}, "groups": {"any": ["ops"]}}],
}


@pytest.mark.parametrize(
    "settings",
    [
        {"filters": {"key_auth": {}, "authorize": NAMES}, "consumer_files": ["none/*.yaml"]},
        {"filters": {"jwt": JWT, "authorize": NAMES}},
        {"filters": {"auth": {"any_of": [{"jwt": JWT}, {"key_auth": {}}]}, "authorize": NAMES}},
        {"filters": {"key_auth": {}, "jwt": JWT, "authorize": NAMES}},
        {
            "filters": {
                "auth": {"any_of": [{"key_auth": {}}], "anonymous": "guest"},
                "authorize": {"none_of": [{"consumers": {"any": ["guest"]}}]},
            }
        },
        {
            "filters": {
                "key_auth": {},
                "authorize": {"any_of": [{"consumers": {"any": ["alice"]}}, {"groups": {"any": ["ops", "staff"]}}]},
            }
        },
    ],
)
def test_a_name_that_may_be_known_is_not(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert notes_of(tmp_path, consumers=[ALICE], **settings) == []


def test_a_name_is_not_noted_if_a_filter_of_another_package_may_give_it(tmp_path: Path) -> None:
    types = {**TYPES, "own": probe("own", Phase.ADMIT, request=lambda exchange: None)}
    filters: dict[str, Any] = {"own": {}, "authorize": {"none_of": [{"consumers": {"any": ["bob"]}}]}}
    assert notes_of(tmp_path, types=types, filters=filters, consumers=[ALICE]) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"filters": {"key_auth": {}, "hmac": {}}, "consumers": [ALICE]},
        {"filters": {"key_auth": {}}, "consumer_files": ["none/*.yaml"]},
        {"filters": {"key_auth": {}, "authorize": {"groups": {"any": ["ops", "staff"]}}}, "consumers": [ALICE]},
        {"filters": {"key_auth": {}, "authorize": {"groups": {"none": ["staff"]}}}, "consumers": [ALICE]},
        {"filters": {"jwt": JWT, "authorize": {"groups": {"any": ["ops"]}}}},
        {"filters": {"auth": {"any_of": [{"jwt": JWT}, {"key_auth": {}}]}, "authorize": {"groups": {"any": ["ops"]}}}},
        {"filters": {"jwt": JWT, "headers": NAMING}},
        {"filters": {"jwt": {**JWT, "shadow": True}, "headers": NAMING}},
        {"filters": {"headers": {"request": {"set": {"X-Ip": "{client_ip}"}}}}},
        {"filters": {"jwt": {**JWT, "jwks_uri": "http://localhost:8080/keys"}}},
        {"filters": {"jwt": {**JWT, "jwks_uri": "http://127.0.0.2/keys"}}},
        {"filters": {"jwt": {**JWT, "jwks_uri": "http://[::1]/keys"}}},
        {"filters": {"jwt": {**JWT, "jwks_uri": "unix:/run/idp.sock:/keys"}}},
        {"filter_sets": {"unused": {"authorize": {}, "headers": NAMING}}},
        {"filters": {"credentials": {"oauth2": {**CLIENT, "token_url": "http://localhost:8080/token"}}}},
        {"filters": {"credentials": {"oauth2": {**CLIENT, "token_url": "unix:/run/idp.sock:/token"}}}},
    ],
)
def test_what_may_work_is_not(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert notes_of(tmp_path, **settings) == []


def test_a_filter_of_ones_own_may_say_who_it_is_at_any_place(tmp_path: Path) -> None:
    types = {**TYPES, "own": probe("own", Phase.ADMIT, request=lambda exchange: None)}
    filters: dict[str, Any] = {"own": {}, "headers": NAMING, "authorize": {"groups": {"any": ["ops"]}}}
    assert notes_of(tmp_path, types, filters=filters) == []


def test_one_route_where_it_works_is_enough(tmp_path: Path) -> None:
    routes = [
        {"name": "open", "paths": ["/open"], "respond": {}},
        {"name": "known", "respond": {}, "filters": {"jwt": JWT}},
    ]
    assert notes_of(tmp_path, filters={"headers": NAMING}, routes=routes) == []
    (note,) = notes_of(tmp_path, routes=[{**routes[0], "filters": {"headers": NAMING}}, routes[1]])
    assert note.startswith(f"routes[0].filters.headers: {UNKNOWN}")
    assert note.endswith('(route "open")')


def test_certificates_that_nobody_is_asked_for(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("a.test")
    shown = [{"certificate": certificate, "key": key}]
    plain = {"address": "127.0.0.1:0", "tls": {"certificates": shown}}
    asking = {
        "address": "127.0.0.1:0",
        "tls": {"certificates": shown, "client_auth": {"ca": certificates.ca, "mode": "optional"}},
    }
    filters: dict[str, Any] = {"certificate_auth": {}, "headers": NAMING}
    settings: dict[str, Any] = {"consumers": [ALICE], "filters": filters}
    (note,) = notes_of(tmp_path, listeners={"a": plain, "b": plain}, **settings)
    assert note == (
        "filters.certificate_auth: no listener requests client certificates (`tls.client_auth`): every "
        "request is refused"
    )
    assert notes_of(tmp_path, listeners={"a": plain, "b": asking}, **settings) == []
    assert notes_of(tmp_path, listeners={"a": asking}, filters={"authorize": {"certificate": {}}}) == []


@pytest.mark.parametrize(
    "example", ["gateway.yaml", "limits.yaml", "plans.yaml", "oauth.yaml", "minimal.yaml", "minimal.toml"]
)
def test_there_is_nothing_to_note_of_the_examples(example: str) -> None:
    file = Path(__file__).parents[4] / "examples" / example
    assert [*warnings_of(config.load(str(file), TYPES).config)] == []


def test_a_queue_that_is_longer_than_filters_may_take(tmp_path: Path) -> None:
    queue = {"limit": 1, "window": "1s", "algorithm": "leaky_bucket"}
    (note,) = notes_of(tmp_path, filters={"rate_limit": {**queue, "burst": 31}})
    assert note == (
        "filters.rate_limit: the last request of the queue waits 31s, but filters may take 30s (`timeouts.filters`): "
        "it is answered 504"
    )
    assert notes_of(tmp_path, filters={"rate_limit": {**queue, "burst": 30}}) == []
    assert notes_of(tmp_path, filters={"rate_limit": {**queue, "limit": 1000}}) == []


@pytest.mark.parametrize("more", [{"key": "consumer"}, {"key": ["ip", "claim:org"]}, {"groups": {"ops": {"limit": 2}}}])
def test_a_limit_of_consumers_that_nobody_is(tmp_path: Path, more: dict[str, Any]) -> None:
    limit = {"limit": 1, "window": "1s", **more}
    (note,) = notes_of(tmp_path, filters={"rate_limit": limit})
    assert "no filter before it authenticates the client: there is no consumer and there are no claims" in note
    assert notes_of(tmp_path, filters={"jwt": JWT, "rate_limit": limit}) == []
    assert notes_of(tmp_path, filters={"rate_limit": {"limit": 1, "window": "1s", "key": ["ip", "route"]}}) == []


def test_check_tells_them_as_notes(tmp_path: Path) -> None:
    file = tmp_path / "gw.json"
    file.write_text(json.dumps({**SERVICE, "filters": {"authorize": {}}}))
    ended = CliRunner().invoke(app, ["check", str(file), "--format", "json"])
    told = json.loads(ended.output)
    assert (ended.exit_code, told["problems"]) == (0, [])
    assert [each["path"] for each in told["notes"] if each["path"]] == ["filters.authorize"]
    assert all(each["line"] for each in told["notes"] if each["path"])


def test_a_quota_that_is_kept_nowhere_is_told_and_so_is_one_of_consumers_that_nobody_is(tmp_path: Path) -> None:
    quota = {"limit": 1, "period": "day"}
    consumers, kept = notes_of(tmp_path, filters={"quota": quota})[::-1]
    assert (
        "its counts are lost when the gateway stops, unless systemd provides a state directory: see `quotas.file`"
    ) in kept
    assert UNKNOWN in consumers
    file = {"file": str(tmp_path / "quotas.sqlite3")}
    assert notes_of(tmp_path, filters={"jwt": JWT, "quota": quota}, quotas=file) == []
    assert notes_of(tmp_path, filters={"concurrency": {"limit": 1, "key": "ip"}}) == []
    (note,) = notes_of(tmp_path, filters={"concurrency": {"limit": 1, "key": "consumer"}})
    assert UNKNOWN in note


def own_filter(
    warnings: Callable[[Any, WarningContext], Any], phase: Phase = Phase.AUTHORIZE, **members: Any
) -> dict[str, type[Filter]]:
    """The types of filters, with one of another package's that warns so."""
    body = {"build": lambda self, env: Hooks(), "warnings": warnings, "__module__": "elsewhere", **members}
    return {**TYPES, "own": FilterMeta("Own", (Filter,), body, name="own", phase=phase)}


def test_a_filter_of_another_package_warns_for_itself(tmp_path: Path) -> None:
    types = own_filter(lambda self, context: [f"{context.instance} at {context.level}", "and more"])
    routes = [{"name": "r", "respond": {}, "filters": {"mine": {"type": "own"}}}]
    assert notes_of(tmp_path, types, filters={"own": {}}, routes=routes) == [
        'routes[0].filters.mine: mine at route (route "r")',
        'routes[0].filters.mine: and more (route "r")',
        "filters.own: own at gateway",
        "filters.own: and more",
    ]


def test_a_filter_is_told_of_all_that_runs_before_and_behind_it_on_each_route(tmp_path: Path) -> None:
    def warnings(self: Any, context: WarningContext) -> Iterator[str]:
        for at in context.positions:
            before, behind = (",".join(use.name for use in uses) for uses in (at.before, at.behind))
            yield f"{at.listener} {at.route} {at.client_certificates}: [{before}] [{behind}]"
        yield f"{[use.name for use in context.preceding]}"

    routes = [
        {"name": "a", "paths": ["/a"], "listeners": ["one"], "respond": {}, "filters": {"headers": NAMING}},
        {"name": "b", "paths": ["/b"], "respond": {}, "filters": {"ip": {"deny": ["10.0.0.1"]}}},
    ]
    address = {"address": "127.0.0.1:0"}
    notes = notes_of(
        tmp_path,
        own_filter(warnings),
        listeners={"one": address, "two": address},
        filters={"jwt": JWT, "own": {}},
        filter_sets={"unused": {"nobody": {"type": "own"}}},
        routes=routes,
    )
    assert notes == [
        "filters.own: one a False: [jwt] [headers]",
        "filters.own: one b False: [ip,jwt] []",
        "filters.own: two b False: [ip,jwt] []",
        "filters.own: ['jwt', 'ip']",
        "filter_sets.unused.nobody: []",
    ]


def test_the_configuration_around_a_filter_is_told(tmp_path: Path) -> None:
    def warnings(self: Any, context: WarningContext) -> Iterator[str]:
        yield (
            f"{[each.name for each in context.consumers]} {sorted(context.groups)} {context.consumer_files} "
            f"{context.filter_timeout} {context.has_state} {context.quotas_file} {context.identified} "
            f"{context.knows_all_groups} {context.client_certificates} {context.alternative} {context.route}"
        )

    (note,) = notes_of(tmp_path, own_filter(warnings), filters={"own": {}, "key_auth": {}}, consumers=[ALICE])
    assert note == "filters.own: ['alice'] ['staff'] False 30.0 False None True True False False None"


def test_one_way_of_several_is_told_that_it_is_one(tmp_path: Path) -> None:
    def warnings(self: Any, context: WarningContext) -> Iterator[str]:
        yield f"{context.instance} {context.alternative} {len(context.positions)}"

    types = own_filter(warnings, Phase.AUTHENTICATE)
    filters = {"auth": {"any_of": [{"own": {}}, {"key_auth": {}}]}}
    assert notes_of(tmp_path, types, filters=filters) == ["filters.auth: own True 1"]


class Unprintable(Exception):
    """An error whose text is a defect itself."""

    def __str__(self) -> str:
        raise RuntimeError


def raising(error: Exception) -> Iterator[str]:
    yield "the first is told"
    raise error


DEFECT = "its warnings cannot be told, as the filter `own` has a defect: "


@pytest.mark.parametrize(
    ("warnings", "told"),
    [
        (lambda self, context: raising(ValueError("no\nway")), ["the first is told", f"{DEFECT}ValueError: no way"]),
        (lambda self, context: raising(Unprintable()), ["the first is told", f"{DEFECT}Unprintable"]),
        (lambda self, context: context.nothing, [f"{DEFECT}AttributeError: 'WarningContext' object has no"]),
        (lambda self, context: None, [f"{DEFECT}TypeError: 'NoneType' object is not iterable"]),
        (lambda self, context: [b"bytes"], [f"{DEFECT}TypeError: bytes in place of a text"]),
        (lambda self: [], [f"{DEFECT}TypeError: "]),
        (lambda self, context: ["in\ntwo  lines"], ["in two lines"]),
        (lambda self, context: ["x" * 10_000], ["x" * 500 + "…"]),
        (lambda self, context: map(str, itertools.count()), [*map(str, range(20))]),
        (lambda self, context: setattr(context, "level", "other") or [], [f"{DEFECT}AttributeError: "]),
    ],
)
def test_a_warning_that_fails_is_reported_and_breaks_nothing(tmp_path: Path, warnings: Any, told: list[str]) -> None:
    notes = notes_of(
        tmp_path, own_filter(warnings), filters={"own": {}, "quota": {"limit": 1, "period": "day", "key": "ip"}}
    )
    mine = [note.removeprefix("filters.own: ") for note in notes if note.startswith("filters.own: ")]
    assert [note[: len(begin)] for note, begin in zip(mine, told, strict=True)] == told
    assert len(notes) == len(mine) + 1  # that of `quota`


def test_one_way_of_several_that_fails_is_named_and_the_others_warn(tmp_path: Path) -> None:
    types = own_filter(lambda self, context: context.nothing, Phase.AUTHENTICATE)
    filters = {"auth": {"any_of": [{"own": {}}, {"introspection": ASKED}]}}
    (defect, told) = notes_of(tmp_path, types, filters=filters)
    assert defect.startswith(f"filters.auth: {DEFECT}AttributeError")
    assert told.startswith("filters.auth: `url` is http")


def test_a_setting_of_another_filter_may_be_called_warnings(tmp_path: Path) -> None:
    own: Any = ()  # a default
    types = own_filter(own, Phase.AUTHENTICATE, __annotations__={"warnings": tuple[str, ...]})
    for filters in ({"own": {"warnings": ["x"]}}, {"auth": {"any_of": [{"own": {"warnings": ["x"]}}]}}):
        assert notes_of(tmp_path, types, filters=filters) == []


def test_a_filter_that_raises_ends_neither_check_nor_the_gateways_start(tmp_path: Path) -> None:
    """Through the package, as it is installed."""
    code = FILTER + "\n    def warnings(self, context):\n        raise OSError(self.word)\n"
    site = tmp_path / "site"
    site.mkdir()
    install(site, "fastgw-greeting", {"greeting_filter/__init__.py": code}, {"greeting": "greeting_filter:Greeting"})
    file = tmp_path / "gw.json"
    file.write_text(json.dumps({**SERVICE, "extensions": ["fastgw-greeting"], "filters": {"greeting": {}}}))
    with importable(site):
        ended = CliRunner().invoke(app, ["check", str(file)])
    assert ended.exit_code == 0
    assert "note: " in ended.output
    assert "filters.greeting: its warnings cannot be told, as the filter `greeting` has a defect: OSError: hello" in (
        ended.output
    )


@pytest.mark.parametrize("name", ["grpc_web", "connect_rpc"])
def test_filters_for_grpc_need_an_upstream_that_speaks_it(tmp_path: Path, name: str) -> None:
    """One that is there for several routes is of use if one of them leads to such an upstream."""
    (note,) = notes_of(tmp_path, filters={name: {}})
    assert note == f"filters.{name}: no upstream behind it speaks gRPC; expected `protocol: grpc` of the upstream"
    upstreams = {
        "plain": {"targets": [{"url": "http://a.test"}]},
        "calls": {"targets": [{"url": "http://b.test"}], "protocol": "grpc"},
    }
    routes = [{"name": each, "paths": [f"/{each}"], "upstream": each} for each in upstreams]
    assert notes_of(tmp_path, filters={name: {}}, upstreams=upstreams, routes=routes) == []
    routes[1]["filters"] = {name: {}}
    assert notes_of(tmp_path, upstreams=upstreams, routes=routes) == []
    assert len(notes_of(tmp_path, upstreams=upstreams, routes=routes[:1], filters={name: {}})) == 1


def test_a_map_of_a_constant_is_noted(tmp_path: Path) -> None:
    maps = {"m": {"source": "plan", "values": {"gold": "1"}}}
    filters = {"headers": {"request": {"set": {"X-M": "{map.m}"}}, "maps": maps}}
    assert notes_of(tmp_path, filters=filters) == [
        'filters.headers: `maps.m.source`: "plan" is a constant, so the result is always the same; '
        "a variable is written {NAME}"
    ]


def logins_of(folder: Path, *routes: dict[str, Any], wrap: bool = False, **settings: Any) -> list[str]:
    """Return the notes on paths of a login, where each route has the filter; `wrap`: inside of `auth`."""
    login = {**BROWSERS, "public_url": "https://a.test", **settings}
    oidc = {"oidc": {"issuer": "https://idp.test", "login": login}}
    filters = {"auth": {"any_of": [oidc]}} if wrap else oidc
    named = [{"name": f"r{i}", "respond": {}, "filters": filters, **route} for i, route in enumerate(routes)]
    return [each for each in notes_of(folder, routes=named) if "no route with this filter matches" in each]


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    "path", ["/app/*", "/app", "/{id}", "~^/app/", "/oauth2/{x}/callback", "/oauth2/c{x}/y", "/oauth2"]
)
def test_a_callback_that_no_route_matches_is_noted(tmp_path: Path, path: str, wrap: bool) -> None:
    """The login ends with 404, or before a route that has no filter to complete it."""
    (note,) = logins_of(tmp_path, {"paths": [path]}, wrap=wrap)
    assert '`login.callback`: no route with this filter matches "/oauth2/callback": no login can be completed' in note


@pytest.mark.parametrize(
    "paths",
    [
        *(["/*"], ["/app/*", "/oauth2/*"], ["/oauth2/callback"], ["/oauth2/{x}"], ["/{rest:path}"], ["~^/oauth2/"]),
        *(["/oauth2/call{x}"], ["/oauth2/callback/*"], ["/oauth2/callback/"]),
    ],
)
def test_a_callback_that_a_route_matches_is_not(tmp_path: Path, paths: list[str]) -> None:
    assert logins_of(tmp_path, {"paths": paths}) == []


def test_another_route_with_the_same_login_may_match_its_callback(tmp_path: Path) -> None:
    routes = {"paths": ["/app/*"]}, {"paths": ["/oauth2/*"], "hosts": ["a.test"]}
    assert logins_of(tmp_path, *routes) == []
    assert logins_of(tmp_path, routes[0], {**routes[1], "filters": {}}) != []


def test_a_filter_of_the_gateway_runs_for_all_routes(tmp_path: Path) -> None:
    oidc = {"issuer": "https://idp.test", "login": {**BROWSERS, "public_url": "https://a.test"}}
    routes = [{"name": "a", "paths": ["/app/*"], "respond": {}}, {"name": "b", "paths": ["/oauth2/*"], "respond": {}}]
    assert notes_of(tmp_path, filters={"oidc": oidc}, routes=routes) == []
    (note,) = notes_of(tmp_path, filters={"oidc": oidc}, routes=routes[:1])
    assert "`login.callback`: no route" in note


def test_other_paths_of_a_login_are_noted_if_they_are_set(tmp_path: Path) -> None:
    paths = {"callback": "/app/callback", "login": "/login", "logout": "/logout", "backchannel_logout": "/ended"}
    notes = logins_of(tmp_path, {"paths": ["/app/*"]}, **paths)
    assert [note.partition("`login.")[2].partition("`")[0] for note in notes] == [
        "login",
        "logout",
        "backchannel_logout",
    ]
    assert logins_of(tmp_path, {"paths": ["/app/*"]}, callback="/app/callback") == []


HTTP2 = {"targets": [{"url": "http://127.0.0.1:9"}], "protocol": "http2"}
NO_WEBSOCKETS = "filters.websocket: no WebSocket connection is possible on the routes that it runs for"


@pytest.mark.parametrize(
    ("route", "noted"),
    [
        ({"upstream": "u"}, False),
        ({"upstream": "u", "upgrade": ["tls", "WebSocket"]}, False),
        ({"upstream": "u", "upgrade": []}, True),
        ({"upstream": "u", "upgrade": ["tls"]}, True),
        ({"upstream": "u", "methods": ["GET", "POST"]}, False),
        ({"upstream": "u", "methods": ["POST"]}, True),
        ({"upstream": "h2"}, True),
        ({"upstream": {"h2": 1, "u": 1}}, False),
        ({"upstream": "h2", "fallback": {"upstream": "u"}}, False),
        ({"upstream": "http://a.test"}, False),
        ({"respond": {"body": "x"}}, True),
        ({"compose": {"parts": [{"name": "u", "upstream": "u", "path": "/"}]}}, True),
        ({"websocket_api": {"upstream": "u", "routes": {"$default": {"path": "/"}}}}, False),
    ],
)
def test_limits_of_websockets_where_none_can_come_are_noted(tmp_path: Path, route: dict[str, Any], noted: bool) -> None:
    routes = [{"name": "r", "paths": ["/r"], **route}]
    upstreams = {**SERVICE["upstreams"], "h2": HTTP2}
    told = notes_of(tmp_path, upstreams=upstreams, routes=routes, filters={"websocket": {"rate": "1/s"}})
    assert [each.startswith(NO_WEBSOCKETS) for each in told] == [True] * noted
    two = [*routes, {"name": "s", "paths": ["/s"], "upstream": "u"}]
    assert notes_of(tmp_path, upstreams=upstreams, routes=two, filters={"websocket": {"rate": "1/s"}}) == []


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"exclude": [{"rules": [4201], "paths": ["cms/*", "/cms/*", "*.php"]}]},
            ['`exclude` has "cms/*", which is the path of no request: paths begin with `/`'],
        ),
        ({"exclude": [{"rules": [4201], "paths": [""]}], "crs": {}}, ['`exclude` has "", which is the path of no']),
        (
            {"custom": [{**CUSTOM, "paranoia": 3}]},
            ["`custom` has rule 10001 with `paranoia: 3`, and `paranoia` of the filter is 1: the rule is not used"],
        ),
        ({"custom": [{**CUSTOM, "paranoia": 2}], "paranoia": 2}, []),
    ],
)
def test_parts_of_a_waf_that_never_count_are_noted(tmp_path: Path, settings: dict[str, Any], wanted: list[str]) -> None:
    told = notes_of(tmp_path, filters={"waf": settings})
    assert len(told) == len(wanted), told
    assert all(note.startswith(f"filters.waf: {each}") for note, each in zip(told, wanted, strict=True)), told


ROUTES_OF_SEQUENCE = ("cart", "address", "pay")
IS_REFUSED = 'no `sequence` with these settings is on the route "cart": "address" is always refused'


@pytest.mark.parametrize(
    ("at", "notes"),
    [
        (ROUTES_OF_SEQUENCE, []),
        (("address", "pay"), [IS_REFUSED]),
        (
            ("cart",),
            [
                f'no `sequence` with these settings is on the route "{name}": its calls are neither checked nor counted'
                for name in ("address", "pay")
            ],
        ),
        (
            ("address",),
            [
                IS_REFUSED,
                'no `sequence` with these settings is on the route "pay": its calls are neither checked nor counted',
            ],
        ),
    ],
)
def test_routes_of_a_sequence_without_its_filter_are_noted(tmp_path: Path, at: list[str], notes: list[str]) -> None:
    settings = {"routes": ROUTES_OF_SEQUENCE, "within": "10m", "key": "ip"}
    routes = [{"name": name, "paths": [f"/{name}"], "upstream": "u"} for name in ROUTES_OF_SEQUENCE]
    in_set = [{**each, "use": ["checkout"]} if each["name"] in at else each for each in routes]
    filter_sets = {"checkout": {"sequence": settings}}
    told = notes_of(tmp_path, routes=in_set, filter_sets=filter_sets)
    assert told == [f"filter_sets.checkout.sequence: {each}" for each in notes]
    assert notes_of(tmp_path, routes=routes, filters={"sequence": settings}) == []


def test_other_settings_on_a_route_of_a_sequence_are_noted(tmp_path: Path) -> None:
    routes = [
        {"name": name, "paths": [f"/{name}"], "upstream": "u", "filters": {"sequence": settings}}
        for name, within in (("cart", "5m"), ("pay", "10m"))
        for settings in ({"routes": ["cart", "pay"], "within": within, "key": "ip"},)
    ]
    assert notes_of(tmp_path, routes=routes) == [
        'routes[0].filters.sequence: no `sequence` with these settings is on the route "pay": its calls are neither '
        'checked nor counted (route "cart")',
        'routes[1].filters.sequence: no `sequence` with these settings is on the route "cart": "pay" is always refused '
        '(route "pay")',
    ]


@pytest.mark.parametrize(
    ("validate", "wanted"),
    [
        (
            {"path": {"inline": {"properties": {"idd": {"type": "integer"}}}}},
            ['`path` has the property "idd", which no path here has: it is never checked; did you mean "id"?'],
        ),
        (
            {"path": {"inline": {"properties": {"x": {}}, "required": ["x", "id"]}}},
            ['`path` requires "x", which no path here has: no request conforms'],
        ),
        ({"path": {"inline": {"properties": {"id": {}, "rest": {}}, "required": ["id"]}}}, []),
        (
            {"query": {"inline": {"type": "array"}}},
            ["`query`: parameters are an object, so no request conforms"],
        ),
        (
            {"headers": {"inline": {"type": ["null", "array"]}}},
            ["`headers`: parameters are an object, so no request confo"],
        ),
        ({"query": {"inline": {"type": ["null", "object"]}}, "cookies": {"inline": {"type": "object"}}}, []),
        ({"query": {"inline": {"properties": {"idd": {}}, "required": ["x"]}}}, []),
        ({"path": {"inline": True}}, []),
    ],
)
def test_parameters_that_no_request_has_are_noted(tmp_path: Path, validate: dict[str, Any], wanted: list[str]) -> None:
    routes = [
        {"name": "r", "paths": ["/r/{id}"], "upstream": "u"},
        {"name": "s", "paths": ["/s/{rest:path}", "~^/x"], "upstream": "u"},
    ]
    told = notes_of(tmp_path, filters={"validate": validate}, routes=routes)
    assert len(told) == len(wanted), told
    assert all(note.startswith(f"filters.validate: {each}") for note, each in zip(told, wanted, strict=True)), told


JSON_RULES = {"json": {"allow": ["a"]}}
NO_REDIRECTS = "`response` has no effect: redirects have no body"
NO_FILES = "`request` has no effect: static files answer GET and HEAD only, whose requests have no body"


@pytest.mark.parametrize(
    ("route", "transform", "wanted"),
    [
        ({"redirect": {"to": "http://x/"}}, {"response": JSON_RULES}, NO_REDIRECTS),
        ({"redirect": {"to": "http://x/", "status": 301}}, {"response": {**JSON_RULES, "statuses": ["200-301"]}}, ""),
        ({"redirect": {"to": "http://x/"}}, {"request": JSON_RULES}, ""),
        ({"respond": {"body": "{}"}}, {"response": JSON_RULES}, ""),
        ({"files": {"root": "public"}}, {"request": JSON_RULES}, NO_FILES),
        ({"files": {"root": "public"}}, {"response": JSON_RULES}, ""),
        ({"upstream": "u"}, {"request": JSON_RULES, "response": JSON_RULES}, ""),
        (
            {"upstream": "u"},
            {"response": {**JSON_RULES, "content_type": "nonsense"}},
            '`response.content_type` is "nonsense", which is not a media type such as application/json',
        ),
        ({"upstream": "u"}, {"request": {**JSON_RULES, "content_type": "text/json; charset=utf-8"}}, ""),
        (
            {"upstream": "u"},
            {"request": {"json": {"move": {"a": "a", "b": "c"}}}},
            '`move` of "a" has no effect: its new path is the same',
        ),
    ],
)
def test_transformations_of_nothing_are_noted(
    tmp_path: Path, route: dict[str, Any], transform: dict[str, Any], wanted: str
) -> None:
    routes = [{"name": "r", "paths": ["/r"], **route}]
    (tmp_path / "public").mkdir()
    told = notes_of(tmp_path, filters={"transform": transform}, routes=routes)
    assert told == [f"filters.transform: {wanted}"] * bool(wanted)
    if wanted in (NO_REDIRECTS, NO_FILES):
        two = [*routes, {"name": "s", "paths": ["/s"], "upstream": "u"}]
        assert "has no effect" not in str(notes_of(tmp_path, filters={"transform": transform}, routes=two))


def test_a_compression_of_no_type_is_noted(tmp_path: Path) -> None:
    assert notes_of(tmp_path, filters={"compress": {"types": []}}) == [
        "filters.compress: `types` is empty: nothing is compressed"
    ]
    assert notes_of(tmp_path, filters={"compress": {}}) == []
