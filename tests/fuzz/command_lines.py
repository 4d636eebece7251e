"""Command lines from a seed: valid ones, made from the parser itself, and mutated ones.

What an option takes is read from its action: its choices, its type, its number of values. So a new option is tried as
soon as it exists; only sizes have to be kept small here, by name.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator

from fuzz.inputs import POWER, SWEEP, VALIDATE
from sgdsim.cli.parser import build_parser

# Values by the destination of an option; `None` leaves an option out of the valid lines.
VALUES: dict[str, list[str] | None] = {
    "lr": ["0.5", "1", "0.1", "power:start=1,exponent=0.5", "3"],
    "momentum": ["0", "0.5", "-0.3", "0.9"],
    "regimes": ["sampled", "averaged", "diagonal"],
    "regime": ["diagonal", "diagonal:tau=1", "sampled", "averaged"],
    "theory": ["averaged", "diagonal:tau=1"],
    "verify": ["sampled"],
    "tau": ["1", "-1", "0.5"],
    "method": ["heavy-ball", "nesterov", "am1:nu=1.5", "corner:theta=1.8,memory=4"],
    "average": ["ema:0.9", "tail:start=2,every=3"],
    "label_noise": ["0", "0.1"],
    "weight_decay": ["0", "0.01"],
    "lambda_min": ["0.01", "0.5"],
    "executor": ["serial", "threads"],  # a Dask cluster takes seconds to start
    "scheduler": None,
    "shard": ["1/2", "1/1"],
    "sampling": ["without-replacement", "with-replacement"],
    "device": ["auto", "cpu"],  # asking for a GPU is an error or not, by machine
    "data_dir": ["data"],
    "model": ["models:small"],
    "kernel": ["kernel.npz", "kernel.pt"],
    "spectrum": ["spectrum.nc"],
    "residual": ["residual.npy"],
    "targets": ["residual.npy", "class:3,8"],
    "data": ["table.csv"],
    "target": ["y"],
    "features": ["a", "b"],
    "cells": ["cells.csv"],
    "read": ["validated.json"],
    "file": ["result.nc", "map.nc", "budget.nc"],
    "out": ["new.nc", "old.nc"],
    "plot": ["new.png", "old.png", "new.svg"],
    "log_file": ["new.log", "old.log"],
    "reach": ["0.5", "0.9"],
    "pairs": ["0", "3"],
    "figure": ["list", "best-lr", "negative-momentum"],
    "observable": ["loss"],
    "name": ["mnist", "olivetti"],
    "mirror": None,
    "help": None,
    "version": None,
}
# Always given, so that nothing takes long.
SIZES: dict[str, list[str]] = {
    "n": ["8", "12", "20"],
    "batch_size": ["1", "2", "5", "6"],
    "n_test": ["3", "5"],
    "width": ["3", "8"],
    "widths": ["3", "5"],
    "depth": ["1", "2"],
    "n_steps": ["1", "7", "40"],
    "threshold_steps": ["40"],
    "replicates": ["2", "3"],
    "horizon": ["5", "30", "200"],
    "epochs": ["1", "2"],
    "steps": ["0", "2"],
    "lanczos": ["3", "6"],
    "lanczos_steps": ["3", "6"],
    "top": ["2", "3"],
    "probes": ["1", "3"],
    "chunk": ["4", "64"],
    "pieces": ["2", "4"],
    "figure": ["list"],
    "timeout": ["20"],
}
# Sizes by the command where they belong to it: others of the same name there have another meaning.
BY_COMMAND: dict[tuple[str, str], list[str]] = {
    ("landscape", "lr"): ["0:4:4", "0.5", "1:2:2"],
    ("landscape", "momentum"): ["-1:1:3", "0", "0.5"],
    ("budget", "n_steps"): ["60", "80"],
    ("epochs", "regime"): ["sampled"],
    ("validate", "n_steps"): ["40", "50"],
    ("export", "out"): ["new.csv", "new.parquet"],
    ("plot", "out"): ["new.png", "new.pdf"],
    ("merge", "out"): ["whole.nc", "half.nc"],
    ("merge", "parts"): ["whole.nc.parts"],
    ("reproduce", "out"): ["report"],
    ("hessian", "out"): ["new.json"],
    ("validate", "out"): ["new.json"],
    ("theory derive", "tau"): ["1", "1/2", "-1"],
}
# Options that go with one kind of problem only; the sizes above are given to the kinds that take them.
PROBLEMS = {
    "power_law": ("n", "nu", "kappa", "lambda_min"),
    "data": ("n", "n_test", "width", "depth", "activation", "data_dir"),
    "model": ("n", "n_test", "model", "data_dir"),
    "own data": ("data", "target", "n", "n_test", "width", "depth"),
    "kernel": ("kernel",),
    "spectrum": ("spectrum",),
}
SLOW = ("validate", "reproduce", "hessian")  # with sizes that were meant for another command
# What an option needs beside it, or must not meet, to be accepted.
NEEDS = {"--shard": "--out", "--resume": "--out", "--retry-failed": "--out"}
ONLY_CHECKED = ("recommend", "schedule")  # replicates belong to --verify
TRAINING_ONLY = ("batch", "budget", "landscape", "epochs", "schedule", "stability", "recommend")  # take no test points
OPTIONAL = {"lambda_min", "activation", "data_dir"}
OWN = {name for names in PROBLEMS.values() for name in names} | {"dataset", "residual", "targets", "features"}
OWN |= {"missing", "no_standardise", "tokens"}
SOLVED = ("power_law", "power_law", "power_law", "data", "own data", "model", "kernel", "spectrum")
# Lines that options alone would not hit upon.
GOOD = [
    f"{SWEEP} --out half.nc --resume",
    f"{SWEEP} --out half.nc --shard 2/2 --json",
    f"{SWEEP} --out result.nc --resume",
    "merge whole.nc",
    "merge half.nc",
    "merge new.nc whole.nc.parts",
    f"{VALIDATE} --json",
    f"simulate {POWER} --regime sampled --batch-size 2 --n-steps 9 --replicates 2 --sampling reshuffle",
    f"simulate {POWER} --regime sampled --batch-size 2 --n-steps 9 --replicates 2 --sampling one-pass --json",
    "simulate --regime sampled --method adam --n 12 --n-test 3 --width 3 --batch-size 2 --n-steps 9 --replicates 2",
    "compare --kernel kernel.npy --residual residual.npy --batch-size 2 --n-steps 5 --replicates 2 --json",
    "compare --dataset power_law --nu 2 --kappa 1 --n 12 --cells cells.csv --n-steps 5 --replicates 2",
    "compare --dataset power_law --nu 2 --kappa 1 --n 12 --zip --lr 1 0.5 --batch-size 2 3 --momentum 0 --n-steps 5",
    "plot landscape map.nc --out new.png",
    "plot spectrum spectrum.nc --out new.pdf",
    "export budget.nc --out new.csv --curves",
    "theory prove --method heavy-ball --json",
    "reproduce --figure list --json",
    "data list --json",
]
NUMBERS = """
nan inf -inf -0 0 -1 1 1e-320 1e-300 1e-17 0.9999999999999999 -0.9999999999999999 1.0000000000000002 2 0.1 1e3 1e15 1e18
9223372036854775807 9223372036854775808 1e19 1e100 1e160 1e200 1e308 -1e308 1e400
"""
SCHEDULES = """
power:start=1e308,exponent=-9 power:start=1e-320,exponent=1 steps:start=1,factor=nan,every=1 jacobi:a=1e308,b=1
steps:start=1,factor=1e308,every=1 warmup-cosine:peak=1,warmup=1e18,total=2 1/3 1:2:3 0:4:1e18 0:inf:3 1:0:2
0:1e-320:3 -1e308:1e308:3
"""
TEXTS = """
ν ٣ 0x10 1_0 1,2 True None 1/0 1/3 3/1 1/1e9 - -- -x %s {0} corner corner:theta=1e308,memory=1e308
corner:theta=1e-320,memory=2 am1:nu=1e308 am1:nu=1e-320 adam:beta1=1 adam:beta2=1,epsilon=0 ema:1 ema:nan ema:0
tail:start=1e18,every=1 tail:start=0,every=1e18 diagonal:tau=1e308 diagonal:tau=-1e308 network models models:
models:none os:getpid tcp://127.0.0.1:1 nonsense test_loss moments
"""
FILES = """
. .. a_folder missing/new.nc /dev/null /proc/self/mem ν.nc kernel.npz kernel.npy residual.npy result.nc map.nc budget.nc
spectrum.nc cells.csv models.py whole.nc.parts whole.nc half.nc notes.txt validated.json old.nc old.png new.png new.csv
a_folder/new.nc notes.txt/new.nc a_folder/new.png /proc/new.nc new new.PNG ./new.nc ./result.nc new.nc.parts kernel.png
new.parquet -.nc data
"""
UNSPEAKABLE = ("", " ", "a\nb.nc", "\udcff.nc", "a" * 5000, "b" * 300 + ".nc")
HOSTILE = [NUMBERS.split(), SCHEDULES.split(), [*TEXTS.split(), *UNSPEAKABLE], [*FILES.split(), *UNSPEAKABLE]]


def leaves() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command, by its words; what would go to the network is left out."""

    def walk(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[str, argparse.ArgumentParser]]:
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not below:
            yield " ".join(words), parser
        for action in below:
            for name, sub in action.choices.items():
                yield from walk(sub, (*words, name))

    return {words: parser for words, parser in walk(build_parser(), ()) if words != "data fetch"}


