"""Registry of the gateways that run for a user: each has an entry in the runtime directory, from its start to its end.

An entry is two files of mode 0600: `NAME.json`, which says where the gateway's admin API is, and `NAME.token`, with the
token that was made for it. The gateway holds a lock (flock) on the first for as long as it lives: who finds an entry
that nobody has locked knows that its gateway is dead, whatever process has its pid now, and removes it. A directory in
which somebody else could put files is neither written nor believed.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import msgspec
from msgspec import Struct

from fastgw.config.base.value_types import Address

SHARED_TEMPORARY: Final = "/tmp"
OWNER_ONLY: Final = 0o077
"""No bit of these may be set on a unix socket that is the owner's alone."""
_ENTRY: Final = ".json"
_TOKEN: Final = ".token"
_STARTING: Final = ".starting"
_LARGEST: Final = 64 * 1024
"""Bytes of an entry, and of a token."""
_READS: Final = 3
"""How often an entry is read that may just be written."""


class Unregistered(Exception):
    """The gateway has no directory for an entry. The text says why."""


class GatewayEntry(Struct, frozen=True, kw_only=True):
    """Entry of a gateway."""

    pid: int
    name: str
    """Name given by `run --name`; else that of the configuration file, without its suffix."""
    config: str
    """The absolute path of the configuration file; "" where the command line said it all."""
    version: str
    began_date: float
    admin: str | None
    """Address of the admin API: `host:port` or `unix:/path`; null = none."""
    admin_tls: bool = False
    token_file: str | None = None
    """File with the token; null = no token is needed, or it is in no file."""
    status: str | None = None


class Found(Struct, frozen=True):
    """An entry, and whose it is."""

    entry: GatewayEntry
    owner: int
    """The user id of the gateway."""

    def token(self) -> str | None:
        """Return the content of its token file, where that may be shown to the gateway. None: there is none, or it
        cannot be read.

        The file of a gateway of another user has to be that user's own: `root` is not made to send what only it can
        read to an address that somebody else has chosen.
        """
        if self.entry.token_file is None:
            return None
        try:
            content, owner = _read(self.entry.token_file)
        except OSError:
            return None
        if owner != self.owner and self.owner not in (0, os.geteuid()):
            return None
        return content.decode(errors="replace").removesuffix("\n").removesuffix("\r") or None


