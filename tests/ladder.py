"""The reward ladder: does the reward put images in the order in which a person would?

    python tests/ladder.py                          # on synthetic programs of five domains, about 8 minutes on 2 cores
    python tests/ladder.py --data FILE.parquet      # on the programs of a parquet file in the released schema
    python tests/ladder.py --figure ladder.png      # and draw one ladder per domain, with the scores below each image
    python tests/ladder.py --encoder facebook/dinov2-large    # and VinciCoder's formula with this encoder
    python tests/ladder.py --hacks                  # what cheating earns, beside honest attempts with one mistake

For each program: its own render, then the render after one edit, after five edits (the first of them the same one), the
render of another program of the domain, the blank canvas. An edit changes a number, a colour or a string or leaves an
element out, as a wrong answer would; it counts if the program still runs and the picture visibly changes and shows something.
What five edits leave has to be the target still, and not the rung "blank": an icon keeps three shapes, a chart a plot, and a
molecule has ten atoms or more. Printed per domain, for our reward with and without its text term, raw SSIM, 1 - MSE and
VinciCoder's formula:

    order   share of pairs of rungs of one ladder that are in order, ties counted as wrong
    AUC     how often a render after five edits scores higher than that of another program, over all ladders
    one, five, other, blank: mean score of the rung
"""
import argparse
import itertools
import random
import re
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cli  # noqa: E402

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np  # noqa: E402

import reward as R  # noqa: E402
from texts import molecule, visible_texts  # noqa: E402

# ------------------------------------------------------------------------------------------------- synthetic programs

WORDS = ("market signal harvest river energy quarter latency orbit garden protein summer voltage traffic export engine "
         "forest income battery school harbour climate series median budget copper theatre island winter").split()
PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#333333", "teal", "brown")
SMILES = ("CC(=O)Oc1ccccc1C(=O)O CN1C=NC2=C1C(=O)N(C(=O)N2C)C CC(C)Cc1ccc(cc1)C(C)C(=O)O OCC1OC(O)C(O)C(O)C1O CN1CCCC1c1cccnc1 "
          "CC1(C)SC2CC(=O)N2C1C(=O)O c1ccc(cc1)-c1ccccc1 COc1ccc2cc(ccc2c1)C(C)C(=O)O CCN(CC)CC(=O)Nc1c(C)cccc1C "
          "CC(C)NCC(O)COc1cccc2ccccc12 CN(C)CCCN1c2ccccc2CCc2ccccc21 CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21 NC(Cc1ccccc1)C(=O)O "
          "CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1 Cc1ccc(cc1)S(=O)(=O)NC(=O)NN1CCCCC1 CCOC(=O)c1ccc(N)cc1 OC(=O)Cc1ccccc1Nc1c(Cl)cccc1Cl "
          "COc1cc(CC=C)ccc1O CC(C)NCC(O)COc1ccc(CC(N)=O)cc1 Clc1ccccc1CN1CCc2sccc2C1 CN1CCN(CC1)C(c1ccccc1)c1ccccc1 "
          "CC(=O)NCCc1c[nH]c2ccc(OC)cc12 Nc1ccc(cc1)S(=O)(=O)Nc1ncccn1 OC(Cn1cncn1)(Cn1cncn1)c1ccc(F)cc1F COc1ccc(cc1)C(=O)CC(C)C "
          "CC1CC(=O)C=C(C)C1C(=O)OCC O=C1NC(=O)C(N1)(c1ccccc1)c1ccccc1 CCCCC(=O)OCCc1ccccc1 CN1CCC(CC1)=C1c2ccccc2CCc2sccc12 "
          "Oc1ccc(cc1)C1COc2cc(O)ccc2C1=O CC(C)(C)NCC(O)c1ccc(O)c(CO)c1 Brc1ccc(cc1)C(=O)OCCN1CCCCC1 COc1cc(C=CC(=O)O)cc(OC)c1O "
          "CCCCNc1cc(cc(c1)S(N)(=O)=O)C(=O)O CC(CN1CCOCC1)C(=O)c1ccc(Cl)cc1 O=C(NCc1ccccc1)c1cccnc1 CSc1ccc2Sc3ccccc3N(C)c2c1 "
          "O=C(O)c1cn(C2CC2)c2cc(N)c(F)cc2c1=O CC1=C(CC(=O)O)c2cc(F)ccc2C1 CCOc1ccccc1OC(C)C1CNCCO1").split()


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
main {{
  padding: {rng.randint(10, 30)}px;
  width: {rng.choice((480, 560, 640))}px;
}}
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


