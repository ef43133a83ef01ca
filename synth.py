"""Procedural samples: the programs behind `data.py synth`, rendered by render.py."""
import hashlib
import random
from pathlib import Path

from data import DOMAIN_OF, NAMES, REFINE, Sample, fenced, png, write_samples
from render import Renderer, available

# ------------------------------------------------------------------------------- the embedded default: tiny programs
# A scene is a list of elements on a 64 px canvas with coordinates on an 8 px grid; each language draws it its own way.
# SVG and HTML scenes: (kind, x, y, w, h, colour). Chart scenes: ("bar"|"barh", [(value, colour), ...]).

CANVAS, GRID = 64, 8  # pixels
COLOURS = ("red", "green", "blue", "orange", "purple", "black", "cyan", "gray")
INSTRUCTIONS = {"svg": "Write SVG code that draws this image.",
                "html": "Write HTML code that draws this image.",
                "python": "Write Python code that draws this image."}


def draw_scene(rng, language, low, high, sizes):
    """A random scene with `low` to `high` elements of the given sizes (sides in pixels, heights of bars)."""
    n = rng.randint(low, high)
    colours = rng.sample(COLOURS, n)
    if language == "python":
        return rng.choice(("bar", "barh")), [(rng.choice(sizes), c) for c in colours]
    scene = []
    for colour in colours:
        kind = rng.choice(("rect", "circle", "triangle") if language == "svg" else ("rect", "circle"))
        w, h = rng.choice(sizes), rng.choice(sizes)
        h = w if kind == "circle" else h
        scene.append((kind, rng.randrange(0, CANVAS - w + 1, GRID), rng.randrange(0, CANVAS - h + 1, GRID), w, h, colour))
    return sorted(scene, key=lambda e: (e[1], e[2]))  # people write from left to right, too; a fixed order is learnable


def scene_code(language, scene):
    """The program that draws `scene`."""
    if language == "python":
        kind, bars = scene
        n, values = len(bars), ", ".join(str(v) for v, _ in bars)
        box = f"0, {n + 1}, 0, 9" if kind == "bar" else f"0, 9, 0, {n + 1}"
        return ("import matplotlib.pyplot as plt\nplt.figure(figsize=(0.64, 0.64))\n"
                f"plt.{kind}([{', '.join(str(i + 1) for i in range(n))}], [{values}], "
                f"color=[{', '.join(repr(c) for _, c in bars)}])\nplt.axis([{box}])\nplt.axis('off')\nplt.savefig('chart.png')")
    lines = []
    for kind, x, y, w, h, colour in scene:
        if language == "html":
            radius = ";border-radius:50%" if kind == "circle" else ""
            lines.append(f'<div style="position:absolute;left:{x}px;top:{y}px;width:{w}px;height:{h}px;'
                         f'background:{colour}{radius}"></div>')
        elif kind == "rect":
            lines.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{colour}"/>')
        elif kind == "circle":
            lines.append(f'<circle cx="{x + w // 2}" cy="{y + w // 2}" r="{w // 2}" fill="{colour}"/>')
        else:
            lines.append(f'<polygon points="{x},{y + h},{x + w // 2},{y},{x + w},{y + h}" fill="{colour}"/>')
    body = "\n".join(lines)
    if language == "html":
        return f'<body style="margin:0">\n{body}\n</body>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {CANVAS} {CANVAS}">\n{body}\n</svg>'


def jitter(rng, language, scene, p, colour_p=0.0):
    """The scene with each number moved by one grid step with probability `p`, each colour replaced with `colour_p`."""
    def move(value, low, high, step):
        return min(high, max(low, value + rng.choice((-step, step)))) if rng.random() < p else value

    def recolour(colour):
        return rng.choice([c for c in COLOURS if c != colour]) if rng.random() < colour_p else colour

    if language == "python":
        return scene[0], [(move(v, 1, 8, 1), recolour(c)) for v, c in scene[1]]
    out = []
    for kind, x, y, w, h, colour in scene:
        w = move(w, 16, 32, GRID)
        h = w if kind == "circle" else move(h, 16, 32, GRID)
        x, y = (move(min(v, CANVAS - side), 0, CANVAS - side, GRID) for v, side in ((x, w), (y, h)))
        out.append((kind, x, y, w, h, recolour(colour)))
    return out


def break_code(rng, language, code):
    """Damage as found in scraped and model-written corpora: a program that does not run, or draws something else.

    SVG (XML) and Python then fail to run; a browser forgives everything, so damaged HTML runs and draws wrongly.
    """
    damage = rng.choice({
        "svg": (("/>", ">"), ("</svg>", ""), ('fill="', "fill="), ("<svg ", "<svg")),
        "html": (('style="position', 'styl="position'), ("position:absolute;", ""), ("</div>", ""), ("<div ", "<dv ")),
        "python": (("])\n", ")\n"), ("plt.axis(", "plt.axes_("), ("color=[", "colour=["), ("as plt", "as pl")),
    }[language])
    return code.replace(*damage, 1)


