"""A table as one test fails with each row that fails, and gives the test what a fixture gives."""

import pytest

from tests.support.table import for_each


def test_rows_that_fail_are_named_and_the_others_are_tried():
    tried = []

    @for_each(("number", "text"), [(1, "a"), (2, "b"), pytest.param(3, "c", id="third")])
    @for_each("even", [True, False])
    def table(number, text, even):
        tried.append((number, text, even))
        assert (number % 2 == 0) is even

    with pytest.raises(BaseExceptionGroup) as failed:
        table()
    assert len(tried) == 6
    rows = [error.__notes__ for error in failed.value.exceptions]
    assert rows == [[f"in the row {{'number': {n}, 'text': '{text}'}}"] for n, text in ((1, "a"), (2, "b"), (3, "c"))]
    notes = [each.__notes__ for error in failed.value.exceptions for each in error.exceptions]
    assert notes == [["in the row {'even': True}"], ["in the row {'even': False}"], ["in the row {'even': True}"]]


@for_each("row", ["a", "b"])
def test_a_table_has_its_fixtures(row, tmp_path):
    (tmp_path / row).touch(exist_ok=False)
