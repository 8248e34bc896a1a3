"""Proposer: control's part of a reload: read, validate and compile a configuration, and propose it to the supervisor.

Long work runs in a thread, so that probes and metrics are answered. One change at a time; a request for the file during
a change gets the result of the next one, which reads the file after the request.
"""

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Final

import msgspec

from fastgw import config
from fastgw.admin.node_interface import Committed, KeptFile, Outcome, OverBound, Reason, Stale
from fastgw.audit.chain import TEXT_MAX
from fastgw.config import ConfigError, Loaded, Problem, Remembered, Source
from fastgw.config.base.problems import path_text, with_counts
from fastgw.config.base.value_types import Address
from fastgw.config.egress.expand import NAME as EGRESS
from fastgw.config.formats.positions import OutOfResources, SyntaxProblem
from fastgw.config.kyma.provider import directory_in
from fastgw.config.loading.locate_filter import Where
from fastgw.config.loading.locate_setting import locate_settings
from fastgw.config.settings.gateway import DEFAULT_ADMIN, Config
from fastgw.config.sources.dns_targets import UNKNOWN, is_lookup
from fastgw.config.sources.files import brought_forward, found_by_patterns, pattern_in, read_again, why_no_folder
from fastgw.config.sources.followed_files import is_followed
from fastgw.config.sources.virtual_files import begin_with, content_of, is_issued, is_watched
from fastgw.consumers.index import Index, index_of
from fastgw.diff import as_text, differences, yaml_diff
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError, Gateway
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.ipc.channel import Channel, ChannelFull, Origin, Propose, ProposeTargets, Rejected, Subject
from fastgw.runtime.ipc.channel import ReloadResult as Verdict
from fastgw.runtime.ipc.feed_values import write_memfd
from fastgw.runtime.node.config_snapshot import (
    ConfigSnapshot,
    FeedsKept,
    PreviousGeneration,
    RollbackPoint,
    TargetChange,
    accept,
    seal,
    with_targets,
)
from fastgw.runtime.node.node_state import NodeState, ReloadRecord
from fastgw.runtime.node.startup import OWN
from fastgw.runtime.process.machine_capacity import auto_workers, usable_cpus
from fastgw.runtime.process.transient_errors import RetryBackoff
from fastgw.runtime.reload.activation import Activation
from fastgw.runtime.reload.bad_file_isolation import changed, previous_contents, tried, with_previous
from fastgw.runtime.reload.certificate_files import Why, looked_at_again, renamed, settled
from fastgw.runtime.reload.config_notes import key_of, log_notes, new_among, notes_of
from fastgw.runtime.reload.coordinator import RECORDS, describe_outcome, listed
from fastgw.runtime.reload.document_checks import (
    MOST_WAITING,
    CheckedDocument,
    DocumentChecks,
    TooMany,
    problems_of,
    why_not_now,
)
from fastgw.runtime.reload.rollback_history import retained_generations
from fastgw.runtime.reload.sink_checks import unusable_sinks
from fastgw.runtime.reload.stale_configuration import Staleness
from fastgw.runtime.reload.state_check import unusable_state
from fastgw.runtime.reload.target_changes import labels_in, only_targets_differ
from fastgw.runtime.reload.uncollected_tables import UncollectedTables
from fastgw.shm.slot_assignment import OutOfSlots
from fastgw.sync.feeds import MOST_BYTES

PROBLEMS_SHOWN: Final = 3
"""Maximum number of errors in the statuses of a cluster."""
PROBLEMS: Final = 20
"""Maximum number of errors of one attempt that are kept."""
BYTES_PER_VALUE: Final = 8
"""Bytes of `admin.document_bytes` for each value that a document may have: typical documents have twelve and more."""
POSTED: Final = "POST /config"
"""Name of a document from the API, in errors."""
NO_FILE: Final = "this gateway was started without a configuration file: there is nothing to reload"
NO_DOCUMENT: Final = (
    "what came from the command line cannot be changed in part: send a whole configuration (POST /config)"
)


Contents = Mapping[str, bytes]
"""Contents of files by name."""
NO_CONTENTS: Final[Contents] = MappingProxyType({})
Read = Callable[[Contents], Loaded]
"""Function that reads a configuration, with these contents in place of those of referenced files."""
Present = tuple[Contents, Why]
"""Contents of files to become active, and the reasons why some are older ones."""


