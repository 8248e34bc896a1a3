"""The command line prepares the command that is named and no other, which nobody notices."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer
import typer.main
from typer.core import TyperGroup

from fastgw import cli


def all_of_them() -> TyperGroup:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    return group


def help_of(group: TyperGroup, name: str) -> str:
    command = group.commands[name]
    return command.get_help(typer.Context(command, info_name=name))


@pytest.mark.parametrize("name", sorted(all_of_them().commands))
def test_a_command_that_is_named_is_the_same_without_the_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = help_of(all_of_them(), name)
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli._keep_command([name])
    assert help_of(all_of_them(), name) == expected
    if name != "audit":  # a group of its own
        assert set(all_of_them().commands) == {name, "audit"}


def test_the_list_of_commands_cuts_no_sentence() -> None:
    group = all_of_them()
    listed = " ".join(group.get_help(typer.Context(group, info_name="fastgw")).split())
    assert "Explain how a request would be routed and why, without sending it." in listed
    assert "..." not in listed.partition("Commands:")[2]


@pytest.mark.parametrize("named", [[], ["--help"], ["frobnicate"], [""]])
def test_all_are_there_where_none_is_named(named: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = set(all_of_them().commands)
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli._keep_command(named)
    assert set(all_of_them().commands) == expected


def test_completion_that_cannot_be_installed_is_no_internal_error() -> None:
    """Such as for a user of a service, whose home is no directory."""
    command = [sys.executable, "-m", "fastgw", "--install-completion", "bash"]
    # typer finds the shell among the parent processes, unless this is set.
    environment = {**os.environ, "HOME": "/dev/null", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "fastgw: the completion cannot be installed: /dev/null: File exists\n"
        "`fastgw completion bash` prints it; likewise zsh, fish and powershell.\n"
    )
