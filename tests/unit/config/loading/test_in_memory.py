"""A configuration from memory: the bytes that were read and checked once mean the same without any file."""

import builtins
import os
import shutil
from pathlib import Path

import pytest

from fastgw import config
from fastgw.config.base.settings_codec import decode, encode
from fastgw.config.settings.gateway import DEFAULT_ADMIN, DEFAULT_STATUS, NONE, Admin, Config, Status
from fastgw.config.sources import files
from fastgw.filters import TYPES
from tests.support.certificates import Certificates

MINIMAL = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def folder(tmp_path, certificates):
    """A main file in YAML, three teams in three formats, and certificates; the first route is the last file's."""
    folder = tmp_path / "gw"
    (folder / "teams").mkdir(parents=True)
    shutil.copy(certificates.ca, folder / "teams" / "ca.pem")
    for name, file in zip(("own.pem", "own.key"), certificates.issue("own.test"), strict=True):
        shutil.copy(file, folder / name)
    folder.joinpath("main.yaml").write_text(
        MINIMAL + "include: [teams/z.*, 'teams/*.json', teams/a.toml]\nfilters: {request_id: {enforced: true}}\n"
        "upstreams: {own: {targets: [{url: 'https://own'}], tls: {certificate: own.pem, key: own.key}}}\n"
        "access_logs: [{sink: access.log}]\n"
    )
    folder.joinpath("teams", "z.yml").write_text(
        "routes: [{name: z, upstream: own, headers: {X-A: b}, filters: {size: {body: 1MiB}}}]\n"
    )
    folder.joinpath("teams", "b.json").write_text('{"routes": [{"name": "b", "respond": {"body": "b"}}]}')
    folder.joinpath("teams", "c.json").write_text(
        '\ufeff{"upstreams": {"c": {"targets": [{"url": "https://c"}], "tls": {"ca": "ca.pem"}}}}'
    )
    folder.joinpath("teams", "a.toml").write_text('[[routes]]\nname = "a"\nrespond = { body = "a" }\n')
    return folder


def no_files(monkeypatch):
    """From here on whoever looks at a file fails."""

    def refuse(*arguments, **_):
        raise AssertionError(f"looked at {arguments}")

    for module, names in ((os, ("stat", "lstat", "scandir", "listdir", "open")), (builtins, ("open",))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)


def test_sources_and_what_they_name_are_kept(folder):
    loaded = config.load(str(folder / "main.yaml"), TYPES)
    assert [Path(source.name).name for source in loaded.sources] == ["main.yaml", "z.yml", "b.json", "c.json", "a.toml"]
    assert loaded.files == tuple(source.name for source in loaded.sources)
    assert all(Path(source.name).read_bytes() == source.text for source in loaded.sources)
    named = [folder / "own.pem", folder / "own.key", folder / "teams" / "ca.pem"]
    assert loaded.captured == {str(file): file.read_bytes() for file in named}


@pytest.mark.parametrize("relative", [False, True])
def test_the_same_again_when_the_files_are_gone_or_changed(folder, monkeypatch, relative):
    """In the same order, with the same names, from whatever working directory."""
    monkeypatch.chdir(folder)
    loaded = config.load("main.yaml" if relative else str(folder / "main.yaml"), TYPES)
    for file in folder.rglob("*.*"):
        file.write_bytes(b"changed")
    assert config.load_sources(loaded.sources, loaded.captured, TYPES) == loaded
    (folder.parent / "elsewhere").mkdir()
    monkeypatch.chdir(folder.parent / "elsewhere")
    shutil.rmtree(folder)
    again = config.load_sources(loaded.sources, loaded.captured, TYPES)
    assert again == loaded
    assert [route.name for route in again.config.routes] == ["z", "b", "a"]


def test_no_file_is_looked_at(folder, monkeypatch):
    text = folder.joinpath("main.yaml").read_text().partition("upstreams")[0] + "admin: {token: {file: none}}\n"
    sources = (config.Source(str(folder / "main.yaml"), text.encode()),)
    with monkeypatch.context() as patched:
        no_files(patched)
        loaded = config.load_sources(sources, {str(folder / "none"): b"secret"}, TYPES)
    assert loaded.config.admin.token.file == str(folder / "none")


