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
"bestN+refineK" = chosen by search.py), `k` (number of the answer at temperature 1, from 0), `response` (the whole
answer, fence included), `finish` ("stop" | "length" | "unusable" = could not be asked), `tokens` (length). Only id,
mode and response are needed.

OUT gets items.jsonl (what was asked), scores.jsonl (a line per prediction: reward parts, outside metrics, status,
message), baselines.jsonl (the same for the baselines), scores.json (means, standard errors, counts), renders/*.png,
report.html. An interruption loses nothing: answers are written as they end, scores replace older ones when all are
known.

How to read the numbers. A program that fails counts 0 in every mean; a failure of our own renderer (`infra`) is
excluded and counted. Standard errors are over items: the answers to an item are averaged first. `reward` and `visual`
are what ViRL trains on; the outside metrics (metrics.py) share no code with reward.py, so gains are not graded by their
own teacher. Baselines stand beside them (scoring.py).

Where a sample has a reference answer, domain.py adds the metrics of its domain as their benchmarks define them
(`domain` in scores.jsonl, {metric: value, null where it cannot be computed}): ChartMimic, Design2Code, UniSVG,
Image2Struct, chemistry. The reference is rendered once per item for that. `--slow-metrics` adds UniSVG's and
Image2Struct's, `--encoders clip=NAME lpips=alex ...` those that need weights. For the refine task the report tells what
the answers gained over the defective code.
"""
import argparse
import functools
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

from tqdm import tqdm

import benchmarks
import data
import domain
from render import available
from report import curves, write_report, write_sheet
from scoring import Answer, code_of, judge, score_predictions
from stats import (MODES, SEARCHED, SHOWN, append_lines, difference_table, differences, domain_tables, load_runs,
                   print_table, published_table, salvage_lines, score_table, write_json, write_lines)


# ---------------------------------------------------------------------------------------------------------- predictions

def read_predictions(files, known):
    """Predictions of the ids in `known` (None: any): {(id, mode, k): object}, Counter of lines set aside by reason."""
    found, aside = {}, Counter()
    for row in salvage_lines(files):
        try:
            id_, mode, k, response = row["id"], row["mode"], row.get("k", 0), row["response"]
            right = mode in MODES or SEARCHED.fullmatch(mode)
            right = right and type(k) is int and k >= 0 and isinstance(response, str)
        except (TypeError, KeyError, AttributeError):
            right = False
        if not right:
            aside["broken lines"] += 1
        elif not isinstance(id_, str) or known is not None and id_ not in known:
            aside["unknown ids"] += 1
        elif (id_, mode, k) in found:
            aside["duplicates"] += 1
        else:
            found[id_, mode, k] = row
    return found, aside


def listed(counts):
    """A Counter as text: "2 broken lines, 1 unknown ids"."""
    return ", ".join(f"{n} {what}" for what, n in counts.items())


# ----------------------------------------------------------------------------------------------------------- generating

def load_model(path):
    """The whole policy on this process's device, in bf16 on a GPU: evaluation shares nothing between processes."""
    import torch

    from policy import load_policy
    if not torch.cuda.is_available():
        return load_policy(path)
    policy = load_policy(path, torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))))
    policy.dtype = torch.bfloat16
    return policy


def ask(policy, samples, group, max_new_tokens, temperature, seeds, slots, top_p, on_answer):
    """Ask a Policy for `group` answers to each Sample; {number of a sample that cannot be asked: why}.

    seeds: a list of `group` ints per sample; the other arguments are those of `generate`. on_answer(i, k, {"response",
    "finish", "tokens"}) is called as soon as answer k to sample i ends, while others are still decoded. A sample whose
    image cannot be read, or whose prompt and answer exceed the context, gets empty answers, finish "unusable". Raises
    SystemExit with one line where not even one answer fits the memory.
    """
    from generate import generate
    examples, unusable = {}, {}
    for i, s in enumerate(samples):
        try:
            example = policy.encode(s.prompt, data.open_image(s))
            if (n := example.prompt_length) + max_new_tokens > policy.context:
                raise ValueError(f"{n} tokens and --max-new-tokens exceed the context of {policy.context}")
            examples[i] = example
        except ValueError as e:
            unusable[i] = e
            for k in range(group):
                on_answer(i, k, {"response": "", "finish": "unusable", "tokens": 0})
    asked, ended = list(examples), []

    def finish(r):
        ended.append(r.example)
        on_answer(asked[r.example], r.sample, {"response": r.text, "finish": r.finish, "tokens": len(r.token_ids)})

    try:
        generate(policy, list(examples.values()), group, max_new_tokens, temperature, [seeds[i] for i in asked], slots,
                 finish, top_p=top_p)
    except ValueError as e:
        if ended:
            raise  # whatever it is, it comes from on_answer
        raise SystemExit(f"error: {e}.") from None
    return unusable


def predict(load, samples, out, n_samples, max_new_tokens, seed, slots=128, rank=0, world=1, top_p=1.0):
    """Write the predictions that OUT lacks: greedy and `n_samples` at temperature 1 per Sample, by the Policy `load()`.

    Each answer is appended as it ends, so an interruption costs only those under way. Seeds come from (seed, id, k):
    resumed, sharded and uninterrupted runs give the same answers. Rank 0 waits for the others and merges; what OUT
    holds beyond that (of other samples, more answers) stays.
    """
    merged, mine = out / "predictions.jsonl", samples[rank::world]
    groups = {"greedy": 1, "t1": n_samples}
    written = lambda: read_predictions(filter(Path.exists, [merged, *out.glob("predictions.rank*.jsonl")]), None)[0]
    done, unusable = written().keys(), {}
    lacking = {mode: [s for s in mine if any((s.id, mode, k) not in done for k in range(group))]
               for mode, group in groups.items()}
    bar = tqdm(total=sum(len(lacking[mode]) * group for mode, group in groups.items()), unit="answer", mininterval=1,
               desc="generate" if world == 1 else f"generate (rank {rank})", position=rank)
    size = max(16, min(512, (32 << 20) // max(s.width * s.height for s in samples)))  # 32 Mpixel in memory
    batches = [(mode, some[i:i + size]) for mode, some in lacking.items() for i in range(0, len(some), size)]
    with append_lines(merged if world == 1 else out / f"predictions.rank{rank}.jsonl") as write:
        for mode, batch in batches:
            from generate import rollout_seed  # and with it torch: only where something is lacking

            def on_answer(i, k, answer):
                if (batch[i].id, mode, k) not in done:
                    write({"id": batch[i].id, "mode": mode, "k": k, **answer})
                bar.update()

            seeds = [[rollout_seed(seed, s.id, k) for k in range(groups[mode])] for s in batch]
            why = ask(load(), batch, groups[mode], max_new_tokens, float(mode == "t1"), seeds, slots, top_p, on_answer)
            unusable |= {batch[i].id: e for i, e in why.items()}
    bar.close()
    if unusable:
        print(f"{len(unusable)} of {len(mine)} samples cannot be asked and count as empty answers, first: "
              + ": ".join(map(str, next(iter(unusable.items())))))
    if rank == 0:
        wanted = dict.fromkeys((s.id, mode, k) for s in samples for mode, n in groups.items() for k in range(n))
        while not wanted.keys() <= (found := written()).keys():
            time.sleep(1)  # the other ranks still write; torchrun ends us if one of them dies
        write_lines(merged, (wanted | found).values())  # in the order of `wanted`, then what is there beyond
        for file in out.glob("predictions.rank*.jsonl"):
            file.unlink()


def greedy_scores(policy, samples, renderer, max_new_tokens):
    """Greedy answers of a policy in training to held-out Samples, rendered and judged: {metric of SHOWN: mean}.

    Collective: each rank answers its share; a program is rendered while others are decoded. What our own renderer fails
    at does not count. Leaves the policy in train mode. Raises SystemExit as `ask`.
    """
    import torch

    from distributed import all_sum, world
    rank, n = world()
    mine, dtype, answers = samples[rank::n], policy.dtype, {}

    def on_answer(i, k, answer):
        s, text = mine[i], answer["response"]
        code = code_of(text, s.language)
        answers[i] = text, code and renderer.submit(s.language, code, (s.width, s.height))

    if policy.device.type == "cpu":
        policy.dtype = torch.float32
    ask(policy, mine, 1, max_new_tokens, 0.0, [[0]] * len(mine), 64, 1.0, on_answer)
    policy.dtype = dtype
    policy.train()
    rows = []
    for i, s in enumerate(mine):
        text, job = answers[i]
        rows += judge(s.image, s.language, "", [Answer(text, job and job.result())])
    rows = [row for row in rows if row["status"] != "infra"]
    count = all_sum(len(rows), policy.device)
    return {k: all_sum(sum(row[k] for row in rows), policy.device) / max(1, count) for k in SHOWN}


# -------------------------------------------------------------------------------------------------------------- scoring

def held_out(path, limit, benchmark=None):
    """Usable Samples of `path`, at most `limit` drawn over all of them (0: all); says how many are set aside, and why.

    Their width and height are those of the picture. Raises SystemExit with one line where there is none.
    """
    samples, aside, seen = [], Counter(), set()
    for s in benchmarks.load(benchmark, path) if benchmark else data.read_samples(path):
        why = "no id" if not s.id else "duplicate id" if s.id in seen else ""
        if s.language not in data.LANGUAGES:
            why = why or "unknown language"
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
        print(f"{path}: {sum(aside.values())} samples set aside ({listed(aside)})")
    if not samples:
        raise SystemExit(f"error: {path} has no usable sample. Where ids or languages are missing, "
                         f"`python data.py import` adds them.")
    if 0 < limit < len(samples):
        samples = [samples[i] for i in sorted(data.epoch_order(len(samples), 0, "limit")[:limit])]
    return samples


def unavailable(samples, unsafe):
    """{language of Samples that cannot be rendered here: why}."""
    languages = {s.language for s in samples}
    return {} if unsafe else {k: why for k, why in available().items() if why and k in languages}


def score_file(args, samples, file):
    """Score one file of predictions into OUT -> the run, as `stats.load_runs` reads it.

    Raises SystemExit with one line where there is nothing to score, or no way to.
    """
    out, started = Path(args.out), time.perf_counter()
    found, aside = read_predictions([file], {s.id for s in samples})
    if not found:
        raise SystemExit(f"error: {file} holds no prediction for {args.data} ({listed(aside) or 'it is empty'})"
                         '. A line is {"id": ..., "mode": "greedy" or "t1", "k": 0, "response": ...}.')
    absent = unavailable(samples, args.unsafe_render)
    for language, why in absent.items():
        n = sum(s.language == language for s in samples)
        print(f"{language} cannot be rendered here ({why}): its {n} items are left out")
    samples = [s for s in samples if s.language not in absent]
    ids = {s.id for s in samples}
    found = {key: row for key, row in found.items() if key[0] in ids}
    if not found:
        raise SystemExit(f"error: no language of {args.data} can be rendered here.")
    try:
        rows, confinement = score_predictions(samples, found, out, args.workers, args.render_timeout,
                                              args.unsafe_render, args.slow_metrics, args.encoders)
    except RuntimeError as e:
        raise SystemExit(f"error: {e}") from None
    status = Counter(row["status"] for row in rows)
    aside["items without prediction, in no mean"] = len(samples) - len({key[0] for key in found})
    counts = (f"{len(found)} predictions for {len(samples)} items: {listed(dict(status.most_common()))}"
              + "".join(f"; {n} {what}" for what, n in aside.items() if n))
    seconds = round(time.perf_counter() - started, 1)
    scores = {"label": args.label or out.name, "model": args.model, "data": args.data, "benchmark": args.benchmark,
              "counts": counts, "status": status, "aside": aside, "confinement": confinement, "seconds": seconds}
    write_json(out / "scores.json", scores)  # the means are computed of what the files hold
    (run,) = load_runs([out])
    scores["groups"] = {"=".join(group): columns for group, columns in run["table"].items()}
    write_json(out / "scores.json", scores)
    excluded = f"; the {status['infra']} infra failures are in no mean" if status["infra"] else ""
    print(f"{counts}; scored in {seconds:.0f} s{excluded}")
    return run


# ----------------------------------------------------------------------------------------------------------------- main

def conclude(runs, out, note, training):
    """Write OUT/report.html (for several runs also comparison.json and results.png), print the closing tables."""
    write_report(runs, out / "report.html", note, training)
    tables = [score_table(runs, "language", SHOWN[:3]), *domain_tables(runs, brief=True)]
    for table in tables:
        print()
        print_table(*table)
    if published := published_table(runs):
        print()
        print_table(*published)
        print("\n".join(benchmarks.notes(runs[-1]["benchmark"])))
    if len(runs) > 1:
        write_sheet(runs, out / "results.png")
        head, rows = difference_table(runs, differences(runs))
        write_json(out / "comparison.json", {"head": head, "rows": rows})
        print()
        print_table(head, rows)
        print("paired over the same items: mean ± standard error, * beyond two of them, [95 % bootstrap interval]")
    print(f"\nwrote {out / 'report.html'}" + (f" and {out / 'results.png'}" if len(runs) > 1 else ""))


MAKE = ("model", "data", "top_p", "max_new_tokens", "seed")  # the arguments that predictions of one file share


def begin(args, out):
    """Note in OUT how its predictions are made.

    Raises SystemExit with one line where it holds some, unless --resume goes on with them and they are made alike.
    """
    record, files = out / "run.json", [out / "predictions.jsonl", *sorted(out.glob("predictions.rank*.jsonl"))]
    earlier = [f for f in files if f.exists() and f.stat().st_size]
    if earlier and not args.resume:
        raise SystemExit(f"error: {earlier[0]} exists: --resume goes on with it; or give another --out.")
    if earlier and record.exists():
        try:
            before = json.loads(record.read_text())
            changed = [f"{k} was {before[k]}" for k in MAKE if before[k] != vars(args)[k]]
        except (ValueError, TypeError, KeyError):
            raise SystemExit(f"error: {record} is damaged, so how {earlier[0]} was made is unknown: "
                             f"give another --out.") from None
        if changed:
            raise SystemExit(f"error: {earlier[0]} was made otherwise ({', '.join(changed)}): give another --out.")
    write_json(record, vars(args))


def generate_and_search(args, samples, out, rank, world):
    """Write OUT/predictions.jsonl: what the model answers, and what search.py chooses where that is asked for."""
    load = functools.cache(lambda: load_model(args.model))
    n_samples = max(args.samples, args.best_of - 1)
    predict(load, samples, out, n_samples, args.max_new_tokens, args.seed, args.slots, rank, world, args.top_p)
    if args.best_of > 1 or args.refine:
        from search import judging, search
        absent = unavailable(samples, args.unsafe_render)
        workers = args.workers or max(1, len(os.sched_getaffinity(0)) // world)
        if samples := [s for s in samples if s.language not in absent]:
            search(load, lambda: judging(workers, args.render_timeout, args.unsafe_render), samples, out, args.best_of,
                   args.refine, args.proposals, args.max_new_tokens, args.seed, args.slots, rank, world, args.top_p)


# {flag: the uses in which it has a meaning}; given in another it is an error.
MODEL, FILE, COMPARE, IMAGE = "--model", "--predictions", "--compare", "--image"
USES = {**dict.fromkeys(("best_of", "refine", "proposals", "top_p", "max_new_tokens", "slots", "seed"), (MODEL, IMAGE)),
        **dict.fromkeys(("workers", "render_timeout", "unsafe_render"), (MODEL, FILE, IMAGE)),
        **dict.fromkeys(("data", "benchmark", "label", "limit", "slow_metrics", "encoders"), (MODEL, FILE)),
        **dict.fromkeys(("note", "curves"), (MODEL, FILE, COMPARE)),
        **dict.fromkeys(("samples", "resume"), (MODEL,)), "language": (IMAGE,)}


def use_of(args):
    """What a command is for: MODEL, FILE, COMPARE or IMAGE."""
    return IMAGE if args.image else MODEL if args.model else FILE if args.predictions else COMPARE


def arguments():
    """The arguments of the command line. Raises SystemExit with one line where they make no sense together."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="model directory or hub id that answers")
    what.add_argument("--predictions", help="predictions.jsonl to score; no model needed")
    what.add_argument("--compare", nargs="+", metavar="OUT", help="scored OUT directories, in the order of the columns")
    parser.add_argument("--data", help="held-out samples: directory of parquet files, or one file")
    parser.add_argument("--benchmark", choices=benchmarks.BENCHMARKS,
                        help="--data is this public benchmark's folder or hub id (default: where it is published)")
    parser.add_argument("--out", type=cli.name, help="directory to write (with --image default: out/image)")
    parser.add_argument("--label", help="the run's name in tables (default: the name of OUT)")
    parser.add_argument("--limit", type=cli.whole(0), default=0, help="items at most, drawn over all of them (0: all)")
    parser.add_argument("--samples", type=cli.whole(0), default=4,
                        help="answers per item at temperature 1 (0: greedy only)")
    parser.add_argument("--best-of", type=cli.whole(1), default=1, help="programs sampled per image, the greedy one "
                        "among them, of which the best is kept (search.py)")
    parser.add_argument("--refine", type=cli.whole(0), default=0,
                        help="rounds in which the model corrects the best program")
    parser.add_argument("--proposals", type=cli.whole(1), default=4, help="corrections sampled in each of them")
    parser.add_argument("--top-p", type=cli.real(0, 1, above=True), default=1.0,
                        help="draw them from the likeliest tokens that together reach this probability")
    parser.add_argument("--max-new-tokens", type=cli.whole(1), default=256, help="tokens per answer at most")
    parser.add_argument("--slots", type=cli.whole(1), default=128, help="answers decoded together on one process")
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="seed of the sampled answers")
    parser.add_argument("--resume", action="store_true", help="go on with the predictions that OUT already holds")
    parser.add_argument("--workers", type=cli.whole(1), help="renderer and scorer processes (default: one per core)")
    parser.add_argument("--render-timeout", type=cli.real(above=True), default=10.0, help="seconds per program")
    parser.add_argument("--unsafe-render", action="store_true",
                        help="render without confinement where none is possible")
    parser.add_argument("--slow-metrics", action="store_true", help="add UniSVG's SSIM to SVG (triples its scoring) "
                        "and Image2Struct's EMS to LaTeX (seconds per answer)")
    parser.add_argument("--encoders", nargs="+", default=(), metavar="KIND=NAME", help="add metrics that need weights: "
                        "clip, siglip or dinov2 = directory or hub id, lpips = alex or vgg; clip and lpips make "
                        "UniSVG's score")
    parser.add_argument("--note", help="text file shown at the top of the report")
    parser.add_argument("--curves", nargs="+", default=(), metavar="DIR",
                        help="training directories whose metrics.jsonl the report draws")
    parser.add_argument("--image", help="with --model: answer this one image")
    parser.add_argument("--language", choices=data.LANGUAGES,
                        help="with --image: the language to write (default: the one that comes closest)")
    args = parser.parse_args()

    use = use_of(args)
    if args.image and not args.model:
        raise SystemExit("error: --image needs --model.")
    if idle := [k for k, uses in USES.items() if use not in uses and vars(args)[k] != parser.get_default(k)]:
        raise SystemExit(f"error: with {use} there is no meaning to --{', --'.join(idle).replace('_', '-')}.")
    args.data = args.data or (benchmarks.BENCHMARKS[args.benchmark].hub if args.benchmark else None)
    if use != IMAGE and not (args.out and (args.data or use == COMPARE)):
        raise SystemExit("error: --compare needs --out; --model and --predictions need --data and --out.")
    domain.check_encoders(args.encoders)
    return args


def main():
    args = arguments()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def stop(number, frame):
        if rank == 0:
            kept = {MODEL: f": finished answers are in {args.out}; the same command with --resume goes on",
                    FILE: ": the same command scores anew"}
            print("\ninterrupted" + kept.get(use_of(args), ""))
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if args.image:
        from search import one_image
        return one_image(args)
    note = Path(args.note).read_text(errors="replace") if args.note else ""
    out, training = Path(args.out), curves(args.curves)
    out.mkdir(parents=True, exist_ok=True)
    if args.compare:
        return conclude(load_runs(args.compare), out, note, training)
    samples, file = held_out(args.data, args.limit, args.benchmark), args.predictions
    if args.model:
        if rank == 0:
            begin(args, out)
        generate_and_search(args, samples, out, rank, world)
        file = out / "predictions.jsonl"
    if rank == 0:
        conclude([score_file(args, samples, file)], out, note, training)


if __name__ == "__main__":
    main()
