"""How single values are written, and that everything else is refused."""

import pytest

from fastgw.config.base import value_types
from tests.support.table import for_each


@for_each(
    ("parse", "text", "held"),
    [
        (value_types.parse_duration, "250ms", 0.25),
        (value_types.parse_duration, "10s", 10.0),
        (value_types.parse_duration, "5m", 300.0),
        (value_types.parse_duration, "1.5h", 5400.0),
        (value_types.parse_duration, "30d", 2_592_000.0),
        (value_types.parse_size, "0B", 0),
        (value_types.parse_size, "32KiB", 32768),
        (value_types.parse_size, "10MB", 10_000_000),
        (value_types.parse_statuses, "200-399", range(200, 400)),
        (value_types.parse_statuses, "404", range(404, 405)),
        (value_types.parse_check_path, "/healthz?deep=1", "/healthz?deep=1"),
        (value_types.parse_percent, "20%", 0.2),
        (value_types.parse_percent, "100%", 1.0),
        (value_types.parse_token, "X-Tenant", "X-Tenant"),
        (value_types.parse_field_value, "a\tb é", "a\tb é"),
        (value_types.parse_method, "PROPFIND", "PROPFIND"),
        (value_types.parse_host_header, "users.internal:8080", "users.internal:8080"),
        (value_types.parse_destination, "users", "users"),
        (value_types.parse_rpc_service, "helloworld.Greeter", "helloworld.Greeter"),
        (value_types.parse_rpc_service, "Greeter", "Greeter"),
        (value_types.parse_rpc_method, "SayHello", "SayHello"),
        (value_types.parse_http_version, "http2", "http2"),
        (value_types.parse_route_name, "Bestellungen für {id}: 注文 🛒", "Bestellungen für {id}: 注文 🛒"),
    ],
)
def test_what_is_written_is_held(parse, text, held):
    assert parse(text) == held


@pytest.mark.parametrize("whole", [0, 1, 7, 10, 100, 300, 1000, 12_345, 10_000_000])
def test_a_share_is_that_of_whole_numbers(whole):
    """Without the errors of floating point: 100 * 0.29 is less than 29, 100 * 0.07 more than 7."""
    for tenths in range(1001):
        share = value_types.parse_percent(f"{tenths // 10}.{tenths % 10}%")
        assert value_types.count_within(share, whole) == whole * tenths // 1000


@for_each(
    ("parse", "texts"),
    [
        (value_types.parse_duration, ["10", "10 s", "-1s", "0s", "1h30m", "1w", "", "\u0661s"]),
        (value_types.parse_size, ["32", "32K", "1.5MiB", "-1B", "32kib"]),
        (value_types.parse_percent, ["20", "101%", "100.1%", "-1%", "%", "9" * 5000 + "%"]),
        (value_types.parse_statuses, ["", "20", "99", "1000", "399-200", "200-", "2xx", "200 - 399"]),
        (value_types.parse_check_path, ["", "healthz", "/a b", "/a#b", "/a\r\nX: y", "/\u00e4"]),
        (value_types.parse_network, ["10.0.0.1/8", "10.0.0.0/33", "localhost", ""]),
        (value_types.parse_token, ["", "x version", "a:b", "é"]),
        (value_types.parse_field_value, ["a\r\nb", "a\0", " a", "a\t"]),
        (value_types.parse_method, ["get", "G T", ""]),
        (value_types.parse_host_header, ["a b", "a:b", "http://a"]),
        (value_types.parse_name, ["", "a b", "-a", "a:b"]),
        (value_types.parse_route_name, ["", "a\nb", "\x1b[31m", "\0", "a\x7f", "\x9b2J"]),
        (value_types.parse_rpc_service, ["", "a b", "a..B", ".a", "a.", "1a", "a/B", "a.B\n"]),
        (value_types.parse_rpc_method, ["", "a b", "a.B", "1a", "B\n"]),
        (value_types.parse_http_version, ["", "h2", "http3", "HTTP1"]),
    ],
)
def test_anything_else_is_refused(parse, texts):
    for text in texts:
        with pytest.raises(ValueError, match=r"\S"):
            parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:8080",
        ":8080",
        "0.0.0.0:0",
        "[::]:8443",
        "[2001:db8::1]:80",
        "localhost:8080",
        "unix:/run/fastgw.sock",
    ],
)
def test_an_address_is_written_as_it_was(text):
    assert str(value_types.parse_address(text)) == text


