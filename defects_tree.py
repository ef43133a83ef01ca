"""The syntax tree of a Python program with its places in the source, and the edits that operators make of it.

Functions take p, what `python` returns. An edit is a list of (start, end, new text): see defects.py.
"""
import ast
import re
import warnings
from functools import lru_cache
from types import SimpleNamespace

from mistakes import NUMBER, scaled


@lru_cache(8)
def python(code):
    """-> code, nodes and strings: the ast nodes, parents first, each with start and end (characters) and its parent.

    Those within f-strings are left out: Python 3.11 misplaces them. strings: the literals that stand in the source as
    they are, without escapes or joins. Raises SyntaxError, ValueError, RecursionError or MemoryError for what is none.
    """
    if "\r" in code.replace("\r\n", ""):
        raise ValueError("ast takes a bare carriage return for a line's end")
    lines, starts, nodes = code.split("\n"), [0], []
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    place = lambda line, column: starts[line - 1] + len(lines[line - 1].encode()[:column].decode())  # ast counts bytes

    def visit(node, parent):
        node.parent = parent
        if getattr(node, "end_lineno", None):
            node.start, node.end = place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)
            nodes.append(node)
        for child in () if isinstance(node, ast.JoinedStr) else ast.iter_child_nodes(node):
            visit(child, node)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        visit(ast.parse(code), None)
    strings = [n for n in nodes if is_text(n) and n.value
               and code[n.start:n.end].strip("rbuRBU").strip("'\"") == n.value]
    return SimpleNamespace(code=code, nodes=nodes, strings=strings)


# -------------------------------------------------------------------------------------------- what is in a program

def source(p, node):
    """The text of a node as it stands in the program."""
    return p.code[node.start:node.end]


def is_text(node):
    """Is a node a string literal? Bytes and f-strings are none."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_number(node):
    """Is a node an int or float literal? True is none; -1 is a minus and the literal 1."""
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def listed(node):
    """-> (what holds a node, or the list or tuple that it stands in; whether it stands in one)."""
    inside = isinstance(node.parent, (ast.List, ast.Tuple))
    return node.parent.parent if inside else node.parent, inside


def name_of(call):
    """The last name of what is called: "bar" of ax.bar(...); "" where it has none, as in f()()."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def calls(p, names):
    """The calls of functions or methods that have one of these names, whatever object they belong to."""
    return [n for n in p.nodes if isinstance(n, ast.Call) and name_of(n) in names]


def keywords(p, names):
    """The keyword arguments that have one of these names, of any call."""
    return [n for n in p.nodes if isinstance(n, ast.keyword) and n.arg in names]


def given(call, *names):
    """Has a call one of these keyword arguments, or **options, which may hold it?"""
    return any(k.arg in names or k.arg is None for k in call.keywords)


def numbers_in(node):
    """The int and float literals in a node, itself included, breadth first."""
    return [n for n in ast.walk(node) if is_number(n)]


def numbers(p, names):
    """The numbers of keyword arguments of these names, also within tuples and lists."""
    return [n for k in keywords(p, names) for n in numbers_in(k.value)]


def alone(p, call):
    """The statement that consists of this call, where nothing else uses its value; else None."""
    up = call.parent
    if isinstance(up, ast.Expr):
        return up
    if isinstance(up, ast.Assign):
        names = {n.id for n in ast.walk(up) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        used = {n.id for n in p.nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        return up if names and not used & names else None


# --------------------------------------------------------------------------------------------------------------- edits

def inner(p, node, new):
    """The edit that puts `new` between the quotes of a string literal."""
    start = node.start + source(p, node).index(node.value)
    return [(start, start + len(node.value), new)]


def added(p, call, text):
    """The edit that gives a call one more argument."""
    before = p.code[:call.end - 1].rstrip()
    return [(call.end - 1, call.end - 1, text if before[-1] in "(," else ", " + text)]


def removed(p, statement):
    """The edit that takes a statement out with its line, or puts `pass` where a block would be left empty."""
    start, end = p.code.rfind("\n", 0, statement.start) + 1, p.code.find("\n", statement.end) + 1 or len(p.code)
    own_line = not p.code[start:statement.start].strip() and re.match(r"\s*(#|$)", p.code[statement.end:end])
    block = next(v for v in vars(statement.parent).values() if isinstance(v, list) and statement in v)
    if own_line and (len(block) > 1 or isinstance(statement.parent, ast.Module)):
        return [(start, end, "")]
    return [(statement.start, statement.end, "pass")]


def dropped(p, names):
    """The edits that take out a call of these names, of those whose value nothing uses."""
    return (removed(p, alone(p, c)) for c in calls(p, names) if alone(p, c))


def followed(p, call, line):
    """The edit that puts a line after the one that `call` ends."""
    indent = p.code[p.code.rfind("\n", 0, call.parent.start) + 1:call.parent.start]
    return [(call.end, call.end, "\n" + indent + line)]


def renamed(call, new):
    """The edit that calls another method of the same object; call.func is an ast.Attribute."""
    return [(call.func.end - len(call.func.attr), call.func.end, new)]


def swapped(p, a, b):
    """The edit that exchanges two nodes, neither of which may lie in the other."""
    return [(a.start, a.end, source(p, b)), (b.start, b.end, source(p, a))]


def rescaled(rng, p, nodes):
    """The edits that misread one of these numbers."""
    return [[(n.start, n.end, scaled(rng, source(p, n)))] for n in nodes if NUMBER.fullmatch(source(p, n))]
