"""Defects: the mistakes of a model that looks and writes, made in programs of five domains.

An operator is a function (rng, code) -> (new code, change) or None where it finds nothing to change. It works on a
syntax tree with source positions (ast; html.parser and tinycss2; expat; a SMILES and a TeX tokenizer) and replaces a
few characters of the source, so comments and formatting survive everywhere else: a wrong colour, number, word, place or
kind, something forgotten, and programs that do not run (`FAILING`). `mutate` draws one or more of them; refine.py makes
training pairs of what they do.
"""
import ast
import re
import warnings
from functools import lru_cache, wraps
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.parsers import expat

import tinycss2
from tinycss2.color3 import parse_color

COLOURS = ("red", "blue", "green", "orange", "purple", "brown", "gray", "teal", "magenta", "black")
HEX = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#555555", "#17becf", "#e377c2", "#111111")
WORDS = "Total Value Average Count Level Score Result Group Series Index Rate Other".split()
UNPARSED = (SyntaxError, ValueError, RecursionError, MemoryError, AssertionError, expat.ExpatError)  # html.parser asserts
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


# ------------------------------------------------------------------------------------------------------------- operators


def one_line(text, length):
    text = " ".join(text.split())
    return text if len(text) <= length else text[:length - 3] + "..."


def shown(code, start, end, new):
    """What an edit does as "old -> new"; a short one with what stands before it on its line."""
    before = code[:start].rpartition("\n")[2][-max(0, 16 - (end - start)):] if end - start < 16 else ""
    return f"{one_line(before + code[start:end], 50) or 'nothing'} -> {one_line(before + new, 50) or 'nothing'}"


def operator(parse, possible):
    """The operator that does by chance one of the edits which possible(rng, parsed program) lists, each a list of (start, end, new text).

    An operator that is not FAILING never leaves a program that `parse` refuses.
    """
    @wraps(possible)
    def apply(rng, code):
        try:
            edits = list(possible(rng, parse(code)))
        except UNPARSED:
            return None
        rng.shuffle(edits)
        for edit in edits[:8]:
            new = code
            for start, end, text in sorted(edit, reverse=True):
                new = new[:start] + text + new[end:]
            try:
                if new == code or possible.__name__ not in FAILING and not parse(new):
                    continue
            except UNPARSED:
                continue
            return new, one_line("; ".join(shown(code, *one) for one in edit), 120)
    return apply


def other(rng, old, choices):
    return rng.choice([c for c in choices if c != old])


def scaled(rng, digits):
    """A number as it stands in a program -> a clearly other one in the same notation."""
    new = float(digits) * rng.choice((0.4, 0.6, 1.6, 2.2)) or rng.choice((1, 2, 5))
    decimals = re.fullmatch(r"[-+]?\d*\.(\d+)", digits)
    text = f"{new:.{len(decimals[1])}f}" if decimals else str(round(new)) if re.fullmatch(r"[-+]?\d+", digits) else f"{new:.3g}"
    return text if float(text) != float(digits) else str(round(float(digits)) + 1)


def recoloured(rng, old):
    """A clearly other colour in the notation of the old one: name or hexadecimal."""
    was = parse_color(old if is_colour(old) else "black")
    far = [i for i, name in enumerate(COLOURS) if max(abs(a - b) for a, b in zip(parse_color(name)[:3], was[:3])) > 0.4]
    return (HEX if old.startswith("#") else COLOURS)[rng.choice(far)]


def is_colour(text):
    return isinstance(text, str) and isinstance(parse_color(text), tuple) and parse_color(text)[3] > 0


def reworded(rng, text):
    """A text as it is misread: a word forgotten, exchanged, or in the wrong place; a number misread."""
    words = text.split(" ")
    if len(words) > 1 and rng.random() < 0.5:
        return " ".join(words[1:] if rng.random() < 0.5 else words[:-1])
    i = rng.randrange(len(words))
    words[i] = scaled(rng, words[i]) if NUMBER.fullmatch(words[i]) else other(rng, words[i], WORDS)
    return " ".join(words)


# ---------------------------------------------------------------------------------------------------------------- Python

@lru_cache(8)
def python(code):
    """-> code and its ast nodes in source order with start and end (characters) and parent; not those within f-strings, which Python 3.11 misplaces."""
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
    return SimpleNamespace(code=code, nodes=nodes)


PLOTS = set("""plot scatter bar barh hist fill_between errorbar step stem pie boxplot violinplot stackplot fill semilogy semilogx loglog contour contourf
    imshow pcolormesh pcolor hexbin hist2d tripcolor tricontour tricontourf plot_surface plot_wireframe plot_trisurf bar3d quiver streamplot barbs eventplot
    axhline axvline axvspan axhspan add_patch add_artist add_collection add_line text annotate table broken_barh matshow plot_date polar bar_label arrow
    hlines vlines fill_betweenx colorbar""".split())
MAPPED = set("imshow contourf contour pcolormesh pcolor hexbin hist2d tripcolor tricontourf plot_surface plot_trisurf matshow".split())
TEXTS = set("set_title set_xlabel set_ylabel set_zlabel title suptitle xlabel ylabel text annotate legend figtext set_label add_annotation update_layout".split())
MAPS = ("viridis", "plasma", "gray", "coolwarm", "Blues", "hot", "spring")
LINE_STYLE = {"linestyle", "ls", "linestyles"}
LINES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashdot"}


