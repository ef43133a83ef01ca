"""Procedural programs of all five domains at three difficulties, and the samples that `data.py synth` makes of them.

    rng = random.Random(0)
    program(rng, "chart", 3)                     # the source of one program: a pure function of the random state
    programs("latex", 2, 100, seed=0)            # 100 programs, all different

Difficulty 1 (scenes.py): one to three elements on 64 pixels, which the tiny model learns in minutes; its default
domains are the embedded default (README, "The regime"). 2: small programs as people write them: one chart, a short
page, an icon, one TikZ picture, one molecule. 3: charts of several panels, whole pages, SVG with gradients, groups and
text, automata, plots, matrices and formulas, molecules with options (synth_python.py, synth_markup.py, synth_latex.py).
"""
import hashlib
import importlib.util
import random
import re
from collections import Counter, deque
from functools import partial
from pathlib import Path

from data import DOMAINS, NAMES, Sample, fenced, png
from parts import Writer, all_ranks, finish, finished, record_of
from render import Renderer, available
from scenes import CANVAS, COLOURS, LABELLED, LANGUAGE_OF, MIXTURE, TARGETS, draw_scene, scene_code, scene_splits
from synth_latex import rich_latex, simple_latex
from synth_markup import rich_svg, simple_svg, web
from synth_python import rich_chart, rich_chem, simple_chart, simple_chem
from words import PALETTE, TEX_COLOURS

# ------------------------------------------------------------------------------------------------------------ programs

GENERATORS = {  # of difficulties 2 and 3
    "chart": (simple_chart, rich_chart), "web": (partial(web, rich=False), partial(web, rich=True)),
    "svg": (simple_svg, rich_svg), "latex": (simple_latex, rich_latex), "chem": (simple_chem, rich_chem)}


def program(rng, domain, difficulty):
    """The source of one program, a pure function of the state of `rng`. difficulty: 1, 2 or 3."""
    if difficulty == 1:
        return scene_code(domain, draw_scene(rng, domain, *rng.choice((LABELLED, TARGETS))[domain]))
    return GENERATORS[domain][difficulty - 2](rng)


def draw_programs(domain, difficulty, n, seed):
    """-> (n programs, all different, number drawn for it). Raises SystemExit with one line when there are too few."""
    rng, found, drawn = random.Random(f"{seed}/{domain}/{difficulty}"), {}, 0
    while len(found) < n:
        found[program(rng, domain, difficulty)] = None
        drawn += 1
        if drawn > 20 * n + 1000:
            raise SystemExit(f"error: difficulty {difficulty} of {domain} has no {n} different programs "
                             f"(found {len(found)}). Ask for fewer, or for a higher difficulty.")
    return list(found), drawn


def programs(domain, difficulty, n, seed=0):
    """n programs, all different, in the order in which they were drawn."""
    return draw_programs(domain, difficulty, n, seed)[0]


# ------------------------------------------------------------------------------------------------------------- samples

WORDINGS = ("Write {name} code that draws this image.", "Reproduce this picture in {name}.",
            "What {name} code gives this image? Answer with the code alone.", "Recreate the image as {name} code.",
            "Here is a picture. Write the {name} program that draws it.", "Convert this image to {name} code.")
SIZES = {"web": (800, 600)}  # pixels of the page; the others have a size of their own
PART = 4096  # samples of a file
WINDOW = 256  # renders under way: memory does not grow with the number of samples


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
        raise SystemExit("error: none of these domains can be rendered here. "
                         "`python render.py --doctor` says what is missing.")
    return left


def program_samples(programs_of, count, domains, used, seed, labels):
    """`count` programs, domains in turn -> (Sample without image, program) pairs.

    programs_of: {domain: [(difficulty, program), ...]}; used: a Counter of those that are taken already, which goes on.
    """
    pairs, rng = [], random.Random(f"{seed}/wording")
    for i in range(count):
        domain = domains[i % len(domains)]
        language, (difficulty, code) = LANGUAGE_OF[domain], programs_of[domain][used[domain]]
        used[domain] += 1
        prompt = rng.choice(WORDINGS).format(name=NAMES[language])
        pairs.append((Sample(prompt, fenced(language, code) if labels else "", b"", domain=domain, language=language,
                             source=f"synth/{difficulty}", license="CC0-1.0"), code))
    return pairs