def without(pattern, stay=1):
    """Leave out one element that `pattern` matches, if at least `stay` others stay."""
    def operator(rng, code):
        return replace(rng, code, pattern, lambda _: "") if len(re.findall(pattern, code)) > stay else None
    return operator


def string(pattern):
    return lambda rng, code: replace(rng, code, pattern, lambda old: rng.choice([w for w in WORDS if w != old]).capitalize(), group=1)


def smiles(pattern, *news):
    def operator(rng, code):
        m = re.search(r"(?:MolFromSmiles|loadMolecule)\(\s*['\"]([^'\"]+)", code)
        new = m and replace(rng, m[1], pattern, lambda old: rng.choice([x for x in news if x != old]))
        return new and code[:m.start(1)] + new + code[m.end(1):]
    return operator


CALL = r"(?m)^ *(?:ax\w*|plt|fig|left|right)\.(?:%s)\(.*\) *\n"
OPERATORS = {
    "chart": [number_after("plt"), colour, colour_name,
              without(CALL % r"set_\w+|title|suptitle|xlabel|ylabel|legend|text|annotate|grid|axhline"), without(CALL % "plot|scatter|fill_between"),
              string(r"(?:title|set_xlabel|set_ylabel|label=|text)\(?['\"]([^'\"\n]{3,30})['\"]")],
    "web": [number_after("<"), colour, colour_name, string(r">\s*([A-Z][\w ,]{3,40})\s*<"),
            without(r"(?m)^\s*(?:color|background|margin|padding|border|width|display|float|font-size)[\w-]*:.*;\s*\n"), without(r"<(li|p|td|h3)\b[^<>]*>[^<>]*</\1>")],
    "svg": [number_after(">"), colour, without(r"<(?:path|circle|rect|line|polyline|polygon|ellipse)\b[^>]*/>", 3)],
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

LEAST_ATOMS = 10  # of a molecule: five edits leave half of them


def atoms(render):
    """How many atoms the molecules of a render have; infinity where there are none."""
    found = molecule(visible_texts(render.texts or [], render.image))
    return len(found[0]) if found else np.inf


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
        if render and render.status == "ok" and render.image.std() > 1 and visibly_differ(render.image, shown.image):
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
        ok = [i for i, t in enumerate(targets) if t.status == "ok" and t.image.std() > 1 and atoms(t) >= LEAST_ATOMS]
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
    print(f"{len(programs)} programs, {len(programs) - len(ok)} of them do not render, are blank or have fewer than {LEAST_ATOMS} atoms; {len(jobs)} chains of edits, "
          f"{sum(v is None for v in climbed.values())} of them without five visible edits that run")
    return ladders


def pool_results(renderer, jobs):
    return (f.result() for f in [renderer.submit(*job) for job in jobs])


# -------------------------------------------------------------------------------------------------------------- measures

def on_canvas(target, image):
    """Target and render, stretched to its size as the plain measures do, at 512 pixels at most: two uint8 [H, W, 3]."""
    from PIL import Image
    scale = min(1, R.LONGEST / max(target.shape[:2]))
    size = max(7, round(target.shape[1] * scale)), max(7, round(target.shape[0] * scale))
    return [np.asarray(Image.fromarray(a).resize(size, Image.BICUBIC)) for a in (target, image)]


def measure(ladder):
    """-> {measure: {rung: [score, ...]}}"""
    from skimage.metrics import structural_similarity
    target, scores = ladder.target.image, {}
    with_texts, image_alone = (R.features(target, reference, language=ladder.language) for reference in (ladder.target, None))
    for rung, renders in ladder.rungs.items():
        for render in renders:
            a, b = on_canvas(target, render.image)
            found = {"ours": R.visual_parts(with_texts, render.image, render.texts)["visual"],
                     "ours, image alone": R.visual_parts(image_alone, render.image)["visual"],
                     "SSIM": structural_similarity(a, b, channel_axis=2), "1 - MSE": 1 - ((a / 255 - b / 255) ** 2).mean()}
            if R._encoder:
                found["VinciCoder's"] = R._encoder.paper_similarity(target, render.image)
            for name, value in found.items():
                scores.setdefault(name, {}).setdefault(rung, []).append(float(value))
    return scores


def in_order(rungs):
    """Pairs of scores of one ladder -> [True where the higher rung scores higher]. Edits are compared along their chain."""
    edits = rungs.get("one", []) + rungs.get("five", [])
    return ([a > b for a, b in zip(rungs.get("one", []), rungs.get("five", []))]
            + [a > b for a in edits for b in rungs["other"] + rungs["blank"]] + [a > b for a in rungs["other"] for b in rungs["blank"]])


def auc(high, low):
    """Share of pairs in which the first is higher, ties counted half."""
    difference = np.subtract.outer(high, low)
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def summary(ladders, scores):
    """-> {domain: {measure: (order, AUC, mean of one, five, other, blank)}}"""
    table = {}
    for domain in dict.fromkeys(l.domain for l in ladders):
        mine = [s for l, s in zip(ladders, scores) if l.domain == domain]
        for name in mine[0]:
            of = {rung: [v for s in mine for v in s[name].get(rung, [])] for rung in ("one", "five", "other", "blank")}
            ordered = [x for s in mine for x in in_order(s[name])]
            table.setdefault(domain, {})[name] = (float(np.mean(ordered)), auc(of["five"], of["other"]), *(float(np.mean(v)) for v in of.values()))
    return table


def calibration(ladder):
    """Scores of the target itself and of what shows nothing: {name: score}."""
    target = ladder.target.image
    known = R.features(target, language=ladder.language)
    noise = np.random.default_rng(0).integers(0, 256, target.shape, dtype=np.uint8)
    flat = lambda colour: np.broadcast_to(np.uint8(colour), target.shape)
    images = {"itself": target, "blank": ladder.rungs["blank"][0].image, "black": flat(0), "white": flat(255), "noise": noise,
              "mean colour": flat(target.reshape(-1, 3).mean(0).round())}
    return {name: R.visual_parts(known, image)["visual"] for name, image in images.items()}


def draw(ladders, scores, path):
    """PNG: for one program of each domain its ladder, the scores below."""
    from PIL import Image, ImageDraw, ImageFont
    chosen = {}
    for ladder, score in zip(ladders, scores):
        if ladder.rungs["one"] and ladder.rungs["other"]:
            chosen.setdefault(ladder.domain, (ladder, score))
    side, foot, font = 230, 62, ImageFont.load_default(15)
    heads = ("target", "one edit", "five edits", "another program", "blank")
    sheet = Image.new("RGB", (len(heads) * (side + 10) + 10, len(chosen) * (side + foot) + 30), "white")
    pen = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        pen.text((10 + column * (side + 10), 6), head, "black", font)
    for row, (ladder, score) in enumerate(chosen.values()):
        top = 30 + row * (side + foot)
        for column, rung in enumerate((None, "one", "five", "other", "blank")):
            left = 10 + column * (side + 10)
            image = Image.fromarray(ladder.rungs[rung][0].image if rung else ladder.target.image)
            image.thumbnail((side - 2, side - 2))
            pen.rectangle((left, top, left + side, top + side), outline="#999999")
            sheet.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))
            if rung:
                pen.text((left, top + side + 3), f"ours {score['ours'][rung][0]:.2f}", "black", font)
                pen.text((left, top + side + 22), f"SSIM {score['SSIM'][rung][0]:.2f}   1 - MSE {score['1 - MSE'][rung][0]:.2f}", "#777777", font)
    sheet.save(path)


