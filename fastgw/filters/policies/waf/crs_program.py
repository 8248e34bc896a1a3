"""Program of the helper processes that run the OWASP Core Rule Set: libmodsecurity, called by ctypes.

The library is the engine of ModSecurity 3 as the system's package manager installs it (Debian: `libmodsecurity3`). It
takes milliseconds for a request and holds the interpreter, so it never runs in a worker.

Rule 1: rules that do not load are an error: without it the library would let every request pass. Rule 2: rules that
look up addresses (REQUEST-910: GeoIP, DNS) and those of responses are left out. Rule 3: text of the client decides
nothing: the library's log has it unescaped, so an id counts only next to a mark that no client knows.
"""

import ctypes
import ctypes.util
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, msgpack

from fastgw.filters.policies.waf.content_type import parameters_of

LIBRARY: Final = "libmodsecurity.so.3"
_LEFT_OUT: Final = ("REQUEST-910-", "RESPONSE-")
_SETUP: Final = """
SecRuleEngine On
SecRequestBodyAccess On
SecResponseBodyAccess Off
SecAuditEngine Off
SecRequestBodyLimit 33554432
SecRequestBodyNoFilesLimit 33554432
SecRequestBodyLimitAction ProcessPartial
SecPcreMatchLimit 100000
SecPcreMatchLimitRecursion 100000
SecArgumentSeparator &
SecCookieFormat 0
SecCollectionTimeout 600
SecDefaultAction "phase:1,log,auditlog,pass"
SecDefaultAction "phase:2,log,auditlog,pass"
SecRule REQUEST_HEADERS:Content-Type "@rx (?i)^(?:application(?:/soap\\+|/)|text/)xml" \
  "id:1,phase:1,t:none,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx (?i)^application/(?:[a-z0-9.-]+\\+)?json" \
  "id:2,phase:1,t:none,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQBODY_ERROR "!@eq 0" "id:200002,phase:2,t:none,pass,log,msg:'%s'"
SecRule MULTIPART_DATA_BEFORE|MULTIPART_DATA_AFTER|MULTIPART_HEADER_FOLDING|MULTIPART_MISSING_SEMICOLON|\
MULTIPART_INVALID_QUOTING|MULTIPART_INVALID_HEADER_FOLDING|MULTIPART_BOUNDARY_WHITESPACE|MULTIPART_FILE_LIMIT_EXCEEDED \
  "!@eq 0" "id:200003,phase:2,t:none,pass,log,msg:'%s'"
SecRule MULTIPART_UNMATCHED_BOUNDARY "@eq 1" "id:200004,phase:2,t:none,pass,log,msg:'%s'"
SecAction "id:900990,phase:1,nolog,pass,t:none,setvar:tx.crs_setup_version=%d"
SecAction "id:900000,phase:1,nolog,pass,t:none,setvar:tx.paranoia_level=%d,setvar:tx.executing_paranoia_level=%d,\
setvar:tx.blocking_paranoia_level=%d,setvar:tx.detection_paranoia_level=%d"
SecAction "id:900110,phase:1,nolog,pass,t:none,setvar:tx.inbound_anomaly_score_threshold=%d"
"""
UNREAD_BODY: Final = frozenset((200002, 200003, 200004))
"""Rules for bodies that the library cannot read, or reads in part: as in its recommended configuration, but without a
boundary in quotation marks and line breaks without CR, which it reads.
"""
_VERSION: Final = re.compile(r"OWASP_CRS/(\d+)\.(\d+)\.(\d+)")
_RULE: Final = re.compile(r'"id:(\d+),(.*?)(?<!\\)"', re.DOTALL)
_TAG: Final = re.compile(r"tag:'(attack-[\w-]+)'")
_IS_TAG: Final = re.compile(r"[\w./-]+").fullmatch
"""Whether a tag may be one of the rule set, and can be written into its configuration."""
_SEVERITY: Final = re.compile(r"severity:'?(\w+)")
_SCORES: Final = {"EMERGENCY": 5, "ALERT": 5, "CRITICAL": 5, "ERROR": 4, "WARNING": 3, "NOTICE": 2}
_OF_FILE: Final = rb'\[file "[^"]*%b/[^"]*"\] \[line "\d+"\] \[id "(\d+)"\]'
_OF_SETUP: Final = rb'\[id "(\d+)"\] \[rev ""\] \[msg "%b"\]'
"""Id of a rule in the library's log, next to the mark: in the path of the rule's file, or its message."""
_MOST_MATCHES: Final = 64
_MARK_BITS: Final = 128


class CrsSettings(Struct, frozen=True):
    """Settings of the rule set. `rules`: directory with `rules/*.conf`, or with `*.conf`. `without`: ids of rules that
    are removed.
    """

    rules: str
    paranoia: int
    threshold: int
    without: tuple[int, ...] = ()
    without_tags: tuple[str, ...] = ()


