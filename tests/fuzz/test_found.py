"""What a hunt has found is judged alike ever after."""

from tests.fuzz.cases import FOUND, Case


def test_what_was_found_makes_no_difference() -> None:
    for file in sorted(FOUND.glob("*")):
        Case.read(file.read_bytes()).judge()
