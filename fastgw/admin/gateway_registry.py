"""Registry of a user's running gateways: each has an entry in the runtime directory while it runs.

An entry is two files of mode 0600: `NAME.json` with the address of the admin API, and `NAME.token` with the generated
token. The gateway holds a lock (flock) on the first while it runs: an entry without a lock belongs to a dead gateway,
whatever process has its pid now, and is removed. A directory in which others can create files is neither written nor
trusted.
"""

import errno
import fcntl
import os
import re
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
"""Mode bits that must be clear on a unix socket that only its owner may use."""
_ENTRY: Final = ".json"
_NAME: Final = re.compile(r"[0-9]+-[0-9a-f]{8}\.json")
"""Names of entries: other files in the directory, such as a configuration that is made at boot, are not ours."""
_TOKEN: Final = ".token"
_STARTING: Final = ".starting"
_LARGEST: Final = 64 * 1024
"""Maximum size of an entry and of a token, in bytes."""
_READS: Final = 3
"""Number of attempts to read an entry that may be being written."""


class Unregistered(Exception):
    """No usable directory for an entry. The text has the reason."""


class GatewayEntry(Struct, frozen=True, kw_only=True):
    """Entry of a running gateway."""

    pid: int
    name: str
    """Name given by `run --name`; else that of the configuration file, without its suffix."""
    config: str
    """Absolute path of the configuration file, without links; "" if the gateway is configured on the command line."""
    version: str
    began_date: float
    admin: str | None
    """Address of the admin API: `host:port` or `unix:/path`; null = none."""
    admin_tls: bool = False
    token_file: str | None = None
    """File with the token; null = no token is needed, or it is not in a file."""
    status: str | None = None
    given: str = ""
    """Absolute path of the configuration file as given, with its links, which may lead elsewhere later; "" if there is
    no file, or the gateway is of a version that did not write it."""


class Found(Struct, frozen=True):
    """An entry with its owner."""

    entry: GatewayEntry
    owner: int
    """User id of the gateway."""

    def token(self) -> str | None:
        """Return the content of its token file, if it may be sent to the gateway. None: there is none, or it cannot be
        read.

        The token file of another user's gateway must belong to that user: otherwise `root` could be made to send a file
        that only it can read to an address chosen by the other user.
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
    """Return the directories of entries; new ones go into the first."""
    user = os.geteuid()
    found = [each for each in environment.get("RUNTIME_DIRECTORY", "").split(":") if os.path.isabs(each)]
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    found += [os.path.join(each, "fastgw") for each in (runtime, f"/run/user/{user}") if os.path.isabs(each)]
    temporary = [environment.get("TMPDIR", ""), SHARED_TEMPORARY]
    found += ["/run/fastgw", *(os.path.join(each, f"fastgw-{user}") for each in temporary if os.path.isabs(each))]
    return list(dict.fromkeys(found))


def usable_directory(environment: Mapping[str, str] = os.environ) -> str:
    """Return a directory that belongs to this user and that no one else can write to; created if missing. Raises
    `Unregistered`.
    """
    reasons = []
    for path in directories(environment):
        with suppress(OSError):
            os.mkdir(path, 0o700)
        if not (why := _why_not(path, (os.geteuid(),))):
            return path
        reasons.append(f"{path}: {why}")
    raise Unregistered("; ".join(reasons))


def _why_not(path: str, owners: tuple[int, ...]) -> str:
    """Return the reason why a directory must not be trusted; "" = it can be."""
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
    """Return the contents of a regular file, and its owner. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("not a regular file")
        return os.pread(descriptor, _LARGEST, 0), found.st_uid
    finally:
        os.close(descriptor)


