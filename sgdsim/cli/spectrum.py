"""`sgdsim spectrum`: the eigenspectrum of a kernel, its error coefficients, and the power laws through them."""

from __future__ import annotations

import argparse
import resource
import sys
from typing import Any

import numpy as np

from sgdsim.cli.deliver import Delivery, lr_unit, wrote
from sgdsim.cli.problems import _check_distinct, _problem
from sgdsim.common import files
from sgdsim.common.checks import InputError, integer
from sgdsim.problem.spectrum import LISTED, Spectrum

# A kernel matrix up to this size (bytes) is formed for --top; beyond, eigenpairs come from products alone.
_FORMED = 2_000_000_000


def spectrum(args: argparse.Namespace) -> int:
    from sgdsim.networks import ntk
    from sgdsim.problem import fits
    from sgdsim.runs import results

    if args.plot is not None:
        from sgdsim import plot

        plot.check_path(args.plot)
        files.check_writable(args.plot)
    if args.out is not None:
        files.check_writable(args.out)
    _check_distinct(args)
    if args.top is not None and (args.density or args.out is not None):
        raise InputError("--top: expected without --density and --out, which need the whole spectrum")
    if args.lanczos is not None and (args.top is not None or args.analytic):
        raise InputError("--lanczos: expected without --top and --analytic, got both")
    if args.analytic and args.width is not None:
        raise InputError("--width: expected without --analytic, which is the kernel of infinite width")
    delivery = Delivery(args)
    problem = _problem(args)
    facts: dict[str, Any] = {"problem": problem.description, "n": problem.n}
    if problem.has_network:
        if not args.analytic and args.lanczos is None:
            facts["contraction"] = ntk.contraction_plan(problem.network, problem.data.x[:1])
    elif args.analytic or args.top is not None or args.lanczos is not None:
        raise InputError(
            "--analytic, --top, --lanczos: expected with a data set, got a problem that is a spectrum already"
        )
    if args.top is not None:
        eigenvalues, c, scale, facts["eigenpair_residuals"] = _top(problem, args.top, args.analytic, args.seed)
        start = 0.0 if args.analytic else problem.initial_outputs[0]
        total = float(np.sum((start - problem.data.y) ** 2))
        facts["residual"] = max(facts["eigenpair_residuals"])
    else:
        quadratic = _quadratic(problem, args)
        eigenvalues, c, scale = quadratic.eigenvalues, quadratic.coefficients**2, quadratic.spectrum.scale
        total = float(c.sum())
        facts["problem"] = quadratic.description
        quality = quadratic.spectrum.quality
        facts["residual"] = None if quality is None else quality.residual
        facts["quality"] = None if quality is None else vars(quality)
        if quadratic.multiplicity is not None:
            facts["multiplicity"] = quadratic.multiplicity.tolist()
    whole = args.top is None and quadratic.multiplicity is None
    fit = fits.fit_power_law(quadratic) if whole and problem.n >= fits.FEWEST_MODES else None
    facts |= {
        "lambda_max": scale,
        "torch_lr": problem.normaliser / scale,
        "eigenvalues": eigenvalues.tolist(),
        "c": c.tolist(),
        "c_total": total,
        "fit": None if fit is None else fit.as_dict(),
    }
    if args.density:
        grid = np.geomspace(max(eigenvalues[eigenvalues > 0].min(), 1e-12), 1.0, 200)
        per_decade = quadratic.spectrum.density().log_evaluate(grid)
        facts["density"] = {"eigenvalue": grid.tolist(), "per_decade": per_decade.tolist()}
    if args.out is not None:
        with delivery.writing("out"):
            results.save_problem(quadratic, args.out, seed=args.seed, device=problem.device)
    if args.plot is not None:
        # The tail sums of c need all modes.
        with delivery.writing("plot"):
            plot.save(plot.spectrum(eigenvalues if args.top is not None else quadratic, fit=fit), args.plot)
    # kilobytes on Linux, bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    facts |= {"seconds": delivery.seconds, "peak_memory": peak, "out": args.out, "plot": args.plot}
    return delivery.tell(facts, lambda: _text(facts))


