"""Search at test time: several programs per image, the closest kept and corrected; one image -> code.

    python eval.py --model out/virl --data out/data/test --out out/eval/search --best-of 8 --refine 2
    torchrun --nproc_per_node=8 eval.py --model DIR --data DIR --out OUT --best-of 8 --refine 2
    python eval.py --model out/virl --image shot.png --best-of 8 --refine 2            # finds the language, too

The target is the input, so programs can be judged without a label. Best-of N: of the greedy answer and N - 1 at
temperature 1 the one whose render has the highest reward (reward.py, no reference program), the first of equal ones; with
the greedy answer among them best-of is never worse by its own judge. A round of refinement shows the model the best program
in the words of the refinement samples (refine.py), draws `--proposals` corrections at temperature 1, and takes the best of
them if it beats the program shown. An image that is met exactly is left alone. One image without --language: a greedy
program per language, the closest decides.

What our own renderer fails at has no reward: it is neither chosen nor grounds for a rejection, and counted.

The reward chooses, so its own gain says little: it is the greatest of N numbers. The gain to believe is that of the
outside metric (metrics.py), which no choice ever sees.

OUT gets search.jsonl (a line per item and round: every candidate with its scores), the chosen answers as modes "bestN" and
"bestN+refineK" of predictions.jsonl, the curve of quality against compute as search.json and search.png.

Left out here: rendering while others still decode (virl.py does), tree search, a learned judge.
"""
import contextlib
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

import cli
import data
from eval import judge, load_model, read_predictions
from metrics import letterbox
from refine import refine_prompt
from render import ENDINGS, Renderer, available
from report import MODES, mean_se, print_table, read_lines, write_lines, write_text
from reward import extract_code, start_scorer

EXACT = 0.9995  # reward from which nothing is left to correct


# ------------------------------------------------------------------------------------------------- asking and judging

def ask(policy, samples, seeds, max_new_tokens, slots, top_p=1.0):
    """Answers at temperature 1 to each Sample (greedy where its seeds are None): a list of dicts per sample.

    seeds: a list of ints per sample. A prompt that does not fit the context gets empty answers, finish "unusable".
    """
    from generate import generate
    examples, answers = [], [[{"response": "", "finish": "unusable", "tokens": 0}] * len(own or [0]) for own in seeds]
    for i, s in enumerate(samples):
        with contextlib.suppress(ValueError):
            example = policy.encode(s.prompt, data.open_image(s))
            if example.prompt_length + max_new_tokens <= policy.context:
                examples.append((i, example))
    for greedy in (True, False):
        some = [(i, example) for i, example in examples if (seeds[i] is None) == greedy]
        if some:
            own = [[0] if greedy else seeds[i] for i, _ in some]
            for (i, _), group in zip(some, generate(policy, [e for _, e in some], len(own[0]), max_new_tokens, float(not greedy), own, slots, top_p=top_p)):
                answers[i] = [{"response": r.text, "finish": r.finish, "tokens": len(r.token_ids)} for r in group]
    return answers


@contextlib.contextmanager
def judges(workers=None, timeout=10.0, unsafe=False):
    """Context: a function (samples, their lists of answers[, path for a PNG]) -> the answers with status, message and metrics of eval.judge."""
    def assess(samples, answers, path=None):
        groups = [list(dict.fromkeys(a["response"] for a in group)) for group in answers]  # equal answers once
        try:
            codes = [[(r, extract_code(r, s.language)[0]) for r in group] for s, group in zip(samples, groups)]
            drawn = [[(r, code and renderer.submit(s.language, code, (s.width, s.height))) for r, code in group] for s, group in zip(samples, codes)]
            rows = [pool.submit(judge, s.image, s.language, "", [(r, f and f.result(), path, None) for r, f in group]) for s, group in zip(samples, drawn)]
            known = [dict(zip(group, row.result())) for group, row in zip(groups, rows)]
        except RuntimeError as e:  # no confinement, or a scoring process was killed for memory
            raise SystemExit(f"error: {e}") from None
        return [[{**a, **found[a["response"]]} for a in group] for group, found in zip(answers, known)]

    with Renderer(workers, timeout, unsafe) as renderer, cli.Pool(renderer.workers, start_scorer) as pool:
        yield assess


def best(candidates):
    """The candidate of the highest reward, the first of equal ones; None where our renderer failed at all of them."""
    return max((c for c in candidates if c["status"] != "infra"), key=lambda c: c["reward"], default=None)


