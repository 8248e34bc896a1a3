"""OpenSSL functions that Python's ssl module does not offer: session tickets, groups, memory.

They are called by `ctypes`, after `verify` has confirmed in a child process that this works. Otherwise contexts stay as
Python creates them.
"""

import os
import ssl
import sys
from collections.abc import Iterable
from contextlib import suppress
from time import time
from typing import Any, Final

from fastgw.net.tls_profiles import HYBRID

KEY_BYTES: Final = 80
"""Length of session ticket keys in bytes: their name, and the keys for signing and encryption."""

MISSING: Final = (ImportError, OSError, AttributeError, MemoryError)
"""Errors if `ctypes` is missing, or OpenSSL is not a shared library."""

_MODE, _CACHE_MODE, _GET_KEYS, _SET_KEYS, _SET_GROUPS = 33, 44, 58, 59, 92  # SSL_CTRL_…
_RELEASE_BUFFERS: Final = 0x10
_OPENED, _OPENED_TO_RENEW = 5, 6  # SSL_TICKET_SUCCESS…
_IGNORE_RENEW, _USE, _USE_RENEW = 2, 3, 4  # SSL_TICKET_RETURN_…


class _Library:
    """The OpenSSL that the `ssl` module is linked to. Raises one of `MISSING` if it is not available."""

    def __init__(self) -> None:
        import _ssl  # its dependencies are searched too, so this is the same library
        import ctypes  # it allocates memory that a service manager may forbid

        self._ctypes = ctypes
        library = ctypes.CDLL(_ssl.__file__)
        self._control = library.SSL_CTX_ctrl
        self._control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
        self._control.restype = ctypes.c_long
        pointer = ctypes.c_void_p
        self._peer_of = library.SSL_SESSION_get0_peer
        self._end_of = library.X509_get0_notAfter
        self._compare = library.X509_cmp_time
        self._set_ticket_callback = library.SSL_CTX_set_session_ticket_cb
        for function, arguments, result in (
            (self._peer_of, (pointer,), pointer),
            (self._end_of, (pointer,), pointer),
            (self._compare, (pointer, ctypes.POINTER(ctypes.c_int64)), ctypes.c_int),
            (self._set_ticket_callback, (pointer, pointer, pointer, pointer), ctypes.c_int),
        ):
            function.argtypes, function.restype = arguments, result
        callback = ctypes.CFUNCTYPE(
            *(ctypes.c_int, pointer, pointer, pointer, ctypes.c_size_t, ctypes.c_int, pointer)  # SSL_CTX_decrypt_…_fn
        )
        self._answer_ticket = callback(self._decide_ticket)  # contexts refer to it: it lives as long as the process
        _callbacks.append(self._answer_ticket)

    def control(
        self, context: ssl.SSLContext, command: int, number: int, given: bytes | bytearray | None = None
    ) -> int:
        """Call `SSL_CTX_ctrl`. `given`: read by OpenSSL; if it is a `bytearray`, written."""
        pointer: Any = given
        if isinstance(given, bytearray):
            pointer = (self._ctypes.c_char * len(given)).from_buffer(given)
        return int(self._control(self._address_of(context), command, number, pointer))

    def _address_of(self, context: ssl.SSLContext) -> Any:
        # An `SSLContext` begins with the header of every Python object; the next word is the pointer to OpenSSL's
        # context.
        return self._ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value

    def check_tickets(self, context: ssl.SSLContext) -> bool:
        """Have the context ignore tickets of clients whose certificate has expired."""
        return bool(self._set_ticket_callback(self._address_of(context), None, self._answer_ticket, None))

    def _decide_ticket(self, _: int, session: int, name: int, length: int, status: int, argument: int) -> int:
        """Answer OpenSSL, in the middle of a handshake, whether it shall resume the session of a ticket. A ticket that
        it could not read stays one."""
        if status not in (_OPENED, _OPENED_TO_RENEW):
            return _IGNORE_RENEW
        certificate = self._peer_of(session)
        if certificate:
            now = self._ctypes.c_int64(int(time()))
            if self._compare(self._end_of(certificate), self._ctypes.byref(now)) <= 0:  # 0: it has no valid date
                return _IGNORE_RENEW
        return _USE if status == _OPENED else _USE_RENEW


_callbacks: Final[list[Any]] = []
_library: _Library | None = None


def verify() -> bool:
    """Test in a child process whether contexts can be accessed, and keep the result, also for later children.

    Call it only while no other thread runs.
    """
    global _library
    _library = None
    with suppress(*MISSING):
        library = _Library()
        if sys.implementation.name == "cpython" and _survives(library):
            _library = library
    return _library is not None


def _survives(library: _Library) -> bool:
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if _agrees(library) else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _agrees(library: _Library) -> bool:
    """Whether keys can be read back, and only in the context where they were set."""
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    before = [_keys_of(library, each) for each in contexts]
    wanted = os.urandom(KEY_BYTES)
    if not library.control(contexts[0], _SET_KEYS, KEY_BYTES, wanted):
        return False
    after = [_keys_of(library, each) for each in contexts]
    return wanted != before[0] != before[1] and after == [wanted, before[1]]


def _keys_of(library: _Library, context: ssl.SSLContext) -> bytes:
    held = bytearray(KEY_BYTES)
    library.control(context, _GET_KEYS, KEY_BYTES, held)
    return bytes(held)


def is_reached() -> bool:
    """Whether `verify` has succeeded."""
    return _library is not None


def set_ticket_keys(context: ssl.SSLContext, keys: bytes) -> None:
    """Set the ticket keys of a context; if that is not possible, it keeps its own."""
    if _library is not None:
        _library.control(context, _SET_KEYS, KEY_BYTES, keys)


def ignore_expired(context: ssl.SSLContext) -> None:
    """Ignore session tickets of clients whose certificate has expired, so that the handshake verifies a newer one.

    OpenSSL verifies nothing when a session is resumed, and then it is too late for a full handshake.
    """
    if _library is not None:
        _library.check_tickets(context)


def knows_group(name: str) -> bool:
    """Whether this OpenSSL has a group for the key exchange."""
    return name != HYBRID or ssl.OPENSSL_VERSION_INFO >= (3, 5)


def set_groups(context: ssl.SSLContext, groups: Iterable[str]) -> None:
    """Allow only these groups in the key exchange, the preferred one first."""
    if _library is not None:
        known = ":".join(each for each in groups if knows_group(each))
        _library.control(context, _SET_GROUPS, 0, known.encode())


def spare_memory(context: ssl.SSLContext) -> None:
    """Keep neither buffers of idle connections (34 KiB each) nor sessions, which clients store themselves."""
    if _library is not None:
        _library.control(context, _MODE, _RELEASE_BUFFERS)
        _library.control(context, _CACHE_MODE, 0)


def describe_tickets() -> str:
    """Describe the handling of tickets here, for `fastgw version`."""
    return "keys shared by all workers, rotated daily" if verify() else "keys made at start, inherited by fork"