def name_of(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def calls(p, names):
    return [n for n in p.nodes if isinstance(n, ast.Call) and name_of(n) in names]


def keywords(p, names):
    return [n for n in p.nodes if isinstance(n, ast.keyword) and n.arg in names]


def constants(p, kind):
    """Literals of a type; of strings those that stand in the source as they are, without escapes or joins."""
    found = [n for n in p.nodes if isinstance(n, ast.Constant) and type(n.value) in kind]
    return [n for n in found if not isinstance(n.value, str) or n.value and p.code[n.start:n.end].strip("rbuRBU").strip("'\"") == n.value]


def inner(p, node, new):
    """The edit that puts `new` between the quotes of a string literal."""
    start = node.start + p.code[node.start:node.end].index(node.value)
    return [(start, start + len(node.value), new)]


def added(p, call, text):
    """The edit that gives a call one more argument."""
    before = p.code[:call.end - 1].rstrip()
    return [(call.end - 1, call.end - 1, text if before[-1] in "(," else ", " + text)]


def given(call, *names):
    return any(k.arg in names or k.arg is None for k in call.keywords)


def removed(p, statement):
    """The edit that takes a statement out with its line, or puts `pass` where a block would be left empty."""
    start, end = p.code.rfind("\n", 0, statement.start) + 1, p.code.find("\n", statement.end) + 1 or len(p.code)
    own_line = not p.code[start:statement.start].strip() and re.match(r"\s*(#|$)", p.code[statement.end:end])
    block = next(v for v in vars(statement.parent).values() if isinstance(v, list) and statement in v)
    return [(start, end, "")] if own_line and (len(block) > 1 or isinstance(statement.parent, ast.Module)) else [(statement.start, statement.end, "pass")]


def alone(p, call):
    """The statement that consists of this call, where nothing else uses its value; else None."""
    up = call.parent
    names = [n.id for n in ast.walk(up) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)] if isinstance(up, ast.Assign) else []
    used = {n.id for n in p.nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return up if isinstance(up, ast.Expr) or names and not used & set(names) else None


def numbers_in(node):
    return [n for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]


def numbers(p, names):
    """The numbers of keyword arguments of these names, also within tuples and lists."""
    return [n for k in keywords(p, names) for n in numbers_in(k.value)]


def renamed(call, new):
    """The edit that calls another method of the same object."""
    return [(call.func.end - len(call.func.attr), call.func.end, new)]


def rescaled(rng, p, nodes):
    return [[(n.start, n.end, scaled(rng, p.code[n.start:n.end]))] for n in nodes if NUMBER.fullmatch(p.code[n.start:n.end])]


def formats(p):
    """The format strings of plot calls, such as 'ro--': [(node, match with groups colour, marker, line)]."""
    fits = r"(?P<colour>[bgrcmykw]?)(?P<marker>[.,ov^<>1-4sp*hH+xDd|_]?)(?P<line>(?:--|-\.|-|:)?)(?P<late>[bgrcmykw]?)"
    plots = calls(p, {"plot", "errorbar", "semilogy", "semilogx", "loglog"})
    found = [(n, re.fullmatch(fits, n.value)) for n in constants(p, (str,)) if n.parent in plots]
    return [(n, m) for n, m in found if m]


def unformatted(p, names, *keywords_):
    """The calls that have neither a format string nor one of these keywords."""
    having = [n.parent for n, _ in formats(p)]
    return [c for c in calls(p, names) if c not in having and not given(c, *keywords_)]

def chart_colour(rng, p):
    for n in constants(p, (str,)):
        up = n.parent.parent if isinstance(n.parent, (ast.List, ast.Tuple)) else n.parent
        named = isinstance(up, ast.keyword) and re.search(r"colou?r|^[cf]c?$|^ec$", up.arg or "")
        if n.value.startswith("tab:") or re.fullmatch(r"C\d", n.value) or is_colour(n.value) or named and n.value in list("bgrcmyk"):
            yield inner(p, n, recoloured(rng, n.value.removeprefix("tab:")))
    for n, m in formats(p):
        if m["colour"]:
            yield inner(p, n, other(rng, m["colour"], "bgrcmk") + n.value[1:])
    for call in unformatted(p, {"plot", "scatter", "bar", "barh", "hist", "fill_between", "step"}, "color", "c", "facecolor", "colors", "cmap"):
        yield added(p, call, f"color='{rng.choice(COLOURS)}'")

def chart_colormap(rng, p):
    for n in constants(p, (str,)):
        if re.search(r"(\bcmap\s*=\s*|colormaps\[|[gs]et_cmap\()$", p.code[max(0, n.start - 20):n.start]):
            yield inner(p, n, other(rng, n.value, MAPS))
    yield from ([(n.end - len(n.attr), n.end, other(rng, n.attr, MAPS))] for n in p.nodes if isinstance(n, ast.Attribute) and n.attr in MAPS)  # cm.viridis
    yield from (added(p, call, f"cmap='{rng.choice(MAPS[1:])}'") for call in calls(p, MAPPED) if not given(call, "cmap", "colors", "color"))

def chart_marker(rng, p):
    yield from (inner(p, k.value, other(rng, k.value.value, "osx^D")) for k in keywords(p, {"marker"}) if k.value in constants(p, (str,)))
    yield from (inner(p, n, n.value[:m.start("marker")] + other(rng, m["marker"], "osx^D") + n.value[m.end("marker"):]) for n, m in formats(p))
    yield from (added(p, call, f"marker='{rng.choice('osx^D')}'") for call in unformatted(p, {"plot", "scatter"}, "marker"))

def chart_line(rng, p):
    """Style or width."""
    for k in keywords(p, LINE_STYLE):
        if k.value in constants(p, (str,)):
            yield inner(p, k.value, other(rng, k.value.value, LINES.values() if k.value.value.isalpha() else LINES))
    yield from (inner(p, n, n.value[:m.start("line")] + other(rng, m["line"], LINES) + n.value[m.end("line"):]) for n, m in formats(p) if m["line"])
    yield from rescaled(rng, p, numbers(p, {"linewidth", "lw", "linewidths", "markersize", "ms", "s"}))
    for call in unformatted(p, {"plot", "step", "axhline", "axvline", "semilogy"}, *LINE_STYLE, "linewidth", "lw"):
        yield added(p, call, rng.choice(("linestyle='--'", "linewidth=4")))

def chart_opacity(rng, p):
    yield from rescaled(rng, p, [n for n in numbers(p, {"alpha"}) if n.value])
    filled = {"plot", "scatter", "bar", "barh", "hist", "fill_between", "imshow", "contourf"}
    yield from (added(p, call, "alpha=0.3") for call in calls(p, filled) if not given(call, "alpha"))

def chart_data(rng, p):
    """A number of the data, in a list or a formula."""
    def is_data(n):
        while n and not isinstance(n, (ast.keyword, ast.Subscript, ast.stmt)):
            if isinstance(n, (ast.BinOp, ast.List)) or isinstance(n, ast.Call) and re.match(r"np\.(linspace|arange|array|random\.\w+)\b(?<!seed)", p.code[n.start:n.end]):
                return True
            n = n.parent
    others = set(numbers(p, {"figsize", "width_ratios", "height_ratios"}))
    yield from rescaled(rng, p, [n for n in constants(p, (int, float)) if n not in others and is_data(n)])

def chart_series_swapped(rng, p):
    """x and y of a call, or the data of two calls."""
    found = [c for c in calls(p, PLOTS - {"text", "annotate", "imshow", "add_patch", "colorbar"}) if c.args and not any(isinstance(a, ast.Starred) for a in c.args)]
    source = lambda n: p.code[n.start:n.end]
    swap = lambda a, b: [(a.start, a.end, source(b)), (b.start, b.end, source(a))]
    data_of = lambda c: ([a for a in c.args if not (isinstance(a, ast.Constant) and isinstance(a.value, str))] or c.args)[:2]
    yield from (swap(*data_of(c)) for c in found if len(data_of(c)) == 2)
    yield from (swap(data_of(a)[-1], data_of(b)[-1]) for a, b in zip(found, found[1:]) if name_of(a) == name_of(b) and a.end < b.start)

def chart_series_dropped(rng, p):
    return (removed(p, alone(p, c)) for c in calls(p, PLOTS) if alone(p, c))

def chart_legend(rng, p):
    """Dropped or moved."""
    for call in calls(p, {"legend"}):
        loc = [k.value for k in call.keywords if k.arg == "loc" and k.value in constants(p, (str,))]
        yield removed(p, alone(p, call)) if rng.random() < 0.5 and alone(p, call) else \
            inner(p, loc[0], other(rng, loc[0].value, ("upper left", "lower right", "center", "lower left"))) if loc else added(p, call, "loc='center'")

def chart_text(rng, p):
    """A title or label misread or forgotten."""
    yield from (removed(p, alone(p, c)) for c in calls(p, TEXTS - {"legend"}) if alone(p, c))
    for n in constants(p, (str,)):
        listed = isinstance(n.parent, (ast.List, ast.Tuple))
        up = n.parent.parent if listed else n.parent
        named = isinstance(up, ast.keyword) and re.search(r"label|title|^text$", up.arg or "")
        names = listed and isinstance(up, (ast.Assign, ast.Call))
        if re.search(r"[A-Za-z]{2}", n.value) and "$" not in n.value and not is_colour(n.value) and (named or names or isinstance(up, ast.Call) and name_of(up) in TEXTS):
            yield inner(p, n, reworded(rng, n.value))


def receivers(p):
    """{source of what is plotted on: the last such call that is a statement and ends its line}"""
    found = [c for c in calls(p, PLOTS) if isinstance(c.parent, ast.Expr) and isinstance(c.func, ast.Attribute) and re.compile(r"[ \t]*(\n|$)").match(p.code, c.end)]
    targets = {p.code[c.func.value.start:c.func.value.end]: c for c in found}
    return {target: c for target, c in targets.items() if "fig" not in target}


def followed(p, call, line):
    """The edit that puts a line after the one that `call` ends."""
    return [(call.end, call.end, "\n" + p.code[p.code.rfind("\n", 0, call.parent.start) + 1:call.parent.start] + line)]

def chart_limits(rng, p):
    """The range of an axis: other numbers, or none where there are some."""
    names = {"set_xlim", "set_ylim", "xlim", "ylim", "axis", "set_zlim", "set_xbound", "set_ybound", "set_xticks", "set_yticks", "set_clim"}
    for call in calls(p, names):
        yield from rescaled(rng, p, numbers_in(call))
        if alone(p, call):
            yield removed(p, alone(p, call))
    yield from rescaled(rng, p, numbers(p, {"xlim", "ylim", "vmin", "vmax", "extent", "levels", "bins"}))

def chart_scale(rng, p):
    """Linear <-> logarithmic."""
    for call in calls(p, {"set_xscale", "set_yscale", "xscale", "yscale"}):
        if call.args and call.args[0] in constants(p, (str,)):
            yield inner(p, call.args[0], other(rng, call.args[0].value, ("linear", "log")))
    for call in calls(p, {"semilogx", "semilogy", "loglog"}):
        yield renamed(call, "plot")
    for target, call in receivers(p).items():
        if name_of(call) in ("plot", "scatter", "bar", "hist", "errorbar", "step"):
            axis = rng.choice("xy")
            yield followed(p, call, f"{target}.{axis}scale('log')" if target in ("plt", "pyplot") else f"{target}.set_{axis}scale('log')")

def chart_figsize(rng, p):
    yield from rescaled(rng, p, numbers(p, {"figsize", "width_ratios", "height_ratios", "figwidth", "figheight", "dpi"}))
    for c in calls(p, {"figure", "subplots"}):
        if not given(c, "figsize") and "fig." not in p.code[c.start:c.func.end]:
            yield added(p, c, f"figsize={rng.choice(((4, 3), (8, 4), (5, 5), (10, 6)))}")

def chart_bars(rng, p):
    """Width, or bars not stacked where they should be."""
    bars = calls(p, {"bar", "barh", "hist", "violinplot", "boxplot"})
    for call in bars:
        width = {"barh": "height", "hist": "rwidth", "violinplot": "widths", "boxplot": "widths"}.get(name_of(call), "width")
        stacked = [k for k in call.keywords if k.arg in ("bottom", "left", "stacked")]
        yield from rescaled(rng, p, [k.value for k in call.keywords if k.arg == width and isinstance(k.value, ast.Constant) and type(k.value.value) in (int, float)])
        yield from ([(k.start - len(re.search(r",\s*$", p.code[:k.start])[0]), k.end, "")] for k in stacked if re.search(r",\s*$", p.code[:k.start]))
        if not given(call, width) and (name_of(call) not in ("bar", "barh") or len(call.args) < 3):
            yield added(p, call, f"{width}={rng.choice((0.3, 0.5))}")

def chart_type(rng, p):
    others = {"bar": "barh", "barh": "bar", "contourf": "contour", "contour": "contourf", "boxplot": "violinplot", "step": "plot", "pcolormesh": "contourf",
              "stem": "plot", "semilogy": "plot", "stackplot": "plot", "fill": "plot", "scatter": "plot", "plot": "step"}
    for call in calls(p, others):
        kind, data_ = name_of(call), [a for a in call.args if not (isinstance(a, ast.Constant) and isinstance(a.value, str))]
        if isinstance(call.func, ast.Attribute) and not (kind == "scatter" and given(call, "s", "c", "cmap")) and (kind != "plot" or len(data_) == 2):
            bare = kind == "plot" and len(call.args) == 2 and not given(call, "marker", "linestyle", "ls", "markersize")
            new = rng.choice(("scatter", "bar", "step")) if bare else others[kind]
            swap = {"width": "height", "height": "width"} if "bar" in kind else {}
            sides = [(k.start, k.start + len(k.arg), swap[k.arg]) for k in call.keywords if k.arg in swap]
            yield renamed(call, new) + sides

def chart_grid(rng, p):
    """Dropped, or added where there is none."""
    yield from (removed(p, alone(p, c)) for c in calls(p, {"grid"}) if alone(p, c))
    if not calls(p, {"grid"}):
        yield from (followed(p, call, f"{target}.grid(True)") for target, call in receivers(p).items())

def chart_font_size(rng, p):
    yield from rescaled(rng, p, numbers(p, {"fontsize", "labelsize", "font_size", "titlesize", "size"}))
    for c in calls(p, TEXTS - {"update_layout", "add_annotation", "set_label"}):
        if not given(c, "fontsize", "size", "prop", "fontdict"):
            yield added(p, c, f"fontsize={rng.choice((6, 16, 20))}")

def chart_rotation(rng, p):
    yield from ([(n.start, n.end, other(rng, p.code[n.start:n.end], ("0", "30", "90")))] for n in numbers(p, {"rotation", "labelrotation", "startangle", "azim", "elev"}))
    calls_ = calls(p, {"set_xticks", "xticks", "set_xticklabels", "set_xlabel", "set_ylabel", "xlabel", "ylabel", "text", "annotate"})
    yield from (added(p, c, f"rotation={rng.choice((30, 60, 90))}") for c in calls_ if not given(c, "rotation") and (len(c.args) > 1 or "label" in name_of(c)))

def chart_subplots(rng, p):
    """Two subplots exchanged: ax[0] and ax[1] wherever they stand, (left, right) where they are made, or 2 rows and 1 column."""
    places = {}
    for n in p.nodes:
        if isinstance(n, ast.Subscript) and re.search(r"ax|plot", p.code[n.value.start:n.value.end]):
            places.setdefault(p.code[n.value.start:n.value.end], {}).setdefault(p.code[n.slice.start:n.slice.end], []).append(n.slice)
        if isinstance(n, ast.Assign) and isinstance(n.value, ast.Call) and name_of(n.value) == "subplots":
            for t in ast.walk(n.targets[0]):
                pair = [e for e in getattr(t, "elts", ()) if isinstance(e, ast.Name) and e.id != "fig"]
                if len(pair) > 1:
                    a, b = rng.sample(pair, 2)
                    yield [(a.start, a.end, b.id), (b.start, b.end, a.id)]
            shape = [p.code[a.start:a.end] for a in n.value.args[:2]]
            if len(set(shape)) == 2:
                yield [(a.start, a.end, text) for a, text in zip(n.value.args, reversed(shape))]
    for slices in places.values():
        if len(slices) > 1:
            a, b = rng.sample(sorted(slices), 2)
            yield [(n.start, n.end, b) for n in slices[a]] + [(n.start, n.end, a) for n in slices[b]]

def missing_import(rng, p):
    """Fails."""
    used = {n.id for n in p.nodes if isinstance(n, ast.Name)}
    yield from (removed(p, n) for n in p.nodes if isinstance(n, (ast.Import, ast.ImportFrom)) and any((a.asname or a.name.split(".")[0]) in used for a in n.names))


def misspelt(rng, word):
    """A name with a letter forgotten or doubled, never its first."""
    i = rng.randrange(1, max(2, len(word)))
    return word[:i] + (word[i + 1:] if rng.random() < 0.5 and len(word) > 2 else word[i - 1] + word[i:])

def misspelt_keyword(rng, p):
    """Fails where the function has no such argument."""
    yield from ([(k.start, k.start + len(k.arg), misspelt(rng, k.arg))] for k in p.nodes if isinstance(k, ast.keyword) and k.arg)

def misspelt_attribute(rng, p):
    """Fails."""
    return (renamed(c, misspelt(rng, c.func.attr)) for c in p.nodes if isinstance(c, ast.Call) and isinstance(c.func, ast.Attribute))

def unequal_length(rng, p):
    """A value forgotten in a list: fails where another one has its length."""
    yield from ([(n.elts[-2].end, n.elts[-1].end, "")] for n in p.nodes if isinstance(n, ast.List) and len(n.elts) > 2)

def unclosed_bracket(rng, p):
    """Fails."""
    yield from ([(n.end - 1, n.end, "")] for n in p.nodes if isinstance(n, (ast.Call, ast.List)) and n.end)


# ------------------------------------------------------------------------------------------------------------- chemistry

SMILES = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops]|%\d\d|[-=#$:/\\.()~\d]")


def smiles(code):
    """-> the parsed Python program with .molecules: [(literal, [token, ...])] of what is or may be given to a SMILES reader."""
    p, found = python(code), []
    readers = {"MolFromSmiles", "loadMolecule", "loadSmarts", "loadQueryMolecule", "MolFromSmarts"}
    for n in constants(p, (str,)) if calls(p, readers) else ():
        tokens = SMILES.findall(n.value)
        direct = isinstance(n.parent, ast.Call) and name_of(n.parent) in readers
        if "".join(tokens) == n.value and (direct or len(n.value) > 2 and sum(t[0].isalpha() or t[0] == "[" for t in tokens) > 1):
            found.append((n, tokens))
    return SimpleNamespace(**vars(p), molecules=found)


def rewritten(p, change):
    """The edits that change(tokens, i) -> new tokens or None makes, for each place of each molecule."""
    for n, tokens in p.molecules:
        yield from (inner(p, n, "".join(new)) for i in range(len(tokens)) if (new := change(tokens, i)))


def is_atom(token):
    return token[0].isalpha() or token[0] == "["

def chem_element(rng, p):
    swaps = {"C": "NOS", "N": "COS", "O": "NSC", "S": "ON", "F": ["Cl", "Br"], "Cl": ["F", "Br"], "Br": ["Cl", "I"], "I": ["Br"],
             "c": "n", "n": "c", "s": "o", "o": "s", "P": "N"}
    return rewritten(p, lambda t, i: [*t[:i], rng.choice(swaps[t[i]]), *t[i + 1:]] if t[i] in swaps else None)

def chem_bond(rng, p):
    """Double -> single, triple -> double, single -> double."""
    def change(t, i):
        if t[i] in "=#":
            return [*t[:i], {"=": "", "#": "="}[t[i]], *t[i + 1:]]
        return [*t[:i + 1], "=", *t[i + 1:]] if t[i] in "CN" and i + 1 < len(t) and t[i + 1] in "CNO" else None
    return rewritten(p, change)

def chem_dropped(rng, p):
    """A branch or an end atom forgotten."""
    def change(t, i):
        if t[i] == "(":
            depth, end = 1, i
            while depth and end + 1 < len(t):
                end += 1
                depth += {"(": 1, ")": -1}.get(t[end], 0)
            branch = t[i:end + 1]
            return t[:i] + t[end + 1:] if all(branch.count(r) % 2 == 0 for r in set(branch) if r.isdigit()) else None
        if i == len(t) - 1 and is_atom(t[i]) and i:
            return t[:i - (t[i - 1] in "=#-")]
        return t[1:] if i == 0 and len(t) > 1 and is_atom(t[0]) and is_atom(t[1]) else None
    return rewritten(p, change)

def chem_added(rng, p):
    """A substituent too many."""
    return rewritten(p, lambda t, i: [*t[:i + 1], f"({rng.choice(('C', 'O', 'N', 'F', 'Cl', 'C=O'))})", *t[i + 1:]]
                     if t[i] in "Cc" and not (i + 1 < len(t) and (t[i + 1].isdigit() or t[i + 1] in "=#%")) else None)

def chem_stereo(rng, p):
    """A stereo mark forgotten or inverted."""
    def change(t, i):
        if t[i] in "/\\":
            return [*t[:i], {"/": "\\", "\\": "/"}[t[i]] if rng.random() < 0.5 else "", *t[i + 1:]]
        return [*t[:i], t[i].replace("@@", "@") if "@@" in t[i] and rng.random() < 0.5 else t[i].replace("@", ""), *t[i + 1:]] if "@" in t[i] else None
    return rewritten(p, change)

def chem_ring(rng, p):
    """A ring, or a chain, one atom larger or smaller."""
    def change(t, i):
        if t[i] == "C" and 0 < i < len(t) - 1 and is_atom(t[i + 1]):
            return t[:i] + t[i + 1:] if rng.random() < 0.5 else [*t[:i], "C", *t[i:]]
    return rewritten(p, change)

def chem_size(rng, p):
    """The size of the drawing."""
    sizes = numbers(p, {"size", "subImgSize", "molSize", "width", "height", "molsPerRow"})
    sizes += [a for c in p.nodes if isinstance(c, ast.Call) and re.search("Draw2D|setOption|thumbnail|resize", name_of(c)) for a in ast.walk(c)
              if isinstance(a, ast.Constant) and type(a.value) is int and "Align" not in p.code[c.start:c.end]]
    yield from rescaled(rng, p, sizes)
    yield from (added(p, c, "size=(250, 200)") for c in calls(p, {"MolToImage"}) if not given(c, "size") and len(c.args) == 1)

def broken_smiles(rng, p):
    """Fails: a ring or a branch is not closed."""
    return rewritten(p, lambda t, i: t[:i] + t[i + 1:] if t[i].isdigit() or t[i] in "()" else None)


# ---------------------------------------------------------------------------------------------------------- HTML and SVG

SHAPES = ("g", "path", "rect", "circle", "ellipse", "polygon", "text", "use")
VOID = set("area base br col embed hr img input link meta source track wbr".split())
ATTRIBUTE = re.compile(r"""\s([^\s=/>"']+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>"']+))?""")


def tree_of(code, events):
    """Events (kind, tag, start, end) in order -> code, elements and styles (the CSS declarations).

    An element: tag, parent, children; start; named, opened: the ends of the tag's name and of the start tag; closing, end:
    start and end of the end tag; end is None for an element that is never closed. attributes: {name: (start, end, start of
    the value, its end)}.
    """
    root = SimpleNamespace(tag="", children=[], parent=None, end=None, opened=0, closing=len(code), attributes={})
    stack, elements = [root], []
    for kind, tag, start, end in events:
        if kind == "end":
            if any(e.tag == tag for e in stack[1:]):
                while (element := stack.pop()).tag != tag:
                    pass
                element.closing, element.end = start, end
            continue
        element = SimpleNamespace(tag=tag, start=start, named=start + 1 + len(tag), opened=end, closing=end, end=None if kind == "start" else end,
                                  parent=stack[-1], children=[], attributes={})
        for m in ATTRIBUTE.finditer(code, element.named, end):
            quoted = (m[2] or "")[:1] in ("'", '"') and m[2]
            element.attributes.setdefault(m[1].lower(), (m.start(), m.end(), m.start(2) + bool(quoted) if m[2] else m.end(), m.end() - bool(quoted)))
        stack[-1].children.append(element)
        elements.append(element)
        if kind == "start":
            stack.append(element)
    styles = []
    for e in elements:
        if e.tag == "style" and e.end:
            styles += declarations(code, e.opened, e.closing)
        if "style" in e.attributes:
            styles += declarations(code, *e.attributes["style"][2:])
    return SimpleNamespace(code=code, elements=elements, styles=styles)


def declarations(code, start, end):
    """The CSS declarations in a part of the code: name, start, end (past the semicolon), tokens [(token, start, end)].

    Those of :hover, print and keyframes are left out: no picture shows them.
    """
    css, found = code[start:end], []
    starts = [0] + [m.end() for m in re.finditer("\n", css)]
    place = lambda node: start + starts[node.source_line - 1] + node.source_column - 1

    def tokens(values):
        for t in values:
            text = t.serialize()
            if t.type not in ("whitespace", "comment") and code.startswith(text, place(t)):
                yield t, place(t), place(t) + len(text)
            if t.type == "function":
                yield from tokens(t.arguments)

    def visit(nodes):
        for node in nodes:
            if node.type == "declaration" and (parts := list(tokens(node.value))):
                last = max(e for _, _, e in parts)
                tail = re.compile(r"\s*(?:!\s*important\s*)?;?").match(code, last, end)
                found.append(SimpleNamespace(name=node.lower_name, start=place(node), end=tail.end(), tokens=parts))
            elif node.type == "qualified-rule" and not re.search(":(hover|focus|active|visited|disabled)", tinycss2.serialize(node.prelude)) or (
                    node.type == "at-rule" and node.content and node.lower_at_keyword in ("media", "supports", "layer") and "print" not in tinycss2.serialize(node.prelude)):
                visit(tinycss2.parse_blocks_contents(node.content))
    visit(tinycss2.parse_blocks_contents(css))
    return found


@lru_cache(8)
def html(code):
    parser, events = HTMLParser(convert_charrefs=False), []
    starts = [0] + [m.end() for m in re.finditer("\n", code)]
    here = lambda: starts[parser.getpos()[0] - 1] + parser.getpos()[1]
    start = lambda kind: lambda tag, _: events.append((kind if tag not in VOID else "empty", tag, here(), here() + len(parser.get_starttag_text())))
    parser.handle_starttag, parser.handle_startendtag = start("start"), start("empty")
    parser.handle_endtag = lambda tag: events.append(("end", tag, here(), code.find(">", here()) + 1))
    parser.feed(code)
    return tree_of(code, events)


@lru_cache(8)
def svg(code):
    """Raises ExpatError where the code is no XML, ValueError where it declares entities."""
    raw, events, parser = code.encode(), [], expat.ParserCreate("utf-8")
    here = lambda: parser.CurrentByteIndex if len(raw) == len(code) else len(raw[:parser.CurrentByteIndex].decode())  # expat counts bytes

    def start(tag, _):
        end = re.compile(r"""(?:[^>"']|"[^"]*"|'[^']*')*>""").match(code, here()).end()
        events.append(("empty" if code[end - 2] == "/" else "start", tag, here(), end))

    def refuse(*_):
        raise ValueError("entities")
    parser.StartElementHandler, parser.EntityDeclHandler = start, refuse
    parser.EndElementHandler = lambda tag: code.startswith("</", here()) and events.append(("end", tag, here(), code.find(">", here()) + 1))
    parser.Parse(raw, True)
    return tree_of(code, events)


def valued(t, pattern):
    """[(start, end, text)] of the attribute values whose names match."""
    found = [v[2:] for e in t.elements for name, v in e.attributes.items() if re.fullmatch(pattern, name)]
    return [(a, b, t.code[a:b]) for a, b in found if a < b]


def css_numbers(rng, t, pattern):
    return [[(a, a + len(token.representation), scaled(rng, token.representation))] for d in t.styles if re.fullmatch(pattern, d.name) for token, a, _ in d.tokens
            if token.type in ("dimension", "percentage", "number") and token.value]


def css_words(rng, t, pattern, *groups):
    """A keyword exchanged for another one of its group."""
    places = [(a, b) for d in t.styles if re.fullmatch(pattern, d.name) for _, a, b in d.tokens]
    return [[(a, b, other(rng, t.code[a:b], group.split()))] for a, b in places for group in groups if t.code[a:b] in group.split()]


def whole(elements):
    """Those that are drawn and closed."""
    hidden = ("head", "defs", "clipPath", "style", "script", "title", "meta", "link")
    return [e for e in elements if e.end and e.tag not in (*hidden, "html", "body", "svg") and e.parent.tag not in hidden]

def node_dropped(rng, t):
    return ([(e.start, e.end, "")] for e in whole(t.elements))

def node_duplicated(rng, t):
    return ([(e.end, e.end, "\n" + t.code[e.start:e.end])] for e in whole(t.elements))

def node_swapped(rng, t):
    """Two neighbours exchanged: in SVG what is in front, in HTML what comes first."""
    for e in t.elements:
        nodes = whole(e.children)
        yield from ([(a.start, a.end, t.code[b.start:b.end]), (b.start, b.end, t.code[a.start:a.end])] for a, b in zip(nodes, nodes[1:]))

def node_text(rng, t):
    for e in whole(t.elements):
        if all(c.end for c in e.children):
            edges = [e.opened, *(x for c in e.children for x in (c.start, c.end)), e.closing]
            for a, b in zip(edges[::2], edges[1::2]):
                text = t.code[a:b].strip()
                if re.search(r"\w", text) and not re.search("[<>&]", text):
                    at = t.code.index(text, a)
                    yield [(at, at + len(text), reworded(rng, text))]

def node_colour(rng, t):
    """Of a CSS declaration or an attribute; an SVG shape without one gets one."""
    for d in t.styles:
        if re.search("color|background|border|fill|stroke|shadow|outline|^--", d.name):
            yield from ([(a, b, recoloured(rng, t.code[a:b]))] for token, a, b in d.tokens if token.type in ("hash", "ident", "function") and is_colour(t.code[a:b]))
    for a, b, text in valued(t, "fill|stroke|stop-color|flood-color|bgcolor|color"):
        if is_colour(text) or text == "currentColor":
            yield [(a, b, recoloured(rng, text))]
    for e in whole(t.elements):
        if e.tag in SHAPES and not {"fill", "class", "style", "stroke"} & set(e.attributes):
            up = e
            while up.parent and not {"stroke", "style"} & set(up.attributes):
                up = up.parent
            yield [(e.named, e.named, f' {"stroke" if "stroke" in up.attributes else "fill"}="{rng.choice(COLOURS)}"')]

def node_attribute(rng, t):
    """An attribute forgotten."""
    kept = "lang|charset|name|content|rel|http-equiv|xmlns.*|viewbox|version|data-.*|aria-.*|id|on.*|type|href|alt|title|d|points|width|height|method|action|for"
    return ([(a, b, "")] for e in t.elements if e.tag not in ("meta", "link", "script", "html") for name, (a, b, *_) in e.attributes.items()
            if not re.fullmatch(kept, name) and (name != "class" or t.styles))

def web_font_size(rng, t):
    return css_numbers(rng, t, "font-size|font|line-height|letter-spacing")

def web_font_style(rng, t):
    yield from css_words(rng, t, "font.*|text.*", "bold normal", "600 400", "700 400", "500 800", "italic normal", "uppercase none lowercase", "underline none",
                         "sans-serif serif monospace")
    yield from ([(e.start + 1, e.named, new), (e.closing + 2, e.closing + 2 + len(e.tag), new)] for e in whole(t.elements)
                for new in [{"h1": "h3", "h2": "h4", "h3": "p", "strong": "span", "b": "span", "p": "h3", "em": "span"}.get(e.tag)] if new)

def web_spacing(rng, t):
    return css_numbers(rng, t, "(margin|padding)(-.*)?|gap|row-gap|column-gap|border-spacing|top|left|right|bottom|inset")

def web_layout(rng, t):
    """Direction, alignment, position."""
    yield from css_words(rng, t, "flex.*|display", "row column", "flex block", "grid block", "inline-block block", "wrap nowrap", "inline-flex block", "none block")
    yield from css_words(rng, t, "justify-.*|align-.*|place-.*", "center flex-start flex-end", "space-between center flex-start", "space-around flex-start")
    yield from css_words(rng, t, "text-align|float|position|vertical-align", "left right center", "absolute static", "relative static", "top bottom middle")

def web_width(rng, t):
    yield from css_numbers(rng, t, "(max-|min-)?(width|height)|flex-basis|flex|grid-template-columns")
    yield from ([(a, b, scaled(rng, text))] for a, b, text in valued(t, "width|height|colspan|rowspan|cols|rows") if NUMBER.fullmatch(text))

def web_border(rng, t):
    yield from css_numbers(rng, t, "border.*|outline")
    yield from css_words(rng, t, "border.*", "solid dashed dotted")

def web_declaration(rng, t):
    """A declaration forgotten."""
    return ([(d.start, d.end, "")] for d in t.styles if not re.match("transition|animation|cursor|outline|-", d.name))

def web_class(rng, t):
    """One of an element's classes misspelt or forgotten."""
    for a, b, text in valued(t, "class"):
        word = rng.choice(text.split() or ["x"])
        at = a + text.index(word) if word in text else a
        yield [(at, at + len(word), other(rng, word, (misspelt(rng, word), word + "s", "")))]

def web_unclosed(rng, t):
    return ([(e.closing, e.end, "")] for e in whole(t.elements) if e.closing < e.end)


def shape_numbers(t, pattern):
    """[(start, end, digits)] of the numbers in the attributes that match."""
    return [(a + m.start(), a + m.end(), m[0]) for a, _, text in valued(t, pattern) for m in NUMBER.finditer(text)]


def set_apart(t, a, b, text):
    """The edit that writes a number, not run together with its neighbours: in a path, 7.6-1.5 and 1.5.5 are two numbers each."""
    before = " " if re.match(r"[\d.]", t.code[a - 1]) and text[0] != "-" else ""
    return a, b, before + text + (" " if re.match(r"[\d.]", t.code[b]) else "")


def canvas(t):
    box = [float(n) for n in NUMBER.findall("".join(text for _, _, text in valued(t, "viewbox")[:1]))]
    return max(box[2:4]) if len(box) == 4 else max([float(n) for _, _, n in shape_numbers(t, "width|height")] or [100])

def svg_stroke_width(rng, t):
    yield from ([(a, b, scaled(rng, n))] for a, b, n in shape_numbers(t, "stroke-width"))
    yield from css_numbers(rng, t, "stroke-width")

def svg_transform(rng, t):
    yield from ([set_apart(t, a, b, scaled(rng, n))] for a, b, n in shape_numbers(t, "transform|gradienttransform"))
    side = canvas(t) / 8
    yield from ([(e.named, e.named, f' transform="{rng.choice((f"translate({side:g} 0)", f"translate(0 {-side:g})", "scale(0.8)", "rotate(15)"))}"')]
                for e in whole(t.elements) if "transform" not in e.attributes and e.tag in SHAPES)

def svg_viewbox(rng, t):
    for a, b, text in valued(t, "viewbox"):
        box = NUMBER.findall(text)
        if len(box) == 4:
            x, y, w, h = map(float, box)
            k = rng.choice((0.7, 0.8, 1.25, 1.5))
            new = rng.choice(((x + w / 8, y, w, h), (x, y - h / 8, w, h), (x, y, w * k, h * k)))
            yield [(a, b, " ".join(f"{v:g}" for v in new))]

def svg_coordinate(rng, t):
    """A number moved by 6 to 25 % of the canvas."""
    side = canvas(t)
    for a, b, n in shape_numbers(t, "x|y|cx|cy|x1|x2|y1|y2|width|height|points|d"):
        new = float(n) + rng.choice((-1, 1)) * rng.uniform(0.06, 0.25) * side
        yield [set_apart(t, a, b, f"{new:.{min(3, len(n.partition('.')[2]))}f}")]

def svg_radius(rng, t):
    return ([(a, b, scaled(rng, n))] for a, b, n in shape_numbers(t, "r|rx|ry"))

def svg_opacity(rng, t):
    yield from ([(a, b, other(rng, n, ("0.3", "0.6", "1")))] for a, b, n in shape_numbers(t, ".*opacity"))
    yield from ([(e.named, e.named, ' opacity="0.4"')] for e in whole(t.elements) if "opacity" not in e.attributes and e.tag in SHAPES)

def svg_rounded(rng, t):
    """All decimals of a path rounded away."""
    for a, b, text in valued(t, "d|points|transform"):
        def rounded(m):
            joined = text[m.start() - 1:m.start()] in list(".0123456789")  # 1.5.5 are two numbers
            return m[0] if "." not in m[0] else " " * (joined and float(m[0]) >= -0.5) + str(round(float(m[0])))
        yield [(a, b, NUMBER.sub(rounded, text))]

def svg_path(rng, t):
    """A part of a path forgotten, or an absolute command taken for a relative one."""
    for a, _, text in valued(t, "d"):
        commands = [(m.start(), m.end()) for m in re.finditer(r"[a-zA-Z][^a-zA-Z]*", re.sub("[eE](?=[-+]?\\d)", "0", text))]
        yield from ([(a + s, a + e, "")] for s, e in commands[1:] if text[s] not in "zZ")
        yield from ([(a + s, a + s + 1, text[s].swapcase())] for s, _ in commands[1:] if text[s] not in "zZ")

def svg_unclosed(rng, t):
    """Fails."""
    return ([(e.closing, e.end, "")] if e.closing < e.end else [(e.end - 2, e.end - 1, "")] for e in t.elements if e.end)

def svg_unquoted(rng, t):
    """Fails."""
    return ([(b - 1, b, "")] for e in t.elements for _, b, start, end in e.attributes.values() if end < b)


# ----------------------------------------------------------------------------------------------------------------- LaTeX

TEX = re.compile(r"(?P<comment>%[^\n]*)|(?P<command>\\(?:[a-zA-Z@]+\*?|.))|(?P<number>\d+\.?\d*|\.\d+)|(?P<word>[A-Za-z]+)|(?P<space>\s+)|(?P<mark>.)", re.S)
STATEMENTS = set("\\draw \\node \\fill \\path \\filldraw \\addplot \\shade \\shadedraw \\pattern".split())
TEX_COLOURS = set(COLOURS) | set("yellow white cyan violet olive lime pink darkgray lightgray gray".split())
GREEK = "\\alpha \\beta \\gamma \\delta \\theta \\lambda \\mu \\pi \\rho \\sigma \\phi \\psi \\omega \\epsilon \\varphi".split()
OPENER = {"}": "{", "]": "[", ")": "("}


@lru_cache(8)
def latex(code):
    """-> code and its tokens: kind, text, start, end; before: the token before, without spaces; opener: the token that opens the
    group it is in, or None; of those that open one, partner and items; math, drawn (in a tikzpicture), body: is it in there?"""
    tokens, stack, math, environments, dollar = [], [], [], [], False
    body = code.find("\\begin{document}")
    last = None
    for m in TEX.finditer(code):
        t = SimpleNamespace(kind=m.lastgroup, text=m[0], start=m.start(), end=m.end(), partner=None, before=last, items=[])
        if t.text in OPENER and any(o.text == OPENER[t.text] for o in stack) and (t.text == "}" or stack[-1].text == OPENER[t.text]):
            while (o := stack.pop()).text != OPENER[t.text]:
                pass
            o.partner, t.partner = t, o
            name = code[o.end:t.start]
            if t.text == "}" and o.before and o.before.text == "\\begin":
                environments.append(name)
            elif t.text == "}" and o.before and o.before.text == "\\end" and name in environments:
                environments.remove(name)
        t.opener = stack[-1] if stack else None
        if t.opener:
            t.opener.items.append(t)
        if t.text in ("\\[", "\\(", "\\]", "\\)"):
            math = [1] if t.text in ("\\[", "\\(") else []
        dollar ^= t.text == "$"
        t.math = bool(math or dollar or any(re.match("equation|align|gather|eqn|math|.*matrix|cases", e) for e in environments))
        t.drawn, t.body = "tikzpicture" in environments, t.start > body
        if t.text in ("{", "[", "("):
            stack.append(t)
        if t.kind not in ("space", "comment"):
            last = t
        tokens.append(t)
    tokens = [t for t in tokens if t.kind != "comment"]
    if "tikz" not in code and "$" not in code and "\\[" not in code and body < 0:
        for t in tokens:  # a bare formula
            t.math = True
    return SimpleNamespace(code=code, tokens=tokens)


def enclosing(t):
    while t := t.opener:
        yield t


def options(p):
    """[(start, end, text, opener)] of the items of option lists: [...] and {...} after `style=`."""
    for o in p.tokens:
        style = o.text == "{" and re.search(r"(style\s*=|\\tikzset|\\pgfplotsset)\s*$", p.code[max(0, o.start - 20):o.start])
        if o.partner and (o.text == "[" and not o.math or style) and o.start < o.partner.start:
            edges = [o.end - 1, *(t.start for t in o.items if t.text == "," and t.opener is o), o.partner.start]
            for a, b in zip(edges, edges[1:]):
                text = p.code[a + 1:b]
                start = a + 1 + len(text) - len(text.lstrip())
                yield start, start + len(text.strip()), text.strip(), o


def statements(p, names=STATEMENTS):
    """[(command, its semicolon)]"""
    for i, t in enumerate(p.tokens):
        if t.text in names:
            end = next((u for u in p.tokens[i:] if u.text == ";" and u.opener is t.opener), None)
            if end:
                yield t, end


def styled(rng, p, choices, names=STATEMENTS):
    """The edits that give a statement one more option."""
    for t, _ in statements(p, names):
        new = rng.choice(choices)
        bracket = next((u for u in p.tokens if u.before is t and u.text == "[" and u.partner), None)
        yield [(bracket.partner.start, bracket.partner.start, ", " + new)] if bracket else [(t.end, t.end, f"[{new}]")]

def latex_colour(rng, p):
    for t in p.tokens:
        grouped = [o for o in enclosing(t) if o.text == "[" or o.before and o.before.text in ("\\color", "\\textcolor", "=", "\\pagecolor", "\\tikzset", "\\colorbox")]
        if t.kind == "word" and t.text in TEX_COLOURS and grouped:
            yield [(t.start, t.end, other(rng, t.text, COLOURS))]
    yield from styled(rng, p, COLOURS, STATEMENTS - {"\\path"})

def latex_coordinate(rng, p):
    for t in p.tokens:
        place = t.drawn and not t.math and t.opener and t.opener.text == "(" and any(u.text in ",:" for u in t.opener.items)
        if place and t.kind == "number" and p.code[t.start - 1] in " (,:*+-":
            polar = p.code[t.end:t.end + 1] == ":"
            new = float(t.text) + (rng.choice((20, 45, 90)) if polar else rng.choice((-1, 1)) * rng.choice((0.4, 0.8, 1.5)) * max(1, float(t.text) / 4))
            yield [(t.start - (p.code[t.start - 1] == "-"), t.end, f"{new if p.code[t.start - 1] != '-' else -new:.2f}".rstrip("0").rstrip("."))]

def latex_text(rng, p):
    """A word of a node, a label or a paragraph."""
    for t in p.tokens:
        o = t.opener
        if t.kind == "word" and t.body and not t.math and not any(e.text != "{" for e in enclosing(t)):
            node = o and re.search(r"(\bnode\b[^{};]*|(title|label|legend)\s*=\s*)$", p.code[max(0, o.start - 300):o.start])
            named = o and o.before and re.fullmatch(r"\\(legend|addlegendentry|text\w*|emph|section\*?|caption|title|scriptsize|small|footnotesize|item)", o.before.text)
            if node and t.drawn or named or not o and not t.drawn and len(t.text) > 2 or o and not o.before and t.math:
                yield [(t.start, t.end, other(rng, t.text, WORDS) if len(t.text) > 1 else other(rng, t.text, "ABCXYZ"))]

def latex_arrow(rng, p):
    """Dropped, turned round, or of another kind."""
    for a, b, text, _ in options(p):
        if re.fullmatch(r"[\w.>|<']*-[\w.>|<']*", text) and (re.search("[<>|]", text) or re.search("(?i)stealth|latex|to\\b", text)):
            yield [(a, b, other(rng, text, ("->", "<-", "-", "<->")))]

def latex_line(rng, p):
    for a, b, text, _ in options(p):
        for group in (("thin", "thick", "very thick", "ultra thick", "ultra thin", "very thin", "semithick"), ("dashed", "dotted", "solid", "densely dashed")):
            if text in group:
                yield [(a, b, other(rng, text, group))]
        if re.match(r"line width\s*=", text) and (m := NUMBER.search(text)):
            yield [(a + m.start(), a + m.end(), scaled(rng, m[0]))]
    yield from styled(rng, p, ("dashed", "dotted", "ultra thick"), {"\\draw", "\\addplot", "\\filldraw"})

def latex_dropped(rng, p):
    for t, end in statements(p):
        names = re.findall(r"\(([A-Za-z]\w*)\)", p.code[t.start:end.end]) if t.text == "\\node" else ()
        if any(len(re.findall(rf"\b{name}\b", p.code)) > 1 for name in names):
            continue  # others refer to it
        start, stop = p.code.rfind("\n", 0, t.start) + 1, p.code.find("\n", end.end) + 1
        whole_line = not p.code[start:t.start].strip() and not re.sub("%.*", "", p.code[end.end:stop]).strip()
        yield [(start, stop, "") if whole_line else (t.start, end.end, "")]

def latex_scale(rng, p):
    for a, b, text, _ in options(p):
        if re.match(r"([xy]?scale|[xyz]|rotate|[xy]?shift|width|height|node distance|text width|font)\s*=", text) and (m := re.search(r"\d+\.?\d*", text)):
            yield [(a + m.start(), a + m.end(), scaled(rng, m[0]))]
    for m in re.finditer(r"\\begin\{tikzpicture\}(\s*\[)?", p.code):
        new = rng.choice(("scale=0.7", "scale=1.4", "xscale=1.3", "yscale=0.7"))
        yield [(m.end(), m.end(), new + ", " if m[1] else f"[{new}]")]

def latex_option(rng, p):
    """An option forgotten, or its number misread."""
    for a, b, text, o in options(p):
        if o.body or o.text == "{":
            comma = re.compile(r"\s*,\s*").match(p.code, b)  # a blank line must not be left
            if text and "style" not in text and comma:
                yield [(a, comma.end(), "")]
            yield from ([(a + m.start(), a + m.end(), scaled(rng, m[0]))] for m in re.finditer(r"(?<![\w!#\\])\d+\.?\d*", text) if "=" in text)

def latex_place(rng, p):
    """On the other side: above, below, left, right, north, ..."""
    for t in p.tokens:
        for pair in (("above", "below"), ("left", "right"), ("north", "south"), ("east", "west")):
            if t.text in pair and t.drawn and not t.math and any(o.text in "[(" for o in enclosing(t)):
                yield [(t.start, t.end, other(rng, t.text, pair))]

def latex_math(rng, p):
    """A number, letter or operator of a formula misread."""
    for t in p.tokens:
        o = t.opener
        named = o and o.before and re.fullmatch(r"\\(text\w*|begin|end|math\w+|operatorname|label|color|usepackage|documentclass|[mhv]\w+)", o.before.text)
        if t.math and t.body and not named:
            if t.kind == "number":
                yield [(t.start, t.end, other(rng, t.text, [str(int(float(t.text)) + d) for d in (1, 2, 7)]))]
            elif t.kind == "word":
                i = rng.randrange(len(t.text))
                yield [(t.start + i, t.start + i + 1, other(rng, t.text[i], "abxyzn" if t.text[i].islower() else "ABXYZN"))]
            elif t.text in GREEK or t.text in "+-=<>" or t.text in "^_":
                group = GREEK if t.text in GREEK else "+-=<>" if t.text in "+-=<>" else "^_"
                yield [(t.start, t.end, other(rng, t.text, group))]

def latex_library(rng, p):
    """Fails: a package or library forgotten that is needed."""
    yield from ([(m.start(), m.end(), "")] for m in re.finditer(r"\\use(?:tikzlibrary|package|pgfplotslibrary)(?:\[[^\]]*\])?\{[^}]*\}\n?", p.code))

def latex_brace(rng, p):
    """Fails."""
    yield from ([(t.start, t.end, "")] for t in p.tokens if t.text in ("{", "}"))

def latex_command(rng, p):
    """Fails."""
    yield from ([(t.start + 1, t.end, misspelt(rng, t.text[1:]))] for t in p.tokens if t.kind == "command" and len(t.text) > 3 and t.body and t.text[-1].isalpha())

OPERATORS = {
    "chart": (python, chart_colour, chart_colormap, chart_marker, chart_line, chart_opacity, chart_data, chart_series_swapped, chart_series_dropped, chart_legend,
              chart_text, chart_limits, chart_scale, chart_figsize, chart_bars, chart_type, chart_grid, chart_font_size, chart_rotation, chart_subplots,
              missing_import, misspelt_keyword, misspelt_attribute, unequal_length, unclosed_bracket),
    "chem": (smiles, chem_element, chem_bond, chem_dropped, chem_added, chem_stereo, chem_ring, chem_size, broken_smiles,
             missing_import, misspelt_attribute, unclosed_bracket),
    "web": (html, node_colour, node_dropped, node_duplicated, node_swapped, node_text, node_attribute, web_font_size, web_font_style, web_spacing, web_layout, web_width,
            web_border, web_declaration, web_class, web_unclosed),
    "svg": (svg, node_colour, node_dropped, node_swapped, node_text, node_attribute, svg_stroke_width, svg_transform, svg_viewbox, svg_coordinate, svg_radius,
            svg_opacity, svg_rounded, svg_path, svg_unclosed, svg_unquoted),
    "latex": (latex, latex_colour, latex_coordinate, latex_text, latex_arrow, latex_line, latex_dropped, latex_scale, latex_option, latex_place,
              latex_math, latex_library, latex_brace, latex_command),
}
OPERATORS = {domain: [operator(parse, possible) for possible in those] for domain, (parse, *those) in OPERATORS.items()}
FAILING = set("missing_import misspelt_keyword misspelt_attribute unequal_length unclosed_bracket broken_smiles svg_unclosed svg_unquoted "
              "latex_library latex_brace latex_command".split())


def mutate(rng, domain, code, n=1, failing=False):
    """-> (code after n operators, their names joined by "+", their changes joined by "; "), fewer where fewer apply; None where none does.

    failing: the last of them is one of FAILING; else none is.
    """
    names, changes = [], []
    plain, broken = ([o for o in OPERATORS.get(domain, ()) if (o.__name__ in FAILING) == kind] for kind in (False, True))
    for wanted, group in ((n - failing, plain), (int(failing), broken)):
        for apply in rng.sample(group, len(group)):
            if wanted and (found := apply(rng, code)):
                code, wanted = found[0], wanted - 1
                names.append(apply.__name__)
                changes.append(found[1])
    return (code, "+".join(names), "; ".join(changes)) if names and (not failing or names[-1] in FAILING) else None
