"""The commands. Errors are reported in one line each, without a traceback.

Exit codes: 0 success, 1 invalid file or request, 2 usage, 3 the gateway could not start or be reached, 70 an internal
error, 74 the output cannot be written.

PERF: each command imports what it needs. `fastgw reload` takes 0.17 s of user time instead of 0.46, `--version` 0.10,
`check` 0.38 instead of 0.43 (CPython 3.11, `time fastgw reload`).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import typer
from typer.main import get_command_name

from fastgw.commands import (
    audit,
    configurations,
    installation,
    kyma,
    observing,
    operating,
    recordings,
    serving,
)
from fastgw.commands.application import PROGRAM, TextCommand, app, audit_app
from fastgw.commands.exit_codes import CANNOT_START, DEFECT, OUTPUT_LOST, WRONG
from fastgw.commands.output import OutputLost, fill_standard_descriptors, name_output_errors
from fastgw.commands.serving import USUAL
from fastgw.kernel import CallRefused

if TYPE_CHECKING:
    from typer.models import CommandInfo

GATEWAYS: Final = (["run"], ["demo"])
"""Commands that start a gateway."""
UNCOLLECTED: Final = 200_000
"""Number of new objects after which a command collects garbage, or a gateway that is importing. Imports make fewer."""


command = partial(app.command, cls=TextCommand)
command()(serving.run)
command(context_settings=configurations.MORE_FILES)(configurations.check)
command()(configurations.explain)
command()(configurations.diff)
command()(operating.reload)
command()(operating.rollback)
command()(observing.tap)
command()(observing.stories)
command()(observing.debug)
command()(operating.purge)
command()(operating.drain)
command()(operating.status)
command()(observing.analytics)
command()(operating.token)
command()(configurations.schema)
command()(configurations.filters)
audit_app.command(cls=TextCommand)(audit.verify)
command()(recordings.record)
command()(recordings.replay)
command()(recordings.shadow_report)
command()(observing.top)
command()(kyma.kyma_services)
command(name="demo")(serving.run_demo)
command()(installation.completion)
command()(installation.version)


def _keep_command(named: Sequence[str]) -> None:
    """Remove all other commands, if one is named.

    PERF: typer reads the signatures of all commands before it runs one: 1 ms instead of 25 (CPython 3.11, `time fastgw
    version`).
    """
    kept = [each for each in app.registered_commands if _name_of(each) in named]
    if kept:
        app.registered_commands = kept


def _name_of(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or get_command_name(command.callback.__name__)


def main() -> None:
    """Entry point of the command line: unexpected exceptions are reported in one line as well."""
    # PERF: nearly all that is allocated by imports stays, and each collection would walk it again. Without them, a
    # gateway is ready after 1.26 s of CPU instead of 1.52 (CPython 3.11 on a busy machine, `utime` and `stime` of the
    # supervisor).
    gc.set_threshold(UNCOLLECTED, *USUAL[1:])
    try:
        fill_standard_descriptors()
        if sys.argv[1:2] in GATEWAYS:
            from fastgw.runtime.process.signals import hold_signals_of_start

            hold_signals_of_start()
        name_output_errors()
        _keep_command(sys.argv[1:2])
        app(prog_name=PROGRAM)
    except CallRefused as error:
        typer.echo(f"fastgw: {error}", err=True)
        sys.exit(CANNOT_START)
    except OutputLost as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter writes the rest when it ends
        typer.echo(f"fastgw: the output cannot be written: {error}", err=True)
        sys.exit(OUTPUT_LOST)
    except Exception as error:
        if isinstance(error, OSError) and "--install-completion" in sys.argv:  # typer writes files of the user's home
            reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            typer.echo(f"fastgw: the completion cannot be installed: {reason}", err=True)
            typer.echo("`fastgw completion bash` prints it; likewise zsh, fish and powershell.", err=True)
            sys.exit(WRONG)
        from fastgw.operator_log import described

        typer.echo(f"fastgw: internal error: {described(error)}", err=True)
        sys.exit(DEFECT)
    finally:
        # PERF: the interpreter collects several times while it ends: a command takes 0.97 s of CPU instead of 1.27
        # (CPython 3.11 on a busy machine, `time fastgw check`).
        gc.freeze()
