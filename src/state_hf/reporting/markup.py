"""SVG as element trees: text is escaped when the tree is written, so no label can become markup."""

import re
from collections.abc import Iterable
from xml.etree import ElementTree

Child = str | ElementTree.Element | None

# XML 1.0 allows no other control characters, and none of them is visible.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def element(tag: str, *children: Child, **attributes: str | float | None) -> ElementTree.Element:
    """One element with its children.

    Args:
        tag: Name of the element.
        *children: Text (escaped when written), elements, or None for nothing.
        **attributes: Attributes; `class_` is `class`, and an underscore stands for a hyphen. None leaves one out.

    Returns:
        The element.
    """
    node = ElementTree.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            node.set(name.rstrip("_").replace("_", "-"), _text(value))
    return append(node, children)


def append(node: ElementTree.Element, children: Iterable[Child]) -> ElementTree.Element:
    """Add children to an element and return it."""
    for child in children:
        if isinstance(child, ElementTree.Element):
            node.append(child)
        elif child is not None and len(node):
            node[-1].tail = (node[-1].tail or "") + _text(child)
        elif child is not None:
            node.text = (node.text or "") + _text(child)
    return node


def number(value: float, digits: int = 3) -> str:
    """A value for reading: three significant digits, thousands apart, a dash where there is none."""
    if value != value:
        return "–"
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{int(value):,}"
    elif abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
        mantissa, _, exponent = text.partition("e")
        text = f"{mantissa}e{int(exponent)}" if exponent else text
    return text.replace("-", "−").replace(",", "\u202f")


def visible(text: str) -> str:
    """A text in which control characters are shown as what cannot be shown."""
    return _CONTROL_CHARACTERS.sub("\ufffd", text)


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return visible(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
