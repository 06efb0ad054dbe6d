"""Conditions on the columns of a particle file, such as ``rlnClassNumber in (1, 3) and rlnDefocusU < 2e4``.

A condition is read by Python's parser, and of what that understands only what is named here has a meaning:
nothing is ever executed. A name is a column. Comparisons with a text in quotation marks are those of the
text in the file, all others of numbers.
"""

import ast
import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryograd.errors import CryogradError
from cryograd.rotations import FloatArray
from cryograd.selection.columns import Columns

BoolArray = NDArray[np.bool_]

_ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_HELP = 'write one such as "rlnClassNumber in (1, 3) and not rlnDefocusU > 2e4"'
# Characters of a condition that an error repeats.
_SHOWN = 60


def holds(condition: str, columns: Columns) -> BoolArray:
    """For which particles a condition holds, shape (n,).

    Parameters
    ----------
    condition
        Columns and numbers with ``and``, ``or``, ``not``, ``< <= > >= == !=``, ``in (...)``, ``+ - * /`` and
        parentheses.
    columns
        What the names in it stand for.

    Raises
    ------
    CryogradError
        It cannot be read, or says something else than this; it names a column that is not there; or a value
        is no number where one is needed.
    """
    try:
        # Of a backslash in a text Python would warn as if it were a program's.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(condition.strip(), mode="eval")
        with np.errstate(all="ignore"):
            return _truth(tree.body, columns)
    except SyntaxError as error:
        raise _refused(f"the condition cannot be read ({error.msg})", condition) from None
    # Too deep or too long for Python, a number with too many digits, or a NUL character.
    except (RecursionError, MemoryError, ValueError, OverflowError):
        raise _refused("the condition cannot be read", condition) from None


def _truth(node: ast.expr, columns: Columns) -> BoolArray:
    """For which particles a part of a condition that can be true or not is true."""
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return np.logical_and.reduce([_truth(part, columns) for part in parts])
        case ast.BoolOp(op=ast.Or(), values=parts):
            return np.logical_or.reduce([_truth(part, columns) for part in parts])
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return ~_truth(part, columns)
        case ast.Compare(left=left, ops=orders, comparators=others):
            # As in Python, a < b < c is a < b and b < c.
            pairs = zip([left, *others[:-1]], orders, others, strict=True)
            return np.logical_and.reduce([_compared(*pair, columns) for pair in pairs])
        case _:
            raise _refused("a part of the condition is not true or false", ast.unparse(node))


def _compared(left: ast.expr, order: ast.cmpop, right: ast.expr, columns: Columns) -> BoolArray:
    """A single comparison of each particle."""
    if isinstance(order, ast.In | ast.NotIn):
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            raise _refused("what follows after in is no list in parentheses", ast.unparse(right))
        none = np.zeros(len(columns), dtype=bool)
        found = np.logical_or.reduce([none, *(_compared(left, ast.Eq(), one, columns) for one in right.elts)])
        return ~found if isinstance(order, ast.NotIn) else found
    if type(order) not in _ORDERS:
        raise _refused(
            "is compares nothing here, as == does", ast.unparse(ast.Compare(left, [order], [right]))
        )
    sides = (left, right)
    of_text = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides)
    if of_text and not isinstance(order, ast.Eq | ast.NotEq):
        raise _refused("texts are equal or not, and have no order", ast.unparse(ast.Tuple(list(sides))))
    value = _text if of_text else _number
    result = _ORDERS[type(order)](*(value(side, columns) for side in sides))
    # Where no column is in it, it is the same for all.
    return np.broadcast_to(np.asarray(result, dtype=bool), len(columns))


def _text(node: ast.expr, columns: Columns) -> NDArray[np.object_]:
    """A side of a comparison of texts."""
    match node:
        case ast.Name(id=name):
            return columns.texts(name)
        case ast.Constant(value=str(text)):
            return np.array([text], dtype=object)
        case _:
            raise _refused("a text is compared with what is neither column nor text", ast.unparse(node))


def _number(node: ast.expr, columns: Columns) -> FloatArray:
    """A side of a comparison of numbers."""
    match node:
        case ast.Name(id=name):
            return columns.numbers(name)
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return np.array([float(number)])
        case ast.UnaryOp(op=ast.USub(), operand=part):
            return -_number(part, columns)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _ARITHMETIC:
            return _ARITHMETIC[type(operation)](_number(left, columns), _number(right, columns))
        case _:
            raise _refused("a part of the condition is neither a column nor a number", ast.unparse(node))


def _refused(what: str, part: str) -> CryogradError:
    """The error of a condition, or of a part of it."""
    short = part if len(part) <= _SHOWN else part[:_SHOWN] + "…"
    return CryogradError(what, f"--where {short}", _HELP)
