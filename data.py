"""Samples: make, read, check, look at.

A sample is a target image, an instruction, and (where one exists) the answer: code in one fenced block that draws
the image. Two tasks: *generate* (image -> code) and *refine* (image + defective code -> corrected code; the
instruction then holds the defective code). On disk samples are parquet with the columns of the released VinciCoder
SFT data first (`user_content, assistant_content, image`), then ours, all optional on input:
`id, domain, language, task, source, license, width, height, operator, change` (the last two: how a refinement sample's
code was made defective).

    python data.py synth --out out/data                   # the embedded default: procedural SVG, HTML, Python charts
    python data.py import FILE.parquet --out out/mine     # foreign data -> our splits, rejects counted (corpus.py)
    python data.py filter out/mine --out out/clean        # what parses, runs, draws the same twice
    python data.py refine out/clean --out out/refined     # defective programs to be corrected (refine.py)
    python data.py export out/mine/sft --out trl.parquet  # our samples -> TRL's or EasyR1's schema
    python data.py stats out/data                         # what is in it
    python data.py view out/data --out samples.html       # look at it, offline

`synth` and `import` both write the layout that every stage reads: `DIR/sft` (pairs), `DIR/rl` (targets for ViRL:
images, most of them without any code) and `DIR/test` (held out; no image of it occurs in the other two).

Left out here: near-duplicate search, decontamination.
"""
import argparse
import base64
import hashlib
import html
import io
import os
import random
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from render import Renderer, available
from reward import extract_code

DOMAINS = ("chart", "web", "svg", "latex", "chem")
LANGUAGES = ("python", "html", "svg", "latex")
COLUMNS = ("user_content", "assistant_content", "image", "id", "domain", "language", "task", "source", "license",
           "width", "height", "operator", "change")
ROW_GROUP = 64  # small row groups: random access and streaming both stay cheap (pandas writes one huge group)


@dataclass
class Sample:
    """One image-code pair; see the module docstring for the meaning of the fields."""
    prompt: str  # user_content
    answer: str  # assistant_content: exactly one fenced block; "" for a target without code
    image: bytes  # PNG of the target
    id: str = ""
    domain: str = ""
    language: str = ""
    task: str = "generate"
    source: str = ""
    license: str = ""
    width: int = 0
    height: int = 0
    operator: str = ""  # of a refinement sample: what made its code defective
    change: str = ""  # and the place where it did


# ---------------------------------------------------------------------------------------------- reading and writing

def table_of(samples):
    """A list of Sample -> pyarrow table in our schema."""
    import pyarrow as pa
    rename = {"prompt": "user_content", "answer": "assistant_content"}
    rows = [{rename.get(k, k): v for k, v in asdict(s).items()} for s in samples]
    schema = pa.schema([(c, pa.binary() if c == "image" else pa.int32() if c in ("width", "height") else pa.string())
                        for c in COLUMNS])
    return pa.Table.from_pylist(rows, schema=schema)


def write_samples(samples, path):
    """Write a list of Sample as one parquet file, complete or not at all (temporary name, then rename)."""
    import pyarrow.parquet as pq
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table_of(samples), temporary, row_group_size=ROW_GROUP)
    os.replace(temporary, path)


def parquet_files(path):
    """The parquet files of `path` (a file, or a directory searched in name order). Raises SystemExit when none."""
    path = Path(path)
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.parquet")) if path.is_dir() else []
    if not files:
        why = "holds no .parquet file" if path.is_dir() else "does not exist"
        raise SystemExit(f"error: data directory {path} {why}. Make samples with `python data.py synth --out DIR` or "
                         f"`python data.py import FILE.parquet --out DIR`, then give DIR.")
    return files


