"""From the files of scored runs to statistics, tables, comparisons and report.html: what `eval.py` writes last.

Standard errors are over items: the answers to an item are averaged first. Runs are compared over the items that all of them
answered, with paired bootstrap intervals (Efron & Tibshirani 1993, ch. 16).
"""
import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from metrics import OUTSIDE_PARTS

REWARD_PARTS = ("reward", "format", "execution", "visual", "coarse", "fine")
METRICS = REWARD_PARTS + OUTSIDE_PARTS
SHOWN = ("execution", "visual", "reward", "outside")  # the columns of tables and bars
MODES = {"greedy": "greedy", "t1": "T=1"}  # and those of search.py, named as they are: SEARCHED
SEARCHED = re.compile(r"best\d+(\+refine\d+)?")
BASELINES = {"blank": "blank canvas", "other": "random other", "copy": "copy input (refine)"}
MOST_SOURCES = 12


# ------------------------------------------------------------------------------------------------------------------ files

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


def modes_of(runs):
    """{mode: its name in tables} of those that any of the runs has: MODES first, then search.py's by the programs they take."""
    found = {mode for run in runs for mode in run["means"]}
    return {mode: name for mode, name in MODES.items() if mode in found} | {
        mode: mode for mode in sorted(filter(SEARCHED.fullmatch, found), key=lambda mode: [int(n) for n in re.findall(r"\d+", mode)])}


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
    rows, table, modes = [], runs[0]["table"], modes_of(runs)
    for group in (g for g in table if g[0] in ("all", kind)):
        lines = [(run["label"], [run["table"][group].get(mode) for mode in modes]) for run in runs]
        lines += [(name, [table[group][b], *[None] * (len(modes) - 1)]) for b, name in BASELINES.items() if b in table[group]]
        rows += [[group[1] if i == 0 else "", label, str(max((c["n"] for c in columns if c), default=0)),
                  *(cell(c, m) for m in metrics for c in columns)] for i, (label, columns) in enumerate(lines)]
    return [kind, "answers of", "items", *(m if mode == "greedy" else f"{m} {name}" for m in metrics for mode, name in modes.items())], rows


def difference_table(runs):
    """(head, rows) of the last run minus each other, over all items and per source; * marks more than two errors."""
    groups, rows = {g: ids for g, ids in groups_of(runs[0]["items"]).items() if g[0] in ("all", "source")}, []
    for other in runs[:-1]:
        first = f"{runs[-1]['label']} - {other['label']}"
        for mode, name in modes_of(runs).items():
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
    """Inline SVG: per group (all, languages) a bar per mode and run, the first solid, the others light, errors, baselines dashed."""
    groups = [g for g in runs[0]["table"] if g[0] in ("all", "language")]
    modes = modes_of(runs)
    wide = 14 * len(modes) + 2  # of a run's bars
    step, y = wide * len(runs) + 26, lambda v: 146 - 138 * max(0.0, min(1.0, v))
    parts = [f'<line x1=26 x2={26 + step * len(groups)} y1={y(v):.1f} y2={y(v):.1f} class=grid /><text x=20 y={y(v) + 4:.1f} '
             f'text-anchor=end>{v:g}</text>' for v in (0, 0.5, 1)]
    for i, group in enumerate(groups):
        left, columns = 34 + i * step, runs[0]["table"][group]
        for r, run in enumerate(runs):
            for m, mode in enumerate(modes):
                if metric in (column := run["table"][group].get(mode, {})):
                    (mean, se), x = column[metric], left + r * wide + m * 14
                    se = se if se == se else 0.0
                    parts.append(f'<rect x={x} y={y(mean):.1f} width=12 height={y(0) - y(mean):.1f} class="c{r % 6} m{min(m, 3)}"><title>'
                                 f'{html.escape(run["label"])}, {modes[mode]}: {cell(column, metric)}</title></rect>'
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
                for run, a in zip(runs, answers)] for mode in modes_of(runs)}
            items.append({"id": id_, "l": item["language"], "t": item["task"], "o": item["source"], "p": item["prompt"],
                          "a": item["answer"], "g": thumbnail(runs[0]["dir"] / item["target"]), "r": shown})
    return json.dumps({"runs": [r["label"] for r in runs], "metrics": METRICS, "modes": modes_of(runs), "items": items}).replace("<", "\\u003c")


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
        "At a glance": f'<div class=tiles>{tiles}</div><p class=legend>{legend}<span>bars of a run: {", ".join(modes_of(runs).values())}</span><span><b></b>blank '
                       f'canvas</span><span><b class=other></b>random other sample</span></p><div class=figures>'
                       f'{"".join(bars(runs, m) for m in SHOWN)}</div>',
        f"{last['label']} against the others": len(runs) > 1 and html_table(*difference_table(runs)) + "<p>Paired over the same items: mean ± "
                                               "standard error, * beyond two of them, [95 % bootstrap interval].</p>",
        **{f"By {kind}": html_table(*score_table(runs, kind), last["label"]) for kind in ("language", "source", "task")
           if any(g[0] == kind for g in last["table"])},
        "How to read this": "<p>execution: share of programs that render. visual and reward: what ViRL trains on. outside: a visual metric that "
                            "shares no code with the reward (masked SSIM, edges, palette, coarse layout). Columns without a name are greedy answers; T=1: sampled; bestN+refineK: "
                            "the best of N programs by their reward, then K rounds of refinement.</p><ul>"
                            + "".join(f"<li>{esc(run['label'])}: {esc(run['counts'])}</li>" for run in runs) + "</ul>",
        "Search at test time": "".join(f'<figure><h4>{esc(run["label"])}</h4><img alt="quality against programs sampled per image" src="data:image/png;base64,'
                                       f'{base64.b64encode((run["dir"] / "search.png").read_bytes()).decode()}"></figure>'
                                       for run in runs if any(map(SEARCHED.fullmatch, run["means"])) and (run["dir"] / "search.png").is_file()),
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
figure{margin:0}figure img{max-width:100%}svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}.grid{stroke:var(--line)}.error{stroke:var(--ink);stroke-width:1.3}
.base{stroke:var(--soft);stroke-width:1.6;stroke-dasharray:5 3}.base.other{stroke:var(--k5)}.m1{opacity:.5}.m2{opacity:.7}.m3{opacity:.85}polyline{fill:none;stroke:var(--c);stroke-width:1.8}rect{fill:var(--c)}i{background:var(--c)}
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