def correction(sample, candidate, round):
    """The Sample that asks for a correction of a candidate, in the words of the refinement samples; the same again where it has no code.

    Those of refine.py say how a program fails, those of synth.py do not, and a model answers badly to what it has not met (of
    the embedded default's answers 2 % run with the message, 83 % without): odd rounds say it, even ones do not.
    """
    code = extract_code(candidate["response"], sample.language)[0]
    message = "" if candidate["status"] == "ok" or round % 2 == 0 else candidate["message"] or candidate["status"]
    return sample if code is None else replace(sample, prompt=refine_prompt(sample.language, code, message))


def correct(samples, chosen, sampler, assess, proposals, seed, round):
    """One round of refinement: the candidates of each Sample, none where nothing is to be done.

    chosen: the best candidate of each so far, or None. sampler(samples, seeds), assess(samples, answers): as `ask`, `judges`.
    """
    from generate import rollout_seed
    todo = [(s, c) for s, c in zip(samples, chosen) if c and c["reward"] < EXACT]
    if not todo:
        return [[] for _ in samples]
    prompts = [correction(s, c, round) for s, c in todo]
    new = iter(assess(prompts, sampler(prompts, [[rollout_seed(seed, s.id, f"refine{round}", k) for k in range(proposals)] for s, _ in todo])))
    return [next(new) if c and c["reward"] < EXACT else [] for c in chosen]


# --------------------------------------------------------------------------------------------------- a whole test set

