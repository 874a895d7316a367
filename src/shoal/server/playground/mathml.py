"""Formulas as MathML that may come from anybody: built anew from a list of harmless elements and attributes."""

import html
import re
from xml.etree.ElementTree import Element, SubElement, tostring

_LONGEST = 4000  # characters of one formula
_MOST_ELEMENTS = 4000
# A formula that defines commands can grow without bound as they are put in.
_DEFINES = re.compile(r"\\(?:(?:re)?newcommand|providecommand|[gex]?def|let|DeclareMathOperator|newenvironment)")
_ELEMENTS = re.compile(
    "math|mrow|mi|mn|mo|mtext|ms|mspace|mfrac|msqrt|mroot|msub|msup|msubsup|munder|mover|munderover|mmultiscripts|"
    "mprescripts|none|mtable|mtr|mtd|mstyle|mpadded|mphantom"
)
_ATTRIBUTES = {
    "display": re.compile(r"inline|block"),
    "displaystyle": re.compile(r"true|false"),
    "scriptlevel": re.compile(r"[+-]?\d"),
    "mathvariant": re.compile(r"[a-z-]{1,30}"),
    "columnalign": re.compile(r"(?:left|right|center)(?: (?:left|right|center)){0,40}"),
    "linethickness": re.compile(r"[\d.]{1,5}(?:px|em|ex)?"),
    "width": re.compile(r"-?[\d.]{1,6}(?:em|ex|mu)"),
    "minsize": re.compile(r"[\d.]{1,4}em"),
    "maxsize": re.compile(r"[\d.]{1,4}em"),
} | dict.fromkeys(("stretchy", "fence", "separator", "accent", "form", "movablelimits"), re.compile(r"[a-z]{1,8}"))


def mathml(formula: str, *, display: bool) -> str:
    """A LaTeX formula as MathML; as its source, in `<code>`, where it cannot be read."""
    element = None if len(formula) > _LONGEST or _DEFINES.search(formula) else _read(formula, display)
    if element is None:
        return f'<code class="formula">{html.escape(formula.strip())}</code>'
    return tostring(element, encoding="unicode", short_empty_elements=False)


def _read(formula: str, display: bool) -> Element | None:
    from latex2mathml.converter import Converter

    # Inner alignments are what its `split` environment does.
    source = re.sub(r"\{(?:aligned|alignedat|gathered)\}", "{split}", formula).strip()
    try:
        raw = Converter(display="block" if display else "inline").convert_to_element(source)
        if sum(1 for _ in raw.iter()) > _MOST_ELEMENTS:
            return None
        return _harmless(raw)
    except Exception:  # noqa: BLE001 - whatever the formula trips the parser with, its source is shown
        return None


def _harmless(raw: Element) -> Element:
    """The same formula with the elements and attributes we know, and no others."""
    math = Element("math", {"xmlns": "http://www.w3.org/1998/Math/MathML"})
    _copy(raw, math)
    return math


def _copy(raw: Element, copy: Element) -> None:
    for name, value in raw.attrib.items():
        if name in _ATTRIBUTES and _ATTRIBUTES[name].fullmatch(value):
            copy.set(name, value)
    if raw.tag == "menclose":  # \boxed; browsers draw no menclose
        copy.set("class", "boxed")
    copy.text = html.unescape(raw.text or "") or None  # the converter writes signs as entities
    for child in raw:
        _copy(child, SubElement(copy, child.tag if _ELEMENTS.fullmatch(child.tag) else "mrow"))
