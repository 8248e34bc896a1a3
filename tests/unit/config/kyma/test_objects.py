"""Objects of Kubernetes in files: each by itself, with its place, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.config.kyma.objects import ObjectFile
from fastgw.config.sources import virtual_files
from fastgw.config.sources.files import Disk, Memory, found_by_patterns, read_again
from fastgw.runtime.reload.file_watch import FileWatch

STREAM = b"""\
# of a team
---
apiVersion: v1
kind: Secret
metadata: {name: shop-credentials, namespace: kyma-system}
---
# nothing but words
---
apiVersion: v1
kind: List
items:
  - apiVersion: applicationconnector.kyma-project.io/v1alpha1
    kind: Application
    metadata:
      name: shop
"""


def said_of(file: ObjectFile) -> list[str]:
    return [str(problem) for problem in file.problems]


def test_objects_of_a_stream_and_of_lists_each_have_their_place() -> None:
    file = ObjectFile("/apps/shop.yaml", STREAM)
    secret, application = file.objects
    assert file.problems == []
    assert (secret.kind, secret.name, secret.namespace, secret.location) == (
        "Secret",
        "shop-credentials",
        "kyma-system",
        "/apps/shop.yaml:3",
    )
    assert (application.called, application.location) == ("Application/shop", "/apps/shop.yaml:12")
    told = str(application.problem(("metadata", "name"), "no name", "expected one"))
    assert told == "/apps/shop.yaml:15:7: Application/shop: metadata.name: no name; expected one"


def test_json_is_an_object_or_a_list_whose_elements_are_of_its_kind() -> None:
    text = b'{"apiVersion": "v1", "kind": "SecretList",\n "items": [{"metadata": {"name": "a"}}]}'
    (secret,) = ObjectFile("/apps/a.json", text).objects
    assert (secret.called, secret.version, secret.location) == ("Secret/a", "v1", "/apps/a.json:2")
    bare = ObjectFile("/apps/b.json", b'[{"apiVersion": "v1", "kind": "Secret"}]')
    assert [each.called for each in bare.objects] == ["Secret"]


def test_what_a_watch_says_has_no_lines() -> None:
    content = json.dumps([{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}]).encode()
    (secret,) = ObjectFile(virtual_files.watched_name("kyma"), content).objects
    assert secret.location == "kubernetes://kyma"
    assert str(secret.problem(("data",), "empty")) == "kubernetes://kyma: Secret/a: data: empty"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (b"4", "/a.yaml:4:1: 4; expected an object"),
        (b"kind: Secret", "/a.yaml:4:1: no `apiVersion` and `kind`; expected a Kubernetes object"),
        (
            b"{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {x: eA==, x: eQ==}}",
            "/a.yaml:4:60: Secret/a: data.x: duplicate key",
        ),
    ],
)
def test_what_is_wrong_with_one_object_leaves_the_others(wrong: bytes, told: str) -> None:
    file = ObjectFile("/a.yaml", b"apiVersion: v1\nkind: One\n---\n" + wrong + b"\n---\napiVersion: v1\nkind: Two\n")
    assert [each.kind for each in file.objects] == ["One", "Two"]
    assert said_of(file) == [told]
    assert file.flaw is None


@pytest.mark.parametrize("broken", [b"stringData: {password: !hunter2}", b"password: *hunter2", b"password: [hunter2"])
def test_a_text_that_is_no_yaml_ends_there_and_is_not_shown(broken: bytes) -> None:
    file = ObjectFile("/a.yaml", b"apiVersion: v1\nkind: One\n---\n" + broken + b"\n")
    assert [each.kind for each in file.objects] == ["One"]
    assert file.flaw is not None
    assert said_of(file) == [str(file.flaw)]
    assert "hunter2" not in str(file.flaw)
    assert str(file.objects[0].problem(("kind",), "x")).startswith("/a.yaml:2:1:")


@pytest.mark.parametrize("broken", [b"? [a]\n: b", b"&a x: 1\n*a : 2", b"? {a: b}\n: c", b"[" * 2000, b"{a: " * 2000])
def test_what_stands_before_a_text_that_is_not_read_keeps_its_place(broken: bytes) -> None:
    file = ObjectFile("/a.yaml", b"apiVersion: v1\nkind: One\n---\n4\n---\n" + broken + b"\n")
    assert file.flaw is not None
    assert said_of(file) == ["/a.yaml:4:1: 4; expected an object", str(file.flaw)]
    assert str(file.objects[0].problem(("kind",), "x")).startswith("/a.yaml:2:1:")


def test_bytes_that_are_no_text_are_told_with_their_place() -> None:
    file = ObjectFile("/a.yaml", b"a: b\nc: \xff")
    assert said_of(file) == ["/a.yaml:2:4: not UTF-8"]


@pytest.fixture
def watched() -> Iterator[str]:
    name = virtual_files.watched_name("a-test")
    yield name
    virtual_files._contents.pop(name, None)


def test_what_a_watch_says_is_read_like_a_file(watched: str) -> None:
    """Nothing before it has said anything; what is in force until then; and then its last word."""
    assert Disk().read(watched) == b"[]"
    virtual_files.remember(watched, b'["in force"]')
    disk = Disk()
    assert disk.read(watched) == b'["in force"]'
    watch = FileWatch()
    watch.watch([watched])
    watch.changed()
    assert not watch.changed()
    virtual_files.set_content(watched, b'["said"]')
    assert watch.changed()
    assert not watch.changed()
    virtual_files.set_content(watched, b'["said"]')
    virtual_files.remember(watched, b'["in force"]')
    assert not watch.changed()
    assert disk.read(watched) == b'["in force"]', "each file is read once"
    assert read_again(disk.contents_read) == {watched: b'["said"]'}
    assert found_by_patterns(disk.contents_read) == {watched}


def test_derived_files_are_on_no_disk_and_in_no_memory(tmp_path: Path) -> None:
    """They are made anew with what they come from; until then they are as they were."""
    name = virtual_files.derived_name("kyma-system", "a", "headers", "X/Y", "0")
    assert name == "kyma://kyma-system/a/headers/X%2FY/0"
    file = tmp_path / "file"
    file.write_bytes(b"1")
    disk = Disk()
    disk.derive(name, b"secret")
    disk.read(str(file))
    assert disk.read(name) == b"secret"
    assert Memory(disk.contents_read).contents_read == {str(file): b"1"}
    file.write_bytes(b"22")
    assert read_again(disk.contents_read) == {str(file): b"22", name: b"secret"}