class CrsRequest(Struct, frozen=True):
    """A request to inspect. `target`: path and query as received; `headers`: in order; `body`: its first bytes;
    `is_cut`: more follows them.
    """

    client: str
    method: bytes
    target: bytes
    version: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    is_cut: bool = False


class CrsMatch(Struct, frozen=True):
    """A rule that matched."""

    id: int
    tags: tuple[str, ...]
    score: int


class CrsVerdict(Struct, frozen=True):
    """Result for a request. `blocks`: the rule set refuses it. `score`: sum of the scores of `matches`. `is_inspected`:
    its body was read; one that was not blocks, unless it is cut off.
    """

    blocks: bool
    score: int
    matches: tuple[CrsMatch, ...]
    is_inspected: bool = True


class _Intervention(ctypes.Structure):
    _fields_ = (
        ("status", ctypes.c_int),
        ("pause", ctypes.c_int),
        ("url", ctypes.c_void_p),
        ("log", ctypes.c_void_p),
        ("disruptive", ctypes.c_int),
    )


_LOG_CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)


class CannotLoad(Exception):
    """The library or the rules cannot be loaded; the text names the file and the error."""


def rule_files(directory: Path) -> list[Path]:
    """Return the rule files for requests, in the order of the rule set. Raises `CannotLoad`."""
    folder = directory / "rules" if (directory / "rules").is_dir() else directory
    files = [file for file in sorted(folder.glob("*.conf")) if not file.name.startswith(_LEFT_OUT)]
    if not any(file.name.startswith("REQUEST-901-") for file in files):
        raise CannotLoad(f"{directory}: no rules/REQUEST-901-*.conf; expected the OWASP Core Rule Set")
    return files