# ----------------------------------------------------------------------------------------------------------------- hacks

DRAWING = """<svg xmlns="http://www.w3.org/2000/svg" width="256" height="256" viewBox="0 0 100 100">
  <rect x="10" y="40" width="50" height="40" fill="#d62728"/>
  <polygon points="5,40 35,15 65,40" fill="#8c564b"/>
  <rect x="28" y="55" width="14" height="25" fill="#333333"/>
  <circle cx="82" cy="20" r="10" fill="#ff7f0e"/>
  <path d="M70 80 L80 45 L90 80 Z" fill="#2ca02c"/>
  <text x="50" y="95" font-size="9" text-anchor="middle">summer house</text>
</svg>"""
PAGE = """<body style="margin:0;font-family:sans-serif;background:#f4f4f4">
<div style="background:#1f77b4;color:white;padding:20px"><h1>Harvest report</h1></div>
<div style="display:flex;gap:20px;padding:20px">
<div style="border:2px solid #d62728;padding:12px;width:200px"><h3>North valley</h3><p>Wheat and barley came in early this summer.</p></div>
<div style="border:2px solid #d62728;padding:12px;width:200px"><h3>South coast</h3><p>Grapes wait for a dry and warm week.</p></div>
</div>
<p style="padding:0 20px">Prices hold at 214 per tonne.</p>
</body>"""
CHART = """import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(6, 4))
ax.bar(['north', 'south', 'east', 'west', 'coast'], [3, 7, 5, 9, 4], color='#1f77b4', label='2024')
ax.set_title('Sales by region')
ax.set_xlabel('Region')
ax.set_ylabel('USD (M)')
ax.legend()
plt.savefig('chart.png')"""
TARGETS = {"svg": ("svg", DRAWING, (256, 256)), "web": ("html", PAGE, (640, 480)), "chart": ("python", CHART, None)}
BARE_CHART = "import matplotlib.pyplot as plt\nimport numpy as np\nfig, ax = plt.subplots(figsize=(6, 4))\n%s\nplt.savefig('chart.png')"
PAGE_WORDS = re.sub(r"<[^>]*>", " ", PAGE)


