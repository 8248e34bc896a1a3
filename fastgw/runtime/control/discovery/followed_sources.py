"""Followed sources of the control process: secrets of Vault and lists of service discovery, once for the node.

The value of a source becomes the content of a file of the configuration, and reaches the workers like a changed file.
Rule 1: a failure changes nothing; the last content stays. Rule 2: failures are repeated with an increasing, randomized
delay. Rule 3: each source is by itself: one that hangs or is unreachable never delays another.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from fastgw.admin.node_interface import FeedInfo
from fastgw.config.base.problems import VAULT, shown_file
from fastgw.config.decoding.followed_services import services_of
from fastgw.config.settings.vault import Vault
from fastgw.config.sources.followed_files import FollowedFile, followed_in, is_followed
from fastgw.config.sources.virtual_files import forget, set_content
from fastgw.operator_events import OperatorEvent, OutageReports
from fastgw.operator_log import described, notice
from fastgw.runtime.node.config_snapshot import ConfigSnapshot

FIRST_BACKOFF_S: Final = 0.5
MOST_BACKOFF_S: Final = 30.0
EVERY_S: Final = 0.2
"""Minimum interval between two lists of one source."""
FINISHED_S: Final = 0.5
"""Seconds that the end of the process waits for all services together."""
WELL_S: Final = 10.0
"""Seconds after which a source that works again begins with the shortest delay at its next failure."""


class SourceReport:
    """State of one source, for the admin API, metrics and the log, which has each cause of an outage."""

    def __init__(self, feed: str) -> None:
        self.info = FeedInfo(feed, None, "")
        self._reports = OutageReports()
        self._partial = ""
        """Error of a part of the last success."""

    def succeeded(self, problem: str = "") -> None:
        """Record a success. `problem`: error of a part of it."""
        was_down = self._reports.has_ended()
        if problem:
            if was_down or problem != self._partial:
                notice(OperatorEvent.FEED_FAILED, f"{self.info.feed}: {problem}")
        elif was_down or self._partial:
            notice(OperatorEvent.FEED_BACK, f"{self.info.feed}: reachable again")
        self._partial = problem
        self.info = FeedInfo(self.info.feed, time.time(), problem)

    def failed(self, why: str) -> None:
        """Record a failure."""
        # The part of a success that failed is tried again by itself: its error is in the log already.
        if why != self._partial and self._reports.is_due(why, time.monotonic()):
            notice(OperatorEvent.FEED_FAILED, f"{self.info.feed}: {why}; the last known content stays in use")
        self.info = FeedInfo(self.info.feed, self.info.last_success_date, why)


class Backoff:
    """Increasing, randomized delay between attempts that fail. `most`: the longest in seconds."""

    def __init__(self, most: float = MOST_BACKOFF_S) -> None:
        self._first, self._most = min(FIRST_BACKOFF_S, most), min(MOST_BACKOFF_S, most)
        self._seconds = self._first
        self._well_at = 0.0

    def succeeded(self) -> None:
        """Record that the source works."""
        now = time.monotonic()
        self._well_at = self._well_at or now
        if now - self._well_at >= WELL_S:
            self._seconds = self._first

    def failed(self) -> float:
        """Return the seconds until the next attempt."""
        seconds = self._seconds * random.uniform(0.5, 1.0)
        self._seconds = min(self._most, 2 * self._seconds)
        self._well_at = 0.0
        return seconds


class _Follower:
    """Follows one service, or one list of it. `publish`: sets the content of a file; `most_backoff`: longest delay
    after a failure in seconds.
    """

    def __init__(self, feed: str, publish: Callable[[str, bytes], None], most_backoff: float = MOST_BACKOFF_S) -> None:
        self.report = SourceReport(feed)
        self._publish = publish
        self._backoff = Backoff(most_backoff)
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._keep_following()
        finally:
            await self._end()

    async def _keep_following(self) -> None:
        from fastgw.discovery.http_client import SourceFailed

        while True:
            try:
                await self._follow_service()
            except SourceFailed as error:
                self.report.failed(str(error))
            except Exception as error:  # the edge of a task: a defect is reported, and the source is followed again
                notice(OperatorEvent.DEFECT, f"{self.report.info.feed}: {described(error)}")
                self.report.failed(type(error).__name__)
            await asyncio.sleep(self._backoff.failed())

    async def _follow_service(self) -> None:
        """Follow until `SourceFailed` is raised."""
        raise NotImplementedError

    async def _end(self) -> None:
        """Give back what the service holds for this follower, within a bounded time."""

    def stop(self) -> asyncio.Task[None]:
        """Follow the service no longer. Returns the task, which ends soon."""
        self._running.cancel()
        return self._running


class _ListFollower(_Follower):
    """Follows one list of targets."""

    def __init__(
        self, file: FollowedFile, settings: Any, files: Mapping[str, bytes], publish: Callable[[str, bytes], None]
    ) -> None:
        from fastgw.discovery.sources import target_source

        self._file = file
        self._source = target_source(file, settings, files)
        super().__init__(shown_file(file.name), publish)

    async def _follow_service(self) -> None:
        async with aclosing(self._source.follow_list()) as lists:  # type: ignore[type-var]  # an async generator
            async for each in lists:
                self._backoff.succeeded()
                self.report.succeeded(each.problem)
                self._publish(self._file.name, each.content)
                await asyncio.sleep(EVERY_S)


class _VaultFollower(_Follower):
    """Follows the secrets that a configuration names. `names`: of their files."""

    def __init__(
        self,
        settings: Vault,
        names: Collection[str],
        files: Mapping[str, bytes],
        publish: Callable[[str, bytes], None],
    ) -> None:
        from fastgw.discovery.sources import vault_session
        from fastgw.discovery.vault import VaultFiles

        self._interval = settings.interval
        self._names = sorted(names)
        self._session = vault_session(settings, files)
        self._files = VaultFiles(self._session)
        super().__init__(f"{VAULT}: {settings.address}", publish, settings.interval)

    async def _end(self) -> None:
        await self._session.revoke()

    async def _follow_service(self) -> None:
        """Read all secrets after each interval, and in between those that could not be read."""
        while True:
            until = time.monotonic() + self._interval * random.uniform(0.9, 1.1)
            names = self._names
            while names:
                problems = await self._fetch(names)
                again_at = until
                if problems:
                    again_at = min(until, time.monotonic() + self._backoff.failed())
                else:
                    self._backoff.succeeded()
                await self._hold_token(again_at)
                names = sorted(problems) if again_at < until else []

    async def _fetch(self, names: Collection[str]) -> Mapping[str, str]:
        """Fetch secrets, and return why others cannot be fetched. Raises `SourceFailed` if no secret can be."""
        from fastgw.discovery.http_client import SourceFailed

        contents, problems = await self._files.fetch([*names])
        for name, content in contents.items():
            self._publish(name, content)
        problem = "; ".join(sorted(set(problems.values())))  # in one order: another text is another line of the log
        if len(problems) == len(self._names):
            raise SourceFailed(problem)
        if contents:
            self.report.succeeded(problem)
        else:
            self.report.failed(problem)
        return problems

    async def _hold_token(self, until: float) -> None:
        """Keep the token valid until a time. Raises `SourceFailed`."""
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, max(self._session.wait, EVERY_S)))
            await self._session.keep_token()


class FollowedSources:
    """Follows the services of the active configuration. `look_at_files`: activates changed contents."""

    def __init__(self, look_at_files: Callable[[], Awaitable[None]]) -> None:
        self._look_at_files = look_at_files
        self._following: dict[str, tuple[object, _Follower]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False

    def use_configuration(self, accepted: ConfigSnapshot) -> None:
        """Follow what this configuration names; unchanged sources with unchanged credentials continue."""
        names = [name for name in accepted.captured if is_followed(name)]
        forget(lambda name: is_followed(name) and name not in accepted.captured)
        if not names and not self._following:
            return
        services = services_of(accepted.settings)
        wanted: dict[str, tuple[object, Callable[[], _Follower]]] = {}
        of_vault = sorted(name for name in names if followed_in(name).kind == VAULT)
        if of_vault and VAULT in services:
            settings = services[VAULT]
            identity = settings, of_vault, _held(settings, accepted.captured)
            wanted[VAULT] = identity, lambda: _VaultFollower(settings, of_vault, accepted.captured, self._publish)
        for name in names:
            file = followed_in(name)
            if file.kind != VAULT and file.kind in services:
                wanted[name] = self._list_follower(file, services[file.kind], accepted.captured)
        for name in [
            name for name, (key, _) in self._following.items() if name not in wanted or wanted[name][0] != key
        ]:
            self._stop_follower(self._following.pop(name)[1])
        for name, (key, begin) in wanted.items():
            if name not in self._following:
                self._following[name] = key, begin()

    def _list_follower(
        self, file: FollowedFile, settings: Any, files: Mapping[str, bytes]
    ) -> tuple[object, Callable[[], _Follower]]:
        return (settings, _held(settings, files)), lambda: _ListFollower(file, settings, files, self._publish)

    def feed_infos(self) -> Sequence[FeedInfo]:
        """Return the states of the sources."""
        return [follower.report.info for _, follower in self._following.values()]

    def stop(self) -> None:
        """Follow nothing any more. Values that services hold for the followers, such as tokens, are given back."""
        for _, follower in self._following.values():
            self._stop_follower(follower)
        self._following.clear()
        if self._looking is not None:
            self._looking.cancel()

    async def finish(self) -> None:
        """Wait after `stop` until the services have got back what they held, but for `FINISHED_S` at most: the
        supervisor kills a process that waits for a silent service.
        """
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=FINISHED_S)
            for task in late:
                task.cancel()

    def _stop_follower(self, follower: _Follower) -> None:
        ending = follower.stop()
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _publish(self, name: str, content: bytes) -> None:
        if set_content(name, content):
            self._look_again = True
            if self._looking is None or self._looking.done():
                self._looking = asyncio.get_running_loop().create_task(self._activate_contents())

    async def _activate_contents(self) -> None:
        while self._look_again:
            self._look_again = False
            await self._look_at_files()


def _held(settings: Any, files: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """Return the files that settings name, such as those of tokens and certificates, with their contents."""
    from fastgw.discovery.sources import files_in

    return [(name, files[name]) for name in files_in(settings) if name in files]
