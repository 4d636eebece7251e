"""numba where it is installed; where it is not, modules with compiled loops import, and the loops say what is missing.

Derivations and closed forms need none of them: they run where only NumPy, SciPy and sympy are, in Colab or a browser.
"""

from __future__ import annotations

import contextlib
import functools
import os
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


@functools.cache
def launch() -> None:
    """Start the threads of parallel loops, once in a process. numba's OpenMP layer then sets the number of threads of
    all that uses OpenMP here, torch too; what they had, or `OMP_NUM_THREADS` says, is put back."""
    if isinstance(numba, _Missing):
        return
    import threadpoolctl

    before = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    _first_loop()
    for library in threadpoolctl.ThreadpoolController().select(user_api="openmp").lib_controllers:
        count = before.get(library.filepath, _asked())
        if count and count != library.num_threads:
            library.set_num_threads(count)


def threads() -> int:
    """How many a parallel loop of this thread has; asking numba alone would start them."""
    launch()
    return numba.get_num_threads()


def _asked() -> int | None:
    """What `OMP_NUM_THREADS` says, its first number where it lists several."""
    with contextlib.suppress(ValueError):
        return int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])
    return None


@numba.njit(cache=True, parallel=True)
def _first_loop() -> int:
    total = 0
    for i in numba.prange(2):
        total += i
    return total
