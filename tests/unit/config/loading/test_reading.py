"""Reading files: three formats, one meaning; repeated keys, aliases, includes; what cannot be read is one line each."""

import json
import os

import msgspec
import pytest

from fastgw import config
from fastgw.config.formats import json as from_json
from fastgw.config.formats import toml, yaml
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.sources import files, include_globs
from tests.support.table import for_each

MINIMAL = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"


def load(folder, **files):
    """Write `name_extension=text` files and load the first; problems are told relative to the folder."""
    names = [name.replace("_", ".") for name in files]
    for name, text in zip(names, files.values(), strict=True):
        folder.joinpath(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(str(folder / names[0]), {})


def problems(folder, **files):
    with pytest.raises(config.ConfigError) as caught:
        load(folder, **files)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


YAML = """
version: 1
listeners:
  main: {address: "127.0.0.1:0", trusted_proxies: [10.0.0.0/8]}
upstreams:
  users: {targets: [{url: "http://users:9001"}], retries: {budget: 10%}}
routes:
  - {name: "a # b", paths: ["/a"], upstream: users, timeout: 1m}
"""
TOML = """
version = 1
[listeners.main]
address = "127.0.0.1:0"
trusted_proxies = ['10.0.0.0/8']
[upstreams.users]
targets = [{ url = "http://users:9001" }]
retries.budget = "10%"
[[routes]]
name = "a # b"
paths = ["/a"]
upstream = "users"
timeout = "1m"
"""


def test_all_formats_mean_the_same(tmp_path):
    as_json = json.dumps(yaml.read(YAML)[0])
    loaded = [load(tmp_path, **{name: text}).config for name, text in [("a_yaml", YAML), ("a_toml", TOML)]]
    loaded += [load(tmp_path, a_json=as_json).config, load(tmp_path, a_yml=YAML).config]
    assert all(each == loaded[0] for each in loaded)
    assert loaded[0].routes[0].timeout == 60.0
    assert loaded[0].upstreams["users"].retries.budget == 0.1


@pytest.fixture(params=[yaml.Events, yaml.PureEvents], ids=["libyaml", "pure"])
def events(request, monkeypatch):
    monkeypatch.setattr(yaml, "Events", request.param)


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("true", True),
        ("false", False),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("True", "True"),
        ("null", None),
        ("~", None),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-5", -5),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", ".inf"),
        ("2026-01-31", "2026-01-31"),
        ("<<", "<<"),
        ("'1'", "1"),
        ('"true"', "true"),
    ],
)
def test_yaml_scalars_follow_the_core_schema_of_1_2(text, meaning):
    value, repeats = yaml.read(f"a: {text}")
    assert value == {"a": meaning}
    assert type(value["a"]) is type(meaning)
    assert not repeats


@pytest.mark.usefixtures("events")
def test_yaml_anchors_repeat_a_value():
    assert yaml.read("a: &x [1, {b: 2}]\nc: *x\n") == ({"a": [1, {"b": 2}], "c": [1, {"b": 2}]}, False)


@pytest.mark.parametrize(
    ("text", "wrong", "mark"),
    [
        ("a: [1", "not valid YAML: a list in brackets is not closed", (1, 4)),
        ("a: b: c", "not valid YAML: a second `: ` on the same line", (1, 5)),
        ("a: 1\n---\nb: 2", "more than one YAML document; expected one per file", (2, 1)),
        ("a: !!int '1'", "the tag tag:yaml.org,2002:int", (1, 4)),
        ("a: *x", "the alias *x has no anchor before it", (1, 4)),
        ("a: &x [*x]", "the alias *x has no anchor before it", (1, 8)),
        ("[a]: 1", "a key that is not a string", (1, 1)),
        ("a: 1\nb: \x01", "not valid YAML: a control character", (2, 4)),
        ("[" * 101 + "]" * 101, "nested more than 100 levels deep", (1, 101)),
    ],
)
def test_what_is_no_yaml_for_us_is_told_with_its_place(text, wrong, mark):
    with pytest.raises(SyntaxProblem) as caught:
        yaml.read(text)
    assert wrong in caught.value.wrong
    assert caught.value.mark == mark


