"""When certificates are renewed, and when issuers are asked again."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fastgw.acme.messages import Failed, Renewal
from fastgw.acme.storage import CertificateState, read_state, write
from fastgw.net.placeholder import placeholder
from fastgw.runtime.control.acme.schedule import (
    LONGEST_RETRY_S,
    Held,
    after_failure,
    after_success,
    before_attempt,
    default_renewal,
    due_date,
    following,
    held_in,
    with_renewal,
)

NOW = 1_800_000_000.0
DAY = 86_400.0
HELD = Held("AB", NOW - 30 * DAY, NOW + 60 * DAY)


def test_delays_are_doubled_up_to_a_day_and_never_shorter_than_the_issuer_demands() -> None:
    state = CertificateState()
    waits = []
    for _ in range(20):
        state = after_failure(state, Failed("refused"), NOW)
        waits.append(state.retry_date - NOW)
    assert 60 <= waits[0] <= 72
    assert all(2 / 1.2 <= later / sooner <= 2 * 1.2 for sooner, later in itertools.pairwise(waits[:10]))
    assert LONGEST_RETRY_S <= waits[-1] <= LONGEST_RETRY_S * 1.2
    assert after_failure(CertificateState(), Failed("limited", 7200.0), NOW).retry_date >= NOW + 7200


def test_attempts_are_delayed_once_their_process_was_killed_more_than_once() -> None:
    state = CertificateState()
    waits = []
    for _ in range(16):
        state = before_attempt(state, NOW)
        waits.append(due_date(state, None, NOW) - NOW)
    assert waits[:4] == [0, 60, 120, 240]
    assert waits[-1] == LONGEST_RETRY_S
    assert after_failure(state, Failed("refused"), NOW).retry_date - NOW <= 72
    assert (after_failure(state, Failed(""), NOW).begun, after_success(state, "issuer", NOW, None).begun) == (0, 0)


def test_a_certificate_is_due_at_its_renewal_date_and_not_before_the_retry_date() -> None:
    state = following(CertificateState(), HELD, NOW)
    assert HELD.until - 30 * DAY <= state.renew_date <= HELD.until - 27 * DAY
    assert due_date(state, HELD, NOW) == state.renew_date
    assert due_date(state, None, NOW) == NOW
    failed = after_failure(state, Failed("refused"), NOW)
    assert due_date(failed, None, NOW) == failed.retry_date
    assert due_date(failed, HELD, NOW) == state.renew_date


def test_a_clock_that_was_wrong_delays_no_attempt_for_long() -> None:
    state = CertificateState(retry_date=NOW + 400 * DAY, failures=3)
    assert due_date(state, None, NOW) == NOW


def test_a_certificate_just_obtained_is_not_replaced_at_once_even_if_the_clock_makes_it_expired() -> None:
    expired = Held("AB", NOW - 90 * DAY, NOW - 1)
    assert due_date(after_success(CertificateState(), "issuer", NOW, None), expired, NOW) >= NOW + 60


def test_the_issuer_moves_the_renewal_date() -> None:
    state = following(CertificateState(), HELD, NOW)
    assert with_renewal(state, Renewal(NOW - 5, NOW + 3600), NOW).renew_date == NOW - 5
    assert with_renewal(state, Renewal(0.0, NOW + 3600), NOW).renew_date == state.renew_date
    unknown = with_renewal(state, Failed("unreachable"), NOW)
    assert (unknown.renew_date, unknown.ask_date >= NOW + 3600) == (state.renew_date, True)


def orders(days: float, window: float, issued_before: float = 0.0) -> list[float]:
    """Hours between the orders of ten years, at most 60. `window`: seconds from now to the renewal date that the issuer
    suggests.
    """
    now, state, replaced, found = NOW, CertificateState(), None, []
    while len(found) < 60 and now < NOW + 3650 * DAY:
        state = after_success(state, "issuer", now, replaced)
        held = Held(f"{len(found)}", now - issued_before, now - issued_before + days * DAY)
        state = with_renewal(following(state, held, now), Renewal(now + window, now + 3600), now)
        replaced, due = held, due_date(state, held, now)
        found.append((due - now) / 3600)
        now = due
    return found


@pytest.mark.parametrize("issued_before", [0.0, 3600.0, 85 * DAY], ids=["now", "an-hour-ago", "long-ago"])
def test_an_issuer_that_always_demands_a_renewal_at_once_is_obeyed_less_and_less_often(issued_before: float) -> None:
    found = orders(90, -1800, issued_before)
    assert found[:5] == pytest.approx([60 / 3600, 1, 2, 4, 8])
    assert found[-1] == pytest.approx(24 * (90 - issued_before / DAY) / 10)


def test_certificates_that_are_expired_by_this_clock_are_not_ordered_each_minute() -> None:
    found = orders(90, 0, 400 * DAY)
    assert found[:4] == pytest.approx([60 / 3600, 1, 2, 4])
    assert found[-1] == 24


def test_regular_renewals_are_not_delayed_and_end_the_delay_of_early_ones() -> None:
    assert min(orders(90, 59 * DAY)) == pytest.approx(59 * 24)
    assert min(orders(1, 16 * 3600)) == pytest.approx(16)
    state = after_success(CertificateState(early=5, issued_date=NOW - 60 * DAY), "issuer", NOW, HELD)
    assert state.early == 0


def test_a_clock_that_is_set_back_does_not_delay_a_renewal() -> None:
    state = CertificateState(early=8, issued_date=NOW + 400 * DAY, renew_date=NOW - 5)
    assert due_date(state, HELD, NOW) == NOW - 5


def test_no_date_of_the_issuer_lets_a_certificate_expire() -> None:
    state = with_renewal(following(CertificateState(), HELD, NOW), Renewal(HELD.until + 4000 * DAY, NOW + 3600), NOW)
    assert due_date(state, HELD, NOW) == HELD.until - 15 * DAY
    assert due_date(after_failure(state, Failed("refused"), HELD.until - DAY), HELD, HELD.until - DAY) < HELD.until


def test_another_certificate_gets_a_date_of_its_own() -> None:
    state = CertificateState(serial="CD", renew_date=NOW, issuer="issuer")
    assert following(state, HELD, NOW).renew_date > NOW
    assert following(state, HELD, NOW).issuer == "issuer"
    assert default_renewal(HELD) < HELD.until


def test_a_placeholder_is_no_certificate() -> None:
    assert held_in(placeholder(["a.test"]), ["a.test"]) is None
    assert held_in(b"", ["a.test"]) is None
    assert held_in(b"broken", ["a.test"]) is None


def test_a_full_disk_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "certificates" / "state.json"
    write(file, b'{"failures":1}')

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(file, b'{"failures":2}')
    assert read_state(file).failures == 1
    assert [each.name for each in file.parent.iterdir()] == ["state.json"]