def read_samples(path):
    """Read every sample of a directory of parquet files (or of one file) into a list of Sample.

    Raises SystemExit with one line when nothing is there or a needed column is missing.
    """
    import pyarrow.parquet as pq
    samples = []
    for file in parquet_files(path):
        try:
            parquet = pq.ParquetFile(file)
        except Exception as e:  # pyarrow raises several unrelated classes for a broken file
            raise SystemExit(f"error: {file} is not a readable parquet file ({str(e).splitlines()[0]}).") from None
        names = parquet.schema_arrow.names
        missing = [c for c in COLUMNS[:3] if c not in names]
        if missing:
            raise SystemExit(f"error: {file} has no column {', '.join(missing)} (its columns: {', '.join(names)}). "
                             f"`python data.py import` reads the released schema user_content, assistant_content, image.")
        for batch in parquet.iter_batches(ROW_GROUP, columns=[c for c in COLUMNS if c in names]):
            for row in batch.to_pylist():
                image = row.pop("image")
                if isinstance(image, dict):  # Hugging Face Image feature: {"bytes": ..., "path": ...}
                    image = image.get("bytes")
                fields = {k: v for k, v in row.items() if v is not None}
                samples.append(Sample(prompt=fields.pop("user_content", ""), answer=fields.pop("assistant_content", ""),
                                      image=image or b"", **fields))
    if not samples:
        raise SystemExit(f"error: {path} holds no samples.")
    return samples


def open_image(sample):
    """The target as an RGB PIL image on white ground. Raises ValueError when the bytes are no readable image."""
    from PIL import Image
    try:
        image = Image.open(io.BytesIO(sample.image))
        image.load()
    except Exception as e:
        raise ValueError(f"unreadable image ({e})") from None
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def png(array):
    """uint8 array [H, W, 3] -> PNG bytes."""
    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def epoch_order(n, seed, epoch):
    """The order in which epoch number `epoch` visits `n` samples: a pure function of (n, seed, epoch)."""
    order = list(range(n))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


# ------------------------------------------------------------------------------- the embedded default: tiny programs
# A scene is a list of elements on a 64 px canvas with coordinates on an 8 px grid; each language draws it its own way.
# SVG and HTML scenes: (kind, x, y, w, h, colour). Chart scenes: ("bar"|"barh", [(value, colour), ...]).

CANVAS, GRID = 64, 8  # pixels
COLOURS = ("red", "green", "blue", "orange", "purple", "black", "cyan", "gray")
INSTRUCTIONS = {"svg": "Write SVG code that draws this image.",
                "html": "Write HTML code that draws this image.",
                "python": "Write Python code that draws this image."}
REFINE = "This {name} code should draw the image but is wrong. Correct it.\n```{language}\n{code}\n```"
NAMES = {"svg": "SVG", "html": "HTML", "python": "Python", "latex": "LaTeX"}
DOMAIN_OF = {"svg": "svg", "html": "web", "python": "chart", "latex": "latex"}


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


def fenced(language, code):
    return f"```{language}\n{code}\n```"


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


# ------------------------------------------------------------------------------------------------------ foreign rows

def infer_language(sample):
    """Language of a foreign row: the answer's fence first, then whole words of the instruction; "" if neither tells."""
    fence = re.findall(r"^```[ \t]*([A-Za-z+#]+)", sample.answer, re.M)
    words = fence[:1] + re.findall(r"[a-z]+", sample.prompt.lower())
    alias = {"tikz": "latex", "tex": "latex", "matplotlib": "python", "py": "python", "rdkit": "python", "xml": "svg"}
    for word in words:
        word = alias.get(word.lower(), word.lower())
        if word in LANGUAGES:
            return word
    return ""


def check_sample(sample, answer=True):
    """Why a foreign row cannot be used ("" = it can). Fills language, domain, task, width and height in place.

    answer: whether the row must have one (ViRL needs none).
    """
    if not sample.prompt.strip():
        return "empty instruction"
    if not sample.image:
        return "no image"
    try:
        sample.width, sample.height = open_image(sample).size
    except ValueError:
        return "unreadable image"
    if not sample.language:
        sample.language = infer_language(sample)
    if sample.language not in LANGUAGES:
        return "unknown language"
    if answer and extract_code(sample.answer, sample.language)[0] is None:
        return f"answer without one ```{sample.language} fence"
    sample.domain = sample.domain or DOMAIN_OF[sample.language]
    if sample.domain not in DOMAINS:
        return "unknown domain"
    if sample.task not in ("generate", "refine"):
        return "unknown task"
    return ""


