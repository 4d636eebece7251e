"""numba where it is installed; where it is not, modules with compiled loops import, and the loops say what is missing.

Derivations and closed forms need none of them: they run where only NumPy, SciPy and sympy are, in Colab or a browser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from sgdsim.common.checks import InputError


class _Missing:
    """What stands for numba: its decorators give functions that refuse to run."""

    prange = range

    @staticmethod
    def njit(function: Callable | None = None, **options: object) -> Callable:
        """As numba's, with or without options."""

        def refusing(of: Callable) -> Callable[..., NoReturn]:
            def refuse(*arguments: object, **given: object) -> NoReturn:
                raise InputError(
                    f"numba: expected it for the compiled loops ({of.__name__}), got none; pip install numba"
                )

            return refuse

        return refusing if function is None else refusing(function)

    @staticmethod
    def get_num_threads() -> int:
        """One thread, of Python's."""
        return 1


if TYPE_CHECKING:
    import numba as numba
else:
    try:
        import numba as numba
    except ImportError:
        numba = _Missing()
