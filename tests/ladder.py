"""The reward ladder: does the reward put images in the order in which a person would?

    python tests/ladder.py                          # on synthetic programs of five domains, about 8 minutes on 2 cores
    python tests/ladder.py --data FILE.parquet      # on the programs of a parquet file in the released schema
    python tests/ladder.py --figure ladder.png      # and draw one ladder per domain, with the scores below each image

For each program: its own render, then the render after one edit, after five edits (the first of them the same one), the
render of another program of the domain, the blank canvas. An edit changes a number, a colour or a string or leaves an
element out, as a wrong answer would; it counts if the program still runs and the picture visibly changes. Printed per
domain, for our reward and beside it for raw SSIM, 1 - MSE and VinciCoder's formula:

    order   share of pairs of rungs of one ladder that are in order, ties counted as wrong
    AUC     how often a render after five edits scores higher than that of another program, over all ladders
    one, five, other, blank: mean score of the rung
"""
import argparse
import itertools
import random
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import reward as R  # noqa: E402

# ------------------------------------------------------------------------------------------------- synthetic programs

WORDS = ("market signal harvest river energy quarter latency orbit garden protein summer voltage traffic export engine "
         "forest income battery school harbour climate series median budget copper theatre island winter").split()
PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#333333", "#e377c2", "#bcbd22")
SMILES = ("CC(=O)Oc1ccccc1C(=O)O CN1C=NC2=C1C(=O)N(C(=O)N2C)C CC(C)Cc1ccc(cc1)C(C)C(=O)O CC(=O)Nc1ccc(O)cc1 c1ccc2ccccc2c1 "
          "OC1CCCCC1 Nc1ccc(cc1)S(=O)(=O)N OCC1OC(O)C(O)C(O)C1O NCCc1ccc(O)c(O)c1 CN1CCCC1c1cccnc1 CC1(C)SC2CC(=O)N2C1C(=O)O "
          "O=C(O)CCC(=O)O Clc1ccc(Cl)cc1 c1ccc(cc1)-c1ccccc1 CCOC(=O)c1ccccc1 CC(N)C(=O)O OC(=O)c1ccccc1O CCN(CC)CC "
          "Brc1ccccc1 COc1cc(C=O)ccc1O FC(F)(F)c1ccccc1 C1CCNCC1 c1ccsc1 O=C1CCCN1 CC#N c1cnc2ccccc2c1 CSCCC(N)C(=O)O").split()


def phrase(rng, n=2):
    return " ".join(rng.sample(WORDS, n)).capitalize()


def synthetic_chart(rng):
    n, kind = rng.randint(4, 7), rng.choice(("bar", "barh", "plot", "scatter", "pie", "hist", "fill", "two"))
    labels, values, more = rng.sample(WORDS, n), [rng.randint(2, 30) for _ in range(n)], [rng.randint(2, 30) for _ in range(n)]
    a, b = rng.sample(PALETTE, 2)
    body = {
        "bar": f"ax.bar({labels}, {values}, color='{a}')\nax.set_ylabel('{phrase(rng)}')",
        "barh": f"ax.barh({labels}, {values}, color='{a}')\nax.set_xlabel('{phrase(rng)}')",
        "plot": f"ax.plot({values}, color='{a}', marker='o', label='{rng.choice(WORDS)}')\nax.plot({more}, color='{b}', linestyle='--', "
                f"label='{rng.choice(WORDS)}')\nax.legend()\nax.grid(True)",
        "scatter": f"ax.scatter({values}, {more}, s={rng.choice((40, 80, 160))}, color='{a}')\nax.set_xlabel('{phrase(rng)}')\nax.set_ylabel('{phrase(rng)}')",
        "pie": f"ax.pie({values}, labels={labels}, colors={rng.sample(PALETTE, n)})",
        "hist": f"ax.hist({[rng.gauss(5, 2) // 0.01 / 100 for _ in range(60)]}, bins={n + 4}, color='{a}', edgecolor='{b}')\nax.set_xlabel('{phrase(rng)}')",
        "fill": f"ax.fill_between(range({n}), {values}, color='{a}', alpha=0.5)\nax.plot(range({n}), {values}, color='{b}', linewidth=3)\nax.set_ylim(0, 35)",
        "two": f"ax.remove()\nleft, right = fig.subplots(1, 2)\nleft.bar(range({n}), {values}, color='{a}')\nright.plot({more}, color='{b}')\n"
               f"left.set_title('{phrase(rng)}')\nright.set_xlabel('{phrase(rng)}')",
    }[kind]
    title = f"fig.suptitle('{phrase(rng, 3)}')\n" if rng.random() < 0.8 else ""
    return ("import matplotlib.pyplot as plt\n\nfig, ax = plt.subplots(figsize=({}, {}))\n{}\n{}fig.tight_layout()\nplt.savefig('chart.png')"
            .format(*rng.choice(((5, 4), (6, 4), (8, 4), (5, 5))), body, title))