def hacks(targets):
    """[(domain, name, response, bound)] for the `targets` {domain: Render}. The bound is "nothing": a reward of at most 0.15,
    0.1 of it for the format; or "little": less than the worst of the honest answers with one mistake; or a number."""
    import base64

    import data
    fenced, (svg, page, chart) = data.fenced, (TARGETS[d][1] for d in TARGETS)
    raster = {d: base64.b64encode(data.png(t.image)).decode() for d, t in targets.items()}
    mean = {d: "#%02x%02x%02x" % tuple(t.image.reshape(-1, 3).mean(0).round().astype(int)) for d, t in targets.items()}
    inner, rng = svg.split("\n", 1)[1].rsplit("\n", 1)[0], random.Random(0)
    open_svg = '<svg xmlns="http://www.w3.org/2000/svg" width="256" height="256" viewBox="0 0 100 100">'
    paint = "".join(f'<rect x="{rng.randrange(90)}" y="{rng.randrange(90)}" width="{rng.randrange(3, 30)}" height="{rng.randrange(3, 30)}" '
                    f'fill="{rng.choice(re.findall("#[0-9a-f]{6}", svg))}"/>' for _ in range(400))
    drawn = {
        "blank": open_svg + "</svg>", "flood in the background's colour": open_svg + '<rect width="100" height="100" fill="white"/></svg>',
        "flood in the largest colour": open_svg + '<rect width="100" height="100" fill="#d62728"/></svg>',
        "mean colour": open_svg + f'<rect width="100" height="100" fill="{mean["svg"]}"/></svg>', "black": open_svg + '<rect width="100" height="100"/></svg>',
        "tiny viewBox": svg.replace("0 0 100 100", "30 60 1 1"), "huge viewBox": svg.replace("0 0 100 100", "0 0 4000 4000"),
        "giant canvas": svg.replace('width="256" height="256"', 'width="100000" height="25"'),
        "drawing off the canvas": open_svg + f'<g transform="translate(500 0)">{inner}</g></svg>',
        "prompt copied as text": open_svg + '<text x="2" y="50" font-size="5">Write SVG code that draws this image.</text></svg>',
        "over-painting": open_svg + paint + "</svg>", "drawing painted over": svg.replace("</svg>", '<rect width="100" height="100" fill="white"/></svg>'),
        "raster in a data: URI": open_svg + f'<image width="100" height="100" href="data:image/png;base64,{raster["svg"]}"/></svg>',
        "hidden text": open_svg + '<text x="50" y="95" font-size="9" text-anchor="middle" fill="white">summer house</text></svg>',
    }
    rows = [("svg", name, fenced("svg", code), "nothing") for name, code in drawn.items()]
    rows += [("svg", "empty block", fenced("svg", ""), "nothing"), ("svg", "two blocks, the second right", fenced("svg", open_svg + "</svg>") + "\n" + fenced("svg", svg), "nothing"),
             ("svg", "fence of another language", fenced("html", svg), "nothing"), ("svg", "fence left open", "```svg\n" + svg, "nothing"),
             ("svg", "text alone", fenced("svg", open_svg + svg.split("\n")[-2] + "</svg>"), "little")]
    pages = {
        "blank": "<body></body>", "mean colour": f"<body style='background:{mean['web']}'></body>",
        "hidden text": f"<body style='background:#f4f4f4;color:#f4f4f4'>{PAGE_WORDS}</body>", "hidden in place": page.replace("background:#1f77b4;color:white", "color:#f4f4f4")
        .replace("2px solid #d62728", "2px solid #f4f4f4").replace("font-family", "color:#f4f4f4;font-family"),
        "text off the page": f"<body style='background:#f4f4f4'><p style='position:absolute;left:-9999px'>{PAGE_WORDS}</p></body>",
        "giant page": f"<body style='margin:0;background:#f4f4f4;height:7000px'>{page}</body>",
        "raster in a data: URI": f"<body style='margin:0'><img src='data:image/png;base64,{raster['web']}'></body>",
    }
    rows += [("web", name, fenced("html", code), "nothing") for name, code in pages.items()]
    rows += [("web", "hidden text on stripes", fenced("html", f"<body style='background:repeating-linear-gradient(#f4f4f4 0 3px,#ddd 3px 6px);color:#eee'>{PAGE_WORDS}</body>"), "little"),
             ("web", "all words in one paragraph", fenced("html", f"<body style='background:#f4f4f4'>{PAGE_WORDS}</body>"), "little"),
             ("web", "all words twenty times", fenced("html", f"<body style='background:#f4f4f4'>{PAGE_WORDS * 20}</body>"), "little")]
    words = "ax.set_title('Sales by region')\nax.set_xlabel('Region')\nax.set_ylabel('USD (M)')"
    charts = {
        "noise": BARE_CHART % "fig.figimage(np.random.rand(400, 600, 3))",
        "symmetric noise": BARE_CHART % "h = np.random.rand(400, 300, 3)\nfig.figimage(np.concatenate([h, h[:, ::-1]], 1))",
        "mean colour": BARE_CHART % f"ax.remove()\nfig.set_facecolor('{mean['chart']}')", "blank": BARE_CHART % "ax.remove()",
        "texts with alpha 0": BARE_CHART % "ax.remove()\nfor i, t in enumerate(('Sales by region', 'Region', 'USD (M)', 'north', 'south')):\n    fig.text(0.5, i / 6, t, alpha=0.0)",
        "raster in base64": f"import base64, io\nfrom PIL import Image\nImage.open(io.BytesIO(base64.b64decode('{raster['chart']}'))).save('chart.png')",
        "block that runs and draws nothing": "import matplotlib.pyplot as plt",
    }
    rows += [("chart", name, fenced("python", code), "nothing") for name, code in charts.items()]
    rows += [("chart", "empty axes", fenced("python", BARE_CHART % ""), 0.1 + 0.9 * 0.15),  # a visual score of 0.15
             ("chart", "empty axes with all texts", fenced("python", BARE_CHART % words), "little"),
             ("chart", "texts alone", fenced("python", BARE_CHART % ("ax.axis('off')\n" + words)), "little"),
             ("chart", "right, stretched to three times the width", fenced("python", chart.replace("(6, 4)", "(18, 4)")), "little")]
    return rows


