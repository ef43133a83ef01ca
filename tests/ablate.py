"""What the parts of the method are worth, in miniature: the main job's data and tiny model, one thing changed at a time.

    python tests/ablate.py OUT --seeds 0 1 2          # about 26 min a seed on 2 idle cores; repeated, it goes on where it stopped
    python tests/ablate.py OUT --seeds 0 1 2 --docs   # the same, and docs/ablations.* are written anew
    python virl.py --reward ablate:fine_only          # with PYTHONPATH=tests: one of the rewards below

Of each seed (data, tiny model, order, rollouts): SFT; SFT continued on the same labels (the control); SFT + ViRL with the reward as it is and
with others; with VinciCoder's advantages; and SFT + ViRL that never see a refinement sample. Budgets are counted in steps, so that a busy
machine changes nothing: ViRL takes its default 144, the control CONTROL of SFT, what an idle machine does in the seconds of 144 ViRL steps.
All are judged alike by eval.py: the default reward, and the outside metric, which shares no code with it. Reported are the seeds of which every
run is complete. Not computed: VinciCoder's own reward (virl.py --reward paper), which needs the weights of a vision encoder.

Writes OUT/seed_N (models, evaluations), OUT/ablations.json (each run: means and standard errors over items), a table on stdout, OUT/ablations.png.
"""
import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
import cli  # noqa: E402

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import reward as R  # noqa: E402
import stats  # noqa: E402

CONTROL = 690  # SFT steps of .16 s in the 110 s of ViRL's 144 steps, 2 idle cores
TIMEOUT = ["--render-timeout", "60"]  # seconds: a busy machine must not fail a program
METRICS = ("execution", "visual", "reward", "outside")
MODES = {"greedy": "greedy", "t1": "T=1"}
TABLES = (("All 768 held-out images", "all=all", ""), ("All, paired difference to SFT + ViRL", "all=all", "virl"), ("Generation alone", "task=generate", ""),
          ("Generation alone, paired difference to SFT + ViRL", "task=generate", "virl"), ("Refinement alone", "task=refine", ""))
# name: (label, stage, directory of the model it starts from, split of the samples, further flags); in the order in which they run
RUNS = {
    "sft": ("SFT", "sft", "tiny", "data", ["--build-tiny"]),
    "virl": ("SFT + ViRL", "virl", "sft", "data", []),
    "control": ("SFT continued (control)", "sft", "sft", "data", ["--steps", str(CONTROL)]),
    "ssim": ("ViRL, reward: SSIM", "virl", "sft", "data", ["--reward", "ablate:ssim"]),
    "coarse": ("ViRL, reward: coarse alone", "virl", "sft", "data", ["--reward", "ablate:coarse_only"]),
    "fine": ("ViRL, reward: fine alone", "virl", "sft", "data", ["--reward", "ablate:fine_only"]),
    "paper_no_format": ("ViRL, paper's advantages, no format term", "virl", "sft", "data", ["--advantage", "paper", "--reward", "ablate:no_format"]),
    "paper": ("ViRL, paper's advantages", "virl", "sft", "data", ["--advantage", "paper"]),
    "both": ("ViRL, reward: coarse + fine", "virl", "sft", "data", ["--reward", "ablate:coarse_and_fine"]),
    "sft_generate": ("SFT without refinement", "sft", "tiny", "generate", []),
    "virl_generate": ("SFT + ViRL without refinement", "virl", "sft_generate", "generate", []),
}


# ---------------------------------------------------------------------------------------------------------------- rewards

def weighted(weights, target, render, response, language, known, reference_code):
    """The reward with other weights of its terms, {term: weight}; the factors for size and for what is drawn at all stay."""
    parts = R.score(target, render, response, language, known, reference_code)
    if "drawn" in parts:  # there is a picture
        parts["visual"] = parts["size"] * parts["drawn"] * sum(weight * parts[term] for term, weight in weights.items())
    parts["reward"] = R.WEIGHT_FORMAT * parts["format"] + R.WEIGHT_VISUAL * parts["visual"] - parts["length_penalty"]
    return parts


def coarse_only(target, render, response, language, known=None, reference_code=None, encoder=None):
    return weighted({"coarse": 1}, target, render, response, language, known, reference_code)


def fine_only(target, render, response, language, known=None, reference_code=None, encoder=None):
    return weighted({"fine": 1}, target, render, response, language, known, reference_code)


def coarse_and_fine(target, render, response, language, known=None, reference_code=None, encoder=None):
    return weighted({"coarse": 0.5, "fine": 0.5}, target, render, response, language, known, reference_code)


def no_format(target, render, response, language, known=None, reference_code=None, encoder=None):
    """Without the format term. Under --advantage decoupled, which sees execution and visual alone, it would change next to nothing."""
    parts = R.score(target, render, response, language, known, reference_code)
    parts["reward"] -= R.WEIGHT_FORMAT * parts["format"]
    return parts


