"""An object store (moto) and a WebDAV server (WsgiDAV) behind the gateway: names arrive as their clients write them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.e2e.programs import Printing
from tests.support.forked import FASTGW
from tests.support.gateway import START_DEADLINE, Gateway, wait_until
from tests.support.own_ports import own_port
from tests.support.table import for_each

BIN = Path(FASTGW).parent.parent / "applications" / "bin"
"""In an environment of its own: `make test-all` makes it."""
NAMES = [
    "a\\b",
    "CORP\\user",
    "a%2Fb",
    "a%252Fb",
    "v1%2E2",
    "100%",
    "a;b:c",
    "ü b+c",
    "admin\\x",
    "admin%2Fx",
    "it's",
]


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if not (BIN / "moto_server").exists():
        pytest.fail("moto and WsgiDAV are not installed: make .venv/applications/.installed")
    directory = tmp_path_factory.mktemp("storage")
    (directory / "www").mkdir()
    ports = {"s3": own_port(), "dav": own_port()}
    dav = [BIN / "wsgidav", "--root", directory / "www", "--auth", "anonymous", "--server", "cheroot"]
    with ExitStack() as stack:
        stack.enter_context(Printing([BIN / "moto_server", "-H", "127.0.0.1", "-p", str(ports["s3"])]))
        stack.enter_context(Printing([*dav, "--host", "127.0.0.1", "--port", str(ports["dav"])]))
        for name, port in ports.items():
            wait_until(lambda port=port: is_listening(port), f"{name} listens", START_DEADLINE)  # type: ignore[misc]
        upstreams = {
            name: {"targets": [f"http://127.0.0.1:{port}"], "host_header": "preserve"} for name, port in ports.items()
        }
        routes = [
            {"name": "dav", "hosts": ["dav.test"], "upstream": "dav", "path": {"forward": "raw"}},
            {"name": "s3", "upstream": "s3", "path": {"forward": "raw"}},
            {"name": "other", "paths": ["/bucket/admin/*"], "respond": {"status": 403}},
        ]
        listeners = {"main": {"address": "127.0.0.1:0"}}
        yield stack.enter_context(
            Gateway({"listeners": listeners, "upstreams": upstreams, "routes": routes}, directory)
        )


@pytest.fixture(scope="module")
def s3(gateway: Gateway) -> Any:
    made = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{gateway.port()}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    made.create_bucket(Bucket="bucket")
    return made


@for_each("key", [*NAMES, "a\tb", "a//b", "/a", "a/./b"])
def test_an_object_has_the_key_that_its_client_gave_it(s3: Any, key: str) -> None:
    s3.put_object(Bucket="bucket", Key=key, Body=key.encode())
    assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == key.encode()
    s3.copy_object(Bucket="bucket", Key=f"copy of {key}", CopySource={"Bucket": "bucket", "Key": key})
    keys = {each["Key"] for each in s3.list_objects_v2(Bucket="bucket")["Contents"]}
    assert {key, f"copy of {key}"} <= keys


def test_a_key_with_a_dot_segment_that_only_some_servers_see_is_refused(s3: Any) -> None:
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket="bucket", Key="..\\a", Body=b"a")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


@for_each("name", [name for name in NAMES if ";" not in name])  # WsgiDAV cuts `;` off
def test_a_file_has_its_name_and_is_copied_and_moved(gateway: Gateway, name: str) -> None:
    with gateway.connect() as client:

        def ask(method: str, name: str, fields: str = "", body: bytes = b"") -> tuple[int, bytes]:
            head = f"{method} /{quote(name)} HTTP/1.1\r\nHost: dav.test\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
            response = client.exchange(head.encode() + body, method.encode())
            return response.status, response.body

        assert ask("PUT", name, body=name.encode())[0] in (201, 204)
        url = f"http://dav.test/{quote('copy of ' + name)}"
        assert ask("COPY", name, f"Destination: {url}\r\n")[0] == 201
        assert ask("MOVE", name, f"Destination: /{quote('moved ' + name)}\r\n")[0] == 201
        for prefix in ("copy of ", "moved "):
            assert ask("GET", prefix + name) == (200, name.encode())
        assert ask("GET", name)[0] == 404
        status, listing = ask("PROPFIND", "", "Depth: 1\r\n")
        assert status == 207
        assert quote("moved " + name, safe="").encode().replace(b"%27", b"'") in listing
