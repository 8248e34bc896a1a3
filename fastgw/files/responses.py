"""The response for a file: which representation, which part of it, or none (RFC 9110 sections 12 to 15)."""

import secrets
from typing import Final

from fastgw.errors import Fault
from fastgw.exchange import Reply, problem
from fastgw.exchange.reply import ReplyBody
from fastgw.files.file_body import FileBody, FilePart
from fastgw.files.resources import FileResource, Variant
from fastgw.http.byte_ranges import ByteRange, content_range, frame_multipart, select_ranges, unsatisfied_range
from fastgw.http.content_coding.accept_encoding import negotiate
from fastgw.http.messages import RequestHead
from fastgw.http.preconditions import PreconditionResult, applicable_range, evaluate

_IN_304: Final = frozenset((b"ETag", b"Last-Modified", b"Vary"))
"""Headers of a 304 (RFC 9110 section 15.4.5)."""


def reply_with_file(
    head: RequestHead, resource: FileResource, now: float, *, accepted: list[bytes], ranges: bool
) -> Reply:
    """Return the response to a GET or HEAD. `now`: seconds since the epoch. `accepted`: values of `Accept-Encoding`, as
    filters have changed it. `ranges`: whether Range is considered.
    """
    variant = variant_for(accepted, resource)
    result = evaluate(head, variant.validators, now)
    if result is PreconditionResult.FAILED:
        return problem(Fault.PRECONDITION_FAILED)
    if result is PreconditionResult.NOT_MODIFIED:
        return not_modified(variant)
    wanted = applicable_range(head, variant.validators, now) if ranges else None
    selected = None if wanted is None else select_ranges(wanted, variant.size)
    if selected is None:
        return variant.reply or Reply(200, _whole(variant), variant.fields)
    if not selected:
        return problem(Fault.RANGE_NOT_SATISFIABLE, fields=((b"Content-Range", unsatisfied_range(variant.size)),))
    return _reply_with_parts(variant, selected)


def variant_for(accepted: list[bytes], resource: FileResource) -> Variant:
    """Return the representation that these values of `Accept-Encoding` prefer; the one without a coding is always
    acceptable.
    """
    variants = resource.variants
    if len(variants) > 1 and accepted:
        coding = negotiate(accepted, tuple(each.coding for each in variants if each.coding is not None)).coding
        return next(each for each in variants if each.coding == coding)
    return variants[-1]


def not_modified(variant: Variant) -> Reply:
    return Reply(304, fields=[field for field in variant.fields if field[0] in _IN_304])


def _whole(variant: Variant) -> ReplyBody:
    assert variant.file is not None
    ranges = [FilePart(b"", ByteRange(0, variant.size - 1))] if variant.size else []
    return FileBody(variant.file, ranges)


def _reply_with_parts(variant: Variant, selected: tuple[ByteRange, ...]) -> Reply:
    fields = list(variant.fields)
    if len(selected) == 1:
        fields.append((b"Content-Range", content_range(selected[0], variant.size)))
        parts, end = [FilePart(b"", selected[0])], b""
    else:
        boundary = secrets.token_hex(16).encode()
        frame = frame_multipart(selected, variant.size, variant.content_type, boundary)
        fields[0] = (b"Content-Type", frame.content_type)
        parts, end = [FilePart(*each) for each in zip(frame.heads, selected, strict=True)], frame.end
    if variant.file is not None:
        return Reply(206, FileBody(variant.file, [*parts, FilePart(end, None)] if end else parts), fields)
    content = variant.content
    assert content is not None
    pieces = [each.before + content[each.range.first : each.range.last + 1] for each in parts if each.range is not None]
    return Reply(206, b"".join(pieces) + end, fields)