def usable(samples, path, answer=True):
    """The samples read from `path` that can be used; prints how many cannot, and why (main process only).

    Raises SystemExit with one line when more than 0.1 % cannot: that is no accident but the wrong data.
    """
    kept, bad = [], []
    for i, sample in enumerate(samples):
        sample.id = sample.id or f"row {i}"
        reason = check_sample(sample, answer)
        bad.append((sample.id, reason)) if reason else kept.append(sample)
    if bad:
        what = (f"{len(bad)} of {len(samples)} samples of {path} cannot be used, first {bad[0][0]}: {bad[0][1]} "
                f"({', '.join(f'{n} {why}' for why, n in Counter(why for _, why in bad).most_common())})")
        if len(bad) > len(samples) / 1000:
            raise SystemExit(f"error: {what}. `python data.py import` sorts out such rows and writes what is left.")
        if os.environ.get("RANK", "0") == "0":
            print(f"set aside: {what}")
    return kept


# ------------------------------------------------------------------------------------------------------ stats and view

def split_dirs(path):
    """The split directories below `path`, or `path` itself."""
    below = [p for p in (Path(path) / "sft", Path(path) / "rl", Path(path) / "test") if p.is_dir()]
    return below or [Path(path)]


def stats(path):
    """Print what a data directory holds: per split and kind the number of samples and the length of their code."""
    for split in split_dirs(path):
        samples = read_samples(split)
        sources = sorted({s.source for s in samples})
        print(f"{split}: {len(samples)} samples of {len(sources)} source(s)" + (f": {', '.join(sources)}" if len(sources) < 4 else ""))
        kinds = {}
        for s in samples:
            kinds.setdefault((s.domain, s.language, s.task, "with code" if s.answer else "no code"), []).append(len(s.answer or s.prompt))
        for kind, sizes in sorted(kinds.items()):
            sizes.sort()
            print("  {:6} {:7} {:9} {:9}".format(*kind) + f" {len(sizes):6}  characters median {sizes[len(sizes) // 2]}, max {sizes[-1]}")


