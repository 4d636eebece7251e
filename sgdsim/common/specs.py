"""Small frozen objects with a text form `NAME:key=value,…`, in which they stand on the command line and in results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, TypeVar

from sgdsim.common.checks import InputError, choice, meant

_Kind = TypeVar("_Kind")


def shortest(value: float) -> str:
    """The shortest text that reads back as the same float, whole numbers without a point."""
    return str(float(value)).removesuffix(".0")


def readable(value: float, digits: int = 6) -> str:
    """`value` in `digits` digits, or in as many more as it takes not to say 0, 1 or −1 of what is not: there other laws
    hold. Integers in full."""
    if isinstance(value, int):
        return str(value)
    texts = (f"{value:.{count}g}" for count in range(digits, 18))
    return next(text for text in texts if float(text) not in (-1, 0, 1) or float(text) == value)


def brief(text: str, length: int = 80) -> str:
    """A text form for people: a long one by how it begins and ends."""
    half = length // 2 - 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"


def pairs(kind: str, text: str) -> list[tuple[int, float]]:
    """The whole numbers and values of `0=1.5,100=0.1`; InputError, beginning with `kind`, for another form."""
    out = []
    for item in text.split(","):
        step, _, value = item.partition("=")
        try:
            out.append((int(step), float(value)))
        except ValueError:
            raise InputError(f"{kind}: expected STEP=VALUE,STEP=VALUE,…; got {item[:40]!r}") from None
    return out


@dataclass(frozen=True)
class Spec:
    """The base: `name` is the class's, the fields are its parameters."""

    name: ClassVar[str]

    @property
    def spec(self) -> str:
        """The text that `parse` reads back; parameters at their defaults are left out."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        words = ",".join(f"{name}={value if isinstance(value, int) else shortest(value)}" for name, value in given)
        return f"{self.name}:{words}" if words else self.name


def parse(parameter: str, kind: str, text: str, kinds: Mapping[str, type[_Kind]]) -> _Kind:
    """The object that `text` describes; `kinds`: by name. Fields annotated `int` take whole numbers; a kind whose text
    has another form reads it, what stands behind the colon, by its `from_text`.

    Raises InputError, beginning with `parameter`, for an unknown name (a `kind` of thing) or unknown arguments.
    """
    head, _, tail = text.partition(":")
    made: Any = kinds[choice(f"{parameter}: {kind}", head, kinds)]
    if hasattr(made, "from_text"):
        try:
            return made.from_text(tail)
        except InputError as error:
            raise InputError(f"{parameter}: {error}") from None
    known = {f.name: f for f in fields(made)}
    needed = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    rule = ", ".join(f"{k}=NUMBER" if k in needed else f"[{k}=NUMBER]" for k in known) or "no arguments"
    given: dict[str, float | int] = {}
    synonyms = getattr(made, "synonyms", {})
    for item in filter(None, tail.split(",")):
        key, equals, value = item.partition("=")
        key = synonyms.get(key, key)
        try:
            given[key] = int(value) if key in known and known[key].type == "int" else float(value)
        except ValueError:
            what = f"{item!r}"
            if equals and key in known:
                what += f", where {key} is a {'whole ' if known[key].type == 'int' else ''}number"
            raise InputError(f"{parameter}: {head}: expected {rule}; got {what}") from None
        if key not in known:
            raise InputError(
                f"{parameter}: {head}: expected {rule}; got {item!r}, whose key is none{meant(key, known)}"
            )
    if missing := [name for name in needed if name not in given]:
        raise InputError(f"{parameter}: {head}: expected {rule}; got {tail!r}, without {' and '.join(missing)}")
    return made(**given)
