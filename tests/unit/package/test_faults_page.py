"""docs/reference/faults.md has every fault and every event, as the tables in the code have them."""

import re
from pathlib import Path

from fastgw.errors import Fault
from fastgw.operator_events import LEVELS, OperatorEvent

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "faults.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]


def test_every_fault_says_what_it_means_what_to_look_at_and_what_to_do() -> None:
    told = [row for row in ROWS if len(row) == 6]
    assert [tuple(row[:3]) for row in told] == [
        (f"`{each.label}`", f"{each.status}", each.side.value) for each in Fault
    ]
    assert all(re.fullmatch(r".{10,}[.]", text) for row in told for text in row[3:])


def test_every_event_has_its_level_and_meaning() -> None:
    names = {number: name for name, number in LEVELS.items()}
    told = [tuple(row) for row in ROWS if len(row) == 3]
    assert told == [(f"`{each.label}`", names[each.level], each.meaning) for each in OperatorEvent]
