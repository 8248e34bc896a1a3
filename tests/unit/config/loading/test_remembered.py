"""What is remembered of a reading: the next one makes only what has changed, and what it says is what it says anew."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import astuple

from fastgw.config import ConfigError, Loaded, Problem, Remembered, load
from fastgw.config.settings.gateway import Route
from fastgw.config.sources.virtual_files import set_content, watched_name
from fastgw.filters import TYPES
from tests.support.certificates import Certificates
from tests.support.kyma import Json, api, application, credentials, secret, service

OAUTH = {"authenticationUrl": "https://idp.example/token"}
Told = tuple[object, ...]


class Gateway:
    """A configuration whose parts are edited; read with what is remembered, and without."""

    def __init__(self, folder: Path, *, watched: bool) -> None:
        self.folder = folder
        self.watched = watched
        (folder / "apps").mkdir()
        (folder / "kubeconfig").write_text(KUBECONFIG)
        self.remembered = Remembered()
        source = {"kubernetes": {"kubeconfig": "kubeconfig"}} if watched else {"directory": "apps"}
        self.main: Json = {
            "version": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "providers": {"kyma": source},
        }
        self.objects: dict[str, Json] = {}

    def read(self) -> Told:
        """What comes of it, which is the same without anything remembered."""
        told = self._told(self.remembered)
        assert told == self._told(None)
        return told

    def loaded(self) -> Loaded:
        self._write()
        return load(str(self.folder / "main.json"), TYPES, {}, self.remembered)

    def _told(self, remembered: Remembered | None) -> Told:
        self._write()
        try:
            return astuple(load(str(self.folder / "main.json"), TYPES, {}, remembered))
        except ConfigError as error:
            return error.problems

    def _write(self) -> None:
        (self.folder / "main.json").write_text(json.dumps(self.main))
        if self.watched:
            lines = ",\n".join(json.dumps(each) for each in self.objects.values())
            set_content(watched_name("kyma"), f"[\n{lines}\n]\n".encode() if lines else b"[]\n")
            return
        for file in (self.folder / "apps").iterdir():
            if file.stem not in self.objects:
                file.unlink()
        for name, each in self.objects.items():
            (self.folder / "apps" / f"{name}.json").write_text(json.dumps(each, indent=1))


KUBECONFIG = json.dumps(
    {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
        "users": [{"name": "u", "user": {}}],
    }
)


@pytest.fixture(params=[False, True], ids=["directory", "watched"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    yield Gateway(tmp_path, watched=request.param)
    set_content(watched_name("kyma"), b"[]")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def pair(certificates: Certificates, name: str) -> Json:
    certificate, key = certificates.issue(name)
    return secret("cert", crt=Path(certificate).read_text(), key=Path(key).read_text())


def fill(gateway: Gateway) -> None:
    """Two applications, of two services each, with a Secret each."""
    for name in ("one", "two"):
        one = service("first", api(credentials=credentials("OAuth", f"of-{name}", **OAUTH)))
        other = service("second", api(credentials=credentials("Basic", f"of-{name}")))
        gateway.objects[f"app-{name}"] = application(one, other, name=name)
        gateway.objects[f"secret-{name}"] = secret(
            f"of-{name}", clientId=name, clientSecret="s", username=name, password="p"
        )


def routes(loaded: Loaded) -> dict[str, Route]:
    return {route.name: route for route in loaded.config.routes}


def test_what_has_not_changed_is_not_made_anew(gateway: Gateway) -> None:
    fill(gateway)
    before = routes(gateway.loaded())
    gateway.objects["app-one"]["spec"]["services"][0]["entries"][0]["targetUrl"] = "https://other.example"
    after = routes(gateway.loaded())
    assert after["egress/one/first"] != before["egress/one/first"]
    assert all(after[f"egress/two/{name}"] is before[f"egress/two/{name}"] for name in ("first", "second"))


def test_what_is_gone_is_forgotten(gateway: Gateway) -> None:
    fill(gateway)
    gateway.loaded()
    kept = gateway.remembered
    full = [len([*each.values()]) for each in (kept.kyma.applications, kept.egress.routes, kept.egress.upstreams)]
    assert full == [2, 4, 4]
    for name in ("app-two", "secret-two"):
        del gateway.objects[name]
    gateway.loaded()
    left = [len([*each.values()]) for each in (kept.kyma.applications, kept.egress.routes, kept.egress.upstreams)]
    assert left == [1, 2, 2]


def test_a_secret_that_has_changed_is_what_is_captured(gateway: Gateway) -> None:
    fill(gateway)
    file = "kyma://kyma-system/of-one/password"
    assert gateway.loaded().captured[file] == b"p"
    gateway.objects["secret-one"] = secret("of-one", clientId="one", clientSecret="s", username="one", password="q")
    assert gateway.loaded().captured[file] == b"q"
    assert gateway.read()


def test_a_secret_that_comes_goes_and_comes_again(gateway: Gateway) -> None:
    fill(gateway)
    held = gateway.objects.pop("secret-one")
    assert "is missing" in str(gateway.read())
    gateway.objects["secret-one"] = held
    assert "is missing" not in str(gateway.read())
    del gateway.objects["secret-one"]
    assert "is missing" in str(gateway.read())


def test_a_secret_of_several_applications_is_there_for_those_that_did_not_change(
    gateway: Gateway, certificates: Certificates
) -> None:
    """The pair is looked at once; its files come with each application that names it."""
    for name in ("one", "two"):
        entry = api(credentials=credentials("CertificateGen", "cert"))
        gateway.objects[f"app-{name}"] = application(service("first", entry), name=name)
    gateway.objects["cert"] = pair(certificates, "one.example")
    gateway.read()
    del gateway.objects["app-one"]
    assert "kyma://kyma-system/cert/crt" in gateway.loaded().captured
    gateway.objects["cert"] = pair(certificates, "other.example")
    gateway.read()
    gateway.objects["cert"] = {**gateway.objects["cert"], "data": {}}
    assert "has no `crt`" in str(gateway.read())


def test_names_that_collide(gateway: Gateway) -> None:
    """With another application's host, one of the file's own services, an upstream and a route of the same name."""
    fill(gateway)
    gateway.main["egress"] = {"addressing": "host"}
    gateway.read()
    services = gateway.objects["app-two"]["spec"]["services"]
    services[0]["id"] = "x-y"
    gateway.objects["app-third"] = application(service("first", api(), id="y"), name="two-x")
    assert "no host routes to this service" in str(gateway.read())
    del gateway.objects["app-third"]
    assert "no host routes to this service" not in str(gateway.read())
    gateway.main["egress"]["apps"] = {"one": {"first": {"url": "http://own.example"}}}
    assert "which takes precedence" in str(gateway.read())
    del gateway.main["egress"]["apps"]
    gateway.main["upstreams"] = {"egress/one/first": {"targets": [{"url": "http://own.example"}]}}
    assert "egress generates one with this name" in str(gateway.read())
    del gateway.main["upstreams"]
    gateway.main["routes"] = [{"name": "egress/two/first", "paths": ["/own"], "respond": {"status": 204}}]
    gateway.read()
    del gateway.main["routes"]
    gateway.read()


def changed_around() -> list[Callable[[Json], object]]:
    """Edits of what all services stand among."""
    return [
        lambda main: main.update(egress={"target_errors": "pass"}),
        lambda main: main["egress"].update(access_token_header=None, user_agent="pass"),
        lambda main: main["egress"].update(addressing="path_with_entry"),
        lambda main: main["egress"].update(addressing="host", domains=["svc.local"]),
        lambda main: main["listeners"].update(more={"address": "127.0.0.1:0"}),
        lambda main: main["egress"].update(listener="main"),
        lambda main: main.update(filters={"credentials": {"bearer": "gateway's"}}),
        lambda main: main["filters"]["credentials"].update(enforced=True),
        lambda main: main["filters"]["credentials"].update(enforced=False, shadow=True),
        lambda main: main.update(filters={"size": {"body": "1MiB"}}),
        lambda main: main["listeners"]["main"].update(filters={"egress_calls": {}}),
        lambda main: main["listeners"]["main"].pop("filters"),
        lambda main: main["providers"]["kyma"].update(namespace="other"),
        lambda main: main["providers"]["kyma"].update(namespace="kyma-system"),
        lambda main: main["providers"]["kyma"].update(second_level="redis://127.0.0.1/0"),
        lambda main: main["providers"]["kyma"].update(allow_local=True),
        lambda main: main.update(timeouts={"filters": "7s"}),
    ]


def test_settings_that_all_services_stand_among(gateway: Gateway) -> None:
    fill(gateway)
    gateway.read()
    told = []
    for change in changed_around():
        change(gateway.main)
        told.append(gateway.read())
        assert gateway.read() == told[-1]
    assert [number for number, each in enumerate(told) if isinstance(each[0], Problem)] == [4]  # two listeners
    assert all(one != other for one, other in pairwise(told))


def test_a_service_that_is_refused_is_refused_again_and_taken_when_it_may_be(gateway: Gateway) -> None:
    """By a rule that looks at routes: the first filter of the gateway may not be replaced."""
    fill(gateway)
    gateway.main["filters"] = {"credentials": {"bearer": "gateway's", "enforced": True}}
    first = gateway.read()
    assert "enforced by the gateway" in str(first)
    assert "egress/one/first" not in routes(gateway.loaded())
    gateway.objects["app-two"]["spec"]["description"] = "changed"
    again = gateway.read()
    assert "enforced by the gateway" in str(again)
    gateway.main["filters"] = {}
    assert "egress/one/first" in routes(gateway.loaded())
    gateway.read()


def test_a_service_of_which_no_filter_can_be_made_is_refused_each_time(gateway: Gateway) -> None:
    fill(gateway)
    gateway.main["egress"] = {"access_token_header": "Cookie"}
    first = gateway.read()
    assert "is set by this filter" in str(first)
    assert gateway.read() == first
    assert "egress/one/first" not in routes(gateway.loaded())


def test_a_host_that_is_another_for_the_same_api(gateway: Gateway) -> None:
    gateway.main["egress"] = {"addressing": "host"}
    for number in ("7", "8"):
        of = service("first", api(name="only"), id=number)
        gateway.objects["app"] = application(of, name="one")
        assert routes(gateway.loaded())["egress/one/first/only"].hosts == (f"one-{number}",)


def test_what_is_noted_is_noted_again(gateway: Gateway) -> None:
    """A filter of the gateway's that each service replaces."""
    fill(gateway)
    gateway.main["filters"] = {"credentials": {"bearer": "gateway's"}}
    notes = [str(gateway.loaded().notes) for _ in range(3)]
    assert "replaces that of the gateway" in notes[0]
    assert notes[1:] == notes[:1] * 2