@for_each(
    "text",
    [
        "8080",
        ":",
        "*:8080",
        "127.0.0.1",
        "127.0.0.1:65536",
        "1.2.3:80",
        "::1:80",
        "[::1]",
        "unix:relative",
        "a b:1",
        "http://a:1",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match=r"\S"):
        value_types.parse_address(text)


@pytest.mark.parametrize(
    ("text", "authority", "base_path", "again"),
    [
        ("http://Users-1:9001", "users-1:9001", "", "http://users-1:9001"),
        ("http://a", "a", "", "http://a"),
        ("https://a:443/v2/", "a", "/v2", "https://a/v2/"),
        ("http://a/b/../c/%7Ed", "a", "/c/~d", "http://a/c/~d"),
        ("https://[::1]:8443/a%20b", "[::1]:8443", "/a%20b", "https://[::1]:8443/a%20b"),
        ("unix:/run/app.sock", "localhost", "", "unix:/run/app.sock"),
        ("unix:/run/app.sock:/base", "localhost", "/base", "unix:/run/app.sock:/base"),
    ],
)
def test_a_url_names_one_target(text, authority, base_path, again):
    url = value_types.parse_url(text)
    assert (url.authority, url.base_path, str(url)) == (authority, base_path, again)
    assert url.tls is text.startswith("https")


@for_each(
    "text",
    [
        "users",
        "ftp://a",
        "http://",
        "http://a:0",
        "http://a:70000",
        "http://a?x=1",
        "http://a/#x",
        "http://a/b c",
        "http://a/../b",
        "http://a/\x00",
        "http://1.2.3.4.5",
        "http://bücher.example",
        "unix:app.sock",
        "unix:/" + "x" * 108,
        "http://[::1",
    ],
)
def test_what_is_no_url_is_refused(text):
    with pytest.raises(ValueError, match=r"\S"):
        value_types.parse_url(text)


@pytest.mark.parametrize(
    "text", ["http://a/?key=hunter2", "http://a?hunter2", "http://a/#hunter2", "http://u:hunter2@a"]
)
def test_what_may_be_a_secret_in_a_url_is_not_shown(text):
    with pytest.raises(ValueError, match=r"a URL (with a|that contains)") as caught:
        value_types.parse_url(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["http://me:hunter2@a", "ftp://me:hunter2@a", "me:hunter2@a:80", "http://me:hunter2@[a"]
)
def test_a_password_in_a_url_is_never_repeated(text):
    with pytest.raises(ValueError, match=r"\S") as caught:
        value_types.parse_url(text)
    assert "hunter2" not in str(caught.value)


@for_each(
    "text",
    [
        *[
            "u:SECRET@h",
            "u:SECRET@h:99",
            "u@h",
            "http:/u:SECRET@h",
            "//u:SECRET@h",
            "https:\\\\u:SECRET@h",
            "ftp://u:SECRET@h/x",
        ],
        *["https://u:SEC/RET@h/x", "https://u:SECRET%40h", "u:SEC/RET@h:99"],
    ],
)
def test_a_user_or_password_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a URL that contains a user or password$"):
        value_types.check_no_user(text)


@pytest.mark.parametrize(
    "text",
    ["https://h/@tenant", "https://h:8443/@tenant", "h:99", "[::1]:80", "https://[::1]:80/@x", "unix:/a/b@c", "*", ""],
)
def test_an_at_sign_in_a_path_is_no_user(text: str) -> None:
    value_types.check_no_user(text)
