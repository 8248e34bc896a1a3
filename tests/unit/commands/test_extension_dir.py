"""Filters of a directory are imported where `--extension-dir` names it, and never because they lie about."""

import sys

import pytest
from typer.testing import CliRunner

from fastgw.cli import app

FILTER = """
from fastgw.filters.api import Env, Filter, Hooks, Phase

class Mine(Filter, name="mine", phase=Phase.TRANSFORM):
    \"""Do nothing.\"""

    def build(self, env: Env) -> Hooks:
        return Hooks()
"""
CONFIG = """\
version: 1
extensions: [%s]
listeners: {main: {address: "127.0.0.1:0"}}
filters: {nothing: {type: "%s:Mine"}}
routes: [{name: a, respond: {}, filters: {who: {type: request_id}}}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """A directory with a filter and a configuration, in which we are; `name`: of the module."""
    name = f"local_filter_{request.node.name.encode().hex()[-24:]}"
    (tmp_path / f"{name}.py").write_text(FILTER)
    (tmp_path / "gw.yaml").write_text(CONFIG % (name, name))
    (tmp_path / "module").write_text(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    tmp_path.chmod(0o755)
    return tmp_path


def told(*arguments):
    ran = CliRunner().invoke(app, arguments)
    return ran.exit_code, ran.output


def test_what_lies_beside_the_configuration_is_not_imported_and_it_is_said_what_to_do(folder):
    name = (folder / "module").read_text()
    code, output = told("check", str(folder / "gw.yaml"))
    assert code == 1
    assert (
        f'extensions[0]: package "{name}" is not installed; {name}.py is beside this file: install it, or start with '
        f"--extension-dir {folder}\n" in output
    )
    assert name not in sys.modules


@pytest.mark.parametrize("given", [".", "absolute"])
def test_a_directory_that_is_named_is_imported_from(folder, given):
    code, output = told("check", "--extension-dir", str(folder) if given == "absolute" else given, "gw.yaml")
    assert (code, output) == (0, "gw.yaml: configuration is valid\n")
    assert sys.path[-1] == str(folder)  # it stays when the working directory changes
    assert told("explain", "--extension-dir", ".", "gw.yaml", "GET", "http://a/")[0] == 0
    assert told("diff", "--extension-dir", ".", "gw.yaml", "gw.yaml")[0] == 0
    assert told("schema", "--extension-dir", ".", "gw.yaml")[0] == 0


def test_what_is_installed_cannot_be_replaced(folder):
    (folder / "json.py").write_text("raise RuntimeError")
    (folder / "fastgw.py").write_text("raise RuntimeError")
    assert told("check", "--extension-dir", ".", "gw.yaml")[0] == 0
    assert sys.path.index(str(folder)) == len(sys.path) - 1


def test_a_directory_that_everybody_may_write_to_is_refused(folder):
    folder.chmod(0o777)
    code, output = told("check", "--extension-dir", ".", "gw.yaml")
    assert code == 2
    assert "is writable by every user" in " ".join(output.split())
    assert str(folder) not in sys.path


@pytest.mark.parametrize(("name", "why"), [("none", "No such file or directory"), ("gw.yaml", "is not a directory")])
def test_a_directory_that_is_none_is_refused(folder, name, why):
    code, output = told("check", "--extension-dir", name, "gw.yaml")
    assert code == 2
    assert why in " ".join(output.split())


def test_filters_says_what_a_name_of_the_configuration_is(folder):
    options = ("--file", "gw.yaml", "--extension-dir", ".")
    name = (folder / "module").read_text()
    code, output = told("filters", "nothing", *options)
    assert code == 0
    assert output.startswith(f"filters.nothing: a {name}:Mine filter named nothing\n{name}:Mine (phase transform")
    code, output = told("filters", "who", *options)
    assert code == 0
    assert output.startswith("routes.a.filters.who: a request_id filter named who\nrequest_id (phase ")
    code, output = told("filters", "nobody", *options)
    assert code == 1
    assert output.startswith('fastgw: unknown filter type "nobody"; expected one of ')
    code, output = told("filters", "who")
    assert code == 1
    assert output.endswith("; for a filter of a configuration: fastgw filters who --file FILE\n")
