"""One step of ViRL as a picture, from the rollouts that virl.py has written: docs/step.png.

    python tests/draw_step.py out/virl --data out/data/rl --step 1 --out docs/step.png

A row is a group: the target, then its eight rollouts by falling reward with the program, what it draws, reward and advantage.
"""
import argparse
import json
import sys
import textwrap
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cli  # noqa: E402

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np  # noqa: E402

from data import open_image, read_samples  # noqa: E402
from render import Renderer  # noqa: E402
from reward import extract_code  # noqa: E402


def chosen(groups, samples):
    """One group of each language, the one whose rewards are spread most: a list of (Sample, rollouts by falling reward)."""
    best = {}
    for identifier, rollouts in groups.items():
        sample, rewards = samples[identifier], [r["reward"] for r in rollouts]
        if np.std(rewards) > best.get(sample.language, (-1,))[0]:
            best[sample.language] = np.std(rewards), sample, sorted(rollouts, key=lambda r: -r["reward"])
    return [best[language][1:] for language in sorted(best)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="OUT of virl.py")
    parser.add_argument("--data", required=True, help="the samples it used")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--out", default="docs/step.png")
    args = parser.parse_args()
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in open(args.run / "rollouts" / f"step_{args.step}.jsonl")]
    groups = {k: list(g) for k, g in groupby(rows, lambda row: row["id"])}
    samples = {s.id: s for s in read_samples(args.data) if s.id in groups}
    if absent := groups.keys() - samples.keys():
        raise SystemExit(f"error: {args.data} has no sample {min(absent)}. Give the --data that {args.run} was trained on.")
    picked = chosen(groups, samples)
    columns = 1 + len(picked[0][1])
    figure, grid = plt.subplots(2 * len(picked), columns, figsize=(1.75 * columns, 3.5 * len(picked)), dpi=100,
                                gridspec_kw={"height_ratios": [1, 0.8] * len(picked), "hspace": 0.3, "wspace": 0.12})
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#ccc")
    with Renderer() as renderer:
        for r, (sample, rollouts) in enumerate(picked):
            target = np.asarray(open_image(sample))  # [H, W, 3]
            size = target.shape[1::-1]
            renders = [renderer.submit(sample.language, code, size) if (code := extract_code(x["response"], sample.language)[0]) else None for x in rollouts]
            grid[2 * r, 0].imshow(target)
            grid[2 * r, 0].set_title("target", fontsize=10, fontweight="bold")
            grid[2 * r + 1, 0].text(0.5, 0.5, sample.language, ha="center", va="center", fontsize=11)
            for c, (rollout, render) in enumerate(zip(rollouts, renders), 1):
                image, below = grid[2 * r:2 * r + 2, c]
                advantage = rollout["advantage"]
                shown = render and render.result()
                if shown and shown.image is not None:
                    image.imshow(shown.image)
                else:
                    image.text(0.5, 0.5, "no image", ha="center", va="center", color="#888", transform=image.transAxes)
                image.set_title(f"r {rollout['reward']:.2f}   A {advantage:+.1f}", fontsize=9.5, color="#060" if advantage > 0 else "#a00")
                below.text(0.02, 0.97, "\n".join(textwrap.wrap(" ".join(rollout["response"].split()), 25)[:12]), va="top", fontsize=5, family="monospace",
                           transform=below.transAxes)
                below.set_facecolor(matplotlib.colors.to_rgba("#2a2" if advantage > 0 else "#c22", min(0.35, abs(advantage) / 6)))
    figure.savefig(args.out, bbox_inches="tight")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
