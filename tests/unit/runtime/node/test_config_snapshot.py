"""The accepted configuration: what is sealed is what is read, in steps that are short, and nobody can change it."""

import fcntl
import os
from collections.abc import Iterator

import msgspec
import pytest
from msgspec.structs import replace

from fastgw.config import Remembered, load_text
from fastgw.config.base.settings_codec import decode_object
from fastgw.filters import TYPES
from fastgw.filters.api import FeedSource, NodeSide
from fastgw.gateway.compiler import building, compile
from fastgw.routing.table import at_once
from fastgw.runtime.node.config_snapshot import (
    FORMAT,
    NEW,
    ConfigSnapshot,
    FeedsKept,
    PreviousGeneration,
    accept,
    seal,
    unseal,
    unsealing,
)
from fastgw.runtime.node.node_state import Sealed
from fastgw.shm.slot_assignment import SlotTable

ROUTES = 1_000  # several pieces


def configuration(routes: int = ROUTES, upstreams: int = 400) -> bytes:
    lines = ["version: 1", "listeners: {main: {address: 127.0.0.1:0}}", "upstreams:"]
    lines += [f"  u{each}: {{targets: [{{url: 'http://127.0.0.1:9'}}]}}" for each in range(upstreams)]
    lines += ["routes:"]
    lines += [f"  - {{name: r{each}, paths: [/{each}/*], upstream: u{each % upstreams}}}" for each in range(routes)]
    return "\n".join(lines).encode()


@pytest.fixture(scope="module")
def accepted() -> ConfigSnapshot:
    loaded = load_text(configuration(), "/nowhere/gateway.yaml", TYPES)
    slot_table = compile(loaded.config, 2).slot_table
    return accept(
        loaded, generation=1, date=1.0, source="start", slot_table=slot_table, workers=2, base=None, known_notes=["a"]
    )


@pytest.fixture
def sealed(accepted: ConfigSnapshot) -> Iterator[int]:
    descriptor = seal(accepted)
    yield descriptor
    os.close(descriptor)


def test_what_is_read_is_what_was_sealed(accepted: ConfigSnapshot, sealed: int) -> None:
    assert unseal(sealed) == accepted
    assert unseal(sealed).config() == accepted.config()


def test_what_is_the_same_is_taken_from_the_generation_before_it(accepted: ConfigSnapshot) -> None:
    changed = (
        configuration()
        .replace(b"paths: [/7/*]", b"paths: [/seven/*]")
        .replace(b"u3: {targets: [{url: 'http://127.0.0.1:9'", b"u3: {targets: [{url: 'http://127.0.0.1:8'")
    )
    loaded = load_text(changed, "/nowhere/gateway.yaml", TYPES)
    base = PreviousGeneration(accepted, accepted.config())
    following = accept(
        loaded, generation=2, date=2.0, source="api", slot_table=accepted.slot_table, workers=2, base=base
    )
    assert [at for at, same in enumerate(following.same) if same != at] == [7]
    assert following.same[7] == NEW
    assert following.config() == replace(loaded.config, consumers=())
    assert following.config().upstreams["u3"] != accepted.config().upstreams["u3"]


def test_it_is_read_in_steps(accepted: ConfigSnapshot, sealed: int) -> None:
    assert sum(1 for _ in unsealing(sealed)) >= 3 * ROUTES / 256


def test_the_reading_can_be_left_at_any_step(sealed: int) -> None:
    for left_at in range(4):
        reading = unsealing(sealed)
        for _ in range(left_at):
            next(reading)
        reading.close()


def test_its_files_can_be_left_out(accepted: ConfigSnapshot, sealed: int) -> None:
    """A worker has no use for them."""
    read = at_once(unsealing(sealed, sources=False))
    assert (read.sources, accepted.sources[0].text) == ([], configuration())
    assert read.route_names == accepted.route_names


def test_nobody_can_change_it(sealed: int) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(sealed, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(sealed, 1)


def test_what_could_be_changed_is_not_read() -> None:
    descriptor = os.memfd_create("open", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, b"x")
        with pytest.raises(ValueError, match="not sealed"):
            unseal(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("begins", [b"", b"x", b"fastgw configuration 2\n", b"\x80\x04\x95", FORMAT[:-1]])
def test_the_format_of_another_version_is_refused(begins: bytes, accepted: ConfigSnapshot) -> None:
    whole = seal(accepted)
    descriptor = os.memfd_create("other", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, begins + os.pread(whole, 1 << 30, len(FORMAT)))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.fcntl(whole, fcntl.F_GET_SEALS))
        with pytest.raises(ValueError, match="in the format of another version of fastgw"):
            unseal(descriptor)
    finally:
        os.close(descriptor)
        os.close(whole)


def test_a_part_that_could_not_be_read_is_not_sealed() -> None:
    """It is told where the configuration is accepted, and not when a worker dies."""
    loaded = load_text(configuration(1, 1), "/nowhere/gateway.yaml", TYPES)
    (route,) = loaded.config.routes
    odd = replace(loaded.config, routes=(replace(route, name=7),))
    with pytest.raises(msgspec.ValidationError, match=r"Expected `str`, got `int` - at `\$.name`"):
        accept(
            replace(loaded, config=odd),
            generation=1,
            date=1.0,
            source="start",
            slot_table=SlotTable(),
            workers=1,
            base=None,
        )


class OddSource(FeedSource, frozen=True, kw_only=True):
    """A source with something that no annotation tells of."""

    what: complex

    async def run(self, node: NodeSide) -> None:
        raise NotImplementedError


class NamelessSource(FeedSource, frozen=True, kw_only=True):
    """A source that is not what its annotations say."""

    count: int

    async def run(self, node: NodeSide) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    "source",
    [OddSource(key="k", what=1j), NamelessSource(key="k", count="none")],  # type: ignore[arg-type]
)
def test_a_source_that_could_not_be_read_is_not_sealed(source: FeedSource) -> None:
    with pytest.raises((TypeError, msgspec.ValidationError)):
        FeedsKept().packed(source)


