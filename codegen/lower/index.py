"""Index arithmetic in canonical form: sums of products, with quotients and remainders recombined where they can be.

An index is brought to a polynomial over atoms (loop variables, dimensions, and quotients or remainders that do not
simplify), so that equal indices are equal expressions and contiguous accesses are seen as such. The rules
`q·c + r → x` for q = x // c, r = x % c, and `(c·a + b) // c → a` for 0 ≤ b < c, are those of Halide's and TVM's
simplifiers for split and fused loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from ullage.codegen.loops.ir import Apply, Const, Dim, Expr, Var

Monomial = tuple[Expr, ...]
Poly = dict[Monomial, int]

ZERO = Const(0)
ONE = Const(1)


@lru_cache(maxsize=1 << 16)
def _key(atom: Expr) -> str:
    return repr(atom)


def _product(left: Monomial, right: Monomial) -> Monomial:
    return tuple(sorted((*left, *right), key=_key))


def _accumulate(into: Poly, poly: Poly, factor: int = 1) -> Poly:
    for monomial, coefficient in poly.items():
        total = into.get(monomial, 0) + factor * coefficient
        if total:
            into[monomial] = total
        else:
            into.pop(monomial, None)
    return into


def _multiply(left: Poly, right: Poly) -> Poly:
    out: Poly = {}
    for a, x in left.items():
        for b, y in right.items():
            _accumulate(out, {_product(a, b): x * y})
    return out


def to_poly(expr: Expr) -> Poly:
    """The polynomial of an int64 expression; anything but sums and products is an atom."""
    return dict(_poly_items(expr))


@lru_cache(maxsize=1 << 16)
def _poly_items(expr: Expr) -> tuple[tuple[Monomial, int], ...]:
    match expr:
        case Const(value, _):
            return (((), int(value)),) if value else ()
        case Apply("add", (left, right), _):
            return tuple(_accumulate(to_poly(left), to_poly(right)).items())
        case Apply("sub", (left, right), _):
            return tuple(_accumulate(to_poly(left), to_poly(right), -1).items())
        case Apply("mul", (left, right), _):
            return tuple(_multiply(to_poly(left), to_poly(right)).items())
        case Apply("neg", (arg,), _):
            return tuple(_accumulate({}, to_poly(arg), -1).items())
        case _:
            return (((expr,), 1),)


def from_poly(poly: Poly) -> Expr:
    """The canonical expression of a polynomial: terms in a fixed order, the constant last."""
    terms = sorted(poly.items(), key=lambda item: (not item[0], [_key(atom) for atom in item[0]]))
    total: Expr | None = None
    for monomial, coefficient in terms:
        term = _term(monomial, coefficient)
        total = term if total is None else Apply("add", (total, term), "int64")
    return total if total is not None else ZERO


def _term(monomial: Monomial, coefficient: int) -> Expr:
    if not monomial:
        return Const(coefficient)
    term: Expr = monomial[0]
    for atom in monomial[1:]:
        term = Apply("mul", (term, atom), "int64")
    return term if coefficient == 1 else Apply("mul", (term, Const(coefficient)), "int64")


def constant(expr: Expr) -> int | None:
    """The value of a constant index, else None."""
    return int(expr.value) if isinstance(expr, Const) else None


class IndexMath:
    """Index arithmetic that knows the extents of loop variables and the bounds of dimensions.

    `extents[v]` is the number of values of variable v (from 0); `dim_max[d]` the upper bound of a dimension.
    """

    def __init__(self, extents: Mapping[str, Expr], dim_max: Mapping[str, int]) -> None:
        self.extents = dict(extents)
        self.dim_max = dict(dim_max)

    def declare(self, name: str, extent: Expr) -> Var:
        """A new loop variable running from 0 to `extent`, exclusive."""
        self.extents[name] = extent
        return Var(name)

    def add(self, *terms: Expr) -> Expr:
        """The sum in canonical form."""
        total: Poly = {}
        for term in terms:
            _accumulate(total, to_poly(term))
        return from_poly(self._recombine(total))

    def sub(self, left: Expr, right: Expr) -> Expr:
        """The difference in canonical form."""
        return from_poly(self._recombine(_accumulate(to_poly(left), to_poly(right), -1)))

    def mul(self, *factors: Expr) -> Expr:
        """The product in canonical form."""
        total: Poly = {(): 1}
        for factor in factors:
            total = _multiply(total, to_poly(factor))
        return from_poly(self._recombine(total))

    def dot(self, index: Sequence[Expr], strides: Sequence[Expr], offset: Expr = ZERO) -> Expr:
        """`offset + Σ index·stride`."""
        return self.add(offset, *(self.mul(i, s) for i, s in zip(index, strides, strict=True)))

    def floordiv(self, value: Expr, divisor: Expr) -> Expr:
        """`value // divisor` for a positive divisor."""
        quotient, rest = self._divide(value, divisor)
        return quotient if rest is None else self.add(quotient, self._floordiv_atom(rest, divisor))

    def mod(self, value: Expr, divisor: Expr) -> Expr:
        """`value % divisor` for a positive divisor."""
        _, rest = self._divide(value, divisor)
        if rest is not None:
            return Apply("mod", (rest, divisor), "int64")
        quotient, _ = self._divide(value, divisor)
        return self.sub(value, self.mul(quotient, divisor))

    def _floordiv_atom(self, value: Expr, divisor: Expr) -> Expr:
        if isinstance(value, Apply) and value.op == "floordiv":
            return self.floordiv(value.args[0], self.mul(value.args[1], divisor))
        return Apply("floordiv", (value, divisor), "int64")

    def _divide(self, value: Expr, divisor: Expr) -> tuple[Expr, Expr | None]:
        """Quotient of the part that divides evenly, and the rest (None if it is provably in 0..divisor)."""
        if divisor == ONE:
            return value, None
        whole: Poly = {}
        rest: Poly = {}
        for monomial, coefficient in to_poly(value).items():
            reduced = _exact_quotient(monomial, coefficient, divisor)
            if reduced is None:
                rest[monomial] = coefficient
            else:
                _accumulate(whole, {reduced[0]: reduced[1]})
        remainder = from_poly(rest)
        if self._below(remainder, divisor):
            return from_poly(whole), None
        return from_poly(whole), remainder

    def _below(self, value: Expr, limit: Expr) -> bool:
        """Whether 0 ≤ value < limit is certain."""
        low, high = self.bounds(value)
        number = constant(limit)
        if low is None or low < 0:
            return False
        if number is not None:
            return high is not None and high < number
        return (isinstance(value, Var) and self.extents.get(value.name) == limit) or value == ZERO

    def bounds(self, expr: Expr) -> tuple[int | None, int | None]:
        """Certain inclusive bounds of an index (None where unknown)."""
        low: int | None = 0
        high: int | None = 0
        for monomial, coefficient in to_poly(expr).items():
            small, large = self._monomial_bounds(monomial)
            if coefficient < 0:
                small, large = large, small
            low = None if low is None or small is None else low + coefficient * small
            high = None if high is None or large is None else high + coefficient * large
        return low, high

    def _monomial_bounds(self, monomial: Monomial) -> tuple[int | None, int | None]:
        low: int | None = 1
        high: int | None = 1
        for atom in monomial:
            small, large = self._atom_bounds(atom)
            if small is None or small < 0:
                return None, None
            low = None if low is None else low * small
            high = None if high is None or large is None else high * large
        return low, high

    def _atom_bounds(self, atom: Expr) -> tuple[int | None, int | None]:
        match atom:
            case Var(name, _):
                extent = self.extents.get(name)
                top = self.bounds(extent)[1] if extent is not None else None
                return 0, None if top is None else max(0, top - 1)
            case Dim(name, _):
                return 1, self.dim_max.get(name)
            case Apply("mod", (_, divisor), _):
                top = self.bounds(divisor)[1]
                return 0, None if top is None else top - 1
            case Apply("floordiv", (value, divisor), _):
                low, high = self.bounds(value)
                least = self.bounds(divisor)[0] or 1
                return (0 if low is not None and low >= 0 else None), None if high is None else high // least
            case Apply("min", (left, right), _):
                (a, b), (c, d) = self.bounds(left), self.bounds(right)
                return (None if a is None or c is None else min(a, c)), b if d is None else d if b is None else min(
                    b, d
                )
            case Apply("max", (left, right), _):
                (a, b), (c, d) = self.bounds(left), self.bounds(right)
                return a if c is None else c if a is None else max(a, c), (
                    None if b is None or d is None else max(b, d)
                )
            case _:
                return None, None

    def _recombine(self, poly: Poly) -> Poly:
        """Replace `(x // c)·c·k + (x % c)·k` by `x·k` until nothing changes."""
        for monomial, coefficient in list(poly.items()):
            for position, atom in enumerate(monomial):
                if not (isinstance(atom, Apply) and atom.op == "mod"):
                    continue
                value, divisor = atom.args
                others = monomial[:position] + monomial[position + 1 :]
                scale = {others: coefficient}
                wanted = _multiply(to_poly(self.mul(self.floordiv(value, divisor), divisor)), scale)
                if wanted and all(poly.get(m) == c for m, c in wanted.items()):
                    out = dict(poly)
                    _accumulate(out, wanted, -1)
                    _accumulate(out, {monomial: coefficient}, -1)
                    _accumulate(out, _multiply(to_poly(value), scale))
                    return self._recombine(out)
        return poly


def _exact_quotient(monomial: Monomial, coefficient: int, divisor: Expr) -> tuple[Monomial, int] | None:
    terms = to_poly(divisor)
    if len(terms) != 1:
        return None
    ((atoms, scale),) = terms.items()
    if coefficient % scale:
        return None
    left = list(monomial)
    for atom in atoms:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left), coefficient // scale