def view(path, out, limit=60):
    """An offline HTML page of samples: target, instruction, answer. Code is shown as escaped text only."""
    cards = []
    for split in split_dirs(path):
        for s in read_samples(split)[:limit]:
            cards.append(f"<tr><td>{html.escape(split.name)}<br>{html.escape(s.id)}<br>{s.language} {s.task}</td>"
                         f"<td><img src='data:image/png;base64,{base64.b64encode(s.image).decode()}'></td>"
                         f"<td><pre>{html.escape(s.prompt)}</pre></td><td><pre>{html.escape(s.answer) or '(no code)'}</pre></td></tr>")
    Path(out).write_text("<!doctype html><meta charset=utf-8><title>samples</title><style>body{font:14px sans-serif}"
                         "img{max-width:240px;border:1px solid #ccc}pre{white-space:pre-wrap;max-width:36em}"
                         "td{vertical-align:top;border-top:1px solid #ddd;padding:6px}</style><table>"
                         "<tr><th>sample<th>target<th>instruction<th>answer (supervised)</tr>" + "".join(cards) + "</table>")
    print(f"wrote {out}: {len(cards)} samples")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("synth", help="make the embedded default's samples", allow_abbrev=False)
    p.add_argument("--out", required=True, help="directory to write (sft, rl, test below it)")
    p.add_argument("--labelled", type=int, default=3200, help="number of image-code pairs for SFT")
    p.add_argument("--targets", type=int, default=2400, help="number of target images without code for ViRL")
    p.add_argument("--test", type=int, default=768, help="number of held-out samples")
    p.add_argument("--label-jitter", type=float, default=0.1, help="probability that a number in a label is off by one step")
    p.add_argument("--broken", type=float, default=0.1, help="share of labels that are damaged")
    p.add_argument("--languages", default=",".join(MIXTURE), help="comma-separated languages, taken in turn")
    p.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    p.add_argument("--workers", type=int, default=None, help="renderer workers (default: one per core)")
    p.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    p = commands.add_parser("import", help="read data of the released, EasyR1's or TRL's schema, or folders of programs", allow_abbrev=False)
    p.add_argument("inputs", nargs="+", help="parquet files, directories of them, folders of programs, hf://datasets/NAME")
    p.add_argument("--out", required=True, help="directory to write (sft, rl, test, rejects.jsonl)")
    p.add_argument("--limit", type=int, default=0, help="rows of each input file at most (0: all)")
    p.add_argument("--workers", type=int, default=None, help="files read at a time (default: one per core)")
    p.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    p = commands.add_parser("filter", help="keep the samples whose program parses, is allowed, runs and draws the same twice", allow_abbrev=False)
    p.add_argument("path", help="directory of samples")
    p.add_argument("--out", required=True, help="directory to write")
    p.add_argument("--max-characters", type=int, default=30000, help="longest program")
    p.add_argument("--render-timeout", type=float, default=10.0, help="seconds per program")
    p.add_argument("--workers", type=int, default=None, help="files read at a time (default: one per core)")
    p.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    p = commands.add_parser("refine", help="make refinement samples: image + defective code -> corrected code", allow_abbrev=False)
    p.add_argument("path", help="directory of samples whose programs run (see filter)")
    p.add_argument("--out", required=True, help="directory to write")
    p.add_argument("--from", dest="predictions", help="predictions.jsonl of eval.py for these samples: a model's wrong answers become defects too")
    p.add_argument("--only", action="store_true", help="write refinement samples alone, without the samples they are made of")
    p.add_argument("--correct", type=float, default=0.07, help="share of programs without a defect, which are to be left alone")
    p.add_argument("--seed", type=int, default=0, help="seed of the defects")
    p.add_argument("--render-timeout", type=float, default=10.0, help="seconds per program")
    p.add_argument("--workers", type=int, default=None, help="files read at a time (default: one per core)")
    p.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    p = commands.add_parser("export", help="write samples in TRL's or EasyR1's schema", allow_abbrev=False)
    p.add_argument("path", help="directory of samples or parquet file")
    p.add_argument("--format", choices=("trl", "easyr1"), default="trl", help="schema")
    p.add_argument("--out", required=True, help="parquet file to write")
    p = commands.add_parser("stats", help="count what is in a data directory", allow_abbrev=False)
    p.add_argument("path", help="data directory or parquet file")
    p = commands.add_parser("view", help="write an offline HTML page of samples", allow_abbrev=False)
    p.add_argument("path", help="data directory or parquet file")
    p.add_argument("--out", default="samples.html", help="HTML file to write")
    p.add_argument("--limit", type=int, default=60, help="samples shown per split")
    args = parser.parse_args()
    import corpus  # it builds on this file
    try:
        if args.command == "synth":
            synth(args.out, args.labelled, args.targets, args.test, args.seed, args.label_jitter, args.broken,
                  tuple(args.languages.split(",")), args.workers, args.unsafe_render)
        elif args.command == "import":
            corpus.import_files(args.inputs, args.out, args.limit, args.workers, args.unsafe_render)
        elif args.command == "filter":
            corpus.filter_samples(args.path, args.out, args.max_characters, args.render_timeout, args.workers, args.unsafe_render)
        elif args.command == "refine":
            import refine
            refine.refine_samples(args.path, args.out, args.only, args.predictions, args.correct, args.seed, args.render_timeout, args.workers, args.unsafe_render)
        elif args.command == "export":
            corpus.export(args.path, args.format, args.out)
        elif args.command == "stats":
            stats(args.path)
        else:
            view(args.path, args.out, args.limit)
    except OSError as e:  # no permission, disk full
        sys.exit(f"error: {e.strerror}: {e.filename or args.out}. Nothing half-written was left under the final names.")


if __name__ == "__main__":
    main()
