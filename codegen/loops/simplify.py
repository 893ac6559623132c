"""Index simplification with known ranges of loop variables, and folding of constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ullage.codegen.loops.ir import Apply, Cast, Const, Dim, Expr, Load, Ref, Var
from ullage.codegen.loops.poly import Monomial, Poly, rewrite, to_expr, to_poly, unique

Extents = Mapping[str, Poly]
"""Exclusive upper bounds of loop variables, as polynomials over dimensions (each dimension is at least 1)."""

_INDEX_OPS = frozenset({"add", "sub", "mul", "neg", "floordiv", "mod", "min", "max"})
_FOLD: dict[str, Callable[[int, int], int | bool]] = {
    "floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b, "min": min, "max": max,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip


def simplify(expr: Expr, extents: Extents) -> Expr:
    """An equal expression: index arithmetic in canonical form, quotients and remainders removed where ranges allow."""
    return rewrite(expr, lambda e: _step(e, extents))


def _step(expr: Expr, extents: Extents) -> Expr:
    match expr:
        case Apply(op, _, "int64") if op in _INDEX_OPS and _is_index(expr):
            return _index_step(expr, extents)
        case Apply(op, (a, _), "bool") if op in _FOLD and a.dtype == "int64" and _is_index(expr):
            return _compare_step(expr, extents)
        case Apply(op, (a, b), "bool") if op in ("and", "or"):
            return _logic_step(op, a, b, expr)
        case Apply("not", (Const(value),), "bool"):
            return Const(not value, "bool")
        case Apply("where", (Const(value), a, b)):
            return a if value else b
        case Cast(arg, dtype) if arg.dtype == dtype:
            return arg
        case Load(buffer, index, dtype, Const(value), other):
            return Load(buffer, index, dtype) if value else Const(other, dtype)
        case _:
            return expr


def _is_index(expr: Apply) -> bool:
    """Arithmetic of variables and dimensions; that of tensors keeps its form (sums of products could explode)."""
    return not any(isinstance(e, Load | Ref) for e in unique(expr))


def _logic_step(op: str, a: Expr, b: Expr, expr: Expr) -> Expr:
    for known, other in ((a, b), (b, a)):
        if isinstance(known, Const):
            return other if bool(known.value) == (op == "and") else Const(op == "or", "bool")
    return expr


def _index_step(expr: Apply, extents: Extents) -> Expr:
    if expr.op in ("add", "sub", "mul", "neg"):
        return to_expr(to_poly(expr))
    a, b = to_poly(expr.args[0]), to_poly(expr.args[1])
    if a.value is not None and b.value is not None and (b.value != 0 or expr.op in ("min", "max")):
        return Const(_FOLD[expr.op](a.value, b.value))
    if expr.op in ("min", "max"):
        return _extreme_step(expr, a, b, extents)
    return _divide_step(expr, a, b, extents)


def _extreme_step(expr: Apply, a: Poly, b: Poly, extents: Extents) -> Expr:
    if never_negative(b - a, extents):
        return expr.args[0] if expr.op == "min" else expr.args[1]
    if never_negative(a - b, extents):
        return expr.args[1] if expr.op == "min" else expr.args[0]
    return expr


def _divide_step(expr: Apply, a: Poly, b: Poly, extents: Extents) -> Expr:
    split = divide(a, b)
    if split is None:
        return expr
    quotient, rest = split
    if never_negative(rest, extents) and never_negative(b - rest - Poly.constant(1), extents):
        return to_expr(quotient if expr.op == "floordiv" else rest)
    reduced = Apply(expr.op, (to_expr(rest), expr.args[1]), "int64")
    if expr.op == "mod":
        return reduced
    return to_expr(quotient + Poly.atom(reduced)) if quotient.terms else reduced


def _compare_step(expr: Apply, extents: Extents) -> Expr:
    difference = to_poly(expr.args[1]) - to_poly(expr.args[0])
    known = _known_compare(expr.op, difference, extents)
    return expr if known is None else Const(known, "bool")


def _known_compare(op: str, difference: Poly, extents: Extents) -> bool | None:
    """Whether `a op b` holds always or never, from b - a."""
    if difference.value is not None and op in ("eq", "ne"):
        return (difference.value == 0) == (op == "eq")
    one = Poly.constant(1)
    for name, poly in (("lt", difference - one), ("le", difference)):
        if op == name and never_negative(poly, extents):
            return True
        if op == name and never_negative(Poly.constant(-1) - poly, extents):
            return False
    if op in ("gt", "ge"):
        return _known_compare("lt" if op == "gt" else "le", difference * Poly.constant(-1), extents)
    return None


def divide(poly: Poly, by: Poly) -> tuple[Poly, Poly] | None:
    """(quotient, rest) with poly = quotient·by + rest, for a divisor that is one positive term."""
    if len(by.terms) != 1:
        return None
    ((divisor, factor),) = by.terms.items()
    if factor <= 0:
        return None
    quotient: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, coefficient in poly.terms.items():
        left = _without(monomial, divisor)
        if left is None:
            rest[monomial] = coefficient
            continue
        q, r = divmod(coefficient, factor)
        quotient[left] = quotient.get(left, 0) + q
        rest[monomial] = r
    return _clean(quotient), _clean(rest)


def _clean(terms: dict[Monomial, int]) -> Poly:
    return Poly({m: c for m, c in terms.items() if c})


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    left = list(monomial)
    for atom in divisor:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def never_negative(poly: Poly, extents: Extents) -> bool:
    """Whether the polynomial is provably ≥ 0 for all variables in range and all dimensions ≥ 1."""
    least = _least(poly, extents)
    if least is None:
        return False
    shifted = least.substitute({d: Poly.atom(d) + Poly.constant(1) for d in least.atoms()})
    return all(c >= 0 for c in shifted.terms.values())


def _least(poly: Poly, extents: Extents) -> Poly | None:
    """A lower bound over the loop variables, as a polynomial of dimensions; None if there is none."""
    total = Poly({})
    for monomial, factor in poly.terms.items():
        term = Poly.constant(factor)
        for atom in monomial:
            bound = _bound(atom, extents, upper=factor < 0)
            if bound is None:
                return None
            term = term * bound
        total = total + term
    return total


def _bound(atom: Expr, extents: Extents, upper: bool) -> Poly | None:
    """A bound of a non-negative atom: 0 from below, or an upper bound."""
    match atom:
        case Dim():
            return Poly.atom(atom)
        case Var(name) if name in extents:
            return extents[name] - Poly.constant(1) if upper else Poly({})
        case Apply("mod", (_, Const(value))) if int(value) > 0:
            return Poly.constant(int(value) - 1 if upper else 0)
        case Apply("floordiv", (a, Const(value))) if int(value) > 0 and not upper:
            return Poly({}) if never_negative(to_poly(a), extents) else None
        case _:
            return None
