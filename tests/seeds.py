"""The tables of README.md: the main job run with several seeds, all held-out images taken together.

    for seed in 0 1 2; do bash run.sh --seed $seed --out out$seed; done
    python tests/seeds.py out0 out1 out2            # print them
    python tests/seeds.py out0 out1 out2 --docs     # and write them into README.md
"""
import argparse
import re
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
import cli  # noqa: E402

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import stats  # noqa: E402

RUNS = ("sft", "control", "virl")  # below OUT/eval
GROUPS = (("all", "all"), ("source", "synth/labelled"), ("source", "synth/target-only"))
HEADS = ("all", "like the labels", "larger than any label")


def pooled(seeds):
    """[OUT/eval's runs of each seed, as stats.load_runs gives them] -> the same runs over the items of all seeds."""
    runs = []
    for of in zip(*seeds):
        items = {(s, i): item for s, run in enumerate(of) for i, item in run["items"].items()}
        means = {mode: {(s, i): row for s, run in enumerate(of) for i, row in run["means"].get(mode, {}).items()} for mode in of[0]["means"]}
        runs.append({**of[0], "items": items, "means": means, "table": stats.summarise(means, items)})
    return runs


def score_lines(runs):
    """Markdown: mean ± standard error over images, of all languages and of each, baselines below the first."""
    modes = stats.modes_of(runs)
    lines = ["| | " + " | ".join(f"{m} {mode}" for m in stats.SHOWN for mode in modes.values()) + " |", "|---|" + "---|" * (len(stats.SHOWN) * len(modes))]
    _, rows = stats.score_table(runs, "language")
    group = ""
    for kind, label, _, *cells in rows:
        group = kind or group
        if label in stats.BASELINES.values() and group != "all":
            continue
        lines.append(f"| {'' if group == 'all' else group + ': '}{label} | " + " | ".join("" if cell == "-" else cell for cell in cells) + " |")
    return lines


def difference_lines(runs, seeds):
    """Markdown: the last run minus the one before, paired by image; in brackets each seed's mean; * beyond two standard errors."""
    (a, b), modes = runs[-2:], stats.modes_of(runs)
    short = lambda x, form: re.sub(r"\b0\.", ".", f"{x:{form}}")
    groups = stats.groups_of(b["items"])
    lines = [f"| {b['label']} - {a['label'].split(' (')[-1].rstrip(')')} | " + " | ".join(HEADS) + " |", "|---|---|---|---|"]
    for mode, name in modes.items():
        gains = [stats.paired(a["means"][mode], b["means"][mode], groups[g]) for g in GROUPS]
        each = [[stats.paired(x["means"][mode], y["means"][mode], stats.groups_of(y["items"])[g]) for x, y in (s[-2:] for s in seeds)] for g in GROUPS]
        for metric in stats.SHOWN:
            cells = []
            for gain, of in zip(gains, each):
                mean, se, *_ = gain[metric]
                cells.append(f"{short(mean, '+.3f')}±{short(se, '.3f')}{'*' * (abs(mean) > 2 * se)} ({', '.join(short(g[metric][0], '+.3f') for g in of)})")
            lines.append(f"| {metric} {name} | " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="+", help="OUT of run.sh, one of each seed")
    parser.add_argument("--docs", action="store_true", help="write the tables into README.md as well")
    args = parser.parse_args()
    seeds = [stats.load_runs([Path(out, "eval", name) for name in RUNS]) for out in args.out]
    runs = pooled(seeds)
    text = "\n".join([*score_lines(runs), "", "Paired differences, in brackets those of each seed; * marks more than two standard errors:", "", *difference_lines(runs, seeds)])
    print(text)
    if args.docs:
        page = REPO / "README.md"
        page.write_text(re.sub(r"(?<=<!-- numbers -->\n).*?(?=\n<!-- /numbers -->)", lambda match: text, page.read_text(), flags=re.S))


if __name__ == "__main__":
    main()
