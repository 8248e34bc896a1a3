"""The names of metrics, with their kinds, labels and meanings: dashboards and alerts hold on to these."""

from pathlib import Path

from fastgw.runtime.node.metrics import FAMILIES

GOLDEN = Path(__file__).parent / "metrics.txt"


def test_the_names_are_the_contract() -> None:
    """The file changes by decision only."""
    lines = (f"{each.name} {each.kind} {{{', '.join(each.labels)}}} {each.text}\n" for each in FAMILIES)
    assert "".join(lines) == GOLDEN.read_text()


def test_no_name_is_given_twice() -> None:
    assert len({each.name for each in FAMILIES}) == len(FAMILIES)
