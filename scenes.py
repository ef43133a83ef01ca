"""Difficulty 1: scenes of one to three elements on 64 pixels, the programs that draw them, and the imperfect corpus made of them.

A scene is a list of elements on a 64 px canvas with coordinates on an 8 px grid; each domain draws it its own way.
SVG, web, LaTeX: (kind, x, y, w, h, colour). Charts: ("bar"|"barh", [(value, colour), ...]). Chemistry: (core, [group, ...]).
"""
import random

from data import NAMES, REFINE, Sample, fenced

CANVAS, GRID = 64, 8  # pixels
LANGUAGE_OF = {"chart": "python", "web": "html", "svg": "svg", "latex": "latex", "chem": "python"}
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