def search(load, judging, samples, out, best_of, rounds, proposals, max_new_tokens, seed, slots=128, rank=0, world=1, top_p=1.0):
    """Write OUT/search.jsonl and the chosen answers as modes of OUT/predictions.jsonl, which `eval.predict` has begun.

    load() -> Policy; judging: a context as `judges`. Each line is written as it is known and resumed from; ranks as in `predict`.
    """
    merged, log = out / "predictions.jsonl", out / "search.jsonl"
    first = [("greedy", 0)] + [("t1", k) for k in range(best_of - 1)]
    ids, mine = {s.id for s in samples}, samples[rank::world]
    needed = {(id_, *key) for id_ in ids for key in first}
    while not needed <= set(found := read_predictions([merged] if merged.exists() else [], ids)[0]):
        time.sleep(1)  # rank 0 has not merged them yet

    def finished():
        lines = {}
        for file in (log, *sorted(out.glob("search.rank*.jsonl"))):
            for line in file.read_bytes().splitlines() if file.exists() else ():
                with contextlib.suppress(ValueError):  # a line that a kill has cut off
                    row = json.loads(line)
                    lines[row["id"], row["round"]] = row["candidates"]
        return {key: candidates for key, candidates in lines.items() if key[0] in ids and key[1] <= rounds}

    done = finished()
    if any(len(c) not in ({best_of} if round == 0 else {0, proposals}) for (_, round), c in done.items()):
        raise SystemExit(f"error: {log} was made with another --best-of or --proposals: give another --out, or remove it.")
    size = max(8, min(256, (64 << 20) // max(s.width * s.height for s in samples) // max(best_of, proposals)))  # 64 Mpixel in memory
    bar = tqdm(total=len(mine) * (rounds + 1), desc="search" if world == 1 else f"search (rank {rank})", unit="round", mininterval=1, position=rank)
    with open(log if world == 1 else out / f"search.rank{rank}.jsonl", "ab") as f, judging() as assess:
        if f.tell():
            f.write(b"\n")
        sampler = lambda prompts, seeds: ask(load(), prompts, seeds, max_new_tokens, slots, top_p)
        for start in range(0, len(mine), size):
            batch = mine[start:start + size]
            chosen = [None] * len(batch)
            for round in range(rounds + 1):
                lacking = [(s, c) for s, c in zip(batch, chosen) if (s.id, round) not in done]
                some = [s for s, _ in lacking]
                if round:
                    new = correct(some, [c for _, c in lacking], sampler, assess, proposals, seed, round)
                else:
                    new = assess(some, [[{k: found[s.id, *key].get(k) for k in ("response", "finish", "tokens")} for key in first] for s in some])
                for s, candidates in zip(some, new):
                    done[s.id, round] = candidates = [{k: None if v != v else v for k, v in c.items()} for c in candidates]
                    f.write(json.dumps({"id": s.id, "round": round, "candidates": candidates}).encode() + b"\n")
                f.flush()
                chosen = [best(filter(None, (c, *done[s.id, round]))) for c, s in zip(chosen, batch)]
                bar.update(len(batch))
    bar.close()
    if rank == 0:
        while len(done := finished()) < len(samples) * (rounds + 1):
            time.sleep(1)  # the other ranks still write; torchrun ends us if one of them dies
        write_lines(log, [{"id": s.id, "round": r, "candidates": done[s.id, r]} for s in samples for r in range(rounds + 1)])
        for file in out.glob("search.rank*.jsonl"):
            file.unlink()
        points = curve(read_lines(log))
        names = [f"best{best_of}"] * (best_of > 1) + [f"best{best_of}+refine{rounds}"] * (rounds > 0)
        rows = [{"id": s.id, "mode": name, "k": 0, **{k: points[name][s.id][k] for k in ("response", "finish", "tokens")}} for s in samples for name in names]
        write_lines(merged, [row for row in read_lines(merged) if row["mode"] in MODES] + rows)
        write_curve(points, out)


def curve(lines):
    """Lines of search.jsonl -> {point: {id: its chosen candidate, with `programs` and `spent` = tokens sampled up to there}}.

    Points: greedy, best-of 2, 4, 8 ... N of the same candidates, then the rounds of refinement. Where our renderer failed at
    all candidates the first of them stands, without scores.
    """
    of, points = {}, {}
    for line in lines:
        of.setdefault(line["id"], {})[line["round"]] = line["candidates"]
    n = len(lines[0]["candidates"])
    sizes = sorted({n, *(2**i for i in range(n.bit_length()))})
    for id_, rounds in of.items():
        tried = {"greedy" if size == 1 else f"best{size}": rounds[0][:size] for size in sizes}
        tried |= {f"best{n}+refine{r}": [c for q in range(r + 1) for c in rounds[q]] for r in sorted(rounds) if r}
        for point, candidates in tried.items():
            counts = {"programs": len(candidates), "spent": sum(c["tokens"] or 0 for c in candidates), "infra": sum(c["status"] == "infra" for c in candidates)}
            points.setdefault(point, {})[id_] = {**(best(candidates) or candidates[0]), **counts}
    return points


def write_curve(points, out):
    """Print the table of `curve`'s points, write OUT/search.json and OUT/search.png. Errors are over items, gains paired with greedy."""
    rows, start = [], points["greedy"]
    for name, chosen in points.items():
        row = {"point": name, "items": sum(c["status"] != "infra" for c in chosen.values()), "infra": sum(c["infra"] for c in chosen.values()),
               **{k: float(np.mean([c[k] for c in chosen.values()])) for k in ("programs", "spent")}}
        for metric in ("outside", "reward", "execution"):
            row[metric] = mean_se([c[metric] for c in chosen.values() if c["status"] != "infra"])
            row[f"{metric}_gain"] = mean_se([c[metric] - start[i][metric] for i, c in chosen.items() if "infra" not in (c["status"], start[i]["status"])])
        rows.append(row)
    write_text(out / "search.json", re.sub(r"\bNaN\b", "null", json.dumps(rows, indent=1)))
    pair = lambda mean, se, sign="": re.sub(r"\b0\.", ".", f"{mean:{sign}.4f}±{se:.4f}")
    print()
    print_table(["search", "answers", "items", "programs", "tokens", "outside", "gain on greedy", "reward", "gain on greedy", "execution"], [
        ["", r["point"], str(r["items"]), f"{r['programs']:.2f}", f"{r['spent']:.0f}", pair(*r["outside"]), pair(*r["outside_gain"], "+"), pair(*r["reward"]),
         pair(*r["reward_gain"], "+"), f"{r['execution'][0]:.3f}"] for r in rows])
    print("programs and tokens: sampled per image. The reward chooses; the outside metric is never seen by the choice. Gains are paired."
          + (f" {rows[-1]['infra']} candidates lost to infra failures." if rows[-1]["infra"] else ""))
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), dpi=110, layout="constrained")
    sampled, refined = ([r for r in rows if ("+" in r["point"]) == search] for search in (False, True))
    for axis, metric, title in zip(axes, ("outside", "reward"), ("outside metric (no choice sees it)", "reward (the judge)")):
        for some, colour, label in ((sampled, "#2e6fdb", "greedy, then best of N"), (sampled[-1:] + refined, "#e0a238", "then refined"))[:1 + bool(refined)]:
            axis.errorbar([r["programs"] for r in some], [r[metric][0] for r in some], [r[f"{metric}_gain"][1] for r in some], color=colour, marker="o", capsize=3,
                          label=label)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("programs sampled per image")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=9, loc="lower right", title="bars: error of the gain on greedy", title_fontsize=9)
    figure.savefig(out / "search.png")
    plt.close(figure)


