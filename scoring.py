"""From answers to the files of a scored run: programs are rendered and judged beside baselines; no model and no torch.

    from scoring import Answer, judge, score_predictions, workshop        # as eval.py and search.py do

`judge` looks at the answers to one item; `score_predictions` carries all items through renderer, judges and encoders.

Baselines: a blank canvas, a random other sample of the same language and domain, and for the refine task the defective
code as given. They depend on the data alone, so a run takes them from one beside it.
"""
import contextlib
import hashlib
import json
import math
import random
import shutil
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

import cli
import data
import domain
from metrics import OUTSIDE_PARTS, SIDE, edit_similarity, look, outside_metrics, working_side
from render import Render, Renderer
from reward import extract_code, score, start_scorer
from stats import REWARD_PARTS, read_lines, write_lines

GALLERY = 2000  # items whose pictures are kept and shown
RENDERS = 256 << 20  # bytes of renders kept for equal programs
NO_CODE = "no single fenced block in the language asked for"


def code_of(text, language):
    """The program in a text, None where it holds no single fenced block of that language."""
    return extract_code(text, language)[0]


# -------------------------------------------------------------------------------------------------------------- judging

class Answer(NamedTuple):
    """An answer to an item, drawn: what `judge` looks at."""
    response: str
    render: Render | None  # None where it holds no code
    path: Path | None = None  # where its picture is kept
    view: tuple | None = None  # (code, Render) that the metrics of the domain look at


def judge(target_png, language, reference, answers, right=None, slow=False):
    """Score a list of Answer to one item with the target `target_png` (bytes).

    reference: the code known to be right, None or "" where there is none; right: its Render, where the metrics of the
    domain are asked for; slow: add EMS to LaTeX. Returns a dict per answer with the parts of the reward, the outside
    metrics (all NaN where our renderer failed; `code` NaN without a reference), status, message and `domain`, the
    metrics of the domain (none without `right`).
    """
    target = np.asarray(data.open_image(data.Sample("", "", target_png)))  # [H, W, 3]
    side = working_side(target)
    seen, rows = look(target, side), []
    for response, render, path, view in answers:
        parts = score(target, render, response, language)
        status, message = (render.status, render.message) if render else ("no code", NO_CODE)
        outside = dict.fromkeys(OUTSIDE_PARTS, math.nan if status == "infra" else 0.0)
        if status == "ok":
            outside |= outside_metrics(seen, look(render.image, side))
            outside["code"] = edit_similarity(code_of(response, language), reference or "")
            if path:
                Image.fromarray(render.image).save(path)
        if not reference:
            outside["code"] = math.nan
        special = domain.domain_scores(language, (reference, right), view, slow) if right and status != "infra" else {}
        rewards = {k: float(parts[k]) for k in REWARD_PARTS}
        rows.append({**rewards, **outside, "status": status, "message": message[:300], "domain": special})
    return rows


@contextlib.contextmanager
def workshop(workers=None, timeout=10.0, unsafe=False, cache=0):
    """Context: a Renderer (its arguments), a pool of as many processes that judge, and threads that wait for both.

    The threads, four times as many, bound how many renders lie in memory. Left by an exception, nothing that still runs
    is waited for.
    """
    with Renderer(workers, timeout, unsafe, cache) as renderer, \
            cli.Pool(renderer.workers, start_scorer) as pool, \
            ThreadPoolExecutor(4 * renderer.workers) as threads:
        try:
            yield renderer, pool, threads
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            renderer.close()
            raise


# ------------------------------------------------------------------------------------------------------------ baselines

@dataclass
class Candidate:
    """An answer or a baseline on its way to the judge."""
    response: str
    path: Path = None  # where its picture is to be kept
    picture: Render = None  # what a baseline shows in place of what its program draws
    drawn_by: tuple = None  # (code or None, (width, height)) of that picture; None: no program draws it


