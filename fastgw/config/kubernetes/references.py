"""References to Secrets and ConfigMaps with certificates."""

from base64 import b64decode
from functools import lru_cache
from typing import Final

from fastgw.config.kubernetes.cluster import GATEWAY_GROUP, ClusterObject
from fastgw.config.kubernetes.model import TranslationContext
from fastgw.config.sources.virtual_files import cluster_name
from fastgw.net.pem import authority_problem, pair_problem

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
CA: Final = "ca.crt"


class UnresolvedReference(Exception):
    """A reference that cannot be used. `reason`: that of the condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def certificate_of(
    reference: ClusterObject,
    kind: str,
    namespace: str,
    context: TranslationContext,
    invalid: str = "InvalidCertificateRef",
) -> tuple[str, str]:
    """Return the derived files of the certificate and key that a reference names. `kind`, `namespace`: of the object
    that refers; `invalid`: reason for what cannot be used. Raises `UnresolvedReference`.
    """
    if reference.get("group", "") or reference.get("kind", "Secret") != "Secret":
        raise UnresolvedReference(invalid, "a certificate is a Secret")
    where, name = reference.get("namespace") or namespace, reference["name"]
    if not context.cluster.is_granted((GATEWAY_GROUP, kind, namespace), ("", "Secret", where, name)):
        raise UnresolvedReference("RefNotPermitted", f"no ReferenceGrant permits the Secret {where}/{name}")
    item = context.cluster.get("Secret", where, name)
    if item is None:
        raise UnresolvedReference(invalid, f"the Secret {where}/{name} does not exist")
    data = item.get("data") or {}
    pair = _decoded(data.get(CERTIFICATE)), _decoded(data.get(KEY))
    if not all(pair) or _is_wrong(*pair):
        raise UnresolvedReference(invalid, f"the Secret {where}/{name} has no valid certificate and key")
    names = tuple(cluster_name("Secret", where, name, key) for key in (CERTIFICATE, KEY))
    for file, content in zip(names, pair, strict=True):
        context.files[file] = content.decode("latin-1")
    return names[0], names[1]


def authorities_of(
    references: list[ClusterObject], kind: str, namespace: str, context: TranslationContext, *, local: bool = False
) -> tuple[str, UnresolvedReference | None]:
    """Return the PEM text of the CA certificates that references name, byte by byte as characters, "" if there is none,
    and the first problem.

    `local`: whether references have no namespace.
    """
    found: list[str] = []
    problem: UnresolvedReference | None = None
    for reference in references:
        try:
            found.append(_authority(reference, kind, namespace, context, local))
        except UnresolvedReference as error:
            problem = problem or error
    return "\n".join(found), problem


def _authority(reference: ClusterObject, kind: str, namespace: str, context: TranslationContext, local: bool) -> str:
    of = reference.get("kind", "ConfigMap")
    if reference.get("group", "") or of not in ("ConfigMap", "Secret"):
        reason = "InvalidKind" if local else "InvalidCACertificateKind"
        raise UnresolvedReference(reason, "a CA certificate is in a ConfigMap or a Secret")
    where = namespace if local else reference.get("namespace") or namespace
    name = reference["name"]
    if not context.cluster.is_granted((GATEWAY_GROUP, kind, namespace), ("", of, where, name)):
        raise UnresolvedReference("RefNotPermitted", f"no ReferenceGrant permits the {of} {where}/{name}")
    item = context.cluster.get(of, where, name)
    said = None if item is None else (item.get("data") or {}).get(CA)
    content = (_decoded(said) if of == "Secret" else said.encode()) if isinstance(said, str) else b""
    if not content or not _is_authority(content):
        raise UnresolvedReference("InvalidCACertificateRef", f"the {of} {where}/{name} has no valid {CA}")
    return content.decode("latin-1")


def add_authorities(text: str, namespace: str, name: str, kind: str, context: TranslationContext) -> str:
    """Add the derived file with CA certificates of an object, and return its name."""
    file = cluster_name(kind, namespace, name, CA)
    context.files[file] = text
    return file


def _decoded(value: object) -> bytes:
    try:
        return b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:  # also of text that is not ASCII
        return b""


@lru_cache(maxsize=4096)
def _is_wrong(certificate: bytes, key: bytes) -> bool:
    return pair_problem(certificate, key) is not None


@lru_cache(maxsize=1024)
def _is_authority(content: bytes) -> bool:
    return not authority_problem(content)