def test_a_problem_names_the_file_and_line_as_they_were(folder):
    loaded = config.load(str(folder / "main.yaml"), TYPES)
    shutil.rmtree(folder)
    with pytest.raises(config.ConfigError) as caught:
        config.load_sources(loaded.sources, {}, {})
    assert [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems] == [
        'main.yaml:4:11: filters.request_id: unknown filter type "request_id"; none is defined',
        'main.yaml:5:71: upstreams.own.tls.certificate: "own.pem" cannot be read: it is not part of the captured '
        "configuration; "
        "expected a readable file",
        'main.yaml:5:85: upstreams.own.tls.key: "own.key" cannot be read: it is not part of the captured '
        "configuration; "
        "expected a readable file",
        'teams/z.yml:1:64: routes[0].filters.size: unknown filter type "size"; none is defined',
        (
            'teams/c.json:1:71: upstreams.c.tls.ca: "ca.pem" cannot be read: it is not part of the captured '
            "configuration; expected a readable file"
        ),
    ]


def test_what_was_checked_is_what_is_handed_out(folder, monkeypatch, certificates):
    """Each file is opened once, also by whoever looks into it: nobody can exchange it in between."""
    opened = []
    read_file = files.read_file

    def read_and_exchange(name, most):
        opened.append(name)
        raw = read_file(name, most)
        Path(name).write_bytes(b"exchanged")
        return raw

    monkeypatch.setattr(files, "read_file", read_and_exchange)
    text = folder.joinpath("main.yaml").read_text()
    more = "  two: {targets: [{url: 'https://two'}], tls: {certificate: own.pem, key: own.key, ca: teams/ca.pem}}\n"
    folder.joinpath("main.yaml").write_text(text.replace("own.key}}}\n", "own.key}}, " + more.strip() + "}\n"))
    loaded = config.load(str(folder / "main.yaml"), TYPES)
    assert len(opened) == len(set(opened)) == 5 + 3
    assert b"exchanged" not in (*loaded.captured.values(), *(source.text for source in loaded.sources))
    assert loaded.captured[str(folder / "teams" / "ca.pem")] == Path(certificates.ca).read_bytes()


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    """Between the look at what it is and the opening."""
    regular = os.stat(__file__)
    os.mkfifo(tmp_path / "a.yaml")
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda name: regular)
        with pytest.raises(OSError, match="Not a regular file"):
            files.read_file(str(tmp_path / "a.yaml"), 10)


def test_a_posted_document_includes_what_is_on_disk(folder):
    """It stands for the main file, whose own text is not read."""
    main = folder / "main.yaml"
    expected = config.load(str(main), TYPES)
    text = main.read_bytes()
    for on_disk in ("", None):
        main.write_text(on_disk) if on_disk is not None else main.unlink()
        assert config.load_text(text, str(main), TYPES) == expected
    folder.joinpath("teams", "b.json").write_text("{")
    with pytest.raises(config.ConfigError) as caught:
        config.load_text(text.replace(b"request_id", b"nothing"), str(main), TYPES)
    assert [str(problem).replace(f"{folder}/", "").partition(";")[0] for problem in caught.value.problems] == [
        'main.yaml:4:11: filters.nothing: unknown filter type "nothing"',
        "teams/b.json:1:2: not valid JSON: a key is missing",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", MINIMAL),
        ("a.json", '{"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}}'),
        ("a.toml", "version = 1\nlisteners.main.address = '127.0.0.1:0'"),
    ],
)
def test_a_posted_document_has_the_format_of_its_name(tmp_path, name, text):
    posted = config.load_text(text.encode(), str(tmp_path / name), {})
    assert posted.config == config.load_text(MINIMAL.encode(), str(tmp_path / "b.yaml"), {}).config
    with pytest.raises(config.ConfigError, match="unknown file format; expected a file name that ends in"):
        config.load_text(text.encode(), str(tmp_path / "a.txt"), {})


def test_what_is_read_is_bounded(folder, monkeypatch):
    main = folder / "main.yaml"
    text = main.read_bytes()
    monkeypatch.setattr(files, "LARGEST", len(text) + 1)
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(main), TYPES)
    told = [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]
    assert "teams/z.yml: longer than 0 MiB with the files before it" in told
    assert (
        'main.yaml:5:71: upstreams.own.tls.certificate: "own.pem" longer than 0 MiB; expected a readable file' in told
    )
    with pytest.raises(config.ConfigError, match=r"main\.yaml: longer than"):
        config.load_text(text + b" " * files.LARGEST, str(main), TYPES)


def passed_on(configuration):
    """As another process has it."""
    return decode(encode(configuration), Config, TYPES.built_in)


def test_a_configuration_passes_between_processes_and_can_be_compared(folder):
    loaded = config.load(str(folder / "main.yaml"), TYPES)
    with pytest.raises(TypeError):
        loaded.config.upstreams["own"] = None
    again = passed_on(loaded.config)
    assert again == loaded.config
    assert again.upstreams["own"].filters is NONE
    other = config.load_text(MINIMAL.encode(), str(folder / "main.yaml"), TYPES)
    assert passed_on(other.config) != loaded.config


