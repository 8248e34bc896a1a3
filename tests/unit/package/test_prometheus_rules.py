"""The rules for Prometheus, and the alerts of the guide: evaluated by Prometheus' own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "slo.yml"
GUIDE = ROOT / "docs" / "guides" / "observing.md"


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    assert program is not None, "promtool is missing: `make programs`"
    ended = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.extended
def test_alerts_on_objectives_fire_when_they_should(tmp_path: Path) -> None:
    cases = Path(__file__).with_name("slo_rules_test.yml").read_text()
    (tmp_path / "test.yml").write_text(cases.replace("RULES", str(RULES)))
    promtool("test", "rules", str(tmp_path / "test.yml"))


def test_the_rules_name_metrics_that_exist() -> None:
    known = (ROOT / "tests" / "contract" / "metrics.txt").read_text()
    for name in set(re.findall(r"\bfastgw_\w+", RULES.read_text())):
        assert f"{name} " in known


@pytest.mark.extended
def test_the_alerts_of_the_guide_are_rules(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(groups:.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "guide.yml").write_text(block)
    promtool("check", "rules", str(tmp_path / "guide.yml"))
