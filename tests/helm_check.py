"""What Helm renders of the chart, for `make helm-check`. `make test` renders it by itself, without Helm."""

import os
import subprocess

import yaml

from tests.unit.package.test_deploy_gateway import CHART, CHARTED


def test_helm_renders_what_is_tested() -> None:
    command = [os.environ["HELM"], "template", "fastgw", str(CHART), "--namespace", "fastgw-system"]
    done = subprocess.run(command, capture_output=True, check=True)
    made = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout)}
    assert made == {(item["kind"], item["metadata"]["name"]): item for item in CHARTED.values()}