def synthetic_web(rng):
    a, b, ink = rng.sample(PALETTE, 3)
    card = lambda: (f'<div class="card"><h3>{phrase(rng)}</h3><p>{phrase(rng, rng.randint(5, 12))}.</p></div>')
    row = lambda: "<tr>" + "".join(f"<td>{rng.choice(WORDS)} {rng.randint(1, 99)}</td>" for _ in range(3)) + "</tr>"
    blocks = [f'<div class="cards">{"".join(card() for _ in range(rng.randint(2, 3)))}</div>',
              f"<table>{''.join(row() for _ in range(rng.randint(3, 5)))}</table>",
              f"<p>{phrase(rng, 18)}. {phrase(rng, 14)}.</p>",
              f'<ul>{"".join(f"<li>{phrase(rng, 4)}</li>" for _ in range(rng.randint(3, 5)))}</ul>',
              f'<form><label>{phrase(rng)}</label> <input value="{rng.choice(WORDS)}"> <button>{phrase(rng, 1)}</button></form>']
    return f"""<!DOCTYPE html>
<html><head><style>
body {{ margin: 0; font-family: sans-serif; color: {ink}; background: {rng.choice(("#ffffff", "#f4f4f4", "#fffbe6"))}; }}
header {{ background: {a}; color: white; padding: {rng.randint(10, 40)}px; }}
main {{ padding: {rng.randint(10, 30)}px; width: {rng.choice((480, 560, 640))}px; }}
.cards {{ display: flex; gap: {rng.randint(8, 24)}px; }}
.card {{ border: 2px solid {b}; border-radius: {rng.choice((0, 6, 14))}px; padding: {rng.randint(8, 18)}px; }}
td {{ border: 1px solid {b}; padding: {rng.randint(4, 10)}px; }}
footer {{ background: {b}; color: white; padding: 12px; }}
</style></head><body>
<header><h1>{phrase(rng)}</h1><span>{phrase(rng, 3)}</span></header>
<main>
<h2>{phrase(rng, 3)}</h2>
{chr(10).join(rng.sample(blocks, rng.randint(2, 4)))}
</main>
<footer>{phrase(rng, 4)}</footer>
</body></html>"""


def synthetic_svg(rng):
    n = lambda low, high: rng.randint(low, high)
    stroke = rng.random() < 0.4  # an icon of lines
    lines = []
    for _ in range(n(4, 8)):
        paint = f'fill="none" stroke="{rng.choice(PALETTE)}" stroke-width="{n(3, 7)}"' if stroke else f'fill="{rng.choice(PALETTE)}"'
        x, y = n(8, 80), n(8, 80)
        lines.append("  " + rng.choice((
            f'<rect x="{x}" y="{y}" width="{n(15, 45)}" height="{n(15, 45)}" rx="{n(0, 8)}" {paint}/>', f'<circle cx="{x + 15}" cy="{y + 15}" r="{n(8, 24)}" {paint}/>',
            f'<ellipse cx="{x + 15}" cy="{y + 15}" rx="{n(8, 28)}" ry="{n(8, 28)}" {paint}/>',
            f'<polygon points="{x},{y} {n(20, 110)},{n(20, 110)} {n(20, 110)},{n(20, 110)}" {paint}/>',
            f'<path d="M{x} {y} C{n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} L{n(10, 110)} {n(10, 110)} Z" {paint}/>')))
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="256" height="{rng.choice((256, 256, 192))}" viewBox="0 0 120 120">\n' + "\n".join(lines) + "\n</svg>"


