"""What is different between two configurations: everything that matters, nothing that does not, and no secret."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from fastgw import config
from fastgw.config.settings.egress import Providers
from fastgw.config.settings.secrets import MASK
from fastgw.diff import Differences, as_text, differences
from fastgw.filters import TYPES
from tests.support.certificates import Certificates

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:80'}}\n"


def read(folder, text, head=HEAD):
    return config.load_text((head + text).encode(), str(folder / "a.yaml"), TYPES)


def said(folder, old, new, **options):
    told = differences(read(folder, old, **options), read(folder, new, **options))
    assert msgspec.json.decode(msgspec.json.encode(told), type=Differences) == told
    return as_text(told).splitlines()


UPSTREAM = "upstreams: {users: {targets: [{url: 'http://users-1:9001'}], %s}}\n"
ROUTE = "routes: [{name: user, %s}]\n"
SYSLOG = "{syslog: {address: udp://a:514, facility: local0, app_name: fastgw, timeout: 5s}}"
SINK = "access_logs: [{sink: %s, format: %s}]"
LOG = "{sink: stdout, format: json, fields: [], only: null, sample: 1.0, sample_routes: {}, always: null, redact: []}"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("workers: 2", "workers: 3", ["workers 2 -> 3", "note: workers: 2 -> 3: 1 worker is started"]),
        (
            "workers: 4",
            "workers: 2",
            ["workers 4 -> 2", "note: workers: 4 -> 2: 2 workers are retired one at a time"],
        ),
        (
            "workers: auto",
            "workers: 2",
            ["workers auto -> 2", "note: workers: auto -> 2: workers are started or retired one at a time"],
        ),
        ("", "timeouts: {keepalive: 1m}", ["timeouts.keepalive 75s -> 1m"]),
        ("", "limits: {body_bytes: 10MB, connections: 5}",
         ["limits.body_bytes null -> 10MB", "limits.connections 20000 -> 5"]),
        ("access_logs: [{redact: [a]}]", "access_logs: [{redact: [b]}]",
         ["access_logs.stdout.redact b added", "access_logs.stdout.redact a removed"][::-1]),
        ("", "access_logs: []", ["access_log stdout removed"]),
        (
            SINK % ("{syslog: {address: 'udp://a:514'}}", "json"),
            SINK % ("{syslog: {address: 'udp://a:514', app_name: gw}}", "json"),
            [
                f"access_log {SYSLOG} removed",
                "access_log {syslog: {address: udp://a:514, facility: local0, app_name: gw, timeout: 5s}} added",
            ],
        ),
        (
            SINK % ("{syslog: {address: 'udp://a:514'}}", "json"),
            SINK % ("{syslog: {address: 'udp://a:514'}}", "ecs"),
            [f'access_logs["{SYSLOG}"].format json -> ecs'],
        ),
        (
            "access_logs: [{}, {}]",
            "access_logs: [{}]",
            [f"access_logs [{LOG}, {LOG}] -> [{LOG}]"],
        ),
        ("admin: null", "admin: {token: abc}",
         ["admin null -> {address: 127.0.0.1:9901, token: ***, read_only_token: null, connections_token: null, "
          "tls: null, document_bytes: 1MiB, document_time: 30s, document_memory: 512MiB}"]),
        ("", "admin: {address: 'unix:/run/a'}",
         ["admin.address 127.0.0.1:9901 -> unix:/run/a", "note: admin: 127.0.0.1:9901 is closed"]),
        (UPSTREAM % "", UPSTREAM % "timeouts: {connect: 250ms}",
         ["upstream users: timeouts.connect 1s -> 250ms"]),
        (UPSTREAM % "retries: {budget: 20%}", UPSTREAM % "retries: {budget: 7.5%}",
         ["upstream users: retries.budget 20% -> 7.5%"]),
        (UPSTREAM % "retries: {conditions: [connect_failure, reset_before_response]}",
         UPSTREAM % "retries: {conditions: [reset_before_response, connect_failure]}",
         ["upstream users: retries.conditions in another order"]),
        (ROUTE % "timeout: 30s, upstream: 'http://a'", ROUTE % "timeout: 10s, upstream: 'http://a'",
         ["route user: timeout 30s -> 10s"]),
        (ROUTE % "respond: {body: a}", ROUTE % "upstream: 'http://a'",
         ["route user: upstream null -> http://a", "route user: respond {status: 200, body: a, headers: {}} -> null"]),
        (ROUTE % "respond: {}, paths: [/a]", ROUTE % "respond: {}, paths: [/b, /a]", ["route user: path /b added"]),
        (ROUTE % "respond: {headers: {a: b}}", ROUTE % "respond: {headers: {c: d e}}",
         ["route user: respond.headers.a b removed", 'route user: respond.headers.c "d e" added']),
        ("", ROUTE % "respond: {}", ["route user: added"]),
        (ROUTE % "respond: {}", "", ["route user: removed"]),
        ("filters: {size: {body: 1KiB}}", "filters: {size: {body: 2KiB}}",
         ["filter size of the gateway: body 1KiB -> 2KiB"]),
        ("filters: {size: {body: 1KiB}}", "filters: {size: {type: request_id}}",
         ["filter size of the gateway: {type: size, enforced: false, shadow: false, body: 1KiB} -> "
          "{type: request_id, enforced: false, shadow: false, header: X-Request-Id, trust_client: true}"]),
        ("filters: {size: {body: 1KiB}}", "filters: {size: null}",
         ["filter size of the gateway: {type: size, enforced: false, shadow: false, body: 1KiB} -> null"]),
        ("filters: {size: null}", "", ["filter size of the gateway: no longer switched off"]),
        ("filters: {size: {body: 1KiB, shadow: true}}", "filters: {size: {body: 1KiB}}",
         ["filter size of the gateway: shadow true -> false"]),
        ("filter_sets: {s: {size: {body: 1}}}", "filter_sets: {s: {size: {body: 1}, request_id: {}}}",
         ["filter request_id of filter set s: added"]),
        (UPSTREAM % "", UPSTREAM % "filters: {size: {body: 1}}", ["filter size of upstream users: added"]),
        ("", "filters: {headers: {response: {set: {a: b}}}}", ["filter headers of the gateway: added"]),
    ],
)  # fmt: skip
def test_one_difference_is_one_line(tmp_path, old, new, lines):
    assert said(tmp_path, old, new) == lines


def test_targets(tmp_path):
    old = "upstreams: {users: {targets: [{url: 'http://users-1:9001'}, {url: 'http://users-2:9002', weight: 3}]}}"
    new = "upstreams: {users: {targets: [{url: 'http://users-2:9002'}, {url: 'http://users-3:9003'}]}}"
    assert said(tmp_path, old, new) == [
        "upstream users: target http://users-1:9001 removed",
        'upstream users: targets["http://users-2:9002"].weight 3 -> 1',
        "upstream users: target http://users-3:9003 added",
    ]


def test_listeners(tmp_path):
    old = "version: 1\nlisteners: {a: {address: '127.0.0.1:1'}, b: {address: '127.0.0.1:2'}}\n"
    new = "version: 1\nlisteners: {b: {address: '127.0.0.1:3', filters: {request_id: {}}}, c: {address: 'unix:/c'}}\n"
    told = differences(read(tmp_path, "", head=old), read(tmp_path, "", head=new))
    assert as_text(told).splitlines() == [
        "listener a: removed",
        "listener b: address 127.0.0.1:2 -> 127.0.0.1:3",
        "listener c: added",
        "filter request_id of listener b: added",
        "note: listener a: its socket is closed, its connections after the request in flight",
        "note: listener b: 127.0.0.1:2 -> 127.0.0.1:3: the old socket is closed, its connections after the request "
        "in flight",
    ]
    assert [item.name for item in told.listeners.added] == ["c"]
    assert [(item.name, item.level) for item in told.filters.added] == [("request_id", "listener b")]


# Without the one whose targets registries have: what is spelled out is the list, which is not known here.
EXAMPLES = sorted(
    each for each in Path(__file__).parents[3].joinpath("examples").glob("*.*") if each.name != "discovery.yaml"
)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_equal_configurations(file):
    """As loaded or as they are; in another format; with defaults spelled out."""
    loaded = config.load(str(file), TYPES)
    without = replace(loaded.config, consumers=(), egress=None, providers=Providers())  # which are not spelled out
    spelled_out = json.dumps(config.effective(loaded.config)).encode()
    read_again = config.load_text(spelled_out, str(file.with_suffix(".json")), TYPES)
    pairs = [(loaded, loaded), (loaded, loaded.config)]
    if MASK not in spelled_out.decode():
        pairs.append((without, read_again))
    else:  # secrets are not spelled out: what is read again has others
        again = differences(without, read_again)
        assert [change.words for change in changes_in(again) if (change.old, change.new) != (MASK, MASK)] == []
        assert [*again.routes.added, *again.routes.removed, *again.filters.added, *again.filters.removed] == []
    for one, other in pairs:
        told = differences(one, other)
        assert as_text(told) == "nothing changes"
        assert told == Differences()
        assert not told


def changes_in(told):
    """Every change of a value that is told of."""
    parts = (getattr(told, name) for name in told.__struct_fields__)
    items = [item for part in parts for item in getattr(part, "changed", ())]
    return [change for item in items for change in item.changes]


def test_what_is_only_written_differently(tmp_path):
    """Where routes stand, in which order names do, and that a default is written out."""
    old = "include: [b.yaml]\nstatus: {}\nadmin: {}\n" + UPSTREAM % "host_header: auto"
    new = UPSTREAM % "" + ROUTE % "respond: {}, headers: {a: b, b: c}"
    (tmp_path / "b.yaml").write_text(ROUTE % "respond: {}, headers: {b: c, a: b}")
    assert said(tmp_path, old, new) == ["nothing changes"]
    assert said(
        tmp_path, "filters: {request_id: {}, size: {body: 1}}", "filters: {size: {body: 1}, request_id: {}}"
    ) == ["nothing changes"]


def test_the_order_of_routes(tmp_path):
    routes = ["{name: a, respond: {}}", "{name: b, respond: {}}", "{name: c, respond: {}}"]

    def text(*order):
        return f"routes: [{', '.join(routes[each] for each in order)}]"

    assert said(tmp_path, text(0, 1), text(1, 0)) == ["routes in another order"]
    assert said(tmp_path, text(0, 1), text(0, 2, 1)) == ["route c: added"]
    assert said(tmp_path, text(0, 1, 2), text(2, 0)) == ["routes in another order", "route b: removed"]


def test_secrets_are_compared_and_never_shown(tmp_path):
    (tmp_path / "token").write_text("from-a-file")
    old = (
        "admin: {token: old-token}\n" + ROUTE % "respond: {headers: {Set-Cookie: old-cookie}}, headers: {X-Api-Key: k1}"
    )
    new = (
        "admin: {token: {file: token}}\n"
        + ROUTE % "respond: {headers: {Set-Cookie: new-cookie}}, headers: {X-Api-Key: k1, X-Session: s1}"
    )
    told = differences(read(tmp_path, old), read(tmp_path, new))
    assert as_text(told).splitlines() == [
        "admin.token changed",
        "route user: headers.X-Session *** added",
        "route user: respond.headers.Set-Cookie changed",
    ]
    for shown in (as_text(told), repr(told), msgspec.json.encode(told).decode()):
        for secret in ("old-token", "from-a-file", "cookie", "k1", "s1"):
            assert secret not in shown
    assert said(tmp_path, "admin: {token: {file: token}}", "admin: {token: {file: ./token}}") == ["nothing changes"]
    assert said(tmp_path, "admin: {token: a}", "") == ["admin.token *** -> null"]


def test_a_query_for_an_upstream_is_compared_and_its_values_are_never_shown(tmp_path):
    route = ROUTE % "respond: {body: x}, filters: {request_parameters: {query_first: '%s'}}"
    told = differences(read(tmp_path, route % "key=old-one&a"), read(tmp_path, route % "key=new-one&b=1"))
    assert as_text(told).splitlines() == [
        "filter request_parameters of route user: query_first key=***&*** -> key=***&b=***",
    ]
    told = differences(read(tmp_path, route % "key=old-one"), read(tmp_path, route % "key=new-one"))
    assert as_text(told).splitlines() == ["filter request_parameters of route user: query_first changed"]
    assert "-one" not in repr(told)


def test_certificates_are_compared_by_what_is_in_them(tmp_path):
    """A reload takes the file's new contents, so that is a difference."""
    authority = Certificates(tmp_path)
    text = "upstreams: {u: {targets: [{url: 'https://u'}], tls: {ca: ca.pem}}, v: {targets: [{url: 'https://v'}]}}\n"
    old = read(tmp_path, text)
    assert differences(old, read(tmp_path, text)) == Differences()
    certificate, _ = authority.issue("other")
    shutil.copy(certificate, authority.ca)
    new = read(tmp_path, text)
    assert as_text(differences(old, new)) == f"upstream u: tls.ca {authority.ca} has other contents"
    assert as_text(differences(old.config, new.config)) == "nothing changes"


