"""A gateway in front of a real nginx and a real uvicorn, for as long as the run lasts."""

from __future__ import annotations

import contextlib
import random
import resource
from collections.abc import Iterator

import pytest

from tests.e2e.programs import Nginx, Uvicorn
from tests.e2e.service import service
from tests.e2e.slow import Slow
from tests.support.gateway import Gateway

_random = random.Random(2)
FILES = {"page.txt": _random.randbytes(200_000).hex(" ", 8).encode(), "empty.txt": b""}
FILES["random.bin"] = _random.randbytes(3_000_000)


def pytest_itemcollected(item: pytest.Item) -> None:
    """An end-to-end test is in `make test-all` alone, unless it says that it is in `make test` as well."""
    if item.get_closest_marker("landing") is None:
        item.add_marker("extended")


@pytest.fixture(scope="session", autouse=True)
def _many_files() -> None:
    """Crowds of clients and origins are in this process: let it open what the system allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="session")
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def nginx(stack: contextlib.ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Nginx:
    """It serves FILES, and takes new ones under /put/."""
    nginx = stack.enter_context(Nginx(tmp_path_factory.mktemp("nginx")))
    for name, content in FILES.items():
        (nginx.www / name).write_bytes(content)
    return nginx


@pytest.fixture(scope="session")
def uvicorn(stack: contextlib.ExitStack) -> Uvicorn:
    return stack.enter_context(Uvicorn(service))


@pytest.fixture(scope="session")
def front(
    stack: contextlib.ExitStack, nginx: Nginx, uvicorn: Uvicorn, tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    """Two workers; one listener for each origin, named after it."""
    return stack.enter_context(Gateway(fronting(nginx=nginx.url, uvicorn=uvicorn.url), tmp_path_factory.mktemp("gw")))


@pytest.fixture
def slow() -> Iterator[Slow]:
    with Slow() as slow:
        yield slow


def fronting(workers: int = 2, **origins: str) -> dict[str, object]:
    """A configuration with a listener and a route for each origin."""
    return {
        "workers": workers,
        "listeners": {name: {"address": "127.0.0.1:0"} for name in origins},
        "routes": [{"name": name, "listeners": [name], "upstream": url} for name, url in origins.items()],
    }
