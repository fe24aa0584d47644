"""Text that is safe to show: what a terminal would obey is escaped."""

from __future__ import annotations

import re

# C0 and C1 controls (ESC and CSI move the cursor and set the title), marks that reorder what is
# read, further line breaks, and surrogates (an undecodable file name), which no stream can encode.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_NOT_PRINTABLE = re.compile(f"[{_CONTROLS}]")
_NOT_IN_A_LINE = re.compile(rf"[{_CONTROLS}\t\n]")


def printable(text: object) -> str:
    r"""The text with control characters as `\uXXXX`; line breaks and tabs stay.

    The escape is JSON's, so that JSON stays the same document.

    >>> print(printable("evil\x1b[2J name"))
    evil\u001b[2J name
    """
    return _NOT_PRINTABLE.sub(_escaped, str(text))


def printable_line(text: object) -> str:
    r"""As `printable`, in one line: for a name in a table, or a comment in a file.

    >>> print("# " + printable_line("x\nload_from: evil.pth"))
    # x\u000aload_from: evil.pth
    """
    return _NOT_IN_A_LINE.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
