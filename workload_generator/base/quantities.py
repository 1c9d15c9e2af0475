"""Quantities of Kubernetes: `183632734n`, `250m`, `2663656Ki`, `1.5Gi`, `2e3`.

Source: the grammar of https://pkg.go.dev/k8s.io/apimachinery/pkg/api/resource#Quantity
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:(n|u|m|k|M|G|T|P|E|[KMGTPE]i)|[eE]([+-]?[0-9]{1,3}))?")
_DECIMAL = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_UNITS = {
    **{suffix: Fraction(1000) ** (power - 3) for power, suffix in enumerate(_DECIMAL)},
    **{suffix: Fraction(1024) ** power for power, suffix in enumerate(_BINARY, 1)},
}
_LONGEST = 64


@functools.lru_cache(maxsize=100_000)
def parse_quantity(text: str) -> Fraction:
    """The exact value of a quantity, in cores or bytes. Raises ValueError."""
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{text[:_LONGEST]!r} is not a quantity such as 250m or 2663656Ki")
    number, suffix, exponent = match.groups()
    return Fraction(number) * (Fraction(10) ** int(exponent) if exponent else _UNITS[suffix or ""])


def millicores(text: str) -> float:
    """Thousandths of a core of a quantity of CPU. Raises ValueError."""
    if text[-1:] == "n" and text[:-1].isdecimal() and text.isascii():  # the common case
        return int(text[:-1]) / 1_000_000
    return float(parse_quantity(text) * 1000)


def whole_bytes(text: str) -> int:
    """Bytes of a quantity of memory, rounded up as Kubernetes does. Raises ValueError."""
    if text[-2:] == "Ki" and text[:-2].isdecimal() and text.isascii():
        return int(text[:-2]) * 1024
    value = parse_quantity(text)
    return -(-value.numerator // value.denominator)


def format_bytes(size: int) -> str:
    """A size for people, in the unit in which it has one to four digits: `340 bytes`, `33 KiB`, `4.7 GiB`."""
    if size < 1024:
        return f"{size} bytes"
    power = min(len(_BINARY), (size.bit_length() - 1) // 10)
    value = size / 1024**power
    return f"{value:.0f} {_BINARY[power - 1]}B" if value >= 10 else f"{value:.1f} {_BINARY[power - 1]}B"
