"""Defects of Python programs that draw charts, or fail. What an operator is: defects.py."""
import ast
import re
import warnings
from functools import lru_cache
from types import SimpleNamespace

from mistakes import COLOURS, NUMBER, is_colour, misspelt, other, recoloured, reworded, scaled


@lru_cache(8)
def python(code):
    """-> code, nodes and strings: the ast nodes in source order, each with start and end (characters) and its parent.

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


PLOTS = set("""plot scatter bar barh hist fill_between errorbar step stem pie boxplot violinplot stackplot fill semilogy
    semilogx loglog contour contourf imshow pcolormesh pcolor hexbin hist2d tripcolor tricontour tricontourf
    plot_surface plot_wireframe plot_trisurf bar3d quiver streamplot barbs eventplot axhline axvline axvspan axhspan
    add_patch add_artist add_collection add_line text annotate table broken_barh matshow plot_date polar bar_label arrow
    hlines vlines fill_betweenx colorbar""".split())
MAPPED = set("""imshow contourf contour pcolormesh pcolor hexbin hist2d tripcolor tricontourf plot_surface plot_trisurf
    matshow""".split())
TEXTS = set("""set_title set_xlabel set_ylabel set_zlabel title suptitle xlabel ylabel text annotate legend figtext
    set_label add_annotation update_layout""".split())
MAPS = ("viridis", "plasma", "gray", "coolwarm", "Blues", "hot", "spring")
LINE_STYLE = {"linestyle", "ls", "linestyles"}
LINES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashdot"}


# ---------------------------------------------------------------------------------------------------- what is in a program

def source(p, node):
    return p.code[node.start:node.end]


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_number(node):
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def listed(node):
    """-> (what holds a node, or the list or tuple that it stands in; whether it stands in one)."""
    inside = isinstance(node.parent, (ast.List, ast.Tuple))
    return node.parent.parent if inside else node.parent, inside


def name_of(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def calls(p, names):
    return [n for n in p.nodes if isinstance(n, ast.Call) and name_of(n) in names]


def keywords(p, names):
    return [n for n in p.nodes if isinstance(n, ast.keyword) and n.arg in names]


def given(call, *names):
    return any(k.arg in names or k.arg is None for k in call.keywords)


def numbers_in(node):
    return [n for n in ast.walk(node) if is_number(n)]


def numbers(p, names):
    """The numbers of keyword arguments of these names, also within tuples and lists."""
    return [n for k in keywords(p, names) for n in numbers_in(k.value)]


def data_of(call):
    """The arguments of a call by position that are no texts."""
    return [a for a in call.args if not is_text(a)]


def alone(p, call):
    """The statement that consists of this call, where nothing else uses its value; else None."""
    up = call.parent
    if isinstance(up, ast.Expr):
        return up
    if isinstance(up, ast.Assign):
        names = {n.id for n in ast.walk(up) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        used = {n.id for n in p.nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        return up if names and not used & names else None


def formats(p):
    """The format strings of plot calls, such as 'ro--': [(node, match with groups colour, marker, line)]."""
    fits = r"(?P<colour>[bgrcmykw]?)(?P<marker>[.,ov^<>1-4sp*hH+xDd|_]?)(?P<line>(?:--|-\.|-|:)?)(?P<late>[bgrcmykw]?)"
    plots = calls(p, {"plot", "errorbar", "semilogy", "semilogx", "loglog"})
    return [(n, m) for n in p.strings if n.parent in plots and (m := re.fullmatch(fits, n.value))]


def unformatted(p, names, *keywords_):
    """The calls that have neither a format string nor one of these keywords."""
    having = [n.parent for n, _ in formats(p)]
    return [c for c in calls(p, names) if c not in having and not given(c, *keywords_)]


def receivers(p):
    """{source of what is plotted on: the last such call that is a statement and ends its line}"""
    ends = re.compile(r"[ \t]*(\n|$)")
    found = {source(p, c.func.value): c for c in calls(p, PLOTS) if isinstance(c.parent, ast.Expr)
             and isinstance(c.func, ast.Attribute) and ends.match(p.code, c.end)}
    return {target: c for target, c in found.items() if "fig" not in target}


# ------------------------------------------------------------------------------------------------------------------- edits

def inner(p, node, new):
    """The edit that puts `new` between the quotes of a string literal."""
    start = node.start + source(p, node).index(node.value)
    return [(start, start + len(node.value), new)]


def regrouped(p, node, match, group, new):
    """The edit that puts `new` in place of one group of a format string."""
    return inner(p, node, node.value[:match.start(group)] + new + node.value[match.end(group):])


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
    """The edits that take out a call of these names."""
    return (removed(p, alone(p, c)) for c in calls(p, names) if alone(p, c))


def followed(p, call, line):
    """The edit that puts a line after the one that `call` ends."""
    indent = p.code[p.code.rfind("\n", 0, call.parent.start) + 1:call.parent.start]
    return [(call.end, call.end, "\n" + indent + line)]


def renamed(call, new):
    """The edit that calls another method of the same object."""
    return [(call.func.end - len(call.func.attr), call.func.end, new)]


def swapped(p, a, b):
    return [(a.start, a.end, source(p, b)), (b.start, b.end, source(p, a))]


def rescaled(rng, p, nodes):
    """The edits that misread one of these numbers."""
    return [[(n.start, n.end, scaled(rng, source(p, n)))] for n in nodes if NUMBER.fullmatch(source(p, n))]


# ------------------------------------------------------------------------------------------------------------------ charts

def chart_colour(rng, p):
    for n in p.strings:
        up, _ = listed(n)
        named = isinstance(up, ast.keyword) and re.search(r"colou?r|^[cf]c?$|^ec$", up.arg or "")
        cycle = n.value.startswith("tab:") or re.fullmatch(r"C\d", n.value)
        if cycle or is_colour(n.value) or named and n.value in list("bgrcmyk"):
            yield inner(p, n, recoloured(rng, n.value.removeprefix("tab:")))
    for n, m in formats(p):
        if m["colour"]:
            yield regrouped(p, n, m, "colour", other(rng, m["colour"], "bgrcmk"))
    for call in unformatted(p, {"plot", "scatter", "bar", "barh", "hist", "fill_between", "step"},
                            "color", "c", "facecolor", "colors", "cmap"):
        yield added(p, call, f"color='{rng.choice(COLOURS)}'")


def chart_colormap(rng, p):
    for n in p.strings:
        if re.search(r"(\bcmap\s*=\s*|colormaps\[|[gs]et_cmap\()$", p.code[max(0, n.start - 20):n.start]):
            yield inner(p, n, other(rng, n.value, MAPS))
    for n in p.nodes:
        if isinstance(n, ast.Attribute) and n.attr in MAPS:  # cm.viridis
            yield [(n.end - len(n.attr), n.end, other(rng, n.attr, MAPS))]
    for call in calls(p, MAPPED):
        if not given(call, "cmap", "colors", "color"):
            yield added(p, call, f"cmap='{rng.choice(MAPS[1:])}'")


def chart_marker(rng, p):
    for k in keywords(p, {"marker"}):
        if k.value in p.strings:
            yield inner(p, k.value, other(rng, k.value.value, "osx^D"))
    for n, m in formats(p):
        yield regrouped(p, n, m, "marker", other(rng, m["marker"], "osx^D"))
    for call in unformatted(p, {"plot", "scatter"}, "marker"):
        yield added(p, call, f"marker='{rng.choice('osx^D')}'")


def chart_line(rng, p):
    """Style or width."""
    for k in keywords(p, LINE_STYLE):
        if k.value in p.strings:
            style = k.value.value
            yield inner(p, k.value, other(rng, style, LINES.values() if style.isalpha() else LINES))
    for n, m in formats(p):
        if m["line"]:
            yield regrouped(p, n, m, "line", other(rng, m["line"], LINES))
    yield from rescaled(rng, p, numbers(p, {"linewidth", "lw", "linewidths", "markersize", "ms", "s"}))
    for call in unformatted(p, {"plot", "step", "axhline", "axvline", "semilogy"}, *LINE_STYLE, "linewidth", "lw"):
        yield added(p, call, rng.choice(("linestyle='--'", "linewidth=4")))


def chart_opacity(rng, p):
    yield from rescaled(rng, p, [n for n in numbers(p, {"alpha"}) if n.value])
    for call in calls(p, {"plot", "scatter", "bar", "barh", "hist", "fill_between", "imshow", "contourf"}):
        if not given(call, "alpha"):
            yield added(p, call, "alpha=0.3")


def chart_data(rng, p):
    """A number of the data, in a list or a formula."""
    makes = re.compile(r"np\.(linspace|arange|array|random\.\w+)\b(?<!seed)")

    def is_data(n):
        while n and not isinstance(n, (ast.keyword, ast.Subscript, ast.stmt)):
            if isinstance(n, (ast.BinOp, ast.List)) or isinstance(n, ast.Call) and makes.match(source(p, n)):
                return True
            n = n.parent

    others = set(numbers(p, {"figsize", "width_ratios", "height_ratios"}))
    return rescaled(rng, p, [n for n in p.nodes if is_number(n) and n not in others and is_data(n)])


def chart_series_swapped(rng, p):
    """x and y of a call, or the data of two calls."""
    found = [c for c in calls(p, PLOTS - {"text", "annotate", "imshow", "add_patch", "colorbar"})
             if c.args and not any(isinstance(a, ast.Starred) for a in c.args)]
    plotted = lambda c: (data_of(c) or c.args)[:2]
    for call in found:
        if len(plotted(call)) == 2:
            yield swapped(p, *plotted(call))
    for a, b in zip(found, found[1:]):
        if name_of(a) == name_of(b) and a.end < b.start:
            yield swapped(p, plotted(a)[-1], plotted(b)[-1])


def chart_series_dropped(rng, p):
    return dropped(p, PLOTS)


def chart_legend(rng, p):
    """Dropped or moved."""
    for call in calls(p, {"legend"}):
        places = [k.value for k in call.keywords if k.arg == "loc" and k.value in p.strings]
        if rng.random() < 0.5 and alone(p, call):
            yield removed(p, alone(p, call))
        elif places:
            others = ("upper left", "lower right", "center", "lower left")
            yield inner(p, places[0], other(rng, places[0].value, others))
        else:
            yield added(p, call, "loc='center'")


def chart_text(rng, p):
    """A title or label misread or forgotten."""
    yield from dropped(p, TEXTS - {"legend"})
    for n in p.strings:
        up, inside = listed(n)
        named = isinstance(up, ast.keyword) and re.search(r"label|title|^text$", up.arg or "")
        names = inside and isinstance(up, (ast.Assign, ast.Call))
        title = isinstance(up, ast.Call) and name_of(up) in TEXTS
        words = re.search(r"[A-Za-z]{2}", n.value) and "$" not in n.value and not is_colour(n.value)
        if words and (named or names or title):
            yield inner(p, n, reworded(rng, n.value))


def chart_limits(rng, p):
    """The range of an axis: other numbers, or none where there are some."""
    for call in calls(p, {"set_xlim", "set_ylim", "xlim", "ylim", "axis", "set_zlim", "set_xbound", "set_ybound",
                          "set_xticks", "set_yticks", "set_clim"}):
        yield from rescaled(rng, p, numbers_in(call))
        if alone(p, call):
            yield removed(p, alone(p, call))
    yield from rescaled(rng, p, numbers(p, {"xlim", "ylim", "vmin", "vmax", "extent", "levels", "bins"}))


def chart_scale(rng, p):
    """Linear <-> logarithmic."""
    for call in calls(p, {"set_xscale", "set_yscale", "xscale", "yscale"}):
        if call.args and call.args[0] in p.strings:
            yield inner(p, call.args[0], other(rng, call.args[0].value, ("linear", "log")))
    for call in calls(p, {"semilogx", "semilogy", "loglog"}):
        yield renamed(call, "plot")
    for target, call in receivers(p).items():
        if name_of(call) in ("plot", "scatter", "bar", "hist", "errorbar", "step"):
            prefix = "" if target in ("plt", "pyplot") else "set_"
            yield followed(p, call, f"{target}.{prefix}{rng.choice('xy')}scale('log')")


def chart_figsize(rng, p):
    names = {"figsize", "width_ratios", "height_ratios", "figwidth", "figheight", "dpi"}
    yield from rescaled(rng, p, numbers(p, names))
    for call in calls(p, {"figure", "subplots"}):
        if not given(call, "figsize") and "fig." not in p.code[call.start:call.func.end]:
            yield added(p, call, f"figsize={rng.choice(((4, 3), (8, 4), (5, 5), (10, 6)))}")


def chart_bars(rng, p):
    """Width, or bars not stacked where they should be."""
    for call in calls(p, {"bar", "barh", "hist", "violinplot", "boxplot"}):
        names = {"barh": "height", "hist": "rwidth", "violinplot": "widths", "boxplot": "widths"}
        width = names.get(name_of(call), "width")
        yield from rescaled(rng, p, [k.value for k in call.keywords if k.arg == width and is_number(k.value)])
        for k in call.keywords:
            if k.arg in ("bottom", "left", "stacked") and (comma := re.search(r",\s*$", p.code[:k.start])):
                yield [(comma.start(), k.end, "")]
        if not given(call, width) and (name_of(call) not in ("bar", "barh") or len(call.args) < 3):
            yield added(p, call, f"{width}={rng.choice((0.3, 0.5))}")


def chart_type(rng, p):
    others = {"bar": "barh", "barh": "bar", "contourf": "contour", "contour": "contourf", "boxplot": "violinplot",
              "step": "plot", "pcolormesh": "contourf", "stem": "plot", "semilogy": "plot", "stackplot": "plot",
              "fill": "plot", "scatter": "plot", "plot": "step"}
    for call in calls(p, others):
        kind, new = name_of(call), others[name_of(call)]
        mapped = kind == "scatter" and given(call, "s", "c", "cmap")
        if not isinstance(call.func, ast.Attribute) or mapped or kind == "plot" and len(data_of(call)) != 2:
            continue
        if kind == "plot" and len(call.args) == 2 and not given(call, "marker", "linestyle", "ls", "markersize"):
            new = rng.choice(("scatter", "bar", "step"))
        swap = {"width": "height", "height": "width"} if "bar" in kind else {}
        sides = [(k.start, k.start + len(k.arg), swap[k.arg]) for k in call.keywords if k.arg in swap]
        yield renamed(call, new) + sides


def chart_grid(rng, p):
    """Dropped, or added where there is none."""
    yield from dropped(p, {"grid"})
    if not calls(p, {"grid"}):
        for target, call in receivers(p).items():
            yield followed(p, call, f"{target}.grid(True)")


def chart_font_size(rng, p):
    yield from rescaled(rng, p, numbers(p, {"fontsize", "labelsize", "font_size", "titlesize", "size"}))
    for call in calls(p, TEXTS - {"update_layout", "add_annotation", "set_label"}):
        if not given(call, "fontsize", "size", "prop", "fontdict"):
            yield added(p, call, f"fontsize={rng.choice((6, 16, 20))}")


def chart_rotation(rng, p):
    for n in numbers(p, {"rotation", "labelrotation", "startangle", "azim", "elev"}):
        yield [(n.start, n.end, other(rng, source(p, n), ("0", "30", "90")))]
    for call in calls(p, {"set_xticks", "xticks", "set_xticklabels", "set_xlabel", "set_ylabel", "xlabel", "ylabel",
                          "text", "annotate"}):
        if not given(call, "rotation") and (len(call.args) > 1 or "label" in name_of(call)):
            yield added(p, call, f"rotation={rng.choice((30, 60, 90))}")


def chart_subplots(rng, p):
    """Two subplots exchanged: ax[0] and ax[1] wherever they stand, (left, right) where they are made, or 2 rows and 1
    column."""
    places = {}  # {source of what is indexed: {source of the index: its nodes}}
    for n in p.nodes:
        if isinstance(n, ast.Subscript) and re.search(r"ax|plot", source(p, n.value)):
            places.setdefault(source(p, n.value), {}).setdefault(source(p, n.slice), []).append(n.slice)
        if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call) and name_of(n.value) == "subplots":
            for t in ast.walk(n.targets[0]):
                pair = [e for e in getattr(t, "elts", ()) if isinstance(e, ast.Name) and e.id != "fig"]
                if len(pair) > 1:
                    yield swapped(p, *rng.sample(pair, 2))
            shape = n.value.args[:2]
            if len({source(p, a) for a in shape}) == 2:
                yield swapped(p, *shape)
    for slices in places.values():
        if len(slices) > 1:
            a, b = rng.sample(sorted(slices), 2)
            yield [(n.start, n.end, b) for n in slices[a]] + [(n.start, n.end, a) for n in slices[b]]


# ------------------------------------------------------------------------------------------------------ programs that fail

def missing_import(rng, p):
    used = {n.id for n in p.nodes if isinstance(n, ast.Name)}
    for n in p.nodes:
        if isinstance(n, (ast.Import, ast.ImportFrom)):
            if any((a.asname or a.name.split(".")[0]) in used for a in n.names):
                yield removed(p, n)


def misspelt_keyword(rng, p):
    """Fails where the function has no such argument."""
    for k in p.nodes:
        if isinstance(k, ast.keyword) and k.arg:
            yield [(k.start, k.start + len(k.arg), misspelt(rng, k.arg))]


def misspelt_attribute(rng, p):
    for n in p.nodes:
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute):
            yield renamed(n, misspelt(rng, n.func.attr))


def unequal_length(rng, p):
    """A value forgotten in a list: fails where another one has its length."""
    return ([(n.elts[-2].end, n.elts[-1].end, "")] for n in p.nodes if isinstance(n, ast.List) and len(n.elts) > 2)


def unclosed_bracket(rng, p):
    return ([(n.end - 1, n.end, "")] for n in p.nodes if isinstance(n, (ast.Call, ast.List)) and n.end)


CHART = (chart_colour, chart_colormap, chart_marker, chart_line, chart_opacity, chart_data, chart_series_swapped,
         chart_series_dropped, chart_legend, chart_text, chart_limits, chart_scale, chart_figsize, chart_bars,
         chart_type, chart_grid, chart_font_size, chart_rotation, chart_subplots, missing_import, misspelt_keyword,
         misspelt_attribute, unequal_length, unclosed_bracket)
