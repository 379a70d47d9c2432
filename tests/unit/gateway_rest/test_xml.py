"""JSON as XML and back: nothing lost, nothing hostile read."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest.negotiation import prefers_xml
from gateway.rest.xml import MAX_DEPTH, NAMESPACE, XmlError, from_xml, to_xml

ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda children: st.lists(children) | st.dictionaries(ANY_TEXT, children),
    max_leaves=20,
)
HEAD = f'<map xmlns="{NAMESPACE}">'
LAUGHS = "".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' if n else '<!ENTITY l0 "ha">' for n in range(10)
)


@given(JSON)
def test_every_json_value_comes_back_as_it_was(value):
    assert from_xml(to_xml(value)) == value


@given(ANY_TEXT)
def test_no_text_makes_anything_but_a_refusal(text):
    for sent in (text, f"{HEAD}<string key='a'>{text}</string></map>"):
        try:
            from_xml(sent)
        except XmlError:
            continue


def test_a_view_reads_as_the_standard_writes_it():
    written = to_xml({"instance": {"name": "a&b", "ids": [1, None, True]}})
    body = written.partition("\n")[2].strip()
    assert body == (
        f'<map xmlns="{NAMESPACE}"><map key="instance"><string key="name">a&amp;b</string>'
        '<array key="ids"><number>1</number><null/><boolean>true</boolean></array></map></map>'
    )


def test_other_prefixes_white_space_and_comments_are_read():
    text = f"""<j:map xmlns:j="{NAMESPACE}"> <!-- a comment -->
      <j:string key="a" escaped="true">\\u0041"\\n</j:string> <j:boolean key="b">1</j:boolean>
    </j:map>"""
    assert from_xml(text) == {"a": 'A"\n', "b": True}


@pytest.mark.parametrize(
    "text",
    [
        f"<!DOCTYPE map [{LAUGHS}]>{HEAD}<string key='a'>&l9;</string></map>",
        f'<!DOCTYPE map [<!ENTITY x SYSTEM "file:///etc/passwd">]>{HEAD}&x;</map>',
        f'<!DOCTYPE map SYSTEM "http://127.0.0.1:1/x.dtd">{HEAD}</map>',
        f'<!DOCTYPE map [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>{HEAD}</map>',
        f"<!DOCTYPE map>{HEAD}</map>",
    ],
    ids=["billion-laughs", "external-entity", "external-dtd", "parameter-entity", "empty-dtd"],
)
def test_document_types_and_entities_are_refused_before_they_are_read(text):
    with pytest.raises(XmlError, match="document type"):
        from_xml(text)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 100_000])
def test_deep_nesting_is_refused_while_it_is_parsed(levels):
    with pytest.raises(XmlError, match="nested deeper"):
        from_xml(f'<array xmlns="{NAMESPACE}">' * levels)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<map/>", "namespace"),
        ("{}", "not well-formed"),
        (HEAD, "not well-formed"),
        (f"{HEAD}<string>a</string></map>", "no key"),
        (f"{HEAD}<null key='a'/><null key='a'/></map>", "same key twice"),
        (f"{HEAD}<null key='a'/><null key='\\u0061' escaped-key='1'/></map>", "same key twice"),
        (f"{HEAD}text</map>", "text between"),
        (f"{HEAD}<number key='a'>NaN</number></map>", "a number"),
        (f"{HEAD}<number key='a'>0x10</number></map>", "a number"),
        (f"{HEAD}<boolean key='a'>yes</boolean></map>", "a boolean"),
        (f"{HEAD}<null key='a'>0</null></map>", "a null"),
        (f"{HEAD}<other key='a'/></map>", "its elements are"),
        (f"{HEAD}<string key='a' type='x'/></map>", "another attribute"),
        (f"{HEAD}<string key='a'><null/></string></map>", "contains elements"),
        (f"{HEAD}<string key='a' escaped='true'>\\x</string></map>", "escape"),
    ],
)
def test_what_is_not_json_in_xml_is_refused_with_its_reason(text, why):
    with pytest.raises(XmlError, match=why):
        from_xml(text)


@given(JSON)
def test_what_is_written_is_well_formed_for_any_parser(value):
    ET.fromstring(to_xml(value))  # noqa: S314  our own text


@pytest.mark.parametrize(
    ("accept", "xml"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/xml", True),
        ("application/xml;q=0.5, application/json;q=0.4", True),
        ("application/json, application/xml", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("application/xml;q=0", False),
        ("application/xml;q=nan, */*;q=0.1", False),
    ],
)
def test_xml_is_answered_to_who_would_rather_have_it(accept, xml):
    assert prefers_xml(accept) is xml
