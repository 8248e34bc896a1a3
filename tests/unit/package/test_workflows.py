"""Workflows of CI and release, which run elsewhere: they have the schema, and name what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOBS: dict[str, Any] = {
    f"{file.stem}/{name}": job for file in FILES for name, job in yaml.safe_load(file.read_text())["jobs"].items()
}


def test_workflows_have_the_schema() -> None:
    judge = Path(sys.executable).with_name("check-jsonschema")
    command = [judge, "--builtin-schema", "vendor.github-workflows", *FILES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ok -- validation done\n"), done.stdout


@pytest.mark.parametrize("name", JOBS)
def test_commands_are_shell_and_name_what_is_there(name: str) -> None:
    for step in JOBS[name]["steps"]:
        script = re.sub(r"\$\{\{.*?\}\}", "value", step.get("run", ""))
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
        for target in re.findall(r"^make (\S+)", script, re.MULTILINE):
            assert f"\n{target}:" in (ROOT / "Makefile").read_text()
        if script.startswith((".", "tests/")):
            assert (ROOT / script.split()[0]).exists()


@pytest.mark.parametrize("name", JOBS)
def test_each_of_several_jobs_has_an_artifact_of_its_own(name: str) -> None:
    """Two of one name are an error, and so are two files of one name in what is published."""
    for step in JOBS[name]["steps"]:
        if step.get("uses", "").startswith("actions/upload-artifact@"):
            for key in JOBS[name].get("strategy", {}).get("matrix", {}):
                assert f"matrix.{key}" in step["with"]["name"]
