"""Masking of secrets as it must be: a model, made of patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from fastgw.observe.access_log.credential_names import WORDS, is_credential_member

NAME = re.compile(rb"(?:^|[&;?#])([^&;?#=]*)=")
ENCODED_EQUALS = re.compile(rb"%(?:25)*3[dD]")
USERINFO = re.compile(
    rb"((?::|%(?:25)*3[aA])(?:/|%(?:25)*2[fF]){2})(?:[^/?#&\s%]|%(?!(?:25)*(?:2[fF36]|3[fF])))+(@|%(?:25)*40)"
)


class MaskModel:
    """`redact`: names of secrets, besides the well-known ones."""

    def __init__(self, redact: Iterable[str] = ()) -> None:
        self._names = {name.casefold() for name in (*WORDS, *redact)}

    def mask(self, query: bytes) -> bytes:
        return USERINFO.sub(rb"\1***\2", b"&".join(map(self._masked, query.split(b"&"))))

    def _masked(self, part: bytes) -> bytes:
        ends = [name.end() for name in NAME.finditer(part) if self._is_secret(name[1])][:1]
        encoded = ENCODED_EQUALS.search(part)
        if encoded is not None and self._hides_secret(part):
            ends.append(encoded.end())
        return part[: min(ends)] + b"***" if ends else part

    def _hides_secret(self, part: bytes) -> bool:
        for _ in range(4):
            part = unquote_to_bytes(part.replace(b"=", b"&"))
            if any(map(self._is_secret, (re.split(b"[&;?#]", text)[-1] for text in part.split(b"=")[:-1]))):
                return True
        return False

    def _is_secret(self, name: bytes) -> bool:
        name = name.replace(b"+", b" ") if b"%" in name or b"+" in name else name
        for _ in range(4):
            name = unquote_to_bytes(name)
        last = re.split(b"[&;?#=]", name)[-1]
        words = [each.rstrip(b" ]") for each in last.split(b"[") if each.strip(b" ]")] if b"[" in last else [last]
        return any(map(self._is_known, words))

    def _is_known(self, name: bytes) -> bool:
        text = name.rpartition(b"/")[2].decode(errors="replace").strip().casefold()
        return text in self._names or is_credential_member(text.encode())
