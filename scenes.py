"""Difficulty 1: scenes of one to three elements on 64 pixels, the programs that draw them, and the embedded default.

A scene is a list of elements on a 64 px canvas with coordinates on an 8 px grid; each domain draws it its own way.
    SVG, web, LaTeX     [(kind, x, y, w, h, colour), ...]
    charts              ("bar" or "barh", [(value, colour), ...])
    chemistry           (core, [group, ...])
"""
import random

from data import NAMES, REFINE, Sample, fenced

CANVAS, GRID = 64, 8  # pixels
LANGUAGE_OF = {"chart": "python", "web": "html", "svg": "svg", "latex": "latex", "chem": "python"}
COLOURS = ("red", "green", "blue", "orange", "purple", "black", "cyan", "gray")
CORES = ("c1cc{}cc{}c1", "c1cc{}c{}cc1", "C1CC{}CC{}C1", "c1c{}nc{}cc1", "C1C{}CC{}C1", "c1c{}sc{}c1")
INSTRUCTIONS = {domain: f"Write {name} code that draws this image." for domain, name in (
    ("svg", "SVG"), ("web", "HTML"), ("chart", "Python"), ("latex", "LaTeX"), ("chem", "RDKit"))}

# The regime of the embedded default (README, "The regime"): imperfect labels; many targets without code, half of them
# larger than anything labelled. Least and most elements of a scene, and their sizes.
LABELLED = {"svg": (1, 2, (16, 24)), "web": (1, 2, (16, 24)), "latex": (1, 2, (16, 24)),
            "chart": (2, 3, (1, 2, 3, 4, 5, 6)), "chem": (1, 2, ("C", "O", "N", "F", "Cl"))}
TARGETS = {"svg": (1, 2, (24, 32)), "web": (1, 2, (24, 32)), "latex": (1, 2, (24, 32)),
           "chart": (2, 3, (2, 3, 4, 5, 6, 7)), "chem": (1, 2, ("CC", "OC", "C#N", "C=O", "Br"))}
MIXTURE = ("svg", "web", "svg", "svg", "chart", "svg")  # scenes take these in turn; an SVG renders 20 times as fast


def draw_scene(rng, domain, low, high, sizes):
    """A random scene with `low` to `high` elements; sizes: of their sides in pixels, of bars; or groups of atoms."""
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
        x, y = (rng.randrange(0, CANVAS - side + 1, GRID) for side in (w, h))
        scene.append((kind, x, y, w, h, colour))
    return sorted(scene, key=lambda e: (e[1], e[2]))  # people write from left to right, too; a fixed order is learnable


def chem_code(scene):
    """An RDKit program of 64 x 64 pixels; places of the core that no group takes hold hydrogen."""
    core, groups = scene
    smiles = core.format(*(f"({group})" for group in groups), "")
    return ("from rdkit import Chem\nfrom rdkit.Chem import Draw\n"
            f"Draw.MolToFile(Chem.MolFromSmiles('{smiles}'), 'molecule.png', size=({CANVAS}, {CANVAS}))")


def chart_code(scene):
    """A matplotlib program of 64 x 64 pixels without axes: bars of the values 1 to 8 in a range of 0 to 9."""
    kind, bars = scene
    n = len(bars)
    places, values = ", ".join(str(i + 1) for i in range(n)), ", ".join(str(v) for v, _ in bars)
    colours = ", ".join(repr(c) for _, c in bars)
    box = f"0, {n + 1}, 0, 9" if kind == "bar" else f"0, 9, 0, {n + 1}"
    return ("import matplotlib.pyplot as plt\nplt.figure(figsize=(0.64, 0.64))\n"
            f"plt.{kind}([{places}], [{values}], color=[{colours}])\n"
            f"plt.axis([{box}])\nplt.axis('off')\nplt.savefig('chart.png')")


