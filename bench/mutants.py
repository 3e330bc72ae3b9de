"""The mutants of a module: each is the module with one small fault.

Another operator, comparison, number or truth value, a negated condition, a loop that never runs, a statement,
decorator, filter or named argument left out; these are mostly the operators of cosmic-ray. Texts, annotations and the
arguments of ``raise`` stay as they are.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

UNTOUCHED = ("annotation", "returns", "msg", "ctx", "type_params")

_ARITHMETIC = "Add Sub, Sub Add, Mult Div, Div Mult, FloorDiv Mult, Mod Add, Pow Mult"
_BITS = "BitAnd BitOr, BitOr BitAnd, LShift RShift, RShift LShift"
_ORDER = "Lt LtE GtE, LtE Lt Gt, Gt GtE LtE, GtE Gt Lt"
_SAMENESS = "Eq NotEq, NotEq Eq, Is IsNot, IsNot Is, In NotIn, NotIn In"
# name of a class of ast: names of what takes its place
ARITHMETIC, COMPARISONS = (
    {name: others for name, *others in map(str.split, ",".join(tables).split(","))}
    for tables in ((_ARITHMETIC, _BITS), (_ORDER, _SAMENESS))
)


@dataclass(frozen=True)
class Mutant:
    """``holder.field``, or its item ``index``, becomes ``new``; an item without it goes. ``lines``: of the statement
    that holds it, None where that runs on import."""

    holder: ast.AST
    field: str
    index: int | None
    new: ast.AST | None
    line: int
    lines: range | None

    def apply(self) -> None:
        if self.index is None:
            setattr(self.holder, self.field, self.new)
        else:
            getattr(self.holder, self.field)[self.index : self.index + 1] = [] if self.new is None else [self.new]

    def __str__(self) -> str:
        old = getattr(self.holder, self.field)
        old = ast.unparse(old if self.index is None else old[self.index]).splitlines()[0]
        return f"{self.line}: {old}  ->  {ast.unparse(self.new) if self.new else ''}"


def mutants(tree: ast.AST, lines: range | None = None, in_function: bool = False) -> Iterator[Mutant]:
    """Every mutant of ``tree``, which is part of the statement of these ``lines``."""
    for field, value in ast.iter_fields(tree):
        called = ast.unparse(tree.func) if isinstance(tree, ast.Call) else ""
        if field in UNTOUCHED or called in ("isinstance", "dataclass") or isinstance(tree, ast.Raise | ast.JoinedStr):
            continue
        inside = in_function or (field == "body" and isinstance(tree, ast.FunctionDef))
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST):
                own = lines if not isinstance(node, ast.stmt) else head(node) if inside else None
                for new in retransforms(node, field, tree):
                    yield Mutant(tree, field, index, new, getattr(node, "lineno", getattr(tree, "lineno", 0)), own)
                yield from mutants(node, own, inside)


def head(statement: ast.stmt) -> range:
    """The lines of a statement without the statements in it."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno or 0
    return range(statement.lineno, max(statement.lineno, last) + 1)


def retransforms(node: ast.AST, field: str, parent: ast.AST) -> Iterator[ast.AST | None]:
    """What may stand in place of ``node``, the ``field`` of ``parent`` or one of its items; None: nothing."""
    is_named = not isinstance(node, ast.keyword) or node.arg is not None
    if field in ("decorator_list", "keywords", "ifs") and is_named and not ast.unparse(node).startswith("dataclass"):
        yield None
    if field == "test" and not isinstance(parent, ast.Assert):
        yield ast.UnaryOp(ast.Not(), node)  # type: ignore[arg-type]
    if field == "iter" and isinstance(parent, ast.For):
        yield ast.List([], ast.Load())
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Break() | ast.Continue():
            yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BoolOp(op=op):
            yield changed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                for name in COMPARISONS[type(op).__name__]:
                    yield changed(node, ops=[*ops[:index], getattr(ast, name)(), *ops[index + 1 :]])
    if isinstance(node, ast.BinOp | ast.AugAssign):
        for name in ARITHMETIC.get(type(node.op).__name__, ()):
            yield changed(node, op=getattr(ast, name)())


def changed(node: ast.AST, **fields: Any) -> ast.AST:
    twin = copy.copy(node)
    vars(twin).update(fields)
    return twin
