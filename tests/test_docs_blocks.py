"""Every block of the documentation is tried: configurations are checked, commands exist, other programs take theirs.

A configuration without `version` or `listeners` is a part of one: what is missing is added. Files that it names are
there: certificates, keys, secrets. Commands with their output (`console`) are typed by tests/test_docs.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from msgspec.structs import replace

from fastgw import config
from fastgw.cli import app
from fastgw.config.base.settings_codec import decode, encode
from fastgw.filters import TYPES
from fastgw.runtime.node.metrics import FAMILIES
from tests.e2e.programs import program
from tests.support import mmdb
from tests.support.bookstore import api
from tests.support.certificates import Certificates
from tests.support.commands import ended
from tests.support.table import for_each

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "tuning.md"]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"`\S+`:\n\n")  # before the block with what is in it
LISTENERS = 'listeners: {main: {address: "127.0.0.1:8080"}}\n'
SECRET = "c2hhcmVkIHNlY3JldCBvZiBib3RoIHNpZGVz"
PRIVILEGED = {":443": ":8443", ":80": ":8081"}
"""Ports that only root may bind, and what is tried in their place."""
NOT_TRIED = {"text", "http", "console"}
"""Shown, not run; `console` is run by another test."""


def blocks(*kinds: str) -> list[Any]:
    """The blocks of these languages, each with its page and line. Not those of files that commands of the page use:
    tests/test_docs.py runs them."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in BLOCK.finditer(text):
            above = text.rfind("\n", 0, block.start() - 2) + 1
            is_run = "```console" in text and FILE_NAME.fullmatch(text, above, block.start())
            if block[2] in kinds and not is_run:
                line = text.count("\n", 0, block.start()) + 1
                inner = re.sub(f"^{block[1]}", "", block[3], flags=re.MULTILINE)
                found.append(pytest.param(inner, id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def test_every_block_is_in_a_language_that_is_tried():
    """One without a language would not be."""
    tried = {"yaml", "toml", "json", "sh", "python", "nginx", "promql", "ini"} | NOT_TRIED
    for page in PAGES:
        text = page.read_text()
        assert {block[2] for block in BLOCK.finditer(text)} <= tried, page
        assert 2 * len(BLOCK.findall(text)) == len(re.findall(r"^ *```", text, re.MULTILINE)), page


class StandIns:
    """The files that configurations of the documentation name, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        made = folder / "made"
        made.mkdir()
        certificates = Certificates(made)
        certificate, key = certificates.issue("localhost", stem="issued")
        self._files = {
            "certificate": certificate,
            "key": key,
            "client_key": key,
            "ca": certificates.ca,
            "crl": certificates.revoke(),
            "jwks_file": certificate,
            "descriptors": folder / "api.pb",
            "database": folder / "countries.mmdb",
        }
        mmdb.write(self._files["database"], {"192.0.2.0/24": mmdb.country("DE")})
        self._files["descriptors"].write_bytes(api())

    def put(self, folder: Path, part: Any, above: str = "") -> None:
        """What this part of a configuration names is there, below `folder`."""
        if isinstance(part, list):
            for each in part:
                self.put(folder, each, above)
        elif isinstance(part, dict):
            for name, value in part.items():
                if isinstance(value, str) and name in (*self._files, "htpasswd", "file", "directory", "kubeconfig"):
                    kept = above if above in ("client_key", "targets", "quotas", "openapi") else "secret"
                    self._put_one(folder / value, kept if name == "file" else name)
                elif (above, name) == ("files", "root"):
                    self._put_one(folder / value, "directory")
                else:
                    self.put(folder, value, name)

    def _put_one(self, file: Path, what: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if what == "directory":
            file.mkdir(exist_ok=True)
        elif what in self._files:
            shutil.copy(self._files[what], file)
        elif what == "targets":
            file.write_text("- {url: 'http://127.0.0.1:9001'}\n")
        elif what == "openapi":
            operation = {"operationId": "list", "responses": {"200": {"description": "ok"}}}
            scheme = {"type": "apiKey", "in": "header", "name": "X-Api-Key"}
            document = {
                "openapi": "3.1.0",
                "servers": [{"url": "/v1"}],
                "paths": {"/pets": {"get": operation}},
                "components": {"securitySchemes": {"api_key": scheme}},
            }
            file.write_text(json.dumps(document))
        elif what == "kubeconfig":
            server = {"name": "dev", "cluster": {"server": "https://127.0.0.1:6443"}}
            context = {"name": "dev", "context": {"cluster": "dev", "user": "dev"}}
            user = {"name": "dev", "user": {"token": SECRET}}
            file.write_text(json.dumps({"clusters": [server], "contexts": [context], "users": [user]}))
        elif what == "htpasswd":
            file.write_text("alice:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n")
        elif what != "quotas":
            file.write_text(SECRET)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("files"))


def variables(part: Any) -> Iterator[str]:
    """The names of the environment's variables that a configuration reads."""
    if isinstance(part, dict):
        if isinstance(part.get("env"), str):
            yield part["env"]
        for each in part.values():
            yield from variables(each)
    elif isinstance(part, list):
        for each in part:
            yield from variables(each)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_configuration_is_valid(text, tmp_path, stand_ins, monkeypatch):
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    for folder in ("/etc", "/run"):
        text = re.sub(rf"(?<![\w.]){folder}/[\w-]+/", f"{tmp_path}{folder}/", text)
    for port, other in PRIVILEGED.items():
        text = re.sub(rf"{port}\b", other, text)
    documents = list(yaml.safe_load_all(text))
    if any(
        "apiVersion" in each or "services" in each or "groups" in each for each in documents if isinstance(each, dict)
    ):
        return  # of Kubernetes, Docker Compose or Prometheus: read, and no more is said here
    (settings,) = documents
    if isinstance(settings, list):  # targets in a file of their own
        text = f"version: 1\n{LISTENERS}upstreams: {{listed: {{targets: {json.dumps(settings)}}}}}\n"
    else:
        text += "" if "version" in settings else "version: 1\n"
        text += "" if "listeners" in settings else LISTENERS
    for name in variables(settings):
        monkeypatch.setenv(name, "redis://127.0.0.1:6379/0" if "REDIS" in name else SECRET)
    stand_ins.put(tmp_path, settings)
    (tmp_path / "gateway.yaml").write_text(text)
    checked = ended("check", "gateway.yaml", directory=tmp_path)
    assert checked.exit_code == 0, checked.output
    monkeypatch.chdir(tmp_path)
    made = config.load("gateway.yaml", TYPES).config
    made = replace(made, egress=None)  # of which routes were made
    assert decode(encode(made), config.Config, TYPES.built_in) == made, "as the workers get it"


READERS: Mapping[str, Callable[[str], Any]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "python": lambda text: compile(text, "block", "exec"),
}


@for_each(
    ("read", "text"),
    [pytest.param(READERS[kind], *block.values, id=block.id) for kind in READERS for block in blocks(kind)],
)
def test_what_is_in_another_language_can_be_read(read, text):
    read(text)


@for_each("text", blocks("sh"))
def test_commands_that_are_shown_exist(text):
    """The shell can read them, and what they ask of `fastgw` is there."""
    read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=60)
    assert read.returncode == 0, read.stderr
    group: Any = typer.main.get_command(app)
    for name, rest in re.findall(r"(?<![\w./=-])fastgw ([a-z][a-z-]+)\b([^|;&\n]*)", text):
        assert name in group.commands, name
        known = {option for each in group.commands[name].params for option in each.opts}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= known | {"--help"}, rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists(page):
    named = set(re.findall(r"`fastgw ([a-z][a-z-]+)\b", page.read_text()))
    assert named <= typer.main.get_command(app).commands.keys()  # type: ignore[attr-defined]  # a group


@pytest.mark.parametrize("text", blocks("nginx"))
def test_nginx_takes_its_configuration(text, tmp_path, stand_ins):
    stand_ins.put(tmp_path, {"certificate": "api.pem", "key": "api.key", "ca": "clients.pem"})
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{text}\n}}\n")
    tried = subprocess.run(
        [program("nginx"), "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert tried.returncode == 0, tried.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_that_is_named_exists(page):
    known = {each.name for each in FAMILIES} | {"fastgw_oidc_"}  # the beginning of a cookie's name
    named = set(re.findall(r"\bfastgw_\w+", page.read_text()))
    assert not [each for each in named if re.sub("_(bucket|sum|count)$", "", each) not in known and each not in known]
