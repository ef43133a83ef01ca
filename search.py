"""Search at test time: several programs per image, the closest kept and corrected; one image -> code.

    python eval.py --model out/virl --data out/data/test --out out/eval/search --best-of 8 --refine 2
    torchrun --nproc_per_node=8 eval.py --model DIR --data DIR --out OUT --best-of 8 --refine 2
    python eval.py --model out/virl --image shot.png --best-of 8 --refine 2            # finds the language, too

The target is the input, so programs can be judged without a label. Best-of N: of the greedy answer and N - 1 at
temperature 1 the one whose render has the highest reward (reward.py, no reference program), the first of equal ones;
with the greedy answer among them best-of is never worse by its own judge. A round of refinement shows the model the
best program in the words of the refinement samples (refine.py), draws `--proposals` corrections at temperature 1, and
takes the best of them if it beats the program shown. An image that is met exactly is left alone. One image without
--language: a greedy program per language, the closest decides.

What our own renderer fails at has no reward: it is neither chosen nor grounds for a rejection, and counted.

The reward chooses, so its own gain says little: it is the greatest of N numbers. The gain to believe is that of the
outside metric (metrics.py), which no choice ever sees.

OUT gets search.jsonl (a line per item and round: every candidate with its scores), the chosen answers as modes "bestN"
and "bestN+refineK" of predictions.jsonl, the curve of quality against compute as search.json and search.png.

Programs are rendered and judged while others are still sampled. Left out here: tree search, a learned judge.
"""
import contextlib
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

import data
from eval import ask, load_model, read_predictions
from metrics import letterbox
from refine import refine_prompt
from render import ENDINGS, available
from scoring import Answer, code_of, judge, workshop
from stats import (MODES, append_lines, mean_se, print_table, read_lines, salvage_lines, short, write_json,
                   write_lines, write_text)

EXACT = 0.9995  # reward from which nothing is left to correct
ANSWER = ("response", "finish", "tokens")  # what a candidate keeps of a prediction


# ------------------------------------------------------------------------------------------------- asking and judging

class Judges:
    """Render and judge answers while others are still sampled; they are told nothing of a reference program."""

    def __init__(self, renderer, pool, threads):
        """As `workshop` gives them."""
        self.renderer, self.pool, self.threads = renderer, pool, threads

    def begin(self, sample, response):
        """Have the program in a response rendered: Future[Render], None where there is no code.

        Raises SystemExit with one line where it cannot be confined.
        """
        code = code_of(response, sample.language)
        try:
            return self.renderer.submit(sample.language, code, (sample.width, sample.height)) if code else None
        except RuntimeError as e:
            raise SystemExit(f"error: {e}") from None

    def judge(self, sample, answers, jobs, path=None):
        """Judge the answers, dicts with `response`, to one Sample: Future of the same dicts with scoring.judge's keys.

        jobs: of `begin`, one per answer; path: where the picture is written.
        """
        return self.threads.submit(self.judged, sample, answers, jobs, path)

    def judged(self, sample, answers, jobs, path):
        """What the Future of `judge` becomes; equal answers are judged once."""
        drawn = {a["response"]: Answer(a["response"], job and job.result(), path) for a, job in zip(answers, jobs)}
        rows = self.pool.submit(judge, sample.image, sample.language, "", list(drawn.values())).result()
        found = dict(zip(drawn, rows))
        return [{**a, **found[a["response"]]} for a in answers]


@contextlib.contextmanager
def judging(workers=None, timeout=10.0, unsafe=False):
    """Context: Judges of their own processes; arguments as of render.Renderer."""
    with workshop(workers, timeout, unsafe) as tools:
        yield Judges(*tools)


def settled(futures):
    """Results of Futures. Raises SystemExit with one line where a judging process was killed."""
    try:
        return [future.result() for future in futures]
    except RuntimeError as e:
        raise SystemExit(f"error: {e}") from None