def _quadratic(problem: Any, args: argparse.Namespace) -> Any:
    """The quadratic problem that the arguments ask for: of the network, infinitely wide, or by products alone."""
    if args.analytic:
        return _analytic(problem)
    if args.lanczos is None:
        return problem.quadratic
    from sgdsim.networks import ntk
    from sgdsim.problem import QuadraticProblem

    operator = ntk.ntk_operator(problem.network, problem.data.x, device=problem.device)
    residual = problem.initial_outputs[0] - problem.data.y
    counts = {"n_lanczos": integer("--lanczos", args.lanczos, minimum=1), "seed": args.seed}
    return QuadraticProblem.from_operator(
        operator, residual, **counts, description={**problem.description, "kind": "matrix-free", **counts}
    )


def _analytic(problem: Any) -> Any:
    """The linearised problem of the infinitely wide network: its outputs start at 0, so the residual is −y."""
    from sgdsim.networks import MLP, ntk
    from sgdsim.problem import QuadraticProblem

    network, data = problem.network, problem.data
    if not isinstance(network, MLP):
        raise InputError("--analytic: expected the built-in MLP, got --model")
    names = ("depth", "activation", "weight_std", "bias_std")
    options = {name: getattr(network, name) for name in names}
    title = f"{data.name}, N = {problem.n}, infinitely wide"
    test = {}
    if data.x_test is not None:
        test = {"cross_kernel": ntk.analytic_ntk(data.x_test, data.x, **options), "test_residual": -data.y_test}
    return QuadraticProblem.from_kernel(
        ntk.analytic_ntk(data.x, **options),
        -data.y,
        description={"kind": "analytic", "title": title, "network": options, "data": data.info},
        **test,
    )


def _top(problem: Any, k: int, analytic: bool, seed: int) -> tuple[np.ndarray, np.ndarray, float, list[float]]:
    """The k largest λ_k, their c_k, λ_max(Θ), and ‖Θu − λu‖/λ_max of each."""
    from sgdsim.networks import ntk
    from sgdsim.problem import lanczos

    k = integer("--top", k, minimum=1, maximum=problem.n)
    if analytic:
        quadratic = _analytic(problem)
        residual = [quadratic.spectrum.quality.residual] * k
        return quadratic.eigenvalues[:k], quadratic.coefficients[:k] ** 2, quadratic.spectrum.scale, residual
    network, x = problem.network, problem.data.x
    if 8 * problem.n**2 <= _FORMED:
        operator = ntk.empirical_ntk(network, x, device=problem.device)
    else:
        operator = ntk.ntk_operator(network, x, device=problem.device)
    top = lanczos.top_eigenpairs(operator, k, seed=seed)
    scale = float(top.eigenvalues[0])
    c = (top.eigenvectors.T @ (problem.initial_outputs[0] - problem.data.y)) ** 2
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
    fit = facts["fit"]
    if fit is not None:
        for name, label in (("nu", "ν"), ("kappa", "κ"), ("zeta", "ζ = κ/ν")):
            if fit[name] is not None:
                low, high = (fit[name][end] for end in ("low", "high"))
                interval = (
                    f"{100 * fit['confidence']:.0f}% interval {low:.3g} … {high:.3g}" if None not in (low, high) else ""
                )
                lines.append(f"{label} = {fit[name]['value']:.3f}  ({interval})")
        lines.append(
            f"fitted to λ_k for k = {fit['window'][0]} … {fit['window'][1]}"
            + (f", to c_k for k = {fit['tail_window'][0]} … {fit['tail_window'][1]}" if fit["tail_window"] else "")
        )
        lines += [f"warning: {sentence}" for sentence in fit["warnings"]]
    lines.append(f"{facts['seconds']:.1f} s, peak memory {facts['peak_memory'] / 1e9:.2f} GB")
    return "\n".join([*lines, *wrote(facts)])