# -------------------------------------------------------------------------------------------------------- one image

def comparison(target, render, caption):
    """Two pictures, uint8 [H, W, 3] and [h, w, 3] -> PIL image: target | render | difference (white: none), a caption below."""
    side = max(*target.shape[:2], *render.shape[:2])
    zoom = max(1, round(256 / side))  # whole pixels, so that a small picture stays sharp
    a, b = (letterbox(picture, side).astype(int) for picture in (target, render))
    panels = np.concatenate([a, b, 255 - abs(a - b)], 1).repeat(zoom, 0).repeat(zoom, 1).astype(np.uint8)  # [zoom side, 3 zoom side, 3]
    sheet = Image.new("RGB", (panels.shape[1], panels.shape[0] + 22), "white")
    sheet.paste(Image.fromarray(panels))
    ImageDraw.Draw(sheet).rectangle((side * zoom, 0, 2 * side * zoom, side * zoom), outline="#9aa5b8")
    ImageDraw.Draw(sheet).text((6, panels.shape[0] + 5), caption, "black")
    return sheet


def one_image(args):
    """Image -> code on stdout; OUT/answer.*, render.png, comparison.png. Without --language in the one whose greedy program comes closest."""
    from generate import rollout_seed
    path, out = Path(args.image), Path(args.out or "out/image")
    if not path.is_file():
        raise SystemExit(f"error: there is no image at {path}.")
    sample = data.Sample("", "", path.read_bytes(), id=path.name)
    try:
        sample.width, sample.height = data.open_image(sample).size
        policy = load_model(args.model)
        policy.encode("", data.open_image(sample))
    except ValueError as e:
        raise SystemExit(f"error: {path}: {e}.") from None
    languages = [args.language] if args.language else [name for name in data.LANGUAGES if args.unsafe_render or not available()[name]] or data.LANGUAGES
    sampler = lambda samples, seeds: ask(policy, samples, seeds, args.max_new_tokens, args.slots, args.top_p)
    with judges(args.workers, args.render_timeout, args.unsafe_render) as assess:
        tries = [replace(sample, language=name, prompt=f"Write {data.NAMES[name]} code that draws this image.") for name in languages]
        candidates = [group[0] for group in assess(tries, sampler(tries, [None] * len(tries)))]
        chosen, programs = best(candidates), len(candidates)
        if chosen is None:
            raise SystemExit(f"error: the renderer failed ({candidates[0]['message']}). `python render.py --doctor` says what is missing.")
        sample = tries[candidates.index(chosen)]
        for name, c in zip(languages if len(languages) > 1 else (), candidates):
            print(f"{name:7} reward {c['reward']:.3f}" + ("" if c["status"] == "ok" else f"  {c['status']}: {c['message']}"), file=sys.stderr)
        if args.best_of > 1:
            (more,) = assess([sample], sampler([sample], [[rollout_seed(args.seed, sample.id, k) for k in range(args.best_of - 1)]]))
            chosen, programs = best([chosen, *more]), programs + len(more)
        for round in range(1, args.refine + 1):
            (more,) = correct([sample], [chosen], sampler, assess, args.proposals, args.seed, round)
            chosen, programs = best([chosen, *more]), programs + len(more)
        code = extract_code(chosen["response"], sample.language)[0]
        print(chosen["response"] if code is None else code)
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"answer{next(ending for ending, language in ENDINGS.items() if language == sample.language)}"
        write_text(file, chosen["response"] if code is None else code)
        if code is None:
            end = {"length": "the --max-new-tokens limit", "unusable": "the context, which prompt and --max-new-tokens exceed"}.get(chosen["finish"], "the model")
            raise SystemExit(f"error: the answer holds no single ```{sample.language} block ({chosen['tokens']} tokens, ended by {end}); it is in {file}.")
        if chosen["status"] != "ok":
            raise SystemExit(f"error: the program does not render ({chosen['status']}: {chosen['message']}); it is in {file}.")
        assess([sample], [[chosen]], out / "render.png")
    scores = f"reward {chosen['reward']:.3f}, outside metric {chosen['outside']:.3f}"
    comparison(np.asarray(data.open_image(sample)), np.asarray(Image.open(out / "render.png").convert("RGB")),
               f"target | render | difference: {scores}").save(out / "comparison.png")
    print(f"{sample.language}, {programs} program{'s' * (programs > 1)} sampled: {scores}; wrote {file}, render.png and comparison.png beside it", file=sys.stderr)