def test_a_reading_that_fails_leaves_what_was_remembered(gateway: Gateway) -> None:
    fill(gateway)
    before = routes(gateway.loaded())
    right = gateway.main["listeners"]
    gateway.main["listeners"] = {"main": {"address": "nowhere"}}
    gateway.read()
    gateway.main["listeners"] = right
    after = routes(gateway.loaded())
    assert after["egress/two/second"] is before["egress/two/second"]
    gateway.read()


def test_files_that_a_service_of_the_file_names(gateway: Gateway, certificates: Certificates) -> None:
    """Its settings are equal; what the files say is not."""
    certificate, key = certificates.issue("api.example")
    for name, content in (("crt", certificate), ("key", key), ("ca", certificates.ca)):
        (gateway.folder / name).write_bytes(Path(content).read_bytes())
    own = {
        "url": "https://api.example",
        "credentials": {"type": "certificate", "certificate": "crt", "key": "key"},
        "tls": {"ca": "ca"},
    }
    gateway.main["egress"] = {"apps": {"own": {"it": own}}}
    assert "egress/own/it" in routes(gateway.loaded())
    upstream = gateway.loaded().config.upstreams["egress/own/it"]
    right = (gateway.folder / "ca").read_bytes()
    (gateway.folder / "ca").write_text("no PEM")
    assert "no PEM" not in str(gateway.read())
    with pytest.raises(ConfigError):
        gateway.loaded()
    (gateway.folder / "ca").write_bytes(right)
    (gateway.folder / "key").write_text("")
    assert "no valid private key" in str(gateway.read())
    assert gateway.loaded().config.upstreams["egress/own/it"] != upstream
    (gateway.folder / "key").write_bytes(Path(key).read_bytes())
    assert gateway.loaded().config.upstreams["egress/own/it"] == upstream


