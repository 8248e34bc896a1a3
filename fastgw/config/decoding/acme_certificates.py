"""Certificates obtained by ACME: where each is stored, and its content.

The content is part of the configuration's files like that of other certificates, so that a renewed one is used without
a reload.
"""

from typing import Any

from msgspec.structs import replace

from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.sources.files import Files


def set_acme_storage(merged: Merged, files: Files) -> None:
    """Set the directory of each certificate that is obtained by ACME, and read it."""
    acme = merged.single.get("acme", (None, None))[1]
    storage = None if acme in (None, BROKEN) or acme.storage is BROKEN else acme.storage
    for name, (location, listener) in list(merged.maps["listeners"].items()):
        if listener is not BROKEN:
            merged.maps["listeners"][name] = location, _with_storage(listener, location, storage, files)
    for location, admin in list(merged.single_entry("admin")):
        if admin is not BROKEN:
            merged.single["admin"] = location, _with_storage(admin, location, storage, files)


def _with_storage(owner: Any, location: SourceLocation, storage: str | None, files: Files) -> Any:
    """Return a listener whose certificates have a directory."""
    if owner.tls in (None, BROKEN) or owner.tls.certificates is BROKEN:
        return owner
    at = location.below("tls", "certificates")
    pairs = tuple(
        _in_directory(pair, at.below(i, "acme"), storage, files) for i, pair in enumerate(owner.tls.certificates)
    )
    if all(one is other for one, other in zip(pairs, owner.tls.certificates, strict=True)):
        return owner
    return replace(owner, tls=replace(owner.tls, certificates=pairs))


def _in_directory(pair: Any, at: SourceLocation, storage: str | None, files: Files) -> Any:
    if (
        pair is BROKEN
        or pair.acme in (None, BROKEN)
        or BROKEN
        in (
            pair.acme.domains,
            pair.acme.storage,
            pair.acme.key,
        )
    ):
        return pair
    if BROKEN in pair.acme.domains:
        return pair
    if pair.acme.storage is None and storage is not None:
        pair = replace(pair, acme=replace(pair.acme, storage=storage))
    if pair.acme.storage is not None:
        try:
            files.read(pair.certificate_file)
        except SyntaxProblem as flaw:
            at.report(f"the stored certificate {flaw.wrong}", "expected a readable file in `storage`")
            return BROKEN
    return pair
