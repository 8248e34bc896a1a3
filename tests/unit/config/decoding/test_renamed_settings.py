"""Settings that have been renamed: the former name is read, noted by `check` as deprecated, and written nowhere."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import pytest

from fastgw import config
from fastgw.config.base.settings_base import Renamed, Settings
from fastgw.config.decoding.decoder import Reading, Structure
from fastgw.config.decoding.json_schema import schema
from fastgw.config.loading.writer import written
from fastgw.config.sources.documents import Document
from fastgw.config.sources.files import Files
from fastgw.filters import TYPES

LOGIN = {"client_id": "app", "client_secret": "s", "session": {"secret": "s" * 32}}
FORMATS = {
    "gw.yaml": """version: 1
listeners: {main: {address: "127.0.0.1:0"}}
filters:
  oidc:
    issuer: https://idp.test
    login:
      client_id: app
      client_secret: s
      public_url: https://app.test
      patience: 1m
      session: {secret: ssssssssssssssssssssssssssssssss}
routes: [{name: a, respond: {status: 200}}]
""",
    "gw.toml": """version = 1
[listeners.main]
address = "127.0.0.1:0"
[filters.oidc]
issuer = "https://idp.test"
[filters.oidc.login]
client_id = "app"
client_secret = "s"
public_url = "https://app.test"
patience = "1m"
session = {secret = "ssssssssssssssssssssssssssssssss"}
[[routes]]
name = "a"
respond = {status = 200}
""",
    "gw.json": """{"version": 1,
"listeners": {"main": {"address": "127.0.0.1:0"}},
"filters": {
"oidc": {
"issuer": "https://idp.test",
"login": {
"client_id": "app",
"client_secret": "s",
"public_url": "https://app.test",
"patience": "1m",
"session": {"secret": "ssssssssssssssssssssssssssssssss"}}}},
"routes": [{"name": "a", "respond": {"status": 200}}]}
""",
}
AT = "filters.oidc.login.patience"


def loaded(folder: Path, name: str, text: str) -> config.Loaded:
    (folder / name).write_text(text)
    return config.load(str(folder / name), TYPES)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        loaded(folder, "gw.yaml", text)
    return [str(each).removeprefix(f"{folder}/") for each in caught.value.problems]


@pytest.mark.parametrize("name", FORMATS)
def test_the_former_name_is_read_in_every_format_and_noted_once_at_its_line(tmp_path: Path, name: str) -> None:
    made = loaded(tmp_path, name, FORMATS[name])
    use = made.config.filters["oidc"]
    assert use is not None
    assert use.settings.login.timeout == 60.0
    notes = [str(note).removeprefix(f"{tmp_path}/") for note in made.notes if "deprecated" in note.wrong]
    (note,) = notes
    assert note.startswith(f"{name}:10")
    assert note.endswith(f"{AT}: `patience` is deprecated; use `timeout`")


def test_it_is_read_and_noted_in_an_included_file_too(tmp_path: Path) -> None:
    head = FORMATS["gw.yaml"].partition("filters:\n")[0]
    login = json.dumps({**LOGIN, "public_url": "https://app.test", "patience": "2m"})
    route = "routes:\n- name: b\n  respond: {status: 200}\n  filters:\n    oidc:\n      issuer: https://idp.test\n"
    (tmp_path / "part.yaml").write_text(f"{route}      login: {login}\n")
    made = loaded(tmp_path, "gw.yaml", f"{head}include: [part.yaml]\n")
    (route,) = made.config.routes
    use = route.filters["oidc"]
    assert use is not None
    assert use.settings.login.timeout == 120.0
    (note,) = [str(each) for each in made.notes if "deprecated" in each.wrong]
    assert note.startswith(f"{tmp_path}/part.yaml:7")
    assert note.endswith("routes[0].filters.oidc.login.patience: `patience` is deprecated; use `timeout`")


def test_both_names_at_once_are_an_error(tmp_path: Path) -> None:
    text = FORMATS["gw.yaml"].replace("      patience: 1m\n", "      patience: 1m\n      timeout: 1m\n")
    assert problems(tmp_path, text) == [
        f"gw.yaml:10:7: {AT}: `patience` and `timeout` are the same setting; expected one"
    ]


def test_a_wrong_value_is_told_where_it_stands(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, FORMATS["gw.yaml"].replace("patience: 1m", "patience: soon"))
    assert told.startswith(f'gw.yaml:10:17: {AT}: "soon"')


def test_the_new_name_is_not_noted_and_is_the_only_one_that_is_written(tmp_path: Path) -> None:
    made = loaded(tmp_path, "gw.yaml", FORMATS["gw.yaml"].replace("patience", "timeout"))
    assert not [each for each in made.notes if "deprecated" in each.wrong]
    former = loaded(tmp_path, "gw.yaml", FORMATS["gw.yaml"])
    assert former.config == made.config
    use = former.config.filters["oidc"]
    assert use is not None
    shown = written(Structure(type(use.settings)), use.settings)["login"]
    assert shown["timeout"] == "1m"
    assert "patience" not in shown


def test_the_schema_has_both_and_calls_the_former_one_deprecated() -> None:
    import jsonschema  # not by every process that collects this file: it takes 2 s

    drawn = json.loads(json.dumps(schema(TYPES)))
    (login,) = [each for name, each in drawn["$defs"].items() if name.endswith(".Login")]
    assert "deprecated" not in login["properties"]["timeout"]
    assert login["properties"]["patience"]["deprecated"] is True
    assert login["properties"]["patience"]["description"] == "Deprecated; use `timeout`."
    judge = jsonschema.Draft202012Validator({**login, "$defs": drawn["$defs"]})
    for right in ({}, {"timeout": "1m"}, {"patience": "1m"}):
        judge.validate(LOGIN | right)
    assert not judge.is_valid(LOGIN | {"timeout": "1m", "patience": "1m"})


class Former(Settings):
    """Settings of which one that must be given was renamed."""

    limit: Annotated[int, Renamed("most")]
    """Limit."""


@pytest.mark.parametrize(
    ("value", "limit", "wrong"),
    [
        ({"most": 3}, 3, []),
        ({"limit": 3}, 3, []),
        ({}, None, ["missing"]),
        ({"limit": 3, "most": 3}, None, ["`most` and `limit` are the same setting"]),
        ({"most": "a"}, None, ['"a"']),
    ],
)
def test_one_that_must_be_given_may_be_given_by_either_name(
    value: dict[str, Any], limit: int | None, wrong: list[str]
) -> None:
    content = json.dumps(value).encode()
    reading = Reading(Document("a.json", lambda: content), {}, cast(Files, None))
    made = Structure(Former).read(value, (), reading)
    assert [each.wrong for each in reading.problems] == wrong
    assert wrong or made.limit == limit


RENAMED = {
    "{type: key_auth, places: [query]}": ("places", "key_in", ("query",)),
    "{type: basic_auth, remember: 1m}": ("remember", "cache_ttl", 60.0),
    '{type: forward_auth, url: "http://auth.test/", max_body: 1KiB}': ("max_body", "max_body_bytes", 1024),
    '{type: forward_auth, url: "http://auth.test/", cache: {by: [X-User]}}': (
        "cache.by",
        "cache.key_headers",
        ("X-User",),
    ),
    '{type: credentials, oauth2: {token_url: "https://idp.test/t", client_id: a, client_secret: s, margin: 9s}}': (
        "oauth2.margin",
        "oauth2.expiry_margin",
        9.0,
    ),
    """{type: oidc, issuer: "https://idp.test", login: {client_id: app, client_secret: s, public_url: "https://app.test",
     after_logout: /bye, session: {secret: ssssssssssssssssssssssssssssssss}}}""": (
        "login.after_logout",
        "login.post_logout_redirect_uri",
        "/bye",
    ),
}


@pytest.mark.parametrize(("use", "names"), RENAMED.items())
def test_each_former_name_is_read_as_the_standard_one(tmp_path: Path, use: str, names: tuple[str, str, Any]) -> None:
    former, name, value = names
    head = 'version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\nroutes:\n- name: a\n  upstream: "http://127.0.0.1:1"\n'
    made = loaded(tmp_path, "gw.yaml", f"{head}  filters:\n    it: {use}\n")
    read = made.config.routes[0].filters["it"]
    assert read is not None
    found: Any = read.settings
    for each in name.split("."):
        found = getattr(found, each)
    assert found == value
    (note,) = [str(each) for each in made.notes if "deprecated" in each.wrong]
    short, standard = former.rpartition(".")[2], name.rpartition(".")[2]
    assert note.endswith(f"routes[0].filters.it.{former}: `{short}` is deprecated; use `{standard}`")
