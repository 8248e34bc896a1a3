"""A configuration that was named relative to a directory that is removed while the gateway runs."""

import shutil
from pathlib import Path

import pytest

from fastgw import config
from fastgw.config import ConfigError
from fastgw.config.sources.documents import patterns_of
from fastgw.filters import TYPES
from fastgw.runtime.reload.file_watch import SourceWatch

TEXT = """
version: 1
listeners: {public: {address: ":0"}}
include: ["routes/*.yaml"]
"""
ROUTE = 'routes: [{name: all, paths: ["/"], respond: {body: ok}}]\n'
FILES = 'routes: [{name: all, paths: ["/*"], files: {root: "%s"}}]\n'


@pytest.fixture(params=["respond", "files"])
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> config.Loaded:
    folder = tmp_path / "current"
    (folder / "routes").mkdir(parents=True)
    (folder / "gateway.yaml").write_text(TEXT)
    (folder / "routes" / "all.yaml").write_text(ROUTE if request.param == "respond" else FILES % tmp_path)
    monkeypatch.chdir(folder)
    read = config.load("gateway.yaml", TYPES)
    shutil.rmtree(folder)
    return read


def test_its_files_can_be_watched_on(loaded: config.Loaded) -> None:
    assert ("", "routes/*.yaml") in patterns_of(loaded.sources)
    watch = SourceWatch()
    assert not watch.settled(loaded.sources, posted=False)
    assert watch.settled(loaded.sources, posted=False)


def test_a_reload_says_that_the_file_cannot_be_read(loaded: config.Loaded) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load("gateway.yaml", TYPES)
    assert [str(each) for each in caught.value.problems] == ["gateway.yaml: cannot be read: No such file or directory"]


def test_contents_of_other_files_are_taken(loaded: config.Loaded) -> None:
    again = config.load_sources(loaded.sources, loaded.captured, TYPES)
    assert [each.name for each in again.config.routes] == ["all"]


def test_another_document_is_taken(loaded: config.Loaded) -> None:
    route = loaded.sources[1].text.decode()
    for name in ("gateway.yaml", loaded.sources[0].name):
        document = TEXT.replace('include: ["routes/*.yaml"]', route).encode()
        assert [each.name for each in config.load_text(document, name, TYPES).config.routes] == ["all"]
