"""Evaluation: predictions.jsonl -> renders -> scores -> report.html; differences between runs; one image -> code.

Two halves with files between them: generating needs a model, scoring needs neither model nor torch and takes
anyone's predictions.

    python eval.py --model out/virl --data out/data/test --out out/eval/virl      # generate, then score
    torchrun --nproc_per_node=8 eval.py --model DIR --data DIR --out OUT          # rank r takes items r::8
    python eval.py --predictions FILE --data out/data/test --out OUT              # score only
    python eval.py --compare out/eval/sft out/eval/control out/eval/virl --out out
    python eval.py --model out/virl --benchmark chartmimic --data DIR --out OUT   # a public benchmark (benchmarks.py)
    python eval.py --model out/virl --data out/data/test --out OUT --best-of 8 --refine 2    # search.py
    python eval.py --model out/virl --image shot.png                              # one image, likewise

predictions.jsonl holds one object a line: `id` (of the sample), `mode` ("greedy" | "t1" = temperature 1 | "bestN",
"bestN+refineK" = chosen by search.py), `k` (number of the answer at temperature 1, from 0), `response` (the whole answer, fence included), `finish` ("stop" | "length" |
"unusable" = could not be asked), `tokens` (length). Only id, mode and response are needed.

OUT gets items.jsonl (what was asked), scores.jsonl (a line per prediction: reward parts, outside metrics, status,
message), baselines.jsonl (the same for the baselines), scores.json (means, standard errors, counts), renders/*.png,
report.html.

How to read the numbers. A program that fails counts 0 in every mean; a failure of our own renderer (`infra`) is
excluded and counted. Standard errors are over items: the answers to an item are averaged first. `reward` and `visual`
are what ViRL trains on; the outside metrics share no code with reward.py, so gains are not graded by their own
teacher. Baselines: a blank canvas, a random other sample of the same language and domain, and for the refine task the defective
code as given.

Where a sample has a reference answer, domain.py adds the metrics of its domain as their benchmarks define them (`domain` in
scores.jsonl, {metric: value, null where it cannot be computed}): ChartMimic, Design2Code, UniSVG, Image2Struct, chemistry. The
reference is rendered once per item for that. `--slow-metrics` adds UniSVG's and Image2Struct's, `--encoders clip=NAME lpips=alex
...` those that need weights. For the refine task the report tells what the answers gained over the defective code.
"""
import argparse
import functools
import hashlib
import json
import math
import os
import random
import re
import signal
import time
from collections import Counter, defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np
from PIL import Image
from tqdm import tqdm

import benchmarks
import data
import domain
from metrics import OUTSIDE_PARTS, SIDE, edit_similarity, look, outside_metrics, working_side
from render import Render, Renderer, available
from report import (MODES, REWARD_PARTS, SEARCHED, SHOWN, difference_table, domain_tables, load_runs, print_table, published_table, read_lines, score_table, write_lines,
                    write_report, write_sheet, write_text)
from reward import extract_code, score, start_scorer

GALLERY = 2000  # items whose pictures are kept and shown


# ------------------------------------------------------------------------------------------------------------ predictions

def read_predictions(files, known):
    """Predictions of the ids in `known`: ({(id, mode, k): object}, Counter of the lines set aside by reason)."""
    found, aside = {}, Counter()
    for line in (line for file in files for line in Path(file).read_bytes().splitlines() if line.strip()):
        try:
            row = json.loads(line)
            id_, mode, k, response = row["id"], row["mode"], row.get("k", 0), row["response"]
            if not (mode in MODES or SEARCHED.fullmatch(mode)) or type(k) is not int or k < 0 or not isinstance(response, str):
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

def judge(target_png, language, reference, answers, right=None, slow=False):
    """Score the answers to one item: list of (response, Render or None where there is no code, path for its PNG or None, (code,
    Render) that the metrics of the domain look at).

    right: Render of the code `reference`, where there is one; slow: add EMS to LaTeX. Returns a list of dicts with METRICS (all
    NaN where our renderer failed), status, message and `domain`, the metrics of the domain (none without `right`).
    """
    target = np.asarray(data.open_image(data.Sample("", "", target_png)))  # [H, W, 3]
    side = working_side(target)
    seen, rows = look(target, side), []
    for response, render, path, view in answers:
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
        special = domain.domain_scores(language, (reference, right), view, slow) if right and status != "infra" else {}
        rows.append({**{k: float(parts[k]) for k in REWARD_PARTS}, **outside, "status": status, "message": message[:300], "domain": special})
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
    rows = [judge(s.image, s.language, "", [(group[0].text, future and future.result(), None, None)])[0] for s, group, future in zip(mine, answers, renders)]
    rows = [row for row in rows if row["status"] != "infra"]
    count = all_sum(len(rows), policy.device)
    return {k: all_sum(sum(row[k] for row in rows), policy.device) / max(1, count) for k in SHOWN}


