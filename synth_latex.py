"""Procedural LaTeX: TikZ pictures, plots and formulas."""
import itertools
import re

from words import TEX_COLOURS, WORDS, phrase

ATOMS = [*"abcxyzuvkmn23579", r"\pi", "x_i", "a_n", "x^2", "t_0", "y^{3}",
         *(f"\\{g}" for g in "alpha beta gamma lambda mu theta sigma omega phi".split())]
OPERATORS = (  # @: a formula, #: a digit
    r"\frac{@}{@}", r"\frac{@ + @}{@}", r"\sqrt{@ + @}", "@ + @", "@ - @", r"@ \cdot @", r"\left( @ + @ \right)^{#}",
    r"\int_{#}^{\infty} @ \, dx", r"\int_0^{#} @ \, dt", r"\sum_{i=#}^{n} @ x_i", r"\sum_{k=0}^{\infty} @",
    r"\prod_{k=#}^{n} @", r"\sin\left( @ \right)", r"\cos\left( @ \right)", r"\log\left( @ \right)",
    r"\lim_{x \to #} @", r"\lim_{n \to \infty} @", r"\frac{\partial f}{\partial x} - @",
    r"\frac{d^2 u}{dt^2} + @", r"\left| @ \right|", "e^{-@}", r"\left[ @ \right]_{#}^{@}", r"\binom{n}{#} @")
PLOTS = "\\usepackage{pgfplots}\n\\pgfplotsset{compat=1.18}\n"


def libraries(names):
    """The line of a preamble that loads TikZ libraries; names: with commas between."""
    return f"\\usetikzlibrary{{{names}}}\n"


def document(body, packages="", options="tikz, border=4pt", picture=""):
    """A document that holds `body`, in a tikzpicture with the options `picture` where its class loads TikZ."""
    if "tikz" in options:
        body = f"\\begin{{tikzpicture}}{picture and f'[{picture}]'}\n{body}\n\\end{{tikzpicture}}"
    return f"\\documentclass[{options}]{{standalone}}\n{packages}\\begin{{document}}\n{body}\n\\end{{document}}"


# ------------------------------------------------------------------------------------------------------------ formulas

def formula(rng, depth):
    """A formula in LaTeX, `depth` operators deep."""
    if depth == 0:
        return rng.choice(ATOMS)
    fill = lambda m: str(rng.randint(0, 9)) if m[0] == "#" else formula(rng, rng.randint(0, depth - 1))
    return re.sub("[@#]", fill, rng.choice(OPERATORS))


def formulas(rng, rich):
    """A document with a formula 2 operators deep; rich: 3, or 2 to 4 rows of lines, of a matrix or of cases."""
    relation = lambda: rng.choice(("=", "=", "=", "\\leq", "\\approx", "\\geq"))
    kind = rng.choice(("single", "aligned", "matrix", "cases") if rich else ("single",))
    size = rng.randint(2, 4)

    def entries(rows, columns):
        return " \\\\ ".join(" & ".join(formula(rng, rng.randint(0, 1)) for _ in range(columns)) for _ in range(rows))

    def matrix():
        name, brackets = rng.choice("ABMT"), rng.choice(("pmatrix", "bmatrix", "vmatrix"))
        first = f"{name} = \\begin{{{brackets}}} {entries(size, rng.randint(2, 4))} \\end{{{brackets}}} "
        column = f"\\begin{{pmatrix}} {entries(size, 1)} \\end{{pmatrix}}"
        return first + rng.choice(("", column, f"+ {formula(rng, 2)}"))

    def case():
        return f"{formula(rng, 2)} & \\text{{if }} x {rng.choice('<>=')} {rng.randint(-5, 9)}"

    body = {  # all are written and one is taken
        "single": f"{rng.choice('fgFLSQ')}({rng.choice('xt')}) {relation()} {formula(rng, 2 + rich)}",
        "aligned": "\\begin{aligned}\n" + " \\\\\n".join(
            f"{formula(rng, 1)} &{relation()} {formula(rng, 2)}" for _ in range(size)) + "\n\\end{aligned}",
        "matrix": matrix(),
        "cases": f"{rng.choice('fgh')}(x) = \\begin{{cases}} " + " \\\\ ".join(case() for _ in range(size))
                 + " \\end{cases}"}[kind]
    return document(f"$\\displaystyle {body}$", "\\usepackage{amsmath}\n", "border=6pt")