def corners_of(x, y, w, h):
    """Those of a triangle in a box: left below, top, right below."""
    return (x, y + h), (x + w // 2, y), (x + w, y + h)


def web_code(scene):
    """A page of absolutely placed divs, round ones for circles; its scenes have no triangles."""
    lines = []
    for kind, x, y, w, h, colour in scene:
        radius = ";border-radius:50%" if kind == "circle" else ""
        lines.append(f'<div style="position:absolute;left:{x}px;top:{y}px;width:{w}px;height:{h}px;'
                     f'background:{colour}{radius}"></div>')
    body = "\n".join(lines)
    return f'<body style="margin:0">\n{body}\n</body>'


def latex_code(scene):
    """A TikZ picture in units of one pixel, y downwards as on the canvas."""
    lines = []
    for kind, x, y, w, h, colour in scene:
        if kind == "rect":
            shape = f"({x},{y}) rectangle ({x + w},{y + h})"
        elif kind == "circle":
            shape = f"({x + w // 2},{y + w // 2}) circle[radius={w // 2}]"
        else:
            shape = " -- ".join(f"({a},{b})" for a, b in corners_of(x, y, w, h)) + " -- cycle"
        lines.append(f"\\fill[{colour}] {shape};")
    body = "\n".join(lines)  # 0.48pt are one pixel at the 150 dpi of render.py
    return ("\\documentclass[tikz]{standalone}\n\\begin{document}\n\\begin{tikzpicture}[x=0.48pt, y=-0.48pt]\n"
            f"\\useasboundingbox (0,0) rectangle ({CANVAS},{CANVAS});\n{body}\n\\end{{tikzpicture}}\n\\end{{document}}")


def svg_code(scene):
    """A rect, circle or polygon for each element, in canvas units."""
    lines = []
    for kind, x, y, w, h, colour in scene:
        if kind == "rect":
            lines.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{colour}"/>')
        elif kind == "circle":
            lines.append(f'<circle cx="{x + w // 2}" cy="{y + w // 2}" r="{w // 2}" fill="{colour}"/>')
        else:
            points = ",".join(f"{a},{b}" for a, b in corners_of(x, y, w, h))
            lines.append(f'<polygon points="{points}" fill="{colour}"/>')
    body = "\n".join(lines)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {CANVAS} {CANVAS}">\n{body}\n</svg>'


def scene_code(domain, scene):
    """The program that draws `scene`."""
    codes = {"chart": chart_code, "web": web_code, "svg": svg_code, "latex": latex_code, "chem": chem_code}
    return codes[domain](scene)


def jitter(rng, domain, scene, p, colour_p=0.0):
    """The scene with each number moved by a step of the grid, or group replaced, with probability `p`.

    colour_p: the probability of another colour.
    """
    def move(value, low, high, step):
        return min(high, max(low, value + rng.choice((-step, step)))) if rng.random() < p else value

    def recolour(colour):
        return rng.choice([c for c in COLOURS if c != colour]) if rng.random() < colour_p else colour

    if domain == "chem":
        return scene[0], [rng.choice(LABELLED["chem"][2]) if rng.random() < p else group for group in scene[1]]
    if domain == "chart":
        return scene[0], [(move(v, 1, 8, 1), recolour(c)) for v, c in scene[1]]
    moved = []
    for kind, x, y, w, h, colour in scene:
        w = move(w, 16, 32, GRID)
        h = w if kind == "circle" else move(h, 16, 32, GRID)
        x, y = (move(min(v, CANVAS - side), 0, CANVAS - side, GRID) for v, side in ((x, w), (y, h)))
        moved.append((kind, x, y, w, h, recolour(colour)))
    return moved


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


def scene_samples(count, seed, domains, scenes, refine, label_jitter, broken, labels, source):
    """`count` scenes, domains in turn -> (Sample without image, true program) pairs.

    scenes: {domain: arguments of `draw_scene`}; refine: share of refinement samples. labels: False leaves the answer
    empty (a target without code). label_jitter is the probability that a number of the *label* is off by one step,
    broken the share of labels that are damaged: the imperfect corpus. The image is always that of the true program.
    """
    rng, pairs = random.Random(seed), []
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


def scene_splits(labelled, targets, test, seed, label_jitter, broken, domains):
    """The embedded default without images: {"test", "sft", "rl": (Sample, true program) pairs}, so many of each.

    Half of the targets and of the held-out samples are larger than anything labelled.
    """
    def make(count, salt, scenes, label_jitter=0, broken=0, labels=True, domains=domains):
        source = "synth/labelled" if scenes is LABELLED else "synth/target-only"
        return scene_samples(count, f"{seed}/{salt}", domains, scenes, 0.25, label_jitter, broken, labels, source)

    cheap = [*domains, *(d for d in domains if d == "svg")]  # ViRL renders eight answers to each of its targets
    return {"test": make(test // 2, "test-a", LABELLED) + make(test - test // 2, "test-b", TARGETS),
            "sft": make(labelled, "sft", LABELLED, label_jitter, broken),
            "rl": make(targets // 2, "rl-a", LABELLED, labels=False, domains=cheap)
            + make(targets - targets // 2, "rl-b", TARGETS, labels=False, domains=cheap)}
