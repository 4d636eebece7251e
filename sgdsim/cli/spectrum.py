"""`sgdsim spectrum`: the eigenspectrum of a kernel, its error coefficients, and the power laws through them."""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sgdsim.cli.deliver import Delivery, lr_unit, wrote
from sgdsim.cli.outputs import is_table
from sgdsim.cli.problems import check_kernel, check_output, described
from sgdsim.common import files
from sgdsim.common.checks import InputError, integer
from sgdsim.common.text import estimate
from sgdsim.problem.spectrum import LISTED, Quality, Spectrum

if TYPE_CHECKING:
    from sgdsim.problem import NetworkProblem, Problem, QuadraticProblem
    from sgdsim.problem.lanczos import Operator

# A kernel matrix up to this size (bytes) is formed for --top; beyond, eigenpairs come from products alone.
_FORMED = 2_000_000_000


def spectrum(args: argparse.Namespace) -> int:
    from sgdsim.problem import fits

    check_output(args)
    _check(args)
    delivery = Delivery(args)
    problem = described(args)
    facts: dict[str, object] = {"problem": problem.description, "n": problem.n, **_contraction(problem, args)}
    quadratic = fit = None
    if args.top is not None:
        facts |= _top(cast("NetworkProblem", problem), args.top, args.analytic, args.seed)
    else:
        quadratic = _quadratic(problem, args)
        facts |= _whole(quadratic)
        if quadratic.multiplicity is None and quadratic.spectrum.n_modes >= fits.FEWEST_MODES:
            fit = fits.fit_power_law(quadratic)
    facts["fit"] = None if fit is None else fit.as_dict()
    if quadratic is not None:
        if args.density:
            facts["density"] = _density(quadratic)
        if args.out is not None:
            with delivery.writing("out"):
                _save(quadratic, args, problem.device)
    # The tail sums of c need all modes.
    delivery.draw(lambda plot: plot.spectrum(facts["eigenvalues"] if quadratic is None else quadratic, fit=fit))
    # kilobytes on Linux, bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    facts |= {"seconds": delivery.seconds, "peak_memory": peak, **delivery.files}
    return delivery.tell(facts, lambda: _text(facts))


def _save(quadratic: QuadraticProblem, args: argparse.Namespace, device: str) -> None:
    """All of the spectrum, or its eigenvalues and coefficients as a table."""
    if not is_table(args.out):
        from sgdsim.runs import results

        results.save_problem(quadratic, args.out, seed=args.seed, device=device)
        return
    columns = [quadratic.eigenvalues, quadratic.coefficients]
    names = ["eigenvalue", "coefficient"]
    if quadratic.multiplicity is not None:
        columns, names = [*columns, quadratic.multiplicity], [*names, "multiplicity"]
    with files.replacing(Path(args.out)) as temporary:
        rows = (",".join(map(repr, map(float, row))) for row in zip(*columns, strict=True))
        temporary.write_text("\n".join([",".join(names), *rows]) + "\n", encoding="utf-8")


def _check(args: argparse.Namespace) -> None:
    """InputError for options that do not go together."""
    if args.top is not None and (args.density or args.out is not None):
        raise InputError("--top: expected without --density and --out, which need the whole spectrum")
    if args.loss != "squared" and (args.top is not None or args.lanczos is not None):
        raise InputError(f"--loss: expected squared with --top and --lanczos, which form no kernel; got {args.loss}")
    if args.lanczos is not None and (args.top is not None or args.analytic):
        raise InputError("--lanczos: expected without --top and --analytic, got both")
    if args.analytic and args.width is not None:
        raise InputError("--width: expected without --analytic, which is the kernel of infinite width")


def _contraction(problem: Problem, args: argparse.Namespace) -> dict[str, object]:
    """How the tangent kernel is contracted, where one is; InputError for options that need a network."""
    from sgdsim.networks import ntk

    if not problem.has_network:
        if args.analytic or args.top is not None or args.lanczos is not None:
            raise InputError(
                "--analytic, --top, --lanczos: expected with a data set, got a problem that is a spectrum already"
            )
        return {}
    if args.analytic or args.lanczos is not None:
        return {}
    network = cast("NetworkProblem", problem)
    return {"contraction": ntk.contraction_plan(network.network, network.data.x)}


def _whole(quadratic: QuadraticProblem) -> dict[str, object]:
    """The facts of all modes."""
    c, scale, quality = quadratic.coefficients**2, quadratic.spectrum.scale, quadratic.spectrum.quality
    counts = quadratic.multiplicity
    return {
        "problem": quadratic.description,
        "residual": None if quality is None else quality.residual,
        "quality": None if quality is None else vars(quality),
        **({} if counts is None else {"multiplicity": counts.tolist()}),
        "lambda_max": scale,
        "torch_lr": quadratic.normaliser / scale,
        "eigenvalues": quadratic.eigenvalues.tolist(),
        "c": c.tolist(),
        "c_total": float(c.sum()),
    }


