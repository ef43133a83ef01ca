"""Evaluation: predictions.jsonl -> renders -> scores -> report.html; differences between runs; one image -> code.

Two halves with files between them: generating needs a model, scoring needs neither model nor torch and takes
anyone's predictions.

    python eval.py --model out/virl --data out/data/test --out out/eval/virl      # generate, then score
    torchrun --nproc_per_node=8 eval.py --model DIR --data DIR --out OUT          # rank r takes items r::8
    python eval.py --predictions FILE --data out/data/test --out OUT              # score only
    python eval.py --compare out/eval/sft out/eval/control out/eval/virl --out out
    python eval.py --model out/virl --image shot.png --language html              # one image

predictions.jsonl holds one object a line: `id` (of the sample), `mode` ("greedy" | "t1" = temperature 1), `k` (number
of the answer at temperature 1, from 0), `response` (the whole answer, fence included), `finish` ("stop" | "length" |
"unusable" = could not be asked), `tokens` (length). Only id, mode and response are needed.

OUT gets items.jsonl (what was asked), scores.jsonl (a line per prediction: reward parts, outside metrics, status,
message), baselines.jsonl (the same for the baselines), scores.json (means, standard errors, counts), renders/*.png,
report.html.

How to read the numbers. A program that fails counts 0 in every mean; a failure of our own renderer (`infra`) is
excluded and counted. Standard errors are over items: the answers to an item are averaged first. `reward` and `visual`
are what ViRL trains on; the outside metrics share no code with reward.py, so gains are not graded by their own
teacher. Baselines: a blank canvas, a random other sample of the same language, and for the refine task the defective
code as given.

Left out here: benchmark loaders, metrics per domain, search at test time.
"""
import argparse
import base64
import hashlib
import html
import io
import json
import math
import os
import random
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity
from tqdm import tqdm

import data
from render import Render, Renderer, available
from reward import extract_code, score, start_scorer

REWARD_PARTS = ("reward", "format", "execution", "visual", "coarse", "fine")
OUTSIDE_PARTS = ("outside", "masked_ssim", "edge_f1", "palette", "lowres", "ssim", "code")
METRICS = REWARD_PARTS + OUTSIDE_PARTS
SHOWN = ("execution", "visual", "reward", "outside")  # the columns of tables and bars
MODES = {"greedy": "greedy", "t1": "T=1"}
BASELINES = {"blank": "blank canvas", "other": "random other", "copy": "copy input (refine)"}
MOST_SOURCES = 12
SIDE = 336  # pixels: longest side at which the outside metrics look at an image
GALLERY = 2000  # items whose pictures are kept and shown
LONGEST_CODE = 20_000  # characters: the edit distance is quadratic


# -------------------------------------------------------------------------------------------- metrics outside the reward