def synthetic_latex(rng):
    colours = rng.sample(("red", "blue", "teal", "orange", "violet", "brown", "olive"), 3)
    n = lambda low, high: rng.randint(low, high)
    kind = rng.choice(("graph", "axis", "shapes", "tree"))
    if kind == "graph":
        names = rng.sample(WORDS, n(4, 6))
        places = rng.sample(list(itertools.product(range(0, 8, 2), range(0, 6, 2))), len(names))
        lines = [f"\\node[draw, fill={rng.choice(colours)}!{n(10, 60)}] (n{i}) at ({x},{y}) {{{w}}};" for i, (w, (x, y)) in enumerate(zip(names, places))]
        lines += [f"\\draw[->, {rng.choice(('thick', 'dashed', 'very thick'))}] (n{i}) -- (n{i + 1});" for i in range(len(names) - 1)]
    elif kind == "axis":
        lines = [f"\\begin{{axis}}[title={{{phrase(rng)}}}, xlabel={{{rng.choice(WORDS)}}}, ylabel={{{rng.choice(WORDS)}}}, grid=major]"]
        lines += [f"\\addplot[{c}, thick, domain={-n(1, 5)}:{n(1, 5)}] {{{n(1, 9)}*x^{n(1, 3)} + {n(0, 20)}}};" for c in colours[:n(1, 3)]] + ["\\end{axis}"]
    elif kind == "shapes":
        lines = [rng.choice((f"\\draw[fill={c}!{n(20, 80)}] ({n(0, 4)},{n(0, 4)}) circle ({n(5, 15) / 10});", f"\\fill[{c}] ({n(0, 4)},{n(0, 4)}) rectangle ({n(4, 7)},{n(4, 7)});",
                             f"\\draw[{c}, very thick] ({n(0, 6)},{n(0, 6)}) -- ({n(0, 6)},{n(0, 6)}) -- ({n(0, 6)},{n(0, 6)}) -- cycle;",
                             f"\\node[{c}] at ({n(0, 6)},{n(0, 6)}) {{{rng.choice(WORDS)}}};")) for c in rng.choices(colours, k=n(4, 7))]
    else:
        child = lambda: f"child {{ node[fill={rng.choice(colours)}!30] {{{rng.choice(WORDS)}}} }}"
        lines = [f"\\node[draw] {{{rng.choice(WORDS)}}} [sibling distance={n(24, 36)}mm, level distance={n(12, 22)}mm]"] + [f"  {child()}" for _ in range(n(2, 4))] + [";"]
    return ("\\documentclass[tikz, border=4pt]{standalone}\n\\usepackage{pgfplots}\n\\begin{document}\n\\begin{tikzpicture}\n"
            + "\n".join(lines) + "\n\\end{tikzpicture}\n\\end{document}")


def synthetic_chem(rng):
    return (f"from rdkit import Chem\nfrom rdkit.Chem import Draw\n\nmol = Chem.MolFromSmiles('{rng.choice(SMILES)}')\n"
            "img = Draw.MolToImage(mol, size=(400, 400))\nimg.save('molecule.png')")


SYNTHETIC = {"chart": ("python", synthetic_chart), "web": ("html", synthetic_web), "svg": ("svg", synthetic_svg),
             "latex": ("latex", synthetic_latex), "chem": ("python", synthetic_chem)}


def synthetic_programs(n, seed=0):
    """[(domain, language, code, None)], n of each domain, all different."""
    found = []
    for domain, (language, make) in SYNTHETIC.items():
        rng, codes = random.Random(f"{seed}/{domain}"), {}
        while len(codes) < (min(n, len(SMILES)) if domain == "chem" else n):
            codes[make(rng)] = None
        found += [(domain, language, code, None) for code in codes]
    return found


