"""Procedural programs of all five domains at three difficulties, and the samples that `data.py synth` makes of them.

    rng = random.Random(0)
    program(rng, "chart", 3)                     # the source of one program: a pure function of the random state
    programs("latex", 2, 100, seed=0)            # 100 programs, all different

Difficulty 1: scenes of one to three elements on 64 pixels, which the tiny model learns in minutes; the default domains are
the embedded default (README, "The regime"). 2: small programs as people write them: one chart, a short page, an icon, one
TikZ picture, one molecule. 3: charts of several panels, whole pages, SVG with gradients, groups and text, automata, plots,
matrices and formulas, molecules with options. All words come from the lists below; no text of others is copied.
"""
import colorsys
import hashlib
import importlib.util
import itertools
import json
import math
import random
import re
from collections import Counter, deque
from pathlib import Path

from data import DOMAINS, NAMES, REFINE, Sample, fenced, png
from render import Renderer, available

LANGUAGE_OF = {"chart": "python", "web": "html", "svg": "svg", "latex": "latex", "chem": "python"}

# ------------------------------------------------------------------------------------- difficulty 1: the tiny programs
# A scene is a list of elements on a 64 px canvas with coordinates on an 8 px grid; each domain draws it its own way.
# SVG, web, LaTeX: (kind, x, y, w, h, colour). Charts: ("bar"|"barh", [(value, colour), ...]). Chemistry: (core, [group, ...]).

CANVAS, GRID = 64, 8  # pixels
COLOURS = ("red", "green", "blue", "orange", "purple", "black", "cyan", "gray")
CORES = ("c1cc{}cc{}c1", "c1cc{}c{}cc1", "C1CC{}CC{}C1", "c1c{}nc{}cc1", "C1C{}CC{}C1", "c1c{}sc{}c1")
INSTRUCTIONS = {"svg": "Write SVG code that draws this image.",
                "web": "Write HTML code that draws this image.",
                "chart": "Write Python code that draws this image.",
                "latex": "Write LaTeX code that draws this image.",
                "chem": "Write RDKit code that draws this image."}


def draw_scene(rng, domain, low, high, sizes):
    """A random scene with `low` to `high` elements of the given sizes (sides in pixels, heights of bars, groups of atoms)."""
    n = rng.randint(low, high)
    if domain == "chem":
        return rng.choice(CORES), [rng.choice(sizes) for _ in range(n)]
    colours = rng.sample(COLOURS, n)
    if domain == "chart":
        return rng.choice(("bar", "barh")), [(rng.choice(sizes), c) for c in colours]
    scene = []
    for colour in colours:
        kind = rng.choice(("rect", "circle") if domain == "web" else ("rect", "circle", "triangle"))
        w, h = rng.choice(sizes), rng.choice(sizes)
        h = w if kind == "circle" else h
        scene.append((kind, rng.randrange(0, CANVAS - w + 1, GRID), rng.randrange(0, CANVAS - h + 1, GRID), w, h, colour))
    return sorted(scene, key=lambda e: (e[1], e[2]))  # people write from left to right, too; a fixed order is learnable


def scene_code(domain, scene):
    """The program that draws `scene`."""
    if domain == "chem":
        smiles = scene[0].format(*(f"({group})" for group in scene[1]), "")
        return ("from rdkit import Chem\nfrom rdkit.Chem import Draw\n"
                f"Draw.MolToFile(Chem.MolFromSmiles('{smiles}'), 'molecule.png', size=({CANVAS}, {CANVAS}))")
    if domain == "chart":
        kind, bars = scene
        n, values = len(bars), ", ".join(str(v) for v, _ in bars)
        box = f"0, {n + 1}, 0, 9" if kind == "bar" else f"0, 9, 0, {n + 1}"
        return ("import matplotlib.pyplot as plt\nplt.figure(figsize=(0.64, 0.64))\n"
                f"plt.{kind}([{', '.join(str(i + 1) for i in range(n))}], [{values}], "
                f"color=[{', '.join(repr(c) for _, c in bars)}])\nplt.axis([{box}])\nplt.axis('off')\nplt.savefig('chart.png')")
    lines = []
    for kind, x, y, w, h, colour in scene:
        corners = (x, y + h), (x + w // 2, y), (x + w, y + h)
        if domain == "web":
            radius = ";border-radius:50%" if kind == "circle" else ""
            lines.append(f'<div style="position:absolute;left:{x}px;top:{y}px;width:{w}px;height:{h}px;'
                         f'background:{colour}{radius}"></div>')
        elif domain == "latex":
            shape = {"rect": f"({x},{y}) rectangle ({x + w},{y + h})", "circle": f"({x + w // 2},{y + w // 2}) circle[radius={w // 2}]",
                     "triangle": " -- ".join(f"({a},{b})" for a, b in corners) + " -- cycle"}[kind]
            lines.append(f"\\fill[{colour}] {shape};")
        elif kind == "rect":
            lines.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{colour}"/>')
        elif kind == "circle":
            lines.append(f'<circle cx="{x + w // 2}" cy="{y + w // 2}" r="{w // 2}" fill="{colour}"/>')
        else:
            lines.append(f'<polygon points="{",".join(f"{a},{b}" for a, b in corners)}" fill="{colour}"/>')
    body = "\n".join(lines)
    if domain == "web":
        return f'<body style="margin:0">\n{body}\n</body>'
    if domain == "latex":  # 0.48pt are one pixel at the 150 dpi of render.py
        return ("\\documentclass[tikz]{standalone}\n\\begin{document}\n\\begin{tikzpicture}[x=0.48pt, y=-0.48pt]\n"
                f"\\useasboundingbox (0,0) rectangle ({CANVAS},{CANVAS});\n{body}\n\\end{{tikzpicture}}\n\\end{{document}}")
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {CANVAS} {CANVAS}">\n{body}\n</svg>'


def jitter(rng, domain, scene, p, colour_p=0.0):
    """The scene with each number moved by one grid step (or group replaced) with probability `p`, each colour with `colour_p`."""
    def move(value, low, high, step):
        return min(high, max(low, value + rng.choice((-step, step)))) if rng.random() < p else value

    def recolour(colour):
        return rng.choice([c for c in COLOURS if c != colour]) if rng.random() < colour_p else colour

    if domain == "chem":
        return scene[0], [rng.choice(LABELLED["chem"][2]) if rng.random() < p else group for group in scene[1]]
    if domain == "chart":
        return scene[0], [(move(v, 1, 8, 1), recolour(c)) for v, c in scene[1]]
    out = []
    for kind, x, y, w, h, colour in scene:
        w = move(w, 16, 32, GRID)
        h = w if kind == "circle" else move(h, 16, 32, GRID)
        x, y = (move(min(v, CANVAS - side), 0, CANVAS - side, GRID) for v, side in ((x, w), (y, h)))
        out.append((kind, x, y, w, h, recolour(colour)))
    return out


def break_code(rng, domain, code):
    """Damage as found in scraped and model-written corpora: a program that does not run, or draws something else.

    SVG (XML), Python and LaTeX then fail to run; a browser forgives everything, so damaged HTML runs and draws wrongly.
    """
    damage = rng.choice({
        "svg": (("/>", ">"), ("</svg>", ""), ('fill="', "fill="), ("<svg ", "<svg")),
        "web": (('style="position', 'styl="position'), ("position:absolute;", ""), ("</div>", ""), ("<div ", "<dv ")),
        "chart": (("])\n", ")\n"), ("plt.axis(", "plt.axes_("), ("color=[", "colour=["), ("as plt", "as pl")),
        "latex": (("\\fill[", "\\fil["), ("\\end{tikzpicture}\n", ""), ("rectangle (", "rectangel ("), (";\n", "\n")),
        "chem": (("'), ", "', "), ("MolFromSmiles", "MolFromSmile"), ("1", ""), ("import Draw", "import Drawing")),
    }[domain])
    return code.replace(*damage, 1)


def synth_split(count, seed, domains, scenes, refine, label_jitter, broken, labels, source):
    """`count` scenes -> (Sample without image, true program) pairs. `scenes[domain]`: arguments of `draw_scene`.

    `labels`: False leaves the answer empty (a target without code). `label_jitter` is the probability that a number
    of the *label* is off by one step, `broken` the share of labels that are damaged: the imperfect corpus. The image
    is always that of the true program.
    """
    rng = random.Random(seed)
    pairs = []
    for i in range(count):
        domain = domains[i % len(domains)]
        language, scene = LANGUAGE_OF[domain], draw_scene(rng, domain, *scenes[domain])
        truth = scene_code(domain, scene)
        label = scene_code(domain, jitter(rng, domain, scene, label_jitter))
        if rng.random() < broken:
            label = break_code(rng, domain, label)
        task, prompt = "generate", INSTRUCTIONS[domain]
        if rng.random() < refine:
            task = "refine"
            defect = scene_code(domain, jitter(rng, domain, scene, 0.35, 0.25))
            if defect == truth or rng.random() < 0.2:
                defect = break_code(rng, domain, truth)
            prompt = REFINE.format(name=NAMES[language], language=language, code=defect)
        pairs.append((Sample(prompt, fenced(language, label) if labels else "", b"", language=language, task=task,
                             domain=domain, source=source, license="CC0-1.0"), truth))
    return pairs


# The regime of the embedded default (README, "The regime"): imperfect labels; many targets without code, half of them
# larger than anything labelled. Least and most elements of a scene, and their sizes.
LABELLED = {"svg": (1, 2, (16, 24)), "web": (1, 2, (16, 24)), "chart": (2, 3, (1, 2, 3, 4, 5, 6)), "latex": (1, 2, (16, 24)),
            "chem": (1, 2, ("C", "O", "N", "F", "Cl"))}
TARGETS = {"svg": (1, 2, (24, 32)), "web": (1, 2, (24, 32)), "chart": (2, 3, (2, 3, 4, 5, 6, 7)), "latex": (1, 2, (24, 32)),
           "chem": (1, 2, ("CC", "OC", "C#N", "C=O", "Br"))}
MIXTURE = ("svg", "web", "svg", "svg", "chart", "svg")  # scenes take these in turn; an SVG renders 20 times as fast


# ------------------------------------------------------------------------------------------------------ words, colours

WORDS = ("market signal harvest river energy quarter latency orbit garden protein summer voltage traffic export engine forest income "
         "battery school harbour climate series median budget copper theatre island winter canvas meadow bridge lantern compass pepper "
         "glacier tunnel museum violin kitchen planet cotton rocket valley sensor ledger studio anchor castle coral desert falcon ginger "
         "hammer indigo jungle kernel lemon marble needle oxygen pocket quartz ribbon saddle timber umbrella velvet walnut yonder zephyr").split()
PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#333333", "teal", "brown", "crimson", "navy",
           "goldenrod", "seagreen", "slateblue", "tomato", "steelblue", "orchid")