def baseline_answers(samples):
    """[{baseline: (response, Render or None = to be rendered, code and size that draw it or None)}] per Sample; `other` is drawn by the sample's id."""
    alike, answers = defaultdict(list), []
    for s in samples:
        alike[s.language, s.domain].append(s)
    for s in samples:
        mine = {"blank": (data.fenced(s.language, "blank"), Render(np.full((s.height, s.width, 3), 255, np.uint8), "ok"), None)}
        if others := [o for o in alike[s.language, s.domain] if o.image != s.image]:
            other = random.Random(s.id).choice(others)
            source = extract_code(other.answer, s.language)[0], (other.width, other.height)
            mine["other"] = (other.answer or data.fenced(s.language, "other"), Render(np.asarray(data.open_image(other)), "ok"), source)
        if s.task == "refine" and (code := extract_code(s.prompt, s.language)[0]) is not None:
            mine["copy"] = (data.fenced(s.language, code), None, None)
        answers.append(mine)
    return answers


def known_baselines(samples, out, slow=False, encoders=()):
    """(fingerprint of all that the baselines depend on, their rows from OUT or a run beside it, None if there are none)."""
    files = ("charts.py", "chromium.py", "domain.py", "drawing.py", "eval.py", "latex.py", "metrics.py", "render.py", "reward.py", "server.py", "traced.py")
    digest = hashlib.sha256(b"".join((Path(__file__).parent / f).read_bytes() for f in files) + repr((slow, *encoders)).encode())
    for s in samples:
        digest.update(repr((s.id, s.language, s.task, s.prompt, s.answer, s.image)).encode(errors="replace"))
    for file in (out / "baselines.jsonl", *sorted(out.parent.glob("*/baselines.jsonl"))):
        if file.exists() and (rows := read_lines(file)) and rows[0].get("fingerprint") == digest.hexdigest():
            return digest.hexdigest(), rows[1:]
    return digest.hexdigest(), None


def drawn(render):
    return render is not None and render.status == "ok"


