"""Control's part of a reload: read, check in full, try to compile, and propose to the supervisor what has passed.

What takes long runs in a thread, so that probes and metrics are answered meanwhile. One change at a time; who asks for
the file while one is under way gets the outcome of the next, which reads what the file says then.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence

from fastgw import config
from fastgw.admin.node import Committed, Outcome, Reason
from fastgw.compile import CompileError, compile
from fastgw.config import ConfigError, Loaded, Problem
from fastgw.config.files import LARGEST, read_file
from fastgw.config.spots import Flaw
from fastgw.diff import as_text, differences
from fastgw.filters import TYPES
from fastgw.node.places import CannotPlace
from fastgw.observe.sink import why_not
from fastgw.runtime.accepted import Accepted, accept, seal
from fastgw.runtime.capacity import auto_workers, usable_cpus
from fastgw.runtime.channel import Channel, Origin, Propose, Rejected
from fastgw.runtime.channel import Outcome as Verdict
from fastgw.runtime.commons import Commons, Record
from fastgw.runtime.notices import notice
from fastgw.runtime.reloading import KEPT, RECORDS, told


class Proposals:
    """`commons`: as at our birth. What has been accepted since is kept here."""

    def __init__(self, commons: Commons, channel: Channel) -> None:
        self._commons = commons
        self._channel = channel
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[Outcome] | None = None
        self._answer: asyncio.Future[Verdict] | None = None
        self.current = commons.sealed.accepted
        self.config = self.current.config()
        self.records = [*commons.records]
        self.on_accept: Callable[[Accepted], None] = lambda accepted: None
        """Told of a document before it is proposed."""
        self._kept = {sealed.generation: sealed.accepted for sealed in commons.kept}

    async def reload(self, source: Origin) -> Outcome:
        """Take what the file says."""
        if self._next is None:
            self._next = asyncio.create_task(self._reload(source))
        return await asyncio.shield(self._next)

    async def _reload(self, source: Origin) -> Outcome:
        async with self._lock:
            self._next = None  # who asks from here on may mean a later state of the file
            return await self._offer(lambda: config.load(self.current.file, TYPES), source)

    async def apply(self, text: bytes, suffix: str, dry_run: bool) -> Outcome:
        """Take this text in place of the main file."""
        name = os.path.splitext(self.current.file)[0] + suffix
        async with self._lock:
            return await self._offer(lambda: config.load_text(text, name, TYPES), "api", dry_run)

    async def refresh(self) -> Outcome:
        """Take the present contents of the files that the configuration names, and of nothing else."""
        async with self._lock:
            return await self._offer(self._load_captured, "file")

    def _load_captured(self) -> Loaded:
        captured = {}
        for path in self.current.captured:
            try:
                captured[path] = read_file(path, LARGEST)
            except OSError as error:
                raise ConfigError([Problem(path, 0, 0, "", f"cannot be read: {error.strerror}")]) from error
            except Flaw as flaw:
                raise ConfigError([Problem(path, 0, 0, "", flaw.wrong)]) from flaw
        return config.load_sources(self.current.sources, captured, TYPES)

    async def rollback(self, generation: int | None) -> Outcome:
        """Go back to a generation that is kept; None: the one before."""
        async with self._lock:
            wanted = self._kept.get(max(self._kept, default=0) if generation is None else generation)
            if wanted is None:
                kept = ", ".join(map(str, sorted(self._kept))) or "none"
                return self._refused("rejected", f"that generation is not kept; there are: {kept}")
            return await self._offer(lambda: config.load_sources(wanted.sources, wanted.captured, TYPES), "rollback")

    def conclude(self, outcome: Verdict) -> None:
        """The supervisor's answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(outcome)

    async def _offer(self, load: Callable[[], Loaded], source: Origin, dry_run: bool = False) -> Outcome:
        try:
            loaded, accepted = await asyncio.to_thread(self._make, load, source)
        except ConfigError as error:
            return self._rejected(error.problems, source, dry_run)
        except (CompileError, CannotPlace) as error:
            return self._rejected([Problem(self.current.file, 0, 0, "", str(error))], source, dry_run)
        if dry_run:
            return self._dry(loaded)
        self.on_accept(accepted)
        descriptor = seal(accepted)
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._channel.send(Propose(generation=accepted.generation, source=source), [descriptor])
        finally:
            os.close(descriptor)
        answer = await self._answer
        summary = told(answer) if answer.ok else f"not reloaded, generation {answer.generation} stays: {answer.why}"
        self._remember(answer.ok, answer.generation, source, summary)
        if answer.ok:
            self._keep(accepted, loaded)
        return Outcome(
            ok=answer.ok,
            generation=answer.generation,
            workers=Committed(answer.committed, answer.workers),
            listeners_added=answer.listeners_added,
            listeners_removed=answer.listeners_removed,
            workers_restarted=answer.workers_restarted,
            summary=summary,
            reason="" if answer.ok else "failed",
        )

    def _make(self, load: Callable[[], Loaded], source: Origin) -> tuple[Loaded, Accepted]:
        """In a thread. Raises `ConfigError`, `CompileError`, `CannotPlace`."""
        loaded = load()
        settings = loaded.config
        workers = auto_workers(usable_cpus()) if settings.workers == "auto" else settings.workers
        for place, access_log in enumerate(settings.access_logs):
            if why := why_not(access_log.sink):
                raise ConfigError([Problem(self.current.file, 0, 0, f"access_logs[{place}].sink", why)])
        gateway = compile(settings, workers)
        commons = self._commons
        commons.words.check(commons.shared, settings.limits)
        generation = self.current.generation + 1
        places = self.current.places.following(
            gateway.names, generation, commons.words.oldest_generation(commons.shared), self._is_held
        )
        return loaded, accept(
            loaded,
            generation=generation,
            date=time.time(),
            source=source,
            places=places,
            workers=workers,
            base=self.config,
        )

    def _is_held(self, place: int) -> bool:
        return self._commons.words.targets.is_held(self._commons.shared, place)

    def _keep(self, accepted: Accepted, loaded: Loaded) -> None:
        self._kept[self.current.generation] = self.current
        for generation in sorted(self._kept)[:-KEPT]:
            del self._kept[generation]
        self.current, self.config = accepted, loaded.config

    def _remember(self, ok: bool, generation: int, source: Origin, summary: str) -> None:
        self.records = [*self.records, Record(generation, time.time(), ok, source, summary)][-RECORDS:]

    def _rejected(self, problems: Sequence[Problem], source: Origin, dry_run: bool) -> Outcome:
        """Tell everything that is wrong, here and to whoever asked."""
        why = str(problems[0]) if len(problems) == 1 else f"{problems[0]} (and {len(problems) - 1} more)"
        if not dry_run:
            for problem in problems:
                notice(str(problem))
            self._remember(False, self.current.generation, source, why)
            self._channel.send(Rejected(generation=self.current.generation, source=source, why=why[:1000]))
        stays = self.current.generation
        text = "the configuration is wrong" if dry_run else f"not reloaded: generation {stays} stays"
        return Outcome(
            ok=False,
            generation=stays,
            workers=Committed(0, self._commons.workers),
            summary=text,
            problems=problems,
            reason="rejected",
        )

    def _dry(self, loaded: Loaded) -> Outcome:
        """What it would change."""
        changes = as_text(differences(self.config, loaded))
        stays = self.current.generation
        return Outcome(ok=True, generation=stays, workers=Committed(0, self._commons.workers), summary=changes)

    def _refused(self, reason: Reason, summary: str) -> Outcome:
        stays, workers = self.current.generation, Committed(0, self._commons.workers)
        return Outcome(ok=False, generation=stays, workers=workers, summary=summary, reason=reason)
