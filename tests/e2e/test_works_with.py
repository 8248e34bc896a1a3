"""Real applications behind the gateway, with the settings that docs/guides/works-with.md names for them."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import botocore.session
import pytest
import yaml
from botocore.config import Config

from tests.e2e.programs import Printing, environment, program
from tests.e2e.test_storage import BIN, is_listening
from tests.support.certificates import Certificates, client_tls
from tests.support.gateway import START_DEADLINE, Gateway, wait_until
from tests.support.own_ports import own_port

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "works-with.md"
APPLICATIONS = Path(__file__).parents[1] / "support" / "applications"
WAYS = {"plain": "http", "tls": "https", "balanced": "https"}
"""How the client comes: its scheme. `balanced`: through a balancer that ends TLS."""
HOST = "app.example"
RUN_S = 120.0
OF_UPSTREAM = {"tls"}


def rows() -> dict[str, dict[str, Any]]:
    """The settings of the gateway by application, as the guide has them."""
    cells = [line.strip("|").split(" | ") for line in GUIDE.read_text().splitlines() if line.startswith("| ")]
    written = {row[0].strip(): re.findall(r"`([^`]+)`", row[1]) for row in cells[1:]}
    return {name: yaml.safe_load("\n".join(settings)) or {} for name, settings in written.items()}


class Answer(NamedTuple):
    status: int
    location: str | None
    cookie: str
    body: str


class Front:
    """An application with the gateway before it."""

    def __init__(self, gateway: Gateway, certificates: Certificates, directory: Path) -> None:
        self.gateway = gateway
        self.directory = directory
        self.ca = certificates.ca
        self._tls = client_tls(certificates)

    def ask(
        self,
        way: str,
        path: str,
        method: str = "GET",
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        host: str = HOST,
    ) -> Answer:
        port = self.gateway.port("tls" if way == "tls" else "plain")
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, context=self._tls, timeout=RUN_S)
            if way == "tls"
            else http.client.HTTPConnection("127.0.0.1", port, timeout=RUN_S)
        )
        proto = {"X-Forwarded-Proto": "https"} if way == "balanced" else {}
        try:
            connection.request(method, path, body, {"Host": host, **proto, **(headers or {})})
            response = connection.getresponse()
            read = response.read().decode()
            cookie = response.getheader("Set-Cookie", "").partition(";")[0]
            return Answer(response.status, response.getheader("Location"), cookie, read)
        finally:
            connection.close()

    def url(self, way: str) -> str:
        """The address for programs, which reach the gateway itself: not `balanced`."""
        return f"{WAYS[way]}://127.0.0.1:{self.gateway.port(way)}"

    def run(self, name: str, *arguments: str | Path) -> str:
        """Run a client of the application, which trusts the gateway's certificate."""
        trust = dict.fromkeys(("REQUESTS_CA_BUNDLE", "PIP_CERT", "SSL_CERT_FILE"), self.ca)
        ended = subprocess.run(
            [BIN / name, *arguments],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            cwd=self.directory,
            env={**environment(), **trust, "PIP_CONFIG_FILE": os.devnull},
        )
        assert ended.returncode == 0, f"{name} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout


def use_pypiserver(front: Front) -> None:
    for number, way in enumerate(("plain", "tls")):
        release = f"1.{number}"
        wheel = front.directory / f"sample_package-{release}-py3-none-any.whl"
        info = f"sample_package-{release}.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("sample_package.py", "")
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: sample-package\nVersion: {release}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        url = front.url(way)
        front.run("twine", "upload", "--non-interactive", "-u", "me", "-p", "any", "--repository-url", f"{url}/", wheel)
        index = "--index-url", f"{url}/simple/"
        front.run("pip", "download", "--no-deps", "--dest", "got", *index, f"sample-package=={release}")
        assert (front.directory / "got" / wheel.name).read_bytes() == wheel.read_bytes()
    for way, scheme in WAYS.items():
        assert front.ask(way, "/simple").location == f"{scheme}://{HOST}/simple/"


UPLOAD = """
import sys
from tusclient.client import TusClient
uploader = TusClient(sys.argv[1]).uploader(sys.argv[2], chunk_size=100_000)
uploader.upload()
print(uploader.url)
"""


def use_tus(front: Front, prefix: str = "") -> None:
    content = os.urandom(250_000)
    (front.directory / "content").write_bytes(content)
    for way in "plain", "tls":
        url = front.run("python", "-c", UPLOAD, f"{front.url(way)}{prefix}/files", "content").strip()
        assert url.startswith(f"{front.url(way)}{prefix}/files/")
        assert (front.directory / "uploads" / url.rpartition("/")[2]).read_bytes() == content
    begun = front.ask("balanced", f"{prefix}/files", "POST", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})
    assert begun.status == 201
    assert begun.location is not None
    assert begun.location.startswith(f"https://{HOST}{prefix}/files/")


