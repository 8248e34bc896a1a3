"""Run the gateway, from a configuration to serving workers: the body of `fastgw run`."""

import gc
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType

from fastgw import config, kernel
from fastgw.config import ConfigError, Loaded
from fastgw.config.loading.locate_setting import locate_settings
from fastgw.consumers.index import index_of
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError
from fastgw.kernel import when_alone
from fastgw.net import openssl
from fastgw.operator_log import call_process, configure, notice_logs
from fastgw.runtime.ipc.channel import FIRST_GENERATION
from fastgw.runtime.node.analytics_writer import write_last_counts
from fastgw.runtime.node.bound_addresses import Bound
from fastgw.runtime.node.child_slots import Work
from fastgw.runtime.node.config_snapshot import accept
from fastgw.runtime.node.gateway_registration import end_registration, register
from fastgw.runtime.node.ocsp_storage import restore_responses
from fastgw.runtime.node.purge_persistence import restore_waiting
from fastgw.runtime.node.quota_persistence import claim_file, keep_all, restore_all
from fastgw.runtime.node.startup import CannotStart, UnusableSettings, enough_files, open_node_state
from fastgw.runtime.process.machine_capacity import auto_workers, file_limit, usable_cpus
from fastgw.runtime.process.stack_dump import forbid_core_dumps
from fastgw.runtime.reload.config_notes import key_of, log_notes, new_among, notes_of
from fastgw.runtime.reload.sink_checks import unusable_sinks
from fastgw.runtime.reload.state_check import unusable_state
from fastgw.runtime.sockets.systemd_activation import inherited
from fastgw.runtime.supervisor.handover_state import PREFLIGHT, TAKE_OVER, HandoverState
from fastgw.runtime.supervisor.supervisor import Supervisor
from fastgw.runtime.supervisor.take_over import preflight, take_over
from fastgw.runtime.supervisor.upgrade import PASSED
from fastgw.shm.quota_store import InUse


def run_gateway(
    load: Callable[[], Loaded],
    announce: Callable[[Bound], None],
    ready_fd: int | None = None,
    companions: Mapping[str, Work] = MappingProxyType({}),
    *,
    follow_files: bool = False,
    name: str = "",
) -> None:
    """Serve until a signal ends it. After an upgrade: continue with the state of the previous program.

    `load`: reads the configuration at the first start. `follow_files`: reload whenever its files change. `name`: name
    of the gateway for commands.
    Raises `ConfigError`, `CompileError`, `CannotListen`, `CannotStart`, `CallRefused`, `IncompatibleHandover`.
    """
    kernel.verify()
    openssl.verify()  # in a child, before there are threads
    trial, past = HandoverState.read(PREFLIGHT), HandoverState.read(TAKE_OVER)
    if trial is not None:
        when_alone(signal.SIGKILL)  # no program is left to replace
    handover = trial or past
    forbid_core_dumps()
    if handover is None or not handover.sources:
        loaded = load()
    else:
        loaded = config.load_sources(handover.sources, handover.captured, TYPES)
    settings = loaded.config
    call_process("supervisor")
    configure(settings.log)
    notice_logs()
    workers = auto_workers(usable_cpus()) if settings.workers == "auto" else settings.workers
    index = index_of(settings.consumers, loaded.captured)
    try:
        gateway = compile(settings, workers, loaded.captured, index)
    except CompileError as error:
        raise ConfigError(error.problems(loaded, TYPES)) from error
    if handover is not None:
        gateway.slot_table = handover.slot_table.following(gateway.names, handover.generation, handover.generation)
    if handover is None and (
        unusable := locate_settings(loaded, TYPES, [*unusable_sinks(loaded), *unusable_state(loaded)])
    ):
        raise UnusableSettings(unusable)
    notes = notes_of(loaded, gateway)
    with enough_files():
        accepted = accept(
            loaded,
            generation=FIRST_GENERATION if handover is None else handover.generation,
            date=time.time() if handover is None else handover.date,
            source="start" if handover is None else handover.source,
            slot_table=gateway.slot_table,
            workers=workers,
            base=None,
            index=index,
            known_notes=map(key_of, notes),
            rest=gateway.config,
        )
    del loaded, settings  # they may be large, and children would inherit them
    if trial is not None:
        preflight(trial, accepted, gateway)
        # PERF: the interpreter collects several times while it ends. Without walking all that is imported, a preflight
        # takes 1.5 s of CPU instead of 2.0 (CPython 3.11 on a busy machine, `utime` of the children after an upgrade).
        gc.freeze()
        raise SystemExit(PASSED)  # its own status: a program that does nothing exits with 0
    with ExitStack() as opened:
        with enough_files():
            if past is None:
                node_state = open_node_state(accepted, gateway, inherited(files=file_limit()), opened)
                log_notes(new_among(notes, ()))
            else:
                node_state = take_over(past, accepted, gateway, opened)
                ready_fd = None  # already written; the number may be reused
            node_state.follows_files, node_state.name = follow_files, name
            try:
                claimed = -1 if past is None else past.quota_claim
                node_state.quota_claim = claim_file(accepted.settings, node_state.run_key, claimed)
            except InUse as error:
                if past is None:
                    raise CannotStart(f"quotas: {error}") from error
                # A reload has named this file: control reports it, and claims and reads the file as soon as it is free.
            else:
                restore_all(node_state.shared.quotas, accepted.settings)
            if past is None:
                restore_waiting(node_state.purges, node_state.caches.stores, node_state.run_key)
                restore_responses(accepted, node_state.feeds)
            register(node_state, is_upgrade=past is not None)
            opened.callback(end_registration, node_state)
            supervisor = Supervisor(node_state, announce, ready_fd, companions, past)
        supervisor.run()
        write_last_counts(node_state)
        keep_all(node_state.shared.quotas, node_state.sealed.settings, node_state.run_key, node_state.quota_claim)
