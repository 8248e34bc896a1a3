"""Whether a watched file has changed."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastgw.config import Source
from fastgw.config.sources.files import pattern_name
from fastgw.runtime.reload.file_watch import FileWatch, SourceWatch


def watching(*paths: Path) -> FileWatch:
    watch = FileWatch()
    watch.watch(map(str, paths))
    assert watch.changed()
    return watch


def test_nobody_knows_what_has_become_of_a_file_before_the_first_look(tmp_path):
    (tmp_path / "a").write_text("one")
    watch = watching(tmp_path / "a")
    assert not watch.changed()
    watch.watch([str(tmp_path / "a"), str(tmp_path / "b")])
    assert watch.changed()
    assert not watch.changed()


def test_a_file_that_is_left_alone_has_not_changed(tmp_path):
    (tmp_path / "a").write_text("one")
    watch = watching(tmp_path / "a")
    assert not watch.changed()
    assert not watch.changed()


def test_each_change_is_told_once(tmp_path):
    (tmp_path / "a").write_text("one")
    watch = watching(tmp_path / "a")
    (tmp_path / "a").write_text("three")
    assert watch.changed()
    assert not watch.changed()


def test_another_file_in_its_place_is_a_change(tmp_path):
    (tmp_path / "a").write_text("one")
    watch = watching(tmp_path / "a")
    (tmp_path / "b").write_text("two")
    os.replace(tmp_path / "b", tmp_path / "a")
    assert watch.changed()


def test_a_folder_that_is_swapped_below_a_link_is_a_change(tmp_path):
    for name, text in (("v1", "one"), ("v2", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cert").write_text(text)
    (tmp_path / "current").symlink_to("v1")
    watch = watching(tmp_path / "current" / "cert")
    (tmp_path / "next").symlink_to("v2")
    os.replace(tmp_path / "next", tmp_path / "current")
    assert watch.changed()


def test_going_and_coming_are_changes(tmp_path):
    watch = watching(tmp_path / "a")
    assert not watch.changed()
    (tmp_path / "a").write_text("one")
    assert watch.changed()
    (tmp_path / "a").unlink()
    assert watch.changed()


def test_what_is_watched_anew_keeps_what_was_seen_of_it(tmp_path):
    (tmp_path / "a").write_text("one")
    watch = watching(tmp_path / "a")
    (tmp_path / "a").write_text("three")
    watch.watch([str(tmp_path / "a")])
    assert watch.changed()


def following(folder: Path) -> list[Source]:
    (folder / "gateway.yaml").write_text("include: [conf.d/*.yaml]")
    (folder / "conf.d").mkdir()
    return [Source(str(folder / "gateway.yaml"), b"include: [conf.d/*.yaml]")]


def test_a_configuration_that_is_left_alone_has_settled_once_where_nobody_knows_what_was_taken(tmp_path):
    sources = following(tmp_path)
    for taken, told in ((True, []), (False, [1])):
        watch = SourceWatch()
        assert [look for look in range(4) if watch.settled(sources, posted=taken)] == told


def test_a_change_is_told_once_and_not_before_it_stands_still(tmp_path):
    sources, watch = following(tmp_path), SourceWatch()
    assert not watch.settled(sources, posted=True)
    for text in ("", "include: []", "include: [] # longer"):  # as an editor that writes in steps
        (tmp_path / "gateway.yaml").write_text(text)
        assert not watch.settled(sources, posted=True)
    assert [watch.settled(sources, posted=True) for _ in range(3)] == [True, False, False]


def test_a_file_that_comes_to_be_included_is_a_change_and_its_end_another(tmp_path):
    sources, watch = following(tmp_path), SourceWatch()
    assert not watch.settled(sources, posted=True)
    (tmp_path / "conf.d" / "a.yaml").write_text("routes: []")
    assert [watch.settled(sources, posted=True) for _ in range(3)] == [False, True, False]
    (tmp_path / "conf.d" / "a.yaml").unlink()
    assert [watch.settled(sources, posted=True) for _ in range(3)] == [False, True, False]


def test_what_is_back_as_it_was_before_anybody_was_told_is_no_change(tmp_path):
    sources, watch = following(tmp_path), SourceWatch()
    assert not watch.settled(sources, posted=True)
    os.rename(tmp_path / "gateway.yaml", tmp_path / "away")
    assert not watch.settled(sources, posted=True)
    os.rename(tmp_path / "away", tmp_path / "gateway.yaml")
    assert [watch.settled(sources, posted=True) for _ in range(3)] == [False, False, False]


def test_what_was_posted_is_no_change_of_files_that_it_names_or_no_longer_names(tmp_path):
    sources, watch = following(tmp_path), SourceWatch()
    (tmp_path / "conf.d" / "a.yaml").write_text("routes: []")
    assert [watch.settled(sources, posted=False) for _ in range(3)] == [False, True, False]
    targets = [*sources, Source("upstreams.u.targets", b"[]", upstream="u")]
    alone = [Source(sources[0].name, b"version: 1")]
    for posted in (targets, alone, targets, sources):
        assert [watch.settled(posted, posted=True) for _ in range(3)] == [False] * 3
    (tmp_path / "gateway.yaml").write_text("include: []")
    assert [watch.settled(targets, posted=True) for _ in range(3)] == [False, True, False]


def test_of_a_pattern_what_it_finds_is_watched(tmp_path):
    (tmp_path / "a.yaml").write_text("one")
    pattern = f"\0{tmp_path}/*.yaml"
    watch = FileWatch()
    watch.watch([pattern])
    assert watch.changed()
    assert not watch.changed()
    (tmp_path / "b.yaml").write_text("two")
    assert watch.changed()
    (tmp_path / "b.txt").write_text("two")
    assert not watch.changed()
    (tmp_path / "a.yaml").unlink()
    assert watch.changed()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Without a descriptor that is free, as the kernel says it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_pattern_that_cannot_be_looked_at_has_not_changed_yet(tmp_path):
    (tmp_path / "one.yaml").write_text("[]")
    watch = FileWatch()
    watch.watch([pattern_name(str(tmp_path), "*.yaml")])
    assert watch.changed()
    (tmp_path / "two.yaml").write_text("[]")
    with no_descriptors():
        assert not watch.changed()
    assert watch.changed()
    assert not watch.changed()


def test_includes_that_cannot_be_looked_at_have_not_changed_yet(tmp_path):
    main = tmp_path / "gateway.yaml"
    main.write_text('include: ["routes/*.yaml"]\n')
    (tmp_path / "routes").mkdir()
    sources, watch = [Source(str(main), main.read_bytes())], SourceWatch()
    with no_descriptors():
        assert not watch.settled(sources, posted=True)
    assert not watch.settled(sources, posted=True)
    assert not watch.settled(sources, posted=True)  # the first look takes them as they are
    (tmp_path / "routes" / "one.yaml").write_text("{}")
    assert not watch.settled(sources, posted=True)
    with no_descriptors():
        assert not watch.settled(sources, posted=True)
    assert watch.settled(sources, posted=True)


def test_a_change_that_could_not_be_loaded_is_told_again(tmp_path):
    main = tmp_path / "gateway.yaml"
    main.write_text("{}")
    sources, watch = [Source(str(main), b"{}")], SourceWatch()
    assert not watch.settled(sources, posted=False)
    assert watch.settled(sources, posted=False)
    assert not watch.settled(sources, posted=False)
    watch.forget_settled()
    assert watch.settled(sources, posted=False)


def test_a_change_that_could_not_be_loaded_is_not_loaded_over_what_was_posted_later(tmp_path):
    main = tmp_path / "gateway.yaml"
    main.write_text("{}")
    sources, watch = [Source(str(main), b"{}")], SourceWatch()
    assert [watch.settled(sources, posted=False) for _ in range(3)] == [False, True, False]
    main.write_text("version: 1")
    assert [watch.settled(sources, posted=False) for _ in range(2)] == [False, True]
    watch.forget_settled()
    posted = [Source(str(main), b"version: 1 # posted")]
    assert [watch.settled(posted, posted=True) for _ in range(3)] == [False] * 3
    main.write_text("version: 1 # later")
    assert [watch.settled(posted, posted=True) for _ in range(3)] == [False, True, False]
    watch.forget_settled()
    assert [watch.settled(posted, posted=True) for _ in range(2)] == [True, False]