def test_a_terminal_obeys_no_value(tmp_path):
    old = 'routes: [{name: "a b", respond: {body: "x\\n"}}]'
    new = 'routes: [{name: "a b", respond: {body: "\\x9b2J"}}, {name: "a, b", respond: {}}]'
    assert said(tmp_path, old, new) == [
        r'route "a b": respond.body "x\n" -> "\u009b2J"',
        'route "a, b": added',
    ]


ALICE = (
    "consumers: [{name: alice, groups: [a], key_auth: [{key: planted-1}], basic_auth: [{username: u, password: %s}]}]\n"
)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (ALICE % "planted-2", ALICE % "planted-2", ["nothing changes"]),
        (ALICE % "planted-2", ALICE % "planted-3", ["consumer alice: has other credentials"]),
        (ALICE % "planted-2", "", ["consumer alice: removed"]),
        ("", ALICE % "planted-2", ["consumer alice: added"]),
        ("consumers: [{name: a}]\n", "consumers: [{name: a, groups: [b]}]\n", ["consumer a: groups [] -> [b]"]),
        (
            "consumers: [{name: a, key_auth: [{key: planted-1}]}]\n",
            "consumers: [{name: a, key_auth: [{key: planted-1}, {key: planted-2}]}]\n",
            ["consumer a: key_auth: 1 -> 2"],
        ),
        (
            "consumers: [{name: a, jwt: [{issuer: i, subject: s}]}]\n",
            "consumers: [{name: a, certificates: [{san: DNS:s}]}]\n",
            ["consumer a: jwt: 1 -> 0", "consumer a: certificates: 0 -> 1"],
        ),
    ],
)
def test_consumers_are_compared_and_their_secrets_are_not_shown(tmp_path, old, new, told):
    found = said(tmp_path, old, new)
    assert found == told
    assert "planted" not in str(found)


