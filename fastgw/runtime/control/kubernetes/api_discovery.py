"""API discovery of the Kubernetes API server: whether it has a kind.

A 404 in answer to a list does not say so: proxies in front of an API server and servers that start answer 404 as well,
and objects that protect routes must not vanish with one. Only a document of discovery that is complete and does not
name the kind does.
"""

from typing import Final, TypeVar

import msgspec

from fastgw.config.kubernetes.cluster import KINDS, ObjectKind
from fastgw.runtime.control.kubernetes.api_client import ClusterClient, RequestRefused
from fastgw.runtime.control.kubernetes.nesting import without_deep_values

_NOT_FOUND: Final = 404
_ALWAYS_THERE: Final = KINDS["EndpointSlice"].api_version
"""Version of a group that every API server has. An aggregator that starts answers `GET /apis` with its own group
alone: a list without this version is not complete.
"""
_T = TypeVar("_T", bound=msgspec.Struct)


class _Resource(msgspec.Struct):
    name: str


class _ResourceList(msgspec.Struct, tag_field="kind", tag="APIResourceList"):
    """Resources of a version of a group, as in `GET /apis/GROUP/VERSION`."""

    version: str = msgspec.field(name="groupVersion")
    resources: list[_Resource]


class _GroupVersion(msgspec.Struct):
    version: str = msgspec.field(name="groupVersion")


class _Group(msgspec.Struct):
    name: str
    versions: list[_GroupVersion]


class _GroupList(msgspec.Struct, tag_field="kind", tag="APIGroupList"):
    """Groups of an API server, as in `GET /apis`."""

    groups: list[_Group]


async def lacks_kind(client: ClusterClient, kind: ObjectKind) -> bool:
    """Return whether the API server says that it does not have a kind of a group. Raises `CannotAsk`, and
    one of `UNREADABLE` for a response that is not that of API discovery.
    """
    try:
        raw = await client.get(f"/apis/{kind.api_version}")
    except RequestRefused as error:
        if error.status != _NOT_FOUND:
            raise
    else:
        found = _decode(raw, _ResourceList)
        return found.version == kind.api_version and all(each.name != kind.plural for each in found.resources)
    groups = _decode(await client.get("/apis"), _GroupList).groups
    versions = {version.version for each in groups for version in each.versions}
    return _ALWAYS_THERE in versions and kind.api_version not in versions


def _decode(raw: bytes, type_: type[_T]) -> _T:
    return msgspec.json.decode(without_deep_values(raw), type=type_)