def programs_of(path):
    """[(domain, language, code, size)] of a parquet file in our schema, generation only; size: (width, height) in pixels."""
    import data
    return [(s.domain, s.language, R.extract_code(s.answer, s.language)[0], (s.width, s.height)) for s in data.read_samples(path)
            if s.task == "generate" and R.extract_code(s.answer, s.language)[0]]


# --------------------------------------------------------------------------------------------------------------- edits
# Each takes (rng, code) and returns the changed code, or None where it finds nothing to change.

NUMBER = re.compile(r"(?<![\w.#%-])\d+\.?\d*(?![\w%]*[\w#])")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b")
COLOURS = "red blue green orange purple black gray cyan magenta brown teal pink yellow white".split()


def replace(rng, code, pattern, new, start=0, group=0):
    found = list(re.compile(pattern).finditer(code, max(0, start)))
    if not found:
        return None
    m = rng.choice(found)
    return code[:m.start(group)] + new(m.group(group)) + code[m.end(group):]


def scaled(rng):
    def new(digits):
        value = float(digits) * rng.choice((0.4, 0.6, 1.6, 2.2)) or 2.0
        return f"{value:.3g}" if "." in digits else str(round(value))
    return new


def number_after(mark):
    return lambda rng, code: replace(rng, code, NUMBER, scaled(rng), code.find(mark))


def colour(rng, code):
    return replace(rng, code, COLOUR, lambda _: f"#{rng.randrange(1 << 24):06x}")


def colour_name(rng, code):
    return replace(rng, code, r"(?<![\w-])(tab:)?(" + "|".join(COLOURS) + r")(?![\w-])", lambda old: rng.choice([c for c in COLOURS if c != old]))


def without(pattern):
    """Leave out one element that `pattern` matches, if there is another one."""
    def operator(rng, code):
        return replace(rng, code, pattern, lambda _: "") if len(re.findall(pattern, code)) > 1 else None
    return operator


def string(pattern):
    return lambda rng, code: replace(rng, code, pattern, lambda old: rng.choice([w for w in WORDS if w != old]).capitalize(), group=1)


def smiles(pattern, *news):
    def operator(rng, code):
        m = re.search(r"(?:MolFromSmiles|loadMolecule)\(\s*['\"]([^'\"]+)", code)
        new = m and replace(rng, m[1], pattern, lambda old: rng.choice([x for x in news if x != old]))
        return new and code[:m.start(1)] + new + code[m.end(1):]
    return operator


OPERATORS = {
    "chart": [number_after("plt"), colour, colour_name,
              without(r"(?m)^ *(?:ax\w*|plt|fig|left|right)\.(?:set_\w+|title|suptitle|xlabel|ylabel|legend|plot|scatter|text|annotate|grid|axhline|fill_between)\(.*\) *\n"),
              string(r"(?:title|set_xlabel|set_ylabel|label=|text)\(?['\"]([^'\"\n]{3,30})['\"]")],
    "web": [number_after("<"), colour, colour_name, string(r">\s*([A-Z][\w ,]{3,40})\s*<"),
            without(r"(?m)^\s*(?:color|background|margin|padding|border|width|display|float|font-size)[\w-]*:.*;\s*\n"), without(r"<(li|p|td|h3)\b[^<>]*>[^<>]*</\1>")],
    "svg": [number_after(">"), colour, without(r"<(?:path|circle|rect|line|polyline|polygon|ellipse)\b[^>]*/>")],
    "latex": [number_after("begin{document}"), colour_name, without(r"(?m)^\s*\\(?:draw|node|fill|path|addplot|filldraw)\b.*;\s*\n"), string(r"\{([A-Za-z ]{4,30})\}(?!\[)(?<!begin)")],
    "chem": [smiles(r"(?<!\[)C(?![a-z0-9@])", "N", "O", "S"), smiles(r"(?<!\[)[NO](?![a-z0-9@])", "C", "N", "O", "S"), smiles(r"F|Cl|Br", "F", "Cl", "Br", "I"),
             smiles(r"=", "", "#"), smiles(r"(?<!\[)[cn](?![0-9@H])", "n", "c"), smiles(r"(?<=[A-Za-z])(?=$)", "C", "O", "N")],
}