def load_library() -> Any:
    """Load libmodsecurity. Raises `CannotLoad`."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise CannotLoad(f"{LIBRARY} cannot be loaded ({error}); on Debian: apt-get install libmodsecurity3") from error
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("msc_init", pointer, ()),
        ("msc_set_connector_info", None, (pointer, text)),
        ("msc_set_log_cb", None, (pointer, _LOG_CALLBACK)),
        ("msc_create_rules_set", pointer, ()),
        ("msc_rules_add", ctypes.c_int, (pointer, text, ctypes.POINTER(text))),
        ("msc_rules_add_file", ctypes.c_int, (pointer, text, ctypes.POINTER(text))),
        ("msc_new_transaction", pointer, (pointer, pointer, pointer)),
        ("msc_process_connection", ctypes.c_int, (pointer, text, ctypes.c_int, text, ctypes.c_int)),
        ("msc_process_uri", ctypes.c_int, (pointer, text, text, text)),
        ("msc_add_n_request_header", ctypes.c_int, (pointer, text, ctypes.c_size_t, text, ctypes.c_size_t)),
        ("msc_process_request_headers", ctypes.c_int, (pointer,)),
        ("msc_append_request_body", ctypes.c_int, (pointer, text, ctypes.c_size_t)),
        ("msc_process_request_body", ctypes.c_int, (pointer,)),
        ("msc_intervention", ctypes.c_int, (pointer, ctypes.POINTER(_Intervention))),
        ("msc_transaction_cleanup", None, (pointer,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class CrsEngine:
    """The rule set in this process. Raises `CannotLoad`."""

    def __init__(self, settings: CrsSettings) -> None:
        self._library = library = load_library()
        self._messages: list[bytes] = []
        self._callback = _LOG_CALLBACK(lambda data, message: self._messages.append(message or b""))
        self._engine = library.msc_init()
        library.msc_set_connector_info(self._engine, b"fastgw")
        library.msc_set_log_cb(self._engine, self._callback)
        self._rules = library.msc_create_rules_set()
        files = rule_files(Path(settings.rules))
        self._known = {id: CrsMatch(id, ("attack-protocol",), 5) for id in UNREAD_BODY}
        self._known |= {match.id: match for match in _matches_of(files)}
        # Of slashes and dots, because it leads from the directory of a file to this directory.
        self._mark = mark = "".join(secrets.choice(("/", "/.")) for _ in range(_MARK_BITS))
        escaped = re.escape(mark.encode())
        self._id = re.compile(_OF_FILE % escaped + b"|" + _OF_SETUP % escaped).search
        found = _VERSION.search(next(file for file in files if "REQUEST-901-" in file.name).read_text())
        if found is None:
            raise CannotLoad(f"{settings.rules}: REQUEST-901-*.conf does not name its version")
        level = settings.paranoia
        version = int("".join(found.groups()))
        setup = _SETUP % (mark, mark, mark, version, level, level, level, level, settings.threshold)
        self._add(library.msc_rules_add, setup, "its settings")
        for file in files:
            self._add(library.msc_rules_add_file, f"{file.parent}{mark}/{file.name}", str(file))
        for id in settings.without:
            self._add(library.msc_rules_add, f"SecRuleRemoveById {id}", f"exclusion of rule {id}")
        for tag in filter(_IS_TAG, settings.without_tags):  # compared as a whole: the library takes no expression
            self._add(library.msc_rules_add, f'SecRuleRemoveByTag "{tag}"', f"exclusion of tag {tag}")

    def _add(self, add: Callable[..., int], what: str, name: str) -> None:
        error = ctypes.c_char_p()
        if add(self._rules, what.encode(), ctypes.byref(error)) < 0:
            text = (error.value or b"unknown error").decode(errors="replace").replace(self._mark, "")
            raise CannotLoad(f"{name}: {' '.join(text.split())}")

    def inspect(self, request: CrsRequest) -> CrsVerdict:
        """Return the verdict on a request."""
        library, self._messages = self._library, []
        transaction = library.msc_new_transaction(self._engine, self._rules, None)
        try:
            library.msc_process_connection(transaction, request.client.encode(), 0, b"127.0.0.1", 0)
            library.msc_process_uri(transaction, request.target, request.method, request.version.encode())
            for name, value in request.headers:
                library.msc_add_n_request_header(transaction, name, len(name), value, len(value))
            library.msc_process_request_headers(transaction)
            blocks = self._intervenes(transaction)
            if not blocks:
                if body := _readable_body(request):
                    library.msc_append_request_body(transaction, body, len(body))
                library.msc_process_request_body(transaction)
                blocks = self._intervenes(transaction)
        finally:
            library.msc_transaction_cleanup(transaction)
        found = list(filter(None, map(self._match_of, self._messages)))
        if not request.body:  # XML and forms may have none
            found = [match for match in found if match.id not in UNREAD_BODY]
        matches = tuple(found[:_MOST_MATCHES])
        is_inspected = not any(match.id in UNREAD_BODY for match in found)
        blocks = blocks or not (is_inspected or request.is_cut)
        return CrsVerdict(blocks, sum(match.score for match in matches), matches, is_inspected)

    def _match_of(self, message: bytes) -> CrsMatch | None:
        """Read a message of the library's log. None: it belongs to a rule that only sums up others."""
        found = self._id(message)
        id = int(found[1] or found[2]) if found else 0
        if not id or 949000 <= id < 950000 or 980000 <= id < 981000:
            return None
        return self._known.get(id) or CrsMatch(id, (), 0)

    def _intervenes(self, transaction: Any) -> bool:
        found = _Intervention(status=200)
        if not self._library.msc_intervention(transaction, ctypes.byref(found)):
            return False
        libc = ctypes.CDLL(None)
        libc.free.argtypes = (ctypes.c_void_p,)
        libc.free(found.url)
        libc.free(found.log)
        return bool(found.disruptive)


def _readable_body(request: CrsRequest) -> bytes:
    """Return the body; a multipart body that is cut off ends after a part, or in its content: otherwise, the library
    reads none of its parts.
    """
    types = [value for name, value in request.headers if name.lower() == b"content-type"]
    if not request.is_cut or len(types) != 1 or not types[0].strip().lower().startswith(b"multipart/"):
        return request.body
    boundaries = parameters_of(types[0], b"boundary")
    if len(boundaries) != 1:
        return request.body
    delimiter = b"\r\n--" + boundaries[0]
    end = request.body.rfind(delimiter)
    last_is_cut = end >= 0 and b"\r\n\r\n" not in request.body[end:]
    return (request.body[:end] if last_is_cut else request.body) + delimiter + b"--\r\n"


def _matches_of(files: Sequence[Path]) -> Iterator[CrsMatch]:
    """Yield the match of each rule, by its text: the library's log does not always have its tags."""
    for file in files:
        for found in _RULE.finditer(file.read_text()):
            severity = _SEVERITY.search(found[2])
            score = _SCORES.get(severity[1], 0) if severity else 0
            yield CrsMatch(int(found[1]), tuple(_TAG.findall(found[2])), score)


def start(argument: bytes) -> Callable[[bytes], bytes]:
    """Load the rules; see `helper_processes.program.Program`."""
    engine = CrsEngine(msgpack.decode(argument, type=CrsSettings))
    decoder, encoder = msgpack.Decoder(CrsRequest), msgpack.Encoder()

    def inspect(request: bytes) -> bytes:
        return encoder.encode(engine.inspect(decoder.decode(request)))

    return inspect