def explore(policy, judges, samples, seeds, max_new_tokens, slots, top_p=1.0):
    """Ask a Policy and judge: a list of dicts per Sample, its answers as `Judges.judge` gives them.

    seeds: a list of ints per sample, equally many, for answers at temperature 1; None: the greedy answer of each. A
    program is rendered as soon as its answer ends, and the answers to a sample judged when all have ended, while others
    are still decoded. Raises SystemExit as `settled` and `Judges.begin` do.
    """
    group, waiting, judged = len(seeds[0]) if seeds else 1, [{} for _ in samples], [None] * len(samples)

    def on_answer(i, k, answer):
        waiting[i][k] = answer, judges.begin(samples[i], answer["response"])
        if len(waiting[i]) == group:
            judged[i] = judges.judge(samples[i], *zip(*(waiting[i].pop(k) for k in range(group))))

    temperature, seeds = float(seeds is not None), seeds or [[0]] * len(samples)
    ask(policy, samples, group, max_new_tokens, temperature, seeds, slots, top_p, on_answer)
    return settled(judged)


def best(candidates):
    """The candidate of the highest reward, the first of equal ones; None where our renderer failed at all of them."""
    return max((c for c in candidates if c["status"] != "infra"), key=lambda c: c["reward"], default=None)


def correction(sample, candidate, round):
    """The Sample that asks for a correction of a candidate in the words of the refinement samples.

    It is `sample` again where the candidate has no code. The refinement samples of refine.py say how a program fails,
    those of synth.py do not, and a model answers badly to what it has not met (of the embedded default's answers 2 %
    run with the message, 83 % without): odd rounds say it, even ones do not.
    """
    code = code_of(candidate["response"], sample.language)
    message = "" if candidate["status"] == "ok" or round % 2 == 0 else candidate["message"] or candidate["status"]
    return sample if code is None else replace(sample, prompt=refine_prompt(sample.language, code, message))


def correct(samples, chosen, exploring, proposals, seed, round):
    """One round of refinement: the candidates of each Sample, none where nothing is to be done.

    chosen: the best candidate of each so far, or None; exploring(samples, seeds): as `explore`.
    """
    from generate import rollout_seed
    todo = [i for i, c in enumerate(chosen) if c and c["reward"] < EXACT]
    found = [[] for _ in samples]
    if todo:
        seeds = [[rollout_seed(seed, samples[i].id, f"refine{round}", k) for k in range(proposals)] for i in todo]
        for i, candidates in zip(todo, exploring([correction(samples[i], chosen[i], round) for i in todo], seeds)):
            found[i] = candidates
    return found


# --------------------------------------------------------------------------------------------------- a whole test set

def finished(out):
    """{(id, round): candidates} of what search.jsonl and the ranks' own files in OUT hold."""
    lines = {}
    for row in salvage_lines(filter(Path.exists, (out / "search.jsonl", *sorted(out.glob("search.rank*.jsonl"))))):
        id_, round, candidates = ((row or {}).get(k) for k in ("id", "round", "candidates"))
        if isinstance(id_, str) and isinstance(round, int) and isinstance(candidates, list):
            lines[id_, round] = candidates
    return lines


