"""argparse as the commands use it: one-line errors with what may have been meant, and short help."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from sgdsim.common.checks import meant

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

Group: TypeAlias = argparse._ActionsContainer  # a group of options, or a parser
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # what `add_subparsers` gives


EXAMPLE = "example: "


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each option that has one and does not say it in its own words; paragraphs stay apart,
    and an example in one line, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(
            part if part.startswith(EXAMPLE) else fill(part, width, indent) for part in text.split("\n\n")
        )

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or "default" in text:
            return text
        default = action.default if isinstance(action.default, list) else [action.default]
        return f"{text} (default: {' '.join(map(str, default))})".replace("%", "%%").lstrip()


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviations, and values such as -1e-3 not taken for options."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(**options, allow_abbrev=False)
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf|nan)")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """argparse would pass over a standard output that is full or closed."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """With what may have been meant."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += meant(value, map(str, action.choices or ()))
            raise

    def short_usage(self) -> str:
        """Groups of options in brackets, with what has to be given spelled out."""
        needed, titles = [], []
        for group in self._action_groups:
            for action in group._group_actions:
                name = str(action.metavar or action.dest)
                if not action.option_strings:
                    needed.append(f"[{name} ...]" if action.nargs == "*" else name)
                elif action.required:
                    needed.append(f"{action.option_strings[0]} {name}")
                elif action.dest != "help":
                    titles.append(f"[{group.title}]")
        return " ".join(["%(prog)s", *needed, *dict.fromkeys(titles)])

    def known_options(self) -> list[str]:
        """The options that the help names."""
        return [name for a in self._actions if a.help != argparse.SUPPRESS for name in a.option_strings]

    def takes_one(self, option: str) -> bool:
        """Whether that is an option that takes one value."""
        action = self._option_string_actions.get(option)
        return isinstance(action, argparse._StoreAction) and action.nargs is None

    def below(self, names: Iterable[str]) -> Parser:
        """The parser of a command and, where it has one, of its action."""
        found = self
        for name in names:
            actions = (a for a in found._actions if isinstance(a, argparse._SubParsersAction))
            found = next((action.choices[name] for action in actions), found)
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")