def _density(quadratic: QuadraticProblem) -> dict[str, object]:
    eigenvalues = quadratic.eigenvalues
    grid = np.geomspace(max(eigenvalues[eigenvalues > 0].min(), 1e-12), 1.0, 200)
    return {"eigenvalue": grid.tolist(), "per_decade": quadratic.spectrum.density().log_evaluate(grid).tolist()}


def _quadratic(problem: Problem, args: argparse.Namespace) -> QuadraticProblem:
    """The quadratic problem that the arguments ask for: of the network, infinitely wide, or by products alone."""
    if args.lanczos is None:
        check_kernel(problem)
    if not args.analytic and args.lanczos is None:
        return problem.quadratic
    problem = cast("NetworkProblem", problem)
    if args.analytic:
        return _analytic(problem)
    from sgdsim.networks import ntk
    from sgdsim.problem import QuadraticProblem

    operator = ntk.ntk_operator(problem.network, problem.data.x, device=problem.device)
    residual = problem.initial_outputs[0] - problem.data.y
    counts = {"n_lanczos": integer("--lanczos", args.lanczos, minimum=1), "seed": args.seed}
    return QuadraticProblem.from_operator(
        operator, residual, **counts, description={**problem.description, "kind": "matrix-free", **counts}
    )


def _analytic(problem: NetworkProblem) -> QuadraticProblem:
    """The linearised problem of the infinitely wide network: its outputs start at 0, so the residual is −y."""
    from sgdsim.networks import MLP, ntk
    from sgdsim.problem import QuadraticProblem

    network, data = problem.network, problem.data
    if not isinstance(network, MLP):
        raise InputError("--analytic: expected the built-in MLP, got --model")
    names = ("depth", "activation", "weight_std", "bias_std")
    options = {name: getattr(network, name) for name in names}
    title = f"{data.name}, N = {problem.n}, infinitely wide"
    description: dict[str, object] = {"kind": "analytic", "title": title, "network": options, "data": data.info}
    if problem.loss != "squared":
        return _analytic_model(problem, options, description | {"title": f"{title}, {problem.loss}"})
    test = {}
    if data.x_test is not None and data.y_test is not None:
        test = {"cross_kernel": ntk.analytic_ntk(data.x_test, data.x, **options), "test_residual": -data.y_test}
    return QuadraticProblem.from_kernel(
        ntk.analytic_ntk(data.x, **options),
        -data.y,
        description=description,
        **test,
    )


def _analytic_model(
    problem: NetworkProblem, options: dict[str, Any], description: dict[str, object]
) -> QuadraticProblem:
    """The same of cross-entropy: all classes are equally probable at the start."""
    from sgdsim.networks import ntk
    from sgdsim.problem import cross_entropy

    data, cross, test = problem.data, None, None
    if data.x_test is not None and data.y_test is not None:
        cross = ntk.analytic_ntk(data.x_test, data.x, **options)
        test = cross_entropy.Expansion(np.zeros_like(data.y_test), data.y_test)
    train = cross_entropy.Expansion(np.zeros_like(data.y), data.y)
    kernel = ntk.analytic_ntk(data.x, **options)
    return cross_entropy.quadratic(kernel, train, cross_kernel=cross, test=test, description=description)


def _top(problem: NetworkProblem, k: int, analytic: bool, seed: int) -> dict[str, object]:
    """The facts of the k largest modes, and ‖Θu − λu‖/λ_max of each."""
    k = integer("--top", k, minimum=1, maximum=problem.n if analytic else problem.n_modes)
    values, c, scale, residuals = (_top_analytic if analytic else _top_empirical)(problem, k, seed)
    start = 0.0 if analytic else problem.initial_outputs[0]
    return {
        "eigenpair_residuals": residuals,
        "residual": max(residuals),
        "lambda_max": scale,
        "torch_lr": problem.normaliser / scale,
        "eigenvalues": values.tolist(),
        "c": c.tolist(),
        "c_total": float(np.sum((start - problem.data.y) ** 2)),
    }


def _top_analytic(problem: NetworkProblem, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, float, list[float]]:
    """The k largest λ_k, their c_k, λ_max(Θ), and the residuals."""
    quadratic = _analytic(problem)
    spectrum = quadratic.spectrum
    quality = cast(Quality, spectrum.quality)  # of a kernel it is known
    return quadratic.eigenvalues[:k], quadratic.coefficients[:k] ** 2, spectrum.scale, [quality.residual] * k