def baselines_of(samples):
    """A function of a Sample among `samples` -> {baseline: Candidate}; made one by one, since they hold pictures.

    For `other` the sample's id is the seed of the lot.
    """
    alike = defaultdict(list)
    for s in samples:
        alike[s.language, s.domain].append(s)

    def of(s):
        blank = Render(np.full((s.height, s.width, 3), 255, np.uint8), "ok")
        mine = {"blank": Candidate(data.fenced(s.language, "blank"), picture=blank)}
        if others := [o for o in alike[s.language, s.domain] if o.image != s.image]:
            other = random.Random(s.id).choice(others)
            picture = Render(np.asarray(data.open_image(other)), "ok")
            drawn_by = code_of(other.answer, s.language), (other.width, other.height)
            answer = other.answer or data.fenced(s.language, "other")
            mine["other"] = Candidate(answer, picture=picture, drawn_by=drawn_by)
        if s.task == "refine" and (code := code_of(s.prompt, s.language)) is not None:
            mine["copy"] = Candidate(data.fenced(s.language, code))
        return mine

    return of


def known_baselines(samples, out, slow=False, encoders=()):
    """-> (fingerprint of all that the baselines depend on, their rows from OUT or a run beside it, or None)."""
    files = ("charts.py", "chromium.py", "domain.py", "drawing.py", "encoder.py", "latex.py", "metrics.py", "render.py",
             "reward.py", "scoring.py", "server.py", "texts.py", "traced.py")
    source = b"".join((Path(__file__).parent / f).read_bytes() for f in files)
    digest = hashlib.sha256(source + repr((slow, *encoders)).encode())
    for s in samples:
        fields = repr((s.id, s.language, s.task, s.prompt, s.answer, len(s.image)))
        digest.update(fields.encode(errors="replace") + s.image)
    first = json.dumps({"fingerprint": digest.hexdigest()}).encode()
    for file in filter(Path.is_file, (out / "baselines.jsonl", *sorted(out.parent.glob("*/baselines.jsonl")))):
        with open(file, "rb") as f:
            found = f.readline().strip() == first
        if found:
            return digest.hexdigest(), read_lines(file)[1:]
    return digest.hexdigest(), None


# ------------------------------------------------------------------------------------------------- predictions -> files

def settled(job):
    """The Render of a Future; anything else is settled already."""
    return job.result() if isinstance(job, Future) else job


class Scorer:
    """Carries items through renderer, judges and encoders; threads may share it."""

    def __init__(self, renderer, pool, folder, slow, encoders):
        """renderer, pool: of a `workshop`; folder: where pictures go; encoders: {kind: Encoder}.

        slow: as in `judge`, and UniSVG's SSIM.
        """
        self.renderer, self.pool, self.folder, self.slow, self.encoders = renderer, pool, folder, slow, encoders
        self.turn = Lock()  # the encoders exist once, in this process

    def item(self, number, sample, asked, baselines):
        """Score what was predicted for Sample `number`, asked [(mode, k, object)], and its baselines {name: Candidate}.

        -> (rows of the predictions, rows of the baselines). The pictures of the first GALLERY samples are kept.
        """
        if number < GALLERY:
            (self.folder / f"{number:05d}-target.png").write_bytes(data.png(np.asarray(data.open_image(sample))))
        first = {row["response"] for _, k, row in asked if k == 0} if number < GALLERY else ()
        answers = list(dict.fromkeys(row["response"] for _, _, row in asked))  # equal ones are scored once
        candidates = [Candidate(a, self.folder / f"{number:05d}-{n}.png" if a in first else None)
                      for n, a in enumerate(answers)]
        scored = self.scored(sample, [*candidates, *baselines.values()])
        of = {c.response: {**row, "render": f"renders/{c.path.name}" if c.path and row["status"] == "ok" else None}
              for c, row in zip(candidates, scored)}
        rows = [{"id": sample.id, "mode": mode, "k": k, **of[row["response"]], "finish": row.get("finish"),
                 "tokens": row.get("tokens"), "response": row["response"]} for mode, k, row in asked]
        compared = zip(baselines, scored[len(answers):])
        return rows, [{"id": sample.id, "mode": name, "k": 0, **row} for name, row in compared]

    def scored(self, sample, candidates):
        """A dict per Candidate of one Sample: what `judge` returns, metrics by encoders, and `copied`.

        copied: whether the answer is the defective code of the prompt, None where there is none.
        """
        reference = code_of(sample.answer, sample.language)
        defective = code_of(sample.prompt, sample.language) if sample.task == "refine" else None
        answers, right = self.draw(sample, reference, candidates)
        rows = self.pool.submit(judge, sample.image, sample.language, reference, answers, right, self.slow).result()
        for row, answer in zip(rows, answers):
            if self.encoders and row["domain"]:
                with self.turn:
                    row["domain"] = domain.encoder_scores(self.encoders, row["domain"], right, answer.view[1])
            row["copied"] = None if defective is None else code_of(answer.response, sample.language) == defective
        return rows

    def draw(self, sample, reference, candidates):
        """Render the candidates of one Sample and the code `reference`.

        -> (list of Answer, Render of the reference, or None where no metric needs it)
        """
        language, size = sample.language, (sample.width, sample.height)
        inspect = bool(reference) and domain.domain_of(language, reference) in ("chart", "web")
        submit = lambda code, size: None if code is None else self.renderer.submit(language, code, size, inspect)
        codes = [code_of(c.response, language) for c in candidates]
        jobs = [c.picture or submit(code, size) for c, code in zip(candidates, codes)]
        if reference is None or language == "svg" and not (self.slow or self.encoders):
            return [Answer(c.response, settled(job), c.path) for c, job in zip(candidates, jobs)], None

        views = [(reference, submit(reference, size))]
        for c, code, job in zip(candidates, codes, jobs):
            if not c.picture:
                views.append((code, job))
            elif not c.drawn_by:
                views.append(("", c.picture))
            else:  # drawn anew: the picture alone does not tell what a program put there
                views.append((c.drawn_by[0], submit(*c.drawn_by) or Render(None, "infra")))
        if language == "svg":
            views = [(code, self.enlarged(code, settled(job), submit)) for code, job in views]
        (_, right), *views = [(code, settled(job)) for code, job in views]
        return [Answer(c.response, settled(job), c.path, view) for c, job, view in zip(candidates, jobs, views)], right

    def enlarged(self, code, render, submit):
        """An SVG drawn SIDE pixels large, as UniSVG looks at it: Future, or `render` where there is nothing to draw."""
        if not code or render is None or render.status != "ok":
            return render
        height, width = render.image.shape[:2]
        return submit(code, tuple(max(1, round(side * SIDE / max(width, height))) for side in (width, height)))


