"""Index expressions as polynomials with integer coefficients over atoms (variables, dimensions, opaque terms).

The normal form makes equal index expressions equal, so strides, merges and divisions can be decided by comparing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from ullage.codegen.loops.ir import Apply, Cast, Const, Dim, Expr, Load, Ref, Var, children

Monomial = tuple[Expr, ...]


def atom_key(expr: Expr) -> str:
    """Text that orders and identifies an atom."""
    match expr:
        case Var(name) | Dim(name):
            return name
        case _:
            return repr(expr)


@dataclass(frozen=True)
class Poly:
    """A sum of integer coefficients times products of atoms; `terms` holds no zero coefficient."""

    terms: Mapping[Monomial, int]

    @staticmethod
    def constant(value: int) -> Poly:
        """The constant polynomial."""
        return Poly({(): value} if value else {})

    @staticmethod
    def atom(expr: Expr) -> Poly:
        """A single atom."""
        return Poly({(expr,): 1})

    @property
    def value(self) -> int | None:
        """The value if there are no atoms, else None."""
        if not self.terms:
            return 0
        return self.terms[()] if set(self.terms) == {()} else None

    def __add__(self, other: Poly) -> Poly:
        terms = dict(self.terms)
        for monomial, factor in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + factor
        return Poly({m: c for m, c in terms.items() if c})

    def __mul__(self, other: Poly) -> Poly:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms.items():
            for right, b in other.terms.items():
                monomial = tuple(sorted((*left, *right), key=atom_key))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return Poly({m: c for m, c in terms.items() if c})

    def __sub__(self, other: Poly) -> Poly:
        return self + other * Poly.constant(-1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Poly) and dict(self.terms) == dict(other.terms)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def atoms(self) -> frozenset[Expr]:
        """All atoms of all terms."""
        return frozenset(a for monomial in self.terms for a in monomial)

    def substitute(self, values: Mapping[Expr, Poly]) -> Poly:
        """The polynomial with some atoms replaced."""
        total = Poly({})
        for monomial, factor in self.terms.items():
            product = Poly.constant(factor)
            for a in monomial:
                product = product * values.get(a, Poly.atom(a))
            total = total + product
        return total


def to_poly(expr: Expr) -> Poly:
    """The polynomial of an index expression; whatever is not a sum or product becomes an opaque atom."""
    match expr:
        case Const(value):
            return Poly.constant(int(value))
        case Apply("add", (a, b)):
            return to_poly(a) + to_poly(b)
        case Apply("sub", (a, b)):
            return to_poly(a) - to_poly(b)
        case Apply("mul", (a, b)):
            return to_poly(a) * to_poly(b)
        case Apply("neg", (a,)):
            return to_poly(a) * Poly.constant(-1)
        case _:
            return Poly.atom(expr)


def _sum(terms: Iterable[Expr]) -> Expr:
    return reduce(lambda a, b: Apply("add", (a, b), "int64"), terms)


def monomial_expr(monomial: Monomial, factor: int) -> Expr:
    """One term as an expression, the coefficient last."""
    parts: list[Expr] = list(monomial)
    if factor != 1 or not parts:
        parts.append(Const(factor))
    return reduce(lambda a, b: Apply("mul", (a, b), "int64"), parts)


def to_expr(poly: Poly) -> Expr:
    """A canonical expression of the polynomial: terms in the order of their atoms, the constant last."""
    ordered = sorted(poly.terms.items(), key=lambda t: (not t[0], [atom_key(a) for a in t[0]]))
    return _sum(monomial_expr(m, c) for m, c in ordered) if ordered else Const(0)


def free_vars(expr: Expr) -> frozenset[str]:
    """Names of the loop variables that an expression reads."""
    return frozenset(e.name for e in unique(expr) if isinstance(e, Var))


def unique(expr: Expr) -> list[Expr]:
    """All distinct (by identity) sub-expressions, parents first."""
    seen: dict[int, Expr] = {}
    stack = [expr]
    while stack:
        e = stack.pop()
        if id(e) not in seen:
            seen[id(e)] = e
            stack.extend(children(e))
    return list(seen.values())


def linear_in(poly: Poly, var: str) -> tuple[Poly, Poly] | None:
    """(stride, base) with poly = stride·var + base and neither reading `var`; None if it is not of that form."""
    stride: dict[Monomial, int] = {}
    base: dict[Monomial, int] = {}
    for monomial, factor in poly.terms.items():
        inside = [a for a in monomial if var in free_vars(a)]
        if not inside:
            base[monomial] = factor
        elif len(inside) == 1 and isinstance(inside[0], Var):
            stride[tuple(a for a in monomial if a is not inside[0])] = factor
        else:
            return None
    return Poly(stride), Poly(base)


def affine(poly: Poly, names: Iterable[str]) -> tuple[dict[str, Poly], Poly] | None:
    """Strides of the named variables and the rest, or None if one of them occurs in a product or an opaque term."""
    strides: dict[str, Poly] = {}
    rest = poly
    for name in names:
        split = linear_in(rest, name)
        if split is None:
            return None
        strides[name], rest = split
    for name in names:
        if any(name in free_vars(a) for s in strides.values() for a in s.atoms()):
            return None
    return strides, rest


def postorder(expr: Expr) -> list[Expr]:
    """All distinct (by identity) sub-expressions, children before parents."""
    order: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        e, expanded = stack.pop()
        if expanded:
            order.append(e)
        elif id(e) not in seen:
            seen.add(id(e))
            stack.append((e, True))
            stack.extend((c, False) for c in reversed(children(e)))
    return order


def rewrite(expr: Expr, f: Callable[[Expr], Expr]) -> Expr:
    """Rebuild an expression bottom-up through `f`; shared sub-expressions are visited once and stay shared."""
    memo: dict[int, Expr] = {}
    for e in postorder(expr):
        memo[id(e)] = f(_rebuild(e, lambda child: memo[id(child)]))
    return memo[id(expr)]


def _rebuild(e: Expr, visit: Callable[[Expr], Expr]) -> Expr:
    match e:
        case Load(buffer, index, dtype, mask, other):
            i, m = visit(index), None if mask is None else visit(mask)
            return e if i is index and m is mask else Load(buffer, i, dtype, m, other)
        case Apply(op, args, dtype):
            new = tuple(visit(a) for a in args)
            return e if all(a is b for a, b in zip(new, args, strict=True)) else Apply(op, new, dtype)
        case Cast(arg, dtype):
            a = visit(arg)
            return e if a is arg else Cast(a, dtype)
        case Const() | Var() | Dim() | Ref():
            return e