def letterbox(image, side):
    """uint8 [H, W, 3] -> [side, side, 3], fitted without stretching on white: a wrong aspect ratio costs."""
    height, width = image.shape[:2]
    if height == width == side:
        return image
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (side, side), "white")
    sheet.paste(Image.fromarray(image).resize(size, Image.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(sheet)


def look(image, side):
    """What the metrics need of one image, uint8 [H, W, 3], at S = `side` pixels; tolerances are fractions of it."""
    rgb = letterbox(image, side)  # [S, S, 3]
    bins = (rgb.reshape(-1, 3) >> 3).astype(int) @ (1024, 32, 1)  # [S * S]
    ground = rgb.reshape(-1, 3)[bins == np.bincount(bins).argmax()].mean(0)  # [3]: the most frequent colour
    ink = np.abs(rgb - ground).max(-1) > 24  # [S, S]
    colours, mass = np.zeros((0, 3)), np.zeros(0)
    if ink.any():  # palette: up to 8 bins of 24 levels that hold at least 1 % of the ink
        pixels = rgb[ink]  # [n, 3]
        _, where, count = np.unique((pixels // 24).astype(int) @ (121, 11, 1), return_inverse=True, return_counts=True)
        top = np.argsort(-count, kind="stable")[:8]
        top = top[count[top] >= min(0.01 * len(pixels), count.max())]
        colours = np.stack([np.bincount(where, pixels[:, c])[top] for c in range(3)], 1) / count[top, None]
        mass = count[top] / count[top].sum()
    gray = rgb @ np.array((0.299, 0.587, 0.114))
    edges = np.hypot(ndimage.sobel(gray, 0), ndimage.sobel(gray, 1)) > 100
    small = np.asarray(Image.fromarray(rgb).resize((24, 24), Image.BOX), dtype=float).ravel()
    return {"rgb": rgb, "gray": gray, "near_ink": ndimage.maximum_filter(ink, 2 * max(1, round(5 * side / SIDE)) + 1),
            "edges": edges, "near_edges": ndimage.maximum_filter(edges, 2 * max(1, round(2 * side / SIDE)) + 1),
            "lab": rgb2lab(np.concatenate([ground[None], colours])[None] / 255)[0], "mass": mass, "small": small - small.mean()}


def f1(precision, recall):
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outside_metrics(a, b):
    """Metrics between two looks of the same side, each 1 for equal images; `outside` is the mean of the first four.

    masked_ssim: SSIM (Gaussian, sigma 1.5, gray) averaged where either image has ink. edge_f1: Sobel edges within a
    tolerance. palette: CIEDE2000 similarity of the ink's colours, matched one to one by mass, times that of the
    backgrounds. lowres: correlation at 24 x 24 pixels. ssim: plain SSIM (uniform 7 x 7, RGB) for comparison with
    other work only: alone it prefers a blank page to a wrong one.
    """
    _, local = structural_similarity(a["gray"], b["gray"], full=True, gaussian_weights=True, sigma=1.5,
                                     use_sample_covariance=False, data_range=255)  # [S, S]
    mask = a["near_ink"] | b["near_ink"]
    n_a, n_b = a["edges"].sum(), b["edges"].sum()
    edge = float(n_a == n_b)  # where one of them has no edges
    if n_a and n_b:
        edge = f1((b["edges"] & a["near_edges"]).sum() / n_b, (a["edges"] & b["near_edges"]).sum() / n_a)
    alike = np.clip(1 - deltaE_ciede2000(a["lab"][:, None], b["lab"][None]) / 100, 0, 1)  # [1 + colours, 1 + colours]
    palette, colours = float(len(a["mass"]) == len(b["mass"])), alike[1:, 1:]
    if len(a["mass"]) and len(b["mass"]):
        i, j = linear_sum_assignment(-colours * np.minimum(a["mass"][:, None], b["mass"]))
        palette = f1((colours[i, j] * b["mass"][j]).sum(), (colours[i, j] * a["mass"][i]).sum())
    x, y = a["small"], b["small"]
    norm = math.sqrt((x @ x) * (y @ y))
    parts = {"masked_ssim": local[mask].mean() if mask.any() else local.mean(), "edge_f1": edge,
             "palette": palette * alike[0, 0], "lowres": max(0, x @ y / norm) if norm > 1e-6 else (x @ x < 1e-6 > y @ y)}
    parts["outside"] = sum(parts.values()) / 4
    parts["ssim"] = structural_similarity(a["rgb"], b["rgb"], channel_axis=2, win_size=7, data_range=255)
    return {k: float(v) for k, v in parts.items()}


def working_side(target):
    """Side in pixels at which a target [H, W, 3] is judged: its own longest one, between 24 and SIDE."""
    return max(24, min(SIDE, max(target.shape[:2])))


def edit_similarity(a, b):
    """1 - Levenshtein distance / longer length of two strings; NaN beyond LONGEST_CODE characters."""
    if max(len(a), len(b)) > LONGEST_CODE:
        return math.nan
    longest = max(len(a), len(b), 1)
    a, b = (np.frombuffer(s.encode("utf-32-le", "surrogatepass"), np.uint32) for s in (a, b))
    row = steps = np.arange(len(b) + 1)
    for i, letter in enumerate(a, 1):
        row = np.concatenate(([i], np.minimum(row[1:] + 1, row[:-1] + (b != letter))))  # deletion, substitution
        row = np.minimum.accumulate(row - steps) + steps  # insertions, all at once
    return 1 - row[-1] / longest


# ------------------------------------------------------------------------------------------------------------ predictions

def read_predictions(files, known):
    """Predictions of the ids in `known`: ({(id, mode, k): object}, Counter of the lines set aside by reason)."""
    found, aside = {}, Counter()
    for line in (line for file in files for line in Path(file).read_bytes().splitlines() if line.strip()):
        try:
            row = json.loads(line)
            id_, mode, k, response = row["id"], row["mode"], row.get("k", 0), row["response"]
            if mode not in MODES or type(k) is not int or k < 0 or not isinstance(response, str):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            aside["broken lines"] += 1
            continue
        if not isinstance(id_, str) or id_ not in known:
            aside["unknown ids"] += 1
        elif (id_, mode, k) in found:
            aside["duplicates"] += 1
        else:
            found[id_, mode, k] = row
    return found, aside


def write_text(path, text):
    """Write a file, complete or not at all. Lone surrogates, which no encoding has, become question marks."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", errors="replace")
    os.replace(temporary, path)


def write_lines(path, rows):
    """JSON lines; NaN becomes null, since JSON has none."""
    clean = lambda row: {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    write_text(path, "".join(json.dumps(clean(row)) + "\n" for row in rows))


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load_model(path):
    """The whole policy on this process's device: evaluation shares nothing between processes."""
    import torch

    from policy import load_policy
    if not torch.cuda.is_available():
        return load_policy(path)
    policy = load_policy(path, torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))))
    policy.dtype = torch.bfloat16
    return policy


def predict(load, samples, out, n_samples, max_new_tokens, seed, slots=128, rank=0, world=1, top_p=1.0):
    """Write the predictions that OUT lacks: greedy and `n_samples` at temperature 1 per Sample, by the Policy `load()`.

    Each answer is appended as it finishes, so an interruption costs only those under way. Seeds come from (seed, id,
    k): resumed, sharded and uninterrupted runs give the same answers. Rank 0 waits for the others and merges.
    """
    merged = out / "predictions.jsonl"
    files = lambda: [f for f in (merged, *out.glob("predictions.rank*.jsonl")) if f.exists()]
    groups = {"greedy": 1, "t1": n_samples}
    wanted = [(s.id, mode, k) for s in samples for mode, group in groups.items() for k in range(group)]
    ids, mine, unusable = {s.id for s in samples}, samples[rank::world], {}
    done = set(read_predictions(files(), ids)[0])
    lacking = {mode: [s for s in mine if any((s.id, mode, k) not in done for k in range(group))] for mode, group in groups.items()}
    bar = tqdm(total=sum(len(lacking[mode]) * group for mode, group in groups.items()), unit="answer", mininterval=1,
               desc="generate" if world == 1 else f"generate (rank {rank})", position=rank)
    with open(merged if world == 1 else out / f"predictions.rank{rank}.jsonl", "ab") as f:
        if f.tell():
            f.write(b"\n")  # ends a line that a kill may have cut off; blank lines are skipped

        def write(sample, mode, k, response, finish, tokens):
            if (sample.id, mode, k) not in done:
                f.write(json.dumps({"id": sample.id, "mode": mode, "k": k, "response": response, "finish": finish,
                                    "tokens": tokens}).encode() + b"\n")
                f.flush()
            bar.update()

        if any(lacking.values()):
            from generate import generate, rollout_seed
            policy = load()
        size = max(16, min(512, (32 << 20) // max(s.width * s.height for s in samples)))  # 32 Mpixel in memory
        for mode, group in groups.items():
            for start in range(0, len(lacking[mode]), size):
                batch = []
                for s in lacking[mode][start:start + size]:
                    try:
                        example = policy.encode(s.prompt, data.open_image(s))
                        if example.prompt_length + max_new_tokens > policy.context:
                            raise ValueError(f"{example.prompt_length} tokens and --max-new-tokens exceed the context of {policy.context}")
                        batch.append((s, example))
                    except ValueError as e:
                        unusable[s.id] = e
                        for k in range(group):
                            write(s, mode, k, "", "unusable", 0)
                seeds = [[rollout_seed(seed, s.id, k) for k in range(group)] for s, _ in batch]
                if batch:
                    generate(policy, [e for _, e in batch], group, max_new_tokens, float(mode == "t1"), seeds, slots,
                             lambda r: write(batch[r.example][0], mode, r.sample, r.text, r.finish, len(r.token_ids)), top_p=top_p)
    bar.close()
    if unusable:
        print(f"{len(unusable)} of {len(mine)} samples cannot be asked and count as empty answers, first: "
              + ": ".join(map(str, next(iter(unusable.items())))))
    if rank == 0:
        while not set(wanted) <= set(found := read_predictions(files(), ids)[0]):
            time.sleep(1)  # the other ranks still write; torchrun ends us if one of them dies
        write_lines(merged, [found[key] for key in wanted])
        for file in out.glob("predictions.rank*.jsonl"):
            file.unlink()


# ---------------------------------------------------------------------------------------------------------------- scoring

def judge(target_png, language, reference, answers):
    """Score the answers to one item: list of (response, Render or None where there is no code, path for its PNG or None).

    Returns a list of dicts with METRICS (all NaN where our renderer failed), status and message.
    """
    target = np.asarray(data.open_image(data.Sample("", "", target_png)))  # [H, W, 3]
    side = working_side(target)
    seen, rows = look(target, side), []
    for response, render, path in answers:
        parts = score(target, render, response, language)
        status, message = (render.status, render.message) if render else ("no code", "no single fenced block in the language asked for")
        outside = dict.fromkeys(OUTSIDE_PARTS, math.nan if status == "infra" else 0.0)
        if status == "ok":
            outside.update(outside_metrics(seen, look(render.image, side)))
            outside["code"] = edit_similarity(extract_code(response, language)[0], reference or "")
            if path:
                Image.fromarray(render.image).save(path)
        if not reference:
            outside["code"] = math.nan
        rows.append({**{k: float(parts[k]) for k in REWARD_PARTS}, **outside, "status": status, "message": message[:300]})
    return rows


def greedy_scores(policy, samples, renderer, max_new_tokens):
    """Greedy answers of a policy in training to held-out Samples, rendered and judged: {metric of SHOWN: mean}.

    Collective: each rank answers its share. What our own renderer fails at does not count. Leaves the policy in train mode.
    """
    import torch

    from generate import generate
    from policy import all_sum, world
    rank, n = world()
    mine, dtype = samples[rank::n], policy.dtype
    if policy.device.type == "cpu":
        policy.dtype = torch.float32
    answers = generate(policy, [policy.encode(s.prompt, data.open_image(s)) for s in mine], 1, max_new_tokens, 0.0)
    policy.dtype = dtype
    policy.train()
    codes = [extract_code(group[0].text, s.language)[0] for s, group in zip(mine, answers)]
    renders = [code and renderer.submit(s.language, code, (s.width, s.height)) for s, code in zip(mine, codes)]
    rows = [judge(s.image, s.language, "", [(group[0].text, future and future.result(), None)])[0] for s, group, future in zip(mine, answers, renders)]
    rows = [row for row in rows if row["status"] != "infra"]
    count = all_sum(len(rows), policy.device)
    return {k: all_sum(sum(row[k] for row in rows), policy.device) / max(1, count) for k in SHOWN}


def baseline_answers(samples):
    """[{baseline: (response, Render or None = to be rendered)}] per Sample; `other` is drawn by the sample's id."""
    by_language, answers = defaultdict(list), []
    for s in samples:
        by_language[s.language].append(s)
    for s in samples:
        mine = {"blank": (data.fenced(s.language, "blank"), Render(np.full((s.height, s.width, 3), 255, np.uint8), "ok"))}
        if others := [o for o in by_language[s.language] if o.image != s.image]:
            other = random.Random(s.id).choice(others)
            mine["other"] = (other.answer or data.fenced(s.language, "other"), Render(np.asarray(data.open_image(other)), "ok"))
        if s.task == "refine" and (code := extract_code(s.prompt, s.language)[0]) is not None:
            mine["copy"] = (data.fenced(s.language, code), None)
        answers.append(mine)
    return answers


def known_baselines(samples, out):
    """(fingerprint of all that the baselines depend on, their rows from OUT or a run beside it, None if there are none)."""
    digest = hashlib.sha256(b"".join((Path(__file__).parent / f).read_bytes() for f in ("eval.py", "render.py", "reward.py")))
    for s in samples:
        digest.update(repr((s.id, s.language, s.task, s.prompt, s.answer, s.image)).encode(errors="replace"))
    for file in (out / "baselines.jsonl", *sorted(out.parent.glob("*/baselines.jsonl"))):
        if file.exists() and (rows := read_lines(file)) and rows[0].get("fingerprint") == digest.hexdigest():
            return digest.hexdigest(), rows[1:]
    return digest.hexdigest(), None


def score_predictions(samples, found, out, workers=None, timeout=10.0, unsafe=False):
    """Render and score predictions {(id, mode, k): object}; write items, scores, baselines and renders to OUT.

    Equal answers to an item are scored once, equal programs rendered once. Returns (rows, how renders were confined).
    """
    (out / "renders").mkdir(parents=True, exist_ok=True)
    for old in (out / "renders").glob("*.png"):
        old.unlink()
    by_item = defaultdict(list)
    for (id_, mode, k), row in sorted(found.items()):
        by_item[id_].append((mode, k, row))
    mark, compared = known_baselines(samples, out)
    baselines = baseline_answers(samples) if compared is None else [{}] * len(samples)
    rows, compared = [], compared or []

    def submit(sample, response):
        code, _ = extract_code(response, sample.language)
        return None if code is None else renderer.submit(sample.language, code, (sample.width, sample.height))

    def one(i):
        """Carry item i through renderer and scorer: the rows of its predictions, the rows of its baselines."""
        s, asked = samples[i], by_item[samples[i].id]
        answers = list(dict.fromkeys(row["response"] for _, _, row in asked))
        shown = {row["response"] for _, k, row in asked if k == 0} if i < GALLERY else ()
        paths = [f"renders/{i:05d}-{n}.png" if answer in shown else None for n, answer in enumerate(answers)]
        jobs = [(a, submit(s, a), p and out / p) for a, p in zip(answers, paths)]
        jobs += [(a, render or submit(s, a), None) for a, render in baselines[i].values()]
        jobs = [(a, job.result() if isinstance(job, Future) else job, p) for a, job, p in jobs]
        parts = pool.submit(judge, s.image, s.language, extract_code(s.answer, s.language)[0], jobs).result()
        of = {a: {**p, "render": path if p["status"] == "ok" else None} for a, p, path in zip(answers, parts, paths)}
        return ([{"id": s.id, "mode": mode, "k": k, **of[row["response"]], "finish": row.get("finish"),
                  "tokens": row.get("tokens"), "response": row["response"]} for mode, k, row in asked],
                [{"id": s.id, "mode": name, "k": 0, **p} for name, p in zip(baselines[i], parts[len(answers):])])

    cache = (256 << 20) // max(3 * s.width * s.height for s in samples) + 1  # renders kept for equal programs: 256 MiB
    with Renderer(workers, timeout, unsafe, cache) as renderer, \
            ProcessPoolExecutor(renderer.workers, get_context("spawn"), start_scorer) as pool, \
            ThreadPoolExecutor(4 * renderer.workers) as threads:  # the threads bound how many renders wait in memory
        try:
            for mine, base in tqdm(threads.map(one, range(len(samples))), "score", len(samples), unit="item", mininterval=1):
                rows += mine
                compared += base
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    if any(row["status"] == "infra" for row in compared):
        mark = None  # a renderer that failed today must not stay in the cache
    for i, s in enumerate(samples[:GALLERY]):
        (out / "renders" / f"{i:05d}-target.png").write_bytes(data.png(np.asarray(data.open_image(s))))
    write_lines(out / "items.jsonl", [
        {"id": s.id, "language": s.language, "task": s.task, "source": s.source, "prompt": s.prompt, "answer": s.answer,
         "target": f"renders/{i:05d}-target.png" if i < GALLERY else None} for i, s in enumerate(samples)])
    write_lines(out / "baselines.jsonl", [{"fingerprint": mark}, *compared])
    write_lines(out / "scores.jsonl", rows)
    return rows, renderer.confinement


# ------------------------------------------------------------------------------------------------------------- statistics

def item_means(rows):
    """Rows of scores.jsonl or baselines.jsonl -> {mode: {id: {metric: mean over the item's answers}}}.

    Left out: failures of the renderer, and a metric that does not exist (code similarity without a reference).
    `X_valid` is the mean of X over the answers that ran.
    """
    cells, means = defaultdict(lambda: defaultdict(list)), defaultdict(dict)
    for row in rows:
        if row["status"] == "infra":
            continue
        cell = cells[row["mode"], row["id"]]
        for metric in METRICS:
            if row[metric] is not None:
                cell[metric].append(row[metric])
        if row["execution"]:
            cell["visual_valid"].append(row["visual"])
            cell["outside_valid"].append(row["outside"])
        if isinstance(row.get("tokens"), (int, float)):
            cell["tokens"].append(row["tokens"])
            cell["truncated"].append(row["finish"] == "length")
    for (mode, id_), metrics in cells.items():
        means[mode][id_] = {m: sum(v) / len(v) for m, v in metrics.items()}
    return means


def mean_se(values):
    """Mean and standard error of a list of numbers; the error of a single one is NaN."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def groups_of(items):
    """{(kind, name): set of ids}: all, then per language, source and task. items: {id: object of items.jsonl}.

    Not per source where there are more than MOST_SOURCES (real data names a file for each image).
    """
    groups = {("all", "all"): set(items)}
    for kind in ("language", "source", "task"):
        if len({item[kind] for item in items.values()}) > MOST_SOURCES:
            continue
        for id_, item in items.items():
            groups.setdefault((kind, item[kind]), set()).add(id_)
    return groups


def summarise(means, items):
    """{(kind, name): {mode or baseline: {"n": items, metric: (mean, standard error)}}}."""
    table = {}
    for group, ids in groups_of(items).items():
        table[group] = {}
        for mode, of in means.items():
            if here := [of[i] for i in items if i in ids and i in of]:
                metrics = dict.fromkeys(m for row in here for m in row)
                table[group][mode] = {"n": len(here), **{m: mean_se([row[m] for row in here if m in row]) for m in metrics}}
    return table


def paired(a, b, ids, draws=2000):
    """Differences b - a of two {id: {metric: value}} over the `ids` that both have.

    Returns {metric: (mean, standard error, 2.5 % and 97.5 % quantile of a paired bootstrap of the mean)}.
    """
    shared = [i for i in ids if i in a and i in b]
    if not shared:
        return {}
    weight = np.random.default_rng(0).multinomial(len(shared), [1 / len(shared)] * len(shared), draws) / len(shared)  # [draws, n]
    gains = {m: np.array([b[i][m] - a[i][m] for i in shared]) for m in SHOWN}  # each [n]
    return {m: (*mean_se(d), *np.quantile(weight @ d, (0.025, 0.975)).tolist()) for m, d in gains.items()}


def load_runs(paths):
    """Scored OUT directories -> list of dicts, restricted to the items that all of them answered (and that is said)."""
    runs = []
    for path in map(Path, paths):
        if absent := [f for f in ("scores.json", "scores.jsonl", "items.jsonl", "baselines.jsonl") if not (path / f).is_file()]:
            raise SystemExit(f"error: {path} is not a scored run (no {', '.join(absent)}). Make one with "
                             f"`python eval.py --predictions FILE --data DIR --out {path}` or with --model.")
        scores = json.loads((path / "scores.json").read_text())
        runs.append({"dir": path, "label": scores["label"], "counts": scores["counts"], "rows": read_lines(path / "scores.jsonl"),
                     "items": {item["id"]: item for item in read_lines(path / "items.jsonl")}})
    answered = [{row["id"] for row in run["rows"]} for run in runs]
    shared, left_out = set.intersection(*answered), set.union(*answered) - set.intersection(*answered)
    if not shared:
        raise SystemExit(f"error: no item was answered in all of {', '.join(map(str, paths))}: they are not of the same data.")
    if left_out:
        print(f"compared on the {len(shared)} items that all runs answered; {len(left_out)} others are left out")
    labels, compared = Counter(run["label"] for run in runs), read_lines(runs[0]["dir"] / "baselines.jsonl")[1:]
    for run in runs:
        run["label"] += f" ({run['dir']})" if labels[run["label"]] > 1 else ""
        run["items"] = {i: item for i, item in run["items"].items() if i in shared}
        run["means"] = item_means(row for row in run["rows"] + compared if row["id"] in shared)
        run["table"] = summarise(run["means"], run["items"])
    return runs


# ----------------------------------------------------------------------------------------------------------------- tables

def cell(column, metric):
    """".931±.004" of one column of `summarise`, "-" where it has no such number."""
    if metric not in (column or ()):
        return "-"
    mean, se = column[metric]
    return re.sub(r"\b0\.", ".", f"{mean:.3f}" + (f"±{se:.3f}" if se == se else ""))


def score_table(runs, kind, metrics=SHOWN):
    """(head, rows of strings): for all items and per `kind` a line for each run, then for each baseline."""
    rows, table = [], runs[0]["table"]
    for group in (g for g in table if g[0] in ("all", kind)):
        lines = [(run["label"], [run["table"][group].get(mode) for mode in MODES]) for run in runs]
        lines += [(name, [table[group][b], None]) for b, name in BASELINES.items() if b in table[group]]
        rows += [[group[1] if i == 0 else "", label, str(max((c["n"] for c in columns if c), default=0)),
                  *(cell(c, m) for m in metrics for c in columns)] for i, (label, columns) in enumerate(lines)]
    return [kind, "answers of", "items", *(m if mode == "greedy" else f"{m} T=1" for m in metrics for mode in MODES)], rows


def difference_table(runs):
    """(head, rows) of the last run minus each other, over all items and per source; * marks more than two errors."""
    groups, rows = {g: ids for g, ids in groups_of(runs[0]["items"]).items() if g[0] in ("all", "source")}, []
    for other in runs[:-1]:
        first = f"{runs[-1]['label']} - {other['label']}"
        for mode, name in MODES.items():
            gains = [paired(other["means"][mode], runs[-1]["means"][mode], ids) for ids in groups.values()]
            for metric in SHOWN if gains[0] else ():
                cells = ["-" if not g else "{:+.3f}±{:.3f}{} [{:+.3f}, {:+.3f}]".format(
                    *g[metric][:2], "*" if abs(g[metric][0]) > 2 * g[metric][1] else " ", *g[metric][2:]) for g in gains]
                rows.append([first, f"{metric} {name}", *(re.sub(r"\b0\.", ".", c) for c in cells)])
                first = ""
    return ["difference", "metric", *(g[1] for g in groups)], rows


def print_table(head, rows):
    widths = [max(len(r[c]) for r in (head, *rows)) for c in range(len(head))]
    for row in (head, *rows):
        if row[0] and row is not head:
            print("-" * (sum(widths) + 2 * len(widths) - 2))
        print("  ".join(v.ljust(w) if c < 2 else v.rjust(w) for c, (v, w) in enumerate(zip(row, widths))).rstrip())


def html_table(head, rows, strong=None):
    """Escaped table; rows whose second cell is `strong` stand out, a filled first cell begins a group."""
    body = "".join(f'<tr class="{"group " if row[0] else ""}{"strong" if row[1] == strong else ""}">'
                   + "".join(f"<td>{html.escape(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f'<div class=scroll><table><tr>{"".join(f"<th>{html.escape(h)}</th>" for h in head)}</tr>{body}</table></div>'


# ----------------------------------------------------------------------------------------------------------------- report

def bars(runs, metric):
    """Inline SVG: per group (all, languages) two bars a run, greedy solid and T=1 light, errors, baselines dashed."""
    groups = [g for g in runs[0]["table"] if g[0] in ("all", "language")]
    step, y = 30 * len(runs) + 26, lambda v: 146 - 138 * max(0.0, min(1.0, v))
    parts = [f'<line x1=26 x2={26 + step * len(groups)} y1={y(v):.1f} y2={y(v):.1f} class=grid /><text x=20 y={y(v) + 4:.1f} '
             f'text-anchor=end>{v:g}</text>' for v in (0, 0.5, 1)]
    for i, group in enumerate(groups):
        left, columns = 34 + i * step, runs[0]["table"][group]
        for r, run in enumerate(runs):
            for m, mode in enumerate(MODES):
                if metric in (column := run["table"][group].get(mode, {})):
                    (mean, se), x = column[metric], left + r * 30 + m * 14
                    se = se if se == se else 0.0
                    parts.append(f'<rect x={x} y={y(mean):.1f} width=12 height={y(0) - y(mean):.1f} class="c{r % 6} m{m}"><title>'
                                 f'{html.escape(run["label"])}, {MODES[mode]}: {cell(column, metric)}</title></rect>'
                                 f'<line x1={x + 6} x2={x + 6} y1={y(mean - se):.1f} y2={y(mean + se):.1f} class=error />')
        for name in ("blank", "other"):
            if metric in columns.get(name, ()) and metric != "execution":
                v = y(columns[name][metric][0])
                parts.append(f'<line x1={left - 4} x2={left + step - 20} y1={v:.1f} y2={v:.1f} class="base {name}"><title>'
                             f'{BASELINES[name]}: {cell(columns[name], metric)}</title></line>')
        parts.append(f'<text x={left + step / 2 - 14} y=162 text-anchor=middle>{html.escape(group[1])}</text>')
    return f'<figure><h4>{metric}</h4><svg viewBox="0 0 {30 + step * len(groups)} 168">{"".join(parts)}</svg></figure>'


def curves(directories):
    """Inline SVG of training runs: a small panel per key of metrics.jsonl, running mean over seconds of training."""
    figures = []
    for r, directory in enumerate(map(Path, directories)):
        if not (directory / "metrics.jsonl").is_file():
            raise SystemExit(f"error: {directory} has no metrics.jsonl; --curves wants directories of sft.py or virl.py.")
        lines = read_lines(directory / "metrics.jsonl")
        for key in ("loss", "held_out_loss", "reward", "execution", "visual", "entropy", "length", "kept"):
            xy = np.array([(row["seconds"], row[key]) for row in lines if row.get(key) is not None and "seconds" in row], dtype=float)
            if len(xy) < 2:
                continue
            window = max(1, len(xy) // 40)
            smooth = np.convolve(np.pad(xy[:, 1], (window - 1, 0), "edge"), np.ones(window) / window, "valid")  # [points]
            at = np.unique(np.linspace(0, len(xy) - 1, 240).astype(int))
            x = 4 + 222 * (xy[at, 0] - xy[0, 0]) / max(1e-9, np.ptp(xy[:, 0]))
            y = 96 - 88 * (smooth[at] - smooth.min()) / max(1e-9, np.ptp(smooth))
            figures.append(f'<figure class=small><h4>{html.escape(directory.name)}: {key}</h4><svg viewBox="0 0 230 116"><line x1=4 x2=226 y1=96 '
                           f'y2=96 class=grid /><polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))}" class="c{r % 6}"/><text x=4 '
                           f'y=112>{smooth.min():.3g} to {smooth.max():.3g}</text><text x=226 y=112 text-anchor=end>{xy[-1, 0]:.0f} s</text></svg></figure>')
    return "".join(figures)


def thumbnail(path, side=224):
    """Data URI of an image file, at most `side` pixels large, so that a report of 2,000 items can still be mailed."""
    raw, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(raw)) as image:
        if max(image.size) > side:
            image.thumbnail((side, side), Image.LANCZOS)
            image.save(buffer := io.BytesIO(), "WEBP", quality=80)
            raw, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def gallery(runs):
    """What the report's script needs, as JSON text that cannot end its <script> element."""
    answers, items = [{(row["id"], row["mode"]): row for row in run["rows"] if row["k"] == 0} for run in runs], []
    for id_, item in runs[0]["items"].items():
        if item["target"]:
            shown = {mode: [(row := a.get((id_, mode))) and {
                "v": [row[m] if row[m] is None else round(row[m], 3) for m in METRICS], "s": row["status"], "m": row["message"],
                "c": row["response"], "i": row["render"] and thumbnail(run["dir"] / row["render"])}
                for run, a in zip(runs, answers)] for mode in MODES}
            items.append({"id": id_, "l": item["language"], "t": item["task"], "o": item["source"], "p": item["prompt"],
                          "a": item["answer"], "g": thumbnail(runs[0]["dir"] / item["target"]), "r": shown})
    return json.dumps({"runs": [r["label"] for r in runs], "metrics": METRICS, "modes": MODES, "items": items}).replace("<", "\\u003c")


def write_report(runs, path, note="", training=()):
    """One HTML file that needs nothing else. Text of models and data is escaped, or set as text by the script; the
    page's content policy forbids every other script and every request."""
    n, last, esc = len(runs[0]["items"]), runs[-1], html.escape
    shown = sum(bool(item["target"]) for item in runs[0]["items"].values())
    legend = "".join(f'<span><i class="c{r % 6}"></i>{esc(run["label"])}</span>' for r, run in enumerate(runs))
    tiles = ""
    for metric, mode in (("reward", "t1"), ("execution", "t1"), ("reward", "greedy"), ("outside", "t1")):
        if metric in (column := last["table"]["all", "all"].get(mode, {})):
            gain = paired(runs[-2]["means"][mode], last["means"][mode], last["items"]).get(metric) if len(runs) > 1 else None
            delta = f"{gain[0]:+.3f} ± {gain[1]:.3f} against {runs[-2]['label']}" if gain else f"± {column[metric][1]:.3f}"
            tiles += f"<div><small>{metric}, {MODES[mode]}</small><b>{column[metric][0]:.3f}</b><small>{esc(delta)}</small></div>"
    sections = {
        "": "".join(f"<p class=note>{esc(p.strip())}</p>" for p in note.split("\n\n") if p.strip()),
        "At a glance": f'<div class=tiles>{tiles}</div><p class=legend>{legend}<span>solid: greedy, light: T=1</span><span><b></b>blank '
                       f'canvas</span><span><b class=other></b>random other sample</span></p><div class=figures>'
                       f'{"".join(bars(runs, m) for m in SHOWN)}</div>',
        f"{last['label']} against the others": len(runs) > 1 and html_table(*difference_table(runs)) + "<p>Paired over the same items: mean ± "
                                               "standard error, * beyond two of them, [95 % bootstrap interval].</p>",
        **{f"By {kind}": html_table(*score_table(runs, kind), last["label"]) for kind in ("language", "source", "task")
           if any(g[0] == kind for g in last["table"])},
        "How to read this": "<p>execution: share of programs that render. visual and reward: what ViRL trains on. outside: a visual metric that "
                            "shares no code with the reward (masked SSIM, edges, palette, coarse layout). Columns without T=1 are greedy.</p><ul>"
                            + "".join(f"<li>{esc(run['label'])}: {esc(run['counts'])}</li>" for run in runs) + "</ul>",
        "Training": training and f"<div class=figures>{curves(training)}</div>",
        "Gallery": f"<p>{f'The first {shown} of {n} items. ' if shown < n else ''}The target, then for each run its render and the difference to the "
                   "target (white: none).</p><div id=controls></div><div id=cards></div>"}
    body = "".join(f"<section>{f'<h2>{esc(title)}</h2>' if title else ''}{content}</section>" for title, content in sections.items() if content)
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    write_text(path, f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'">
<title>nanoVinci: evaluation</title><style>{STYLE}</style><main><h1>nanoVinci: from image to code</h1><p class=lead>{n} held-out images,
{len(runs)} run{"s" * (len(runs) > 1)}, greedy answers and answers sampled at temperature 1. Means ± standard error over images; a program that
fails counts 0.</p>{body}</main><script type="application/json" id=data>{gallery(runs)}</script><script>{SCRIPT}</script></html>""")


def write_sheet(runs, path, columns=16, side=64):
    """PNG for a quick look: targets in the first row, below them each run's first answer at temperature 1 (else greedy)."""
    shown = [item for item in runs[0]["items"].values() if item["target"]]
    shown = [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, columns).astype(int))]
    answers = [{row["id"]: row for mode in MODES for row in run["rows"] if row["mode"] == mode and row["k"] == 0} for run in runs]
    rows = [("target", [runs[0]["dir"] / item["target"] for item in shown])]
    rows += [(run["label"], [(row := a.get(item["id"])) and row["render"] and run["dir"] / row["render"] for item in shown])
             for run, a in zip(runs, answers)]
    sheet = Image.new("RGB", (110 + (side + 8) * len(shown), (side + 8) * len(rows)), "#e3e7ee")
    for y, (label, files) in enumerate(rows):
        ImageDraw.Draw(sheet).text((8, y * (side + 8) + side // 2), label, fill="black")
        for x, file in enumerate(files):
            picture = Image.open(file).convert("RGB") if file else Image.new("RGB", (side, side), "#9aa5b8")  # grey: no image
            picture.thumbnail((side, side))
            sheet.paste(picture, (110 + x * (side + 8), 4 + y * (side + 8)))
    sheet.save(path)


STYLE = """
:root{--ink:#1b2330;--soft:#647084;--line:#e3e7ee;--page:#f5f6f9;--card:#fff;--k0:#9aa5b8;--k1:#e0a238;--k2:#2e6fdb;--k3:#3aa17e;--k4:#b05cc9;--k5:#d9534f}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#98a3b5;--line:#2c3441;--page:#12161c;--card:#1a2029;--k2:#5b93f0}}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}main{max-width:1240px;margin:0 auto;padding:36px 24px}
h1{font-size:30px;letter-spacing:-.02em;margin:0}h2{font-size:18px;margin:0 0 12px}h4{font-size:13px;margin:0 0 4px}.lead{color:var(--soft);margin:4px 0 24px}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:20px 24px;margin:0 0 20px}section p{color:var(--soft);margin:8px 0}
p.note{color:var(--ink);white-space:pre-line;max-width:78ch}ul{color:var(--soft);padding-left:20px;margin:0}.scroll{overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin-bottom:14px}.tiles div{background:var(--page);border-radius:10px;padding:12px 16px}
.tiles b{display:block;font-size:28px;letter-spacing:-.02em;line-height:1.25}small{color:var(--soft);font-size:12.5px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;width:100%}th,td{text-align:right;padding:4px 9px;white-space:pre}
th{color:var(--soft);font-weight:500;border-bottom:1px solid var(--line)}th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}td:first-child{font-weight:600}
.group td{border-top:1px solid var(--line)}.strong td:nth-child(n+2){font-weight:600;color:var(--k2)}
.legend span{margin-right:18px;white-space:nowrap}.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
.legend b{display:inline-block;width:18px;margin:0 6px 4px 0;border-top:2px dashed var(--soft)}.legend b.other{border-color:var(--k5)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(430px,100%),1fr));gap:18px 34px}.figures:has(.small){grid-template-columns:repeat(auto-fill,minmax(220px,1fr))}
figure{margin:0}svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}.grid{stroke:var(--line)}.error{stroke:var(--ink);stroke-width:1.3}
.base{stroke:var(--soft);stroke-width:1.6;stroke-dasharray:5 3}.base.other{stroke:var(--k5)}.m1{opacity:.5}polyline{fill:none;stroke:var(--c);stroke-width:1.8}rect{fill:var(--c)}i{background:var(--c)}
.c0{--c:var(--k0)}.c1{--c:var(--k1)}.c2{--c:var(--k2)}.c3{--c:var(--k3)}.c4{--c:var(--k4)}.c5{--c:var(--k5)}
#controls{display:flex;flex-wrap:wrap;gap:8px;position:sticky;top:0;background:var(--card);padding:10px 0;z-index:2;border-bottom:1px solid var(--line)}
select,input{font:13px system-ui,sans-serif;padding:5px 8px;border:1px solid var(--line);border-radius:8px;background:var(--page);color:var(--ink);max-width:170px}#controls span{color:var(--soft);align-self:center}
.card{border-bottom:1px solid var(--line);padding:14px 0;content-visibility:auto;contain-intrinsic-size:auto 230px}.card header{font-size:13px;color:var(--soft);margin-bottom:8px}
.card header b{color:var(--ink);margin-right:10px}.strip{display:flex;flex-wrap:wrap;gap:12px 26px}.strip small{display:block;max-width:280px;overflow-wrap:anywhere}.pair{display:flex;gap:6px;margin-bottom:4px}
.pic{position:relative;width:136px;height:136px;border:1px solid var(--line);border-radius:8px;overflow:hidden;background:#fff;box-sizing:border-box}.pic.diff{border-color:#1c1811;background:#000;isolation:isolate;filter:invert(1)}
.pic img{position:absolute;inset:0;width:100%;height:100%;object-fit:contain;background:#fff}.pic img.tiny{image-rendering:pixelated}.diff img+img{mix-blend-mode:difference}
.none{display:grid;place-items:center;background:var(--page);color:var(--k5);font-size:13px}summary{cursor:pointer;font-size:13px;color:var(--soft);margin-top:8px}
.codes{display:grid;grid-template-columns:repeat(auto-fit,minmax(250px,1fr));gap:12px;margin-top:8px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:12px/1.45 ui-monospace,monospace;background:var(--page);border-radius:8px;padding:10px;margin:0 0 8px;max-height:320px;overflow:auto}
"""

# Model output reaches the page as textContent only, and pictures as data URIs that we encoded ourselves.
SCRIPT = """
'use strict';
const D = JSON.parse(document.getElementById('data').textContent), cards = document.getElementById('cards');
const make = (tag, props, ...kids) => { const e = Object.assign(document.createElement(tag), props); e.append(...kids); return e; };
const select = (title, options) => make('select', {title, onchange: show}, ...options.map(([value, text]) => make('option', {value, textContent: text})));
const every = (title, values) => select(title, [['', 'every ' + title], ...[...new Set(values)].sort().map(v => [v, v])]);
const ui = {
  mode: select('answers', Object.entries(D.modes).filter(([m]) => D.items.some(i => i.r[m].some(Boolean)))),
  run: select('run', D.runs.map((r, k) => [k, r]).reverse()), metric: select('metric', D.metrics.map((m, k) => [k, m])),
  order: select('order', [['worst', 'worst first'], ['best', 'best first'], ['gain', 'gained most on the first run'], ['loss', 'lost most to the first run'], ['data', 'as in the data']]),
  l: every('language', D.items.map(i => i.l)), t: every('task', D.items.map(i => i.t)), o: every('source', D.items.map(i => i.o)),
  s: every('status', D.items.flatMap(i => Object.values(i.r).flat().filter(Boolean).map(a => a.s))),
  find: make('input', {type: 'search', placeholder: 'find in id and code', oninput: show}), count: make('span', {})};
document.getElementById('controls').append(...Object.values(ui));
const answers = item => item.r[ui.mode.value] ?? [], value = (item, run) => answers(item)[run]?.v[ui.metric.value] ?? null;
const number = (a, metric, digits = 3) => a.v[D.metrics.indexOf(metric)]?.toFixed(digits) ?? '-';
const picture = src => make('img', {src, alt: '', decoding: 'async', onload() { if (this.naturalWidth < 110) this.className = 'tiny'; }});
const block = (title, ...texts) => make('div', {}, make('h4', {textContent: title}), ...texts.map(text => make('pre', {textContent: text})));
const answer = (item, a, k) => make('div', {}, make('h4', {textContent: D.runs[k]}), ...(!a ? [make('small', {textContent: 'no answer'})] : [
  a.i ? make('div', {className: 'pair'}, make('div', {className: 'pic'}, picture(a.i)), make('div', {className: 'pic diff'}, picture(item.g), picture(a.i)))
      : make('div', {className: 'pic none', textContent: a.s}),
  make('small', {textContent: ['reward', 'visual', 'outside'].map(m => m + ' ' + number(a, m, 2)).join(', ')}), make('small', {textContent: a.m})]));
function card(item) {
  const code = make('details', {ontoggle() { if (!this.querySelector('.codes')) this.append(make('div', {className: 'codes'},
    block('instruction', item.p), ...(item.a ? [block('reference', item.a)] : []),
    ...answers(item).flatMap((a, k) => a ? [block(D.runs[k], a.c, D.metrics.map(m => m + ' ' + number(a, m)).join('\\n'))] : []))); }},
    make('summary', {textContent: 'code and parts'}));
  return make('article', {className: 'card'}, make('header', {}, make('b', {textContent: item.id}), [item.l, item.t, item.o].join(' \\u00b7 ')),
    make('div', {className: 'strip'}, make('div', {}, make('h4', {textContent: 'target'}), make('div', {className: 'pic'}, picture(item.g))),
      ...answers(item).map((a, k) => answer(item, a, k))), code);
}
let list = [], next = 0;
const end = make('div', {}), more = () => { for (const item of list.slice(next, next += 24)) end.before(card(item)); };
new IntersectionObserver(seen => { if (seen[0].isIntersecting) more(); }, {rootMargin: '900px'}).observe(end);
function show() {
  const run = +ui.run.value, order = ui.order.value, find = ui.find.value.toLowerCase(), sign = {best: -1, gain: -1}[order] ?? 1;
  const key = i => value(i, run) === null ? null : value(i, run) - (order == 'gain' || order == 'loss' ? value(i, 0) : 0);
  list = D.items.filter(i => ['l', 't', 'o'].every(k => !ui[k].value || i[k] == ui[k].value) && (!ui.s.value || answers(i)[run]?.s == ui.s.value)
    && (!find || [i.id, ...answers(i).map(a => a?.c)].join().toLowerCase().includes(find)));
  if (order != 'data') list = list.map(i => [i, key(i)]).sort((a, b) => (a[1] === null) - (b[1] === null) || sign * (a[1] - b[1])).map(pair => pair[0]);
  ui.count.textContent = list.length + ' of ' + D.items.length;
  cards.replaceChildren(end); next = 0; more();
}
show();
"""


# -------------------------------------------------------------------------------------------------------------- one image

def one_image(args):
    """Image -> code on stdout, OUT/answer.*, OUT/render.png and OUT/comparison.png (target, render, difference)."""
    out = Path(args.out or "out/image")
    try:
        sample = data.Sample(f"Write {data.NAMES[args.language]} code that draws this image.", "", Path(args.image).read_bytes())
        target = data.open_image(sample)
        policy = load_model(args.model)
        from generate import generate
        rollout = generate(policy, [policy.encode(sample.prompt, target)], 1, args.max_new_tokens, 0.0)[0][0]
    except ValueError as e:
        raise SystemExit(f"error: {args.image}: {e}.") from None
    code, _ = extract_code(rollout.text, args.language)
    print(rollout.text if code is None else code)
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"answer.{ {'python': 'py', 'latex': 'tex'}.get(args.language, args.language)}"
    write_text(file, rollout.text if code is None else code)
    if code is None:
        raise SystemExit(f"error: the answer holds no single ```{args.language} block ({len(rollout.token_ids)} tokens, ended by "
                         f"{'the --max-new-tokens limit' if rollout.finish == 'length' else 'the model'}); it is in {file}.")
    with Renderer(1, args.render_timeout, args.unsafe_render) as renderer:
        render = renderer.submit(args.language, code, target.size).result()
    if render.image is None:
        raise SystemExit(f"error: the program does not render ({render.status}: {render.message}); it is in {file}.")
    Image.fromarray(render.image).save(out / "render.png")
    target = np.asarray(target)
    side = max(*target.shape[:2], *render.image.shape[:2])
    a, b = (letterbox(picture, side).astype(int) for picture in (target, render.image))
    Image.fromarray(np.concatenate([a, b, 255 - abs(a - b)], 1).astype(np.uint8)).save(out / "comparison.png")
    side = working_side(target)
    print(f"wrote {file}, render.png and comparison.png beside it; outside visual metric "
          f"{outside_metrics(look(target, side), look(render.image, side))['outside']:.3f}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------------- main

def held_out(path, limit):
    """Usable Samples of `path`, at most `limit` drawn over all of them; says how many are set aside, and why."""
    samples, aside, seen = [], Counter(), set()
    for s in data.read_samples(path):
        why = "no id" if not s.id else "duplicate id" if s.id in seen else "unknown language" if s.language not in data.LANGUAGES else ""
        try:
            s.width, s.height = data.open_image(s).size
        except ValueError:
            why = why or "unreadable image"
        seen.add(s.id)
        if why:
            aside[why] += 1
        else:
            samples.append(s)
    if aside and os.environ.get("RANK", "0") == "0":
        print(f"{path}: {sum(aside.values())} samples set aside ({', '.join(f'{n} {why}' for why, n in aside.items())})")
    if not samples:
        raise SystemExit(f"error: {path} has no usable sample. Where ids or languages are missing, `python data.py import` adds them.")
    if 0 < limit < len(samples):
        samples = [samples[i] for i in sorted(data.epoch_order(len(samples), 0, "limit")[:limit])]
    return samples


def score_file(args, samples, file):
    """Score one file of predictions into OUT, then report."""
    out, started = Path(args.out), time.perf_counter()
    found, aside = read_predictions([file], {s.id for s in samples})
    if not found:
        raise SystemExit(f"error: {file} holds no prediction for {args.data} ({', '.join(f'{n} {w}' for w, n in aside.items()) or 'it is empty'})"
                         '. A line is {"id": ..., "mode": "greedy" or "t1", "k": 0, "response": ...}.')
    absent = {} if args.unsafe_render else {k: why for k, why in available().items() if why and k in {s.language for s in samples}}
    for language, why in absent.items():
        print(f"{language} cannot be rendered here ({why}): its {sum(s.language == language for s in samples)} items are left out")
    samples = [s for s in samples if s.language not in absent]
    found = {key: row for key, row in found.items() if key[0] in {s.id for s in samples}}
    if not found:
        raise SystemExit(f"error: no language of {args.data} can be rendered here.")
    try:
        rows, confinement = score_predictions(samples, found, out, args.workers, args.render_timeout, args.unsafe_render)
    except RuntimeError as e:  # no confinement, or a scoring process was killed for memory
        raise SystemExit(f"error: {e}") from None
    status = Counter(row["status"] for row in rows)
    aside["items without prediction, in no mean"] = len(samples) - len({key[0] for key in found})
    counts = (f"{len(found)} predictions for {len(samples)} items: {', '.join(f'{n} {s}' for s, n in status.most_common())}"
              + "".join(f"; {n} {what}" for what, n in aside.items() if n))
    if status["infra"] == len(rows):
        raise SystemExit(f"error: the renderer failed on every prediction ({rows[0]['message']}). `python render.py --doctor` says what is missing.")
    scores = {"label": args.label or out.name, "model": args.model, "data": args.data, "counts": counts, "status": status, "aside": aside,
              "confinement": confinement, "seconds": round(time.perf_counter() - started, 1)}
    write_text(out / "scores.json", json.dumps(scores))
    runs = load_runs([out])
    scores["groups"] = {"=".join(group): columns for group, columns in runs[0]["table"].items()}
    write_text(out / "scores.json", re.sub(r"\bNaN\b", "null", json.dumps(scores, indent=1)))
    print(f"{counts}; scored in {scores['seconds']:.0f} s" + (f"; the {status['infra']} infra failures are in no mean" if status["infra"] else ""))
    report(runs, args)


def report(runs, args):
    """Write OUT/report.html (for several runs also comparison.json and results.png), print the closing tables."""
    out = Path(args.out)
    write_report(runs, out / "report.html", Path(args.note).read_text(errors="replace") if args.note else "", args.curves)
    print()
    print_table(*score_table(runs, "language", SHOWN[:3]))
    if len(runs) > 1:
        write_sheet(runs, out / "results.png")
        head, rows = difference_table(runs)
        write_text(out / "comparison.json", json.dumps({"head": head, "rows": rows}, indent=1))
        print()
        print_table(head, rows)
        print("paired over the same items: mean ± standard error, * beyond two of them, [95 % bootstrap interval]")
    print(f"\nwrote {out / 'report.html'}" + (f" and {out / 'results.png'}" if len(runs) > 1 else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="model directory or hub id that answers")
    what.add_argument("--predictions", help="predictions.jsonl to score; no model needed")
    what.add_argument("--compare", nargs="+", metavar="OUT", help="scored OUT directories, in the order of the columns")
    parser.add_argument("--data", help="held-out samples: directory of parquet files, or one file")
    parser.add_argument("--out", help="directory to write (with --image default: out/image)")
    parser.add_argument("--label", help="the run's name in tables (default: the name of OUT)")
    parser.add_argument("--limit", type=int, default=0, help="items at most, drawn over all of them (0: all)")
    parser.add_argument("--samples", type=int, default=4, help="answers per item at temperature 1 (0: greedy only)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw them from the likeliest tokens that together reach this probability")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="tokens per answer at most")
    parser.add_argument("--slots", type=int, default=128, help="answers decoded together on one process")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampled answers")
    parser.add_argument("--resume", action="store_true", help="go on with the predictions that OUT already holds")
    parser.add_argument("--workers", type=int, default=None, help="renderer and scorer processes (default: one per core)")
    parser.add_argument("--render-timeout", type=float, default=10.0, help="seconds per program")
    parser.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    parser.add_argument("--note", help="text file shown at the top of the report")
    parser.add_argument("--curves", nargs="+", default=(), metavar="DIR", help="training directories whose metrics.jsonl the report draws")
    parser.add_argument("--image", help="with --model: answer this one image")
    parser.add_argument("--language", choices=data.LANGUAGES, help="with --image: the language to write")
    args = parser.parse_args()
    if args.image and not (args.model and args.language):
        parser.error("--image needs --model and --language")
    if not args.image and not (args.out and (args.compare or args.data)):
        parser.error("--compare needs --out; --model and --predictions need --data and --out")
    if min(args.samples, args.limit) < 0 or min(args.max_new_tokens, args.slots) < 1 or not 0 < args.top_p <= 1:
        parser.error("--samples and --limit cannot be negative; --max-new-tokens and --slots are at least 1; --top-p lies above 0 and is at most 1")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def stop(number, frame):
        if rank == 0:
            print("\ninterrupted" + (f": finished answers are in {args.out}; the same command with --resume goes on" if args.model and args.data else ""))
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if args.image:
        return one_image(args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.compare:
        return report(load_runs(args.compare), args)
    samples = held_out(args.data, args.limit)
    if args.predictions:
        return score_file(args, samples, Path(args.predictions))
    if rank == 0:
        earlier = [f for f in (out / "predictions.jsonl", out / "predictions.rank0.jsonl") if f.exists() and f.stat().st_size]
        if earlier and not args.resume:
            raise SystemExit(f"error: {earlier[0]} exists: --resume goes on with it; or give another --out.")
        before = json.loads((out / "run.json").read_text()) if earlier and (out / "run.json").exists() else vars(args)
        if changed := [f"{k} was {before[k]}" for k in ("model", "data", "top_p", "max_new_tokens", "seed") if before[k] != vars(args)[k]]:
            raise SystemExit(f"error: {earlier[0]} was made otherwise ({', '.join(changed)}): give another --out.")
        write_text(out / "run.json", json.dumps(vars(args), indent=1))
    predict(lambda: load_model(args.model), samples, out, args.samples, args.max_new_tokens, args.seed, args.slots, rank, world, args.top_p)
    if rank == 0:
        score_file(args, samples, out / "predictions.jsonl")


if __name__ == "__main__":
    try:
        main()
    except OSError as e:  # no permission, disk full, no such file
        sys.exit(f"error: {e.strerror or e}: {e.filename or ''}")
