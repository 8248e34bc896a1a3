"""The chart as Helm itself reads it: what it renders is what the other tests of the chart render without it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.forked import FASTGW
from tests.unit.package.test_deploy_gateway import CHART, CHARTED

HELM = Path(FASTGW).parent.parent / "helm" / "bin" / "helm"


def helm(*arguments: str) -> str:
    if not HELM.exists():
        pytest.fail(f"helm is not installed: make {HELM.relative_to(Path.cwd())}")
    return subprocess.run([HELM, *arguments], capture_output=True, check=True, text=True, timeout=60).stdout


def test_helm_finds_no_fault_in_the_chart() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_helm_renders_what_is_tested() -> None:
    rendered = yaml.safe_load_all(helm("template", "fastgw", str(CHART), "--namespace", "fastgw-system"))
    made = {(item["kind"], item["metadata"]["name"]): item for item in rendered}
    assert made == {(item["kind"], item["metadata"]["name"]): item for item in CHARTED.values()}