# -------------------------------------------------------------------------------------------------------- difficulty 2

def simple_latex(rng):
    """A graph of 4 to 6 nodes, 1 to 3 curves, 5 to 8 shapes, a root with 2 to 4 children, or a formula."""
    n, colour = rng.randint, rng.sample(TEX_COLOURS, 3)
    kind, packages = rng.choice(("graph", "axis", "shapes", "tree", "formula")), ""
    if kind == "formula":
        return formulas(rng, False)
    if kind == "graph":
        places = rng.sample(list(itertools.product(range(0, 9, 3), range(0, 6, 2))), n(4, 6))
        lines = [f"\\node[draw, fill={rng.choice(colour)}!{n(10, 60)}] (n{i}) at ({x},{y}) {{{rng.choice(WORDS)}}};"
                 for i, (x, y) in enumerate(places)]
        lines += [f"\\draw[->, {rng.choice(('thick', 'dashed', 'very thick'))}] (n{i}) -- (n{i + 1});"
                  for i in range(len(places) - 1)]
    elif kind == "axis":
        packages = PLOTS
        lines = [f"\\begin{{axis}}[title={{{phrase(rng)}}}, xlabel={{{rng.choice(WORDS)}}}, "
                 f"ylabel={{{rng.choice(WORDS)}}}, grid=major]"]
        lines += [f"\\addplot[{c}, thick, domain={-n(1, 5)}:{n(1, 5)}] {{{n(1, 9)}*x^{n(1, 3)} + {n(0, 20)}}};"
                  for c in colour[:n(1, 3)]]
        lines += ["\\end{axis}"]
    elif kind == "shapes":
        lines = [rng.choice((
            f"\\draw[fill={c}!{n(20, 80)}] ({n(0, 4)},{n(0, 4)}) circle ({n(5, 15) / 10});",
            f"\\fill[{c}] ({n(0, 4)},{n(0, 4)}) rectangle ({n(5, 7)},{n(5, 7)});",
            f"\\draw[{c}, very thick] ({n(0, 6)},{n(0, 2)}) -- ({n(0, 6)},{n(3, 6)}) -- ({n(0, 6)},{n(0, 6)}) "
            "-- cycle;",
            f"\\node[{c}] at ({n(0, 6)},{n(0, 6)}) {{{rng.choice(WORDS)}}};"))
            for c in [colour[0], *rng.choices(colour, k=n(3, 6))]]
        lines += [f"\\draw ({n(0, 3)},0) -- (6,{n(1, 6)});"]
    else:
        lines = [f"\\node[draw] {{{rng.choice(WORDS)}}} "
                 f"[sibling distance={n(24, 36)}mm, level distance={n(12, 22)}mm]"]
        lines += [f"  child {{ node[fill={rng.choice(colour)}!30] {{{rng.choice(WORDS)}}} }}" for _ in range(n(2, 4))]
        lines += [";"]
    return document("\n".join(lines), packages)


# -------------------------------------------------------------------------------------------------------- difficulty 3
# n: rng.randint; a, b, c: three colours; words: fourteen; shade: a fill; arrow: a tip.