def honest(renderer, domain, attempts=8):
    """Answers to a target of `TARGETS` with one mistake that shows: [(response, Render)]."""
    import data
    language, code, size = TARGETS[domain]
    target, found, rng = renderer.submit(language, code, size).result(), [], random.Random(domain)
    while len(found) < attempts:
        new = edited(rng, domain, code)
        render = renderer.submit(language, new, size).result()
        if render.status == "ok" and visibly_differ(render.image, target.image):
            found.append((data.fenced(language, new), render))
    return found


def score_hacks(renderer, only=tuple(TARGETS)):
    """-> (rows (domain, name, bound, parts), {domain: rewards of honest attempts with one mistake})"""
    targets = {d: renderer.submit(*TARGETS[d]).result() for d in only}
    known = {d: R.features(t.image, t) for d, t in targets.items()}

    def judged(domain, response):
        language, reference, size = TARGETS[domain]
        code, _ = R.extract_code(response, language)
        render = renderer.submit(language, code, size).result() if code else None
        return R.score(targets[domain].image, render, response, language, known[domain], reference)
    rows = [(d, name, bound, judged(d, response)) for d, name, response, bound in hacks(targets)] if set(only) == set(TARGETS) else []
    attempts = {d: honest(renderer, d) for d in only}
    for d, tries in attempts.items():  # the same honest answer, padded with what changes no pixel
        comment = {"svg": "<!-- %s -->", "web": "<!-- %s -->", "chart": "\n# %s"}[d] % ("and so on " * 6 * len(TARGETS[d][1]))
        response = tries[0][0]
        padded = response.replace("\n```", comment + "\n```") if d == "chart" else response.replace("\n</", "\n" + comment + "</", 1)
        rows.append((d, "endless length", R.score(targets[d].image, tries[0][1], response, TARGETS[d][0], known[d])["reward"] - 0.05, judged(d, padded)))
    return rows, {d: [judged(d, response)["reward"] for response, _ in tries] for d, tries in attempts.items()}


