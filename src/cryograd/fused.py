"""Multiplication and addition with one rounding, for compiled kernels whose bytes must not change.

Numba keeps the machine code of a kernel in its cache, with copies of the kernels that it calls. Each copy is
optimised once more, and which one a process runs depends on what it compiled or loaded first. So kernels are
compiled without ``fastmath``: it lets the optimiser reorder sums and choose which products to fuse, in each
copy differently. Where fused operations make a kernel faster it asks for them with `fma`, and where a sum is
to be vectorised it keeps partial sums.
"""

from collections.abc import Callable
from typing import Any, cast

from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic


@intrinsic
def _fma(_typing: Any, a: types.Float, b: types.Float, c: types.Float) -> tuple[Any, Any]:
    """``a · b + c`` of three numbers of one type, rounded once where the processor can, else twice."""
    if not (isinstance(a, types.Float) and a == b == c):
        raise TypingError(f"fma needs three numbers of one type, not {a}, {b} and {c}")

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        triple, _, features = context.codegen().magic_tuple()
        if triple.startswith(("x86_64", "i686")) and "+fma" not in features.split(","):
            # Emulated, one rounding would be a call of a slow function.
            return builder.fadd(builder.fmul(arguments[0], arguments[1]), arguments[2])
        return builder.fma(*arguments)

    return a(a, b, c), generate


# Numba passes the typing context itself, which a type checker cannot know.
fma = cast("Callable[[Any, Any, Any], Any]", _fma)