def program_splits(labelled, targets, test, seed, levels, domains):
    """Clean programs of these difficulties, no two alike: {"test", "sft", "rl": (Sample, program) pairs}."""
    programs_of, used = {}, Counter()
    for domain in {*domains}:
        n = sum(-(-count // len(domains)) for count in (labelled, targets, test)) * domains.count(domain)
        by_level = [[(level, code) for code in programs(domain, level, -(-n // len(levels)), seed)] for level in levels]
        programs_of[domain] = [item for items in zip(*by_level) for item in items]
    return {name: program_samples(programs_of, count, domains, used, f"{seed}/{name}", labels)
            for name, count, labels in (("test", test, True), ("sft", labelled, True), ("rl", targets, False))}


def report(pairs, images):
    """Print how diverse the programs are: (Sample, code) pairs, {(domain, source): digests of their images}."""
    names = sorted({*COLOURS, *PALETTE, *TEX_COLOURS}, key=lambda name: (-len(name), name))  # green!60!black first
    colour = re.compile(rf"#[0-9a-fA-F]{{3,8}}\b|\b(?:{'|'.join(n for n in names if n[0] != '#')})\b")
    element = {"python": r"\.\w+\(", "html": r"<\w", "svg": r"<\w", "latex": r"\\[a-zA-Z]+"}
    groups = {}
    for sample, code in pairs:
        groups.setdefault((sample.domain, sample.source), []).append(code)
    for (domain, source), codes in sorted(groups.items()):
        colours = {c.lower() for code in codes for c in colour.findall(code)}
        elements = sorted(len(re.findall(element[LANGUAGE_OF[domain]], code)) for code in codes)
        sizes = sorted(map(len, codes))
        middle, different = len(codes) // 2, len(set(images[domain, source]))
        print(f"  {domain:6} {source:17} {len(codes):6} programs, {len(set(codes)):6} distinct, "
              f"{different:6} distinct images, {len(colours):5} colours; "
              f"calls, tags or commands {elements[middle]} (at most {elements[-1]}), "
              f"characters {sizes[middle]} (at most {sizes[-1]})")


def synth(out, labelled=3200, targets=2400, test=768, seed=0, label_jitter=0.1, broken=0.1, domains=MIXTURE,
          difficulty="1", workers=None, unsafe=False, rank=0, world=1):
    """Write samples to `out`/{sft,rl,test}: pairs, targets without code, held-out pairs; render.py draws the targets.

    difficulty: "1" makes the embedded default, an imperfect corpus with refinement samples (label_jitter, broken); "2",
    "3" and "mixed" clean programs, all different, for which `data.py refine` makes defects. The `world` processes of
    torchrun that call this share the parts of PART samples; a finished part is not done again. Raises SystemExit with
    one line for a program that does not render, and for files of others in `out`.
    """
    from tqdm import tqdm
    domains = usable_domains(domains, unsafe)
    if difficulty == "1":
        splits = scene_splits(labelled, targets, test, seed, label_jitter, broken, domains)
    else:
        levels = (1, 2, 3) if difficulty == "mixed" else (int(difficulty),)
        splits = program_splits(labelled, targets, test, seed, levels, domains)
    out, seen, images, number = Path(out), set(), {}, 0
    arguments = [labelled, targets, test, seed, label_jitter, broken, list(domains), difficulty]
    bar = tqdm(total=sum(map(len, splits.values())) // world, desc="render targets", unit="image", mininterval=1,
               disable=rank > 0)
    with Renderer(workers=workers, unsafe=unsafe) as renderer, bar:
        for name, pairs in splits.items():
            starts = range(0, len(pairs), PART)
            files = [out / name / f"part-{k}.parquet" for k in range(len(starts))]
            if strangers := {*(out / name).glob("*.parquet")} - {*files}:
                raise SystemExit(f"error: {min(strangers)} is there already and not of this run. "
                                 f"Give another --out, or remove {out}.")
            parts = list(zip(range(number, number + len(files)), files, starts))
            number += len(files)
            for k, file, start in parts[rank::world]:
                if not (finished(out, k, arguments) and file.exists()):
                    some, ids = pairs[start:start + PART], f"synth-{name}-{seed}"
                    finish(out, k, {"input": arguments, **render_part(some, file, ids, start, seen, renderer, bar)}, [])
            all_ranks(world)
            records = [record_of(out, k) for k, _, _ in parts]
            for key, digest in (pair for record in records for pair in record["images"]):
                images.setdefault(tuple(key), []).append(digest)
                if name == "test":
                    seen.add((LANGUAGE_OF[key[0]], digest))
            written = sum(record["written"] for record in records)
            left_out = len(pairs) - written
            bar.write(f"{name}: {written} samples written, {left_out} left out because their image is in test")
    if rank == 0:
        report([pair for pairs in splits.values() for pair in pairs], images)


def render_part(pairs, path, name, first, seen, renderer, bar):
    """Render (Sample, program) pairs into one parquet file, without those whose image is held out.

    seen: (language, digest) of the held-out images; name, first: the ids are NAME-FIRST and on. Returns {"written":
    count, "images": [[domain, source], digest] of each}. Raises SystemExit with one line where one does not render.
    """
    writer, ahead, images = Writer(path), deque(), []
    for i in range(len(pairs) + WINDOW):
        if i < len(pairs):
            sample, code = pairs[i]
            scene = sample.source in ("synth/labelled", "synth/target-only", "synth/1")
            size = (CANVAS, CANVAS) if scene else SIZES.get(sample.domain)
            ahead.append((first + i, sample, renderer.submit(sample.language, code, size)))
        if not ahead or len(ahead) < WINDOW and i < len(pairs):
            continue
        k, sample, future = ahead.popleft()
        render = future.result()
        bar.update()
        if render.status != "ok":
            raise SystemExit(f"error: a {sample.domain} target did not render: {render.message}. "
                             "`python render.py --doctor` says what is missing.")
        digest = hashlib.sha256(render.image.tobytes()).hexdigest()[:16]
        images.append([[sample.domain, sample.source], digest])
        if (sample.language, digest) in seen:
            continue  # the image stands in the held-out split: 6 % of the easy scenes coincide by chance
        sample.image, sample.id = png(render.image), f"{name}-{k:05d}"
        sample.height, sample.width = render.image.shape[:2]
        writer.add(sample)
    writer.close()
    return {"written": writer.count, "images": images}