def directories(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the directories of entries, the place for a new one first."""
    user = os.geteuid()
    found = [each for each in environment.get("RUNTIME_DIRECTORY", "").split(":") if os.path.isabs(each)]
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    found += [os.path.join(each, "fastgw") for each in (runtime, f"/run/user/{user}") if os.path.isabs(each)]
    temporary = [environment.get("TMPDIR", ""), SHARED_TEMPORARY]
    found += ["/run/fastgw", *(os.path.join(each, f"fastgw-{user}") for each in temporary if os.path.isabs(each))]
    return list(dict.fromkeys(found))


def usable_directory(environment: Mapping[str, str] = os.environ) -> str:
    """A directory that is ours and that nobody else can write to; made, where it can be. Raises `Unregistered`."""
    reasons = []
    for path in directories(environment):
        with suppress(OSError):
            os.mkdir(path, 0o700)
        if not (why := _why_not(path, (os.geteuid(),))):
            return path
        reasons.append(f"{path}: {why}")
    raise Unregistered("; ".join(reasons))


def _why_not(path: str, owners: tuple[int, ...]) -> str:
    """Return the reason why a directory is not to be trusted; "" where it is."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISDIR(found.st_mode):
        return "not a directory"
    if found.st_uid not in owners:
        return f"owned by user {found.st_uid}"
    if found.st_mode & 0o022:
        return "others can write to it"
    return "" if os.access(path, os.R_OK | os.X_OK) else "not readable"


def _read(path: str) -> tuple[bytes, int]:
    """The contents of a regular file, and its owner. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("not a regular file")
        return os.pread(descriptor, _LARGEST, 0), found.st_uid
    finally:
        os.close(descriptor)


def running(environment: Mapping[str, str] = os.environ) -> list[Found]:
    """The gateways that run, the longest first; what dead ones have left is removed."""
    user = os.geteuid()
    found: dict[tuple[int, str], Found] = {}
    for directory in directories(environment):
        # The kernel says who owns a file: root may look at the gateways of a service's user.
        owners = (user, 0) if user else (user, *_owner_of(directory))
        if _why_not(directory, owners):
            continue
        for each in _running_in(directory, owners):
            found.setdefault((each.owner, each.entry.config + "\0" + str(each.entry.pid)), each)
    return sorted(found.values(), key=lambda each: each.entry.began_date)


def _owner_of(directory: str) -> list[int]:
    with suppress(OSError):
        return [os.lstat(directory).st_uid]
    return []


def _running_in(directory: str, owners: tuple[int, ...]) -> Iterator[Found]:
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(_ENTRY))
    except OSError:
        return
    for name in names:
        path = os.path.join(directory, name)
        with suppress(OSError, msgspec.MsgspecError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                stated = os.fstat(descriptor)
                if not stat.S_ISREG(stated.st_mode) or stated.st_uid not in owners:
                    continue
                if _is_free(descriptor):
                    _remove(path)
                else:
                    yield Found(_decoded(descriptor), stated.st_uid)
            finally:
                os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the lock. A name is used once, so what is free stays free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _decoded(descriptor: int) -> GatewayEntry:
    """Raises `MsgspecError`."""
    for _ in range(_READS - 1):
        with suppress(msgspec.MsgspecError):  # it was being written
            return msgspec.json.decode(os.pread(descriptor, _LARGEST, 0), type=GatewayEntry)
    return msgspec.json.decode(os.pread(descriptor, _LARGEST, 0), type=GatewayEntry)


def _remove(path: str) -> None:
    for each in (path.removesuffix(_ENTRY) + _TOKEN, path):
        with suppress(OSError):
            os.unlink(each)


@contextmanager
def one_at_a_time(directory: str) -> Iterator[None]:
    """Keep other starts waiting that would write an entry here. The lock is a file for as long as somebody wants it.

    Raises `OSError`.
    """
    path = os.path.join(directory, _STARTING)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):  # else who had it has removed it
                    break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


class Registration:
    """The entry of this gateway. `fd` holds the lock: an upgrade passes it on, so that the entry is never free."""

    def __init__(self, path: str, fd: int) -> None:
        self.path, self.fd = path, fd
        self._length = 0
        # What cleans up /tmp by age leaves a directory alone that somebody has locked (tmpfiles.d(5)).
        self._directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._directory, fcntl.LOCK_SH | fcntl.LOCK_NB)

    @classmethod
    def create_entry(cls, environment: Mapping[str, str] = os.environ) -> "Registration":
        """An entry that is empty, and so none yet. Raises `Unregistered`."""
        directory = usable_directory(environment)
        running(environment)  # removes what dead ones have left
        path = os.path.join(directory, f"{os.getpid()}-{secrets.token_hex(4)}{_ENTRY}")
        hidden = f"{path}.new"
        try:
            fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(fd, 0o600)  # whatever the umask
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(hidden, path)
            except OSError:
                os.close(fd)
                os.unlink(hidden)
                raise
        except OSError as error:
            raise Unregistered(f"{directory}: {error.strerror}") from error
        return cls(path, fd)

    @property
    def token_file(self) -> str:
        return self.path.removesuffix(_ENTRY) + _TOKEN

    def write(self, entry: GatewayEntry) -> None:
        """Write the entry in place, with spaces in place of what was longer: who reads meanwhile finds one or the
        other.

        Raises `OSError`.
        """
        text = msgspec.json.encode(entry)
        self._length = max(self._length, os.fstat(self.fd).st_size, len(text))
        os.pwrite(self.fd, text.ljust(self._length), 0)

    def write_token(self, token: str | None) -> None:
        """None: there is none any more. Raises `OSError`."""
        hidden = f"{self.token_file}.new"
        for each in (hidden, *(() if token is not None else (self.token_file,))):
            with suppress(FileNotFoundError):
                os.unlink(each)
        if token is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(hidden, flags, 0o600)
            try:
                os.fchmod(descriptor, 0o600)
                os.write(descriptor, token.encode() + b"\n")
            finally:
                os.close(descriptor)
            os.rename(hidden, self.token_file)  # who reads it meanwhile has the same one

    def end(self) -> None:
        """The gateway does not run any more."""
        _remove(self.path)
        self.close()

    def close(self) -> None:
        """Close the registration in a child: the entry stays with the one that holds it. All of them share one lock."""
        if self.fd >= 0:
            os.close(self.fd)
            os.close(self._directory)
            self.fd = -1


def is_private(address: Address) -> bool:
    """Whether it is a unix socket that the kernel lets nobody but its owner, and root, connect to."""
    if not address.path:
        return False
    try:
        found = os.stat(address.path)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and not found.st_mode & OWNER_ONLY and found.st_uid in (0, os.geteuid())
