"""What cannot be done is told in one line, with exit code 2, before anything is measured or installed."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bench import __main__ as commands
from bench import readme, report
from bench.scenarios import SCENARIOS

KEPT = {
    "scenario": "plain",
    "about": {"date": "2026-11-20T09:15Z"},
    "effort": {"rounds": 1, "seconds": 1, "cores": [0, 1]},
    "void": [],
    "contestants": [],
}
LOADED = SCENARIOS["plain"].tables[0].load
NO_FIGURES = {
    "load": LOADED,
    "round": 1,
    "requests": 1,
    "seconds": 1.0,
    "cpu_s": 1.0,
    "user_s": 0.5,
    "system_s": 0.5,
    "figures": {},
    "log_lines": None,
    "faults": {},
}


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it must be refused before")

    monkeypatch.setattr(commands, "_effort", never)
    monkeypatch.setattr(commands, "_measure", never)
    monkeypatch.setattr(commands.comparing, "installed", never)
    monkeypatch.setattr(commands, "RESULTS", tmp_path / "results")


def told(*arguments: object) -> str:
    """The line that refuses this command."""
    result: Result = CliRunner().invoke(commands.app, [*map(str, arguments)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("bench: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("bench: ").rstrip("\n")


@pytest.mark.parametrize("revisions", [["HEAD"], ["HEAD", "HEAD"]])
def test_one_revision_is_compared_with_nothing(revisions: list[str]) -> None:
    assert told("compare", *revisions).endswith("expected two or more different revisions, such as main HEAD")


def test_revisions_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.comparing, "_is_known", lambda revision: revision == "HEAD")
    assert told("compare", "HEAD", "no-such", "neither") == "no such revision: no-such, neither"


def test_git_knows_which_revisions_are_there() -> None:
    assert not commands.comparing._is_known("no-such-revision")


def test_a_name_that_no_contestant_has() -> None:
    names = "fastgw, nginx, haproxy, envoy, caddy"
    assert told("plain", "--only", "fastgw,ngnix,apache") == f"--only: unknown: apache, ngnix; expected some of {names}"


def test_results_that_could_not_be_kept_are_not_measured(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    assert told("churn") == f"{tmp_path / 'results'}: Not a directory; --no-save measures all the same"
    assert told("plot") == f"{tmp_path / 'results'}: Not a directory"


def test_a_folder_for_results_is_made_and_stays_empty(tmp_path: Path) -> None:
    for _ in range(2):
        report.prepare(tmp_path / "results")
        assert [*(tmp_path / "results").iterdir()] == []


OTHER_FORMS = {
    "no JSON": "# The benchmark\n",
    "no text": "\udcff",
    "a list": "[]",
    "a scenario that is no more": json.dumps({**KEPT, "scenario": "gone"}),
    "without its effort": json.dumps({key: value for key, value in KEPT.items() if key != "effort"}),
    "an earlier sample": json.dumps({**KEPT, "contestants": [{"name": "a", "version": "1", "samples": [{"us": 1}]}]}),
    "no figures": json.dumps({**KEPT, "contestants": [{"name": "a", "version": "1", "samples": [NO_FIGURES]}]}),
}


@pytest.mark.parametrize("text", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_what_is_no_result_is_not_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "plain-2026-11-20T0915Z.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert told("show", file) == f"{file}: no result, or kept by an earlier benchmark in another form"


def test_what_is_no_result_is_not_drawn(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("# fastgw\n")
    assert told("plot", file) == f"{file}: no result, or kept by an earlier benchmark in another form"
    assert told("plot", tmp_path / "none.json") == f"{tmp_path / 'none.json'}: No such file or directory"
    assert told("show", tmp_path / "none.json") == f"{tmp_path / 'none.json'}: No such file or directory"


def test_what_is_no_result_is_not_put_into_the_readme(tmp_path: Path) -> None:
    tmp_path.joinpath("plain-2026-11-20T0915Z.json").write_text("{}")
    with pytest.raises(readme.CannotShow, match="no result in the form of today"):
        readme.write(tmp_path / "README.md", tmp_path)


def test_nobody_listens_where_connections_should_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.holding, "_raise_file_limit", lambda needed: None)  # that of the tests' own process
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert told("hold", url) == f"{url}: no connection can be opened: Connection refused"