def test_an_upstream_that_a_filter_names_and_that_is_gone(gateway: Gateway) -> None:
    """The service with the filter has not changed."""
    fill(gateway)
    own = {"url": "http://own.example", "filters": {"mirror": {"upstream": "egress/one/first"}}}
    gateway.main["egress"] = {"apps": {"own": {"it": own}}}
    gateway.loaded()
    held = gateway.objects.pop("app-one")
    assert 'unknown upstream "egress/one/first"' in str(gateway.read())
    gateway.objects["app-one"] = held
    gateway.loaded()
    gateway.read()


def test_lines_that_are_others_now(gateway: Gateway) -> None:
    """What is told of a document stands where the document has it by now."""
    fill(gateway)
    wrong = api(credentials=credentials("Basci", "of-one"))
    gateway.objects["app-one"] = application(service("first", wrong), service("second", api()), name="one")
    gateway.read()
    gateway.objects["app-one"] = application(service("zero", api()), service("first", wrong), name="one")
    gateway.read()


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes(gateway: Gateway, seed: int) -> None:
    chance = random.Random(seed)
    around = changed_around()
    fill(gateway)
    for _ in range(12):
        for _ in range(chance.randint(1, 2)):
            change(gateway, chance)
        if around and chance.random() < 0.3:
            around.pop(0)(gateway.main)
        gateway.read()


def change(gateway: Gateway, chance: random.Random) -> None:
    name = chance.choice(("one", "two", "two-x", "three"))
    kinds = ("OAuth", "Basic", "NoAuth", "Basci")
    entries = [
        api(
            chance.choice(("https://api.example/v2", "http://api.example", "http://localhost/")),
            credentials=credentials(chance.choice(kinds), f"of-{chance.choice(('one', 'two'))}", **OAUTH),
            **chance.choice(({}, {"name": f"entry {number}"})),
        )
        for number in range(chance.randint(0, 2))
    ]
    match chance.randrange(4):
        case 0:
            gateway.objects.pop(f"app-{name}", None)
        case 1:
            gateway.objects.pop(f"secret-{name}", None)
        case 2:
            gateway.objects[f"secret-{name}"] = secret(
                f"of-{name}", clientId=name, clientSecret=str(chance.random()), username=name, password="p"
            )
        case 3:
            services = [service(each, *entries) for each in ("first", "second")[: chance.randint(1, 2)]]
            gateway.objects[f"app-{name}"] = application(*services, name=name, skipVerify=chance.random() < 0.2)
