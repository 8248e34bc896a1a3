"""Content types of files, by the extension of their names."""

from types import MappingProxyType
from typing import Final

UNKNOWN: Final = b"application/octet-stream"
_UTF8: Final = b"; charset=utf-8"

_TEXT: Final = {
    "text/html": "html htm shtml",
    "text/css": "css",
    "text/javascript": "js mjs",
    "text/plain": "txt text log conf ini",
    "text/markdown": "md markdown",
    "text/csv": "csv",
    "text/calendar": "ics",
    "text/vtt": "vtt",
    "text/xml": "xml xsl xsd",
    "text/yaml": "yaml yml",
}
_OTHER: Final = {
    "application/atom+xml": "atom",
    "application/epub+zip": "epub",
    "application/gzip": "gz tgz",
    "application/java-archive": "jar war",
    "application/json": "json map",
    "application/ld+json": "jsonld",
    "application/manifest+json": "webmanifest",
    "application/msword": "doc",
    "application/pdf": "pdf",
    "application/rss+xml": "rss",
    "application/rtf": "rtf",
    "application/vnd.apple.mpegurl": "m3u8",
    "application/vnd.debian.binary-package": "deb",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/wasm": "wasm",
    "application/x-7z-compressed": "7z",
    "application/x-bzip2": "bz2",
    "application/x-rpm": "rpm",
    "application/x-tar": "tar",
    "application/x-xz": "xz",
    "application/xhtml+xml": "xhtml",
    "application/zip": "zip",
    "application/zstd": "zst",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg oga opus",
    "audio/wav": "wav",
    "font/otf": "otf",
    "font/ttf": "ttf",
    "font/woff": "woff",
    "font/woff2": "woff2",
    "image/apng": "apng",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/jpeg": "jpg jpeg",
    "image/jxl": "jxl",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/tiff": "tif tiff",
    "image/vnd.microsoft.icon": "ico",
    "image/webp": "webp",
    "video/mp2t": "ts",
    "video/mp4": "mp4 m4v",
    "video/mpeg": "mpg mpeg",
    "video/ogg": "ogv",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
}

BY_EXTENSION: Final = MappingProxyType(
    {
        extension.encode(): kind.encode() + charset
        for kinds, charset in ((_TEXT, _UTF8), (_OTHER, b""))
        for kind, extensions in kinds.items()
        for extension in extensions.split()
    }
)
"""Content types by the lower-case extension, without its dot (IANA media types; text is taken for UTF-8)."""


def content_type_of(name: bytes) -> bytes:
    """Return the content type for the name of a file, or `UNKNOWN`."""
    stem, dot, extension = name.rpartition(b".")
    return BY_EXTENSION.get(extension.lower(), UNKNOWN) if dot and stem else UNKNOWN
