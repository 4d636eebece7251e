"""The options of the commands of runs and files; the other commands' stand in their own modules."""

from __future__ import annotations

from sgdsim.cli import outputs
from sgdsim.cli.arguments import (
    DATASETS,
    add_device,
    add_execution,
    add_list,
    add_loss,
    add_problem,
    add_regimes,
    add_run,
    add_seed,
)
from sgdsim.cli.base import Commands, Parser
from sgdsim.cli.deliver import add_force, add_output
from sgdsim.cli.values import real, whole


def add_compare(commands: Commands) -> None:
    """The parser of `sgdsim compare`."""
    compare = commands.add_parser("compare", help="the regimes side by side, for every combination of values")
    add_problem(compare)
    add_run(compare, many=True)
    add_regimes(compare, "regimes", None, "of network, sampled, averaged, diagonal (default: all that can)")
    add_loss(compare)
    add_list(compare, "--tau", real, [1.0], "closures of the diagonal regime")
    compare.add_argument(
        "--cells",
        metavar="FILE",
        help="a table (.csv) with a line per cell and columns from lr, momentum, batch_size, sampling; an option "
        "gives one value for all cells where there is no such column",
    )
    add_execution(compare, always_resumes=False)
    compare.add_argument(
        "--zip", action="store_true", help="pair the lists (equal lengths, or 1) instead of combining them"
    )


def add_simulate(commands: Commands) -> None:
    """The parser of `sgdsim simulate`."""
    simulate = commands.add_parser("simulate", help="one regime, one set of values")
    add_problem(simulate)
    add_run(simulate, many=False)
    add_regimes(simulate, "regime", ["diagonal:tau=1"], "network, sampled, averaged or diagonal:tau=NUMBER")
    add_loss(simulate)
    simulate.add_argument(
        "--moments", action="store_true", help="also record the second moments c_k (N numbers per recorded step)"
    )


def add_spectrum(commands: Commands) -> None:
    """The parser of `sgdsim spectrum`."""
    spectrum = commands.add_parser("spectrum", help="eigenvalues, error coefficients and power laws of a kernel")
    add_problem(spectrum)
    how = spectrum.add_argument_group("spectrum")
    how.add_argument("--analytic", action="store_true", help="the kernel of the infinitely wide network")
    how.add_argument("--top", type=whole, metavar="K", help="only the K largest eigenpairs, with certified residuals")
    how.add_argument(
        "--lanczos",
        type=whole,
        metavar="M",
        help="never form the kernel: M Lanczos steps from the residual and from each of 10 probes; what --out writes "
        "is for the diagonal regime",
    )
    how.add_argument("--density", action="store_true", help="with --json: also the density of eigenvalues, smoothed")
    add_loss(how)
    add_seed(how, "decides data split, network and probes")
    add_device(how)
    words = "write the spectrum: all of it (.nc), for --spectrum, or eigenvalues and coefficients (.csv)"
    add_output(spectrum, words, "draw it (.png, .pdf or .svg)", outputs.SPECTRUM)


def add_plot(commands: Commands) -> None:
    """The parser of `sgdsim plot`."""
    plot = commands.add_parser("plot", help="draw a saved result")
    plot.add_argument("what", choices=["loss", "spectrum", "landscape"])
    plot.add_argument("file", metavar="FILE", help="a result written with --out")
    plot.add_argument("--out", metavar="FILE", required=True, help="picture to write (.png, .pdf or .svg)")
    add_force(plot)
    plot.add_argument("--observable", default="loss", help="loss, test_loss or another that the result holds")


def add_merge(commands: Commands) -> None:
    """The parser of `sgdsim merge`."""
    merge = commands.add_parser("merge", help="bring the shards of a sweep together")
    merge.add_argument("out", metavar="FILE", help="the result to write, as it was given to --out")
    merge.add_argument("parts", nargs="*", metavar="FOLDER", help="folders of parts (default: FILE.parts)")


def add_export(commands: Commands) -> None:
    """The parser of `sgdsim export`."""
    export = commands.add_parser("export", help="write a result as a table: .csv or .parquet")
    export.add_argument("file", metavar="FILE", help="a result written with --out")
    export.add_argument("--out", metavar="FILE", required=True, help="table to write (.csv or .parquet)")
    add_force(export)
    export.add_argument("--curves", action="store_true", help="a row for every recorded step, not the last alone")


def add_data(commands: Commands) -> None:
    """The parser of `sgdsim data`."""
    data = commands.add_parser("data", help="list, fetch or verify the data sets")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    for action, text in (
        ("list", "what there is, and what is here"),
        ("fetch", "download"),
        ("verify", "check sizes and hashes"),
    ):
        sub = actions.add_parser(action, help=text)
        sub.add_argument(
            "name",
            nargs="?" if action != "fetch" else None,
            choices=DATASETS[1:],
            metavar="NAME",
            help=", ".join(DATASETS[1:]),
        )
        sub.add_argument("--data-dir", metavar="DIR", help="folder (default: $SGDSIM_DATA, else data/)")
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        if action == "fetch":
            sub.add_argument("--mirror", metavar="URL", help="take the files from below this address instead")
