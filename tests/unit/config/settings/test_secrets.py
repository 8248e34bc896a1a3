"""Secrets: in a variable, in a file or in the text; there when they are checked, and never shown."""

import copy
import json
import os

import pytest
from rich.pretty import pretty_repr

from fastgw import config
from fastgw.config.decoding.json_schema import schema
from fastgw.config.settings.secrets import LONGEST, Secret, SecretError

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\n"
VALUE = "Tr0ub4dor"


def read(folder, token, form="yaml"):
    """Load a file whose `admin.token` is this text."""
    texts = {
        "yaml": f"{HEAD}admin: {{token: {token}}}\n",
        "toml": f"version = 1\nlisteners.main.address = '127.0.0.1:0'\nadmin.token = {token}\n",
        "json": '{"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}},\n'
        f'"admin": {{"token": {token}}}}}',
    }
    file = folder / f"a.{form}"
    file.write_text(texts[form])
    return config.load(str(file), {})


def problem(folder, token, form="yaml"):
    with pytest.raises(config.ConfigError) as caught:
        read(folder, token, form)
    (told,) = caught.value.problems
    return str(told).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("form", "variable", "file"),
    [
        ("yaml", "{env: GW_SECRET}", "{file: secret}"),
        ("json", '{"env": "GW_SECRET"}', '{"file": "secret"}'),
        ("toml", "{ env = 'GW_SECRET' }", "{ file = 'secret' }"),
    ],
)
def test_where_a_secret_is(tmp_path, monkeypatch, form, variable, file):
    monkeypatch.setenv("GW_SECRET", VALUE + "\n")
    (tmp_path / "secret").write_text(VALUE + "\n")
    assert read(tmp_path, variable, form).config.admin.token == Secret(env="GW_SECRET")
    assert read(tmp_path, variable, form).config.admin.token.value() == VALUE + "\n"
    assert read(tmp_path, file, form).config.admin.token == Secret(file=str(tmp_path / "secret"))
    assert read(tmp_path, file, form).config.admin.token.value() == VALUE
    assert read(tmp_path, f'"{VALUE}"', form).config.admin.token.value() == VALUE


@pytest.mark.parametrize(
    ("written", "meant"), [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("a\nb", "a\nb")]
)
def test_the_line_end_of_a_file_is_not_part_of_it(tmp_path, written, meant):
    (tmp_path / "secret").write_bytes(written.encode())
    assert Secret(file=str(tmp_path / "secret")).value() == meant


def test_its_value_is_that_of_the_moment(tmp_path, monkeypatch):
    """Nothing is kept: whoever watches a file asks again when it has changed."""
    (tmp_path / "secret").write_text("old")
    token = read(tmp_path, "{file: secret}").config.admin.token
    (tmp_path / "secret").write_text("new")
    assert token.value() == "new"
    (tmp_path / "secret").unlink()
    with pytest.raises(SecretError, match=r"secret cannot be read: No such file or directory$"):
        token.value()
    monkeypatch.delenv("GW_SECRET", raising=False)
    with pytest.raises(SecretError, match=r"^the environment variable GW_SECRET is not set$"):
        Secret(env="GW_SECRET").value()


FORMS = "expected a quoted string, {env: NAME}, {file: path}, {credential: NAME} or {vault: path#key}"


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ("{env: GW_NONE}", "3:22: admin.token.env: the environment variable GW_NONE is not set; expected a secret"),
        ("{env: GW_EMPTY}", "3:22: admin.token.env: the environment variable GW_EMPTY is empty; expected a secret"),
        ("{env: GW_LATIN}", "3:22: admin.token.env: the environment variable GW_LATIN is not UTF-8; expected a secret"),
        ("{file: none}", "3:23: admin.token.file: none cannot be read: No such file or directory; expected a secret"),
        ("{file: .}", "3:23: admin.token.file: . cannot be read: Is a directory; expected a secret"),
        ("{file: pipe}", "3:23: admin.token.file: pipe cannot be read: Not a regular file; expected a secret"),
        ("{file: empty}", "3:23: admin.token.file: empty is empty; expected a secret"),
        ("{file: long}", f"3:23: admin.token.file: long has more than {LONGEST // 1024} KiB; expected a secret"),
        ("''", "3:16: admin.token: the secret is empty; expected a secret"),
        *(
            (
                form,
                f"3:16: admin.token: not a valid secret; {FORMS}",
            )
            for form in (
                "12345678",
                "true",
                f"[{VALUE}]",
                "{}",
                f"{{{VALUE}: null}}",
                f"{{value: {VALUE}}}",
                f"{{env: {VALUE}, file: {VALUE}}}",
                f"{{env: {VALUE}-}}",
                f"{{env: [{VALUE}]}}",
            )
        ),
    ],
)
def test_a_secret_that_is_none(tmp_path, monkeypatch, token, told):
    """One line, with its place, and nothing of what may be the value."""
    monkeypatch.delenv("GW_NONE", raising=False)
    monkeypatch.setenv("GW_EMPTY", "")
    monkeypatch.setitem(os.environb, b"GW_LATIN", VALUE.encode() + b"\xff")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "long").write_text("x" * (LONGEST + 1))
    said = problem(tmp_path, token).removeprefix("a.yaml:")
    assert said.replace(f": {tmp_path} ", ": . ") == told
    assert VALUE not in said
    assert "12345678" not in said


def test_the_place_in_every_format(tmp_path):
    assert problem(tmp_path, '{"file": "none"}', "json").startswith("a.json:2:29: admin.token.file: none cannot be")
    assert problem(tmp_path, "{ file = 'none' }", "toml").startswith("a.toml:3: admin.token.file: none cannot be")


def test_no_value_is_shown(tmp_path):
    made = read(tmp_path, VALUE).config
    cause = Secret(text="\ud800" + VALUE)
    with pytest.raises(SecretError) as caught:
        cause.value()
    for shown in (
        repr(made),
        str(made.admin.token),
        f"{made.admin.token}",
        pretty_repr(made),
        str(caught.value),
        repr(caught.value.__cause__),
        json.dumps(schema({})),
    ):
        assert VALUE not in shown
    assert repr(made.admin.token) == "***"


def test_it_can_be_copied_and_compared():
    secret = Secret(text=VALUE)
    assert copy.deepcopy(secret) == secret
    assert secret != Secret(text="other")
    with pytest.raises(AttributeError):
        secret.text = "other"