def score_predictions(samples, found, out, workers=None, timeout=10.0, unsafe=False, slow=False, encoders=()):
    """Render and score predictions {(id, mode, k): object}; write items, scores, baselines and renders to OUT.

    Equal answers to an item are scored once, equal programs rendered once. slow: with UniSVG's SSIM and Image2Struct's EMS;
    encoders: see domain.py. Returns (rows, how renders were confined).
    """
    (out / "renders").mkdir(parents=True, exist_ok=True)
    for old in (out / "renders").glob("*.png"):
        old.unlink()
    by_item = defaultdict(list)
    for (id_, mode, k), row in sorted(found.items()):
        by_item[id_].append((mode, k, row))
    mark, compared = known_baselines(samples, out, slow, encoders)
    baselines = baseline_answers(samples) if compared is None else [{}] * len(samples)
    rows, compared = [], compared or []

    wait = lambda job: job.result() if isinstance(job, Future) else job
    encoders, turn = domain.load_encoders(encoders), Lock()  # one copy of the weights, in this process

    def one(i):
        """Carry item i through renderer and scorer: the rows of its predictions, the rows of its baselines."""
        s, asked = samples[i], by_item[samples[i].id]
        size, code_of = (s.width, s.height), lambda response: extract_code(response, s.language)[0]
        reference, defective = code_of(s.answer), code_of(s.prompt) if s.task == "refine" else None
        inspect = bool(reference) and domain.domain_of(s.language, reference) in ("chart", "web")
        submit = lambda code, size=size: None if code is None else renderer.submit(s.language, code, size, inspect)

        def look_at(code, job):
            """(code, Render or its Future) for the metrics of the domain, which want an SVG larger."""
            if (render := wait(job)) and s.language == "svg" and drawn(render) and code:
                height, width = render.image.shape[:2]
                job = submit(code, (max(1, round(width * SIDE / max(width, height))), max(1, round(height * SIDE / max(width, height)))))
            return code, job

        answers = list(dict.fromkeys(row["response"] for _, _, row in asked))
        shown = {row["response"] for _, k, row in asked if k == 0} if i < GALLERY else ()
        paths = [f"renders/{i:05d}-{n}.png" if answer in shown else None for n, answer in enumerate(answers)]
        right = submit(reference) if s.language != "svg" or slow or encoders else None
        jobs = [(a, submit(code_of(a)), p and out / p) for a, p in zip(answers, paths)]
        jobs += [(a, render or submit(code_of(a)), None) for a, render, _ in baselines[i].values()]
        views = [None] * len(jobs)
        if right:
            views = [(reference, right), *((code_of(a), job) for a, job, _ in jobs)]
            for n, (_, render, source) in enumerate(baselines[i].values(), 1 + len(answers)):
                if render:  # an image without a program: nothing is drawn, or the other sample's program draws it
                    views[n] = (source[0], submit(*source) or Render(None, "infra")) if source else ("", render)
            (_, right), *views = [(code, wait(job)) for code, job in [look_at(*view) for view in views]]
        jobs = [(a, wait(job), p, view) for (a, job, p), view in zip(jobs, views)]
        parts = pool.submit(judge, s.image, s.language, reference, jobs, right, slow).result()
        for row, (a, _, _, view) in zip(parts, jobs):
            if encoders and row["domain"]:
                with turn:
                    row["domain"] = domain.encoder_scores(encoders, row["domain"], right, view[1])
            row["copied"] = None if defective is None else code_of(a) == defective
        of = {a: {**p, "render": path if p["status"] == "ok" else None} for a, p, path in zip(answers, parts, paths)}
        return ([{"id": s.id, "mode": mode, "k": k, **of[row["response"]], "finish": row.get("finish"),
                  "tokens": row.get("tokens"), "response": row["response"]} for mode, k, row in asked],
                [{"id": s.id, "mode": name, "k": 0, **p} for name, p in zip(baselines[i], parts[len(answers):])])

    cache = (256 << 20) // max(3 * s.width * s.height for s in samples) + 1  # renders kept for equal programs: 256 MiB
    with Renderer(workers, timeout, unsafe, cache) as renderer, \
            cli.Pool(renderer.workers, start_scorer) as pool, \
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
         "domain": domain.domain_of(s.language, extract_code(s.answer, s.language)[0] or ""),
         "target": f"renders/{i:05d}-target.png" if i < GALLERY else None} for i, s in enumerate(samples)])
    write_lines(out / "baselines.jsonl", [{"fingerprint": mark}, *compared])
    write_lines(out / "scores.jsonl", rows)
    return rows, renderer.confinement


# ------------------------------------------------------------------------------------------------------------------- main

def held_out(path, limit, benchmark=None):
    """Usable Samples of `path`, at most `limit` drawn over all of them; says how many are set aside, and why."""
    samples, aside, seen = [], Counter(), set()
    for s in benchmarks.load(benchmark, path) if benchmark else data.read_samples(path):
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


def unavailable(samples, unsafe):
    """{language of Samples that cannot be rendered here: why}."""
    return {} if unsafe else {k: why for k, why in available().items() if why and k in {s.language for s in samples}}