class Proposer:
    """Proposer of one control process. `node_state`: copy as of the fork; later generations are kept here."""

    def __init__(self, node_state: NodeState, channel: Channel) -> None:
        self._node_state = node_state
        self._channel = channel
        self._lock = asyncio.Lock()
        self._documents = DocumentChecks(self._lock)
        self._next: asyncio.Task[Outcome] | None = None
        self._answer: asyncio.Future[Verdict] | None = None
        self.current = node_state.sealed.whole()
        self.config = self.current.config()
        self._tables = node_state.gateway if self.current.generation == node_state.compiled else None
        """Tables of the active configuration, which serve no requests: base for compiling proposals. None: they were
        compiled in another process.
        """
        self._tried: tuple[ConfigSnapshot, Gateway] | None = None
        """Snapshot compiled last, and its tables."""
        self._tried_targets: tuple[ConfigSnapshot, TargetChange] | None = None
        """Snapshot made last with other targets only, and the change."""
        self._uncollected = UncollectedTables()
        self._remembered = Remembered()
        self._feeds = FeedsKept()
        self.records = [*node_state.records]
        self.on_accept: Callable[[ConfigSnapshot], None] = lambda accepted: None
        """Called with a snapshot before it is proposed."""
        self.on_change: Callable[[ConfigSnapshot, ConfigSnapshot], None] = lambda before, now: None
        """Called with the previous active snapshot, and the new one."""
        self.on_reject: Callable[[ReloadRecord], None] = lambda rejected: None
        """Called with the record of an attempt that is not proposed to the supervisor."""
        self.on_missed: Callable[[], None] = lambda: None
        """Called when the active snapshot is not the one known here."""
        self._kept = {document.generation: document for document in node_state.documents}
        self.withheld: Why = {}
        """Reasons why present contents are not active, by file."""
        self._withheld_dates: Mapping[str, float] = {}  # since when
        self.warnings: Why = {}
        """Warnings about active files, by file."""
        begin_with(
            {
                name: content
                for name, content in self.current.captured.items()
                if is_watched(name) or is_issued(name) or is_followed(name)
            }
        )
        self._due_date = inf
        self._staleness = Staleness(self.records)
        self._again: Mapping[Subject, RetryBackoff] = {"file": RetryBackoff(), "contents": RetryBackoff()}
        self._again_for: Origin = "file"  # origin of the request to read the file
        self._read_at = 0.0  # when reading the file began last, monotonic seconds
        if (left := _left_to_retry(self.records)) is not None:
            self._again_for = left.source
            self._again["file"].failed(time.monotonic())
        self._is_postponed = False  # the current attempt
        self._may_use_targets = False  # whether it is about contents of files that sources of targets have changed
        self._untaken: Contents = {}  # contents that were tried and are invalid
        self._unbound_again = RetryBackoff()  # of listeners of a cluster whose addresses cannot be opened

    async def reload(self, source: Origin) -> Outcome:
        """Load the file."""
        if self._next is None:
            self._next = asyncio.create_task(self._reload(source))
        return await asyncio.shield(self._next)

    async def _reload(self, source: Origin) -> Outcome:
        async with self._lock:
            self._next = None  # later requests may mean a later state of the file
            if not self.current.file:
                notice(
                    OperatorEvent.RELOAD_REFUSED, f"not reloaded, generation {self.current.generation} stays: {NO_FILE}"
                )
                return self._refused("rejected", NO_FILE)
            return await self._offer(self._load_file, source)

    async def try_again(self) -> None:
        """Load the files again, if a retry after a transient failure is due."""
        async with self._lock:
            if self._again["file"].due_at <= time.monotonic():
                await self._offer(self._load_file, self._again_for)

    @property
    def stale(self) -> Stale | None:
        """Staleness: why the files differ from the active configuration."""
        return self._staleness.state

    @property
    def kept_files(self) -> Sequence[KeptFile]:
        """Referenced files whose present contents are not active, one for each reason. Derived ones are no files, and
        are left out.
        """
        alike: dict[str, list[str]] = {}
        for file, why in self.withheld.items():
            if not is_lookup(file) and not is_followed(file):
                alike.setdefault(why, []).append(file)
        return [
            KeptFile(
                pattern_in(files[0]) or files[0], why, min(map(self._withheld_dates.__getitem__, files)), len(files)
            )
            for why, files in alike.items()
        ]

    @property
    def watched_files(self) -> Collection[str]:
        """Files whose changes are loaded: those of the active configuration, and withheld ones, which it lacks if they
        were never valid.
        """
        return self.current.captured.keys() | self.withheld.keys()

    def look_at_files(self) -> None:
        """Check whether the files differ from the active configuration. Reads files: call in a thread."""
        self._staleness.check_files(lambda: self.current)

    @property
    def tables(self) -> Gateway | None:
        """Tables of the active configuration, which serve no requests; None: they were compiled in another process."""
        return self._tables

    def remember_tables(self, tables: Gateway, of: ConfigSnapshot) -> None:
        """Keep the compiled tables of the active configuration, if it still is."""
        if of is self.current:
            self._tables = tables

    async def warm_cache(self) -> None:
        """Read the active configuration into the cache, so that the first change compiles only changed parts, like
        later ones. Useful with thousands of services. Comparisons then use the cached objects.
        """
        if not any(name.startswith(f"{EGRESS}/") for name in self.config.upstreams):
            return
        async with self._lock:
            current, before = self.current, self.config
            read = partial(config.load_sources, current.sources, current.captured, TYPES, self._remembered)
            with suppress(ConfigError), self._uncollected.building():
                now = (await asyncio.to_thread(read)).config
                if (now.routes, now.upstreams) == (before.routes, before.upstreams):
                    self.config = msgspec.structs.replace(before, routes=now.routes, upstreams=now.upstreams)

    async def apply(self, text: bytes, suffix: str, dry_run: bool) -> Outcome:
        """Use this text instead of the main file. Raises `OverBound`."""
        read = partial(self._load_posted, text, suffix)
        return await self._apply(read, POSTED, POSTED, "document", spares=True, dry_run=dry_run)

    async def _apply(
        self, read: Read, sent: str, name: str, subject: Subject, *, spares: bool, dry_run: bool = False
    ) -> Outcome:
        """Check a document from the API (`sent`) with limits, and activate it if it is valid. `name`: as in `_offer`.
        Raises `OverBound`.
        """
        if not self._is_serving:
            return self._not_now()
        file = name or self.current.file
        admin = DEFAULT_ADMIN if self.config.admin is None else self.config.admin
        try:
            checked = await self._documents.check(partial(self._checked, read, file, spares, dry_run), file, admin)
        except TooMany:
            return self._refused("busy", f"{MOST_WAITING} documents are being checked already; try again later")
        if checked.passing:
            return self._postponed(checked.passing, "api", subject, dry_run, again=False)
        if checked.bound:
            self._rejected([Problem(sent, 0, 0, "", checked.bound)], "api", subject, dry_run)
            raise OverBound(checked.bound)
        if checked.problems:
            return self._rejected(checked.problems, "api", subject, dry_run)
        if dry_run:
            current = self.current
            workers = Committed(0, current.workers)
            return Outcome(True, current.generation, workers, summary=checked.changes, notes=checked.notes)
        async with self._lock:
            return await self._offer(read, "api", name, spares=spares, subject=subject)

    def _checked(self, read: Read, file: str, spares: bool, dry_run: bool) -> CheckedDocument:
        """Check a document in a child process."""
        loaded, _ = self._make_most(read, "api", file, None, spares)
        if not dry_run:
            return CheckedDocument()
        notes = new_among(loaded.notes, self.current.known_notes)
        return CheckedDocument(changes=self._changes(loaded) + self._kept_note(loaded), notes=notes)

    @property
    def _most_values(self) -> int | None:
        """Return the maximum number of values of a document: a value needs many times its bytes in memory."""
        admin = self.config.admin
        return None if admin is None else admin.document_bytes // BYTES_PER_VALUE

    def _load_posted(self, text: bytes, suffix: str, instead: Contents) -> Loaded:
        """Read a document from the API. Raises `ConfigError`, whose errors do not name the file on disk."""
        file = self.current.file
        try:
            known = self.current.captured
            return config.load_text(
                text,
                file,
                TYPES,
                suffix,
                instead,
                self._remembered,
                known,
                trusted=False,
                most_values=self._most_values,
            )
        except ConfigError as error:
            raise ConfigError(_renamed(each, file, POSTED) for each in error.problems) from error

    def _load_file(self, instead: Contents = NO_CONTENTS) -> Loaded:
        """Read the file. Raises `ConfigError`."""
        return config.load(self.current.file, TYPES, instead, self._remembered, self.current.captured)

    async def put_targets(self, upstream: str, text: bytes, suffix: str) -> Outcome:
        """Replace the targets of an upstream, until the files are read again. Raises `OverBound`."""
        if not self.current.sources:
            return self._refused("rejected", NO_DOCUMENT)
        name = path_text(("upstreams", upstream, "targets"))
        targets = Source(name, text, suffix=suffix, upstream=upstream)

        def read(_: Contents) -> Loaded:
            current = self.current
            sources = [*(each for each in current.sources if each.upstream != upstream), targets]
            return config.load_sources(sources, current.captured, TYPES, self._remembered)

        return await self._apply(read, f"PUT /{name.replace('.', '/')}", "", "contents", spares=False)

    async def refresh(self) -> None:
        """Load the present contents of referenced files, if they have changed."""
        async with self._lock:
            before = self.current.captured
            try:
                now, why = await asyncio.to_thread(self._present)
            except SyntaxProblem as flaw:
                self._rejected([Problem(self.current.file, 0, 0, "", flaw.wrong)], "file", "contents")
                return
            except OutOfResources as error:
                self._postponed(str(error), "file", "contents")
                return
            self._again["contents"].forget()
            seen = [file for file, content in self._untaken.items() if now.get(file) == content]
            if with_previous(before, now, seen) != before:
                outcome = await self._offer(self._read_now(now), "file", present=(now, why), subject="contents")
                if outcome.reason == "rejected":
                    self._withhold_all({file: now[file] for file in changed(before, now)})
            else:
                mended = [file for file in self.withheld if not pattern_in(file)]
                self._withhold({**why, **{file: self.withheld[file] for file in seen if file in self.withheld}})
                if mended := [file for file in mended if file not in self.withheld]:
                    await self._tell_mended(mended)

    def _withhold_all(self, files: Contents) -> None:
        """Withhold files that were rejected together: more than one is invalid, or the invalid one is unknown."""
        self._untaken = files
        if unknown := [file for file in files if file not in self.withheld]:
            self._withhold({**self.withheld, **dict.fromkeys(unknown, self.records[-1].summary)})

    async def _tell_mended(self, files: Sequence[str]) -> None:
        """Log files whose present contents are again those that are active."""
        notice(OperatorEvent.FILE_BACK, f"{listed(files)}: valid again, the current contents are active")
        if not self.withheld and self._has_failed_by_contents:
            # Clears the failure of the last attempt.
            await self._offer(self._read_now(self.current.captured), "file", subject="contents")

    @property
    def _has_failed_by_contents(self) -> bool:
        """Whether the last attempt has failed only because of contents of referenced files."""
        last = self.records[-1] if self.records else None
        return last is not None and not last.ok and (last.source, last.subject) == ("file", "contents")

    async def apply_watched_objects(self, name: str) -> Activation:
        """Load the objects of a watch, and no other files."""
        async with self._lock:
            content, untaken = content_of(name), self._untaken
            if name not in self.current.captured:
                return Activation(True)
            if content == self.current.captured[name]:
                await self._open_unbound()
                return self._activation()
            if content == untaken.get(name):
                return self._activation(self.withheld.get(name, "it was rejected"))
            now = {**self.current.captured, name: content}
            unbound = self._remembered.kubernetes.unbound
            if self._unbound_again.due_at <= time.monotonic():
                unbound.clear()
            present: Present = now, {}
            while True:
                outcome = await self._offer(
                    self._read_now(now), "file", present=present, alone=True, subject="contents"
                )
                if outcome.ok or not self._remembered.kubernetes.refuse_unbound(outcome.summary):
                    break
                self._unbound_again.failed(time.monotonic())
            if outcome.ok and not unbound:
                self._unbound_again.forget()
            self._untaken = {**{file: each for file, each in untaken.items() if file != name}, **self._untaken}
            why = "" if outcome.ok else "; ".join(map(str, outcome.problems[:PROBLEMS_SHOWN])) or outcome.summary
            return self._activation(why, is_tried=outcome.ok or outcome.reason == "rejected")

    async def _open_unbound(self) -> None:
        """Try the listeners of a cluster again whose addresses could not be opened."""
        kubernetes, again = self._remembered.kubernetes, self._unbound_again
        if not kubernetes.unbound or again.due_at > time.monotonic():
            return
        kubernetes.unbound.clear()
        outcome = await self._offer(self._read_now(self.current.captured), "file", subject="contents")
        if outcome.ok:
            again.forget()
        elif kubernetes.refuse_unbound(outcome.summary):
            again.failed(time.monotonic())

    def _activation(self, rejected: str = "", *, is_tried: bool = True) -> Activation:
        unbound = self._remembered.kubernetes.unbound
        again_s = max(0.1, self._unbound_again.due_at - time.monotonic()) if unbound else None
        return Activation(is_tried, rejected, self.current.refused_objects, again_s)

    def _read_now(self, now: Contents) -> Read:
        """Read the active files, with these contents of referenced files."""

        def read(contents: Contents) -> Loaded:
            captured = {**now, **contents}
            left_out = found_by_patterns(now) - found_by_patterns(captured)
            held = {file: content for file, content in captured.items() if file not in left_out}
            return config.load_sources(self.current.sources, held, TYPES, self._remembered)

        return read

    async def propose_file(self) -> None:
        """Load the file, if it differs from the active configuration, or if the last attempt has failed."""
        async with self._lock:
            with suppress(ConfigError, OutOfResources):  # the error is reported when it is proposed
                loaded = await asyncio.to_thread(self._load_file)
                current = self.current
                same = [*loaded.sources] == current.sources and loaded.captured == current.captured
                if same and not (self.records and not self.records[-1].ok):
                    return
            await self._offer(self._load_file, "file")

    @property
    def is_due(self) -> bool:
        """Whether a withheld file may be usable by now, without a change."""
        return time.time() >= self._due_date or time.monotonic() >= self._again["contents"].due_at

    @property
    def is_to_be_tried_again(self) -> bool:
        """Whether a refused file is due for another attempt."""
        return time.monotonic() >= self._again["file"].due_at

    def _present(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """Return the contents of referenced files that can become active, and the reasons why others cannot.

        Raises `SyntaxProblem`.
        """
        before = self.current.captured
        away = dict.fromkeys(before, "")
        now = read_again(before, away)
        kyma = self.config.providers.kyma
        if kyma is not None and kyma.directory is not None and (gone := why_no_folder(kyma.directory)):
            kept = directory_in(kyma, before)  # it may be being remounted; without it all services would disappear
            now |= kept
            away |= dict.fromkeys(kept, f"{kyma.directory}: {gone}")
        taken, why = settled(self.config, before, now, away)
        self._due_date = looked_at_again(why, before, now)
        return taken, {file: wrong for file, wrong in away.items() if wrong} | why

    def _withhold(self, why: Why) -> None:
        """Log, once, which present contents are not active, and why."""
        before, self.withheld = self.withheld, why
        dates, now = self._withheld_dates, time.time()
        self._withheld_dates = {file: dates.get(file, now) for file in why}
        held = self.current.captured
        lacking = {file for file in why if held.get(file) == UNKNOWN}  # reported when it was activated
        why = {file: each for file, each in why.items() if file not in lacking}
        for each in _kept_notes({file: each for file, each in why.items() if each not in before.values()}, held):
            notice(OperatorEvent.FILE_KEPT, each)

    async def rollback(self, generation: int | None) -> Outcome:
        """Roll back to the files of a kept generation; None: to the previous one, each time one step further.
        Certificates and consumer files stay as they are: older ones may have expired or been revoked.
        """
        async with self._lock:
            if not self._is_serving:
                return self._not_now()
            wanted = self._kept.get(self._before() if generation is None else generation)
            if wanted is None or not wanted.sources:  # a configuration from the command line has no document
                return self._not_back(generation)
            captured = brought_forward(wanted.captured, self.current.captured)
            read = partial(config.load_sources, wanted.sources, captured, TYPES, self._remembered)
            return await self._offer(lambda _: read(), "rollback", spares=False, subject="document")

    def kept_configurations(self) -> list[RollbackPoint]:
        """Return the configurations that are kept for a rollback, newest first, without the active one."""
        others = (each for each in self._kept.values() if each.sources and each.sources != self.current.sources)
        return sorted(others, key=lambda each: each.generation, reverse=True)

    async def changes_since(self, generation: int) -> tuple[str, str] | None:
        """Describe the changes from a kept configuration to the active one, a line each, and as a diff of both in YAML,
        without secrets. None: it is not kept. Raises `ConfigError` if it is no longer valid, such as without a file.
        """
        async with self._lock:
            kept = self._kept.get(generation)
            if kept is None or not kept.sources:
                return None
            captured = brought_forward(kept.captured, self.current.captured)
            read = partial(config.load_sources, kept.sources, captured, TYPES, self._remembered)
            return await asyncio.to_thread(lambda: self._changes_from(read()))

    def _changes_from(self, old: Loaded) -> tuple[str, str]:
        """Return the changes from another configuration to the active one, and their diff in YAML."""
        index = self.current.index  # `self.config` has no consumers
        known = index_of(old.config.consumers, old.captured, index.key), index
        return as_text(differences(old, self.config, known=known)), yaml_diff(old.config, self.config)

    def _before(self) -> int:
        """Return the last generation with other contents before the active one; 0: none is kept."""
        current = self.current
        alike = {each.generation for each in self._kept.values() if each.sources == current.sources}
        served = max(alike, default=current.generation)  # kept, because a rollback has used it
        others = (each for each in self._kept.values() if each.sources and each.generation not in alike)
        return max((each.generation for each in others if each.generation < served), default=0)

    def _not_back(self, generation: int | None) -> Outcome:
        others = (each for each in self._kept.values() if each.sources and each.sources != self.current.sources)
        kept = sorted(each.generation for each in others)
        if not kept:
            return self._refused("rejected", "cannot roll back: no other configuration is kept")
        listed = f"kept are {', '.join(map(str, kept))}" if kept[1:] else f"only {kept[0]} is kept"
        asked = "cannot roll back further" if generation is None else f"cannot roll back to {generation}"
        return msgspec.structs.replace(self._refused("rejected", f"{asked}: {listed}"), kept=kept)

    def on_outcome(self, outcome: Verdict) -> None:
        """Handle the supervisor's result, which may be for a previous control process that has died."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(outcome)
        elif outcome.generation != self.current.generation:
            self.on_missed()

    @property
    def _is_serving(self) -> bool:
        return self._node_state.words.is_serving(self._node_state.shared)

    def _not_now(self) -> Outcome:
        return self._refused("busy", "not possible now: the gateway is not serving")

    async def _offer(
        self,
        read: Read,
        source: Origin,
        name: str = "",
        *,
        present: Present | None = None,
        alone: bool = False,
        spares: bool = True,
        subject: Subject = "file",
    ) -> Outcome:
        """Validate, compile and propose. `name`: name of the document in errors, if it is not the file. `present`: the
        change is about the contents of these files; `alone`: only about them. `spares`: invalid contents of files may
        be held back.
        """
        if not self._is_serving:
            self._again["file"].forget()
            return self._not_now()
        if subject == "file":
            self._again_for, self._read_at = source, time.monotonic()
        self._is_postponed = False
        outcome = await self._offered(read, source, name, present, alone, spares, subject)
        if subject in self._again and not self._is_postponed:
            self._again[subject].forget()
        if outcome.ok and subject != "contents":
            self._again["file"].forget()  # an earlier state needs no retry
            await asyncio.to_thread(self._staleness.accepted, lambda: self.current)
        elif not outcome.ok and subject == "file":
            await asyncio.to_thread(self._staleness.refused, lambda: self.current, self.records[-1].summary)
        return outcome

    async def _offered(
        self,
        read: Read,
        source: Origin,
        name: str,
        present: Present | None,
        alone: bool,
        spares: bool,
        subject: Subject,
    ) -> Outcome:
        file = name or self.current.file
        self._may_use_targets = present is not None
        try:
            with self._uncollected.building():
                loaded, accepted = await asyncio.to_thread(self._make_most, read, source, file, present, spares)
                tried, self._tried = self._tried, None
                of_targets, self._tried_targets = self._tried_targets, None
            if present is not None and loaded.captured == self.current.captured:
                self._withhold({**(self.withheld if alone else {}), **loaded.withheld})
                return self._rejected(self._blamed, source, subject)
            changes = await asyncio.to_thread(self._audited_changes, loaded)
            descriptor = seal(accepted)
        except Exception as error:
            if why := why_not_now(error):
                return self._postponed(why, source, subject)
            return self._rejected(problems_of(error, file), source, subject)
        notes = new_among(loaded.notes, self.current.known_notes)
        if of_targets is not None and of_targets[0] is accepted:
            return await self._use_targets(accepted, of_targets[1], loaded, descriptor, source, subject, alone)
        try:
            kept = self._kept_note(loaded)
            self.on_accept(accepted)
            self._answer = asyncio.get_running_loop().create_future()
            # If the files have not changed since they became active, this counts as a reload of them.
            about = "file" if subject == "contents" and self._staleness.is_same else subject
            proposal = Propose(
                generation=accepted.generation,
                source=source,
                subject=about,
                changes=changes,
                read_at=self._read_for(subject),
            )
            self._channel.send(proposal, [descriptor])
        except ChannelFull:
            return self._postponed("too many messages are in flight", source, subject)
        finally:
            os.close(descriptor)
        answer = await self._answer
        why = answer.why
        if not answer.ok:
            why += self._retry_note(subject, source) if answer.passing else ""
        summary = (
            describe_outcome(answer) + kept
            if answer.ok
            else f"not reloaded, generation {answer.generation} stays: {why}"
        )
        self._remember(answer.ok, answer.generation, source, summary if answer.ok else why, about)
        if answer.ok:
            self._tables = tried[1] if tried is not None and tried[0] is accepted else None
            self._record_accepted(accepted, loaded, whole=present is not None and not alone)
            log_notes(notes)
        return Outcome(
            ok=answer.ok,
            generation=answer.generation,
            workers=Committed(answer.committed, answer.workers),
            listeners_added=answer.listeners_added,
            listeners_removed=answer.listeners_removed,
            workers_restarted=answer.workers_restarted,
            summary=summary,
            notes=notes if answer.ok else (),
            reason="" if answer.ok else "failed",
        )

    async def _use_targets(
        self,
        accepted: ConfigSnapshot,
        change: TargetChange,
        loaded: Loaded,
        descriptor: int,
        source: Origin,
        subject: Subject,
        alone: bool,
    ) -> Outcome:
        """Replace targets in the active generation. `descriptor`: of its sealed snapshot, which is closed."""
        try:
            self.on_accept(accepted)
            changed_targets = write_memfd(msgspec.msgpack.encode(change))
            try:
                self._answer = asyncio.get_running_loop().create_future()
                message = ProposeTargets(generation=accepted.generation)
                self._channel.send(message, [descriptor, changed_targets])
            finally:
                os.close(changed_targets)
        except ChannelFull:
            return self._postponed("too many messages are in flight", source, subject)
        finally:
            os.close(descriptor)
        answer = await self._answer
        if not answer.ok:
            return self._postponed(answer.why, source, subject)
        if self._tables is not None:
            self._tables.use_targets(change.upstreams(), accepted.slot_table, None)
        self._record_accepted(accepted, loaded, whole=not alone)
        return Outcome(
            ok=True, generation=answer.generation, workers=Committed(answer.workers, answer.workers), summary=""
        )

    def _with_targets(self, loaded: Loaded, index: Index) -> ConfigSnapshot | None:
        """Return the active snapshot with other targets, if nothing else differs from it."""
        current = self.current
        if index.digest != current.index.digest or not only_targets_differ(loaded, self.config, current):
            return None
        before = self.config.upstreams
        changed = {
            name: each
            for name, each in loaded.config.upstreams.items()
            if each is not before[name] and each != before[name]
        }
        oldest = self._node_state.words.oldest_generation(self._node_state.shared)
        labels = {name: labels_in(each) for name, each in changed.items()}
        try:
            slot_table = current.slot_table.with_targets(labels, oldest)
        except OutOfSlots:  # a new generation releases those of removed targets
            return None
        accepted, change = with_targets(current, changed, loaded, slot_table)
        if len(msgspec.msgpack.encode(change)) > MOST_BYTES:
            return None
        self._tried_targets = accepted, change
        return accepted

    def _make_most(
        self, read: Read, source: Origin, file: str, present: Present | None, spares: bool
    ) -> tuple[Loaded, ConfigSnapshot]:
        """Compile in a thread, holding back bad files as far as previous contents are active: an expired certificate or
        a bad secret must not block other changes. Raises `ConfigError`, `OutOfSlots`.
        """
        before = self.current.captured
        self._blamed: Sequence[Problem] = ()
        now: Contents = before
        why: Why = {}
        files: list[str] = []
        if present is not None:
            now, why = present
            files = changed(before, now)
        else:
            try:
                loaded, accepted = self._make_without_refused(read, NO_CONTENTS, source, file, strict=spares)
                why = settled(self.config, before, {**before, **loaded.captured})[1] if spares else {}
                if not why:
                    return loaded, accepted
            except ConfigError:
                if spares:
                    with suppress(SyntaxProblem):
                        now, why = self._present()
                        files = changed(before, now)
                if not files and not why:
                    raise

        def make(held: Collection[str]) -> tuple[Loaded, ConfigSnapshot]:
            try:
                known = {each: before[each] for each in why if each in before}
                contents = {**known, **previous_contents(before, now, held)}
                return self._make_without_refused(read, contents, source, file, strict=spares)
            except ConfigError as error:
                self._blamed = self._blamed or error.problems
                raise

        known = {each: self.withheld[each] for each in files if each in self.withheld}
        new = why.keys() - before.keys()
        (loaded, accepted), held = tried(make, files, known)
        self._untaken = {each: now[each] for each in held}
        withheld = {each: wrong for each, wrong in why.items() if each in {*loaded.captured, *new}} | held
        withheld |= loaded.withheld
        return msgspec.structs.replace(loaded, withheld=withheld), accepted

    def _make_without_refused(
        self, read: Read, contents: Contents, source: Origin, file: str, *, strict: bool
    ) -> tuple[Loaded, ConfigSnapshot]:
        """Read and compile, without the objects of the Kubernetes provider that cannot be compiled."""
        while True:
            try:
                return self._make(read(contents), source, file, strict=strict)
            except ConfigError as error:
                cause = error.__cause__
                if not isinstance(cause, CompileError):
                    raise
                if not self._remembered.kubernetes.refuse([*cause.unbuilt, *cause.parts.items()]):
                    raise

    def _spoilt(self, gateway: Gateway, loaded: Loaded) -> dict[Where, str]:
        """Return filters that cannot use the changed contents of files, with the error: the previous contents can stay
        active. Documents are used as they are.
        """
        changed_files = changed(self.current.captured, loaded.captured)
        rewritten = {file for file in changed_files if file in self.current.captured}
        unusable = gateway.unusable.items() if rewritten else ()
        return {where: each.why for where, each in unusable if not rewritten.isdisjoint(each.files)}

    def _make(self, loaded: Loaded, source: Origin, file: str, *, strict: bool) -> tuple[Loaded, ConfigSnapshot]:
        """Read and compile. `file`: its name in errors. `strict`: contents of files that break a route are errors.
        Raises `ConfigError`, `OutOfSlots`.
        """
        settings = loaded.config
        workers = auto_workers(usable_cpus()) if settings.workers == "auto" else settings.workers
        found = [*unusable_sinks(loaded), *unusable_state(loaded, self.config)]
        if unusable := locate_settings(loaded, TYPES, found):
            raise ConfigError(_renamed(each, self.current.file, file) for each in unusable)
        index = index_of(settings.consumers, loaded.captured, self.current.index.key)
        self._tried_targets = None
        if self._may_use_targets and (of_targets := self._with_targets(loaded, index)) is not None:
            return loaded, of_targets
        base = PreviousGeneration(self.current, self.config, self._feeds)
        same = base.same(settings.routes)
        tables = self._tables
        try:
            gateway = compile(settings, workers, loaded.captured, index, tables, () if tables is None else same)
        except CompileError as error:
            problems = error.problems(loaded, TYPES)
            raise ConfigError(_renamed(each, self.current.file, file) for each in problems) from error
        if strict and (spoilt := self._spoilt(gateway, loaded)):
            problems = CompileError("", spoilt.items()).problems(loaded, TYPES)
            raise ConfigError(_renamed(each, self.current.file, file) for each in problems)
        notes = tuple(_renamed(each, self.current.file, file) for each in notes_of(loaded, gateway, self._remembered))
        loaded = msgspec.structs.replace(loaded, notes=notes)
        node_state = self._node_state
        node_state.words.check(node_state.shared, settings.limits)
        generation = self.current.generation + 1
        slot_table = self.current.slot_table.following(
            gateway.names, generation, node_state.words.oldest_generation(node_state.shared), self._is_held
        )
        accepted = accept(
            loaded,
            generation=generation,
            date=time.time(),
            source=source,
            slot_table=slot_table,
            workers=workers,
            base=base,
            index=index,
            known_notes=map(key_of, notes),
            rest=gateway.config,
        )
        self._tried = accepted, gateway
        return loaded, accepted

    def _is_held(self, slot: int) -> bool:
        return self._node_state.words.targets.is_held(self._node_state.shared, slot)

    def _record_accepted(self, accepted: ConfigSnapshot, loaded: Loaded, whole: bool) -> None:
        """Make an accepted configuration the active one. `whole`: the contents of all files were considered."""
        before = self.current
        if accepted.generation != before.generation:
            stays = retained_generations(self._kept.values(), before, accepted)
            self._kept[before.generation] = RollbackPoint.of(before)
            self._kept = {generation: document for generation, document in self._kept.items() if generation in stays}
        self.current, self.config = accepted, msgspec.structs.replace(loaded.config, consumers=())
        taken, held = accepted.captured, before.captured
        stay = {file: why for file, why in self.withheld.items() if not whole and taken.get(file) == held.get(file)}
        self._withhold({**stay, **loaded.withheld})
        warnings = renamed(self.config, held, taken)
        for why in dict.fromkeys(warnings.values()):
            notice(OperatorEvent.FILE_WARNING, why)
        stay = {file: why for file, why in self.warnings.items() if taken.get(file) == held.get(file)}
        self.warnings = {**stay, **warnings}
        self.on_change(before, accepted)

    def _remember(
        self,
        ok: bool,
        generation: int,
        source: Origin,
        summary: str,
        subject: Subject,
        problems: Sequence[Problem] = (),
    ) -> ReloadRecord:
        record = ReloadRecord(generation, time.time(), ok, source, summary, tuple(problems[:PROBLEMS]), subject)
        self.records = [*self.records, record][-RECORDS:]
        return record

    def _retry_note(self, subject: Subject, source: Origin) -> str:
        """Describe, for people, the next attempt after a transient failure; "": there is none."""
        if subject not in self._again:
            return ""  # the sender of the document gets the result
        self._is_postponed = True
        delay = self._again[subject].failed(time.monotonic())
        # Targets that were sent to the API are not: files alone are read again.
        return "" if (subject, source) == ("contents", "api") else f"; it is tried again in {delay:g} s"

    def _postponed(
        self, why: str, source: Origin, subject: Subject, dry_run: bool = False, *, again: bool = True
    ) -> Outcome:
        """Return the outcome of a transient failure: the proposal is not known to be invalid. `again`: it is
        retried.
        """
        if dry_run:
            return self._refused("failed", f"it cannot be determined: {why}")
        why += self._retry_note(subject, source) if again else ""
        stays = self.current.generation
        self.on_reject(self._remember(False, stays, source, why, subject))
        self._send_rejected(why, source, subject, passing=True)
        return self._refused("failed", f"not reloaded, generation {stays} stays: {why}")

    def _rejected(
        self, problems: Sequence[Problem], source: Origin, subject: Subject, dry_run: bool = False
    ) -> Outcome:
        """Report all problems, in the log and in the outcome."""
        why = str(problems[0]) if len(problems) == 1 else f"{problems[0]} (and {len(problems) - 1} more)"
        if not dry_run:
            for problem in with_counts(problems):
                notice(OperatorEvent.CONFIG_PROBLEM, str(problem))
            stays = self.current.generation
            self.on_reject(self._remember(False, stays, source, why, subject, problems))
            self._send_rejected(why, source, subject)
        stays = self.current.generation
        text = "the configuration is wrong" if dry_run else f"not reloaded: generation {stays} stays"
        return Outcome(
            ok=False,
            generation=stays,
            workers=Committed(0, self.current.workers),
            summary=text,
            problems=problems,
            reason="rejected",
        )

    def _send_rejected(self, why: str, source: Origin, subject: Subject, *, passing: bool = False) -> None:
        message = Rejected(
            generation=self.current.generation,
            source=source,
            why=why[:1000],
            subject=subject,
            passing=passing,
            read_at=self._read_for(subject),
        )
        self._channel.send(message)

    def _read_for(self, subject: Subject) -> float:
        return self._read_at if subject == "file" else 0.0

    def _audited_changes(self, loaded: Loaded) -> str:
        """Describe the changes of a proposal for the audit log; "": there is none."""
        if self.current.settings.audit is None and loaded.config.audit is None:
            return ""
        return self._changes(loaded)[:TEXT_MAX]

    def _changes(self, loaded: Loaded) -> str:
        """Describe the changes of a proposal."""
        index = index_of(loaded.config.consumers, loaded.captured, self.current.index.key)
        changes = as_text(differences(self.config, loaded, known=(self.current.index, index)))
        if _addresses(loaded.config) - _addresses(self.config):
            changes += "\naddresses are not tried"
        return changes

    def _kept_note(self, loaded: Loaded) -> str:
        """Describe the files of a proposal whose contents are not part of it."""
        return "".join(f"; {each}" for each in _kept_notes(loaded.withheld, self.current.captured))

    def _refused(self, reason: Reason, summary: str) -> Outcome:
        stays, workers = self.current.generation, Committed(0, self.current.workers)
        return Outcome(ok=False, generation=stays, workers=workers, summary=summary, reason=reason)


def _left_to_retry(records: Sequence[ReloadRecord]) -> ReloadRecord | None:
    """Return the transient failure to load the file that the previous control process has not retried, if any."""
    loads = [each for each in records if each.subject == "file" or (each.subject == "document" and each.ok)]
    return loads[-1] if loads and loads[-1].again else None


def _kept_notes(withheld: Why, active: Contents) -> list[str]:
    """Return the reasons why contents of files are not active, each once, with what is active instead."""
    known = {why for file, why in withheld.items() if file in active}
    return [
        f"{why}: {'the previous contents stay active' if why in known else 'the file is not used'}"
        for why in dict.fromkeys(withheld.values())
    ]


def _renamed(problem: Problem, file: str, name: str) -> Problem:
    """Return an error under another file name. The text may contain positions in it."""
    wrong, expected = (text.replace(f"{file}:", f"{name}:") for text in (problem.wrong, problem.expected))
    if problem.file == file:
        return msgspec.structs.replace(problem, file=name, wrong=wrong, expected=expected)
    return msgspec.structs.replace(problem, wrong=wrong, expected=expected)


def _addresses(settings: Config) -> set[Address]:
    """Return all addresses that it listens on."""
    own = (getattr(settings, name) for name in OWN)
    return {each.address for each in (*settings.listeners.values(), *own) if each is not None}