@pytest.mark.usefixtures("events")
def test_a_small_file_cannot_stand_for_a_huge_one():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
    )
    with pytest.raises(SyntaxProblem, match="aliases that repeat more than 100000 values"):
        yaml.read(bomb)


@pytest.mark.parametrize(
    "text", ["{", '{"a": 1,}', "{'a': 1}", '{"a": NaN}', '{"a": "\\ud800"}', "", '{"a": 1} x', '{"a": 1e}']
)
def test_json_is_strict(text):
    with pytest.raises(SyntaxProblem, match="not valid JSON"):
        from_json.read(text)


def find_marks(trace, prefix=()):
    """Every path of a trace with the marks of its key and value."""
    for name, spot in trace.children.items():
        yield (*prefix, name), spot.key, spot.value
        yield from find_marks(spot, (*prefix, name))


def test_json_positions():
    text = '{\n  "a": [1, {"b\\"c": "]"}],\n  "d": {"e": -1.5e3, "f": null}\n}'
    assert list(find_marks(from_json.trace(text).root)) == [
        (("a",), (2, 3), (2, 8)),
        (("a", 0), (2, 9), (2, 9)),
        (("a", 1), (2, 12), (2, 12)),
        (("a", 1, 'b"c'), (2, 13), (2, 21)),
        (("d",), (3, 3), (3, 8)),
        (("d", "e"), (3, 9), (3, 14)),
        (("d", "f"), (3, 22), (3, 27)),
    ]


@pytest.mark.usefixtures("events")
def test_yaml_positions():
    text = "a:\n  - 1\n  - {b: x}\nc: &y {d: 1}\ne: *y\n"
    assert list(find_marks(yaml.trace(text).root)) == [
        (("a",), (1, 1), (2, 3)),
        (("a", 0), (2, 5), (2, 5)),
        (("a", 1), (3, 5), (3, 5)),
        (("a", 1, "b"), (3, 6), (3, 9)),
        (("c",), (4, 1), (4, 4)),
        (("c", "d"), (4, 8), (4, 11)),
        (("e",), (5, 1), (5, 4)),
        (("e", "d"), (4, 8), (4, 11)),
    ]


def test_toml_lines():
    text = '''# a comment with [brackets]
a.b = 1  # another
"quoted.key" = """
two # lines
"""
[t."x y"]
list = [ # [
  1979-05-27 07:32:00,
  { c = 'd]', e.f = [2, 3] },
]
[[t.rows]]
n = 1
[[t.rows]]
n = 2
[t.rows.below]
last = """a""""
'''.replace("\n", "\r\n")
    lines = {path: key[0] for path, key, _ in find_marks(toml.trace(text).root)}
    assert lines == {
        ("a",): 2,
        ("a", "b"): 2,
        ("quoted.key",): 3,
        ("t",): 6,
        ("t", "x y"): 6,
        ("t", "x y", "list"): 7,
        ("t", "x y", "list", 0): 8,
        ("t", "x y", "list", 1): 9,
        ("t", "x y", "list", 1, "c"): 9,
        ("t", "x y", "list", 1, "e"): 9,
        ("t", "x y", "list", 1, "e", "f"): 9,
        ("t", "x y", "list", 1, "e", "f", 0): 9,
        ("t", "x y", "list", 1, "e", "f", 1): 9,
        ("t", "rows"): 11,
        ("t", "rows", 0): 11,
        ("t", "rows", 0, "n"): 12,
        ("t", "rows", 1): 13,
        ("t", "rows", 1, "n"): 14,
        ("t", "rows", 1, "below"): 15,
        ("t", "rows", 1, "below", "last"): 16,
    }


@for_each("key", ["a", '"a.\\""', "'a.'", "a-_1"])
@for_each("dot", [".", " . "])
@for_each("around", ["{} = 1", "[{}]", "[[{}]]", "b = [{{ c = 1, {} = 1 }}]", "{}", "x = {}"])
def test_toml_keys_are_not_too_deep(key, dot, around):
    """tomllib would take minutes for what a small file can hold."""
    with pytest.raises(SyntaxProblem, match="a dotted key with more than 100 parts") as caught:
        toml.read("\n# comment\n" + around.format(dot.join([key] * 101)))
    assert caught.value.mark[0] == 3


