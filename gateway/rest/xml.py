"""JSON as XML and back: the representation of XPath and XQuery Functions 3.1, section 22.

`{"name": "a"}` is `<map xmlns="http://www.w3.org/2005/xpath-functions"><string key="name">a
</string></map>`. Nothing is lost either way, no name must be escaped, and XSLT and XQuery bring
both directions (docs/adr/0035).

A body is a stranger's: no DTD, hence no entity, nothing fetched, and a depth that is bounded
before anything recurses. Its size is bounded where it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import XMLParser

MEDIA_TYPE = "application/xml"
NAMESPACE = "http://www.w3.org/2005/xpath-functions"
# Levels of maps and arrays. Trove's deepest body has 6.
MAX_DEPTH = 32
_TAG = f"{{{NAMESPACE}}}"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
# What XML 1.0 cannot carry, or not unchanged (a parser makes "\r" and "\r\n" one "\n", and in
# attributes tabs and line ends spaces), and the backslash that escapes it.
_ESCAPED = re.compile("[\\\\\x00-\x1f\ud800-\udfff\ufffe\uffff]")
_KNOWN_ATTRIBUTES = frozenset({"key", "escaped", "escaped-key"})


class XmlError(ValueError):
    """The text is not JSON in XML; the message says where and never repeats a value."""


def to_xml(value: Any) -> str:
    """The document of a JSON value; deeper than MAX_DEPTH is a programmer's mistake."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{"".join(_write(value, "", root=True))}\n'


def from_xml(text: str) -> Any:
    """The JSON value of a document; raises XmlError, or ValueError for a number too long."""
    builder = _BoundedBuilder()
    parser = XMLParser(target=builder, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    try:
        parser.feed(text)
        root = parser.close()
    except DefusedXmlException:
        raise XmlError("a document type or an entity is declared; send none") from None
    except ET.ParseError as error:
        line, column = error.position
        raise XmlError(f"not well-formed XML at line {line}, column {column + 1}") from None
    except UnicodeEncodeError as error:
        raise XmlError(f"character {error.start + 1} is half of one") from None
    return _read(root)


class _BoundedBuilder(ET.TreeBuilder):
    """Refuses depth while it parses: whatever walks the tree may then recurse."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise XmlError(f"it is nested deeper than {MAX_DEPTH} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        self._depth -= 1
        return super().end(tag)


def _write(value: Any, key: str, *, root: bool = False) -> Iterator[str]:
    attributes = f' xmlns="{NAMESPACE}"{key}' if root else key
    match value:
        case dict():
            yield f"<map{attributes}>"
            for name, item in value.items():
                yield from _write(item, _key(name))
            yield "</map>"
        case list():
            yield f"<array{attributes}>"
            for item in value:
                yield from _write(item, "")
            yield "</array>"
        case str():
            text, flag = _carried(value, "escaped")
            yield f"<string{attributes}{flag}>{escape(text)}</string>"
        case bool():
            yield f"<boolean{attributes}>{str(value).lower()}</boolean>"
        case None:
            yield f"<null{attributes}/>"
        case _:
            yield f"<number{attributes}>{json.dumps(value)}</number>"


def _key(name: str) -> str:
    text, flag = _carried(name, "escaped-key")
    return f" key={quoteattr(text)}{flag}"


def _carried(text: str, flag: str) -> tuple[str, str]:
    """The text as XML can carry it, and the attribute that says so where JSON's escapes helped."""
    if _ESCAPED.search(text) is None:
        return text, ""
    return _ESCAPED.sub(lambda match: json.dumps(match[0])[1:-1], text), f' {flag}="true"'


def _read(element: ET.Element) -> Any:
    kind = element.tag.removeprefix(_TAG)
    if not element.tag.startswith(_TAG):
        raise XmlError(f"its elements must be of the namespace {NAMESPACE}")
    if not set(element.attrib) <= _KNOWN_ATTRIBUTES:
        raise XmlError("an element has another attribute than key, escaped and escaped-key")
    if kind in ("map", "array"):
        return _read_children(element, is_map=kind == "map")
    if len(element):
        raise XmlError(f"a {kind} contains elements")
    return _read_value(kind, element)


def _read_children(element: ET.Element, *, is_map: bool) -> Any:
    between = [element.text, *(child.tail for child in element)]
    if any((text or "").strip() for text in between):
        raise XmlError("there is text between the elements of a map or an array")
    if not is_map:
        return [_read(child) for child in element]
    found: dict[str, Any] = {}
    for child in element:
        if "key" not in child.attrib:
            raise XmlError("an element of a map has no key")
        key = _unescaped(child.attrib["key"], child.get("escaped-key", "false"))
        if key in found:
            raise XmlError("a map has the same key twice")
        found[key] = _read(child)
    return found


def _read_value(kind: str, element: ET.Element) -> Any:
    text = element.text or ""
    if kind == "string":
        return _unescaped(text, element.get("escaped", "false"))
    text = text.strip()
    if kind == "number" and _NUMBER.fullmatch(text):
        return json.loads(text)
    if kind == "boolean" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kind == "null" and not text:
        return None
    raise XmlError(
        f"a {kind} cannot be read"
        if kind in ("number", "boolean", "null")
        else "its elements are map, array, string, number, boolean and null"
    )


def _unescaped(text: str, flag: str) -> str:
    if not _BOOLEANS.get(flag.strip(), False):
        return text
    # A quote need not be escaped in XML, and a line end may stand as it is.
    quoted = re.sub(r'\\.|"', lambda match: match[0] if match[0] != '"' else '\\"', text)
    try:
        read = json.loads(f'"{quoted}"', strict=False)
    except ValueError:
        _refuse_escape()
    return str(read)


def _refuse_escape() -> NoReturn:
    raise XmlError("an escaped string has an escape that JSON does not know") from None
