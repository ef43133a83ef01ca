"""Procedural programs of all five domains at three difficulties, and the samples that `data.py synth` makes of them.

    rng = random.Random(0)
    program(rng, "chart", 3)                     # the source of one program: a pure function of the random state
    programs("latex", 2, 100, seed=0)            # 100 programs, all different

Difficulty 1: scenes of one to three elements on 64 pixels, which the tiny model learns in minutes; the default domains are
the embedded default (README, "The regime"). 2: small programs as people write them: one chart, a short page, an icon, one
TikZ picture, one molecule. 3: charts of several panels, whole pages, SVG with gradients, groups and text, automata, plots,
matrices and formulas, molecules with options. All words come from the lists below; no text of others is copied.
"""
import hashlib
import importlib.util
import json
import random
import re
from collections import Counter, deque
from pathlib import Path

from data import DOMAINS, NAMES, Sample, fenced, png
from render import Renderer, available
from scenes import CANVAS, COLOURS, LABELLED, LANGUAGE_OF, MIXTURE, TARGETS, draw_scene, scene_code, synth_split
from synth_latex import rich_latex, simple_latex
from synth_markup import rich_svg, simple_svg, web
from synth_python import rich_chart, rich_chem, simple_chart, simple_chem
from words import PALETTE, TEX_COLOURS

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
