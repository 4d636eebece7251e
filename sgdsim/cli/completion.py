"""`sgdsim --print-completion SHELL`: a script by which the shell completes commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from sgdsim.cli.base import Parser
from sgdsim.common.checks import InputError

SHELLS = ("bash", "zsh")


def script(parser: Parser, shell: str) -> str:
    """The script for one of `SHELLS`, which needs no Python when it runs; InputError without the package shtab."""
    try:
        import shtab
    except ImportError as error:
        raise InputError(
            "--print-completion: expected the package shtab, which writes the script: pip install 'sgdsim[completion]'"
        ) from error
    _name_files(parser, {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY})
    _offer(parser, _names())
    return str(shtab.complete(parser, shell))


def _names() -> dict[str, list[str]]:
    """Words that stand behind options whose values argparse leaves open, as they may have parameters."""
    from sgdsim import observables
    from sgdsim.algorithm.methods import METHODS
    from sgdsim.cli.recommend import SIMULATED
    from sgdsim.regimes import names

    followed = list(names.REGIMES)
    return {
        "--method": [name for name in METHODS if name != "torch"],  # that is --momentum-order
        "--regime": followed,
        "--regimes": followed,
        "--verify": list(SIMULATED),
        "--observe": list(observables.KINDS),
    }


def _offer(parser: argparse.ArgumentParser, names: Mapping[str, list[str]]) -> None:
    """Offer these, first values and further ones alike; the parser is of no other use then."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _offer(below, names)
        elif action.choices is None:
            action.choices = next((names[option] for option in action.option_strings if option in names), None)


def _name_files(parser: argparse.ArgumentParser, kinds: Mapping[str, object]) -> None:
    """Say which options take names of files, by how the help calls their values."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _name_files(below, kinds)
        elif action.metavar in kinds:
            action.complete = kinds[str(action.metavar)]  # type: ignore[attr-defined] # read by shtab