def test_consumers_in_files_of_their_own_are_compared_too(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"consumers: [{{name: {name}}}]")
    said_of = [f"consumer_files: [{name}.yaml]\n" for name in ("a", "b")]
    assert said(tmp_path, *said_of)[-2:] == ["consumer a: removed", "consumer b: added"]


def test_shared_schemas_of_a_document_are_compared_by_what_is_in_them(tmp_path):
    """An operation that refers to a component has no other settings when the component changes."""
    reference = {"$ref": "#/components/schemas/Order"}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Shop", "version": "1"},
        "paths": {"/orders": {"post": {"operationId": "add", "responses": {}, "requestBody": {
            "content": {"application/json": {"schema": reference}}}}}},
        "components": {"schemas": {"Order": {"type": "object"}}},
    }  # fmt: skip
    text = (
        "upstreams: {shop: {targets: [{url: 'http://shop'}]}}\nroutes: [{openapi: {file: shop.json, upstream: shop}}]\n"
    )
    (tmp_path / "shop.json").write_text(json.dumps(document))
    old = read(tmp_path, text)
    assert differences(old, read(tmp_path, text)) == Differences()
    document["components"]["schemas"]["Order"]["required"] = ["sku"]
    (tmp_path / "shop.json").write_text(json.dumps(document))
    told = as_text(differences(old, read(tmp_path, text)))
    assert told == "filter openapi of route add: components.schemas.Order has other contents"


