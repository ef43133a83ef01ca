"""Defects of Python programs: charts, and molecules drawn by RDKit and Indigo. An operator is described in defects.py."""
import ast
import re
import warnings
from functools import lru_cache
from types import SimpleNamespace

from mistakes import COLOURS, NUMBER, is_colour, misspelt, other, recoloured, reworded, scaled

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


CHART = (chart_colour, chart_colormap, chart_marker, chart_line, chart_opacity, chart_data, chart_series_swapped,
         chart_series_dropped, chart_legend, chart_text, chart_limits, chart_scale, chart_figsize, chart_bars,
         chart_type, chart_grid, chart_font_size, chart_rotation, chart_subplots, missing_import, misspelt_keyword,
         misspelt_attribute, unequal_length, unclosed_bracket)
CHEM = (chem_element, chem_bond, chem_dropped, chem_added, chem_stereo, chem_ring, chem_size, broken_smiles,
        missing_import, misspelt_attribute, unclosed_bracket)
