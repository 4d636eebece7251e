"""`sgdsim theory derive` and `sgdsim theory prove`: where the formulas come from, and what is proved about them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery

if TYPE_CHECKING:
    import sympy as sp

    from sgdsim.symbolic.prove import Answer, Result

METHODS = ("heavy-ball", "nesterov")


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim theory` to the command line's subparsers."""
    parser = commands.add_parser("theory", help="the formulas, derived by computer algebra; facts, proved by a solver")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    derive = actions.add_parser(
        "derive", help="from the update rule to generating functions, stability and late-time laws"
    )
    derive.add_argument("--method", default=METHODS[0], choices=METHODS, help="kind of momentum")
    derive.add_argument("--tau", metavar="NUMBER", help="closure parameter, for g = gamma*tau; such as 1, -1 or 1/2")
    form = derive.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="LaTeX, one formula a line")
    form.add_argument("--json", action="store_true", help="print one JSON document")
    prove = actions.add_parser("prove", help="positivity and monotonicity, as queries over the reals (needs z3-solver)")
    prove.add_argument("--method", choices=METHODS, help="only this kind of momentum")
    prove.add_argument(
        "--effort",
        type=float,
        metavar="UNITS",
        help="most that the solver may spend on a query, in its own units, so that verdicts do not depend on the "
        "machine or its load (default: 1e7; the hardest query takes 5 percent of it)",
    )
    prove.add_argument("--timeout", type=float, metavar="SECONDS", help="give up a query after this time, too")
    prove.add_argument("--json", action="store_true", help="print one JSON document")


def theory(args: argparse.Namespace) -> int:
    return _derive(args) if args.action == "derive" else _prove(args)


def _derive(args: argparse.Namespace) -> int:
    from sgdsim.symbolic.derive import derive
    from sgdsim.symbolic.printing import latex, parsable, plain

    delivery = Delivery(args)
    derivation = derive(args.method)
    if args.tau is not None:
        derivation = derivation.at_tau(args.tau)
    formulas = derivation.formulas()
    if args.latex:
        lines = [f"% {f.meaning}\n{f.latex} {f.relation} {latex(f.right)}" for f in formulas]
    else:
        lines = [f"{f.meaning}\n    {f.left} {f.relation} {plain(f.right)}" for f in formulas]
    facts = {
        "method": args.method,
        "tau": args.tau,
        "symbols": sorted({symbol.name for f in formulas for symbol in f.right.free_symbols}),
        "functions": {"Gamma": "the gamma function"},
        "formulas": [
            {
                "key": f.key,
                "meaning": f.meaning,
                "left": f.left,
                "relation": f.relation,
                "right": parsable(f.right),
                "latex": f"{f.latex} {f.relation} {latex(f.right)}",
            }
            for f in formulas
        ],
        "seconds": delivery.seconds,
    }
    return delivery.tell(facts, lambda: "\n".join(lines))


def _prove(args: argparse.Namespace) -> int:
    from sgdsim.symbolic import prove

    delivery = Delivery(args)
    methods = METHODS if args.method is None else (args.method,)
    effort = prove.EFFORT if args.effort is None else args.effort
    results = prove.prove([claim for method in methods for claim in prove.claims(method)], effort, args.timeout)
    passed, seconds = sum(result.ok for result in results), delivery.seconds
    last = f"{passed} of {len(results)} proved, {seconds:.1f} s"
    facts = {"rows": [_row(result) for result in results], "ok": passed == len(results), "seconds": seconds}
    code = delivery.tell(facts, lambda: "\n".join([*map(_text, results), last]))
    return code or int(passed < len(results))


def _row(result: Result) -> dict[str, object]:
    def outcome(domain: tuple[sp.Basic, ...], answer: Answer) -> dict[str, object]:
        return {
            "verdict": answer.verdict,
            "seconds": round(answer.seconds, 3),
            "effort": answer.effort,
            "values": None if answer.values is None else {s.name: str(value) for s, value in answer.values.items()},
            "domain": [str(relation) for relation in domain],
        }

    claim = result.claim
    head = {"method": claim.method, "claim": claim.name, "statement": str(claim.statement), "ok": result.ok}
    if claim.lemmas:
        head["follows_from"] = [lemma.name for lemma in claim.lemmas]
    return {**head, **outcome(claim.domain, result.answer), "control": outcome(claim.control, result.control)}


def _text(result: Result) -> str:
    from sgdsim.symbolic.printing import plain

    def outcome(answer: Answer) -> str:
        values = ", ".join(f"{plain(symbol)} = {value}" for symbol, value in (answer.values or {}).items())
        return f"{answer.verdict}{' at ' if values else ''}{values} ({answer.seconds:.2f} s)"

    claim = result.claim
    because = f" by {' and '.join(lemma.name for lemma in claim.lemmas)}" if claim.lemmas else ""
    dropped = ", ".join(plain(relation) for relation in claim.domain if relation not in claim.control)
    added = ", ".join(plain(relation) for relation in claim.control if relation not in claim.domain)
    control = f"with {added} instead of {dropped}" if added else f"without {dropped}"
    return "\n".join(
        (
            f"{'ok  ' if result.ok else 'FAIL'} {claim.method}: {claim.name}",
            f"     on {', '.join(plain(relation) for relation in claim.domain)}{because}: {outcome(result.answer)}",
            f"     {control}: {outcome(result.control)}",
        )
    )
