"""What a hunt has found is judged alike ever after."""

import pytest

from tests.fuzz import sides
from tests.fuzz.cases import FOUND, Case
from tests.fuzz.sides import Side


@pytest.fixture(scope="module")
def reference() -> Side:
    return sides.in_plain_python()


def test_what_was_found_makes_no_difference(reference: Side):
    twin = sides.as_this_process_has_it()
    for file in sorted(FOUND.glob("*")):
        Case.read(file.read_bytes()).judge(reference, twin)
