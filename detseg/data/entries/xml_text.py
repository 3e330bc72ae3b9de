"""XML of other programs: in any encoding, and without what could read other files."""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ET
from typing import Any

from detseg.data.source import DatasetError

_DECLARATION = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")
_KNOWN_TO_EXPAT = frozenset({"utf-8", "utf-16", "us-ascii", "ascii", "iso-8859-1"})


def parse_xml(data: bytes) -> ET.Element:
    """The outermost element of an XML file.

    Raises:
        ET.ParseError: it is no XML.
        LookupError: there is no such encoding as it declares.
        ValueError: it has a document type, or the bytes are not in the encoding that is declared.
    """
    return ET.fromstring(_decoded(data), ET.XMLParser(target=_SafeBuilder()))


def _decoded(data: bytes) -> bytes | str:
    """The text of a file in an encoding that the parser does not know, or that is another than is declared: .NET
    declares texts to be UTF-16 that are then saved as UTF-8. Else the bytes as they are."""
    is_marked = data.startswith(codecs.BOM_UTF8)
    data = data.removeprefix(codecs.BOM_UTF8)
    declared = _DECLARATION.match(data)
    if declared is None:
        return data
    encoding = declared[1].decode("ascii").lower()
    # What could be read byte by byte up to here is no UTF-16.
    if is_marked or encoding.replace("-", "").startswith("utf16"):
        encoding = "utf-8"
    elif encoding in _KNOWN_TO_EXPAT:
        return data
    return data[declared.end() :].decode(encoding)


class _SafeBuilder(ET.TreeBuilder):
    """Refuses document types, and with them entities: they can expand without limit or read other files."""

    def doctype(self, name: str, *_: Any) -> None:
        raise DatasetError(f"has a DOCTYPE ({name}), which annotations have no use for; remove it")