def value(rng: random.Random, command: str, action: argparse.Action) -> str:
    """A value that the option might well take."""
    known = BY_COMMAND.get((command, action.dest)) or SIZES.get(action.dest) or VALUES.get(action.dest)
    if known is None and action.choices is not None:
        known = [name for name in map(str, action.choices) if name not in ("cuda", "dask")]
    if action.type is float:
        known = [text for text in known or ["0.5", "1.5", "2"] if ":" not in text]
    return rng.choice(known or ["1", "2", "3"])


def given(rng: random.Random, command: str, action: argparse.Action) -> list[str]:
    """The words of an option with as many values as it takes."""
    name = [rng.choice(action.option_strings)] if action.option_strings else []
    if action.nargs == 0:
        return name
    counts = {"+": (1, 1, 2, 3), "*": (0, 1), "?": (0, 1)}.get(action.nargs, (1,))
    if command == "landscape" and action.dest in ("lr", "momentum"):  # ranges with values in common are refused
        counts = (1,)
    values = dict.fromkeys(value(rng, command, action) for _ in range(rng.choice(counts)))
    return [*name, *values]


def valid(rng: random.Random, parsers: dict[str, argparse.ArgumentParser]) -> tuple[str, list[list[str]]]:
    """A command and its options, each with its values; most such lines are accepted."""
    names = sorted(parsers)
    command = rng.choices(names, [len(parsers[name]._actions) for name in names])[0]
    actions = {action.dest: action for action in parsers[command]._actions}
    groups: list[list[str]] = []
    solved = "kernel" in actions  # the commands that take every kind of problem
    kind = rng.choice(SOLVED)
    if solved:
        if kind in ("power_law", "data", "model"):
            groups.append(["--dataset", "power_law" if kind == "power_law" else rng.choice(["digits", "mnist"])])
            if kind == "model":
                groups[-1][1] = "digits"
        for name in PROBLEMS[kind]:
            if name in actions and (name not in OPTIONAL or rng.random() < 0.2):
                groups.append(given(rng, command, actions[name]))
    for name, action in actions.items():
        if (solved and name in OWN) or name in ("help", "scheduler", "mirror", "model"):
            continue
        needed = not action.option_strings or action.required
        sized = name in SIZES and (command, name) != ("spectrum", "top") and name != "lanczos"
        if (
            needed
            or sized
            or (command, name) in BY_COMMAND
            or rng.random() < 0.12
            or (name == "json" and rng.random() < 0.3)
        ):
            groups.append(given(rng, command, action))
    groups = consistent(rng, command, actions, [group for group in groups if group])
    return command, sorted(groups, key=lambda group: group[0].startswith("-"))  # options with + would eat positionals


