"""The accepted configuration: what is sealed is what is read, in steps that are short, and nobody can change it."""

import os
from collections.abc import Iterator

import pytest

from fastgw.compile import compile
from fastgw.config import load_text
from fastgw.filters import TYPES
from fastgw.node.places import Places
from fastgw.routing import at_once
from fastgw.runtime.accepted import Accepted, accept, seal, unseal, unsealing

ROUTES = 1_000  # several pieces


def configuration(routes: int = ROUTES, upstreams: int = 400) -> bytes:
    lines = ["version: 1", "listeners: {main: {address: 127.0.0.1:0}}", "upstreams:"]
    lines += [f"  u{each}: {{targets: [{{url: 'http://127.0.0.1:9'}}]}}" for each in range(upstreams)]
    lines += ["routes:"]
    lines += [f"  - {{name: r{each}, paths: [/{each}/*], upstream: u{each % upstreams}}}" for each in range(routes)]
    return "\n".join(lines).encode()


@pytest.fixture(scope="module")
def accepted() -> Accepted:
    loaded = load_text(configuration(), "/nowhere/gateway.yaml", TYPES)
    places = compile(loaded.config, 2).places
    return accept(
        loaded, generation=1, date=1.0, source="start", places=places, workers=2, base=None, known_notes=["a"]
    )


@pytest.fixture
def sealed(accepted: Accepted) -> Iterator[int]:
    descriptor = seal(accepted)
    yield descriptor
    os.close(descriptor)


def test_what_is_read_is_what_was_sealed(accepted: Accepted, sealed: int) -> None:
    assert unseal(sealed) == accepted
    assert unseal(sealed).config() == accepted.config()


def test_it_is_read_in_steps(accepted: Accepted, sealed: int) -> None:
    assert sum(1 for _ in unsealing(sealed)) >= 3 * ROUTES / 256


def test_the_reading_can_be_left_at_any_step(sealed: int) -> None:
    for left_at in range(4):
        reading = unsealing(sealed)
        for _ in range(left_at):
            next(reading)
        reading.close()


def test_its_files_can_be_left_out(accepted: Accepted, sealed: int) -> None:
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


def test_what_tables_were_made_from_is_dropped_in_steps(sealed: int) -> None:
    read = unseal(sealed)
    steps = sum(1 for _ in read.emptying())
    assert steps > 3 * ROUTES / 256
    assert not any((read.pickled_routes, read.pickled_upstreams, read.route_names, read.same))
    assert isinstance(read.places, Places)
    assert read.places.targets  # the tables go on with these
