"""Formulas as text: for reading, for LaTeX, and for a computer algebra system to read back."""

from __future__ import annotations

import re

import sympy as sp

_GREEK = {
    "alpha_eff": "α_eff", "beta": "β", "gamma": "γ", "delta": "δ", "kappa": "κ", "lamda": "λ", "Lambda": "Λ", "nu": "ν",
    "sigma": "σ", "tau": "τ", "U_1": "Ũ(1)", "V_1": "Ṽ(1)",
}  # fmt: skip
_POWERS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LATEX = {sp.Symbol(name, positive=True): rf"\tilde {name[0]}(1)" for name in ("U_1", "V_1")}


def plain(expression: sp.Basic | sp.MatrixBase) -> str:
    """One line in Greek letters and superscripts; also for inequalities and matrices."""
    if isinstance(expression, sp.core.relational.Relational):
        sign = {">=": "≥", "<=": "≤"}.get(expression.rel_op, expression.rel_op)
        return f"{plain(expression.lhs)} {sign} {plain(expression.rhs)}"
    if isinstance(expression, sp.MatrixBase):
        rows = (", ".join(plain(entry) for entry in row) for row in expression.tolist())
        return "[" + ", ".join(f"[{row}]" for row in rows) + "]"
    text = re.sub(r"\bgamma\(", "Γ(", sp.sstr(expression, order="rev-lex"))
    text = re.sub(r"\b(" + "|".join(_GREEK) + r")\b", lambda m: _GREEK[m.group()], text)
    text = re.sub(r"\*\*(\d+)", lambda m: m.group(1).translate(_POWERS), text)
    return text.replace("**", "^").replace("*", "·")


def latex(expression: sp.Basic | sp.MatrixBase) -> str:
    """LaTeX, with the terms in the order of `plain`."""
    return sp.latex(expression, order="rev-lex", symbol_names=_LATEX)


def parsable(expression: sp.Basic | sp.MatrixBase) -> str:
    """Text for sympy: the gamma function is called Gamma here, because gamma is the noise factor γ.

    `sympy.sympify(text, locals={**{name: Symbol(name) for name in names}, "Gamma": sympy.gamma})` reads it.
    """
    if isinstance(expression, sp.MatrixBase):
        expression = expression.tolist()
    return re.sub(r"\bgamma\(", "Gamma(", sp.sstr(expression))
