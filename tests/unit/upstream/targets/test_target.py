"""What the targets of an upstream are called: each has counts, an error and a verdict of its own."""

from fastgw.config.base.value_types import parse_url
from fastgw.config.settings import gateway as settings
from fastgw.shm.health_words import Ejection, HealthVerdict
from fastgw.shm.last_errors import TEXT_BYTES, LastErrors
from fastgw.shm.memory import Layout, SharedMemory
from fastgw.shm.slot_assignment import SlotNames, first
from fastgw.shm.upstream_words import TargetWords
from fastgw.upstream.targets.target import build_targets, labels_of


def test_targets_of_one_address_are_told_by_their_paths() -> None:
    urls = [parse_url(each) for each in ("http://a/x", "http://a/y", "http://b/x", "http://a:81/x")]
    assert labels_of(urls) == ["a:80/x", "a:80/y", "b:80", "a:81"]
    assert labels_of(urls[1:]) == ["a:80", "b:80", "a:81"]


def test_targets_of_one_address_have_verdicts_of_their_own() -> None:
    """`http://a/x` is ejected, `http://a/y` goes on."""
    upstream = settings.Upstream(
        targets=tuple(settings.Target(url=parse_url(each)) for each in ("http://a/x", "http://a/y"))
    )
    layout = Layout()
    words = TargetWords(layout)
    shared = SharedMemory.create(layout, 1)
    slot_table = first(SlotNames(upstreams={"u": [target.label for target in build_targets(upstream)]}))
    one, other = slot_table.targets["u a:80/x"], slot_table.targets["u a:80/y"]
    words.health.eject(shared.columns[0], one, Ejection(1005.0, 1))
    assert words.verdict(shared, one, 1000.0) is HealthVerdict.EJECTED
    assert words.verdict(shared, other, 1000.0) is HealthVerdict.UNKNOWN


def test_a_target_that_is_called_otherwise_now_is_made_anew() -> None:
    """One of the same address has come: what was counted by the address alone is not taken for either's."""
    one = settings.Upstream(targets=(settings.Target(url=parse_url("http://a/x")),))
    (before,) = build_targets(one)
    known = {one.targets[0].url: before}
    assert build_targets(one, None, known) == (before,)
    two = settings.Upstream(targets=(*one.targets, settings.Target(url=parse_url("http://a/y"))))
    assert [target.label for target in build_targets(two, None, known)] == ["a:80/x", "a:80/y"]


def test_the_newest_error_of_all_workers_is_told() -> None:
    """A long reason is cut; a name that has come to the place since has no error."""
    layout = Layout()
    errors = LastErrors(layout)
    shared = SharedMemory.create(layout, 2)
    slot_table = first(SlotNames(routes=("r",), upstreams={"u": ["a:80", "b:80"]}))
    errors.note_target(shared.columns[0], slot_table, "u a:80", "connect_refused", "ECONNREFUSED")
    errors.note_target(shared.columns[1], slot_table, "u a:80", "tls_failed", "é" * 400)
    errors.note_target(shared.columns[1], slot_table, "u nobody:80", "tls_failed", "")
    errors.note_route(shared.columns[0], slot_table, "r", "no_healthy_target", "")
    (found,) = errors.of_targets(shared.views, slot_table).items()
    assert found[0] == "u a:80"
    assert (found[1].fault, found[1].reason) == ("tls_failed", "é" * ((TEXT_BYTES - len("tls_failed ")) // 2))
    route = errors.of_routes(shared.views, slot_table)["r"]
    assert (route.fault, route.reason) == ("no_healthy_target", "")
    assert not errors.of_targets(shared.views, first(SlotNames(upstreams={"v": ["c:80"]})))
