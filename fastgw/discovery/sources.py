"""Sources of followed files, made from the settings of their services; and fetches of files, without an event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

import msgspec

from fastgw.config.base.problems import VAULT
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.secrets import Secret, SecretError, secret_in
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.config.sources.followed_files import FollowedFile, followed_in
from fastgw.discovery.consul import ConsulList
from fastgw.discovery.docker import DockerList
from fastgw.discovery.eureka import EurekaList
from fastgw.discovery.http_client import Resolve, ServiceClient, SourceFailed, resolve_here
from fastgw.discovery.nacos import NacosList
from fastgw.discovery.targets import TargetList
from fastgw.discovery.vault import VaultFiles, VaultSession
from fastgw.upstream.targets.dns import look_up

AT_START_S: Final = 10.0
"""Timeout in seconds of all fetches of a reading together; fetches beyond it are skipped."""
_LISTS: Final[Mapping[str, Callable[..., "TargetSource"]]] = {
    "consul": ConsulList,
    "nacos": NacosList,
    "eureka": EurekaList,
    "docker": DockerList,
}
T = TypeVar("T")


class TargetSource(Protocol):
    """Source of a list of targets."""

    def fetch(self) -> Awaitable[TargetList]:
        """Return the list. Raises `SourceFailed`."""

    def follow_list(self) -> AsyncIterator[TargetList]:
        """Yield the list, and each later one. Raises `SourceFailed`."""


def secret_reader(files: Mapping[str, bytes]) -> Callable[[Secret], str]:
    """Return the function that returns the value of a secret, from the contents of files as they were read. It raises
    `SourceFailed`.
    """

    def value(secret: Secret) -> str:
        try:
            held = files.get(secret.file)
            return secret.value() if held is None else secret_in(secret.file, held)
        except SecretError as error:
            raise SourceFailed(str(error)) from error

    return value


def files_in(settings: Any) -> list[str]:
    """Return the files that the settings of a service name."""
    if isinstance(settings, Secret):
        return [settings.file] if settings.file else []
    if isinstance(settings, UpstreamTls):
        return [each for each in (settings.ca, settings.certificate, settings.key) if each is not None]
    if isinstance(settings, msgspec.Struct):
        return [file for each in msgspec.structs.astuple(settings) for file in files_in(each)]
    return []


def target_source(
    file: FollowedFile, settings: Any, files: Mapping[str, bytes], resolve: Resolve = look_up
) -> TargetSource:
    """Return the source of a list. `settings`: of its service; `files`: contents of the files that they name."""
    client = ServiceClient(settings.address, settings.tls, files, resolve)
    return _LISTS[file.kind](settings, file, client, secret_reader(files))


def vault_session(settings: Any, files: Mapping[str, bytes], resolve: Resolve = look_up) -> VaultSession:
    """Return a session at Vault, which logs in when it is first used."""
    return VaultSession(settings, ServiceClient(settings.address, settings.tls, files, resolve), secret_reader(files))


class FetchOnce:
    """Fetches followed files for one reading of a configuration, without an event loop. `services`: settings by
    kind.
    """

    def __init__(self, services: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        self._services = services
        self._files = files
        self._ends_at = time.monotonic() + AT_START_S
        self._failed: dict[str, str] = {}  # kinds of services that cannot be used
        self._session: VaultSession | None = None

    def fetch(self, name: str) -> bytes:
        """Return the content of a file. Raises `SyntaxProblem`."""
        file = followed_in(name)
        if file.kind not in self._services:
            raise SyntaxProblem("is not known yet")
        if file.kind in self._failed:
            raise SyntaxProblem(f"cannot be fetched: {self._failed[file.kind]}")
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise SyntaxProblem(f"cannot be fetched: those before it took {AT_START_S:g} s")
        try:
            return _run(self._secret(name) if file.kind == VAULT else self._list(file), left_s)
        except TimeoutError as error:
            self._failed[file.kind] = f"timed out after {AT_START_S:g} s"
            raise SyntaxProblem(f"cannot be fetched: {self._failed[file.kind]}") from error
        except SourceFailed as error:
            if file.kind == VAULT:
                self._failed[file.kind] = str(error)
            raise SyntaxProblem(f"cannot be fetched: {error}") from error

    async def _list(self, file: FollowedFile) -> bytes:
        source = target_source(file, self._services[file.kind], self._files, resolve_here)
        return (await source.fetch()).content

    async def _secret(self, name: str) -> bytes:
        if self._session is None:
            self._session = vault_session(self._services[VAULT], self._files, resolve_here)
        contents, problems = await VaultFiles(self._session).fetch([name])
        if name not in contents:
            raise SyntaxProblem(f"cannot be fetched: {problems[name]}")
        return contents[name]

    def close(self) -> None:
        """End the login at Vault, if there was one."""
        if self._session is not None:
            session, self._session = self._session, None
            with suppress(TimeoutError, SourceFailed):  # the token ends by itself
                _run(session.revoke(), 1.0)


@contextmanager
def fetching(services: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[Callable[[str], bytes]]:
    """Yield the function that fetches followed files once."""
    once = FetchOnce(services, files)
    try:
        yield once.fetch
    finally:
        once.close()


def _run(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run a coroutine in a thread with a loop of its own: the caller may be in one. Raises what it raises, and
    `TimeoutError`.
    """

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await work

    def run() -> T:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(bounded())

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
