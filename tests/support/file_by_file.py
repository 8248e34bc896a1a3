"""Workers of pytest-xdist that collect the tests of a file when its turn comes, not those of all files at the start.

xdist hands out numbers of tests, and each worker collects all tests to know them: 9 s of processor time for each of
four workers. Here the numbers are those of files. A worker collects a file before the tests of the one before it run,
so that pytest sees what comes next, and what a session shares lives to its end. If a worker ends at the import of a
file, xdist therefore names the one before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

import pytest
from _pytest.runner import collect_one_node
from xdist.remote import WorkerInteractor

from tests.support.collector import freeze_what_is_there


def files_below(node: pytest.Item | pytest.Collector) -> Iterator[pytest.Item | pytest.Collector]:
    """Yield the files of a folder, at any depth, without their tests; or what else the command line names."""
    if not isinstance(node, pytest.Directory):
        yield node
        return
    for each in collect_one_node(node).result:
        yield from files_below(each)


class FileByFile:
    """Plugin of a worker. `interactor`: xdist's own plugin there, which speaks to the process that hands out.

    `long`: names of the files that take the longest, in this order. The last to begin would keep all others waiting.
    """

    def __init__(self, interactor: WorkerInteractor, long: Sequence[str]) -> None:
        self._interactor, self._long = interactor, long
        self._files: list[pytest.Item | pytest.Collector] | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Collect the files alone."""
        session.perform_collect(genitems=False)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Take the folders that pytest has collected, the first time, for the files below them."""
        if self._files is None:
            self._files = self._in_order([each for folder in items for each in files_below(folder)])
            items.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Name the files to xdist; none, if what the command line names is not there."""
        session.items = self._files or []  # type: ignore[assignment]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests of each file whose number comes."""
        interactor = self._interactor
        interactor.channel.setcallback(interactor.handle_command, endmarker=("shutdown", {}))
        number, items = self._next_file(session)
        while items:
            next_number, next_items = self._next_file(session)
            session.items = items
            begun_at = time.perf_counter()
            what_follows = [*items[1:], next_items[0] if next_items else None]
            for interactor.item_index, (item, nextitem) in enumerate(zip(items, what_follows, strict=True)):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
                if session.shouldfail or session.shouldstop:
                    return True
            self._tell_complete(number, time.perf_counter() - begun_at)
            number, items = next_number, next_items
        return True

    def _next_file(self, session: pytest.Session) -> tuple[int, list[pytest.Item]]:
        """Return number and tests of the next file of which tests are selected; no tests at the end."""
        while self._files is not None and isinstance(number := self._interactor.torun.get(), int):
            items = [*session.genitems(self._files[number])]
            session.config.hook.pytest_collection_modifyitems(session=session, config=session.config, items=items)
            freeze_what_is_there()
            if items:
                return number, items
            self._tell_complete(number, 0.0)
        return -1, []

    def _tell_complete(self, number: int, duration: float) -> None:
        self._interactor.sendevent("runtest_protocol_complete", item_index=number, duration=duration)

    def _in_order(self, files: list[Any]) -> list[Any]:
        """Return files in the order in which they are handed out: the longest first, then the largest.

        Each worker is given two at the start, so behind each of the longest there is one of the smallest.
        """
        place = {name: number for number, name in enumerate(self._long)}
        files = sorted(files, key=lambda file: (place.get(file.path.name, len(place)), -file.path.stat().st_size))
        longest = [file for file in files if file.path.name in place]
        rest = files[len(longest) :]
        smallest = [rest.pop() for _ in zip(longest, files[len(longest) :], strict=False)]
        return [each for each in chain(*zip_longest(longest, smallest)) if each is not None] + rest