def test_what_tables_were_made_from_is_dropped_in_steps(sealed: int) -> None:
    read = unseal(sealed)
    steps = sum(1 for _ in read.emptying())
    assert steps > 3 * ROUTES / 256
    assert not any((read.encoded_routes, read.encoded_upstreams, read.route_names, read.same))
    assert isinstance(read.slot_table, SlotTable)
    assert read.slot_table.targets  # the tables go on with these


def test_upstreams_that_have_not_changed_are_taken_without_a_look(accepted: ConfigSnapshot) -> None:
    """Not even unpacked: there may be thousands."""
    before = compile(accepted.config(), 2)
    loaded = load_text(
        configuration().replace(
            b"u3: {targets: [{url: 'http://127.0.0.1:9'", b"u3: {targets: [{url: 'http://127.0.0.1:8'"
        ),
        "/nowhere/gateway.yaml",
        TYPES,
    )
    base = PreviousGeneration(accepted, accepted.config())
    following = accept(
        loaded, generation=2, date=2.0, source="api", slot_table=accepted.slot_table, workers=2, base=base
    )
    assert following.changed_upstreams == ["u3"]
    following.encoded_upstreams |= dict.fromkeys(following.encoded_upstreams.keys() - {"u3"}, b"nothing")
    after = at_once(building(following.plan, 2, before))
    assert {name for name in before.upstreams if after.upstreams[name] is not before.upstreams[name]} == {"u3"}
    assert after.upstreams["u3"].targets[0].port == 8
    with pytest.raises(msgspec.DecodeError):  # who has another generation has to look
        at_once(building(following.plan, 2, None))


def test_the_supervisor_keeps_what_it_needs_and_reads_the_rest_for_its_children(accepted: ConfigSnapshot) -> None:
    sealed = Sealed.of(
        replace(
            accepted,
            feeds={"key": b"source"},
            encoded_routes=[*accepted.encoded_routes],
            encoded_upstreams={**accepted.encoded_upstreams},
            route_names=[*accepted.route_names],
        )
    )
    try:
        whole = sealed.whole()
        lean = at_once(unsealing(sealed.descriptor, tables=False))
        for kept in (sealed.accepted, lean):
            assert not any((kept.encoded_routes, kept.encoded_upstreams, kept.route_names, kept.same))
            assert (kept.slot_table, kept.captured, kept.sources) == (whole.slot_table, whole.captured, whole.sources)
            assert kept.feeds == {"key": b""}  # which there are
        assert (whole.config(), whole.feeds) == (accepted.config(), {"key": b"source"})
    finally:
        os.close(sealed.descriptor)


def of_services(clients: dict[str, str], more: str = "") -> bytes:
    """An application for each of these clients."""
    oauth2 = 'type: oauth2, token_url: "https://idp.example/token", client_secret: s'
    apps = (
        f"{app}: {{it: {{url: 'http://{app}.example', credentials: {{{oauth2}, client_id: {client}}}}}}}"
        for app, client in clients.items()
    )
    listeners = "listeners: {main: {address: 127.0.0.1:0}}"
    return f"version: 1\n{listeners}\negress: {{{more} apps: {{{', '.join(apps)}}}}}\n".encode()


def test_what_is_fetched_for_filters_is_remembered_as_long_as_they_are_the_same() -> None:
    remembered, feeds = Remembered(), FeedsKept()
    base: PreviousGeneration | None = None
    for number, text in enumerate(
        (
            of_services({"a": "one", "b": "two"}),
            of_services({"a": "one", "b": "three"}),
            of_services({"b": "three"}),
            of_services({"b": "three"}, "target_errors: pass,"),
            of_services({"b": "one", "c": "one"}),
        ),
        1,
    ):
        loaded = load_text(text, "/nowhere/gateway.yaml", TYPES, "", {}, remembered)
        of = {"generation": number, "date": 1.0, "source": "api", "slot_table": SlotTable(), "workers": 1}
        made = accept(loaded, base=base, **of)
        again = accept(loaded, base=None, **of)
        assert (made.feeds, made.lazy_feeds.keys(), made.feed_users) == (
            again.feeds,
            again.lazy_feeds.keys(),
            again.feed_users,
        )
        assert {key: decode_object(each, FeedSource) for key, each in made.lazy_feeds.items()} == {
            key: decode_object(each, FeedSource) for key, each in again.lazy_feeds.items()
        }
        base = PreviousGeneration(made, loaded.config, feeds)
    assert len([*feeds.wanted.values()]) == 2
