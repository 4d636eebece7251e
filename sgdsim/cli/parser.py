"""The parser of the whole command line, from what each command adds to it."""

from __future__ import annotations

import argparse

from sgdsim.cli.base import EXAMPLE, Parser
from sgdsim.cli.completion import SHELLS
from sgdsim.cli.registry import COMMANDS, QUESTIONS


class _Whole(Parser):
    """Its help lists the commands by the question that they answer."""

    said: list[argparse.Action]

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        options = [action for action in self._actions if action.option_strings]
        of_name = {action.dest: action for action in self.said}
        groups = {question: [of_name.pop(name) for name in names] for question, names in QUESTIONS.items()}
        for title, actions in {**groups, "others": list(of_name.values()), "options": options}.items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help().replace("?:\n", "?\n")


def build_parser() -> Parser:
    """The whole command line."""
    parser = _Whole(prog="sgdsim", description="Theory and simulation of mini-batch SGD on quadratic models.")
    parser.add_argument("--version", action="store_true", help="print the version")
    words = 'print a script that completes commands and options; for bash: eval "$(sgdsim --print-completion bash)"'
    parser.add_argument("--print-completion", choices=SHELLS, metavar="SHELL", help=words)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS.values():
        command.add_parser(commands)
    parser.said = commands._choices_actions
    parser.epilog = "sgdsim COMMAND --help has an example and the options of each."
    for said in parser.said:
        made = commands.choices[said.dest]
        made.usage = made.short_usage()
        words = made.description or f"{str(said.help)[0].upper()}{str(said.help)[1:]}."
        made.description = f"{EXAMPLE}sgdsim {COMMANDS[said.dest].example}\n\n{words}"
    return parser