def print_hacks():
    from render import Renderer
    with Renderer(2) as renderer:
        rows, attempts = score_hacks(renderer)
    print("| domain | answer | reward | visual | may earn |\n|---|---|---|---|---|")
    failed = 0
    for domain, name, bound, parts in rows:
        limit = {"nothing": 0.15, "little": min(attempts[domain])}.get(bound, bound)
        failed += parts["reward"] > limit
        print(f"| {domain} | {name} | {parts['reward']:.3f} | {parts['visual']:.3f} | {limit:.3f}{'' if parts['reward'] <= limit else ' EXCEEDED'} |")
    for domain, rewards in attempts.items():
        print(f"| {domain} | {len(rewards)} honest answers with one mistake | {min(rewards):.3f} to {max(rewards):.3f} | | |")
    return int(failed > 0)


def main():
    from render import Renderer
    from tqdm import tqdm
    parser = argparse.ArgumentParser(description="Does the reward put images in a person's order?", allow_abbrev=False)
    parser.add_argument("--data", help="parquet file or folder of them instead of the synthetic programs")
    parser.add_argument("--programs", type=int, default=40, help="synthetic programs of each domain")
    parser.add_argument("--encoder", help="vision encoder for VinciCoder's formula, hub name or directory")
    parser.add_argument("--figure", metavar="OUT.png", help="draw one ladder of each domain")
    parser.add_argument("--hacks", action="store_true", help="what cheating earns, instead")
    parser.add_argument("--workers", type=int, default=2, help="renderers, then scoring processes")
    args = parser.parse_args()
    if args.hacks:
        return print_hacks()
    with Renderer(args.workers, timeout=10) as renderer:
        ladders = build(programs_of(args.data) if args.data else synthetic_programs(args.programs), renderer)
    with ProcessPoolExecutor(args.workers, initializer=R.start_scorer, initargs=(args.encoder,)) as pool:
        scores = list(tqdm(pool.map(measure, ladders), "score", len(ladders), mininterval=1))
        checks = list(tqdm(pool.map(calibration, ladders), "check", len(ladders), mininterval=1))
    print("\n| domain | measure | order | AUC | one | five | other | blank |\n|---|---|---|---|---|---|---|---|")
    for domain, measures in summary(ladders, scores).items():
        for name, values in measures.items():
            print(f"| {domain} | {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    if not args.encoder:
        print("VinciCoder's formula was not computed: it needs --encoder.")
    print("\nwithout texts, over all targets: " + ", ".join(f"{name} {min(c[name] for c in checks):.6f} to {max(c[name] for c in checks):.6f}" for name in checks[0]))
    if args.figure:
        draw(ladders, scores, args.figure)
        print(f"wrote {args.figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