def score_file(args, samples, file):
    """Score one file of predictions into OUT, then report."""
    out, started = Path(args.out), time.perf_counter()
    found, aside = read_predictions([file], {s.id for s in samples})
    if not found:
        raise SystemExit(f"error: {file} holds no prediction for {args.data} ({', '.join(f'{n} {w}' for w, n in aside.items()) or 'it is empty'})"
                         '. A line is {"id": ..., "mode": "greedy" or "t1", "k": 0, "response": ...}.')
    absent = unavailable(samples, args.unsafe_render)
    for language, why in absent.items():
        print(f"{language} cannot be rendered here ({why}): its {sum(s.language == language for s in samples)} items are left out")
    samples = [s for s in samples if s.language not in absent]
    found = {key: row for key, row in found.items() if key[0] in {s.id for s in samples}}
    if not found:
        raise SystemExit(f"error: no language of {args.data} can be rendered here.")
    try:
        rows, confinement = score_predictions(samples, found, out, args.workers, args.render_timeout, args.unsafe_render, args.slow_metrics, args.encoders)
    except RuntimeError as e:  # no confinement, or a scoring process was killed for memory
        raise SystemExit(f"error: {e}") from None
    status = Counter(row["status"] for row in rows)
    aside["items without prediction, in no mean"] = len(samples) - len({key[0] for key in found})
    counts = (f"{len(found)} predictions for {len(samples)} items: {', '.join(f'{n} {s}' for s, n in status.most_common())}"
              + "".join(f"; {n} {what}" for what, n in aside.items() if n))
    if status["infra"] == len(rows):
        raise SystemExit(f"error: the renderer failed on every prediction ({rows[0]['message']}). `python render.py --doctor` says what is missing.")
    scores = {"label": args.label or out.name, "model": args.model, "data": args.data, "benchmark": args.benchmark, "counts": counts, "status": status, "aside": aside,
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
    for table in domain_tables(runs, short=True):
        print()
        print_table(*table)
    if published := published_table(runs):
        print()
        print_table(*published)
        print("\n".join(benchmarks.notes(runs[-1]["benchmark"])))
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
    parser.add_argument("--benchmark", choices=benchmarks.BENCHMARKS, help="--data is this public benchmark's folder or hub id (default: where it is published)")
    parser.add_argument("--out", type=cli.name, help="directory to write (with --image default: out/image)")
    parser.add_argument("--label", help="the run's name in tables (default: the name of OUT)")
    parser.add_argument("--limit", type=cli.whole(0), default=0, help="items at most, drawn over all of them (0: all)")
    parser.add_argument("--samples", type=cli.whole(0), default=4, help="answers per item at temperature 1 (0: greedy only)")
    parser.add_argument("--best-of", type=cli.whole(1), default=1, help="programs sampled per image, the greedy one among them, of which the best is kept (search.py)")
    parser.add_argument("--refine", type=cli.whole(0), default=0, help="rounds in which the model corrects the best program")
    parser.add_argument("--proposals", type=cli.whole(1), default=4, help="corrections sampled in each of them")
    parser.add_argument("--top-p", type=cli.real(0, 1, above=True), default=1.0, help="draw them from the likeliest tokens that together reach this probability")
    parser.add_argument("--max-new-tokens", type=cli.whole(1), default=256, help="tokens per answer at most")
    parser.add_argument("--slots", type=cli.whole(1), default=128, help="answers decoded together on one process")
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="seed of the sampled answers")
    parser.add_argument("--resume", action="store_true", help="go on with the predictions that OUT already holds")
    parser.add_argument("--workers", type=cli.whole(1), default=None, help="renderer and scorer processes (default: one per core)")
    parser.add_argument("--render-timeout", type=cli.real(above=True), default=10.0, help="seconds per program")
    parser.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    parser.add_argument("--slow-metrics", action="store_true", help="add UniSVG's SSIM to SVG (triples its scoring) and Image2Struct's EMS to LaTeX "
                        "(seconds per answer)")
    parser.add_argument("--encoders", nargs="+", default=(), metavar="KIND=NAME", help="add metrics that need weights: clip, siglip or dinov2 = "
                        "directory or hub id, lpips = alex or vgg; clip and lpips make UniSVG's score")
    parser.add_argument("--note", help="text file shown at the top of the report")
    parser.add_argument("--curves", nargs="+", default=(), metavar="DIR", help="training directories whose metrics.jsonl the report draws")
    parser.add_argument("--image", help="with --model: answer this one image")
    parser.add_argument("--language", choices=data.LANGUAGES, help="with --image: the language to write (default: the one that comes closest)")
    args = parser.parse_args()
    args.data = args.data or (benchmarks.BENCHMARKS[args.benchmark].hub if args.benchmark else None)
    if args.image and not args.model:
        parser.error("--image needs --model")
    if not args.image and not (args.out and (args.compare or args.data)):
        parser.error("--compare needs --out; --model and --predictions need --data and --out")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def stop(number, frame):
        if rank == 0:
            print("\ninterrupted" + (f": finished answers are in {args.out}; the same command with --resume goes on" if args.model and args.data else ""))
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if args.image:
        from search import one_image
        return one_image(args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.compare:
        return report(load_runs(args.compare), args)
    samples = held_out(args.data, args.limit, args.benchmark)
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
    load = functools.cache(lambda: load_model(args.model))
    predict(load, samples, out, max(args.samples, args.best_of - 1), args.max_new_tokens, args.seed, args.slots, rank, world, args.top_p)
    if args.best_of > 1 or args.refine:
        from search import judges, search
        absent, workers = unavailable(samples, args.unsafe_render), args.workers or max(1, len(os.sched_getaffinity(0)) // world)
        search(load, lambda: judges(workers, args.render_timeout, args.unsafe_render), [s for s in samples if s.language not in absent], out,
               args.best_of, args.refine, args.proposals, args.max_new_tokens, args.seed, args.slots, rank, world, args.top_p)
    if rank == 0:
        score_file(args, samples, out / "predictions.jsonl")


if __name__ == "__main__":
    main()
