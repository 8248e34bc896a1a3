"""What `bench.knobs` makes of its samples, and how it puts them into tuning.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.document import put
from bench.knobs import profile
from bench.knobs.capacity import MIXES, SURCHARGES, capacity, costs_of
from bench.knobs.knobs import KEPT, KNOBS, MAY_FAIL, NEW, TCP, TLS
from bench.knobs.profile import COLUMNS, OTHER, PROFILES, ROOMS, room_of, shares_of
from bench.knobs.table import TUNING, head, rows
from bench.samples import Measured, Sample

REPORT = """\
 57.46% ;[kernel.kallsyms]
 20.00% ;libpython3.11.so.1.0
  5.00% ;parser.cpython-311-x86_64-linux-gnu.so;[.] __pyx_f_6fastgw_4http_5http1_6parser__read_fields
  5.00% ;recorder.cpython-311-x86_64-linux-gnu.so
  4.00% ;loop.cpython-311-x86_64-linux-gnu.so
  3.00% ;parser.cpython-311-x86_64-linux-gnu.so;[.] llhttp__internal__run
  1.00% ;parser.cpython-311-x86_64-linux-gnu.so;[.] __pyx_f_9httptools_6parser_6parser_cb_on_message_complete
  2.50% ;libc.so.6
  1.00% ;[nf_conntrack]
  1.04% ;libssl.so.3

"""


def sample(round: int, cpu_us: float, rate: float = 1000.0, wrong: int = 0) -> Sample:
    faults = {"wrong status": wrong} if wrong else {}
    return Sample(
        load="load",
        round=round,
        requests=1000,
        seconds=1000 / rate,
        cpu_s=cpu_us * 1000 / 1e6,
        user_s=0.0,
        system_s=0.0,
        figures={"p50_us": 2000.0, "p99_us": 9000.0},
        log_lines=None,
        faults=faults,
    )


def measured(name: str, *cpu_us: float, wrong: int = 0) -> Measured:
    return Measured(name, "1.0", [sample(number, each, wrong=wrong) for number, each in enumerate(cpu_us, 1)])


def test_each_setting_is_compared_with_the_first_one_in_the_same_round():
    first, second = rows("idle", "load", [measured("64", 10.0, 20.0), measured("0", 30.0, 80.0, wrong=250)])
    assert first == "| idle | 64 | 15.00 | 1 | 1,000 | 1 | 2.00 | 9.00 | 0% |"
    assert second == ("|  | 0 | 55.00 | 3.50 [3.00..4.00] | 1,000 | 1.00 [1.00..1.00] | 2.00 | 9.00 | 25% |")
    titles, line = head()
    assert titles.count("|") == line.count("|") == first.count("|")


def test_capacity_adds_the_surcharges_up():
    costs = {("clients", KEPT): 40.0, ("clients", NEW): 100.0}
    costs |= {("upstream", TCP): 30.0, ("upstream", f"{TCP}, {NEW}"): 90.0}
    costs |= {("upstream", TLS): 50.0, ("upstream", f"{TLS}, {NEW}"): 350.0}
    lines = [*capacity(costs)]
    assert "| on kept connections, TCP | 40 |" in lines
    assert [line.split("|")[2].strip() for line in lines if line.startswith("| +")] == ["60", "60", "20", "300"]
    assert "| all connections kept | 40 | 25,000 | 17,500 |" in lines
    assert "| nothing kept | 160 | 6,250 | 4,375 |" in lines
    assert all(place < len(SURCHARGES) for _, shares in MIXES for place in shares)


def test_costs_are_medians_by_knob_and_setting():
    assert costs_of("clients", "load", [measured(KEPT, 10.0, 30.0, 11.0)]) == {("clients", KEPT): pytest.approx(11.0)}


def test_samples_are_attributed_by_shared_object():
    shares = shares_of(REPORT)
    assert {room: round(share, 4) for room, share in shares.items()} == {
        "kernel": 0.5846,
        "Python": 0.2,
        "compiled": 0.1,
        "uvloop": 0.04,
        "llhttp": 0.04,
        "libc": 0.025,
        "nginx": 0.0,
        "other": 0.0104,
    }
    assert set(shares) == {*ROOMS, OTHER} <= {column.heading for column in COLUMNS}


def test_a_module_of_the_standard_library_is_no_twin():
    assert room_of("_asyncio.cpython-311-x86_64-linux-gnu.so") == OTHER


def test_a_profile_ends_with_what_lies_between_the_first_and_the_last():
    def profiled(name: str, cpu_us: float) -> Measured:
        each = sample(1, cpu_us)
        return Measured(name, "1.0", [replace(each, figures={**each.figures, **shares_of(REPORT)})])

    lines = [
        *profile.rows("plain", "load", [profiled("fastgw", 20.0), profiled("other", 9.0), profiled("nginx", 10.0)])
    ]
    assert [line.split(" | ")[:4] for line in lines] == [
        ["| `plain`, load", "fastgw", "20.00", "11.69"],
        ["| ", "other", "9.00", "5.26"],
        ["| ", "nginx", "10.00", "5.85"],
        ["| ", "fastgw less nginx", "10.00", "5.85"],
    ]
    assert {line.count("|") for line in [*lines, *profile.head()]} == {len(COLUMNS) + 3}


@pytest.mark.parametrize("wanted", PROFILES, ids=lambda wanted: wanted.scenario)
def test_what_is_profiled_is_in_its_scenario(wanted: profile.Profile):
    made = wanted.made()
    assert [load.name for load in made.loads] == wanted.loads
    assert [peer.name for peer in made.peers] == wanted.contestants


def test_knobs_have_names_of_their_own_and_something_to_compare():
    scenarios = [make() for make in KNOBS]
    assert [scenario.name for scenario in scenarios] == [make.__name__ for make in KNOBS]
    assert set(MAY_FAIL) <= {scenario.name for scenario in scenarios}
    for scenario in scenarios:
        names = [peer.name for peer in scenario.peers]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["knobs", "capacity", "profile"])
def test_measured_tables_have_their_place(name: str):
    text = Path(TUNING).read_text()
    replaced = put(text, name, ["| a |", "| --- |"])
    assert f"<!-- {name}:begin -->\n\n| a |\n| --- |\n\n<!-- {name}:end -->" in replaced
    assert put(replaced, name, ["| a |", "| --- |"]) == replaced


def test_a_document_without_the_place_is_refused():
    with pytest.raises(ValueError, match="<!-- knobs:begin -->"):
        put("# Nothing\n", "knobs", [])