def edited(rng, domain, code):
    """`code` after one random edit, or None."""
    for operator in rng.sample(OPERATORS[domain], len(OPERATORS[domain])):
        if (new := operator(rng, code)) and new != code:
            return new
    return None


def visibly_differ(a, b):
    """More than one pixel in two thousand by more than 32 of 255 levels, or another size."""
    return a.shape != b.shape or (np.abs(a.astype(int) - b).max(-1) > 32).mean() > 1 / 2000


# -------------------------------------------------------------------------------------------------------------- ladder

@dataclass
class Ladder:
    domain: str
    language: str
    code: str
    target: object          # render.Render of the code itself
    rungs: dict             # {"one": [Render, ...], "five": [...], "other": [...], "blank": [Render]}
    codes: dict             # {"one": [str, ...], "five": [...]}


def climb(renderer, program, chain, seed):
    """-> ([Render after one edit, after five], their codes), or None where no five visible edits are found."""
    domain, language, code, size = program
    rng, shown, codes, renders = random.Random(f"{seed}/{chain}/{code}"), renderer.submit(language, code, size).result(), [], []
    for _ in range(40):
        new = edited(rng, domain, code)
        render = new and renderer.submit(language, new, size).result()
        if render and render.status == "ok" and visibly_differ(render.image, shown.image):
            code, shown = new, render
            codes, renders = codes + [new], renders + [render]
        if len(renders) == 5:
            return [renders[0], renders[4]], [codes[0], codes[4]]
    return None


def build(programs, renderer, chains=2, others=3, seed=0):
    """-> list of Ladder. Programs that do not render, and chains of edits that end early, are counted and printed."""
    from render import Render
    from tqdm import tqdm
    programs = [(d, l, c, s or {"svg": (256, 256), "html": (800, 600)}.get(l)) for d, l, c, s in programs]
    with ThreadPoolExecutor(4) as pool:
        targets = list(pool.map(lambda p: renderer.submit(*p[1:]).result(), programs))
        ok = [i for i, t in enumerate(targets) if t.status == "ok" and t.image.std() > 1]
        jobs = [(i, chain) for i in ok for chain in range(chains)]
        climbed = dict(zip(jobs, tqdm(pool.map(lambda j: climb(renderer, programs[j[0]], j[1], seed), jobs), total=len(jobs), desc="edits", mininterval=1)))
    ladders = []
    for i in ok:
        domain, language, code, size = programs[i]
        rng = random.Random(f"{seed}/{i}")
        same = [j for j in ok if programs[j][0] == domain and j != i and not np.array_equal(targets[j].image, targets[i].image)]
        chosen = rng.sample(same, min(others, len(same)))
        found = [climbed[i, c] for c in range(chains) if climbed[i, c]]
        ground = np.round(255 * R.background(targets[i].image / 255.0)).astype(np.uint8)
        blank = Render(np.broadcast_to(ground, targets[i].image.shape).copy(), "ok", texts=[] if targets[i].texts is not None else None)
        rungs = {"one": [f[0][0] for f in found], "five": [f[0][1] for f in found],
                 "other": list(pool_results(renderer, [(language, programs[j][2], size) for j in chosen])), "blank": [blank]}
        rungs["other"] = [r for r in rungs["other"] if r.status == "ok"]
        ladders.append(Ladder(domain, language, code, targets[i], rungs, {"one": [f[1][0] for f in found], "five": [f[1][1] for f in found]}))
    print(f"{len(programs)} programs, {len(programs) - len(ok)} of them do not render or are blank; {len(jobs)} chains of edits, "
          f"{sum(v is None for v in climbed.values())} of them without five visible edits that run")
    return ladders


def pool_results(renderer, jobs):
    return (f.result() for f in [renderer.submit(*job) for job in jobs])