def automaton(rng, n, a, b, c, words, shade, arrow):
    """3 or 4 states in a row: edges to the next, loops, and one edge back from the last."""
    count, letter = n(3, 4), lambda: rng.choice("abc01xy")
    lines = []
    for i in range(count):
        first = ", initial" if i == 0 else ""
        last = ", accepting" if i == count - 1 or rng.random() < 0.2 else ""
        lines.append(f"\\node[state{first}{last}] (q{i}) {f'[right=of q{i - 1}] ' if i else ''}{{$q_{i}$}};")
    lines += [f"\\draw (q{i}) edge[{rng.choice(('bend left', 'above'))}] node[above] {{{letter()}}} (q{i + 1});"
              for i in range(count - 1)]
    lines += [f"\\draw (q{i}) edge[loop {rng.choice(('above', 'below'))}] node {{{letter()}, {letter()}}} (q{i});"
              for i in range(count) if rng.random() < 0.5]
    lines += [f"\\draw (q{count - 1}) edge[bend left={n(35, 50)}] node[below] {{{letter()}}} (q{n(0, count - 2)});"]
    style = f"{arrow}, node distance={n(16, 26)}mm, thick, every state/.style={{fill={shade}}}, initial text={{}}"
    return document("\n".join(lines), libraries("automata, positioning, arrows.meta"), picture=style)


def plot(rng, n, a, b, c, words, kind):
    """An axis with a legend: 2 or 3 curves (kind "functions"), or 1 to 3 groups of four bars ("bars")."""
    options = f"title={{{phrase(rng)}}}, xlabel={{{words[5]}}}, ylabel={{{words[6]}}}, "
    options += f"legend pos={rng.choice(('north west', 'outer north east', 'south east'))}, "
    options += f"width={n(8, 11)}cm, height={n(6, 8)}cm"
    if kind == "bars":
        names = [w[:6] for w in words[:4]]
        lines = [f"\\begin{{axis}}[ybar, bar width={n(8, 13)}pt, symbolic x coords={{{','.join(names)}}}, xtick=data, "
                 f"ymin=0, enlarge x limits=0.2,\n  {options}]"]
        for colour in (a, b, c)[:n(1, 3)]:
            style = f"fill={colour}!{n(30, 80)}"
            values = " ".join(f"({name},{n(3, 60)})" for name in names)
            lines.append(f"\\addplot[{style}] coordinates {{{values}}};")
    else:
        grid = rng.choice(("grid=major", "axis lines=middle", "grid=both"))
        lines = [f"\\begin{{axis}}[{grid}, samples=60, domain=-{n(2, 4)}:{n(2, 4)},\n  {options}]"]
        for colour in (a, b, c)[:n(2, 3)]:
            style = f"{colour}, {rng.choice(('thick', 'very thick', 'dashed, thick'))}"
            curve = rng.choice((
                f"{n(1, 6)}*sin(deg({n(1, 3)}*x))", f"{n(1, 4)}*x^2 - {n(1, 9)}", f"{n(2, 9)}*exp(-x^2/{n(1, 4)})",
                f"{n(1, 5)}*cos(deg(x)) + {n(0, 3)}", f"{n(1, 4)}*abs(x) - x"))
            lines.append(f"\\addplot[{style}] {{{curve}}};")
    legend = f"\\legend{{{', '.join(words[7:6 + len(lines)])}}}"
    return document("\n".join([*lines, legend, "\\end{axis}"]), PLOTS)


def tree(rng, n, a, b, c, words, shade, arrow):
    """A root with 2 or 3 children, each with 1 to 3 leaves."""
    leaf = lambda i: f"child {{ node[{rng.choice(('leaf', 'inner'))}] {{{words[i]}}} }}"
    lines = [f"\\node[inner] {{{words[0]}}}"]
    for i in range(1, n(3, 4)):
        leaves = " ".join(leaf(3 * i + j + 1) for j in range(n(1, 3)))
        lines.append(f"  child {{ node[inner] {{{words[i]}}}\n    {leaves} }}")
    style = (f"level 1/.style={{sibling distance={n(50, 58)}mm}}, level 2/.style={{sibling distance=18mm}}, "
             f"level distance={n(13, 20)}mm,\n  inner/.style={{draw, rounded corners, fill={shade}}}, "
             f"leaf/.style={{font=\\small, text={b}}}")
    return document("\n".join([*lines, ";"]), picture=style)


