"""Descriptor sets, made by protoc: what they offer, and everything that can be wrong with one."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from fastgw.filters.policies.grpc_transcode import descriptors
from fastgw.filters.policies.grpc_transcode.descriptors import DescriptorError, read_api
from tests.support.bookstore import api, compiled

HEAD = 'syntax = "proto3"; package p; import "google/api/annotations.proto";\n'
MESSAGE = "message M { string a = 1; M m = 2; repeated string r = 3; map<string, string> c = 4; }\n"


def _service(tmp_path: Any, *rules: str) -> bytes:
    methods = "".join(f"rpc M{n}(M) returns (M) {{ {rule} }}\n" for n, rule in enumerate(rules))
    (tmp_path / "api.proto").write_text(f"{HEAD}{MESSAGE}service S {{ {methods} }}")
    return compiled(tmp_path, "api.proto")


def _rule(text: str) -> str:
    return f"option (google.api.http) = {{ {text} }};"


def test_each_rule_of_each_method_is_a_binding():
    made = read_api(api(), (), False)
    rules = {binding.rule: binding.method for binding in made.bindings}
    assert len(rules) == len(made.bindings) == 22
    assert rules["SEARCH /v1/{name=shelves/*}"].path == b"/bookstore.v1.Bookstore/GetShelf"
    assert (rules["POST /v1/chat"].client_streams, rules["POST /v1/chat"].server_streams) == (True, True)
    assert made.methods == 14


def test_methods_without_a_rule_are_mapped_where_asked():
    made = read_api(api(), ["bookstore.v1.Bookstore"], True)
    match, _ = made.table.find(b"/bookstore.v1.Bookstore/Hidden", b"POST")
    assert match is not None
    binding = match.get(b"POST")
    assert binding is not None
    assert (binding.body, binding.method.name) == ("*", "bookstore.v1.Bookstore/Hidden")
    assert made.table.find(b"/bookstore.v1.Bookstore/Echo", b"POST") == (None, frozenset())  # it has rules


def test_two_sets_with_types_of_the_same_names_do_not_meet(tmp_path):
    first = read_api(_service(tmp_path, _rule('get: "/a"')), (), False)
    rule = _rule('get: "/a"')
    other = f"message M {{ int32 other = 1; }} service S {{ rpc M0(M) returns (M) {{ {rule} }} }}"
    (tmp_path / "api.proto").write_text(HEAD + other)
    second = read_api(compiled(tmp_path, "api.proto"), (), False)
    names = [[field.name for field in each.bindings[0].method.input.DESCRIPTOR.fields] for each in (first, second)]
    assert names == [["a", "m", "r", "c"], ["other"]]


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ('get: "/a/{b}"', "p.S/M0: /a/{b}: p.M has no field b"),
        ('get: "/a/{a.b}"', "p.S/M0: /a/{a.b}: p.M has no field a.b"),
        ('get: "/a/{m}"', "p.S/M0: /a/{m}: m is repeated or a message"),
        ('get: "/a/{r}"', "p.S/M0: /a/{r}: r is repeated or a message"),
        ('get: "/a/{c}"', "p.S/M0: /a/{c}: c is repeated or a message"),
        ('get: "a"', "p.S/M0: a: expected `/` at character 1"),
        ('post: "/a" body: "b"', "p.S/M0: `body` is b, and p.M has no such field"),
        ('post: "/a" body: "m.a"', "p.S/M0: `body` is m.a, and p.M has no such field"),
        ('post: "/a/{a}" body: "a"', "p.S/M0: /a/{a}: the field a is in the path and in the body"),
        ('get: "/a" response_body: "b"', "p.S/M0: `response_body` is b, and p.M has no such field"),
        ('body: "*"', "p.S/M0: a google.api.http rule without a path"),
        ('custom: {kind: "A B" path: "/a"}', 'p.S/M0: "A B" is not a method of HTTP'),
        (
            'get: "/a" additional_bindings {get: "/b" additional_bindings {get: "/c"}}',
            "p.S/M0: additional_bindings within additional_bindings",
        ),
        (
            'get: "/a/{a}" additional_bindings {get: "/a/{m.a}"}',
            "p.S/M0 (GET /a/{a}) and p.S/M0 (GET /a/{m.a}) take the same requests",
        ),
    ],
)
def test_a_rule_that_cannot_be_used_is_named(tmp_path, rule, wrong):
    with pytest.raises(DescriptorError) as refused:
        read_api(_service(tmp_path, _rule(rule)), (), False)
    assert str(refused.value) == wrong


def test_all_that_is_wrong_is_told_at_once_up_to_a_bound(tmp_path):
    with pytest.raises(DescriptorError) as refused:
        read_api(_service(tmp_path, *[_rule(f'get: "/a{n}/{{b}}"') for n in range(12)]), (), False)
    problems = str(refused.value).split("; ")
    assert len(problems) == 11
    assert problems[0] == "p.S/M0: /a0/{b}: p.M has no field b"
    assert problems[-1] == "and 2 more"


def test_two_methods_for_the_same_requests_are_named(tmp_path):
    content = _service(tmp_path, _rule('get: "/a/{a}"'), _rule('get: "/a/{a=*}"'))
    with pytest.raises(DescriptorError, match=re.escape("p.S/M0 (GET /a/{a}) and p.S/M1 (GET /a/{a=*}) take the same")):
        read_api(content, (), False)


@pytest.mark.parametrize(
    ("services", "wrong"),
    [
        (
            ["bookstore.v1.Bokstore"],
            'the descriptor set has no service "bookstore.v1.Bokstore"; did you mean "bookstore.v1.Bookstore"?',
        ),
        (["x"], 'the descriptor set has no service "x"; there are bookstore.v1.Bookstore'),
    ],
)
def test_a_service_that_is_not_there_is_named(services, wrong):
    with pytest.raises(DescriptorError) as refused:
        read_api(api(), services, False)
    assert str(refused.value) == wrong


def test_a_set_without_the_files_that_it_imports_is_refused(tmp_path):
    (tmp_path / "api.proto").write_text(f"{HEAD}{MESSAGE}service S {{}}")
    with pytest.raises(DescriptorError) as refused:
        read_api(compiled(tmp_path, "api.proto", imports=False), (), False)
    assert str(refused.value) == (
        'the descriptor set lacks "google/api/annotations.proto" (imported by "api.proto"); '
        "make it with protoc --include_imports --descriptor_set_out=FILE"
    )


@pytest.mark.parametrize("content", [b"", b"\xff\xff", HEAD.encode(), b'{"json": true}', b"\0" * 100])
def test_a_file_that_is_no_descriptor_set_is_refused(content):
    with pytest.raises(DescriptorError, match=r"this is not a descriptor set; make it with protoc --include_imports"):
        read_api(content, (), False)


def test_a_set_without_services_or_without_rules_is_refused(tmp_path):
    (tmp_path / "api.proto").write_text(HEAD + MESSAGE)
    with pytest.raises(DescriptorError, match=r"^the descriptor set has no service$"):
        read_api(compiled(tmp_path, "api.proto"), (), False)
    with pytest.raises(DescriptorError, match=r"^no method of p\.S has a google\.api\.http rule; add rules, or set"):
        read_api(_service(tmp_path, ""), (), False)


def test_a_set_that_is_too_large_is_not_read(monkeypatch):
    monkeypatch.setattr(descriptors, "MOST_BYTES", 1000)
    with pytest.raises(DescriptorError, match=r"the descriptor set has [0-9]+ bytes; at most 1000 are read"):
        read_api(api(), (), False)


def test_files_that_import_each_other_are_refused():
    files = descriptor_pb2.FileDescriptorSet()
    files.file.add(name="a.proto", dependency=["b.proto"])
    files.file.add(name="b.proto", dependency=["a.proto"])
    with pytest.raises(DescriptorError, match=r'"a.proto" imports itself'):
        read_api(files.SerializeToString(), (), False)


def test_a_deep_chain_of_imports_is_no_problem():
    files = descriptor_pb2.FileDescriptorSet()
    for number in range(2000):
        files.file.add(name=f"{number}.proto", dependency=[f"{number + 1}.proto"] if number < 1999 else [])
    with pytest.raises(DescriptorError, match=r"no service"):
        read_api(files.SerializeToString(), (), False)


def test_a_file_that_contradicts_itself_is_named():
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="a.proto", package="p", syntax="proto3")
    file.message_type.add(name="M").field.add(name="f", number=1, type=11, type_name=".p.Missing", label=1)
    with pytest.raises(DescriptorError, match=r'the file "a.proto" of the descriptor set is invalid: .*Missing'):
        read_api(files.SerializeToString(), (), False)


@given(st.data())
def test_a_set_with_broken_bytes_is_refused_or_read(data):
    """Never anything but a `DescriptorError`."""
    content = bytearray(api())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DescriptorError):
        read_api(bytes(content), (), True)


def test_a_rule_with_broken_bytes_is_named():
    content = api().replace(b"/v1/shelf-of/{name}", b"/v1/shelf-of/{nam\xff}")
    with pytest.raises(DescriptorError, match=r"^bookstore\.v1\.Bookstore/GetShelf: its google\.api\.http rule cannot"):
        read_api(content, (), False)
