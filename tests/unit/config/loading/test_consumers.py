"""Consumers in the configuration: where they come from, and what is wrong with them, told without their keys."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import pytest

from fastgw.config import ConfigError, Loaded, load, load_sources, load_text
from fastgw.config.loading.writer import effective
from fastgw.config.sources.files import brought_forward, read_again

HEAD = 'version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\n'
PLANTED = "planted-0123456789"


def loaded(folder: Path, text: str, **files: str) -> Loaded:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".yaml").write_text(content)
    (folder / "main.yaml").write_text(HEAD + text)
    return load(str(folder / "main.yaml"), {})


def problems(folder: Path, text: str, **files: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        loaded(folder, text, **files)
    told = [str(each).replace(f"{folder}/", "") for each in raised.value.problems]
    assert PLANTED not in "".join(told)
    assert sha256(PLANTED.encode()).hexdigest() not in "".join(told)
    return told


def names(configuration: Loaded) -> list[str]:
    return [each.name for each in configuration.config.consumers]


def test_consumers_come_from_the_file_its_includes_and_files_of_their_own(tmp_path):
    found = loaded(
        tmp_path,
        "include: [team.yaml]\nconsumer_files: ['d/*.yaml', one.yaml]\nconsumers: [{name: alice, groups: [admin]}]\n",
        team="consumers: [{name: bob}]",
        d__b="consumers: [{name: carl}]",
        d__a="consumers: [{name: dora}, {name: eve}]",
        one="consumers: [{name: fred}]",
    )
    assert names(found) == ["alice", "bob", "dora", "eve", "carl", "fred"]


def test_a_file_that_two_patterns_find_counts_once(tmp_path):
    text = "consumer_files: ['d/*.yaml', 'd/a*', d/a.yaml]\n"
    assert names(loaded(tmp_path, text, d__a="consumers: [{name: dora}]")) == ["dora"]


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("name: alice", "consumers[1].name: the name is already used at main.yaml:3"),
        (
            f"name: bob, key_auth: [{{key: {PLANTED}}}]",
            "consumers[1].key_auth[0].key: the key is already used at main.yaml:3",
        ),
        (
            f"name: bob, key_auth: [{{key_sha256: {sha256(PLANTED.encode()).hexdigest()}}}]",
            "consumers[1].key_auth[0].key_sha256: the key is already used at main.yaml:3",
        ),
        (
            "name: bob, basic_auth: [{username: al, password: other}]",
            "consumers[1].basic_auth[0].username: the username is already used at main.yaml:3",
        ),
        (
            "name: bob, jwt: [{issuer: 'https://i', subject: s}]",
            "consumers[1].jwt[0].subject: the subject of a token is already used at main.yaml:3",
        ),
        (
            "name: bob, certificates: [{san: 'DNS:a'}]",
            "consumers[1].certificates[0].san: the alternative name of a certificate is already used at main.yaml:3",
        ),
    ],
)
def test_what_a_consumer_is_known_by_is_its_own(tmp_path, second, told):
    first = (
        f"name: alice, key_auth: [{{key: {PLANTED}}}], basic_auth: [{{username: al, password: {PLANTED}}}], "
        "jwt: [{issuer: 'https://i', subject: s}], certificates: [{san: 'DNS:a'}]"
    )
    found = problems(tmp_path, f"consumers: [{{{first}}},\n {{{second}}}]\n")
    assert [each.partition(";")[0].partition(" ")[2] for each in found] == [told]


def test_both_places_are_named_across_files(tmp_path):
    (told,) = problems(
        tmp_path,
        f"consumer_files: ['d/*']\nconsumers: [{{name: a, key_auth: [{{key: {PLANTED}}}]}}]\n",
        d__b=f"consumers:\n- name: b\n  key_auth: [{{key: {PLANTED}}}]\n",
    )
    wanted = (
        "d/b.yaml:3:20: consumers[0].key_auth[0].key: the key is already used at main.yaml:4; expected a unique value"
    )
    assert told == wanted


@pytest.mark.parametrize(
    ("consumer", "told"),
    [
        ("name: 'a b'", 'consumers[0].name: "a b" is not a name'),
        ('name: "a\\r\\nX: y"', "consumers[0].name: "),
        (f"name: {'a' * 257}", "consumers[0].name: a name longer than 256 characters"),
        ("groups: [a]", "consumers[0].name: missing"),
        ("name: a, groups: ['x,y']", 'consumers[0].groups[0]: "x,y" is not a name'),
        ("name: a, key_auth: [{}]", "consumers[0].key_auth[0]: expected exactly one of `key` and `key_sha256`"),
        (
            (f"name: a, key_auth: [{{key: {PLANTED}, key_sha256: '{'0' * 64}'}}]"),
            ("consumers[0].key_auth[0]: expected exactly one of `key` and `key_sha256`"),
        ),
        (f"name: a, key_auth: [{{key: '{PLANTED} x'}}]", "consumers[0].key_auth[0].key: not printable ASCII"),
        (f"name: a, key_auth: [{{key: '{PLANTED}ü'}}]", "consumers[0].key_auth[0].key: not printable ASCII"),
        (f"name: a, key_auth: [{{key: {PLANTED * 60}}}]", "consumers[0].key_auth[0].key: a key longer than 1024"),
        ("name: a, key_auth: [{key: ''}]", "consumers[0].key_auth[0].key: the secret is empty"),
        (f"name: a, key_auth: {PLANTED}", "consumers[0].key_auth: a string; expected a list (each element: an object)"),
        (f"name: a, key_auth: [{PLANTED}]", "consumers[0].key_auth[0]: a string; expected an object"),
        (f"name: a, key_auth: [{{key: [{PLANTED}]}}]", "consumers[0].key_auth[0].key: not a valid secret"),
        (f"name: a, hmac: [{PLANTED}]", "consumers[0].hmac[0]: a string; expected"),
        (
            (f"name: a, key_auth: [{{key_sha256: {PLANTED}}}]"),
            "consumers[0].key_auth[0].key_sha256: not a SHA-256 digest",
        ),
        ("name: a, basic_auth: [{username: 'a:b', password: x}]", 'consumers[0].basic_auth[0].username: "a:b" is not'),
        ("name: a, basic_auth: [{username: '', password: x}]", 'consumers[0].basic_auth[0].username: "" is not'),
        (
            f'name: a, basic_auth: [{{username: a, password: "{PLANTED}\\n"}}]',
            "consumers[0].basic_auth[0].password: a control character",
        ),
        (
            ("name: a, certificates: [{}]"),
            "consumers[0].certificates[0]: expected exactly one of `subject`, `san` and `fingerprint_sha256`",
        ),
        (
            ("name: a, certificates: [{subject: CN=x, san: DNS:y}]"),
            "consumers[0].certificates[0]: expected exactly one of `subject`, `san` and `fingerprint_sha256`",
        ),
        ("name: a, certificates: [{fingerprint_sha256: 'aa:bb'}]", "consumers[0].certificates[0].fingerprint_sha256: "),
        ("name: a, api_key: x", "consumers[0].api_key: unknown key"),
    ],
)
def test_what_is_wrong_is_told_without_the_secret(tmp_path, consumer, told):
    found = problems(tmp_path, f"consumers:\n- {{{consumer}}}\n")
    assert any(told in each for each in found), found


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("consumer_files: [none.yaml]", 'consumer_files[0]: "none.yaml": no such file'),
        ("consumer_files: [bad.yaml]", "bad.yaml:1:1: routes: unknown key"),
        ("consumer_files: [list.yaml]", "list.yaml:1:1: a list; expected an object"),
        ("consumer_files: [half.yaml]", "half.yaml:1:13: not valid YAML"),
    ],
)
def test_files_of_consumers_that_are_none(tmp_path, said, told):
    found = problems(tmp_path, said, bad="routes: []", list="[1]", half="consumers: [{name: a\n")
    assert any(told in each for each in found), found


def test_a_pattern_that_finds_nothing_is_noted(tmp_path):
    (note,) = loaded(tmp_path, "consumer_files: ['d/*.yaml']\n").notes
    assert note.wrong == '"d/*.yaml" matches no file'


def test_no_key_is_written_or_shown(tmp_path):
    found = loaded(
        tmp_path,
        f"consumers: [{{name: a, key_auth: [{{key: {PLANTED}}}], "
        f"basic_auth: [{{username: u, password: {PLANTED}}}]}}]\n",
    )
    shown = json.dumps(effective(found.config)) + repr(found.config) + repr(found)
    assert PLANTED not in shown


def test_digests_and_fingerprints_are_read_as_tools_write_them(tmp_path):
    digest = sha256(b"x").hexdigest()
    colons = ":".join(digest[at : at + 2] for at in range(0, 64, 2)).upper()
    found = loaded(
        tmp_path,
        f"consumers: [{{name: a, key_auth: [{{key_sha256: {digest.upper()}}}], "
        f"certificates: [{{fingerprint_sha256: '{colons}'}}]}}]\n",
    )
    (consumer,) = found.config.consumers
    assert consumer.key_auth[0].key_sha256 == sha256(b"x").digest()
    assert consumer.certificates[0].fingerprint_sha256 == sha256(b"x").digest()


# --- files of consumers are data: they are read again without the rest ---


def test_what_is_captured_is_enough_to_load_it_again(tmp_path):
    found = loaded(tmp_path, "consumer_files: ['d/*.yaml']\n", d__a="consumers: [{name: dora}]")
    (tmp_path / "d" / "a.yaml").unlink()
    again = load_sources(found.sources, found.captured, {})
    assert names(again) == ["dora"]
    assert again.captured == found.captured


def test_files_that_come_change_and_go_are_read_again(tmp_path):
    found = loaded(
        tmp_path,
        "consumer_files: ['d/*.yaml']\n",
        d__a="consumers: [{name: dora}]",
        d__b="consumers: [{name: bob}]",
    )
    assert read_again(found.captured) == found.captured
    (tmp_path / "d" / "a.yaml").unlink()
    (tmp_path / "d" / "b.yaml").write_text("consumers: [{name: bert}]")
    (tmp_path / "d" / "c.yaml").write_text("consumers: [{name: carl}]")
    now = read_again(found.captured)
    assert names(load_sources(found.sources, now, {})) == ["bert", "carl"]
    assert not any(name.endswith("a.yaml") for name in now)
    assert read_again(now) == now
    assert brought_forward(found.captured, now) == now
    assert brought_forward(now, found.captured) == found.captured


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    folder = tmp_path / "[x]"
    folder.mkdir()
    found = loaded(folder, "consumer_files: ['d/*.yaml']\n", d__a="consumers: [{name: dora}]")
    assert names(found) == ["dora"]
    assert read_again(found.captured) == found.captured


def test_a_file_in_its_own_secret_file(tmp_path):
    (tmp_path / "key").write_text(f"{PLANTED}\n")
    found = loaded(tmp_path, "consumers: [{name: a, key_auth: [{key: {file: key}}]}]\n")
    assert os.fspath(tmp_path / "key") in found.captured
    assert isinstance(found.captured, MappingProxyType)


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("san: alice.client", 'san: "alice.client" is not a subject alternative name with its type; expected DNS:…'),
        ("subject: /O=Ex/CN=alice", 'subject: "/O=Ex/CN=alice" is not a subject in RFC 4514 form; expected a sub'),
    ],
)
def test_a_mark_that_is_of_no_certificate_is_refused(mark, said):
    text = "version: 1\nlisteners: {a: {address: '127.0.0.1:0'}}\n"
    text += f"consumers: [{{name: a, certificates: [{{{mark}}}]}}]\n"
    with pytest.raises(ConfigError) as caught:
        load_text(text.encode(), "main.yaml", {})
    (problem,) = caught.value.problems
    assert f"certificates[0].{said}" in str(problem)