def synth_split(count, seed, languages, scenes, refine, label_jitter, broken, labels, source):
    """`count` scenes -> (Sample without image, true program) pairs. `scenes[language]`: arguments of `draw_scene`.

    `labels`: False leaves the answer empty (a target without code). `label_jitter` is the probability that a number
    of the *label* is off by one step, `broken` the share of labels that are damaged: the imperfect corpus. The image
    is always that of the true program.
    """
    rng = random.Random(seed)
    pairs = []
    for i in range(count):
        language = languages[i % len(languages)]
        scene = draw_scene(rng, language, *scenes[language])
        truth = scene_code(language, scene)
        label = scene_code(language, jitter(rng, language, scene, label_jitter))
        if rng.random() < broken:
            label = break_code(rng, language, label)
        task, prompt = "generate", INSTRUCTIONS[language]
        if rng.random() < refine:
            task = "refine"
            defect = scene_code(language, jitter(rng, language, scene, 0.35, 0.25))
            if defect == truth or rng.random() < 0.2:
                defect = break_code(rng, language, truth)
            prompt = REFINE.format(name=NAMES[language], language=language, code=defect)
        pairs.append((Sample(prompt, fenced(language, label) if labels else "", b"", language=language, task=task,
                             domain=DOMAIN_OF[language], source=source, license="CC0-1.0"), truth))
    return pairs


# The regime of the embedded default (README, "The regime"): imperfect labels; many targets without code, half of them
# larger than anything labelled. Least and most elements of a scene, and their sizes.
LABELLED = {"svg": (1, 2, (16, 24)), "html": (1, 2, (16, 24)), "python": (2, 3, (1, 2, 3, 4, 5, 6))}
TARGETS = {"svg": (1, 2, (24, 32)), "html": (1, 2, (24, 32)), "python": (2, 3, (2, 3, 4, 5, 6, 7))}
MIXTURE = ("svg", "html", "svg", "svg", "python", "svg")  # scenes take these in turn; an SVG renders 20 times as fast


def synth(out, labelled=3200, targets=2400, test=768, seed=0, label_jitter=0.1, broken=0.1, languages=MIXTURE,
          workers=None, unsafe=False):
    """Write the embedded default's samples to `out`/{sft,rl,test}. Targets are rendered by render.py.

    Languages whose renderer is missing are left out and said so. A true program that does not render stops the run.
    """
    from tqdm import tqdm
    if unknown := [k for k in languages if k not in INSTRUCTIONS]:
        raise SystemExit(f"error: there are no embedded samples in {unknown[0]!r}; known are {', '.join(INSTRUCTIONS)}.")
    absent = {} if unsafe else {k: why for k, why in available().items() if why and k in languages}
    for language, why in absent.items():
        print(f"{language} is left out: it cannot be rendered here ({why})")
    languages = [k for k in languages if k not in absent]
    if not languages:
        raise SystemExit("error: none of these languages can be rendered here. `python render.py --doctor` says what is missing.")
    with Renderer(workers=workers, unsafe=unsafe) as renderer:
        make = lambda n, salt, mixture=languages, **kw: synth_split(n, f"{seed}/{salt}", mixture, **kw)
        cheap = languages + [k for k in languages if k == "svg"]  # ViRL renders eight answers to each of its targets
        splits = {
            "test": make(test // 2, "test-a", scenes=LABELLED, refine=0.25, label_jitter=0, broken=0, labels=True, source="synth/labelled")
            + make(test - test // 2, "test-b", scenes=TARGETS, refine=0.25, label_jitter=0, broken=0, labels=True, source="synth/target-only"),
            "sft": make(labelled, "sft", scenes=LABELLED, refine=0.25, label_jitter=label_jitter, broken=broken, labels=True, source="synth/labelled"),
            "rl": make(targets // 2, "rl-a", cheap, scenes=LABELLED, refine=0.25, label_jitter=0, broken=0, labels=False, source="synth/labelled")
            + make(targets - targets // 2, "rl-b", cheap, scenes=TARGETS, refine=0.25, label_jitter=0, broken=0, labels=False, source="synth/target-only"),
        }
        jobs = [(s.language, truth, (CANVAS, CANVAS)) for pairs in splits.values() for s, truth in pairs]
        futures = [renderer.submit(*job) for job in jobs]
        renders = [f.result() for f in tqdm(futures, desc="render targets", unit="image", mininterval=1)]
    bad = [(job, r) for job, r in zip(jobs, renders) if r.status != "ok"]
    if bad:
        raise SystemExit(f"error: {len(bad)} of {len(jobs)} targets did not render, first: {bad[0][0][0]}: "
                         f"{bad[0][1].message}. `python render.py --doctor` says what is missing.")
    renders, seen = iter(renders), set()
    for name, pairs in splits.items():
        kept = []
        for i, (sample, _) in enumerate(pairs):
            image = next(renders).image
            digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
            if name == "test":
                seen.add((sample.language, digest))
            elif (sample.language, digest) in seen:
                continue  # the image stands in the held-out split: 6 % of the easy scenes coincide by chance
            sample.image, sample.id = png(image), f"synth-{name}-{seed}-{i:05d}"
            sample.height, sample.width = image.shape[:2]
            kept.append(sample)
        write_samples(kept, Path(out) / name / "part-0.parquet")
        print(f"{name}: {len(kept)} samples written, {len(pairs) - len(kept)} left out because their image is in test")