DOTS = ".".join(["a"] * 200)


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 100) + " = 1",
        f"a = '{DOTS}' # {DOTS}",
        f'a = "\\" {DOTS}"',
        f'a = """\n{DOTS}\n\\""" {DOTS} "" {DOTS}"""""',
        f"a = '''\n{DOTS}\n'' {DOTS}'''''",
    ],
)
def test_toml_text_and_comments_may_have_any_number_of_dots(text):
    assert list(toml.read(text)[0]) == ["a"]


@pytest.mark.parametrize("text", ['"""\\', '"\\', "'''", "'a", 'a."', "a.", "a" * 10])
def test_toml_that_ends_in_the_middle_is_refused(text):
    for end in ("", "\n"):
        with pytest.raises(SyntaxProblem, match="not valid TOML"):
            toml.read(text + end)


def test_a_repeated_key_is_told_with_both_places(tmp_path):
    assert problems(tmp_path, a_yaml=MINIMAL + "routes:\n  - {name: a, name: b, respond: {}}\nversion: 1\n") == [
        "a.yaml:4:15: routes[0].name: duplicate key; first defined on line 4",
        "a.yaml:5:1: version: duplicate key; first defined on line 1",
    ]
    repeated = '{"version": 1,\n "listeners": {"m": {"address": "a:1",\n "address": "a:2"}}}'
    assert problems(tmp_path, a_json=repeated) == [
        "a.json:3:2: listeners.m.address: duplicate key; first defined on line 2"
    ]
    assert problems(tmp_path, a_toml="version = 1\nversion = 1\n") == [
        "a.toml:2:1: not valid TOML: a duplicate key, or a table that is defined already; "
        "expected each key and each `[table]` once"
    ]


