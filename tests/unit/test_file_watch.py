"""Whether a watched file has changed."""

import os
from pathlib import Path

from fastgw.runtime.files import FileWatch


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