def _top_empirical(problem: NetworkProblem, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, float, list[float]]:
    """The same of the network as it is, by Lanczos; of several outputs over all of them."""
    from sgdsim.networks import ntk
    from sgdsim.problem import lanczos, outputs

    network, x, device = problem.network, problem.data.x, problem.device
    kernel: Operator
    if 8 * problem.n_modes**2 > _FORMED:
        kernel = ntk.ntk_operator(network, x, device=device)
    else:
        kernel = ntk.empirical_ntk(network, x, output=problem.kernel_output, device=device)
        kernel = outputs.point_major(kernel) if kernel.ndim == 4 else kernel
    top = lanczos.top_eigenpairs(kernel, k, seed=seed)
    scale = float(top.eigenvalues[0])
    c = (top.eigenvectors.T @ (problem.initial_outputs[0] - problem.data.y).ravel()) ** 2
    return top.eigenvalues / scale, c, scale, (top.residuals / scale).tolist()


def _matrix_free(facts: dict[str, Any]) -> str:
    """What is exact and what is not in a spectrum of modes with a multiplicity."""
    if facts["problem"].get("kind") == "power_law":
        return "most λ_k are in bins, of which some points stand for all"
    quality = facts["quality"]  # not known of a spectrum from a file
    top = "" if quality is None else f" (largest residual {quality['residual']:.0e} of λ_max)"
    error = None if quality is None else quality["trace"]
    return f"matrix-free: the first λ_k one by one{top}, the others by stochastic Lanczos quadrature" + (
        "" if error is None else f"; standard error of Σ λ_k {100 * error:.2g}%"
    )


def _at_ranks(modes: Spectrum | None, values: np.ndarray, c: np.ndarray, total: float) -> list[str]:
    """Three lines: some ranks, the eigenvalues there and the tail sums of c."""
    if modes is not None and modes.n > LISTED:
        shown, some, sums = modes.at_ranks(c, 8)
        ranks = "  ".join(f"{k:9.3g}" for k in shown)
    else:
        values, c = (values, c) if modes is None else modes.by_rank(c)
        shown = np.unique(np.geomspace(1, values.size, 8).round().astype(int))
        # With --top the sum over all modes is that of the residual, not of the modes at hand.
        tails = total - np.concatenate([[0.0], np.cumsum(c)[:-1]])
        tails = tails if total > c.sum() * (1 + 1e-9) else np.cumsum(c[::-1])[::-1]
        some, sums, ranks = values[shown - 1], tails[shown - 1], "  ".join(f"{k:>9d}" for k in shown)
    lines = {"λ_k      ": some, "Σ_{l≥k} c": sums}
    return ["k        " + ranks, *(head + "  ".join(f"{value:9.3g}" for value in row) for head, row in lines.items())]


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['problem'].get('title', '')}: λ_max(Θ) = {facts['lambda_max']:.6g}"]
    lines.append(lr_unit(facts["torch_lr"]))
    values, c = np.array(facts["eigenvalues"]), np.array(facts["c"])
    modes = Spectrum(values, multiplicity=facts["multiplicity"]) if "multiplicity" in facts else None
    if modes is not None:
        lines.append(_matrix_free(facts))
    if "contraction" in facts:
        kinds = list(facts["contraction"].values())
        by_jacobian = kinds.count("jacobian")
        structured = len(kinds) - by_jacobian
        lines.append(f"tangent kernel: {structured} parameters by layer structure, {by_jacobian} by Jacobian")
    lines += _at_ranks(modes, values, c, facts["c_total"])
    if facts["residual"] is not None and "multiplicity" not in facts:
        lines.append(f"decomposition: largest residual {facts['residual']:.0e} of λ_max")
    if facts["fit"] is not None:
        lines += _fit_text(facts["fit"])
    lines.append(f"{facts['seconds']:.1f} s, peak memory {facts['peak_memory'] / 1e9:.2f} GB")
    return "\n".join([*lines, *wrote(facts)])


def _fit_text(fit: dict[str, Any]) -> list[str]:
    lines = []
    for name, label in (("nu", "ν"), ("kappa", "κ"), ("zeta", "ζ = κ/ν")):
        if fit[name] is not None:
            value, low, high = estimate(fit[name], ".3f", ".3g")
            lines.append(f"{label} = {value}  ({100 * fit['confidence']:.0f}% interval {low} … {high})")
    lines.append("fitted to λ_k for k = {} … {}".format(*fit["window"]))
    if fit["tail_window"]:
        lines[-1] += ", to c_k for k = {} … {}".format(*fit["tail_window"])
    return lines + [f"warning: {sentence}" for sentence in fit["warnings"]]