def use_flask(front: Front, prefix: str = "") -> None:
    for way, scheme in WAYS.items():
        folder = f"{scheme}://{HOST}{prefix}/folder/"
        assert front.ask(way, f"{prefix}/folder").location == folder
        assert front.ask(way, f"{prefix}/folder/").body == folder
        assert front.ask(way, f"{prefix}/moved").location == f"{prefix}/folder/"

    spoofed = {"X-Forwarded-For": "192.0.2.7"}
    assert front.ask("tls", f"{prefix}/client", headers=spoofed).body == "127.0.0.1"


def use_fastapi(front: Front, prefix: str = "") -> None:
    for way, scheme in WAYS.items():
        items = f"{scheme}://{HOST}{prefix}/items/"
        assert front.ask(way, f"{prefix}/items").location == items
        assert f'"url":"{items}"' in front.ask(way, f"{prefix}/items/").body
        assert f"'{prefix}/openapi.json'" in front.ask(way, f"{prefix}/docs").body
        assert front.ask(way, f"{prefix}/openapi.json").status == 200


def use_django(front: Front) -> None:
    for way, scheme in WAYS.items():
        assert front.ask(way, "/form").location == "/form/"
        shown = front.ask(way, "/form/")
        origin = f"{scheme}://{HOST}"
        sent = {"Cookie": shown.cookie, "X-CSRFToken": shown.body, "Origin": origin, "Referer": f"{origin}/form/"}
        assert front.ask(way, "/form/", "POST", "a=1", sent)[:2] == (302, f"{origin}/form/")
        assert front.ask(way, "/form/", "POST", "a=1", {**sent, "Origin": "https://other.example"}).status == 403
        assert front.ask(way, "/form/", host="other.example").status == 400


def use_rack(front: Front) -> None:
    for way, scheme in WAYS.items():
        assert front.ask(way, "/old").location == f"{scheme}://{HOST}/new"
        assert front.ask(way, "/a?b").body.split() == [f"{scheme}://{HOST}/a?b", "127.0.0.1"]


def use_folder(front: Front) -> None:
    for way, scheme in WAYS.items():
        assert front.ask(way, "/folder").location == f"{scheme}://{HOST}/folder/"
        assert front.ask(way, "/folder/").body == "localhost"


def use_sites(front: Front) -> None:
    for way in WAYS:
        for site in "one.example", "two.example":
            assert front.ask(way, "/folder/", host=site)[::3] == (200, site)
            assert front.ask(way, "/folder", host=site).location == f"https://{site}/folder/"


def use_webdav(front: Front) -> None:
    for way, scheme in WAYS.items():
        assert front.ask(way, "/dav/a%20%25", "PUT", way).status in (201, 204)
        for method, name in ("COPY", f"{way}-copy"), ("MOVE", f"{way}-moved"):
            there = {"Destination": f"{scheme}://{HOST}/dav/{name}"}
            assert front.ask(way, "/dav/a%20%25", method, headers=there).status == 201
            assert front.ask(way, f"/dav/{name}").body == way
        assert front.ask(way, "/dav/a%20%25").status == 404
        assert f"/dav/{way}-moved" in front.ask(way, "/dav/", "PROPFIND", headers={"Depth": "1"}).body


def use_s3(front: Front) -> None:
    for way in "plain", "tls":
        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=front.url(way),
            verify=front.ca,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )
        client.create_bucket(Bucket=way)
        for key in "a/b c", "a%2Fb", "ü+;://x":
            client.put_object(Bucket=way, Key=key, Body=key.encode())
            assert client.get_object(Bucket=way, Key=key)["Body"].read() == key.encode()
            signed = urlsplit(client.generate_presigned_url("get_object", {"Bucket": way, "Key": key}))
            for host in signed.netloc, "s3.example":
                got = front.ask(way, f"{signed.path}?{signed.query}", host=host)
                assert (got.status, got.body) == (200, key)


APACHE = """
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
Listen 127.0.0.1:{port}
ServerName localhost
TypesConfig /dev/null
DocumentRoot {folder}/localhost
DavLockDB {folder}/lock
Alias /dav {folder}/files
<Directory {folder}/files>
Dav On
</Directory>
"""
MODULES = ("mpm_event", "authz_core", "dir", "mime", "alias", "headers", "dav", "dav_fs", "ssl")


def apache(port: int, directory: Path, certificates: Certificates, more: str = "", sites: tuple[str, ...] = ()) -> Any:
    """It serves no pages as root, but as nobody."""
    folder = directory / "httpd"
    for name in "localhost", *sites:
        (folder / name / "folder").mkdir(parents=True)
        (folder / name / "folder" / "index.html").write_text(name)
    (folder / "files").mkdir()
    for path in folder, folder / "files":
        path.chmod(0o777)
    lines = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in MODULES]
    lines += ["User nobody", "Group nogroup"] if os.geteuid() == 0 else []
    lines += [APACHE.format(folder=folder, port=port), more]
    for name in sites:
        certificate, key = certificates.issue(name)
        lines += [f"<VirtualHost *:{port}>", f"ServerName {name}", f"DocumentRoot {folder}/{name}", "SSLEngine on"]
        lines += [f"SSLCertificateFile {certificate}", f"SSLCertificateKeyFile {key}", "</VirtualHost>"]
    (folder / "httpd.conf").write_text("\n".join(lines) + "\n")
    return [program("apache2"), "-f", folder / "httpd.conf", "-DFOREGROUND"]


