"""The parser of the whole command line, from what each command adds to it."""

from __future__ import annotations

from sgdsim.cli.base import Parser
from sgdsim.cli.completion import SHELLS
from sgdsim.cli.registry import COMMANDS


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="sgdsim", description="Theory and simulation of mini-batch SGD on quadratic models.")
    parser.add_argument("--version", action="store_true", help="print the version")
    words = 'print a script that completes commands and options; for bash: eval "$(sgdsim --print-completion bash)"'
    parser.add_argument("--print-completion", choices=SHELLS, metavar="SHELL", help=words)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS.values():
        command.add_parser(commands)
    for said in commands._choices_actions:
        made = commands.choices[said.dest]
        made.usage = made.short_usage()
        made.description = made.description or f"{str(said.help)[0].upper()}{str(said.help)[1:]}."
        example = COMMANDS[said.dest].example
        made.epilog = f"example: sgdsim {example}" if example else None
    return parser
