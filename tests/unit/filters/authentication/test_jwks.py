"""Key sets from a provider: when they are fetched, what replaces them, and who waits for them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.settings.gateway import UpstreamTls
from fastgw.errors import Fault
from fastgw.filters.authentication import jwks
from fastgw.filters.authentication.jwks import AWAY_S, EVERY_S, LATEST_S, SOONEST_S, JwksSource, Keyring, good_for
from fastgw.filters.outbound.refresh_throttle import AGAIN_S, BURST
from fastgw.http.fields import Fields
from fastgw.jose import KeySet, UnknownKey, read_set
from fastgw.sync.feeds import Feeds, mark_of
from fastgw.upstream.client.http_client import Fetched, FetchFailed
from tests.support.on_loop import on_loop, turns, until
from tests.support.table import for_each
from tests.support.tokens import key_set, signer

ONE, TWO, THREE = (signer("RS256", name) for name in ("one", "two", "three"))
SOURCE = JwksSource.of(parse_endpoint("https://idp.example/keys?tenant=hidden"), UpstreamTls())
AWAY = FetchFailed(Fault.CONNECT_REFUSED, "https://idp.example: connect_refused")


class Over(Exception):
    """The script has come to its end."""


class Node:
    """Control, played: a clock, a provider that says one thing after the other, workers that ask at instants.

    `lasts`: for so long each fetch; `knows`: what those who ask have; None: what was published last.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        answers: list[Any],
        asks: tuple[float, ...] = (),
        lasts: float = 0.0,
        knows: bytes | None = None,
    ) -> None:
        self.now = 1000.0
        self.answers, self.asks, self.lasts, self.knows = answers, [1000.0 + at for at in asks], lasts, knows
        self.outdated: set[bytes] = set()
        self.feeds = Feeds({}, lambda key, seen: None)
        self.fetched: list[float] = []
        self.published: list[tuple[float, bytes]] = []
        self.went: list[str] = []
        self.fetcher = self
        monkeypatch.setattr(jwks, "monotonic", lambda: self.now)

    async def fetch(self, url: object, **_: object) -> Fetched:
        self.fetched.append(self.now - 1000.0)
        self.now += self.lasts
        if not self.answers:
            raise Over
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Fetched) else Fetched(200, Fields(), answer)

    async def asked(self, timeout: float) -> bool:
        due = self.now + timeout
        if self.asks and self.asks[0] <= due:
            self.now = max(self.now, self.asks.pop(0))
            while timeout == 0 and self.asks and self.asks[0] <= self.now:
                self.asks.pop(0)  # of many who have asked one is told
            self.outdated.add(mark_of(self.feeds[SOURCE.key].value if self.knows is None else self.knows))
            return True
        self.now = due
        return False

    def attempted(self, why: str = "") -> None:
        self.went.append(why)

    def is_outdated(self, value: bytes) -> bool:
        return mark_of(value) in self.outdated

    def publish(self, value: bytes) -> None:
        self.outdated.clear()
        self.feeds.deliver(SOURCE.key, value)
        self.published.append((self.now - 1000.0, value))

    def read(self, path: str) -> bytes:
        raise AssertionError(path)

    def run(self) -> Node:
        with pytest.raises(Over):
            asyncio.run(SOURCE.run(self))  # type: ignore[arg-type]
        return self


def answered(body: bytes, status: int = 200, **fields: str) -> Fetched:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Fetched(status, Fields(lines), body)