def score_predictions(samples, found, out, workers=None, timeout=10.0, unsafe=False, slow=False, encoders=()):
    """Render and score predictions {(id, mode, k): object}; write items, scores, baselines and renders to OUT.

    Equal answers to an item are scored once, equal programs rendered once. slow: with UniSVG's SSIM and Image2Struct's
    EMS; encoders: see domain.load_encoders. What OUT held stays as it was until all is scored. Returns (rows of
    scores.jsonl, how renders were confined). Raises RuntimeError where programs cannot be confined, a judging process
    was killed, or our renderer failed on every prediction.
    """
    by_item, rows = defaultdict(list), []
    for (id_, mode, k), row in sorted(found.items()):
        by_item[id_].append((mode, k, row))
    mark, compared = known_baselines(samples, out, slow, encoders)
    baselines = baselines_of(samples) if compared is None else lambda sample: {}
    compared = compared or []
    cache = RENDERS // max(3 * s.width * s.height for s in samples) + 1
    folder = out / "renders.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with workshop(workers, timeout, unsafe, cache) as (renderer, pool, threads):
            scorer = Scorer(renderer, pool, folder, slow, domain.load_encoders(encoders))
            one = lambda i: scorer.item(i, samples[i], by_item[samples[i].id], baselines(samples[i]))
            scored = threads.map(one, range(len(samples)))
            for mine, base in tqdm(scored, "score", len(samples), unit="item", mininterval=1):
                rows += mine
                compared += base
        if all(row["status"] == "infra" for row in rows):
            raise RuntimeError(f"the renderer failed on every prediction ({rows[0]['message']}). "
                               "`python render.py --doctor` says what is missing.")
        (out / "scores.json").unlink(missing_ok=True)  # from here on until it is written anew OUT is no scored run
        shutil.rmtree(out / "renders", ignore_errors=True)
        folder.rename(out / "renders")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_lines(out / "items.jsonl", [
        {"id": s.id, "language": s.language, "task": s.task, "source": s.source, "prompt": s.prompt, "answer": s.answer,
         "domain": domain.domain_of(s.language, code_of(s.answer, s.language) or ""),
         "target": f"renders/{i:05d}-target.png" if i < GALLERY else None} for i, s in enumerate(samples)])
    if any(row["status"] == "infra" for row in compared):
        mark = None  # what failed today must not be taken for known
    write_lines(out / "baselines.jsonl", [{"fingerprint": mark}, *compared])
    write_lines(out / "scores.jsonl", rows)
    return rows, renderer.confinement