def search(load, judging, samples, out, best_of, rounds, proposals, max_new_tokens, seed, slots=128, rank=0, world=1,
           top_p=1.0):
    """Write OUT/search.jsonl and the chosen answers as modes of OUT/predictions.jsonl, which `eval.predict` has begun.

    load() -> Policy; judging(): the context above. Each line is written as it is known and resumed from; ranks, and
    what OUT holds beyond, as in `predict`. Raises SystemExit with one line where OUT was searched with other numbers.
    """
    merged, log = out / "predictions.jsonl", out / "search.jsonl"
    first = [("greedy", 0)] + [("t1", k) for k in range(best_of - 1)]
    ids, mine = {s.id for s in samples}, samples[rank::world]
    needed = {(id_, *key) for id_ in ids for key in first}
    while not needed <= (found := read_predictions(filter(Path.exists, [merged]), ids)[0]).keys():
        time.sleep(1)  # rank 0 has not merged them yet
    wanted = [(s.id, round) for s in samples for round in range(rounds + 1)]
    done = finished(out)
    done = {key: done[key] for key in wanted if key in done}
    if any(len(c) not in ({best_of} if round == 0 else {0, proposals}) for (_, round), c in done.items()):
        raise SystemExit(f"error: {log} was made with another --best-of or --proposals: "
                         "give another --out, or remove it.")
    largest = max(s.width * s.height for s in samples)
    size = max(8, min(256, (64 << 20) // largest // max(best_of, proposals)))  # 64 Mpixel in memory
    batches = [mine[start:start + size] for start in range(0, len(mine), size)]
    title = "search" if world == 1 else f"search (rank {rank})"
    with append_lines(log if world == 1 else out / f"search.rank{rank}.jsonl") as write, judging() as judges, \
            tqdm(total=len(mine) * (rounds + 1), desc=title, unit="round", mininterval=1, position=rank) as bar:
        exploring = lambda prompts, seeds: explore(load(), judges, prompts, seeds, max_new_tokens, slots, top_p)

        def begin(batch):
            """[(Sample, Future of its candidates of round 0)] of those not known: predictions, to be judged only."""
            new = [s for s in batch if (s.id, 0) not in done]
            answers = [[{k: found[s.id, *key].get(k) for k in ANSWER} for key in first] for s in new]
            return [(s, judges.judge(s, group, [judges.begin(s, a["response"]) for a in group]))
                    for s, group in zip(new, answers)]

        def keep(some, new, round):
            for s, candidates in zip(some, new):
                done[s.id, round] = candidates
                write({"id": s.id, "round": round, "candidates": candidates})

        begun = begin(batches[0]) if batches else []
        for batch, following in zip(batches, [*batches[1:], []]):
            keep([s for s, _ in begun], settled([job for _, job in begun]), 0)
            begun = begin(following)  # judged while corrections to this batch are sampled
            chosen = {s.id: best(done[s.id, 0]) for s in batch}
            bar.update(len(batch))
            for round in range(1, rounds + 1):
                lacking = [s for s in batch if (s.id, round) not in done]
                shown = [chosen[s.id] for s in lacking]
                keep(lacking, correct(lacking, shown, exploring, proposals, seed, round), round)
                chosen = {i: best(filter(None, (c, *done[i, round]))) for i, c in chosen.items()}
                bar.update(len(batch))
    if rank == 0:
        while not set(wanted) <= (done := finished(out)).keys():
            time.sleep(1)  # the other ranks still write; torchrun ends us if one of them dies
        keys = dict.fromkeys(wanted) | done  # those of the samples first
        lines = [{"id": id_, "round": round, "candidates": done[id_, round]} for id_, round in keys]
        write_lines(log, lines)
        for file in out.glob("search.rank*.jsonl"):
            file.unlink()
        choose(out, lines[:len(wanted)], best_of, rounds)


def choose(out, lines, best_of, rounds):
    """Write the answers chosen from lines of search.jsonl as modes of predictions.jsonl; `write_curve` the curve."""
    points, answers = curve(lines), []
    names = [f"best{best_of}"] * (best_of > 1) + [f"best{best_of}+refine{rounds}"] * (rounds > 0)
    for id_ in points["greedy"]:
        answers += [{"id": id_, "mode": name, "k": 0, **{k: points[name][id_][k] for k in ANSWER}} for name in names]
    file = out / "predictions.jsonl"
    kept = [row for row in read_lines(file) if row["mode"] in MODES or row["id"] not in points["greedy"]]
    write_lines(file, kept + answers)
    write_curve(points, out)


def curve(lines):
    """Lines of search.jsonl -> {point: {id: its chosen candidate}}, each with `programs`, `spent` and `infra`.

    These are the programs and the tokens sampled up to there, and the failures of our renderer among them. Points:
    greedy, best-of 2, 4, 8 ... N of the same candidates, then the rounds of refinement. Where our renderer failed at
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
            counts = {"programs": len(candidates), "spent": sum(c["tokens"] or 0 for c in candidates),
                      "infra": sum(c["status"] == "infra" for c in candidates)}
            points.setdefault(point, {})[id_] = {**(best(candidates) or candidates[0]), **counts}
    return points


def write_curve(points, out):
    """Print the table of `curve`'s points, write OUT/search.json and search.png.

    Errors are over items, gains paired with greedy.
    """
    rows, start = [], points["greedy"]
    scored = lambda c: c["status"] != "infra"
    for name, chosen in points.items():
        known = {i: c for i, c in chosen.items() if scored(c)}
        row = {"point": name, "items": len(known), "infra": sum(c["infra"] for c in chosen.values()),
               **{k: float(np.mean([c[k] for c in chosen.values()])) for k in ("programs", "spent")}}
        for metric in ("outside", "reward", "execution"):
            row[metric] = mean_se([c[metric] for c in known.values()])
            gains = [c[metric] - start[i][metric] for i, c in known.items() if scored(start[i])]
            row[f"{metric}_gain"] = mean_se(gains)
        rows.append(row)
    write_json(out / "search.json", rows)
    pair = lambda mean, se, sign="": short(f"{mean:{sign}.4f}±{se:.4f}")
    print()
    head = ["search", "answers", "items", "programs", "tokens", "outside", "gain on greedy", "reward", "gain on greedy",
            "execution"]
    print_table(head, [
        ["", r["point"], str(r["items"]), f"{r['programs']:.2f}", f"{r['spent']:.0f}",
         pair(*r["outside"]), pair(*r["outside_gain"], "+"), pair(*r["reward"]), pair(*r["reward_gain"], "+"),
         f"{r['execution'][0]:.3f}"] for r in rows])
    print("programs and tokens: sampled per image. The reward chooses; the outside metric is never seen by the choice. "
          "Gains are paired."
          + (f" {rows[-1]['infra']} candidates lost to infra failures." if rows[-1]["infra"] else ""))
    draw_curve(rows, out / "search.png")


def draw_curve(rows, path):
    """Save the figure of search.json: outside metric and reward against the programs sampled per image."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), dpi=110, layout="constrained")
    sampled, refined = ([r for r in rows if ("+" in r["point"]) == search] for search in (False, True))
    lines = [(sampled, "#2e6fdb", "greedy, then best of N")]
    if refined:
        lines.append((sampled[-1:] + refined, "#e0a238", "then refined"))
    titles = {"outside": "outside metric (no choice sees it)", "reward": "reward (the judge)"}
    for axis, (metric, title) in zip(axes, titles.items()):
        for some, colour, label in lines:
            programs, means = [r["programs"] for r in some], [r[metric][0] for r in some]
            errors = [r[f"{metric}_gain"][1] for r in some]
            axis.errorbar(programs, means, errors, color=colour, marker="o", capsize=3, label=label)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("programs sampled per image")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=9, loc="lower right", title="bars: error of the gain on greedy",
                   title_fontsize=9)
    figure.savefig(path)
    plt.close(figure)


# -------------------------------------------------------------------------------------------------------- one image

def comparison(target, render, caption):
    """Two pictures, uint8 [H, W, 3] and [h, w, 3] -> PIL image: target | render | difference, a caption below.

    Where they do not differ the difference is white.
    """
    side = max(*target.shape[:2], *render.shape[:2])
    zoom = max(1, round(256 / side))  # whole pixels, so that a small picture stays sharp
    a, b = (letterbox(picture, side).astype(int) for picture in (target, render))
    panels = np.concatenate([a, b, 255 - abs(a - b)], 1)  # [side, 3 side, 3]
    panels = panels.repeat(zoom, 0).repeat(zoom, 1).astype(np.uint8)  # [zoom side, 3 zoom side, 3]
    sheet = Image.new("RGB", (panels.shape[1], panels.shape[0] + 22), "white")
    sheet.paste(Image.fromarray(panels))
    ImageDraw.Draw(sheet).rectangle((side * zoom, 0, 2 * side * zoom, side * zoom), outline="#9aa5b8")
    ImageDraw.Draw(sheet).text((6, panels.shape[0] + 5), caption, "black")
    return sheet


def closest(args, sample, exploring):
    """Sample programs that draw the image of `sample`, and correct them.

    -> (`sample` with the language found, the best candidate, how many programs were sampled)

    exploring(samples, seeds): as `explore`. Raises SystemExit where the renderer failed at every greedy program.
    """
    from generate import rollout_seed
    here = available()
    languages = [name for name in data.LANGUAGES if args.unsafe_render or not here[name]] or data.LANGUAGES
    if args.language:
        languages = [args.language]
    tries = [replace(sample, language=name, prompt=f"Write {data.NAMES[name]} code that draws this image.")
             for name in languages]
    candidates = [group[0] for group in exploring(tries, None)]
    chosen, programs = best(candidates), len(candidates)
    if chosen is None:
        raise SystemExit(f"error: the renderer failed ({candidates[0]['message']}). "
                         "`python render.py --doctor` says what is missing.")
    sample = tries[candidates.index(chosen)]
    for name, c in zip(languages if len(languages) > 1 else (), candidates):
        why = "" if c["status"] == "ok" else f"  {c['status']}: {c['message']}"
        print(f"{name:7} reward {c['reward']:.3f}{why}", file=sys.stderr)
    if args.best_of > 1:
        (more,) = exploring([sample], [[rollout_seed(args.seed, sample.id, k) for k in range(args.best_of - 1)]])
        chosen, programs = best([chosen, *more]), programs + len(more)
    for round in range(1, args.refine + 1):
        (more,) = correct([sample], [chosen], exploring, args.proposals, args.seed, round)
        chosen, programs = best([chosen, *more]), programs + len(more)
    return sample, chosen, programs


def one_image(args):
    """Image -> code on stdout; OUT/answer.*, render.png, comparison.png.

    Without --language the code is in that of the closest greedy program. Raises SystemExit with one line where there is
    no such image or no program that draws; what the model wrote is kept then, too.
    """
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
    with judging(args.workers, args.render_timeout, args.unsafe_render) as judges:
        exploring = lambda samples, seeds: explore(
            policy, judges, samples, seeds, args.max_new_tokens, args.slots, args.top_p)
        sample, chosen, programs = closest(args, sample, exploring)
        code = code_of(chosen["response"], sample.language)
        program = chosen["response"] if code is None else code
        print(program)
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"answer{next(ending for ending, language in ENDINGS.items() if language == sample.language)}"
        write_text(file, program)
        if code is None:
            ends = {"length": "the --max-new-tokens limit",
                    "unusable": "the context, which prompt and --max-new-tokens exceed"}
            raise SystemExit(f"error: the answer holds no single ```{sample.language} block "
                             f"({chosen['tokens']} tokens, ended by {ends.get(chosen['finish'], 'the model')}); "
                             f"it is in {file}.")
        if chosen["status"] != "ok":
            raise SystemExit(f"error: the program does not render ({chosen['status']}: {chosen['message']}); "
                             f"it is in {file}.")
        settled([judges.judge(sample, [chosen], [judges.begin(sample, chosen["response"])], out / "render.png")])
    scores = f"reward {chosen['reward']:.3f}, outside metric {chosen['outside']:.3f}"
    comparison(np.asarray(data.open_image(sample)), np.asarray(Image.open(out / "render.png").convert("RGB")),
               f"target | render | difference: {scores}").save(out / "comparison.png")
    print(f"{sample.language}, {programs} program{'s' * (programs > 1)} sampled: {scores}; "
          f"wrote {file}, render.png and comparison.png beside it", file=sys.stderr)
