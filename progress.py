"""The page to leave open while virl.py trains: OUT/progress.html, curves above, and step by step what the policy draws.

Built like report.html (report.py): text of the model is escaped, and the page may load nothing. It reloads itself.
"""
import numpy as np
from PIL import Image

import data
from report import STYLE, Html, curves, data_uri, tag

SIDE = 224  # pixels of a picture's longer side at most


def card(group, k):
    """Html of one virl.Group, settled: the target, and render and code of its rollout k; the rewards of all G."""
    def picture(image):
        if image is None:
            return tag("div", group.rows[k]["status"], class_="pic none")
        (small := Image.fromarray(image)).thumbnail((SIDE, SIDE))
        return tag("div", tag("img", src=data_uri(data.png(np.asarray(small)), "png")), class_="pic")

    scores = ", ".join(f"{row['reward']:.2f}" for row in group.rows)
    target = np.asarray(data.open_image(group.sample))  # [H, W, 3]
    pair = tag("div", picture(target), picture(group.renders[k]), class_="pair")
    return tag("div", tag("header", tag("b", group.sample.id), f"rewards {scores}"),
               tag("div", pair, tag("pre", group.rollouts[k].text), class_="strip"), class_="card")


def write_progress(out, step, groups, shown=6):
    """Write OUT/progress.html anew, with the best rollout of each of the first `shown` groups of this step on top.

    out: Path of a run of virl.py; groups: list of virl.Group, settled. What a step shows is kept in
    OUT/samples/step_N.html; steps later than this one, of a run that was resumed from an older state, are left out.
    """
    best = [max(range(len(g.rows)), key=lambda k: np.nan_to_num(g.rows[k]["reward"], nan=-9)) for g in groups[:shown]]
    (out / "samples").mkdir(exist_ok=True)
    section = tag("section", tag("h2", f"step {step}"), [card(group, k) for group, k in zip(groups, best)])
    (out / "samples" / f"step_{step}.html").write_text(section, encoding="utf-8")
    steps = sorted((n for p in (out / "samples").glob("step_*.html") if (n := int(p.stem[5:])) <= step), reverse=True)
    sections = [Html((out / "samples" / f"step_{n}.html").read_text(encoding="utf-8")) for n in steps]
    lead = "Running means over seconds of training. Below them: target, render and code of the best of each group."
    main = tag("main", tag("h1", f"ViRL, step {step}"), tag("p", lead, class_="lead"),
               tag("section", tag("div", curves([out]), class_="figures")), sections)
    replace = out / "progress.html.tmp"
    replace.write_text(f"""<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=20>
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>ViRL, step {step}</title><style>{STYLE}</style>{main}</html>""", encoding="utf-8")
    replace.replace(out / "progress.html")
