"""What control knows of a Kubernetes cluster: the real client library against an API server's stand-in."""

from __future__ import annotations

import asyncio
import base64
import json
import selectors
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.settings.egress import Kubernetes, Kyma, Providers
from fastgw.config.sources import virtual_files
from fastgw.config.sources.virtual_files import NOTHING
from fastgw.runtime.control.kubernetes import api_client
from fastgw.runtime.control.kubernetes import watch as kubernetes_watch
from fastgw.runtime.control.kubernetes.api_client import CannotAsk, ClusterAccess
from fastgw.runtime.control.kubernetes.kyma_control import Watching
from fastgw.runtime.control.kubernetes.object_store import Objects
from fastgw.runtime.control.kubernetes.watch import KubernetesWatch, Pauses
from tests.support.certificates import Certificates
from tests.support.gateway import messages
from tests.support.kubernetes import TOKEN, ApiServer, application, secret

NAMESPACE = "kyma-system"
LONG = 30.0
"""The library alone takes a second to be imported, and more on a machine that is busy."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(Certificates(tmp_path)) as server:
        yield server


class Seen:
    """What a watch has said."""

    def __init__(self, watch: KubernetesWatch, contents: list[bytes]) -> None:
        self.watch = watch
        self.contents = contents

    @property
    def objects(self) -> list[dict[str, Any]]:
        return json.loads(self.contents[-1]) if self.contents else []

    @property
    def names(self) -> list[str]:
        return [each["metadata"]["name"] for each in self.objects]

    @property
    def problems(self) -> list[str]:
        return [each.problem for each in self.watch.feed_infos() if each.problem]

    async def until(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG):
            while not fact():
                await asyncio.sleep(0.005)

    async def knows(self, *names: str) -> None:
        """Wait until these objects are known, and no others."""
        try:
            await self.until(lambda: bool(self.contents) and self.names == [*names])
        except TimeoutError:
            raise AssertionError(f"waited for {names}; there are {self.names}, {self.problems}") from None


def access_to(server: ApiServer, folder: Path, context: str | None = None, **more: Any) -> ClusterAccess:
    file = server.kubeconfig(folder / "kubeconfig", **more)
    return ClusterAccess(Kubernetes(kubeconfig=str(file), context=context), file.read_bytes())


@asynccontextmanager
async def watching(access: ClusterAccess, taken: Callable[[], bool] = lambda: True, **more: Any) -> AsyncIterator[Seen]:
    contents: list[bytes] = []

    async def take() -> bool:
        return taken()

    watch = KubernetesWatch("kubernetes://kyma", access, NAMESPACE, contents.append, take, **more)
    running = asyncio.create_task(watch.run())
    try:
        yield Seen(watch, contents)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await all_closed()


async def all_closed() -> None:
    """Connections of aiohttp end some time after their session."""
    selector: selectors.BaseSelector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    async with asyncio.timeout(LONG):
        while len(selector.get_map()) > 1:
            await asyncio.sleep(0.001)


def naming(name: str, *secrets: str) -> dict[str, Any]:
    """An Application that names these Secrets."""
    services = [
        {"name": each, "entries": [{"type": "API", "credentials": {"type": "Basic", "secretName": each}}]}
        for each in secrets
    ]
    return application(name, *services)


def run(work: Callable[[], Any]) -> None:
    asyncio.run(work())


def test_what_there_is_becomes_known_without_what_is_not_for_us(server: ApiServer, tmp_path: Path) -> None:
    server.put(naming("shop", "shop-key"), secret("shop-key", password="p"), secret("another", password="q"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows("shop", "shop-key")
            shop, key = seen.objects
            assert shop == {
                "apiVersion": "applicationconnector.kyma-project.io/v1alpha1",
                "kind": "Application",
                "metadata": {"name": "shop"},
                "spec": naming("shop", "shop-key")["spec"],
            }
            assert key == {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "shop-key", "namespace": NAMESPACE},
                "data": {"password": base64.b64encode(b"p").decode()},
            }
            assert b"another" not in seen.contents[-1]
            assert len(seen.contents[-1].splitlines()) == 4, "an object in each line"

    run(work)


def test_changes_follow(server: ApiServer, tmp_path: Path) -> None:
    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()
            server.put(secret("shop-key", password="p"))
            server.put(naming("shop", "shop-key"))
            await seen.knows("shop", "shop-key")
            server.put(secret("shop-key", password="rotated"))
            await seen.until(lambda: base64.b64encode(b"rotated") in seen.contents[-1])
            server.delete("secrets", "shop-key", NAMESPACE)
            await seen.knows("shop")
            server.delete("applications", "shop")
            await seen.knows()

    run(work)


# --- lists ---


def test_a_list_comes_in_pages_and_is_a_snapshot(server: ApiServer, tmp_path: Path) -> None:
    server.most_listed = 2
    server.put(*(naming(f"app-{number}", "key") for number in range(5)))
    server.put(*(secret(f"other-{number}", a="b") for number in range(5)), secret("key", a="b"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows(*(f"app-{number}" for number in range(5)), "key")
        assert [server.count("list", "applications"), server.count("list", "secrets")] == [3, 3]

    run(work)


def test_a_list_that_expires_between_two_pages_is_begun_again(server: ApiServer, tmp_path: Path) -> None:
    server.most_listed = 2
    server.put(*(naming(f"app-{number}") for number in range(3)))
    expirations = iter([server.forget_now])
    server.on_page = lambda: next(expirations, lambda: None)()

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows("app-0", "app-1", "app-2")
            await seen.until(lambda: not seen.problems)

    run(work)
    assert server.count("list", "applications") == 4, "a page, one that has expired, and two"


def test_an_answer_that_is_too_long_is_asked_for_in_smaller_pages(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_client, "MOST_BYTES", 20_000)
    server.put(*(application(f"app-{number}", description="d" * 2000) for number in range(8)))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows(*(f"app-{number}" for number in range(8)))

    run(work)
    limits = [
        int(each.query["limit"]) for each in server.asked if (each.verb, each.resource) == ("list", "applications")
    ]
    assert limits[0] == kubernetes_watch.PAGE
    assert min(limits) < 8


def test_more_than_can_be_kept_leaves_all_as_it_was(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_watch, "MOST", 5000)
    server.put(naming("small"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows("small")
            server.put(application("large", description="d" * 6000))
            await seen.until(lambda: bool(seen.problems))
            assert "more than 5000" in seen.problems[0]
            assert seen.names == ["small"]
            server.delete("applications", "large")
            server.put(naming("smaller"))
            await seen.knows("small", "smaller")
            assert seen.problems == []

    run(work)


def test_an_empty_list_is_one_and_a_failed_list_is_none(server: ApiServer, tmp_path: Path) -> None:
    server.failing = 2

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.until(lambda: bool(seen.problems))
            assert "500: etcdserver: leader changed" in seen.problems[0]
            assert seen.contents == [], "the last known objects stay in use"
            await seen.knows()
            assert seen.contents == [b"[]\n"]
            assert seen.contents[0] != NOTHING, "it is known that there is nothing"

    run(work)


# --- watches ---


def test_what_was_missed_while_a_watch_was_dropped_is_made_up_for_without_a_list(
    server: ApiServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()
            for name in ("a", "b", "c"):
                await seen.until(lambda: server.watches == 2)
                server.drop()
                server.put(naming(name))
                await seen.until(lambda name=name: name in seen.names)  # type: ignore[misc]
        assert server.count("list", "applications") == 1

    run(work)
    assert capfd.readouterr().err == "", "a connection that ends is nothing to tell"


def test_an_api_server_that_comes_back_with_older_data_is_listed_anew(server: ApiServer, tmp_path: Path) -> None:
    """Its versions are those of then: a watch from a later one would say nothing until they are reached again."""

    async def work() -> None:
        server.put(naming("kept"))
        backup = server.backup()
        server.put(naming("lost"))
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows("kept", "lost")
            await seen.until(lambda: server.watches == 2)
            server.stop()
            await seen.until(lambda: len(seen.problems) == 2)
            server.restore(backup)
            server.start()
            await seen.knows("kept")
            server.put(naming("new"))
            await seen.knows("kept", "new")

    run(work)


def test_a_watch_that_ends_in_time_goes_on_from_the_last_bookmark(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_watch, "WATCH_S", (1, 1))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()
            await seen.until(lambda: server.watches == 2)
            listed_at = max(int(each.query.get("resourceVersion", 0)) for each in server.asked)
            server.bookmark()
            await seen.until(lambda: server.count("watch", "applications") > 1)
            again = [each for each in server.asked if (each.verb, each.resource) == ("watch", "applications")][-1]
            assert int(again.query["resourceVersion"]) > listed_at
            assert again.query["allowWatchBookmarks"] == "True"
            server.put(naming("late"))
            await seen.knows("late")
            assert seen.problems == []
        assert server.count("list", "applications") == 1

    run(work)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_version_that_is_forgotten_leads_to_another_list(server: ApiServer, tmp_path: Path, at_once: bool) -> None:
    server.says_gone_at_once = at_once
    server.put(naming("stays"), naming("goes"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows("goes", "stays")
            await seen.until(lambda: server.watches == 2)
            server.stop()
            server.delete("applications", "goes")
            server.put(naming("comes"))
            server.forget()
            server.start()
            await seen.knows("comes", "stays")
        assert server.count("list", "applications") == 2

    run(work)


def test_a_watch_may_be_told_in_the_middle_that_it_is_too_late(server: ApiServer, tmp_path: Path) -> None:
    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()
            await seen.until(lambda: server.watches == 2)
            server.say_gone()
            await seen.until(lambda: server.count("list", "applications") == 2)
            server.put(naming("shop"))
            await seen.knows("shop")
            assert seen.problems == []

    run(work)


def test_nonsense_in_a_watch_is_told_and_leads_to_another_list(
    server: ApiServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()
            await seen.until(lambda: server.watches == 2)
            server.say(b"<html>a proxy speaks\n")
            await seen.until(lambda: server.count("list", "applications") == 2)
            server.put(naming("shop"))
            await seen.knows("shop")

    run(work)
    assert "sent an invalid response: JSON is malformed" in capfd.readouterr().err


# --- Secrets ---


def test_a_secret_that_is_older_than_its_first_application_is_fetched(server: ApiServer, tmp_path: Path) -> None:
    server.put(secret("key", a="b"), secret("other", a="b"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()
            server.put(naming("shop", "key", "absent"))
            await seen.knows("shop", "key")
            assert len(seen.contents) == 2, "both came as one change"
            server.put(secret("absent", a="b"))
            await seen.knows("shop", "absent", "key")
            server.put(naming("shop", "absent"))
            await seen.knows("shop", "absent")
        assert server.count("get", "secrets", "key") == 1
        assert server.count("get", "secrets", "other") == 0

    run(work)


def test_a_secret_stays_while_any_application_names_it(server: ApiServer, tmp_path: Path) -> None:
    server.put(naming("one", "key"), naming("two", "key"), secret("key", a="b"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows("one", "two", "key")
            server.delete("applications", "one")
            await seen.knows("two", "key")
            server.delete("applications", "two")
            await seen.knows()
            server.put(secret("key", a="other"))
            server.put(naming("three", "key"))
            await seen.knows("three", "key")
            assert seen.objects[1]["data"] == secret("key", a="other")["data"]

    run(work)


def test_a_secret_that_the_configuration_names_needs_no_application(server: ApiServer, tmp_path: Path) -> None:
    server.put(naming("shop", "key"), *(secret(name, a="b") for name in ("key", "named", "other")))

    async def work() -> None:
        async with watching(access_to(server, tmp_path), secrets=("key", "named", "absent")) as seen:
            await seen.knows("shop", "key", "named")
            server.delete("applications", "shop")
            await seen.knows("key", "named")
            server.put(secret("absent", a="b"))
            await seen.knows("absent", "key", "named")
            server.delete("secrets", "named", NAMESPACE)
            await seen.knows("absent", "key")
        assert server.count("get", "secrets") == 0

    run(work)


def test_a_secret_that_cannot_be_fetched_holds_up_nothing(server: ApiServer, tmp_path: Path) -> None:
    server.put(secret("key", a="b"))
    server.forbidden = {("get", "secrets")}

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()
            server.put(naming("shop", "key"))
            await seen.knows("shop")
            assert 'cannot get resource "secrets"' in seen.problems[0]
            server.forbidden = set()
            await seen.knows("shop", "key")
            await seen.until(lambda: seen.problems == [])

    run(work)


def test_a_list_takes_nothing_away_that_it_did_not_look_for() -> None:
    """An Application names a Secret while the Secrets are listed, of which it was dropped in a page before."""
    objects = Objects(lambda: None)
    raw = {name: json.dumps(secret(name, a="b")).encode() for name in ("old", "fetched", "late", "deleted")}
    shop = json.dumps(naming("shop", "old", "deleted")).encode()
    objects.replace("applications", {"shop": shop}, ())
    objects.replace("secrets", {name: raw[name] for name in ("old", "deleted")}, objects.named)
    named = objects.named
    objects.store("applications", "store", json.dumps(naming("store", "fetched", "late")).encode())
    objects.store("secrets", "fetched", raw["fetched"])
    objects.replace("secrets", {"old": raw["old"]}, named)
    known = [each["metadata"]["name"] for each in json.loads(objects.content())]
    assert known == ["shop", "store", "fetched", "old"]
    assert [*objects.missing] == ["late"]
    assert (objects.is_lacking.is_set(), objects.is_complete.is_set()) == (True, False)
    objects.delete("applications", "store")
    assert (objects.is_lacking.is_set(), objects.is_complete.is_set()) == (False, True)


# --- passing on ---


def test_what_the_api_server_adds_is_no_change(server: ApiServer, tmp_path: Path) -> None:
    server.put(naming("shop"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows("shop")
            server.put({**naming("shop"), "status": {"installationStatus": {"status": "deployed"}}})
            server.put(naming("another"))
            await seen.knows("another", "shop")
            assert len(seen.contents) == 2

    run(work)


def test_many_changes_are_passed_on_as_few(server: ApiServer, tmp_path: Path) -> None:
    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()
            await seen.until(lambda: server.watches == 2)
            for number in range(100):
                server.put(naming("shop", f"key-{number}"))
            await seen.until(lambda: b"key-99" in seen.contents[-1])
            assert len(seen.contents) < 20

    run(work)


def test_what_cannot_be_taken_just_now_is_tried_again(server: ApiServer, tmp_path: Path) -> None:
    server.put(naming("shop"))
    outcomes = [False, False, True]

    async def work() -> None:
        async with watching(access_to(server, tmp_path), taken=lambda: outcomes.pop(0)) as seen:
            await seen.knows("shop")
            await seen.until(lambda: not outcomes)

    run(work)


# --- who may ask, and whom ---


def test_a_right_that_is_lacking_is_told_once_and_clearly(
    server: ApiServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.forbidden = {("list", "applications")}

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.until(lambda: server.count("list", "applications") > 2)
            assert seen.contents == []
            server.forbidden = {("list", "secrets")}
            await seen.until(lambda: server.count("list", "secrets") > 2 and len(seen.problems) == 1)
            assert seen.contents == [], "half of what there is means something else"
            server.forbidden = set()
            await seen.knows()
            await seen.until(lambda: not seen.problems)

    run(work)
    told = messages(capfd.readouterr().err)
    assert sorted(told, key=lambda each: each.partition(": ")[0]) == [
        "kubernetes://kyma/applications: the API server says 403: applications.applicationconnector.kyma-project.io is "
        'forbidden: User "system:serviceaccount:kyma-system:fastgw" cannot list resource "applications" in API group '
        '"applicationconnector.kyma-project.io" at the cluster scope; expected a cluster role that allows get, list '
        "and watch; the last known objects stay in use",
        "kubernetes://kyma/applications: reachable again",
        'kubernetes://kyma/secrets: the API server says 403: secrets is forbidden: User "system:serviceaccount:'
        'kyma-system:fastgw" cannot list resource "secrets" in API group "" in the namespace "kyma-system"; expected a '
        "role in the namespace that allows get, list and watch; the last known objects stay in use",
        "kubernetes://kyma/secrets: reachable again",
    ]


def test_a_cluster_that_does_not_know_applications_is_no_empty_one(server: ApiServer, tmp_path: Path) -> None:
    server.unknown = {"applications"}

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.until(lambda: bool(seen.problems))
            assert "404: the server could not find" in seen.problems[0]
            assert "expected Kyma's definition" in seen.problems[0]
            assert seen.contents == []

    run(work)


def test_a_token_that_was_replaced_is_read_anew(
    server: ApiServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)

    async def work() -> None:
        async with watching(access_to(server, tmp_path, token_file=token, inline=False)) as seen:
            await seen.knows()
            await seen.until(lambda: server.watches == 2)
            token.write_text("rotated")
            server.tokens = {"rotated"}
            server.drop()
            server.put(naming("shop"))
            await seen.knows("shop")

    run(work)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("as_pod", [True, False])
def test_a_token_ends_with_its_line(
    server: ApiServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    as_pod: bool,
) -> None:
    """As `echo` and most editors write it. What stands in several lines is told, and forgotten when it is mended."""
    token = tmp_path / "token"
    token.write_text("two\nlines\n")
    (tmp_path / "ca.crt").write_bytes((tmp_path / "ca.pem").read_bytes())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    by_file = access_to(server, tmp_path, token_file=token, inline=False)
    access = ClusterAccess(Kubernetes(), account=str(tmp_path)) if as_pod else by_file
    server.put(naming("shop"))

    async def work() -> None:
        async with watching(access) as seen:
            await seen.until(lambda: bool(seen.problems))
            assert seen.problems == ["its token has a control character; expected one line"]
            token.write_text(f"{TOKEN}\n")
            await seen.knows("shop")
            assert server.asked[-1].token == TOKEN
            await seen.until(lambda: not seen.problems)

    run(work)
    assert "lines" not in capfd.readouterr().err


def test_what_the_library_raises_is_told_until_it_is_over(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kubernetes_watch, "LONGEST_PAUSE_S", 0.01)
    from_library, access = ClusterAccess.client, access_to(server, tmp_path)

    async def broken(*_: object) -> None:
        raise RuntimeError("what nobody has thought of")

    monkeypatch.setattr(ClusterAccess, "client", broken)

    async def work() -> None:
        async with watching(access) as seen:
            await seen.until(lambda: bool(seen.problems))
            monkeypatch.setattr(ClusterAccess, "client", from_library)
            await seen.knows()
            await seen.until(lambda: not seen.problems)

    run(work)
    told, over = messages(capfd.readouterr().err)
    assert told.startswith("kubernetes://kyma/applications: RuntimeError: what nobody has thought of")
    assert over == "kubernetes://kyma/applications: reachable again"


def test_a_pod_asks_as_its_service_account(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = tmp_path / "account"
    account.mkdir()
    access = ClusterAccess(Kubernetes(), account=str(account))
    server.put(naming("shop"))

    async def work() -> None:
        async with watching(access) as seen:
            await seen.until(lambda: bool(seen.problems))
            assert "Expected one, or a `kubeconfig`" in seen.problems[0]
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
            (account / "token").write_text(TOKEN)
            (account / "ca.crt").write_bytes((tmp_path / "ca.pem").read_bytes())
            await seen.knows("shop")
            assert server.asked[-1].token == TOKEN

    run(work)


def test_another_context_of_the_kubeconfig_is_another_server(server: ApiServer, tmp_path: Path) -> None:
    async def work() -> None:
        for context, wanted in (
            ("nowhere", "is unreachable"),
            ("unheard-of", "it is not a valid kubeconfig"),
        ):
            async with watching(access_to(server, tmp_path, context=context)) as seen:
                await seen.until(lambda: bool(seen.problems))
                assert wanted in seen.problems[0]

    run(work)
    assert server.asked == []


def test_a_server_of_another_authority_is_not_believed(server: ApiServer, tmp_path: Path) -> None:
    access = access_to(server, tmp_path, inline=False)
    Certificates(tmp_path)  # takes the place of the first

    async def work() -> None:
        async with watching(access) as seen:
            await seen.until(lambda: bool(seen.problems))
            assert "certificate verify failed" in seen.problems[0].lower()

    run(work)
    assert server.asked == []


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (b"{", "it is not YAML"),
        (b"[]", "it is not a valid kubeconfig"),
        (b"clusters: [{cluster: {certificate-authority-data: s3cr3t!}}]", "it is not a valid kubeconfig"),
        (b"clusters: []\nusers: [{name: s3cr3t}]", "it is not a valid kubeconfig"),
    ],
)
def test_a_kubeconfig_that_is_wrong_is_told_without_showing_it(written: bytes, wanted: str) -> None:
    async def work() -> None:
        with pytest.raises(CannotAsk) as raised:
            await ClusterAccess(Kubernetes(kubeconfig="/kubeconfig"), written).client("secrets", NAMESPACE)
        assert str(raised.value).startswith("/kubeconfig: ")
        assert wanted in str(raised.value)
        assert "s3cr3t" not in str(raised.value)

    run(work)


def test_nothing_of_a_kubeconfig_reaches_a_disk(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "there is none"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows()

    run(work)


def test_an_api_server_that_is_slow_is_waited_for(server: ApiServer, tmp_path: Path) -> None:
    server.slow_s = 0.2
    server.put(naming("shop", "key"), secret("key", a="b"))

    async def work() -> None:
        async with watching(access_to(server, tmp_path)) as seen:
            await seen.knows("shop", "key")
            assert seen.problems == []

    run(work)


def test_pauses_grow_while_all_ends_soon_and_are_never_the_same() -> None:
    pauses = Pauses()
    waited = [pauses.next_delay(soon=True) for _ in range(12)]
    assert waited[0] <= kubernetes_watch.PAUSE_S
    assert all(one < other for one, other in zip(waited[:5:2], waited[2:7:2], strict=True))
    assert kubernetes_watch.LONGEST_PAUSE_S / 2 <= waited[-1] <= kubernetes_watch.LONGEST_PAUSE_S
    assert len(set(waited)) == len(waited)
    assert pauses.next_delay(soon=False) <= kubernetes_watch.PAUSE_S
    assert pauses.next_delay(soon=True) <= kubernetes_watch.PAUSE_S


# --- which cluster ---


def test_the_cluster_that_the_configuration_names_is_followed(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual_files, "_contents", {})
    taken: list[bytes] = []

    async def take(name: str) -> bool:
        taken.append(virtual_files.content_of(name))
        return True

    async def until(fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG):
            while not fact():
                await asyncio.sleep(0.005)

    file = server.kubeconfig(tmp_path / "kubeconfig")
    captured = {str(file): file.read_bytes()}
    following = Providers(kyma=Kyma(kubernetes=Kubernetes(kubeconfig=str(file))))
    server.put(naming("shop"))

    async def work() -> None:
        watching = Watching(take)
        watching.watch_provider(following, captured)
        await until(lambda: bool(taken) and b"shop" in taken[-1])
        watching.watch_provider(following, {**captured, "another": b"file"})
        server.put(naming("store"))
        await until(lambda: b"store" in taken[-1])
        assert server.count("list", "applications") == 1, "it goes on"
        server.tokens = {"renewed"}
        watching.watch_provider(following, {str(file): captured[str(file)].replace(TOKEN.encode(), b"renewed")})
        await until(lambda: server.count("list", "secrets") == 2)
        assert server.asked[-1].token == "renewed"
        assert len(watching.feed_infos()) == 2
        named = Providers(kyma=Kyma(kubernetes=Kubernetes(kubeconfig=str(file)), secrets=("key",)))
        server.put(secret("key", a="b"))
        watching.watch_provider(named, {str(file): captured[str(file)].replace(TOKEN.encode(), b"renewed")})
        await until(lambda: b'"key"' in taken[-1])
        watching.watch_provider(Providers(), captured)
        await until(lambda: server.watches == 0)
        assert watching.feed_infos() == ()
        await all_closed()

    run(work)