def test_a_shared_schema_is_told_for_each_route_that_uses_it_and_for_no_other(tmp_path):
    """Also if it is used through others, in responses, or has another number because the document has grown."""
    item, order, other = ({"$ref": f"#/components/schemas/{name}"} for name in ("Item", "Order", "Other"))

    def operation(name, schema, **more):
        content = {"application/json": {"schema": schema}}
        return {"post": {"operationId": name, "responses": {}, "requestBody": {"content": content}, **more}}

    schemas = {
        "Order": {"type": "object", "properties": {"items": {"type": "array", "items": item}}},
        "Item": {"type": "object", "properties": {"parts": {"type": "array", "items": item}}},
        "Other": {"type": "string"},
    }
    answer = {"200": {"description": "", "content": {"application/json": {"schema": item}}}}
    paths = {
        "/orders": operation("order", order),
        "/others": operation("other", other),
        "/plain": operation("plain", {"type": "integer"}),
        "/answers": operation("answer", other, responses=answer),
    }
    document = {"openapi": "3.1.0", "info": {}, "paths": paths, "components": {"schemas": schemas}}
    entry = "routes: [{openapi: {file: shop.json, upstream: 'http://shop', responses: report}}]\n"

    def loaded():
        (tmp_path / "shop.json").write_text(json.dumps(document))
        return read(tmp_path, entry)

    old = loaded()
    schemas["Item"]["required"] = ["sku"]
    assert as_text(differences(old, loaded())).splitlines() == [
        "filter openapi of route order: components.schemas.Item has other contents",
        'filter openapi of route answer: "components.schemas.Item in responses" has other contents',
    ]
    before = loaded()
    document["paths"] = {"/new": operation("new", {"type": "object", "properties": {"o": order}}), **paths}
    told = as_text(differences(before, loaded())).splitlines()
    assert [line for line in told if "openapi" in line] == ["filter openapi of route new: added"]


def test_changes_of_a_filter_set_name_the_routes_that_use_it(tmp_path):
    routes = "".join(f"  - {{name: r{number}, respond: {{}}, use: [s]}}\n" for number in range(7))
    alone = "  - {name: alone, respond: {}, use: [t]}\n  - {name: none, respond: {}}\n"
    text = "filter_sets: {s: {size: {body: %s}}, t: {size: {body: %s}}}\nroutes:\n" + routes + alone
    assert said(tmp_path, text % ("1KiB", "1KiB"), text % ("2KiB", "3KiB")) == [
        "filter size of filter set s (routes r0, r1, r2, r3, r4 and 2 more): body 1KiB -> 2KiB",
        "filter size of filter set t (route alone): body 1KiB -> 3KiB",
    ]
