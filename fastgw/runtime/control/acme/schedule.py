"""Schedule of a certificate: when it is renewed, and when an issuer is asked again after a failure. Dates are in epoch
seconds.
"""

import random
import ssl
from typing import Final, NamedTuple

import msgspec

from fastgw.acme.messages import Failed, Renewal
from fastgw.acme.storage import CertificateState
from fastgw.net.pem import decoded, dns_names, pair_problem
from fastgw.net.placeholder import is_placeholder

FIRST_RETRY_S: Final = 60.0
LONGEST_RETRY_S: Final = 24 * 3600.0
MOST_FAILURES: Final = 30
ASK_RETRY_S: Final = 3600.0
"""Seconds after which a failed question for the renewal date is repeated."""
FIRST_EARLY_S: Final = 3600.0
"""Seconds for which a certificate is kept that has replaced one early; doubled with each further early renewal."""


class Held(NamedTuple):
    """Certificate in a file."""

    serial: str
    since: float
    until: float


def held_in(content: bytes, domains: list[str]) -> Held | None:
    """Return the certificate in a file's contents; None: there is none for these names."""
    if not content or pair_problem(content, content) is not None:
        return None
    certificate = decoded(content)
    if is_placeholder(certificate) or not {*domains} <= {*dns_names(certificate)}:
        return None
    since, until = (ssl.cert_time_to_seconds(certificate[each]) for each in ("notBefore", "notAfter"))
    return Held(certificate["serialNumber"], since, until)


def default_renewal(held: Held) -> float:
    """Return a random date when a third of the validity period is left, or a little less."""
    period = held.until - held.since
    return held.until - period / 3 + random.uniform(0, period / 30)


def latest_renewal(held: Held) -> float:
    """Return the date after which no renewal may be put off: a sixth of the validity period is left."""
    return held.until - (held.until - held.since) / 6


def is_early(state: CertificateState, held: Held, now: float) -> bool:
    """Whether a renewal now replaces a certificate that was obtained a short time ago."""
    remaining = held.until - state.issued_date
    return 0 <= now - state.issued_date < (remaining / 2 if remaining > 0 else 2 * LONGEST_RETRY_S)


def early_bound(state: CertificateState, held: Held, now: float) -> float:
    """Return the date before which a certificate is not renewed, since its predecessor was renewed early; 0.0: none.

    An issuer whose renewal windows are always in the past (RFC 9773 section 4.2: renew at once) would otherwise be
    asked for a certificate each minute. An early renewal itself is not delayed, and a second one only for an hour: the
    certificate may be about to be revoked.
    """
    if not state.early or state.issued_date > now:  # the clock was set back
        return 0.0
    remaining = held.until - state.issued_date
    longest = remaining / 10 if remaining > 0 else LONGEST_RETRY_S  # by this clock it was expired from the beginning
    return state.issued_date + min(FIRST_EARLY_S * 2.0 ** (state.early - 1), longest)


def renewal_date(state: CertificateState, held: Held, now: float) -> float:
    """Return when the certificate is renewed. A date of the issuer that is too late to renew in time is not obeyed, nor
    one in an older state file.
    """
    wanted = min(state.renew_date, latest_renewal(held)) if held.since <= now < held.until else now
    return max(wanted, early_bound(state, held, now))


def following(state: CertificateState, held: Held, now: float) -> CertificateState:
    """Return the state for this certificate: a new one gets a renewal date."""
    if state.serial == held.serial and state.renew_date:
        return state
    return msgspec.structs.replace(state, serial=held.serial, renew_date=default_renewal(held), ask_date=now)


def due_date(state: CertificateState, held: Held | None, now: float) -> float:
    """Return when the next attempt is due. A date of a clock that was wrong does not delay it by more than the longest
    delay.
    """
    wanted = now if held is None else renewal_date(state, held, now)
    retry_date = state.retry_date if state.retry_date <= now + LONGEST_RETRY_S * 1.3 else now
    return max(wanted, retry_date)


def before_attempt(state: CertificateState, now: float) -> CertificateState:
    """Return the state while an attempt is made. Once its process was killed more than once in a row, further attempts
    are delayed: each one may cost an order.
    """
    wait = min(FIRST_RETRY_S * 2 ** (state.begun - 1), LONGEST_RETRY_S) if state.begun else 0.0
    begun = min(state.begun + 1, MOST_FAILURES)
    return msgspec.structs.replace(state, begun=begun, retry_date=now + wait)


def after_failure(state: CertificateState, failed: Failed, now: float) -> CertificateState:
    """Return the state after a failed attempt. Delays are doubled, and at least what the issuer demands."""
    failures = min(state.failures + 1, MOST_FAILURES)
    wait = min(FIRST_RETRY_S * 2 ** (failures - 1), LONGEST_RETRY_S)
    wait = max(wait, min(failed.retry_after, LONGEST_RETRY_S)) * random.uniform(1.0, 1.2)
    return msgspec.structs.replace(
        state, begun=0, failures=failures, attempt_date=now, retry_date=now + wait, error=failed.why or "it has failed"
    )


def after_success(state: CertificateState, issuer: str, now: float, replaced: Held | None) -> CertificateState:
    """Return the state after a certificate was obtained. It is not replaced again within a while, whatever its dates
    are. `replaced`: the one before it.
    """
    early = min(state.early + 1, MOST_FAILURES) if replaced is not None and is_early(state, replaced, now) else 0
    return CertificateState(
        attempt_date=now,
        retry_date=now + FIRST_RETRY_S,
        issuer=issuer or state.issuer,
        issued_date=now,
        early=early,
    )


def after_issue_elsewhere(state: CertificateState, theirs: CertificateState, now: float) -> CertificateState:
    """Return the state after another node has obtained the certificate. `theirs`: its state."""
    issued = after_success(state, theirs.issuer, now, None)
    return msgspec.structs.replace(issued, issued_date=theirs.issued_date, early=theirs.early)


def with_renewal(state: CertificateState, answer: Renewal | Failed, now: float) -> CertificateState:
    """Return the state after the issuer was asked for the renewal date."""
    if isinstance(answer, Failed):
        return msgspec.structs.replace(state, ask_date=now + max(ASK_RETRY_S, min(answer.retry_after, LONGEST_RETRY_S)))
    renew_date = answer.renew_date or state.renew_date
    return msgspec.structs.replace(state, renew_date=renew_date, ask_date=answer.ask_date)
