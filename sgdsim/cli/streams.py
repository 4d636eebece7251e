"""Standard output and error as they are found: closed, full, or of an encoding that lacks a letter."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

_SPELLED = {
    "λ": "lambda", "Λ": "Lambda", "Σ": "sum", "×": "x", "±": "+-", "·": "*", "−": "-", "–": "-", "—": "-", "≈": "~",
    "≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "←": "<-", "≪": "<<", "≫": ">>", "‖": "||", "∈": "in", "∞": "inf",
    "√": "sqrt", "∝": "~", "∂": "d",
}  # fmt: skip
_HANDLER = "sgdsim.spelled"


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """Letters that the stream's encoding lacks, written out; bytes of a file name that are no text, as they came."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter, after = error.object[error.start], error.start + 1
    if "\udc80" <= letter <= "\udcff":
        return bytes([ord(letter) - 0xDC00]), after
    return _ascii(letter), after


def _ascii(letter: str) -> str:
    """The letter in ASCII: nu for ν, ^2 for ², e for é; a question mark for what has no such form."""
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(letter, ""))
    if letter in _SPELLED:
        return _SPELLED[letter]
    if greek is not None:
        return greek[2].lower() if greek[1] == "SMALL" else greek[2].capitalize()
    mark = {"<super>": "^", "<sub>": "_"}.get(unicodedata.decomposition(letter).partition(" ")[0], "")
    plain = unicodedata.normalize("NFKD", letter).replace("\u2044", "/").encode("ascii", "ignore").decode()
    return mark + plain if plain or unicodedata.combining(letter) else "?"


codecs.register_error(_HANDLER, _spelled)


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """Standard output and error that can be written to, for the length of a `with` block.

    One that was closed would be None, and the next file to be opened would get its number. In its place comes the null
    device, as standard output for reading only: what is printed then fails as on a full disk, and is told.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        if (sys.stdin, sys.stdout, sys.stderr)[number] is None and not _is_open(number):
            os.open(os.devnull, mode)  # gets the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    before = getattr(sys.stdout, "errors", None)
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # a stream of the caller's may lack it
    if reconfigure is not None:
        reconfigure(errors=_HANDLER)
    try:
        yield
    finally:
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):  # it may have been closed, or be full
                reconfigure(errors=before)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def tell(message: str) -> None:
    """One line on standard error; where that cannot be written, nothing: the exit code tells as well."""
    try:
        print(" ".join(message.split()), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Send to the null device what a stream still holds: it would fail once more when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