def consistent(
    rng: random.Random, command: str, actions: dict[str, argparse.Action], groups: list[list[str]]
) -> list[list[str]]:
    """The options without those that would be refused beside the others."""
    named = {group[0]: group for group in groups}
    for name, partner in NEEDS.items():
        if name in named and partner not in named:
            del named[name]
    if command in ONLY_CHECKED and "--verify" not in named:
        named.pop("--replicates", None)
    if command in TRAINING_ONLY:
        named.pop("--n-test", None)
    if "momentum" in actions and named.get("--method", [""])[-1] not in ("", "heavy-ball", "nesterov"):
        named["--momentum"] = ["--momentum", "0"]
    if command in ONLY_CHECKED and {"--verify", "--plot", "--jacobi"} & {*named} and "--batch-size" in named:
        named["--batch-size"] = named["--batch-size"][:2]
    if command == "budget" and "--plot" in named and "--regime" in named:
        named["--regime"] = named["--regime"][:2]
    if command == "budget":
        named["--batch-size"] = ["--batch-size", "1", rng.choice(["2", "5"])]
    if command in ("compare", "simulate") and "--lr" in named:
        named.pop("--torch-lr", None)
    if "--latex" in named:
        named.pop("--json", None)
    if "--markdown" in named:
        named.pop("--json", None)
    return list(named.values())