def test_what_nobody_wrote_is_told_from_the_same_in_a_file(tmp_path):
    def read(text):
        return config.load_text((MINIMAL + text).encode(), str(tmp_path / "a.yaml"), {}).config

    for made in (read(""), passed_on(read(""))):
        assert made.admin is DEFAULT_ADMIN
        assert made.status is DEFAULT_STATUS
    for made in (read("admin: {}\nstatus: {}\n"), passed_on(read("admin: {}\nstatus: {}\n"))):
        assert (made.admin, made.status) == (DEFAULT_ADMIN, DEFAULT_STATUS) == (Admin(), Status())
        assert made.admin is not DEFAULT_ADMIN
        assert made.status is not DEFAULT_STATUS
    off = read("admin: null\nstatus: null\n")
    assert (off.admin, off.status) == (None, None)
    flags = config.from_flags("127.0.0.1:0", "http://a", {})
    assert (flags.admin, flags.status) == (None, None)


def test_neither_keys_nor_texts_are_shown(folder):
    loaded = config.load(str(folder / "main.yaml"), TYPES)
    assert "PRIVATE" in loaded.captured[str(folder / "own.key")].decode()
    for shown in (repr(loaded), str(loaded.sources), str(loaded.__rich_repr__())):
        assert "main.yaml" in shown
        assert "PRIVATE" not in shown
        assert "request_id" not in shown


def test_a_posted_document_may_have_another_format_than_the_file(folder):
    """It keeps the file's name, which a later reload has to find."""
    main = str(folder / "main.yaml")
    text = b"version = 1\ninclude = ['teams/a.toml']\nlisteners.main.address = '127.0.0.1:0'\n"
    posted = config.load_text(text, main, TYPES, ".toml")
    assert [route.name for route in posted.config.routes] == ["a"]
    assert posted.files[0] == main
    assert config.load_sources(posted.sources, posted.captured, TYPES) == posted
    with pytest.raises(config.ConfigError, match=r"main\.yaml:1:8: not valid TOML: `:` behind a key"):
        config.load_text(b"version: 1", main, TYPES, ".toml")


class TestTargets:
    """What is put in place of an upstream's own targets."""

    @staticmethod
    def put(loaded, text, upstream="own", suffix=".json"):
        source = config.Source(f"upstreams.{upstream}.targets", text.encode(), suffix=suffix, upstream=upstream)
        return config.load_sources([*loaded.sources, source], loaded.captured, TYPES)

    @staticmethod
    def urls(loaded, upstream="own"):
        return [(str(target.url), target.weight) for target in loaded.config.upstreams[upstream].targets]

    def test_they_replace_its_own_and_nothing_else(self, folder):
        loaded = config.load(str(folder / "main.yaml"), TYPES)
        changed = self.put(loaded, '[{"url": "https://a", "weight": 2}, {"url": "https://b"}]')
        assert self.urls(changed) == [("https://a", 2), ("https://b", 1)]
        assert self.urls(changed, "c") == self.urls(loaded, "c")
        assert changed.config.upstreams["own"].tls == loaded.config.upstreams["own"].tls
        assert changed.files == loaded.files
        assert config.load_sources(changed.sources, changed.captured, TYPES) == changed
        assert self.urls(self.put(loaded, "- url: https://a\n", suffix=".yaml")) == [("https://a", 1)]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('[{"url": 1}]', "upstreams.own.targets:1:10: [0].url: 1; expected a URL"),
            ("[]", "upstreams.own.targets:1:1: an empty list; expected at least one"),
            ("{}", "upstreams.own.targets:1:1: an object; expected a list of targets"),
            ("[", "upstreams.own.targets:1:2: not valid JSON: a value is missing"),
            ('[{"url": "https://a", "x": 1}]', "upstreams.own.targets:1:23: [0].x: unknown key"),
            ('[{"url": "http://a"}]', "main.yaml:5:52: upstreams.own.tls: no target of this upstream uses https"),
        ],
    )
    def test_what_is_wrong_is_told_with_its_place(self, folder, text, expected):
        loaded = config.load(str(folder / "main.yaml"), TYPES)
        with pytest.raises(config.ConfigError) as caught:
            self.put(loaded, text)
        (told,) = [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]
        assert told.startswith(expected)

    def test_the_upstream_has_to_be_there(self, folder):
        loaded = config.load(str(folder / "main.yaml"), TYPES)
        with pytest.raises(config.ConfigError, match='unknown upstream "owm"; did you mean "own"'):
            self.put(loaded, '[{"url": "https://a"}]', "owm")
