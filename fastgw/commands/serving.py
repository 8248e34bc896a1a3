"""Commands that run a gateway: `run` and `demo`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fastgw import VERSION, config
from fastgw.commands.exit_codes import CANNOT_START, USAGE, WRONG
from fastgw.commands.options import ExtensionDirOption, WorkersOption
from fastgw.commands.output import fail
from fastgw.config.base.value_types import parse_address

if TYPE_CHECKING:
    from fastgw.runtime.node.bound_addresses import Bound
    from fastgw.runtime.node.child_slots import Work


USUAL: Final = gc.get_threshold()
"""Thresholds of garbage collection that the interpreter starts with, for what goes on after its imports."""
ReadyFdOption = Annotated[
    int | None,
    typer.Option(
        "--ready-fd",
        metavar="N",
        help="Write the bound addresses as JSON to this file descriptor when all workers accept.",
    ),
]


def run(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="A configuration (YAML, TOML or JSON).")] = None,
    listen: Annotated[str | None, typer.Option(metavar="ADDR", help="Without a file: address to listen on.")] = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Without a file: upstream URL.")] = None,
    workers: WorkersOption = None,
    access_log: Annotated[
        str | None, typer.Option(metavar="FILE", help="Without a file: path of the access log.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Without a file: address for metrics and probes.")
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Reload automatically when FILE or a file that it includes changes."),
    ] = False,
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Name of this gateway for other commands. Default: the file's name without its suffix."
        ),
    ] = "",
    extension_dir: ExtensionDirOption = None,
    ready_fd: ReadyFdOption = None,
) -> None:
    """Run the gateway, from a configuration file or from --listen and --to."""
    from fastgw.filters import TYPES
    from fastgw.runtime.supervisor.handover_state import is_successor

    flags = {"--listen": listen, "--to": to, "--workers": workers, "--access-log": access_log, "--status": status}
    given = [name for name, value in flags.items() if value is not None]
    if file is not None and given:
        raise typer.BadParameter(f"a file and {', '.join(given)} are mutually exclusive")
    if ready_fd is not None and not is_successor():
        _check_open(ready_fd)
    if watch and file is None:
        raise typer.BadParameter("--watch needs a file")
    if file is not None:
        _serve(lambda: config.load(file, TYPES), _announce, ready_fd, follow_files=watch, name=name)
    elif listen is not None and to is not None:
        try:
            configuration = config.from_flags(listen, to, TYPES, workers=workers, access_log=access_log, status=status)
        except config.ConfigError as error:
            fail(USAGE, *map(str, error.problems))
        _serve(lambda: config.Loaded.of(configuration), _announce, ready_fd, name=name)
    else:
        raise typer.BadParameter("expected a file, or --listen and --to")


def run_demo(
    listen: Annotated[str, typer.Option(metavar="ADDR", help="Address to listen on.")] = "127.0.0.1:8080",
    workers: WorkersOption = None,
    ready_fd: ReadyFdOption = None,
) -> None:
    """Run a demo: the gateway in front of a small service of its own."""
    from fastgw.demo.gateway import demo

    if ready_fd is not None:
        _check_open(ready_fd)
    try:
        address = parse_address(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from error
    with demo(address, workers or "auto") as (configuration, service, announce):
        in_use = (
            "stop that process, or take a free port: fastgw demo --listen 127.0.0.1:0, or make run LISTEN=127.0.0.1:0"
        )
        companions = {"demo service": service}
        _serve(lambda: config.Loaded.of(configuration), announce, ready_fd, companions, name="demo", in_use=in_use)


def _serve(
    load: Callable[[], config.Loaded],
    announce: Callable[[Bound], None],
    ready_fd: int | None,
    companions: Mapping[str, Work] = {},
    *,
    follow_files: bool = False,
    name: str = "",
    in_use: str = "",
) -> None:
    """Run the gateway until a signal ends it. `in_use`: advice if another process uses the address."""
    from fastgw.gateway.tables import CompileError
    from fastgw.runtime.node.startup import CannotStart, UnusableSettings
    from fastgw.runtime.run import run_gateway
    from fastgw.runtime.sockets.listening_sockets import AddressInUse, CannotListen
    from fastgw.runtime.supervisor.handover_state import IncompatibleHandover

    gc.freeze()  # what is imported stays: no collection walks it from here on
    gc.set_threshold(*USUAL)
    try:
        run_gateway(load, announce, ready_fd, companions, follow_files=follow_files, name=name)
    except config.ConfigError as error:
        fail(WRONG, *map(str, error.problems))
    except CompileError as error:
        fail(WRONG, str(error))
    except UnusableSettings as error:
        fail(CANNOT_START, *map(str, error.problems))
    except (CannotListen, CannotStart, IncompatibleHandover) as error:
        advice = f"; {in_use}" if in_use and isinstance(error, AddressInUse) else ""
        fail(CANNOT_START, f"fastgw: {error}{advice}")


def _announce(bound: Bound) -> None:
    from fastgw.operator_events import OperatorEvent
    from fastgw.operator_log import notice

    notice(OperatorEvent.LISTENING, f"fastgw {VERSION}: listening on {bound}")


def _check_open(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError as error:
        raise typer.BadParameter(f"{descriptor} is not an open file descriptor", param_hint="--ready-fd") from error