def matrix(rng, n, a, b, c, words, shade, arrow):
    """A grid of numbers, 3 to 5 rows of 3 to 6, with a title above, an arrow on the left and a symbol on the right."""
    rows, columns = n(3, 5), n(3, 6)
    cell = lambda: rng.choice((f"|[fill={b}!40]| ", "", "")) + str(n(0, 99))
    lines = [f"\\matrix (m) [matrix of nodes, nodes={{draw, minimum size={n(8, 10)}mm, fill={shade}}}, "
             f"row sep={n(-1, 3)}pt, column sep={n(-1, 3)}pt] {{"]
    lines += ["  " + " & ".join(cell() for _ in range(columns)) + " \\\\" for _ in range(rows)]
    lines += ["};", f"\\node[above=2mm of m] {{{phrase(rng)}}};",
              f"\\draw[{arrow}, very thick, {c}] (m-1-1.west) +(-6mm,0) -- (m-1-1.west);",
              f"\\node[right=3mm of m-{n(1, rows)}-{columns}] "
              f"{{$\\{rng.choice(('alpha', 'beta', 'Sigma'))}_{n(1, 9)}$}};"]
    return document("\n".join(lines), libraries("matrix, positioning, arrows.meta"))


def diagram(rng, n):
    """A commutative diagram, 2 or 3 rows of 2 to 4 symbols."""
    symbols = ("A", "B", "C", "X", "Y", "Z", "F(X)", "G(Y)", "\\mathbb{R}^n", "H_1", "U \\times V", "M/N")
    columns = n(2, 4)
    name = lambda: rng.choice(("f", "g", "h", "\\alpha", "\\beta", "\\pi", "\\iota"))
    style = lambda: rng.choice(("", "", ", hook", ", two heads", ", dashed"))

    def row(last):
        cells = []
        for i in range(columns):
            cell = rng.choice(symbols)
            if i < columns - 1:
                cell += f' \\arrow[r, "{name()}"{style()}]'
            if not last:
                cell += f' \\arrow[d, "{name()}"' + rng.choice(("", "'")) + f"{style()}]"
            cells.append(cell)
        return " & ".join(cells)

    rows = [row(False) for _ in range(n(1, 2))] + [row(True)]
    gaps = f"row sep={rng.choice(('large', 'huge'))}, column sep={rng.choice(('large', 'huge'))}"
    body = f"\\begin{{tikzcd}}[{gaps}]\n" + " \\\\\n".join(rows) + "\n\\end{tikzcd}"
    return document(body, "\\usepackage{tikz-cd, amssymb}\n", "border=6pt")


def network(rng, n, a, b, c, words, shade, arrow):
    """3 or 4 layers of 2 to 5 neurons, each joined to all of the next layer."""
    layers = [n(2, 5) for _ in range(n(3, 4))]
    lines = [f"\\foreach \\i in {{1,...,{size}}} \\node[neuron, fill={(a, b, c, b)[k]}!{n(20, 60)}] (l{k}-\\i) "
             f"at ({k * 2.5},{{{size / 2} - \\i}}) {{}};" for k, size in enumerate(layers)]
    lines += [f"\\foreach \\i in {{1,...,{s}}} \\foreach \\j in {{1,...,{t}}} "
              f"\\draw[{arrow}, gray] (l{k}-\\i) -- (l{k + 1}-\\j);"
              for k, (s, t) in enumerate(zip(layers, layers[1:]))]
    lines += [f"\\node at ({k * 2.5},{max(layers) / 2 + 0.4}) {{{words[k]}}};" for k in range(len(layers))]
    style = f"neuron/.style={{circle, draw, minimum size={n(5, 8)}mm}}"
    return document("\n".join(lines), libraries("arrows.meta"), picture=style)


