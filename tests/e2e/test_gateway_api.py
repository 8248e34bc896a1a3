"""Conformance tests of the Gateway API and of Ingress, replayed against a gateway while its watches are cut and lose
their history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent / "gateway_api"
CONFIG = """\
version: 1
admin: null
status: null
access_logs: []
providers:
  kubernetes:
    kubeconfig: kubeconfig
    addresses: {{pool: [127.{block}.0.2-127.{block}.0.99]}}
    port_offset: 20000
"""
LONG_S = 60
"""Longest wait for a single state: all of them take well below a second, on a machine that is idle."""


def test_the_conformance_suites_pass_also_while_watches_are_cut(tmp_path: Path) -> None:
    block = 100 + os.getpid() % 100  # addresses of its own, for tests that run at the same time
    config, report = tmp_path / "gateway.yaml", tmp_path / "report.json"
    config.write_text(CONFIG.format(block=block))
    runner = [sys.executable, str(HERE / "runner.py"), "--suite", "both", "--features", "all", "--chaos", "3"]
    runner += ["--gateway-json", str(HERE / "gateway-api.json"), "--schemas", str(HERE / "gateway-api-schemas.json")]
    runner += ["--ingress-json", str(HERE / "ingress.json")]
    runner += ["--controller-name", "fastgw.dev/gateway-controller", "--port-offset", "20000"]
    runner += ["--ingress-controller", "fastgw.dev/ingress-controller"]
    runner += ["--usable-address", f"127.{block}.0.98", "--max-wait", str(LONG_S), "--settle", "0.2"]
    runner += ["--work", str(tmp_path), "--report", str(report)]
    gateway = [sys.executable, "-m", "fastgw", "run", str(config)]
    done = subprocess.run([*runner, "--", *gateway], capture_output=True, text=True, timeout=540, check=False)
    assert report.exists(), done.stdout + done.stderr + (tmp_path / "controller.log").read_text()[-5000:]
    results = json.loads(report.read_text())["results"]
    assert {each["name"]: each["why"] for each in results if each["result"] != "pass"} == {}
    assert len(results) == 43
