"""Which objects leave a tier by S3-FIFO: in the order of the queues, and never more than necessary."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.cache.tiers.object_directory import _decode_state, _encode_state
from fastgw.cache.tiers.s3_fifo import MOST_HITS, QueuedObject, QueueState, plan_eviction

STATES = st.builds(QueueState, st.integers(0, 1000), st.booleans(), st.integers(0, MOST_HITS))
OBJECTS = st.lists(st.builds(QueuedObject, STATES, st.integers(1, 100)), max_size=40)
NOW = 2000


class Queues:
    """The model: two lists, one step after another, as in the paper."""

    def __init__(self, objects: list[QueuedObject]) -> None:
        order = sorted(range(len(objects)), key=lambda each: objects[each].state.entered)
        self.sizes = [each.size for each in objects]
        self.hits = [each.state.hits for each in objects]
        self.small = [each for each in order if not objects[each].state.is_main]
        self.main = [each for each in order if objects[each].state.is_main]

    def bytes(self, queue: list[int]) -> int:
        return sum(self.sizes[each] for each in queue)

    def evict_one(self) -> int:
        while True:
            everything = self.bytes(self.small) + self.bytes(self.main)
            if self.small and (not self.main or self.bytes(self.small) >= everything / 10):
                oldest = self.small.pop(0)
                if not self.hits[oldest]:
                    return oldest
                self.hits[oldest] = 0
            else:
                oldest = self.main.pop(0)
                if not self.hits[oldest]:
                    return oldest
                self.hits[oldest] -= 1
            self.main.append(oldest)


@given(OBJECTS, st.integers(0, 2000))
@example([QueuedObject(QueueState(1, False, 1), 10)], 10)
def test_it_evicts_as_the_queues_do_and_no_more_than_is_wanted(objects: list[QueuedObject], wanted: int) -> None:
    model, expected, freed = Queues(objects), [], 0
    while freed < wanted and len(expected) < len(objects):
        expected.append(model.evict_one())
        freed += objects[expected[-1]].size
    changes = plan_eviction(objects, wanted, NOW)
    assert sorted(index for index, state in changes.items() if state is None) == sorted(expected)
    left = [changes.get(index, each.state) for index, each in enumerate(objects)]
    assert [each and each.hits for each in left] == [
        None if index in expected else model.hits[index] for index in range(len(objects))
    ]
    for queue, is_main in ((model.small, False), (model.main, True)):
        there = [
            (each.entered, index) for index, each in enumerate(left) if each is not None and each.is_main == is_main
        ]
        assert [index for _, index in sorted(there)] == queue


@given(st.builds(QueueState, st.integers(0, 1 << 62), st.booleans(), st.integers(0, MOST_HITS)))
def test_a_state_fits_into_the_time_of_a_file(state: QueueState) -> None:
    kept = _decode_state(_encode_state(state))
    assert kept[1:] == state[1:]
    assert 0 <= state.entered - kept.entered < 8
    in_seconds = _decode_state(_encode_state(state) // 1_000_000_000 * 1_000_000_000)
    assert in_seconds[1:] == state[1:]
