"""Names that are suggested in place of an unknown one."""

from __future__ import annotations

from fastgw.config.base.problems import begin_hints, suggest


def test_the_most_similar_names_are_listed_first_where_none_is_near() -> None:
    begin_hints()
    known = [f"a{number:02}" for number in range(30)] + ["zebra_crossing"]
    listed = suggest("crossing of a street", known)
    assert listed.startswith('expected one of "zebra_crossing", "a')
    assert listed.endswith(" or 15 more")
    assert suggest("crossing of a street", known, ["a29"]).startswith('expected one of "a29", "zebra_crossing", ')