def running(environment: Mapping[str, str] = os.environ) -> list[Found]:
    """Return the running gateways, the oldest first. Entries of dead ones are removed."""
    user = os.geteuid()
    found: dict[tuple[int, str], Found] = {}
    for directory in directories(environment):
        # The kernel guarantees the owner of a file: root may see the gateways of a service's user.
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
        names = sorted(name for name in os.listdir(directory) if _NAME.fullmatch(name))
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
    """Whether the lock is free. Names are used once, so a free entry stays free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _decoded(descriptor: int) -> GatewayEntry:
    """Return the decoded entry. Raises `MsgspecError`."""
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
    """Hold the lock for writing entries in this directory. The lock file is removed after use.

    Raises `OSError`.
    """
    path = os.path.join(directory, _STARTING)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):  # its previous holder has removed it
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
    """Entry of this gateway. `fd` holds the lock: an upgrade passes it on, so that the entry is never unlocked."""

    def __init__(self, path: str, fd: int) -> None:
        self.path, self.fd = path, fd
        self.has_token = False
        """Whether this program has written the token file."""
        self.is_written = False
        """Whether entry and token are as they were last wanted; False: there was no space for them."""
        self._length = 0
        self._directory = -1
        self._last: GatewayEntry | None = None
        with suppress(OSError):  # it may have been removed before an upgrade
            # Programs that clean up /tmp by age skip a locked directory (tmpfiles.d(5)).
            self._directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._directory, fcntl.LOCK_SH | fcntl.LOCK_NB)

    @classmethod
    def create_entry(cls, environment: Mapping[str, str] = os.environ) -> "Registration":
        """Create an entry without content, which is not valid yet. Raises `Unregistered`."""
        directory = usable_directory(environment)
        running(environment)  # removes entries of dead gateways
        path = os.path.join(directory, f"{os.getpid()}-{secrets.token_hex(4)}{_ENTRY}")
        hidden = f"{path}.new"
        try:
            fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(fd, 0o600)  # independent of the umask
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
    def is_there(self) -> bool:
        """Whether the entry is still in its directory, where commands look for it."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.lstat(self.path))
        except OSError:
            return False

    @property
    def token_file(self) -> str:
        return self.path.removesuffix(_ENTRY) + _TOKEN

    def replace_entry(self, former: "Registration") -> None:
        """Take the place of an entry that was removed."""
        self._last = former.last

    @property
    def last(self) -> GatewayEntry | None:
        """The entry as it was last written, by the program before an upgrade for example; None: it was not."""
        if self._last is None:
            with suppress(OSError, msgspec.MsgspecError):
                self._last = _decoded(self.fd)
        return self._last

    def write(self, entry: GatewayEntry) -> None:
        """Write the entry in place, padded with spaces to the previous length: concurrent readers see either version.

        Raises `OSError`.
        """
        self._last = entry  # also if there is no space for it
        text = msgspec.json.encode(entry)
        self._length = max(self._length, os.fstat(self.fd).st_size, len(text))
        if os.pwrite(self.fd, text.ljust(self._length), 0) < self._length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_token(self, token: str | None) -> None:
        """Write the token file; None: remove it. Raises `OSError`, and leaves nothing that is incomplete."""
        self.has_token = False
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
                os.rename(hidden, self.token_file)  # concurrent readers see either version
            except OSError as error:
                os.unlink(hidden)
                raise OSError(error.errno, error.strerror, self.token_file) from error
            finally:
                os.close(descriptor)
            self.has_token = True

    def end(self) -> None:
        """Remove the entry at the end of the gateway."""
        _remove(self.path)
        self.close()

    def close(self) -> None:
        """Close the registration in a child process: the entry remains with the process that holds it. They share one
        lock.
        """
        if self.fd >= 0:
            os.close(self.fd)
            if self._directory >= 0:
                os.close(self._directory)
            self.fd = self._directory = -1


def is_private(address: Address) -> bool:
    """Whether this is a unix socket to which only its owner and root can connect."""
    if not address.path:
        return False
    try:
        found = os.stat(address.path)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and not found.st_mode & OWNER_ONLY and found.st_uid in (0, os.geteuid())