@pytest.mark.parametrize(
    ("name", "raw", "wrong"),
    [
        ("a_yaml", b"version: 1\nx: \xff\n", "a.yaml:2:4: not UTF-8"),
        ("a_yaml", b"", "a.yaml:1:1: the file is empty; expected an object"),
        ("a_yaml", b"- 1\n", "a.yaml:1:1: a list; expected an object"),
        ("a_json", b"[" * 100_000, "a.json: nested too deep"),
        (
            "a_toml",
            b"a = ",
            "a.toml:1:4: not valid TOML: the file ends where a value is missing; expected a value, or `]` for a "
            "list that is not closed",
        ),
        ("a_ini", b"a = 1", "a.ini: unknown file format; expected a file name that ends in .yaml, .yml, .toml, .json"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, raw, wrong):
    assert problems(tmp_path, **{name: raw}) == [wrong]


def test_a_missing_file_a_folder_and_a_huge_file(tmp_path, monkeypatch):
    tmp_path.joinpath("folder.yaml").mkdir()
    tmp_path.joinpath("huge.yaml").write_bytes(b"# 34567890")
    monkeypatch.setattr(files, "LARGEST", 9)
    for name, wrong in [
        ("none.yaml", "cannot be read: No such file or directory"),
        ("none", "cannot be read: No such file or directory"),
        ("folder.yaml", "cannot be read: Is a directory"),
        ("huge.yaml", "longer than 0 MiB"),
    ]:
        with pytest.raises(config.ConfigError) as caught:
            config.load(str(tmp_path / name), {})
        assert str(caught.value) == f"{tmp_path / name}: {wrong}"


def test_includes_add_up(tmp_path):
    loaded = load(
        tmp_path,
        main_yaml=MINIMAL + "include: [team-*.yaml, extra.json]\nroutes: [{name: first, respond: {}}]\n",
        **{
            "team-a_yaml": "upstreams: {a: {targets: [{url: 'http://a'}]}}\nroutes: [{name: a, upstream: a}]\n",
            "team-b_yaml": "version: 1\nroutes: [{name: b, upstream: a}]\ninclude: [main.yaml]\n",
            "extra_json": '{"listeners": {"more": {"address": "[::1]:0"}}, "access_logs": []}',
        },
    )
    assert [route.name for route in loaded.config.routes] == ["first", "a", "b"]
    assert list(loaded.config.listeners) == ["main", "more"]
    assert loaded.config.access_logs == ()
    assert [os.path.basename(file) for file in loaded.files] == [
        "main.yaml",
        "team-a.yaml",
        "team-b.yaml",
        "extra.json",
    ]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.yaml", ["a.yaml", "b.yaml", "folder.yaml"]),
        ("[!a].yaml", ["b.yaml"]),
        (".h*", [".hidden.yaml"]),
        ("*/c.yaml", ["folder.yaml/c.yaml", "link/c.yaml"]),
        ("folder.yaml/*/./d?", ["folder.yaml/deep/./d1", "folder.yaml/deep/./d2"]),
        ("**/*", ["a.yaml", "b.yaml", "folder.yaml", "folder.yaml/c.yaml", "folder.yaml/deep", "folder.yaml/deep/d1",
                  "folder.yaml/deep/d2", "folder.yaml/deep/round", "link"]),
        ("**/**/c.*", ["folder.yaml/c.yaml"]),
        ("link/**/d1", ["link/deep/d1"]),
        ("a.yaml/*", []),
        ("none/*", []),
        ("nu\0l/*", []),
    ],
)  # fmt: skip
def test_patterns_of_includes(tmp_path, pattern, found):
    """The folder's own name is no pattern; links are followed where they are named; hidden names are asked for."""
    folder = tmp_path / "[x]"
    (folder / "folder.yaml" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in (
        "a.yaml",
        "b.yaml",
        ".hidden.yaml",
        "folder.yaml/c.yaml",
        "folder.yaml/deep/d1",
        "folder.yaml/deep/d2",
    ):
        (folder / name).touch()
    (folder / "link").symlink_to("folder.yaml")
    (folder / "folder.yaml" / "deep" / "round").symlink_to(folder)
    assert include_globs.Search().find(str(folder), pattern) == [f"{folder}/{each}" for each in found]
    assert include_globs.Search().find("elsewhere", f"{folder}/{pattern}".replace("[x]", "[[]x]")) == [
        f"{folder}/{each}" for each in found
    ]


def test_a_search_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(include_globs, "MOST", 100)
    assert problems(tmp_path, a_yaml=MINIMAL + "include: ['/**/*.yaml', '*.json']\n") == [
        (
            'a.yaml:3:11: include[0]: "/**/*.yaml": more than 100 directory entries; expected a pattern that '
            "matches fewer directories"
        ),
    ]


def test_a_pattern_that_names_nothing_is_noted(tmp_path):
    loaded = load(tmp_path, a_yaml=MINIMAL + "include: ['teams/*.yaml', 'a.*']\n")
    assert [str(note).removeprefix(f"{tmp_path}/") for note in loaded.notes] == [
        'a.yaml:3:11: include[0]: "teams/*.yaml" matches no file'
    ]


def test_what_could_be_read_for_ever_is_not_opened(tmp_path):
    """A pipe, a device, a socket: also behind a link, and as a file of certificates."""
    os.mkfifo(tmp_path / "pipe.yaml")
    tmp_path.joinpath("device.json").symlink_to("/dev/zero")
    upstream = "upstreams: {u: {targets: [{url: 'https://a'}], tls: {ca: pipe.yaml}}}\n"
    text = MINIMAL + "include: ['*.json', pipe.yaml]\n" + upstream
    assert problems(tmp_path, a_yaml=text) == [
        'a.yaml:4:58: upstreams.u.tls.ca: "pipe.yaml" cannot be read: Not a regular file; expected a readable file',
        "device.json: cannot be read: Not a regular file",
        "pipe.yaml: cannot be read: Not a regular file",
    ]


@pytest.mark.parametrize("pattern", ["sub", "sub/", "s*"])
def test_a_folder_among_the_includes_is_reported_at_its_place(tmp_path, pattern):
    (tmp_path / "sub").mkdir()
    (reported,) = problems(tmp_path, main_yaml=f"{MINIMAL}include: [{pattern}]\n")
    assert reported.startswith("main.yaml:3:11: include[0]: ")
    assert reported.endswith('sub/*.yaml"')
    assert " is a directory; expected a pattern such as " in reported


def test_what_two_files_say_is_an_error_that_names_both(tmp_path):
    assert problems(
        tmp_path,
        main_yaml=MINIMAL + "include: [b.toml, none.yaml]\nworkers: 2\n",
        b_toml="workers = 3\n[listeners.main]\naddress = '127.0.0.1:80'\n",
    ) == [
        'main.yaml:3:19: include[1]: "none.yaml": no such file',
        "b.toml:1: workers: already defined at main.yaml:4; expected it once",
        "b.toml:2: listeners.main: already defined at main.yaml:2; expected a unique name",
    ]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("routes:\n- &d {name: a, upstream: 'http://a'}\n- <<: *d\n  paths: [/b]\n", '5:3: routes[1]["<<"]'),
        ("upstreams:\n  u: &u {targets: ['http://a']}\n  v: {<<: *u}\n", '5:7: upstreams.v["<<"]'),
        ("x: &x {}\nupstreams:\n  <<: *x\n", '5:3: upstreams["<<"]'),
        ("<<: {}\n", '3:1: ["<<"]'),
    ],
)
def test_a_merge_key_is_one_error_without_those_that_follow_from_it(tmp_path, text, at):
    told = problems(tmp_path, main_yaml=MINIMAL + text)
    assert [each for each in told if ":1: x: unknown key" not in each] == [
        f'main.yaml:{at}: merge keys ("<<") are not supported; expected the keys themselves'
    ]


