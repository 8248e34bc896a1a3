"""Names that may have a certificate on demand."""

import pytest

from fastgw.sync.on_demand import AllowedNames, OnDemandNames, read, written

PATTERNS = ("shop.example", "*.shops.example")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("shop.example", True),
        ("a.shops.example", True),
        ("a.b.shops.example", True),
        ("shops.example", False),
        ("a.shop.example", False),
        ("ashops.example", False),
        ("example", False),
        ("", False),
    ],
)
def test_a_wildcard_is_for_any_number_of_labels(name: str, allowed: bool) -> None:
    assert (name in AllowedNames(PATTERNS)) is allowed


@pytest.mark.parametrize(
    "name", ["localhost", "192.0.2.1", "a_b.example", "-a.example", "a-.example", "a..example", f"{'a' * 64}.example"]
)
def test_names_that_no_issuer_accepts_are_not_allowed_without_patterns_either(name: str) -> None:
    """RFC 1123 section 2.1, and the baseline requirements of issuers."""
    assert "a.example" in AllowedNames(())
    assert name not in AllowedNames(())


def test_workers_read_what_control_has_written() -> None:
    names = OnDemandNames({"a.example": "AB"}, {"b.example": 12.5})
    assert read(written(names)) == names
    assert read(b"") == OnDemandNames()
