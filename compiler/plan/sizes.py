"""Sizes: small integer programs over named dimensions, evaluated by the runtime without sympy.

A size is kept in reverse Polish notation: integers push themselves, names push the value of that dimension, and the
operators `+ - * // % max min` take two values. A constant size is a program of one integer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Token = int | str

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "max": max,
    "min": min,
}


@dataclass(frozen=True, slots=True)
class Size:
    """An integer expression over named dimensions."""

    tokens: tuple[Token, ...]

    @staticmethod
    def of(value: int | str | Size) -> Size:
        """An integer constant or a named dimension as a size."""
        return value if isinstance(value, Size) else Size((value,))

    @property
    def constant(self) -> int | None:
        """The value if the size depends on no dimension, else None."""
        token = self.tokens[0]
        return token if len(self.tokens) == 1 and isinstance(token, int) else None

    def evaluate(self, dims: Mapping[str, int]) -> int:
        """The value at the given dimensions; KeyError names a missing one."""
        return evaluate(self.tokens, dims)

    def names(self) -> frozenset[str]:
        """The dimensions that the size depends on."""
        return frozenset(t for t in self.tokens if isinstance(t, str) and t not in _OPERATORS)

    def _binary(self, op: str, other: int | str | Size) -> Size:
        right = Size.of(other)
        if self.constant is not None and right.constant is not None:
            return Size((_OPERATORS[op](self.constant, right.constant),))
        if (op in ("+", "-") and right.constant == 0) or (op in ("*", "//") and right.constant == 1):
            return self
        if (op == "+" and self.constant == 0) or (op == "*" and self.constant == 1):
            return right
        return Size((*self.tokens, *right.tokens, op))

    def __add__(self, other: int | str | Size) -> Size:
        return self._binary("+", other)

    def __sub__(self, other: int | str | Size) -> Size:
        return self._binary("-", other)

    def __mul__(self, other: int | str | Size) -> Size:
        return self._binary("*", other)

    def __floordiv__(self, other: int | str | Size) -> Size:
        return self._binary("//", other)

    def __mod__(self, other: int | str | Size) -> Size:
        return self._binary("%", other)

    def maximum(self, other: int | str | Size) -> Size:
        """The larger of both."""
        return self._binary("max", other)

    def minimum(self, other: int | str | Size) -> Size:
        """The smaller of both."""
        return self._binary("min", other)

    def ceil_div(self, other: int) -> Size:
        """The quotient rounded up."""
        return (self + (other - 1)) // other

    def align(self, alignment: int) -> Size:
        """The size rounded up to a multiple of `alignment`."""
        return self.ceil_div(alignment) * alignment

    def __str__(self) -> str:
        stack: list[str] = []
        for token in self.tokens:
            if isinstance(token, str) and token in _OPERATORS:
                right, left = stack.pop(), stack.pop()
                stack.append(f"{token}({left}, {right})" if token in ("max", "min") else f"({left}{token}{right})")
            else:
                stack.append(str(token))
        return stack[0]


ZERO_SIZE = Size((0,))
"""Nothing: no bytes, no offset."""


def evaluate(tokens: tuple[Token, ...], dims: Mapping[str, int]) -> int:
    """Run a size program; raises KeyError for an unknown dimension and IndexError for a malformed program."""
    stack: list[int] = []
    for token in tokens:
        if isinstance(token, int):
            stack.append(token)
        elif token in _OPERATORS:
            right, left = stack.pop(), stack.pop()
            stack.append(_OPERATORS[token](left, right))
        else:
            stack.append(dims[token])
    (value,) = stack
    return value