def test_a_broken_include_brings_no_errors_that_follow_from_it(tmp_path):
    assert problems(
        tmp_path,
        main_yaml=MINIMAL + "include: [b.yaml]\nroutes: [{name: a, upstream: users}, {nane: b}]\n",
        b_yaml="upstreams: {users: [\n",
    ) == [
        'main.yaml:4:39: routes[1].nane: unknown key; did you mean "name"?',
        "b.yaml:2:1: not valid YAML: the file ends within brackets or braces; expected `]` or `}` for each `[` or `{`",
    ]


def test_files_are_named_relative_to_the_file_that_names_them(tmp_path):
    tmp_path.joinpath("sub").mkdir()
    tmp_path.joinpath("sub", "b.yaml").write_text("access_logs: [{sink: access.log}, {sink: stdout}]\n")
    loaded = load(tmp_path, main_yaml=MINIMAL + "include: [sub/b.yaml]\n")
    assert [log.sink for log in loaded.config.access_logs] == [str(tmp_path / "sub" / "access.log"), "stdout"]


def test_the_command_line_is_a_configuration_too(tmp_path):
    made = config.from_flags("127.0.0.1:0", "http://a:1/b", {}, workers=2, access_log="/tmp/x.log", status="[::1]:0")
    written = """
version: 1
workers: 2
listeners: {main: {address: "127.0.0.1:0"}}
status: {address: "[::1]:0"}
admin: null
access_logs: [{sink: /tmp/x.log}]
routes: [{name: all, upstream: "http://a:1/b"}]
"""
    assert load(tmp_path, a_yaml=written).config == made
    with pytest.raises(config.ConfigError) as caught:
        config.from_flags("8080", "localhost", {}, workers=0)
    assert str(caught.value).splitlines() == [
        '--listen: "8080" is not an address; expected "host:port", "[ipv6]:port", ":port" or "unix:/path"',
        '--to: "localhost" is not an http, https or unix URL; expected a URL such as "http://host:9000", or '
        '"unix:/path/of.sock"',
        "--workers: 0; expected a whole number from 1 to 1024",
    ]


@pytest.mark.parametrize(
    ("said", "expected", "hint"),
    [
        ("", "", ""),
        ("expected a string", "a string", ""),
        ("expected a literal value: text", "a literal value: text", ""),
        ('did you mean "a"?', "", 'did you mean "a"?'),
        ('did you mean "a"? expected "a" or "b"', '"a" or "b"', 'did you mean "a"?'),
        ("none is defined", "", "none is defined"),
        ("the package a has it: add it to `x`", "", "the package a has it: add it to `x`"),
    ],
)
def test_what_is_expected_is_told_apart_from_other_hints(said: str, expected: str, hint: str) -> None:
    """So that text can be made of either; and it is the same after it was sent somewhere, and changed there."""
    problem = config.Problem("a", 1, 2, "b", "wrong", said)
    assert (problem.expected, problem.hint) == (expected, hint)
    assert str(problem) == f"a:1:2: b: wrong; {said}".removesuffix("; ")
    assert msgspec.json.decode(msgspec.json.encode(problem), type=config.Problem) == problem
    assert msgspec.structs.replace(problem, file="a") == problem
