"""Messages between control and the process that talks to an issuer: one JSON document per line."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

MOST_LINE: Final = 1024 * 1024
"""Maximum length of a line in bytes."""


class Issuer(Struct, frozen=True):
    """Issuer of a job. `ca`: CA certificates in PEM that verify its server; "": those of the system."""

    directory: str
    ca: str = ""
    key_id: str = ""
    key: str = ""

    def __repr__(self) -> str:
        return f"<Issuer {self.directory}>"


class Job(Struct, frozen=True):
    """Certificate to obtain. `replaces`: whether it replaces the one in the file, by its issuer `replaced_issuer`.
    `asks`: only ask that issuer when to renew it. `seconds`: time limit.
    """

    issuers: Sequence[Issuer]
    email: str
    storage: str
    file: str
    domains: Sequence[str]
    challenge: str
    key: str
    seconds: float
    hook: Sequence[str] = ()
    hook_seconds: float = 120.0
    asks: bool = False
    replaces: bool = False
    replaced_issuer: str = ""
    unless_serial: str | None = None
    """Serial number of the certificate that is known here: if the file has another valid one, another gateway of the
    machine has renewed it."""


class ToAnswer(Struct, frozen=True, tag="answer"):
    """Challenges that workers have to answer, before the issuer is asked to verify them."""

    http: Mapping[str, str] = {}
    tls: Mapping[str, str] = {}


class Renewal(Struct, frozen=True, tag="renewal"):
    """Renewal date that the issuer suggests (RFC 9773), and the date from which to ask again; epoch seconds. 0: it has
    suggested none.
    """

    renew_date: float
    ask_date: float


class Issued(Struct, frozen=True, tag="issued"):
    """A certificate was stored. `failed`: why issuers before this one have failed."""

    issuer: str
    failed: str = ""


class Failed(Struct, frozen=True, tag="failed"):
    """All issuers have failed. `retry_after`: seconds that an issuer demands to wait; 0: none does."""

    why: str
    retry_after: float = 0.0


FromIssuing = ToAnswer | Renewal | Issued | Failed