def ssim(target, render, response, language, known=None, reference_code=None, encoder=None):
    """Mean SSIM of the colour channels (Wang et al. 2004; scikit-image's defaults), negative ones 0, in place of the visual score."""
    from skimage.metrics import structural_similarity
    parts = R.score(target, render, response, language, known, reference_code)
    if "drawn" in parts:
        height, width = target.shape[:2]
        a, b = R.fit(target, width, height), R.fit(render.image, width, height)  # [H, W, 3] in [0, 1]
        parts["visual"] = max(0.0, float(structural_similarity(a, b, channel_axis=-1, data_range=1)))
    parts["reward"] = R.WEIGHT_FORMAT * parts["format"] + R.WEIGHT_VISUAL * parts["visual"] - parts["length_penalty"]
    return parts


# ------------------------------------------------------------------------------------------------------------------- runs

def run(file, *command):
    """Run a script of the repository unless FILE, the last thing it writes, is there. Raises SystemExit when it fails or was interrupted."""
    if file.exists():
        return
    print("$ python", *command, flush=True)
    paths = os.pathsep.join(filter(None, (str(REPO / "tests"), os.environ.get("PYTHONPATH"))))  # where --reward ablate:... is found
    environment = {**os.environ, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"}
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the script's: subprocess.run would kill it while it saves
    code = subprocess.run([sys.executable, *map(str, command)], cwd=REPO, env=environment).returncode
    signal.signal(signal.SIGINT, before)
    if code in (130, -signal.SIGINT):
        print("interrupted: the same command of ablate.py goes on.", file=sys.stderr)
        raise SystemExit(130)
    if code or not file.exists():
        raise SystemExit(f"error: the command above ended with code {code} and without {file}. After mending it the same command goes on.")


def without_refinement(source, out):
    """Write the samples of `source` whose task is not refine to the parquet file `out`."""
    if not out.exists():
        import data
        out.parent.mkdir(parents=True, exist_ok=True)
        data.write_samples([s for s in data.read_samples(source) if s.task != "refine"], out)


def run_seed(out, seed):
    """All runs of one seed and their evaluations, in OUT/seed_N; what is finished is not done again."""
    here = out / f"seed_{seed}"
    run(here / "data/rl/part-0.parquet", "data.py", "synth", "--out", here / "data", "--seed", seed)
    for split in ("sft", "rl"):
        without_refinement(here / "data" / split, here / "generate" / split / "part-0.parquet")
    for name, (label, stage, start, split, flags) in RUNS.items():
        resume = ["--resume"] if list((here / name / "state").glob("step_*")) else []
        common = ["--model", here / start, "--out", here / name, "--eval-every", 0, *flags, *resume]
        if stage == "sft":
            common += ["--data", here / split / "sft", "--render-every", 0, "--seed", seed + (name == "control")]
        else:
            common += ["--data", here / split / "rl", *TIMEOUT, "--seed", seed]
        run(here / name / "config.json", f"{stage}.py", *common)
        run(here / "eval" / name / "report.html", "eval.py", "--model", here / name, "--data", here / "data/test", "--out", here / "eval" / name, "--label", label,
            "--samples", 2, *TIMEOUT, "--seed", seed, "--resume")


# ----------------------------------------------------------------------------------------------------------------- report

def collect(out):
    """A dict of each of OUT's finished evaluations: run, label, seed, steps, seconds, status, groups {group: {mode: {metric: (mean, standard error)}}}
    and paired, the same of the differences to the run "virl" of this seed; all over items."""
    found = []
    for here in sorted(out.glob("seed_*"), key=lambda path: int(path.name[5:])):
        items = {}  # {run: {mode: {id: {metric: mean over the item's answers}}}}
        for name, (label, *_) in sorted(RUNS.items(), key=lambda run: run[0] != "virl"):  # what the others are compared with comes first
            if not (here / "eval" / name / "report.html").exists():
                continue
            items[name] = stats.item_means(stats.read_lines(here / "eval" / name / "scores.jsonl"))
            mine, base = items[name], items.get("virl", items[name])
            asked = stats.groups_of({item["id"]: item for item in stats.read_lines(here / "eval" / name / "items.jsonl")})
            difference = lambda ids, a, b, m: stats.mean_se([a[i][m] - b[i][m] for i in sorted(ids & a.keys() & b.keys())])
            differences = {"=".join(group): {mode: {m: difference(ids, mine[mode], base[mode], m) for m in METRICS} for mode in MODES}
                           for group, ids in asked.items() if group[0] in ("all", "task")}
            scores = json.loads((here / "eval" / name / "scores.json").read_text())
            last = json.loads((here / name / "metrics.jsonl").read_text().splitlines()[-1])
            groups = {group: {mode: {"n": of[mode]["n"], **{m: of[mode][m] for m in METRICS}} for mode in MODES}
                      for group, of in scores["groups"].items() if group.split("=")[0] in ("all", "task", "source", "language")}
            found.append({"run": name, "label": label, "seed": int(here.name[5:]), "steps": last["step"], "seconds": round(last["seconds"], 1),
                          "status": scores["status"], "groups": groups,
                          "paired": differences if "virl" in items else None})
    return found


def over_seeds(found):
    """[(mean, standard error over items)] of the seeds -> mean and standard error over seeds; of a single seed its own."""
    return stats.mean_se([mean for mean, _ in found]) if len(found) > 1 else found[0]


def table(rows, seeds, group, reference=""):
    """Markdown lines of the runs: mean ± standard error over seeds (of a single seed: over items). With a reference, the run "virl", the differences
    to it, * beyond two errors both over seeds and over the items of all seeds: the spread of two or three seeds alone is small by chance too often."""
    short = lambda x, signed="": f"{x:{signed}.3f}".replace("0.", ".", 1)
    found = {(r["run"], r["seed"]): r["paired" if reference else "groups"][group] for r in rows if r["seed"] in seeds}
    lines = ["| | " + " | ".join(f"{m} {MODES[mode]}" for m in METRICS for mode in MODES) + " |", "|---|" + "---|" * (len(METRICS) * len(MODES))]
    for name, (label, *_) in RUNS.items():
        if name == reference:
            continue
        cells = []
        for m, mode in ((m, mode) for m in METRICS for mode in MODES):
            each = [found[name, s][mode][m] for s in seeds]
            mean, se = over_seeds(each)
            told_apart = reference and abs(mean) > 2 * max(se, math.hypot(*(error for _, error in each)) / len(each))
            cells.append(short(mean, "+" if reference else "") + f"±{short(se)}" + "*" * bool(told_apart))
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def figure(rows, over, path):
    """The outside metric of each run on the two tasks: mean, standard error over what `over` says, and each seed as a dot."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for ax, task in zip(axes, ("generate", "refine")):
        for mode, colour, shift in (("greedy", "#1f5fa8", 0.14), ("t1", "#c8641e", -0.14)):
            for y, name in enumerate(RUNS):
                found = [r["groups"][f"task={task}"][mode]["outside"] for r in rows if r["run"] == name]
                mean, se = over_seeds(found)
                if mean < 0.1:  # would press all others together
                    ax.text(0.01, y, f"{mean:.2f}", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
                    continue
                ax.plot([mean for mean, _ in found], [y - shift] * len(found), "o", color=colour, alpha=0.35, markersize=3.5, markeredgewidth=0)
                ax.errorbar(mean, y - shift, xerr=se, fmt="|", color=colour, capsize=3, markersize=9, label=MODES[mode] if y == 0 else None)
        ax.set_title(f"task: {task}", fontsize=9)
        ax.set_xlabel(f"outside metric: mean, standard error over {over}, each seed", fontsize=8)
        ax.tick_params(axis="x", labelsize=8)
        ax.grid(axis="x", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(RUNS)), [label for label, *_ in RUNS.values()], fontsize=8)
    axes[0].invert_yaxis()
    axes[0].legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("out", help="directory to write, of an earlier call too")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="seeds to run (none: only report what is there)")
    parser.add_argument("--docs", action="store_true", help="write docs/ablations.json, docs/ablations.png and the tables of docs/ablations.md as well")
    args = parser.parse_args()
    out = Path(args.out).resolve()
    for seed in args.seeds:
        started = time.perf_counter()
        run_seed(out, seed)
        print(f"seed {seed}: {(time.perf_counter() - started) / 60:.0f} min", flush=True)
    rows = collect(out)
    seeds = [s for s in sorted({r["seed"] for r in rows}) if {r["run"] for r in rows if r["seed"] == s} == {*RUNS}]
    rounded = json.loads(json.dumps(rows), parse_float=lambda x: round(float(x), 5))
    (out / "ablations.json").write_text("{\n" + f'"complete seeds": {seeds},\n"runs": [\n' + ",\n".join(map(json.dumps, rounded)) + "\n]}\n")
    if not seeds:
        raise SystemExit(f"error: no seed in {out} is complete yet: {len(rows)} runs are evaluated, a seed has {len(RUNS)}.")
    rows, text = [r for r in rows if r["seed"] in seeds], ""
    over = f"{len(seeds)} seeds" if len(seeds) > 1 else "the images of one seed"
    for title, group, reference in TABLES:
        note = ", * more than two of them, over all images too" if reference else ""
        text += "\n".join([f"\n{title}; mean ± standard error over {over}{note}:\n", *table(rows, seeds, group, reference), ""])
    print(text)
    figure(rows, over, out / "ablations.png")
    if args.docs:
        page = REPO / "docs" / "ablations.md"
        page.write_text(re.sub(r"(?<=<!-- tables -->\n).*?(?=<!-- /tables -->)", lambda match: text + "\n", page.read_text(), flags=re.S))
        for name in ("ablations.json", "ablations.png"):
            shutil.copy(out / name, REPO / "docs" / name)


if __name__ == "__main__":
    main()