def hostile(rng: random.Random, action: argparse.Action | None) -> str:
    """A value that the option had better not take; mostly of its own kind."""
    numbers, schedules, texts, files = HOSTILE
    if action is None or rng.random() < 0.1:
        return rng.choice(rng.choice(HOSTILE))
    if action.type is not None:
        return rng.choice(schedules if "." in action.type.__qualname__ and rng.random() < 0.3 else numbers)
    return rng.choice(files if action.metavar in ("FILE", "DIR", "FOLDER") else texts)


def _weights(rng: random.Random, actions: dict[str, argparse.Action], groups: list[list[str]]) -> dict[str, int]:
    """How often to try the options that belong to the problem at hand: numbers most, choices least."""
    here = {group[0] for group in groups}
    return {
        name: 5 if action.type is not None else 2 if action.choices is None else 1
        for name, action in actions.items()
        if action.nargs != 0 and (name in here or action.dest not in OWN or rng.random() < 0.05)
    }


def mutated(
    rng: random.Random, parsers: dict[str, argparse.ArgumentParser], command: str, groups: list[list[str]]
) -> tuple[str, list[list[str]]]:
    """The same line with one to three things wrong, or merely odd."""
    actions = {name: action for action in parsers[command]._actions for name in action.option_strings}
    kinds = [*["value"] * 12, "text", "drop", "double", "swap", "foreign", "stray", "command", "join", "shuffle"]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.choice(kinds)
        at = rng.randrange(len(groups)) if groups else None
        with_value = [group for group in groups if len(group) > 1 or not group[0].startswith("-")]
        if kind == "value" and (weights := _weights(rng, actions, groups)):
            name = rng.choices([*weights], [*weights.values()])[0]
            group = next((group for group in groups if group[0] == name), None)
            if group is None or len(group) < 2:
                groups.append([name, hostile(rng, actions[name])])
            else:
                group[rng.randrange(1, len(group))] = hostile(rng, actions[name])
        elif kind == "text" and with_value:
            group = rng.choice(with_value)
            group[-1] = hostile(rng, None)
        elif kind == "drop" and at is not None and groups[at][0].lstrip("-").replace("-", "_") not in SIZES:
            del groups[at]
        elif kind == "double" and at is not None:
            groups.insert(rng.randrange(len(groups) + 1), list(groups[at]))
        elif kind == "swap" and len(with_value) > 1:
            first, second = rng.sample(with_value, 2)
            first[-1], second[-1] = second[-1], first[-1]
        elif kind == "foreign":
            other = rng.choice(sorted(parsers))
            options = [action for action in parsers[other]._actions if action.option_strings]
            groups.append(given(rng, other, rng.choice(options)))
        elif kind == "stray":
            groups.insert(rng.randrange(len(groups) + 1), [hostile(rng, None)])
        elif kind == "command":
            command = rng.choice([c for c in sorted(parsers) if c not in SLOW] + ["", "tell"])
            actions = {}
        elif kind == "join" and at is not None and len(groups[at]) == 2:
            groups[at] = ["=".join(groups[at])]
        elif kind == "shuffle":
            rng.shuffle(groups)
    return command, groups


def lines(seed: int, count: int) -> list[list[str]]:
    """`count` command lines; the k-th depends on the seed and k alone."""
    parsers = leaves()
    return [line(seed, number, parsers) for number in range(count)]


def line(seed: int, number: int, parsers: dict[str, argparse.ArgumentParser]) -> list[str]:
    """The words of one command line."""
    rng = random.Random(f"{seed} {number}")
    command, groups = split(rng.choice(GOOD), parsers) if rng.random() < 0.15 else valid(rng, parsers)
    if rng.random() < 0.45:
        command, groups = mutated(rng, parsers, command, groups)
    return [*command.split(), *(word for group in groups for word in group)]


def split(text: str, parsers: dict[str, argparse.ArgumentParser]) -> tuple[str, list[list[str]]]:
    """A command, and its words as a group for each option."""
    words = text.split()
    command = next(name for name in (" ".join(words[:2]), words[0]) if name in parsers)
    groups: list[list[str]] = []
    for word in words[len(command.split()) :]:
        if word.startswith("--") or not groups or not groups[-1][0].startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    return command, groups
