"""The configurations of fastgw in the benchmark are good ones, and say what differs in each scenario."""

import json
import subprocess
from types import MappingProxyType

import pytest

from bench.peers import Fastgw
from bench.peers.egress import EgressFastgw
from bench.peers.launchers.with_noop import Noop
from bench.peers.programs import find_program
from bench.scenarios import SCENARIOS
from bench.scenarios.filters import LAUNCHER
from fastgw import config
from fastgw.filters import TYPES

ALL_TYPES = MappingProxyType({**TYPES, Noop.type_name: Noop})
PEERS = {
    f"{scenario.name}: {peer.name}": (scenario, peer)
    for scenario in SCENARIOS.values()
    for peer in scenario.peers
    if type(peer) is Fastgw and peer.routes < 10_000  # which differ from fewer in their number alone
}


@pytest.mark.parametrize(("scenario", "peer"), PEERS.values(), ids=PEERS)
def test_a_configuration_is_good(scenario, peer, tmp_path):
    scenario.prepare(tmp_path)
    folder = tmp_path / "fastgw"
    folder.mkdir()
    file = folder / "fastgw.json"
    file.write_text(json.dumps(peer._configuration(9001, tmp_path / "access.log")))
    loaded = config.load(str(file), ALL_TYPES)
    assert len(loaded.config.routes) == peer.routes
    assert loaded.config.workers == peer.workers


def test_what_launches_fastgw_with_a_filter_more_runs_it_with_that_filter(tmp_path):
    (peer,) = (peer for peer in SCENARIOS["filters"].peers if peer.name == "fastgw, 4 filters")
    assert LAUNCHER in peer.command
    file = tmp_path / "fastgw.json"
    file.write_text(json.dumps(peer._configuration(9001, tmp_path / "access.log")))
    checked = subprocess.run([*peer.command, "check", file], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, f"{file}: configuration is valid\n"), checked.stderr


def test_what_a_scenario_adds_is_merged_into_listener_and_upstream(tmp_path):
    added = {
        "listener": {"protocols": ["http1"]},
        "upstream": {"pool": {"max_idle": 1}},
        "timeouts": {"keepalive": "1h"},
    }
    made = Fastgw(config=added)._configuration(9001, tmp_path / "access.log")
    assert made["listeners"]["public"] == {"address": "127.0.0.1:0", "protocols": ["http1"]}
    assert made["upstreams"]["origin"]["pool"] == {"max_idle": 1}
    assert made["upstreams"]["origin"]["host_header"] == "preserve"
    assert made["timeouts"] == {"keepalive": "1h"}


def test_calls_of_applications_have_a_token_each(tmp_path):
    (tmp_path / "fastgw").mkdir()
    file = tmp_path / "fastgw" / "fastgw.json"
    made = EgressFastgw(apps=3, services=2)._configuration(9001, tmp_path / "fastgw" / "access.log")
    file.write_text(json.dumps(made))
    loaded = config.load(str(file), ALL_TYPES).config
    assert len([route for route in loaded.routes if "credentials" in route.filters]) == 6


def test_programs_of_a_newer_debian_run_by_its_loader_on_its_libraries(tmp_path):
    root = tmp_path / "trixie"
    for file in ("usr/sbin/nginx", "usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libc.so.6"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    nginx = find_program("nginx", root)
    assert nginx.command == (
        f"{root}/usr/lib64/ld-linux-x86-64.so.2",
        "--library-path",
        f"{root}/usr/lib/x86_64-linux-gnu",
        f"{root}/usr/sbin/nginx",
    )
    assert nginx.version("1.26.3") == "1.26.3 (Debian trixie)"
    assert nginx.version(None) is None
    own = find_program("nginx", tmp_path)
    assert (len(own.command), own.version("1.22.1")) == (1, "1.22.1")
