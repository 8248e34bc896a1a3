"""What is told of a mix of users."""

from bench.load.mix import Mix


def test_each_kind_has_its_percentiles_and_all_of_them_together():
    mix = Mix({"post": [4.0, 2.0], "browse": [float(each) for each in range(1, 101)]}, {})
    assert str(mix).splitlines() == [
        "| request | answered | failed | p50 ms | p90 ms | p99 ms | p99.9 ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| browse | 100 | 0 | 50.00 | 90.00 | 99.00 | 100.00 |",
        "| post | 2 | 0 | 2.00 | 4.00 | 4.00 | 4.00 |",
        "| all | 102 | 0 | 49.00 | 90.00 | 99.00 | 100.00 |",
    ]
    assert mix.failures == 0


def test_what_failed_is_counted_and_the_most_frequent_kinds_are_told():
    mix = Mix({"post": [1.0]}, {"post": {f"status {500 + each}": each for each in range(1, 8)}, "browse": {"lost": 2}})
    table, _, told = str(mix).partition("\n\n")
    assert mix.failures == 30
    assert "| browse | 0 | 2 |  |  |  |  |" in table
    assert told.splitlines() == [
        *(f"- post: status {500 + each}: {each}" for each in (7, 6, 5, 4, 3)),
        "- browse: lost: 2",
    ]
