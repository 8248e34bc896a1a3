"""Settings pass between processes as data: what is decoded equals what was encoded, and nothing else can be decoded."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgw
from fastgw import config
from fastgw.config.base.settings_codec import check_class, decode, decode_object, digest, encode, encode_object
from fastgw.config.base.value_types import Network, Size, Statuses, parse_url
from fastgw.config.settings.gateway import DEFAULT_ADMIN, NONE, Config, FilterUse, Route, Target, Upstream
from fastgw.config.settings.secrets import Secret
from fastgw.filters import TYPES
from fastgw.filters.api import Env, FeedSource, Filter, Hooks, NodeSide, Phase, Settings

ROOT = Path(__file__).parents[4]
HEAD = 'version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\n'
SECRET = "this-is-not-for-anybody-to-see"


def passed_on(value: Any, kind: Any = None) -> Any:
    """As another process has it."""
    return decode(encode(value), kind or type(value), TYPES.built_in)


def read(text: str, types: Any = TYPES) -> Config:
    made = config.load_text(text.encode(), "/nowhere/gateway.yaml", types)
    return made.config


class One(Settings):
    """One of several."""

    a: int = 1


class Other(Settings):
    """Another."""

    b: tuple[IPv4Network | None, ...] = ()
    c: Mapping[str, tuple[One, ...]] = NONE


class Red(Settings, tag="red"):
    """One kind."""


class Blue(Settings, tag="blue"):
    """The other."""

    depth: int = 1


class Paint(Settings):
    """Either."""

    colour: Red | Blue


class Own(Filter, name="own", phase=Phase.AUTHENTICATE):
    """A filter of another package."""

    other: Other = Other()
    networks: tuple[Network, ...] = ()
    statuses: Statuses = range(200, 300)
    secret: Secret = Secret(text=SECRET)
    size: Size = 5

    def build(self, env: Env) -> Hooks:
        return Hooks()


class Source(FeedSource, frozen=True, kw_only=True):
    """A source of another package."""

    other: Other
    count: int = 3

    async def run(self, node: NodeSide) -> None:
        raise NotImplementedError


OWN = Own(
    other=Other(b=(IPv4Network("10.0.0.0/8"), None), c={"x": (One(a=3), One())}),
    networks=(IPv4Network("10.0.0.0/8"), IPv6Network("2001:db8::/32")),
    statuses=range(200, 204),
)


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.[ytj]*")), ids=lambda file: file.name)
def test_every_example_is_read_back_as_it_was(file: Path) -> None:
    made = config.load(str(file), TYPES).config
    again = passed_on(made)
    assert again == made
    assert encode(again) == encode(made)


def test_a_filter_of_another_package_is_found_by_its_class() -> None:
    """Also as one way of several; one of fastgw by its name."""
    use = FilterUse("mine", "own", OWN, shadow=True)
    assert passed_on(use) == use
    way = FilterUse("auth", "auth", TYPES["auth"](any_of=(FilterUse("own", "own", OWN),)))
    assert passed_on(way) == way
    assert b"fastgw.filters" not in encode(way)


def test_only_what_differs_from_the_defaults_is_encoded_and_the_defaults_are_shared() -> None:
    assert msgspec.msgpack.decode(encode(Own(size=5, other=Other(c={})))) == {"other": {}}
    made = passed_on(read(HEAD))
    assert made.admin is DEFAULT_ADMIN
    assert made.timeouts is read(HEAD).timeouts
    assert passed_on(read(f"{HEAD}admin: {{}}\n")).admin is not DEFAULT_ADMIN
    upstream = Upstream(targets=(Target(url=parse_url("http://a:9")),))
    plain = {"targets": [{"url": ["http", "a", 9, "", "", False]}]}
    assert encode(upstream) == encode(passed_on(upstream)) == msgspec.msgpack.encode(plain)


def test_a_route_may_name_its_upstream_in_every_way() -> None:
    for named in ("a", parse_url("http://a:9/b/"), {"a": 1, "b": 2}):
        route = Route(name="r", upstream=named)
        assert passed_on(route) == route


def test_a_digest_is_that_of_what_is_meant() -> None:
    """Whether a default is written or not, and whatever process has read it. But 1 is not true, and order counts."""
    assert digest(Own(size=int("5"))) == digest(Own()) != digest(Own(size=6))
    assert digest(OWN) == digest(passed_on(FilterUse("o", "own", OWN)).settings)
    assert digest(Other(c={})) == digest(Other())
    assert len({digest(each) for each in (1, True, 1.0, "1", b"1", None, (1,), ("a", "b"), ("b", "a"))}) == 9


def test_a_source_is_found_by_its_class() -> None:
    source = Source(key="k", other=OWN.other)
    assert decode_object(encode_object(source), FeedSource) == source
    with pytest.raises(TypeError, match="Own is no FeedSource"):
        decode_object(encode_object(OWN), FeedSource)
    for name in ("os:system", "nowhere:Source", f"{__name__}:Nothing", "subprocess:Popen", __name__):
        with pytest.raises(TypeError):
            decode_object(msgspec.msgpack.encode((name, {"key": "k"})), FeedSource)


def test_no_class_but_of_settings_is_made_of_what_is_read() -> None:
    for name in ("subprocess:Popen", "os:system", f"{__name__}:Source"):
        raw = msgspec.msgpack.encode({"name": "a", "type": "a", "settings": [name, {"key": "x"}]})
        with pytest.raises((TypeError, msgspec.ValidationError)):
            decode(raw, FilterUse, TYPES.built_in)


def test_a_class_that_nobody_could_find_is_not_encoded() -> None:
    class Local(Filter, name="local", phase=Phase.ADMIT):
        """A filter within a function."""

    with pytest.raises(TypeError, match=r"other processes cannot import the class .*Local"):
        encode(FilterUse("a", "local", Local()))


@pytest.mark.parametrize(
    ("annotation", "wrong"),
    [
        (complex, "values of the type builtins.complex cannot be encoded"),
        (Mapping[str, tuple[object, ...]], "values of the type builtins.object cannot be encoded"),
        (One | Other | None, "must be tagged"),
        (Annotated[tuple[Path, ...], "any"], r"values of the type pathlib\.(?:_local\.)?Path cannot be encoded"),
    ],
)
def test_settings_that_could_not_be_decoded_are_told_of(annotation: Any, wrong: str) -> None:
    kind = msgspec.defstruct("Odd", [("inner", msgspec.defstruct("Within", [("field", annotation)]))])
    with pytest.raises(TypeError, match=wrong):
        check_class(kind)


def test_settings_of_every_filter_can_be_decoded() -> None:
    for kind in (Config, *TYPES.values(), Own):
        check_class(kind)


def test_sources_of_every_filter_can_be_decoded() -> None:
    left, checked = [FeedSource], []
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if not kind.__subclasses__() and kind.__module__.startswith("fastgw."):
            check_class(kind)
            checked.append(kind.__name__)
    assert {"AccessTokenSource", "IdTokenSource", "ExchangedTokenSource", "JwksSource"} <= set(checked), checked


def test_tagged_structs_may_stand_in_one_place() -> None:
    check_class(Paint)
    for colour in (Red(), Blue(), Blue(depth=2)):
        assert passed_on(Paint(colour=colour)) == Paint(colour=colour)


WITH_SECRET = f"""
filters: {{jwt: {{secret: {SECRET}-{SECRET}, algorithms: [HS256]}}}}
routes:
- {{name: r, upstream: "http://a:9", filters: {{ip: {{allow: [10.0.0.0/8]}}, rate_limit: {{limit: 1, window: 1s}}}}}}
"""


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_broken_bytes_are_refused_or_mean_other_settings_and_show_no_secret(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(encode(read(f"{HEAD}{WITH_SECRET}")))
    for index, byte in changes:
        raw[index % len(raw)] = byte
    try:
        told = repr(decode(bytes(raw), Config, TYPES.built_in))
    except (msgspec.MsgspecError, TypeError, ValueError, KeyError) as error:
        told = str(error)
    assert SECRET not in told


def test_cut_bytes_are_refused() -> None:
    raw = encode(OWN)
    for length in range(len(raw)):
        with pytest.raises(msgspec.DecodeError):
            decode(raw[:length], Own, TYPES.built_in)


def test_networks_are_of_their_own_class() -> None:
    networks = ip_network("10.0.0.1"), ip_network("::/0"), ip_network("0.0.0.0/0"), ip_network("2001:db8::1")
    again = passed_on(Own(networks=networks)).networks
    assert again == networks
    assert [*map(type, again)] == [IPv4Network, IPv6Network, IPv4Network, IPv6Network]


NO_PROGRAMS = {"pickle", "_pickle", "cPickle", "copyreg", "marshal", "shelve", "dill", "cloudpickle"}


def imported(file: Path) -> Iterator[str]:
    """Yield the names of the packages that a module imports; of one in Cython as far as lines begin with it."""
    text = file.read_text()
    if file.suffix == ".pyx":
        yield from re.findall(r"^\s*(?:import|from)\s+(\w+)", text, re.MULTILINE)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_nothing_in_the_package_pickles() -> None:
    """What a pickle holds is a program, and only the version that wrote it can read it."""
    package = Path(fastgw.__file__).parent
    files = [file for file in package.rglob("*") if file.suffix in (".py", ".pyx")]
    found = {(name, str(file.relative_to(package))) for file in files for name in imported(file)}
    assert [each for each in sorted(found) if each[0] in NO_PROGRAMS] == []
    assert ("msgspec", "config/base/settings_codec.py") in found  # they are looked at
