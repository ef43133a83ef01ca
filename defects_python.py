"""Defects of Python programs that draw charts, or fail. What an operator is: defects.py."""
import ast
import re

from defects_tree import (added, alone, calls, dropped, followed, given, inner, is_number, is_text, keywords, listed,
                          name_of, numbers, numbers_in, removed, renamed, rescaled, source, swapped)
from mistakes import COLOURS, is_colour, misspelt, other, recoloured, reworded

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


# ---------------------------------------------------------------------------------------------- what is in a chart

def data_of(call):
    """The arguments of a call by position that are no texts."""
    return [a for a in call.args if not is_text(a)]


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
    """{source of what is plotted on, no figure: the last such call that is a statement and ends its line}"""
    ends = re.compile(r"[ \t]*(\n|$)")
    found = {source(p, c.func.value): c for c in calls(p, PLOTS) if isinstance(c.parent, ast.Expr)
             and isinstance(c.func, ast.Attribute) and ends.match(p.code, c.end)}
    return {target: c for target, c in found.items() if "fig" not in target}


def regrouped(p, node, match, group, new):
    """The edit that puts `new` in place of one group of a format string."""
    return inner(p, node, node.value[:match.start(group)] + new + node.value[match.end(group):])


# -------------------------------------------------------------------------------------------------------------- charts

def chart_colour(rng, p):
    """A wrong colour, by name or in a format string; a plot without any gets one. No edit where there is neither."""
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
    """A wrong colormap; a call that maps values and names none gets one. No edit where no values are mapped."""
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
    """A wrong marker; a line or scatter plot without any gets one. No edit where there is neither."""
    for k in keywords(p, {"marker"}):
        if k.value in p.strings:
            yield inner(p, k.value, other(rng, k.value.value, "osx^D"))
    for n, m in formats(p):
        yield regrouped(p, n, m, "marker", other(rng, m["marker"], "osx^D"))
    for call in unformatted(p, {"plot", "scatter"}, "marker"):
        yield added(p, call, f"marker='{rng.choice('osx^D')}'")


def chart_line(rng, p):
    """A wrong style or width of lines, or size of markers; a line that gives none gets one. No edit without any."""
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
    """A wrong alpha; a plot without one gets 0.3. No edit where there is neither."""
    yield from rescaled(rng, p, [n for n in numbers(p, {"alpha"}) if n.value])
    for call in calls(p, {"plot", "scatter", "bar", "barh", "hist", "fill_between", "imshow", "contourf"}):
        if not given(call, "alpha"):
            yield added(p, call, "alpha=0.3")


def chart_data(rng, p):
    """A number of the data misread, in a list or a formula."""
    makes = re.compile(r"np\.(linspace|arange|array|random\.\w+)\b(?<!seed)")

    def is_data(n):
        while n and not isinstance(n, (ast.keyword, ast.Subscript, ast.stmt)):
            if isinstance(n, (ast.BinOp, ast.List)) or isinstance(n, ast.Call) and makes.match(source(p, n)):
                return True
            n = n.parent

    others = set(numbers(p, {"figsize", "width_ratios", "height_ratios"}))
    return rescaled(rng, p, [n for n in p.nodes if is_number(n) and n not in others and is_data(n)])


def chart_series_swapped(rng, p):
    """x and y of a call exchanged, or the data of two calls of one kind."""
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
    """A series, line, text or colour bar forgotten. No edit where the values of all such calls are used."""
    return dropped(p, PLOTS)


def chart_legend(rng, p):
    """The legend forgotten or moved."""
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
    """An axis linear in place of logarithmic, or the other way round."""
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
    """A wrong size, dpi or ratio of subplots; a figure without a size gets one. No edit where nothing of it is made."""
    names = {"figsize", "width_ratios", "height_ratios", "figwidth", "figheight", "dpi"}
    yield from rescaled(rng, p, numbers(p, names))
    for call in calls(p, {"figure", "subplots"}):
        if not given(call, "figsize") and "fig." not in p.code[call.start:call.func.end]:
            yield added(p, call, f"figsize={rng.choice(((4, 3), (8, 4), (5, 5), (10, 6)))}")


def chart_bars(rng, p):
    """Bars, boxes or violins of another width, or not stacked where they should be."""
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
    """The same data as another kind of chart. No edit without a kind that has another with its arguments."""
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
    """The grid forgotten, or added where there is none."""
    yield from dropped(p, {"grid"})
    if not calls(p, {"grid"}):
        for target, call in receivers(p).items():
            yield followed(p, call, f"{target}.grid(True)")


def chart_font_size(rng, p):
    """A wrong font size; a title, label, text or legend without one gets 6, 16 or 20. No edit without any."""
    yield from rescaled(rng, p, numbers(p, {"fontsize", "labelsize", "font_size", "titlesize", "size"}))
    for call in calls(p, TEXTS - {"update_layout", "add_annotation", "set_label"}):
        if not given(call, "fontsize", "size", "prop", "fontdict"):
            yield added(p, call, f"fontsize={rng.choice((6, 16, 20))}")


def chart_rotation(rng, p):
    """Ticks, labels, a pie or a 3D view at a wrong angle; ticks and labels without one get one. No edit without any."""
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


# --------------------------------------------------------------------------------------------------- programs that fail

def missing_import(rng, p):
    """Fails: an import forgotten, one of whose names is used. No edit where there is none."""
    used = {n.id for n in p.nodes if isinstance(n, ast.Name)}
    for n in p.nodes:
        if isinstance(n, (ast.Import, ast.ImportFrom)):
            if any((a.asname or a.name.split(".")[0]) in used for a in n.names):
                yield removed(p, n)


def misspelt_keyword(rng, p):
    """Fails where the function has no such argument: a keyword misspelt."""
    for k in p.nodes:
        if isinstance(k, ast.keyword) and k.arg:
            yield [(k.start, k.start + len(k.arg), misspelt(rng, k.arg))]


def misspelt_attribute(rng, p):
    """Fails: the name of a method misspelt. No edit without calls such as a.b()."""
    for n in p.nodes:
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute):
            yield renamed(n, misspelt(rng, n.func.attr))


def unequal_length(rng, p):
    """Fails where another list has its length: the last value of a list forgotten. No edit without lists of three."""
    return ([(n.elts[-2].end, n.elts[-1].end, "")] for n in p.nodes if isinstance(n, ast.List) and len(n.elts) > 2)


def unclosed_bracket(rng, p):
    """Fails: the last bracket of a call or a list forgotten. No edit without any."""
    return ([(n.end - 1, n.end, "")] for n in p.nodes if isinstance(n, (ast.Call, ast.List)) and n.end)


CHART = (chart_colour, chart_colormap, chart_marker, chart_line, chart_opacity, chart_data, chart_series_swapped,
         chart_series_dropped, chart_legend, chart_text, chart_limits, chart_scale, chart_figsize, chart_bars,
         chart_type, chart_grid, chart_font_size, chart_rotation, chart_subplots, missing_import, misspelt_keyword,
         misspelt_attribute, unequal_length, unclosed_bracket)