COLORMAPS = "viridis plasma magma cividis Blues Greens Oranges coolwarm YlGnBu RdPu Spectral cubehelix".split()
TEX_COLOURS = "red blue teal orange violet brown olive cyan magenta purple lime black gray green!60!black blue!70!black".split()


def phrase(rng, n=2):
    return " ".join(rng.sample(WORDS, n)).capitalize()


def sentences(rng, n):
    return " ".join(phrase(rng, rng.randint(6, 12)) + "." for _ in range(n))


def tint(rng, value=0.8, saturation=0.6):
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * v) for v in colorsys.hsv_to_rgb(rng.random(), saturation, value)))


def colours(rng, n):
    """n colours that can be told apart: from the palette, or hues at equal distances."""
    if rng.random() < 0.5:
        return rng.sample(PALETTE, n)
    start, saturation, value = rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.55, 0.9)
    return ["#{:02x}{:02x}{:02x}".format(*(round(255 * v) for v in colorsys.hsv_to_rgb((start + i / n) % 1, saturation, value))) for i in range(n)]


def numbers(rng, n, scale):
    """n values of one order of magnitude, rounded as people round them."""
    return [round(rng.uniform(0.15, 1) * scale, 2 if scale <= 1 else 1 if scale <= 10 else 0) if scale <= 10 else rng.randint(scale // 6, scale) for _ in range(n)]


# -------------------------------------------------------------------------------------------------------------- charts

SIMPLE_CHARTS = "bar barh plot scatter pie hist fill step stem".split()
RICH_CHARTS = SIMPLE_CHARTS[:7] + ("grouped stacked error heatmap box violin contour hist2d radar polar twin stack bubbles annotated donut surface lollipop").split()


def panel(rng, kinds):
    """One chart on the axes `ax` -> (their projection, code)."""
    n, k, kind, scale = rng.randint(4, 6), rng.randint(2, 3), rng.choice(kinds), rng.choice((1, 10, 50, 400, 3000))
    names, labels, (a, b, *more), values = rng.sample(WORDS, k), [w.capitalize() for w in rng.sample(WORDS, n)], colours(rng, 7), numbers(rng, n, scale)
    table, paint, cmap = [numbers(rng, n, scale) for _ in range(k)], [a, b, *more], rng.choice(COLORMAPS)
    below = [[round(sum(row[j] for row in table[:i]), 2) for j in range(n)] for i in range(k)]
    samples = [[round(rng.gauss(rng.choice((4, 5, 7)), rng.uniform(0.5, 2)), 1) for _ in range(15)] for _ in range(n)]
    mark, line, legend = rng.choice("osD^v"), rng.choice(("-", "--", "-.", ":")), rng.choice(("best", "upper left", "upper right", "lower right"))
    each = lambda row: "\n".join(row(i, name) for i, name in enumerate(names)) + "\n"
    axes = f"ax.set_xlabel('{phrase(rng)}')\nax.set_ylabel('{phrase(rng, rng.randint(1, 2))}')\n"
    ticks = f"ax.tick_params(axis='x', rotation={rng.choice((20, 30, 45))})\n"
    grid = rng.choice(("", "ax.grid(True)\n", "ax.grid(axis='y', alpha=0.4)\n", "ax.spines[['top', 'right']].set_visible(False)\n"))
    sides = f"ax.set_xticks(angles, {labels})\n"
    code = {
        "bar": f"ax.bar({labels}, {values}, color='{a}', width={rng.choice((0.5, 0.6, 0.8))})\nax.set_ylabel('{phrase(rng)}')\n{ticks}{grid}",
        "barh": f"ax.barh({labels}, {values}, color={rng.choice((repr(a), paint[:n]))})\nax.set_xlabel('{phrase(rng)}')\n{grid}",
        "plot": each(lambda i, name: f"ax.plot({table[i]}, color='{paint[i]}', marker='{mark}', linestyle='{line if i else '-'}', label='{name}')") + f"{axes}ax.legend()\n{grid}",
        "scatter": f"ax.scatter({values}, {table[0]}, s={rng.choice((40, 80, 160))}, color='{a}', marker='{mark}')\n{axes}{grid}",
        "pie": f"ax.pie({values}, labels={labels}, colors={paint[:n]}, startangle={rng.choice((0, 45, 90, 140))}" + rng.choice((")\n", ", autopct='%1.0f%%')\n")),
        "hist": f"ax.hist({sum(samples[:4], [])}, bins={n + 5}, color='{a}', edgecolor='{rng.choice((b, 'white', 'black'))}')\n{axes}",
        "fill": f"ax.fill_between(range({n}), {values}, color='{a}', alpha={rng.choice((0.3, 0.5, 0.7))})\nax.plot(range({n}), {values}, color='{b}', linewidth=3)\n{axes}{grid}",
        "step": each(lambda i, name: f"ax.step(range({n}), {table[i]}, where='mid', color='{paint[i]}', label='{name}')") + f"{axes}ax.legend(loc='{legend}')\n{grid}",
        "stem": f"ax.stem({values}, linefmt='{line}', markerfmt='{mark}', basefmt=' ')\n{axes}{grid}",
        "grouped": f"x = np.arange({n})\n" + each(lambda i, name: f"ax.bar(x {0.8 / k * (i - (k - 1) / 2):+.2f}, {table[i]}, {0.8 / k:.2f}, color='{paint[i]}', label='{name}')")
        + f"ax.set_xticks(x, {labels})\nax.set_ylabel('{phrase(rng)}')\nax.legend(loc='{legend}')\n{ticks}",
        "stacked": each(lambda i, name: f"ax.bar({labels}, {table[i]}, bottom={below[i]}, color='{paint[i]}', edgecolor='white', label='{name}')")
        + f"ax.set_ylabel('{phrase(rng)}')\nax.legend(loc='{legend}')\n{ticks}",
        "error": f"ax.errorbar(range({n}), {values}, yerr={[round(v * rng.uniform(0.05, 0.25), 2) for v in values]}, fmt='{mark}{line}', color='{a}', ecolor='{b}', "
                 f"capsize={rng.randint(2, 6)})\n{axes}{grid}",
        "heatmap": f"matrix = np.array({[numbers(rng, n, scale) for _ in range(n - 1)]})\nshown = ax.imshow(matrix, cmap='{cmap}', aspect='auto')\n"
                   + rng.choice(("", "for (i, j), value in np.ndenumerate(matrix):\n    ax.text(j, i, value, ha='center', va='center', color='white', fontsize=8)\n"))
                   + f"ax.set_xticks(range({n}), {labels}, rotation=30)\nfig.colorbar(shown, ax=ax, label='{phrase(rng, 1)}')\n",
        "box": f"boxes = ax.boxplot({samples}, patch_artist=True, tick_labels={labels})\nfor box, color in zip(boxes['boxes'], {paint[:n]}):\n    box.set_facecolor(color)\n"
               f"ax.set_ylabel('{phrase(rng)}')\n{ticks}",
        "violin": f"parts = ax.violinplot({samples}, showmeans=True)\nfor body in parts['bodies']:\n    body.set_facecolor('{a}')\n    body.set_edgecolor('black')\n"
                  f"ax.set_xticks(range(1, {n + 1}), {labels})\nax.set_ylabel('{phrase(rng)}')\n{ticks}",
        "contour": f"x, y = np.meshgrid(np.linspace(-3, 3, 80), np.linspace(-3, 3, 80))\nz = np.sin({rng.randint(1, 3)} * x) * np.cos({rng.randint(1, 3)} * y) "
                   f"+ {rng.choice((0, 0.1, 0.2))} * x * y\nfilled = ax.contourf(x, y, z, levels={rng.randint(6, 16)}, cmap='{cmap}')\nax.contour(x, y, z, levels=5, colors='black', "
                   f"linewidths=0.5)\nfig.colorbar(filled, ax=ax)\n{axes}",
        "hist2d": f"rng = np.random.default_rng({rng.randint(0, 99)})\ncounts = ax.hist2d(rng.normal({rng.randint(-3, 3)}, {rng.randint(1, 3)}, 2000), "
                  f"rng.normal({rng.randint(-3, 3)}, {rng.randint(1, 3)}, 2000), bins={rng.choice((15, 20, 30))}, cmap='{cmap}')\nfig.colorbar(counts[3], ax=ax)\n{axes}",
        "radar": f"angles = np.linspace(0, 2 * np.pi, {n}, endpoint=False)\n" + each(lambda i, name: f"ax.plot([*angles, 0], {[*table[i], table[i][0]]}, color='{paint[i]}', label='{name}')\n"
                 f"ax.fill([*angles, 0], {[*table[i], table[i][0]]}, color='{paint[i]}', alpha=0.2)") + f"{sides}ax.legend(loc='lower right', bbox_to_anchor=(1.3, 0))\n",
        "polar": f"angles = np.linspace(0, 2 * np.pi, {n}, endpoint=False)\nax.bar(angles, {values}, width={rng.choice((0.5, 0.7, 0.9))}, color={paint[:n]}, alpha=0.8)\n{sides}",
        "twin": f"ax.bar({labels}, {values}, color='{a}', alpha=0.6)\nax.set_ylabel('{names[0]}', color='{a}')\n{ticks}other = ax.twinx()\nother.plot({labels}, "
                f"{numbers(rng, n, rng.choice((1, 10, 400)))}, color='{b}', marker='{mark}', linewidth=2)\nother.set_ylabel('{names[1]}', color='{b}')\n",
        "stack": f"ax.stackplot(range({n}), {', '.join(map(str, table))}, labels={names}, colors={paint[:k]}, alpha=0.85)\nax.legend(loc='upper left')\nax.margins(x=0)\n{axes}",
        "bubbles": f"points = ax.scatter({values}, {table[0]}, s={[rng.randint(60, 700) for _ in values]}, c={table[1]}, cmap='{cmap}', alpha=0.8, edgecolors='black')\n"
                   f"fig.colorbar(points, ax=ax, label='{names[0]}')\nax.margins(0.2)\n{axes}{grid}",
        "annotated": f"ax.plot({values}, color='{a}', linewidth={rng.choice((1.5, 2, 3))}, marker='{mark}')\nax.axhline({sorted(values)[n // 2]}, color='{b}', linestyle='--', label='median')\n"
                     f"ax.annotate('{phrase(rng, 1)}', xy=({values.index(max(values))}, {max(values)}), xytext=({n / 2 - 1}, {round(max(values) * 1.15, 2)}), arrowprops=dict(arrowstyle='->'))\n"
                     f"ax.set_ylim(0, {round(max(values) * 1.3, 2)})\nax.legend(loc='lower left')\n{axes}",
        "donut": f"ax.pie({values}, labels={labels}, colors={paint[:n]}, wedgeprops=dict(width={rng.choice((0.3, 0.4, 0.5))}, edgecolor='white'))\n"
                 f"ax.text(0, 0, '{phrase(rng, 1)}', ha='center', va='center', fontsize={rng.choice((10, 12))})\n",
        "surface": f"x, y = np.meshgrid(np.linspace(-3, 3, 40), np.linspace(-3, 3, 40))\nax.plot_surface(x, y, np.{rng.choice(('sin', 'cos'))}({rng.choice(('x', 'y', 'x + y', 'np.hypot(x, y)'))})"
                   f" * {rng.randint(1, 5)}, cmap='{cmap}')\nax.view_init({rng.randrange(20, 60, 10)}, {rng.randrange(0, 360, 30)})\n",
        "lollipop": f"ax.hlines({labels}, 0, {values}, color='{a}', linewidth={rng.randint(1, 4)})\nax.plot({values}, {labels}, '{mark}', color='{b}', markersize=9)\nax.set_xlabel('{phrase(rng)}')\n",
    }[kind]
    return {"radar": "polar", "polar": "polar", "surface": "3d"}.get(kind), code


def finished_chart(code):
    return "import matplotlib.pyplot as plt\n" + ("import numpy as np\n" if "np." in code else "") + f"\n{code}plt.savefig('chart.png')"


def simple_chart(rng):
    _, code = panel(rng, SIMPLE_CHARTS)
    title = f"ax.set_title('{phrase(rng, rng.randint(2, 4))}')\n" if rng.random() < 0.8 else ""
    return finished_chart(f"fig, ax = plt.subplots(figsize=({rng.choice(('5, 4', '6, 4', '8, 4', '5, 5'))}), layout='constrained')\n{code}{title}")


def rich_chart(rng):
    rows, columns = rng.choice(((1, 1), (1, 2), (1, 2), (2, 1), (2, 2), (2, 2), (1, 3)))
    style = rng.choice(("", "", "", f"plt.style.use('{rng.choice(('ggplot', 'seaborn-v0_8-whitegrid', 'bmh', 'fivethirtyeight', 'dark_background'))}')\n",
                        f"plt.rcParams['font.family'] = '{rng.choice(('serif', 'monospace'))}'\n"))
    code = f"{style}fig = plt.figure(figsize=({4 * columns + rng.choice((1, 2))}, {4 * rows + rng.choice((0, 1))}), layout='constrained')\n"
    for i in range(rows * columns):
        projection, chart = panel(rng, RICH_CHARTS if i or rows * columns > 1 else RICH_CHARTS[7:])
        code += f"\nax = fig.add_subplot({rows}, {columns}, {i + 1}{f', projection={projection!r}' if projection else ''})\n{chart}"
        code += f"ax.set_title('{phrase(rng)}', fontsize={rng.choice((10, 11, 12))})\n"
    return finished_chart(code + (f"\nfig.suptitle('{phrase(rng, 3)}', fontsize={rng.choice((14, 16))})\n" if rng.random() < 0.6 else ""))


# ---------------------------------------------------------------------------------------------------------------- web

def web(rng, rich):
    """A page; its style sheet has the rules that the page uses and no others: what cannot be seen cannot be learned."""
    main, accent, ink, pale = tint(rng, rng.uniform(0.4, 0.7)), tint(rng, 0.75, 0.75), tint(rng, 0.2, 0.4), tint(rng, 1, 0.06)
    radius, gap, n = rng.choice((0, 4, 8, 16)), rng.choice((12, 16, 24)), rng.randint(2, 3) + rich
    many = lambda low, high, make: "\n".join("  " + make() for _ in range(rng.randint(low, high)))
    title, badge = lambda: f"<h2>{phrase(rng, rng.randint(2, 3))}</h2>", lambda: f'<span class="badge">{rng.choice(WORDS)}</span>'
    button = lambda kind="button": f'<a class="{kind}">{phrase(rng, rng.randint(1, 2))}</a>'
    field = lambda: f'<label>{phrase(rng)}<input type="{rng.choice(("text", "email", "number"))}" placeholder="{phrase(rng)}"></label>'
    row = lambda: f"<tr><td>{phrase(rng)}</td><td>{rng.randint(10, 9999)}</td><td>{rng.choice(WORDS)}</td><td>{badge() if rich else rng.randint(1, 99)}</td></tr>"
    picture = lambda: f'<div class="picture" style="background:{tint(rng, 0.85, 0.4)}"></div>' if rich else ""
    card = lambda: f'<article class="card">{picture()}<h3>{phrase(rng)}</h3><p>{sentences(rng, 1)}</p>{rng.choice(("", badge(), button("button small")))}</article>'
    figure = lambda: f'<div class="figure"><strong>{rng.randint(2, 980)}{rng.choice("%+k")}</strong><br>{phrase(rng)}</div>'
    meter = lambda: f'<p class="meter"><span>{phrase(rng, 1)}</span><b style="width:{rng.randint(10, 70)}%"></b></p>'
    item = lambda: f"<li>{phrase(rng, 3)}</li>"
    sections = [
        f'<section>{title()}<div class="grid">\n{many(n, n, card)}\n</div></section>',
        f'<section>{title()}<table><tr>{"".join(f"<th>{phrase(rng, 1)}</th>" for _ in range(4))}</tr>\n{many(3, 6, row)}\n</table></section>',
        f'<section>{title()}<form>\n{many(1, 2 + rich, field)}\n  <label>{phrase(rng)}<select><option>{phrase(rng)}</option></select></label>\n  <button class="button">{phrase(rng, 1)}</button>\n</form></section>',
        f'<section>{title()}<p>{sentences(rng, 3)}</p><ul>\n{many(3, 5, item)}\n</ul></section>',
        f'<section><div class="grid">\n{many(n, n, figure)}\n</div></section>', f"<section>{title()}\n{many(3, 5, meter)}\n</section>",
        f'<section class="columns"><div>{title()}<p>{sentences(rng, 3)}</p></div><aside><h3>{phrase(rng)}</h3><ul>\n{many(3, 5, item)}\n</ul></aside></section>',
        f"<blockquote>{sentences(rng, 2)}<cite>{phrase(rng)}</cite></blockquote>"]
    head = f"<header><h1>{phrase(rng, rng.randint(2, 4))}</h1><p>{sentences(rng, 1)}</p>{button() + ' ' + button('ghost') if rich else ''}</header>"
    if rich:
        head = f"<nav><b>{phrase(rng, 1)}</b>{''.join(f'<span>{phrase(rng, 1)}</span>' for _ in range(rng.randint(2, 4)))}</nav>\n" + rng.choice((head, head, f"<main>{title()}</main>"))
    body = "\n".join([head, *rng.sample(sections, rng.randint(2, 4) if rich else rng.randint(1, 2)), f"<footer><span>{phrase(rng, 3)}</span><span>{phrase(rng)}</span></footer>"])
    rules = (
        ("nav", f"display: flex; align-items: center; gap: 20px; padding: {rng.choice((10, 14, 18))}px 32px; background: {rng.choice((pale, '#ffffff', ink))}; color: {accent};"),
        ("nav b", "margin-right: auto; font-size: 20px;"),
        ("header", f"padding: {rng.randint(12, 60)}px 32px; color: white; text-align: {rng.choice(('left', 'center'))}; "
                   f"background: {rng.choice((main, f'linear-gradient({rng.choice((90, 135, 180))}deg, {main}, {accent})')) if rich else main};"),
        ("header h1", f"margin: 0; font-size: {rng.choice((28, 36, 44))}px;"), ("main", "padding: 16px 32px 0;"), ("section", f"padding: {rng.choice((12, 20, 28))}px 32px;"),
        ("h2", f"margin: 0 0 12px; color: {main};"), ("h3", "margin: 6px 0;"), ("grid", f"display: grid; grid-template-columns: repeat({n}, 1fr); gap: {gap}px;"),
        (("card", "figure", "form", "aside"), f"background: white; border: {rng.choice((1, 1, 2))}px solid {tint(rng, 0.85, 0.2)}; border-radius: {radius}px; padding: 14px;"
         + rng.choice(("", " box-shadow: 0 2px 8px rgba(0, 0, 0, 0.15);"))), ("figure", "text-align: center;"), ("figure strong", f"font-size: 30px; color: {accent};"),
        ("picture", f"height: {rng.choice((40, 70, 100))}px; border-radius: {radius}px;"), ("form", f"max-width: {rng.choice((360, 420, 520))}px;"), ("label", "display: block; margin-bottom: 10px;"),
        (("input", "select"), f"display: block; box-sizing: border-box; width: 100%; padding: 7px; border: 1px solid {main}; border-radius: {radius // 2}px;"),
        ("button", f"display: inline-block; padding: 8px 18px; border: 0; border-radius: {rng.choice((radius, 20))}px; background: {accent}; color: white; font: inherit;"),
        ("ghost", "display: inline-block; padding: 6px 16px; border: 2px solid white;"), ("small", "padding: 3px 10px; font-size: 13px;"),
        ("badge", f"background: {tint(rng, 0.95, 0.2)}; padding: 2px 8px; border-radius: 10px; font-size: 12px;"), ("table", "width: 100%; border-collapse: collapse; background: white;"),
        ("th", f"background: {main}; color: white;"), (("th", "td"), f"padding: {rng.choice((6, 8, 10))}px; text-align: left; border-bottom: 1px solid {tint(rng, 0.8, 0.1)};"),
        ("meter", "display: flex; align-items: center; margin: 6px 0;"), ("meter span", "width: 110px;"), ("meter b", f"height: {rng.choice((10, 14, 18))}px; background: {accent};"),
        ("columns", f"display: flex; gap: {gap}px;"), ("columns div", f"flex: {rng.choice((1, 2))};"), ("aside", "flex: 1;"),
        ("blockquote", f"margin: 20px 32px; padding: 12px 20px; border-left: 5px solid {accent}; background: white; font-style: italic;"), ("cite", f"display: block; margin-top: 8px; color: {main};"),
        ("footer", f"display: flex; justify-content: space-between; padding: 16px 32px; background: {ink}; color: white;"))
    font = rng.choice(("Arial, sans-serif", "Georgia, serif", "Verdana, sans-serif", "'Courier New', monospace"))
    css = f"body {{ margin: 0; font-family: {font}; color: {ink}; background: {pale}; line-height: {rng.choice((1.4, 1.5, 1.6))}; }}\n"
    for names, rule in rules:
        used = [name for name in ((names,) if isinstance(names, str) else names) if re.search(rf'<{name.split()[0]}\b|class="[^"]*\b{name.split()[0]}\b', body)]
        css += ", ".join("." * (f"<{name.split()[0]}" not in body or name == "button") + name for name in used) + f" {{ {rule} }}\n" if used else ""
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<style>\n{css}</style>\n</head>\n<body>\n{body}\n</body>\n</html>'


# ---------------------------------------------------------------------------------------------------------------- SVG

def simple_svg(rng):
    n, stroke, paints = rng.randint, rng.random() < 0.4, colours(rng, 6)
    lines = []
    for _ in range(n(4, 8)):
        paint = f'fill="none" stroke="{rng.choice(paints)}" stroke-width="{n(3, 7)}"' if stroke else f'fill="{rng.choice(paints)}"'
        x, y = n(8, 80), n(8, 80)
        lines.append("  " + rng.choice((
            f'<rect x="{x}" y="{y}" width="{n(15, 40)}" height="{n(15, 40)}" rx="{n(0, 8)}" {paint}/>', f'<circle cx="{x + 15}" cy="{y + 15}" r="{n(8, 22)}" {paint}/>',
            f'<ellipse cx="{x + 15}" cy="{y + 15}" rx="{n(8, 24)}" ry="{n(8, 24)}" {paint}/>', f'<polygon points="{x},{y} {n(20, 110)},{n(20, 110)} {n(20, 110)},{n(20, 110)}" {paint}/>',
            f'<path d="M{x} {y} C{n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} L{n(10, 110)} {n(10, 110)} Z" {paint}/>')))
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="256" height="{rng.choice((256, 256, 192))}" viewBox="0 0 120 120">\n' + "\n".join(lines) + "\n</svg>"


def landscape(rng, n, paint):
    hill = lambda y, colour: f'<path d="M0 {y} Q{n(40, 120)} {y - n(30, 80)} 200 {y} T400 {y - n(0, 30)} V300 H0 Z" fill="{colour}"/>'
    tree = lambda: (f'<g transform="translate({n(20, 370)} {n(190, 250)}) scale({n(6, 14) / 10})"><rect x="-4" y="0" width="8" height="24" fill="#7a5230"/>'
                    f'<polygon points="-22,4 0,-48 22,4" fill="{paint[2]}"/></g>')
    house = (f'<g transform="translate({n(60, 300)} {n(180, 230)})"><rect width="60" height="44" fill="{paint[3]}"/><path d="M-8 0 L30 -{n(20, 40)} L68 0 Z" fill="{paint[4]}"/>'
             f'<rect x="{n(8, 36)}" y="18" width="14" height="26" fill="#fff3c0"/></g>')
    return (f'<rect width="400" height="300" fill="url(#a)"/>\n<circle cx="{n(40, 360)}" cy="{n(35, 90)}" r="{n(15, 36)}" fill="#ffe27a"/>\n{hill(n(150, 190), paint[1])}\n{hill(n(190, 230), paint[2])}\n'
            + "\n".join([tree() for _ in range(n(2, 5))] + [house] * n(0, 1)))


def bars(rng, n, paint):
    count, step = n(4, 7), 0
    step, heights = 320 // count, [n(30, 190) for _ in range(count)]
    return (f'<text x="200" y="32" font-size="20" text-anchor="middle" font-family="sans-serif">{phrase(rng)}</text>\n<line x1="40" y1="250" x2="380" y2="250" stroke="black" stroke-width="2"/>\n<g font-size="12" font-family="sans-serif" text-anchor="middle">\n'
            + "\n".join(f'<rect x="{50 + i * step}" y="{250 - h}" width="{step - n(6, 12)}" height="{h}" rx="{n(0, 6)}" fill="{rng.choice(("url(#a)", paint[i % 3]))}"/>'
                        f'<text x="{46 + i * step + step // 2}" y="{244 - h}">{h}</text><text x="{46 + i * step + step // 2}" y="268">{rng.choice(WORDS)[:6]}</text>' for i, h in enumerate(heights)) + "\n</g>")


def flower(rng, n, paint):
    petals, size = n(5, 12), n(40, 90)
    petal = rng.choice((f'<ellipse id="petal" cx="0" cy="-{size}" rx="{n(12, 26)}" ry="{n(30, 50)}"/>', f'<path id="petal" d="M0 0 C-{n(20, 50)} -{size} -10 -{size + 30} 0 -{size + 40} C10 -{size + 30} {n(20, 50)} -{size} 0 0 Z"/>'))
    return (f'<rect width="400" height="300" fill="{tint(rng, 1, 0.1)}"/>\n<defs>{petal}</defs>\n<g transform="translate({n(150, 250)} 150)" fill="{paint[0]}" stroke="{paint[1]}" stroke-width="{n(1, 3)}" opacity="0.9">\n'
            + "\n".join(f'<use href="#petal" transform="rotate({round(360 * i / petals)})"/>' for i in range(petals)) + f'\n<circle r="{n(14, 34)}" fill="url(#b)"/>\n</g>')


def flow(rng, n, paint):
    count = n(3, 4)
    boxes = [(30 + i % 2 * 200, 40 + i // 2 * 130 + n(0, 20), 140, n(50, 70), rng.choice(WORDS)) for i in range(count)]
    lines = [f'<path d="M{a[0] + 70} {a[1] + 25} L{b[0] + 70} {b[1] + 25}" stroke="#444444" stroke-width="{n(2, 4)}" {rng.choice(("", "stroke-dasharray=" + chr(34) + "8 5" + chr(34)))} fill="none"/>' for a, b in zip(boxes, boxes[1:])]
    return "\n".join(lines + [f'<g transform="translate({x} {y})"><rect width="{w}" height="{h}" rx="{n(0, 20)}" fill="{paint[i % 5]}" stroke="#222222" stroke-width="2"/>'
                              f'<text x="{w // 2}" y="{h // 2 + 6}" font-size="{n(15, 19)}" text-anchor="middle" fill="white" font-family="{rng.choice(("sans-serif", "serif"))}">{word}</text></g>'
                              for i, (x, y, w, h, word) in enumerate(boxes)])


def badge(rng, n, paint):
    points, outer, inner = n(5, 14), n(95, 125), n(60, 90)
    star = " ".join(f"{(outer if i % 2 else inner) * math.sin(math.pi * i / points):.0f},{(outer if i % 2 else inner) * math.cos(math.pi * i / points):.0f}" for i in range(2 * points))
    return (f'<g transform="translate(200 150) rotate({n(0, 30)})"><polygon points="{star}" fill="url(#a)" stroke="{paint[2]}" stroke-width="{n(2, 6)}"/></g>\n'
            f'<circle cx="200" cy="150" r="{n(46, 58)}" fill="url(#b)" stroke="white" stroke-width="{n(2, 5)}"/>\n<text x="200" y="156" font-size="{n(18, 22)}" font-weight="bold" '
            f'text-anchor="middle" fill="#222222" font-family="{rng.choice(("serif", "sans-serif"))}">{rng.choice(WORDS).upper()}</text>')


def rings(rng, n, paint):
    arcs = [(40 + 22 * i, n(20, 95) / 100) for i in range(n(3, 4))]
    return (f'<g transform="translate(150 160) rotate(-90)" fill="none" stroke-width="{n(10, 18)}">\n' + "\n".join(
        f'<circle r="{r}" stroke="#e4e4e4"/><circle r="{r}" stroke="{paint[i]}" stroke-dasharray="{6.283 * r * share:.1f} {6.283 * r:.1f}" stroke-linecap="butt"/>' for i, (r, share) in enumerate(arcs)) + "\n</g>\n"
        + "\n".join(f'<g transform="translate(290 {80 + 34 * i})"><rect width="18" height="18" rx="{n(0, 9)}" fill="{paint[i]}"/><text x="26" y="14" font-size="15" font-family="sans-serif">{rng.choice(WORDS)}</text></g>' for i in range(len(arcs))))


def waves(rng, n, paint):
    wave = lambda y, i: f'<path d="M0 {y} ' + " ".join(f"q25 {rng.choice((-1, 1)) * n(10, 34)} 50 {n(-4, 4)}" for _ in range(8)) + f' V300 H0 Z" fill="{paint[i % 5]}" fill-opacity="{n(4, 9) / 10}"/>'
    return '<rect width="400" height="300" fill="url(#a)"/>\n' + "\n".join(wave(70 + i * 45, i) for i in range(n(3, 5))) + f'\n<circle cx="{n(40, 360)}" cy="50" r="{n(14, 30)}" fill="url(#b)"/>'


def rich_svg(rng):
    n, paint = rng.randint, colours(rng, 6)
    pale, deep, (x, y) = tint(rng, 0.98, 0.3), tint(rng, 0.8, 0.5), rng.choice(((0, 1), (1, 0), (1, 1)))
    body = rng.choice((landscape, bars, flower, flow, badge, rings, waves))(rng, n, paint)
    width = rng.choice((320, 400, 480))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{width * 3 // 4}" viewBox="0 0 400 300">\n<defs>\n'
            f'<linearGradient id="a" x1="0" y1="0" x2="{x}" y2="{y}"><stop offset="0" stop-color="{deep}"/><stop offset="1" stop-color="{pale}"/></linearGradient>\n'
            f'<radialGradient id="b"><stop offset="0.{n(1, 4)}" stop-color="{pale}"/><stop offset="1" stop-color="{paint[5]}"/></radialGradient>\n</defs>\n{body}\n</svg>')


# -------------------------------------------------------------------------------------------------------------- LaTeX

def document(body, packages="", options="tikz, border=4pt", picture=""):
    inside = f"\\begin{{tikzpicture}}{picture and f'[{picture}]'}\n{body}\n\\end{{tikzpicture}}" if "tikz" in options else body
    return f"\\documentclass[{options}]{{standalone}}\n{packages}\\begin{{document}}\n{inside}\n\\end{{document}}"


ATOMS = [*"abcxyzuvkmn23579", r"\pi", "x_i", "a_n", "x^2", "t_0", "y^{3}", *(f"\\{g}" for g in "alpha beta gamma lambda mu theta sigma omega phi".split())]
OPERATORS = (r"\frac{@}{@}", r"\frac{@ + @}{@}", r"\sqrt{@ + @}", "@ + @", "@ - @", r"@ \cdot @", r"\left( @ + @ \right)^{#}", r"\int_{#}^{\infty} @ \, dx", r"\int_0^{#} @ \, dt",
             r"\sum_{i=#}^{n} @ x_i", r"\sum_{k=0}^{\infty} @", r"\prod_{k=#}^{n} @", r"\sin\left( @ \right)", r"\cos\left( @ \right)", r"\log\left( @ \right)", r"\lim_{x \to #} @",
             r"\lim_{n \to \infty} @", r"\frac{\partial f}{\partial x} - @", r"\frac{d^2 u}{dt^2} + @", r"\left| @ \right|", "e^{-@}", r"\left[ @ \right]_{#}^{@}", r"\binom{n}{#} @")


def formula(rng, depth):
    """A formula in LaTeX, `depth` operators deep."""
    if depth == 0:
        return rng.choice(ATOMS)
    return re.sub("[@#]", lambda m: str(rng.randint(0, 9)) if m[0] == "#" else formula(rng, rng.randint(0, depth - 1)), rng.choice(OPERATORS))


def formulas(rng, rich):
    relation = lambda: rng.choice(("=", "=", "=", "\\leq", "\\approx", "\\geq"))
    entries = lambda rows, columns: " \\\\ ".join(" & ".join(formula(rng, rng.randint(0, 1)) for _ in range(columns)) for _ in range(rows))
    kind, size = rng.choice(("single", "aligned", "matrix", "cases") if rich else ("single",)), rng.randint(2, 4)
    body = {"single": f"{rng.choice('fgFLSQ')}({rng.choice('xt')}) {relation()} {formula(rng, 2 + rich)}",
            "aligned": "\\begin{aligned}\n" + " \\\\\n".join(f"{formula(rng, 1)} &{relation()} {formula(rng, 2)}" for _ in range(size)) + "\n\\end{aligned}",
            "matrix": f"{rng.choice('ABMT')} = \\begin{{{(m := rng.choice(('pmatrix', 'bmatrix', 'vmatrix')))}}} {entries(size, rng.randint(2, 4))} \\end{{{m}}} "
                      + rng.choice(("", f"\\begin{{pmatrix}} {entries(size, 1)} \\end{{pmatrix}}", f"+ {formula(rng, 2)}")),
            "cases": f"{rng.choice('fgh')}(x) = \\begin{{cases}} " + " \\\\ ".join(f"{formula(rng, 2)} & \\text{{if }} x {rng.choice('<>=')} {rng.randint(-5, 9)}" for _ in range(size)) + " \\end{cases}"}[kind]
    return document(f"$\\displaystyle {body}$", "\\usepackage{amsmath}\n", "border=6pt")


def simple_latex(rng):
    n, colour = rng.randint, rng.sample(TEX_COLOURS, 3)
    kind = rng.choice(("graph", "axis", "shapes", "tree", "formula"))
    if kind == "formula":
        return formulas(rng, False)
    if kind == "graph":
        places = rng.sample(list(itertools.product(range(0, 9, 3), range(0, 6, 2))), n(4, 6))
        lines = [f"\\node[draw, fill={rng.choice(colour)}!{n(10, 60)}] (n{i}) at ({x},{y}) {{{rng.choice(WORDS)}}};" for i, (x, y) in enumerate(places)]
        lines += [f"\\draw[->, {rng.choice(('thick', 'dashed', 'very thick'))}] (n{i}) -- (n{i + 1});" for i in range(len(places) - 1)]
    elif kind == "axis":
        lines = [f"\\begin{{axis}}[title={{{phrase(rng)}}}, xlabel={{{rng.choice(WORDS)}}}, ylabel={{{rng.choice(WORDS)}}}, grid=major]"]
        lines += [f"\\addplot[{c}, thick, domain={-n(1, 5)}:{n(1, 5)}] {{{n(1, 9)}*x^{n(1, 3)} + {n(0, 20)}}};" for c in colour[:n(1, 3)]] + ["\\end{axis}"]
    elif kind == "shapes":
        lines = [rng.choice((f"\\draw[fill={c}!{n(20, 80)}] ({n(0, 4)},{n(0, 4)}) circle ({n(5, 15) / 10});", f"\\fill[{c}] ({n(0, 4)},{n(0, 4)}) rectangle ({n(5, 7)},{n(5, 7)});",
                             f"\\draw[{c}, very thick] ({n(0, 6)},{n(0, 2)}) -- ({n(0, 6)},{n(3, 6)}) -- ({n(0, 6)},{n(0, 6)}) -- cycle;",
                             f"\\node[{c}] at ({n(0, 6)},{n(0, 6)}) {{{rng.choice(WORDS)}}};")) for c in [colour[0], *rng.choices(colour, k=n(3, 6))]] + [f"\\draw ({n(0, 3)},0) -- (6,{n(1, 6)});"]
    else:
        lines = [f"\\node[draw] {{{rng.choice(WORDS)}}} [sibling distance={n(24, 36)}mm, level distance={n(12, 22)}mm]"]
        lines += [f"  child {{ node[fill={rng.choice(colour)}!30] {{{rng.choice(WORDS)}}} }}" for _ in range(n(2, 4))] + [";"]
    return document("\n".join(lines), "\\usepackage{pgfplots}\n\\pgfplotsset{compat=1.18}\n" if kind == "axis" else "")


def rich_latex(rng):
    n, (a, b, c), words = rng.randint, rng.sample(TEX_COLOURS[:8], 3), rng.sample(WORDS, 14)
    shade, arrow = f"{a}!{n(10, 50)}", rng.choice(("-Stealth", "->", "-Latex"))
    symbol = lambda: rng.choice(("A", "B", "C", "X", "Y", "Z", "F(X)", "G(Y)", "\\mathbb{R}^n", "H_1", "U \\times V", "M/N"))
    kind = rng.choice(("automaton", "functions", "bars", "tree", "matrix", "cd", "network", "flow", "geometry", "formulas", "formulas"))
    plots = "\\usepackage{pgfplots}\n\\pgfplotsset{compat=1.18}\n"
    if kind == "formulas":
        return formulas(rng, True)
    if kind == "automaton":
        count, letter = n(3, 4), lambda: rng.choice("abc01xy")
        lines = [f"\\node[state{', initial' if i == 0 else ''}{', accepting' if i == count - 1 or rng.random() < 0.2 else ''}] (q{i}) {f'[right=of q{i - 1}] ' if i else ''}{{$q_{i}$}};" for i in range(count)]
        lines += [f"\\draw (q{i}) edge[{rng.choice(('bend left', 'above'))}] node[above] {{{letter()}}} (q{i + 1});" for i in range(count - 1)]
        lines += [f"\\draw (q{i}) edge[loop {rng.choice(('above', 'below'))}] node {{{letter()}, {letter()}}} (q{i});" for i in range(count) if rng.random() < 0.5]
        lines += [f"\\draw (q{count - 1}) edge[bend left={n(35, 50)}] node[below] {{{letter()}}} (q{n(0, count - 2)});"]
        return document("\n".join(lines), "\\usetikzlibrary{automata, positioning, arrows.meta}\n",
                        picture=f"{arrow}, node distance={n(16, 26)}mm, thick, every state/.style={{fill={shade}}}, initial text={{}}")
    if kind in ("functions", "bars"):
        names, values = ",".join(w[:6] for w in words[:4]), lambda: " ".join(f"({w[:6]},{n(3, 60)})" for w in words[:4])
        options = (f"title={{{phrase(rng)}}}, xlabel={{{words[5]}}}, ylabel={{{words[6]}}}, legend pos={rng.choice(('north west', 'outer north east', 'south east'))}, width={n(8, 11)}cm, height={n(6, 8)}cm")
        if kind == "bars":
            lines = [f"\\begin{{axis}}[ybar, bar width={n(8, 13)}pt, symbolic x coords={{{names}}}, xtick=data, ymin=0, enlarge x limits=0.2,\n  {options}]"]
            lines += [f"\\addplot[fill={x}!{n(30, 80)}] coordinates {{{values()}}};" for x in (a, b, c)[:n(1, 3)]]
        else:
            curve = lambda: rng.choice((f"{n(1, 6)}*sin(deg({n(1, 3)}*x))", f"{n(1, 4)}*x^2 - {n(1, 9)}", f"{n(2, 9)}*exp(-x^2/{n(1, 4)})", f"{n(1, 5)}*cos(deg(x)) + {n(0, 3)}", f"{n(1, 4)}*abs(x) - x"))
            lines = [f"\\begin{{axis}}[{rng.choice(('grid=major', 'axis lines=middle', 'grid=both'))}, samples=60, domain=-{n(2, 4)}:{n(2, 4)},\n  {options}]"]
            lines += [f"\\addplot[{x}, {rng.choice(('thick', 'very thick', 'dashed, thick'))}] {{{curve()}}};" for x in (a, b, c)[:n(2, 3)]]
        return document("\n".join([*lines, f"\\legend{{{', '.join(words[7:6 + len(lines)])}}}", "\\end{axis}"]), plots)
    if kind == "tree":
        leaf = lambda i: f"child {{ node[{rng.choice(('leaf', 'inner'))}] {{{words[i]}}} }}"
        lines = [f"\\node[inner] {{{words[0]}}}"] + [f"  child {{ node[inner] {{{words[i]}}}\n    " + " ".join(leaf(3 * i + j + 1) for j in range(n(1, 3))) + " }" for i in range(1, n(3, 4))] + [";"]
        return document("\n".join(lines), picture=f"level 1/.style={{sibling distance={n(50, 58)}mm}}, level 2/.style={{sibling distance=18mm}}, level distance={n(13, 20)}mm,\n"
                        f"  inner/.style={{draw, rounded corners, fill={shade}}}, leaf/.style={{font=\\small, text={b}}}")
    if kind == "matrix":
        rows, columns = n(3, 5), n(3, 6)
        cell = lambda: rng.choice((f"|[fill={b}!40]| ", "", "")) + str(n(0, 99))
        lines = [f"\\matrix (m) [matrix of nodes, nodes={{draw, minimum size={n(8, 10)}mm, fill={shade}}}, row sep={n(-1, 3)}pt, column sep={n(-1, 3)}pt] {{"]
        lines += ["  " + " & ".join(cell() for _ in range(columns)) + " \\\\" for _ in range(rows)]
        lines += ["};", f"\\node[above=2mm of m] {{{phrase(rng)}}};", f"\\draw[{arrow}, very thick, {c}] (m-1-1.west) +(-6mm,0) -- (m-1-1.west);", f"\\node[right=3mm of m-{n(1, rows)}-{columns}] {{$\\{rng.choice(('alpha', 'beta', 'Sigma'))}_{n(1, 9)}$}};"]
        return document("\n".join(lines), "\\usetikzlibrary{matrix, positioning, arrows.meta}\n")
    if kind == "cd":
        columns, name = n(2, 4), lambda: rng.choice(("f", "g", "h", "\\alpha", "\\beta", "\\pi", "\\iota"))
        style = lambda: rng.choice(("", "", ", hook", ", two heads", ", dashed"))
        row = lambda last: " & ".join(f"{symbol()}" + (f' \\arrow[r, "{name()}"{style()}]' if i < columns - 1 else "") + ("" if last else f' \\arrow[d, "{name()}"{rng.choice(("", chr(39)))}{style()}]') for i in range(columns))
        rows = [row(False) for _ in range(n(1, 2))] + [row(True)]
        return document("\\begin{tikzcd}" + f"[row sep={rng.choice(('large', 'huge'))}, column sep={rng.choice(('large', 'huge'))}]\n" + " \\\\\n".join(rows) + "\n\\end{tikzcd}", "\\usepackage{tikz-cd, amssymb}\n", "border=6pt").replace('"\'', '"\'')
    if kind == "network":
        layers = [n(2, 5) for _ in range(n(3, 4))]
        lines = [f"\\foreach \\i in {{1,...,{size}}} \\node[neuron, fill={(a, b, c, b)[k]}!{n(20, 60)}] (l{k}-\\i) at ({k * 2.5},{{{size / 2} - \\i}}) {{}};" for k, size in enumerate(layers)]
        lines += [f"\\foreach \\i in {{1,...,{s}}} \\foreach \\j in {{1,...,{t}}} \\draw[{arrow}, gray] (l{k}-\\i) -- (l{k + 1}-\\j);" for k, (s, t) in enumerate(zip(layers, layers[1:]))]
        lines += [f"\\node at ({k * 2.5},{max(layers) / 2 + 0.4}) {{{words[k]}}};" for k in range(len(layers))]
        return document("\n".join(lines), "\\usetikzlibrary{arrows.meta}\n", picture=f"neuron/.style={{circle, draw, minimum size={n(5, 8)}mm}}")
    if kind == "flow":
        count, shape = n(3, 5), lambda: rng.choice(("box", "box", "choice", "round"))
        lines = [f"\\node[{shape() if i else 'round'}] (s{i}) {f'[{way} of s{i - 1}] ' if i else ''}{{{words[i]}}};" for i in range(count) for way in [rng.choice(("below=", "right="))]]
        lines += [f"\\draw[{arrow}, thick] (s{i}) -- {rng.choice(('', f'node[{b}, fill=white, font=' + chr(92) + 'small] {' + words[i + 6] + '} '))}(s{i + 1});" for i in range(count - 1)]
        return document("\n".join(lines), "\\usetikzlibrary{positioning, shapes.geometric, arrows.meta}\n",
                        picture=f"node distance={n(14, 20)}mm and {n(18, 26)}mm,\n  box/.style={{draw, fill={shade}, minimum height=8mm}}, round/.style={{box, rounded corners=3mm, fill={b}!20}}, choice/.style={{box, diamond, aspect=2, fill={c}!20}}")
    x, y, p = n(4, 7), n(3, 5), n(1, 4)
    return document("\n".join([
        f"\\draw[step=1, gray!30, very thin] (-1,-1) grid ({x + 1},{y + 1});", f"\\draw[{arrow}] (-1,0) -- ({x + 1},0) node[right] {{$x$}};", f"\\draw[{arrow}] (0,-1) -- (0,{y + 1}) node[above] {{$y$}};",
        f"\\draw[thick, fill={a}!{n(10, 40)}, fill opacity=0.6] (0,0) node[below left] {{$A$}} -- ({x},{n(0, 1)}) node[below] {{$B$}} -- ({p},{y}) node[above] {{$C$}} -- cycle;",
        f"\\draw[{b}, dashed] ({x / 2},{y / 3:.2f}) circle[radius={n(5, 12) / 10}];", f"\\draw[{arrow}, very thick, {c}] (0,0) -- ({n(1, x)},{n(1, y)}) node[right] {{$\\vec{{{rng.choice('uvw')}}}$}};",
        f"\\draw[{c}, domain=0:{x}, samples=50, smooth] plot (\\x, {{{n(5, 12) / 10}*sin(\\x*{n(40, 90)}) + {n(1, 2)}}});", f"\\fill[{b}] ({p},{y}) circle[radius=2pt];"]), "\\usetikzlibrary{arrows.meta}\n")


# ---------------------------------------------------------------------------------------------------------- chemistry
# SMILES grown from fragments, each attached by its first atom. {r} and {s}: digits of the ring bonds, *: hydrogen or a branch.

RINGS = ("c{r}c*c*c*cc{r}", "c{r}cc*c*cc{r}*", "c{r}c*cncc{r}", "c{r}nc*c*nc{r}", "c{r}c*c*sc{r}", "c{r}cc*oc{r}", "c{r}cn*cn{r}", "C{r}C*CC*CC{r}", "C{r}CC*CC{r}", "N{r}CCN*CC{r}", "N{r}CCOCC{r}",
         "N{r}CC*CC{r}", "C{r}CC{r}", "c{r}c*c*c{s}c*cccc{s}c{r}", "c{r}c*c{s}cc*ccc{s}[nH]{r}", "c{r}cnc{s}c*cccc{s}c{r}", "c{r}cc*c{s}OCOc{s}c{r}", "c{r}nc{s}cc*ccc{s}s{r}", "C{r}CCC{s}C*CCCC{s}C{r}", "c{r}c*nn*c{r}")
LINKS = "C CC CCC O OC CO S N NC(=O) C(=O)N C(=O)O C(=O) /C=C/ C#C S(=O)(=O)N C(O) C(C) NC(=O)N CN C(F)(F) CCO".split()
ENDS = "C C O N F Cl Br CC OC C(=O)O C#N C(F)(F)F [N+](=O)[O-] C(C)C C(C)(C)C N(C)C OCC S(C)(=O)=O C(N)=O OC(C)=O SC C=C B(O)O I".split()


def grow(rng, budget, depth=0):
    """SMILES of a branch of up to about `budget` fragments, attached by its first atom."""
    if budget <= 0 or depth == 4:
        return rng.choice(ENDS)
    if rng.random() < 0.3 and depth:
        return rng.choice(LINKS) + grow(rng, budget - 1, depth)
    ring = rng.choice(RINGS).format(r=2 * depth + 1, s=2 * depth + 2)
    return re.sub(r"\*", lambda _: f"({grow(rng, rng.randint(0, budget - 1), depth + 1)})" if rng.random() < 0.55 else "", ring)


def molecule(rng, least, most):
    """SMILES of a random molecule of `least` to `most` heavy atoms, its valences checked by RDKit."""
    from rdkit import Chem, RDLogger
    RDLogger.DisableLog("rdApp.*")
    while True:
        smiles = rng.choice(("", "", rng.choice(ENDS[:6]))) + grow(rng, rng.randint(1, 3))
        found = Chem.MolFromSmiles(smiles)
        if found and least <= found.GetNumHeavyAtoms() <= most:
            return smiles


def indigo(rng, smiles, rich):
    size, colour = rng.choice(("400, 400", "300, 300", "500, 350", "384, 384", "600, 400")), lambda low: ", ".join(f"{rng.uniform(low, 1):.2f}" for _ in range(3))
    options = [f'"render-coloring", {rng.choice(("True", "False"))}', f'"render-bond-line-width", {rng.choice((1.0, 1.5, 2.0, 3.0))}', f'"render-relative-thickness", {rng.choice((0.8, 1.2, 1.6))}',
               f'"render-background-color", {colour(0.85)}', f'"render-label-mode", "{rng.choice(("hetero", "terminal-hetero", "all"))}"', '"render-implicit-hydrogens-visible", False',
               f'"render-margins", {rng.choice((10, 20, 40))}, {rng.choice((10, 20, 40))}', f'"render-comment", "{phrase(rng)}"', '"render-atom-ids-visible", True', '"render-stereo-style", "none"']
    chosen = rng.sample(options, rng.randint(3, 6) if rich else rng.randint(0, 2))
    return ("from indigo import Indigo\nfrom indigo.renderer import IndigoRenderer\n\nindigo = Indigo()\nrenderer = IndigoRenderer(indigo)\nindigo.setOption(\"render-output-format\", \"png\")\n"
            + "".join(f"indigo.setOption({option})\n" for option in [f'"render-image-size", {size}', *chosen]) + f'\nmol = indigo.loadMolecule("{smiles}")\n' + rng.choice(("", "mol.layout()\n"))
            + rng.choice(("", "mol.dearomatize()\n", "mol.aromatize()\n")) + 'renderer.renderToFile(mol, "molecule.png")')


def simple_chem(rng):
    smiles, size = molecule(rng, 5, 22), rng.choice(("300, 300", "400, 400", "400, 400", "500, 400", "256, 256", "450, 300"))
    draw = rng.choice((f"img = Draw.MolToImage(mol, size=({size}))\nimg.save('molecule.png')", f"Draw.MolToFile(mol, 'molecule.png', size=({size}))",
                       f"img = Draw.MolToImage(mol, size=({size}), legend='{phrase(rng)}')\nimg.save('molecule.png')", f"img = Draw.MolToImage(mol, size=({size}), kekulize=False)\nimg.save('molecule.png')"))
    return indigo(rng, smiles, False) if rng.random() < 0.3 else f"from rdkit import Chem\nfrom rdkit.Chem import Draw\n\nmol = Chem.MolFromSmiles('{smiles}')\n{draw}"


def rich_chem(rng):
    kind, colour = rng.choice(("canvas", "canvas", "grid", "match", "indigo")), lambda low: f"({', '.join(f'{rng.uniform(low, 1):.2f}' for _ in range(3))})"
    if kind == "indigo":
        return indigo(rng, molecule(rng, 16, 42), True)
    if kind == "grid":
        found = [molecule(rng, 6, 20) for _ in range(rng.randint(2, 6))]
        return (f"from rdkit import Chem\nfrom rdkit.Chem import Draw\n\nsmiles = {found}\nmols = [Chem.MolFromSmiles(s) for s in smiles]\nimg = Draw.MolsToGridImage(mols, molsPerRow={rng.randint(2, 3)}, "
                f"subImgSize=({rng.choice((200, 250, 300))}, {rng.choice((200, 250))}), legends={[phrase(rng, 1) for _ in found]})\nimg.save('molecules.png')")
    smiles = molecule(rng, 14, 38)
    options = [f"options.bondLineWidth = {rng.randint(1, 4)}", "options.addAtomIndices = True", "options.useBWAtomPalette()", f"options.setBackgroundColour({colour(0.85)})", "options.addStereoAnnotation = True",
               f"options.padding = {rng.choice((0.05, 0.1, 0.2))}", f"options.rotate = {rng.choice((30, 45, 90, 180))}", "options.explicitMethyl = True", f"options.setHighlightColour({colour(0.3)})", "options.fixedBondLength = 30"]
    chosen = "".join(f"{option}\n" for option in rng.sample(options, rng.randint(1, 4)))
    atoms = f"list(mol.GetSubstructMatch(Chem.MolFromSmarts('{rng.choice(('c1ccccc1', 'C=O', '[#7]', '[#8]', 'cc', 'CC'))}')))" if kind == "match" else str(sorted(rng.sample(range(14), rng.randint(2, 6))))
    return (f"from rdkit import Chem\nfrom rdkit.Chem.Draw import rdMolDraw2D\n\nmol = Chem.MolFromSmiles('{smiles}')\ndrawer = rdMolDraw2D.MolDraw2DCairo({rng.choice(('400, 400', '500, 400', '600, 450'))})\n"
            f"options = drawer.drawOptions()\n{chosen}rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol, legend='{phrase(rng)}'{rng.choice(('', f', highlightAtoms={atoms}')) if kind == 'canvas' else f', highlightAtoms={atoms}'})\n"
            "drawer.FinishDrawing()\nwith open('molecule.png', 'wb') as file:\n    file.write(drawer.GetDrawingText())")


# ------------------------------------------------------------------------------------------------------------ programs

GENERATORS = {("chart", 2): simple_chart, ("chart", 3): rich_chart, ("web", 2): lambda rng: web(rng, False), ("web", 3): lambda rng: web(rng, True), ("svg", 2): simple_svg, ("svg", 3): rich_svg,
              ("latex", 2): simple_latex, ("latex", 3): rich_latex, ("chem", 2): simple_chem, ("chem", 3): rich_chem}


def program(rng, domain, difficulty):
    """The source of one program, a pure function of the state of `rng`. difficulty: 1, 2 or 3."""
    if difficulty == 1:
        return scene_code(domain, draw_scene(rng, domain, *rng.choice((LABELLED, TARGETS))[domain]))
    return GENERATORS[domain, difficulty](rng)


def draw_programs(domain, difficulty, n, seed):
    """-> (n programs, all different, number drawn for it)."""
    rng, found, drawn = random.Random(f"{seed}/{domain}/{difficulty}"), {}, 0
    while len(found) < n:
        found[program(rng, domain, difficulty)] = None
        drawn += 1
        if drawn > 20 * n + 1000:
            raise SystemExit(f"error: difficulty {difficulty} of {domain} has no {n} different programs (found {len(found)}). Ask for fewer, or for a higher difficulty.")
    return list(found), drawn


def programs(domain, difficulty, n, seed=0):
    """n programs, all different, in the order in which they were drawn."""
    return draw_programs(domain, difficulty, n, seed)[0]


# ------------------------------------------------------------------------------------------------------------- samples

WORDINGS = ("Write {name} code that draws this image.", "Reproduce this picture in {name}.", "What {name} code gives this image? Answer with the code alone.",
            "Recreate the image as {name} code.", "Here is a picture. Write the {name} program that draws it.", "Convert this image to {name} code.")
SIZES = {"web": (800, 600)}  # pixels of the page; the others have a size of their own
PART = 4096  # samples of a file
WINDOW = 256  # renders under way: memory does not grow with the number of samples


def clean_split(programs_of, count, domains, offset, seed, labels):
    """`count` programs, domains in turn, from number `offset` of each domain's list on -> (Sample without image, program) pairs."""
    pairs, used, rng = [], Counter(offset), random.Random(f"{seed}/wording")
    for i in range(count):
        domain = domains[i % len(domains)]
        difficulty, code = programs_of[domain][used[domain]]
        used[domain] += 1
        name = NAMES[LANGUAGE_OF[domain]]
        pairs.append((Sample(rng.choice(WORDINGS).format(name=name), fenced(LANGUAGE_OF[domain], code) if labels else "", b"", domain=domain,
                             language=LANGUAGE_OF[domain], source=f"synth/{difficulty}", license="CC0-1.0"), code))
    offset.update(used - offset)
    return pairs


def usable_domains(domains, unsafe):
    """The domains that can be rendered here; prints the others. Raises SystemExit with one line when none is left."""
    if unknown := [d for d in domains if d not in DOMAINS]:
        raise SystemExit(f"error: there is no domain {unknown[0]!r}; known are {', '.join(DOMAINS)}.")
    absent = {} if unsafe else {d: available()[LANGUAGE_OF[d]] for d in domains}
    if "chem" in domains and not importlib.util.find_spec("rdkit"):
        absent["chem"] = "rdkit is not installed"
    for domain, why in absent.items():
        if why:
            print(f"{domain} is left out: it cannot be rendered here ({why})")
    if not (left := [d for d in domains if not absent.get(d)]):
        raise SystemExit("error: none of these domains can be rendered here. `python render.py --doctor` says what is missing.")
    return left


def report(pairs, images):
    """Print how diverse the programs are: (Sample, code) pairs, {(domain, source): digests of their images}."""
    groups = {}
    for sample, code in pairs:
        groups.setdefault((sample.domain, sample.source), []).append(code)
    element = {"python": r"\.\w+\(", "html": r"<\w", "svg": r"<\w", "latex": r"\\[a-zA-Z]+"}
    for (domain, source), codes in sorted(groups.items()):
        colours = {c.lower() for code in codes for c in re.findall(r"#[0-9a-fA-F]{3,8}\b|\b(?:" + "|".join({*COLOURS, *PALETTE[8:], *TEX_COLOURS}) + r")\b", code)}
        elements, sizes = (sorted(f(code) for code in codes) for f in (lambda code: len(re.findall(element[LANGUAGE_OF[domain]], code)), len))
        print(f"  {domain:6} {source:17} {len(codes):6} programs, {len(set(codes)):6} distinct, {len(set(images[domain, source])):6} distinct images, {len(colours):5} colours; "
              f"calls, tags or commands {elements[len(codes) // 2]} (at most {elements[-1]}), characters {sizes[len(codes) // 2]} (at most {sizes[-1]})")


def synth(out, labelled=3200, targets=2400, test=768, seed=0, label_jitter=0.1, broken=0.1, domains=MIXTURE, difficulty="1", workers=None, unsafe=False,
          rank=0, world=1):
    """Write samples to `out`/{sft,rl,test}: pairs, targets without code, held-out pairs. Targets are rendered by render.py.

    difficulty: "1" makes the embedded default, an imperfect corpus with refinement samples (label_jitter, broken); "2", "3" and "mixed"
    clean programs, all different, for which `data.py refine` makes defects. A program that does not render stops the run. The
    `world` processes of torchrun that call this share the parts of PART samples; a finished part is not done again.
    """
    from tqdm import tqdm
    from corpus import all_ranks, finish, finished
    domains = usable_domains(domains, unsafe)
    if difficulty == "1":
        make = lambda n, salt, mixture=domains, **kw: synth_split(n, f"{seed}/{salt}", mixture, **kw)
        cheap = domains + [d for d in domains if d == "svg"]  # ViRL renders eight answers to each of its targets
        splits = {
            "test": make(test // 2, "test-a", scenes=LABELLED, refine=0.25, label_jitter=0, broken=0, labels=True, source="synth/labelled")
            + make(test - test // 2, "test-b", scenes=TARGETS, refine=0.25, label_jitter=0, broken=0, labels=True, source="synth/target-only"),
            "sft": make(labelled, "sft", scenes=LABELLED, refine=0.25, label_jitter=label_jitter, broken=broken, labels=True, source="synth/labelled"),
            "rl": make(targets // 2, "rl-a", cheap, scenes=LABELLED, refine=0.25, label_jitter=0, broken=0, labels=False, source="synth/labelled")
            + make(targets - targets // 2, "rl-b", cheap, scenes=TARGETS, refine=0.25, label_jitter=0, broken=0, labels=False, source="synth/target-only"),
        }
    else:
        levels, programs_of = (1, 2, 3) if difficulty == "mixed" else (int(difficulty),), {}
        for domain in {*domains}:
            n = sum(-(-count // len(domains)) for count in (labelled, targets, test)) * domains.count(domain)
            by_level = [[(level, code) for code in programs(domain, level, -(-n // len(levels)), seed)] for level in levels]
            programs_of[domain] = [item for items in zip(*by_level) for item in items]
        offset = Counter()
        splits = {name: clean_split(programs_of, count, domains, offset, f"{seed}/{name}", labels)
                  for name, count, labels in (("test", test, True), ("sft", labelled, True), ("rl", targets, False))}
    out, seen, images, number = Path(out), set(), {}, 0
    arguments = [labelled, targets, test, seed, label_jitter, broken, list(domains), difficulty]
    with Renderer(workers=workers, unsafe=unsafe) as renderer, tqdm(total=sum(map(len, splits.values())) // world, desc="render targets", unit="image", mininterval=1, disable=rank > 0) as bar:
        for name, pairs in splits.items():
            parts = [(number + k, start) for k, start in enumerate(range(0, len(pairs), PART))]
            number += len(parts)
            strangers = {*(out / name).glob("*.parquet")} - {out / name / f"part-{start // PART}.parquet" for _, start in parts}
            if strangers:
                raise SystemExit(f"error: {min(strangers)} is there already and not of this run. Give another --out, or remove {out}.")
            for k, start in parts[rank::world]:
                file = out / name / f"part-{start // PART}.parquet"
                if not (finished(out, k, arguments) and file.exists()):
                    record = render_part(pairs[start:start + PART], file, f"synth-{name}-{seed}", start, seen, renderer, bar)
                    finish(out, k, {"input": arguments, **record}, [])
            all_ranks(world)
            records = [json.loads((out / ".done" / f"{k:05d}.json").read_text()) for k, _ in parts]
            for key, digest in (pair for record in records for pair in record["images"]):
                images.setdefault(tuple(key), []).append(digest)
                if name == "test":
                    seen.add((LANGUAGE_OF[key[0]], digest))
            written = sum(record["written"] for record in records)
            bar.write(f"{name}: {written} samples written, {len(pairs) - written} left out because their image is in test")
    if rank == 0:
        report([pair for pairs in splits.values() for pair in pairs], images)


def render_part(pairs, path, name, first, seen, renderer, bar):
    """Render (Sample, program) pairs into one parquet file; `seen`: (language, digest) of the held-out images, which are left out.

    name, first: the ids are NAME-FIRST and on. Returns {"written": count, "images": [[domain, source], digest] of each}.
    """
    from corpus import Writer
    writer, ahead, images = Writer(path), deque(), []
    for i in range(len(pairs) + WINDOW):
        if i < len(pairs):
            sample, code = pairs[i]
            size = (CANVAS, CANVAS) if sample.source in ("synth/labelled", "synth/target-only", "synth/1") else SIZES.get(sample.domain)
            ahead.append((first + i, sample, renderer.submit(sample.language, code, size)))
        if not ahead or len(ahead) < WINDOW and i < len(pairs):
            continue
        k, sample, future = ahead.popleft()
        render = future.result()
        bar.update()
        if render.status != "ok":
            raise SystemExit(f"error: a {sample.domain} target did not render: {render.message}. `python render.py --doctor` says what is missing.")
        digest = hashlib.sha256(render.image.tobytes()).hexdigest()[:16]
        images.append([[sample.domain, sample.source], digest])
        if (sample.language, digest) in seen:
            continue  # the image stands in the held-out split: 6 % of the easy scenes coincide by chance
        sample.image, sample.id = png(render.image), f"{name}-{k:05d}"
        sample.height, sample.width = render.image.shape[:2]
        writer.add(sample)
    writer.close()
    return {"written": writer.count, "images": images}