def apache_sites(port: int, directory: Path, certificates: Certificates) -> Any:
    return apache(port, directory, certificates, "SSLStrictSNIVHostCheck on", ("one.example", "two.example"))


def apache_dav(port: int, directory: Path, certificates: Certificates) -> Any:
    return apache(port, directory, certificates, "RequestHeader edit Destination ^https: http: early")


def pypiserver(port: int, directory: Path, certificates: Certificates) -> Any:
    (directory / "packages").mkdir()
    return [BIN / "pypi-server", "run", "-i", "127.0.0.1", "-p", str(port), "-a", ".", "-P", ".", "packages"]


def wsgidav(port: int, directory: Path, certificates: Certificates) -> Any:
    (directory / "www" / "dav").mkdir(parents=True)
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return [BIN / "wsgidav", "--root", "www", "--auth", "anonymous", "--server", "cheroot", *where]


def moto(port: int, directory: Path, certificates: Certificates) -> Any:
    return ["env", "S3_IGNORE_SUBDOMAIN_BUCKETNAME=true", BIN / "moto_server", "-H", "127.0.0.1", "-p", str(port)]


def puma(port: int, directory: Path, certificates: Certificates) -> Any:
    return [program("puma"), "-b", f"tcp://127.0.0.1:{port}", "-t", "1:2", APPLICATIONS / "config.ru"]


def gunicorn(name: str) -> Callable[..., Any]:
    def command(port: int, directory: Path, certificates: Certificates) -> Any:
        return [BIN / "gunicorn", "--chdir", APPLICATIONS, "--bind", f"127.0.0.1:{port}", name]

    return command


def uvicorn(*more: str) -> Callable[..., Any]:
    def command(port: int, directory: Path, certificates: Certificates) -> Any:
        where = ["--app-dir", APPLICATIONS, "--host", "127.0.0.1", "--port", str(port)]
        return [BIN / "uvicorn", *where, *more, "fastapi_application:app"]

    return command


BELOW_API = uvicorn("--root-path", "/api")
USES: dict[str, tuple[Callable[..., Any], Callable[[Front], None]]] = {
    "pypiserver": (pypiserver, use_pypiserver),
    "tus (tuspyserver)": (uvicorn(), use_tus),
    "tus below `/api`": (BELOW_API, lambda front: use_tus(front, "/api")),
    "Flask, Gunicorn": (gunicorn("flask_application:app"), use_flask),
    "Flask below `/shop`": (gunicorn("flask_application:app"), lambda front: use_flask(front, "/shop")),
    "FastAPI, Uvicorn": (uvicorn(), use_fastapi),
    "FastAPI below `/api`": (BELOW_API, lambda front: use_fastapi(front, "/api")),
    "Django, Gunicorn": (gunicorn("django_application"), use_django),
    "Rack 2.2, Puma": (puma, use_rack),
    "Rack 2.2 with `Forwarded`": (puma, use_rack),
    "Apache httpd": (apache, use_folder),
    "Apache httpd over TLS": (apache_sites, use_sites),
    "Apache mod_dav": (apache_dav, use_webdav),
    "WsgiDAV": (wsgidav, use_webdav),
    "Amazon S3 (moto)": (moto, use_s3),
}


@pytest.mark.landing
def test_each_row_of_the_guide_is_tried() -> None:
    assert [*rows()] == [*USES]


@pytest.fixture
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    if not BIN.exists():
        pytest.fail("the applications are not installed: make .venv/applications/.installed")
    settings = rows()[request.param]
    upstream = {name: value for name, value in settings.items() if name in OF_UPSTREAM}
    route = {name: value for name, value in settings.items() if name not in OF_UPSTREAM}
    port = own_port()
    with ExitStack() as stack:
        # All may read it, which a folder of pytest does not allow.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="works-with-")))
        directory.chmod(0o755)
        certificates = Certificates(directory)
        certificate, key = certificates.issue(HOST, "127.0.0.1", "one.example", "two.example")
        stack.enter_context(Printing(USES[request.param][0](port, directory, certificates), cwd=directory))
        wait_until(lambda: is_listening(port), f"{request.param} listens", START_DEADLINE)
        config = {
            "listeners": {
                "plain": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8"]},
                "tls": {
                    "address": "127.0.0.1:0",
                    "tls": {"certificates": [{"certificate": certificate, "key": key}]},
                },
            },
            "upstreams": {"app": {"targets": [f"{'https' if upstream else 'http'}://127.0.0.1:{port}"], **upstream}},
            "routes": [{"name": "app", "upstream": "app", **route}],
        }
        yield Front(stack.enter_context(Gateway(config, directory)), certificates, directory)


@pytest.mark.parametrize(
    ("front", "use"), [(name, use) for name, (_, use) in USES.items()], ids=[*USES], indirect=["front"]
)
def test_an_application_works_with_the_settings_of_its_row(front: Front, use: Callable[[Front], None]) -> None:
    use(front)