def test_keys_are_fetched_at_once_and_then_as_often_as_the_provider_says(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [key_set(ONE), answered(key_set(TWO), cache_control="public, max-age=120"), key_set(TWO)]
    node = Node(monkeypatch, answers).run()
    assert node.fetched == [0.0, EVERY_S, EVERY_S + 120, EVERY_S * 2 + 120]
    assert [value for _, value in node.published] == [key_set(ONE), key_set(TWO), key_set(TWO)]


@for_each(
    ("said", "seconds"),
    [
        (None, EVERY_S),
        (b"", EVERY_S),
        (b"no-store", EVERY_S),
        (b"max-age=300", 300),
        (b"public,max-age=300,must-revalidate", 300),
        (b'private, Max-Age="300"', 300),
        (b"max-age=0", SOONEST_S),
        (b"max-age=99999999", LATEST_S),
        (b"s-max-age=120", EVERY_S),
        (b"max-age=abc", EVERY_S),
        (b"max-age=99999999999999999999", EVERY_S),
    ],
)
def test_how_long_keys_are_good_is_what_cache_control_says_within_bounds(said: bytes | None, seconds: float) -> None:
    assert good_for(said) == seconds


NONSENSE: dict[str, Any] = {
    "away": AWAY,
    "an error": answered(key_set(TWO), status=500),
    "a redirect": answered(key_set(TWO), status=301, location="https://elsewhere.example"),
    "no content": answered(key_set(TWO), status=204),
    "a page": b"<html>maintenance</html>",
    "nothing": b"",
    "an empty object": b"{}",
    "no key": b'{"keys":[]}',
    "a key for encryption": key_set(TWO.jwk | {"use": "enc"}),
    "a shared secret": key_set(signer("HS256", "shared")),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_provider_that_is_away_or_says_nonsense_takes_no_key_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """It is asked again soon, and it is told once, not every time; nothing of the URL's query is told."""
    answer = NONSENSE[name]
    with caplog.at_level(logging.INFO):
        node = Node(monkeypatch, [key_set(ONE), answer, answer, key_set(TWO)]).run()
    assert node.fetched[:4] == [0.0, EVERY_S, EVERY_S + AWAY_S, EVERY_S + 2 * AWAY_S]
    assert [value for _, value in node.published] == [key_set(ONE), key_set(ONE), key_set(ONE), key_set(TWO)]
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [bool(why) for why in node.went[:4]] == [False, True, True, False]
    assert "hidden" not in f"{node.went} {SOURCE.name}"
    assert len(told) == 2
    assert told[0].endswith("the keys fetched last are still used")
    assert told[1].endswith("fetched again")
    assert "hidden" not in caplog.text


def test_keys_that_are_passed_over_are_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        Node(monkeypatch, [key_set(ONE, TWO.jwk | {"use": "enc"})] * 3).run()
    assert caplog.text.count("skipped: key 2 (two): its `use` is not sig") == 1


def test_a_provider_that_was_never_there_is_looked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, [AWAY, AWAY, key_set(ONE)]).run()
    assert [value for _, value in node.published] == [b"", b"", key_set(ONE)]
    assert node.fetched[:3] == [0.0, AWAY_S, 2 * AWAY_S]


def test_who_asks_is_answered_at_once_but_the_provider_is_not_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask: some fetches at once after a quiet time, then one every `AGAIN_S`."""
    asks = tuple(5 + number * 0.5 for number in range(100))  # for 50 seconds
    node = Node(monkeypatch, [key_set(ONE)] * 9, asks).run()
    assert node.fetched[0] == 0.0
    at_once = [at for at in node.fetched[1:] if at < 5 + AGAIN_S - 1]
    assert len(at_once) == BURST
    during = [at for at in node.fetched[1:] if at <= 55]
    assert BURST + 3 <= len(during) <= BURST + 5
    answered = [at for at, _ in node.published]
    assert all(any(0 <= at - ask <= 0.01 for at in answered) for ask in asks)


def test_who_has_not_heard_of_the_newest_keys_has_them_told_and_none_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, [key_set(TWO)] * 2, (5.0, 6.0, 7.0), knows=key_set(ONE)).run()
    assert node.fetched == [0.0, EVERY_S, 2 * EVERY_S]
    assert [at for at, _ in node.published] == [0.0, 5.0, 6.0, 7.0, EVERY_S]


def test_an_answer_that_may_be_older_than_the_question_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody asks while it is on its way, and knows what it says."""
    node = Node(monkeypatch, [key_set(ONE), key_set(ONE), key_set(TWO)], (5.0, 6.0), lasts=2.0).run()
    assert node.fetched[:3] == [0.0, 5.0, 7.0]
    assert node.published[:2] == [(2.0, key_set(ONE)), (9.0, key_set(TWO))]


def test_a_provider_that_is_away_answers_everybody_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked again for those who asked meanwhile, who would wait twice as long for the same."""
    node = Node(monkeypatch, [key_set(ONE), AWAY, key_set(TWO)], (7.0, 8.0), lasts=5.0).run()
    assert node.fetched[:3] == [0.0, 7.0, 12.0 + AWAY_S]
    assert [at for at, _ in node.published[:3]] == [5.0, 12.0, 17.0 + AWAY_S]


def test_who_may_not_have_it_asked_now_has_it_asked_as_soon_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asks = tuple(5.0 + number for number in range(BURST + 1))
    node = Node(monkeypatch, [key_set(ONE)] * (BURST + 2) + [key_set(TWO)], asks, lasts=1.0).run()
    soon = [at for at in node.fetched if at < EVERY_S]
    assert len(soon) == 2 + BURST
    assert 2 * AGAIN_S > soon[-1] - soon[-2] > AGAIN_S / 2


def test_an_answer_that_is_news_answers_who_asked_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, [key_set(ONE), key_set(TWO)], (5.0, 6.0), lasts=2.0).run()
    assert node.fetched[:2] == [0.0, 5.0]
    assert node.fetched[2] > EVERY_S
    assert node.published[:2] == [(2.0, key_set(ONE)), (7.0, key_set(TWO))]


def test_what_the_process_before_has_heard_of_the_provider_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(monkeypatch, [AWAY, key_set(TWO)])
    node.feeds.deliver(SOURCE.key, key_set(ONE))
    with caplog.at_level(logging.WARNING):
        node.run()
    assert [value for _, value in node.published] == [key_set(ONE), key_set(TWO)]
    assert "the keys fetched last are still used" in caplog.text


def test_sources_are_one_if_they_are_fetched_in_the_same_way() -> None:
    url = parse_endpoint("https://idp.example/keys?tenant=hidden")
    assert JwksSource.of(url, UpstreamTls()) == SOURCE
    others = [
        JwksSource.of(parse_endpoint("https://idp.example/keys?tenant=other"), UpstreamTls()),
        JwksSource.of(parse_endpoint("https://idp.example/keys"), UpstreamTls()),
        JwksSource.of(url, UpstreamTls(verify=False)),
    ]
    assert len({each.key for each in (SOURCE, *others)}) == 4
    assert "hidden" not in SOURCE.key


# --- in a worker ---


class Services:
    """`asked`: the key sets that somebody has found wanting, by their marks."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self.asked: list[bytes] = []
        self.feeds = Feeds(values, lambda key, seen: self.asked.append(seen))


@pytest.fixture
def services() -> Services:
    return Services({"k": key_set(ONE)})


def started(services: Any) -> Keyring:
    keyring = Keyring(KeySet(), "k")
    keyring.start(services)
    return keyring


def test_a_keyring_has_what_its_feed_says_and_tells_those_who_remember(services: Any) -> None:
    keyring = started(services)
    told: list[int] = []

    class Policy:
        def keys_changed(self) -> None:
            told.append(len(keyring.keys))

    policy = Policy()
    keyring.on_change(policy.keys_changed)
    assert [key.kid for key in keyring.keys.keys] == ["one"]
    services.feeds.deliver("k", key_set(ONE, TWO))
    assert told == [2]
    services.feeds.deliver("k", key_set(ONE, TWO))
    assert told == [2]
    del policy
    services.feeds.deliver("k", key_set(TWO))
    assert told == [2]
    keyring.start(services)  # another route that shares it
    keyring.stop()
    services.feeds.deliver("k", key_set(ONE))
    assert [key.kid for key in keyring.keys.keys] == ["one"]
    keyring.stop()
    services.feeds.deliver("k", key_set(TWO))
    assert [key.kid for key in keyring.keys.keys] == ["one"]


async def judged_by(keyring: Keyring, kid: str) -> str:
    """The first key of this name, as soon as there is one; "": there is none."""

    def by(keys: KeySet) -> str:
        if not keys.named(kid):
            raise UnknownKey(kid)
        return kid

    try:
        return await keyring.verify_with(by)
    except UnknownKey:
        return ""


async def with_late_ones(services: Any, count: int) -> tuple[Keyring, list[asyncio.Task[str]]]:
    """A keyring whose first question was answered with nothing new after so many had come, who ask once more."""
    keyring = started(services)
    first = asyncio.create_task(judged_by(keyring, "two"))
    await until(lambda: services.asked)
    late = [asyncio.create_task(judged_by(keyring, "two")) for _ in range(count)]
    await turns()
    services.feeds.deliver("k", key_set(ONE))
    assert await first == ""
    await turns()
    assert len(services.asked) == 2
    return keyring, late


@on_loop
async def test_all_who_wait_are_served_by_one_question(services: Any) -> None:
    keyring = started(services)
    waiting = [asyncio.create_task(judged_by(keyring, "two")) for _ in range(50)]
    await until(lambda: services.asked)
    services.feeds.deliver("k", key_set(ONE, TWO))
    assert set(await asyncio.gather(*waiting)) == {"two"}
    assert services.asked == [mark_of(key_set(ONE))]


@on_loop
async def test_nothing_new_is_an_answer_too_but_not_to_who_came_while_it_was_on_its_way(services: Any) -> None:
    keyring, late = await with_late_ones(services, 50)
    services.feeds.deliver("k", key_set(ONE, TWO))
    assert set(await asyncio.gather(*late)) == {"two"}
    assert await judged_by(keyring, "three") == ""  # so soon after nothing new nobody waits again
    assert len(services.asked) == 2


@on_loop
async def test_keys_that_are_news_to_somebody_else_are_not_the_answer(services: Any) -> None:
    """One rotation follows another: what was fetched for the first one does not tell of the second."""
    keyring = started(services)
    waiting = asyncio.create_task(judged_by(keyring, "three"))
    await until(lambda: services.asked)
    services.feeds.deliver("k", key_set(ONE, TWO))
    await until(lambda: len(services.asked) == 2)
    services.feeds.deliver("k", key_set(TWO, THREE))
    assert await waiting == "three"
    assert services.asked == [mark_of(key_set(ONE)), mark_of(key_set(ONE, TWO))]


@on_loop
async def test_whoever_is_let_in_by_none_waits_for_two_answers_at_most(services: Any) -> None:
    """Also where a provider orders its keys in another way each time."""
    keyring = started(services)
    waiting = asyncio.create_task(judged_by(keyring, "three"))
    for order in ((ONE, TWO), (TWO, ONE)):
        before = len(services.asked)
        await until(lambda before=before: len(services.asked) > before)
        services.feeds.deliver("k", key_set(*order))
    assert await waiting == ""
    assert len(services.asked) == 2


@on_loop
async def test_without_an_answer_nobody_waits_longer_because_he_was_late(
    services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.05)
    keyring = started(services)
    first = asyncio.create_task(judged_by(keyring, "two"))
    await until(lambda: services.asked)
    late = asyncio.create_task(judged_by(keyring, "two"))
    assert await asyncio.gather(first, late) == ["", ""]
    assert len(services.asked) == 1


@on_loop
async def test_a_filter_that_is_stopped_meanwhile_lets_its_last_tokens_wait_to_their_end(services: Any) -> None:
    keyring = started(services)
    waiting = [asyncio.create_task(judged_by(keyring, "two")) for _ in range(2)]
    await until(lambda: services.asked)
    keyring.stop()
    for count in (1, 2):
        await until(lambda count=count: len(services.asked) == count)
        await turns()
        services.feeds.deliver("k", key_set(ONE))
    assert await asyncio.gather(*waiting) == ["", ""]


@on_loop
async def test_who_comes_while_a_late_question_is_under_way_has_its_answer(services: Any) -> None:
    """Though nobody asks anew so soon after nothing new."""
    keyring, late = await with_late_ones(services, 1)
    last = asyncio.create_task(judged_by(keyring, "two"))
    await turns()
    services.feeds.deliver("k", key_set(ONE, TWO))
    assert await asyncio.gather(*late, last) == ["two", "two"]
    assert len(services.asked) == 2


@on_loop
async def test_who_hears_of_new_keys_when_about_to_ask_asks_nobody(services: Any) -> None:
    keyring = started(services)
    waiting = asyncio.create_task(judged_by(keyring, "two"))
    await asyncio.sleep(0)  # it has made up its mind
    services.feeds.deliver("k", key_set(ONE, TWO))
    assert await waiting == "two"
    assert services.asked == []


def test_who_waits_in_vain_does_not_wait_for_ever(services: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.01)
    monkeypatch.setattr(jwks, "REST_S", -1.0)

    async def played() -> None:
        keyring = started(services)
        await judged_by(keyring, "two")
        await judged_by(keyring, "two")

    asyncio.run(played())
    assert len(services.asked) == 2


def test_keys_of_a_file_are_asked_of_nobody() -> None:
    keyring = Keyring(read_set(key_set(ONE)))
    keyring.start(Services({}))  # type: ignore[arg-type]
    assert asyncio.run(judged_by(keyring, "two")) == ""
    keyring.stop()
    assert len(keyring.keys) == 1