def flow_chart(rng, n, a, b, c, words, shade, arrow):
    """3 to 5 boxes, each below or right of the one before and joined to it, some of the arrows with a word."""
    count, lines = n(3, 5), []
    for i in range(count):
        way = rng.choice(("below=", "right="))
        shape = rng.choice(("box", "box", "choice", "round")) if i else "round"
        lines.append(f"\\node[{shape}] (s{i}) {f'[{way} of s{i - 1}] ' if i else ''}{{{words[i]}}};")
    for i in range(count - 1):
        label = rng.choice(("", f"node[{b}, fill=white, font=\\small] {{{words[i + 6]}}} "))
        lines.append(f"\\draw[{arrow}, thick] (s{i}) -- {label}(s{i + 1});")
    style = (f"node distance={n(14, 20)}mm and {n(18, 26)}mm,\n  "
             f"box/.style={{draw, fill={shade}, minimum height=8mm}}, "
             f"round/.style={{box, rounded corners=3mm, fill={b}!20}}, "
             f"choice/.style={{box, diamond, aspect=2, fill={c}!20}}")
    return document("\n".join(lines), libraries("positioning, shapes.geometric, arrows.meta"), picture=style)


def geometry(rng, n, a, b, c, words, shade, arrow):
    """A grid of 4 to 7 by 3 to 5 units with axes, a triangle, a circle, a vector and a curve."""
    x, y, p = n(4, 7), n(3, 5), n(1, 4)
    return document("\n".join([
        f"\\draw[step=1, gray!30, very thin] (-1,-1) grid ({x + 1},{y + 1});",
        f"\\draw[{arrow}] (-1,0) -- ({x + 1},0) node[right] {{$x$}};",
        f"\\draw[{arrow}] (0,-1) -- (0,{y + 1}) node[above] {{$y$}};",
        f"\\draw[thick, fill={a}!{n(10, 40)}, fill opacity=0.6] (0,0) node[below left] {{$A$}} -- ({x},{n(0, 1)}) "
        f"node[below] {{$B$}} -- ({p},{y}) node[above] {{$C$}} -- cycle;",
        f"\\draw[{b}, dashed] ({x / 2},{y / 3:.2f}) circle[radius={n(5, 12) / 10}];",
        f"\\draw[{arrow}, very thick, {c}] (0,0) -- ({n(1, x)},{n(1, y)}) "
        f"node[right] {{$\\vec{{{rng.choice('uvw')}}}$}};",
        f"\\draw[{c}, domain=0:{x}, samples=50, smooth] "
        f"plot (\\x, {{{n(5, 12) / 10}*sin(\\x*{n(40, 90)}) + {n(1, 2)}}});",
        f"\\fill[{b}] ({p},{y}) circle[radius=2pt];"]), libraries("arrows.meta"))


def rich_latex(rng):
    """One of the pictures above, in three colours and with words, or a rich formula in two of eleven."""
    n, (a, b, c), words = rng.randint, rng.sample(TEX_COLOURS[:8], 3), rng.sample(WORDS, 14)
    shade, arrow = f"{a}!{n(10, 50)}", rng.choice(("-Stealth", "->", "-Latex"))
    kind = rng.choice(("automaton", "functions", "bars", "tree", "matrix", "cd", "network", "flow", "geometry",
                       "formulas", "formulas"))
    if kind == "formulas":
        return formulas(rng, True)
    if kind == "cd":
        return diagram(rng, n)
    if kind in ("functions", "bars"):
        return plot(rng, n, a, b, c, words, kind)
    draw = {"automaton": automaton, "tree": tree, "matrix": matrix, "network": network, "flow": flow_chart,
            "geometry": geometry}[kind]
    return draw(rng, n, a, b, c, words, shade, arrow)
