"""From the files of scored runs to statistics, tables, comparisons and report.html: what `eval.py` writes last.

The page's style and script are report.css and report.js beside this file; they are copied into the page.

Standard errors are over items: the answers to an item are averaged first. Runs are compared over the items that all of them
answered, with paired bootstrap intervals (Efron & Tibshirani 1993, ch. 16).
"""
import base64
import gzip
import hashlib
import html
import io
import json
import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw

import benchmarks
from domain import ENCODERS, METRICS as DOMAIN_METRICS, REFINE, refine_scores
from metrics import OUTSIDE_PARTS

REWARD_PARTS = ("reward", "format", "execution", "visual", "coarse", "fine")
METRICS = REWARD_PARTS + OUTSIDE_PARTS
SHOWN = ("execution", "visual", "reward", "outside")  # the columns of tables and bars
MODES = {"greedy": "greedy", "t1": "T=1"}  # and those of search.py, named as they are: SEARCHED
SEARCHED = re.compile(r"best\d+(\+refine\d+)?")
BASELINES = {"blank": "blank canvas", "other": "random other", "copy": "copy input (refine)"}
MEANING = {"execution": "share of programs that render", "visual": "likeness to the target, as ViRL trains it", "reward": "what ViRL trains on",
           "outside": "likeness, sharing no code with the reward"}
PAGES = "domain"  # what the report has a page for each of
MOST_SOURCES = 12
PICTURES = 15e6  # bytes that a report's pictures take, about
STYLE, SCRIPT = (Path(__file__).with_name(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))


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
    rows = [row for row in rows if row["status"] != "infra"]
    cells, means = defaultdict(lambda: defaultdict(list)), defaultdict(dict)
    inputs = {row["id"]: row for row in rows if row["mode"] == "copy"}  # the defective programs
    for row in rows:
        cell = cells[row["mode"], row["id"]]
        for metric in METRICS:
            if row[metric] is not None:
                cell[metric].append(row[metric])
        if row["execution"]:
            cell["visual_valid"].append(row["visual"])
            cell["outside_valid"].append(row["outside"])
        special = dict(row.get("domain") or {})
        if (given := inputs.get(row["id"])) and row.get("copied") is not None:
            special.update(refine_scores(row["outside"], given["outside"], row["execution"], given["execution"], row["copied"]))
        for metric, value in special.items():
            if value is not None:
                cell[metric].append(value)
                if row["execution"]:
                    cell[f"{metric}_valid"].append(value)
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
    """{(kind, name): set of ids}: all, then per language, source, task and domain. items: {id: object of items.jsonl}.

    Not per source where there are more than MOST_SOURCES (real data names a file for each image).
    """
    groups = {("all", "all"): set(items)}
    for kind in ("language", "source", "task", "domain"):
        if len({item.get(kind) for item in items.values()}) > MOST_SOURCES:
            continue
        for id_, item in items.items():
            if kind in item:
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
    shared = sorted(i for i in ids if i in a and i in b)  # a set has another order in every process
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
        runs.append({"dir": path, "label": scores["label"], "counts": scores["counts"], "benchmark": scores.get("benchmark"), "rows": read_lines(path / "scores.jsonl"),
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
        run["absent"] = Counter((run["items"][row["id"]]["domain"], row["mode"], metric) for row in run["rows"] + compared
                                if row["id"] in shared and row["status"] != "infra" for metric, v in (row.get("domain") or {}).items() if v is None)
    return runs


def only(run, ids):
    """The run as if its data were the items `ids`."""
    items = {i: item for i, item in run["items"].items() if i in ids}
    return {**run, "items": items, "table": summarise(run["means"], items)}


def differences(runs):
    """The last run minus each other, over all items and per source: [(label of the other, mode, {group: result of `paired`})]."""
    groups = {g: ids for g, ids in groups_of(runs[0]["items"]).items() if g[0] in ("all", "source")}
    found = [(other["label"], mode, {g: paired(other["means"].get(mode, {}), runs[-1]["means"].get(mode, {}), ids) for g, ids in groups.items()})
             for other in runs[:-1] for mode in modes_of(runs)]
    return [(other, mode, gains) for other, mode, gains in found if gains["all", "all"]]


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
    return [kind, "answers of", "items", *(m if mode == "greedy" else f"{m} {MODES.get(mode, mode)}" for m in metrics for mode in modes)], rows


def gain_cell(gain, metric):
    """"+.062±.011* [+.041, +.083]" of a result of `paired`, * beyond two standard errors."""
    if metric not in gain:
        return "-"
    mean, se, low, high = gain[metric]
    return re.sub(r"\b0\.", ".", f"{mean:+.3f}±{se:.3f}{'*' if abs(mean) > 2 * se else ' '} [{low:+.3f}, {high:+.3f}]")


def difference_table(runs, found=None):
    """(head, rows) of `differences`: the last run minus each other; * marks more than two errors."""
    found, rows, before = differences(runs) if found is None else found, [], None
    for other, mode, gains in found:
        for metric in SHOWN:
            first, before = f"{runs[-1]['label']} - {other}" if other != before else "", other
            rows.append([first, f"{metric} {MODES.get(mode, mode)}", *(gain_cell(gain, metric) for gain in gains.values())])
    return ["difference", "metric", *(g[1] for g in groups_of(runs[0]["items"]) if g[0] in ("all", "source"))], rows


def published_table(runs):
    """(head, rows of strings) of a benchmark: our means, and below them the published ones; () where the data is no benchmark."""
    if not (name := runs[-1]["benchmark"]):
        return ()
    columns, rows = benchmarks.COLUMNS[name], []
    for run in runs:
        for mode in (m for m in modes_of(runs) if m in run["table"]["all", "all"]):
            means = run["table"]["all", "all"][mode]
            ours = [f"{np.mean([means[m][0] for m in metrics]):.3f}" if metrics and all(m in means for m in metrics) else "not computed"
                    for _, metrics in columns]
            rows.append(["" if rows else name, f"{run['label']}, {MODES.get(mode, mode)}", *ours, f"here, {means['n']} items"])
    rows += [["" if i else "published", model, *("-" if v is None else f"{v / 100:.3f}" for v in values), source]
             for i, (model, source, *values) in enumerate(benchmarks.PUBLISHED[name])]
    return ["", "model", *(column for column, _ in columns), "source"], rows


def domain_tables(runs, short=False):
    """[(head, rows of strings)]: a table per domain that has metrics of its own, then one of the refine task.

    Cells of a domain: mean ± standard error, failures counting 0, and in brackets the mean over the answers that ran; how many
    answers a metric could not be computed for stands in the last column. short: greedy answers only (T=1 where there are none).
    """
    tables, table = [], runs[0]["table"]
    modes = list(modes_of(runs))[:1 if short else None]
    for kind, name in [("domain", d) for d in DOMAIN_METRICS] + [("task", "refine")]:
        lines = [(f"{run['label']}, {MODES.get(mode, mode)}", run, run["table"].get((kind, name), {}).get(mode), mode) for run in runs for mode in modes]
        lines += [(text, runs[0], table.get((kind, name), {}).get(b), b) for b, text in BASELINES.items()]
        lines, metrics = [line for line in lines if line[2]], REFINE
        if kind == "domain":
            absent = lambda run, mode: {m: n for m in (*DOMAIN_METRICS[name], *ENCODERS) if (n := run["absent"][name, mode, m])}
            metrics = [m for m in (*DOMAIN_METRICS[name], *ENCODERS) if any(m in c or m in absent(run, mode) for _, run, c, mode in lines)]
        if not any(m in c for _, _, c, _ in lines for m in metrics):
            continue
        rows = [["" if i else name, label, str(c["n"])] for i, (label, _, c, _) in enumerate(lines)]
        for row, (_, run, c, mode) in zip(rows, lines):
            if kind == "task":
                row += [cell(c, m) for m in metrics]
            else:
                row += [f"{cell(c, m)} ({cell({m: (c[m + '_valid'][0], math.nan)}, m) if m + '_valid' in c else '-'})" if m in c else "not computed" for m in metrics]
                row.append(", ".join(f"{m} {n}" for m, n in absent(run, mode).items()))
        tables.append(([kind, "answers of", "items", *metrics, *["not computed"] * (kind == "domain")], rows))
    return tables


def domain_section(runs):
    """HTML: the tables of domain_tables and how to read them."""
    return (tables := domain_tables(runs)) and "".join(html_table(*table) for table in tables) + (
        "<p>Metrics of the domains, as their benchmarks define them (domain.py, traced.py): mean ± standard error with failures as 0, in brackets the "
        "mean over the answers that ran; last, for how many answers a metric was not computed. Refine: what answers gained in the outside metric "
        "over the defective program, as a share of what could be gained, how often the result was better, worse or the same, how often a "
        "program that fails runs afterwards, how often the program came back unchanged.</p>")


def print_table(head, rows):
    widths = [max(len(r[c]) for r in (head, *rows)) for c in range(len(head))]
    for row in (head, *rows):
        if row[0] and row is not head:
            print("-" * (sum(widths) + 2 * len(widths) - 2))
        print("  ".join(v.ljust(w) if c < 2 else v.rjust(w) for c, (v, w) in enumerate(zip(row, widths))).rstrip())


def escape(text):
    """Text for HTML; characters that draw nothing, turn the text around or end a line unseen show as their number (as in report.js)."""
    hidden = lambda c: unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp") and c not in "\n\t"
    return html.escape("".join("\\u%04x" % ord(c) if hidden(c) else c for c in text))


def html_table(head, rows, strong=None):
    """Escaped table; rows whose second cell is `strong` stand out, baselines stand back.

    A filled first cell begins a group. Where groups have several rows, the first cell becomes a line of its own above them.
    """
    grouped, body, soft = any(not row[0] for row in rows), "", BASELINES.values()
    for row in rows:
        cells = "".join("<td>" + re.sub(r"±[.0-9]+|\[.*\]", r"<small>\g<0></small>", escape(v)) + "</td>" for v in row[grouped:])
        if grouped and row[0]:
            body += f"<tr class=group><th colspan={len(head) - 1}><span>{escape(row[0])}</span></th></tr>"
        body += f'<tr class="{"strong" if row[1] == strong else "soft" if row[1] in soft else ""}">{cells}</tr>'
    top = "".join(f"<th>{escape(h)}</th>" for h in head[grouped:])
    return f'<div class=scroll tabindex=0><table class="{"grouped" if grouped else ""}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


# ----------------------------------------------------------------------------------------------------------------- report

def colour(runs, r):
    """CSS class of a run's colour: the last run is always blue."""
    return f"c{(len(runs) - 1 - r) % 6}"


def bars(runs, metric):
    """Figure: per group (all, then domains or, within one, sources) a bar for each run and mode with its error, baselines dashed.

    Lengths are in percent of the figure's width, so that it fits every screen and its text keeps its size.
    """
    table, modes, rows = runs[0]["table"], modes_of(runs), ""
    kind = "source" if sum(g[0] == PAGES for g in table) == 1 else PAGES
    for group in (g for g in table if g[0] == "all" or g[0] == kind and sum(h[0] == kind for h in table) > 1):
        parts, height = "", len(runs) * (8 * len(modes) + 3)
        for r, run in enumerate(runs):
            for m, mode in enumerate(modes):
                if metric in (column := run["table"][group].get(mode, {})):
                    (mean, se), y = column[metric], r * (8 * len(modes) + 3) + 8 * m + 1
                    low, high = (100 * min(1, max(0, mean + d)) for d in ((-se, se) if se == se else (0, 0)))
                    parts += (f'<g><title>{escape(run["label"])}, {MODES.get(mode, mode)}: {cell(column, metric)}</title>'
                              f'<rect x=0 y={y} width="{100 * max(0, mean):.1f}%" height=7 class="{colour(runs, r)} m{m}"/>'
                              f'<line x1="{low:.1f}%" x2="{high:.1f}%" y1={y + 3.5} y2={y + 3.5} class=error /></g>')
        for name in ("blank", "other"):
            if metric != "execution" and metric in (column := table[group].get(name, {})):
                x = f"{100 * min(1, max(0, column[metric][0])):.1f}%"
                parts += f'<g><title>{BASELINES[name]}: {cell(column, metric)}</title><line x1={x} x2={x} y1=-2 y2={height} class="base {name}"/></g>'
        grid = "".join(f"<line x1={x}% x2={x}% y1=-5 y2={height + 5} class=grid />" for x in (0, 50, 100))
        rows += f'<span>{escape(group[1])}</span><svg width="100%" height={height}>{grid}{parts}</svg>'
    return (f"<figure><h4>{metric}</h4><small>{MEANING.get(metric, '')}</small><div class=bars>{rows}<span></span>"
            f"<div class=ticks><span>0</span><span>.5</span><span>1</span></div></div></figure>")


def forest(runs, found):
    """Figures of `differences` over all items, one for each other run: mean and 95 % interval per metric and mode, beside the line of no difference."""
    bounds, figures = [0.0, *(v for _, _, gains in found for m in SHOWN for v in gains["all", "all"][m][2:])], ""
    low, span = min(bounds), max(bounds) - min(bounds) or 1
    at = lambda v: f"{2 + 96 * (v - low) / span:.1f}%"
    for r, other in enumerate(runs[:-1]):
        rows = ""
        for metric in SHOWN:
            for mode, gain in ((mode, gains["all", "all"]) for label, mode, gains in found if label == other["label"]):
                mean, se, *interval = gain[metric]
                sure = "sure" if abs(mean) > 2 * se else ""
                rows += (f'<span>{metric} <small>{MODES.get(mode, mode)}</small></span><svg width="100%" height=20><line x1={at(0)} x2={at(0)} y1=-2 y2=22 class=zero />'
                         f'<line x1={at(interval[0])} x2={at(interval[1])} y1=10 y2=10 class="whisker {sure}"/>'
                         f'<circle cx={at(mean)} cy=10 r=4.5 class="dot {sure}"/></svg><span class="{sure}">'
                         f'{escape(gain_cell(gain, metric).split(" [")[0])}</span>')
        figures += (f'<figure><h4><i class={colour(runs, r)}></i>{escape(runs[-1]["label"])} minus {escape(other["label"])}</h4>'
                    f'<div class=forest>{rows}</div></figure>')
    return f"<div class=figures>{figures}</div>"


def tiles(runs):
    """The last run at a glance: each metric in the first mode, the gain on the run before, the other modes below."""
    column, made = runs[-1]["table"]["all", "all"], ""
    for metric in SHOWN:
        numbers = [(mode, column[mode][metric]) for mode in modes_of(runs) if metric in column.get(mode, ())]
        for mode, (mean, se) in numbers[:1]:
            gain = paired(runs[-2]["means"].get(mode, {}), runs[-1]["means"][mode], runs[-1]["items"]).get(metric) if len(runs) > 1 else None
            sign = "" if not gain or abs(gain[0]) <= 2 * gain[1] else "up" if gain[0] > 0 else "down"
            made += (f"<div><span>{metric} <small>{MODES.get(mode, mode)}</small></span><b>{mean:.3f}</b>"
                     + (f'<small class="delta {sign}">{gain[0]:+.3f} ± {gain[1]:.3f} against {escape(runs[-2]["label"])}</small>' if gain
                        else f"<small>± {se:.3f}</small>" if se == se else "")
                     + "".join(f"<small>{MODES.get(other, other)} {v:.3f}{f' ± {e:.3f}' if e == e else ''}</small>" for other, (v, e) in numbers[1:]) + "</div>")
    return f"<div class=tiles>{made}</div>"


def curves(directories):
    """Inline SVG of training runs: a small panel per key of metrics.jsonl, running means over seconds of training, a colour per directory."""
    found, figures, names = defaultdict(list), "", ""
    for r, directory in enumerate(map(Path, directories)):
        if not (directory / "metrics.jsonl").is_file():
            raise SystemExit(f"error: {directory} has no metrics.jsonl; --curves wants directories of sft.py or virl.py.")
        lines = read_lines(directory / "metrics.jsonl")
        names += f"<span><i class=c{r % 6}></i>{escape(directory.name)}</span>"
        for key in ("loss", "held_out_loss", "reward", "execution", "visual", "entropy", "length", "kept"):
            xy = np.array([(row["seconds"], row[key]) for row in lines if row.get(key) is not None and "seconds" in row], dtype=float)
            if len(xy) > 1:
                window = max(1, len(xy) // 40)
                smooth = np.convolve(np.pad(xy[:, 1], (window - 1, 0), "edge"), np.ones(window) / window, "valid")  # [points]
                at = np.unique(np.linspace(0, len(xy) - 1, 240).astype(int))
                found[key].append((r, xy[at, 0], smooth[at]))
    for key, lines in found.items():
        (start, low), (stop, high) = (edge([(edge(x), edge(y)) for _, x, y in lines], axis=0) for edge in (np.min, np.max))
        points = lambda x, y: np.stack([4 + 222 * (x - start) / max(1e-9, stop - start), 96 - 88 * (y - low) / max(1e-9, high - low)], 1)
        drawn = "".join(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points(x, y))}" class=c{r % 6} />' for r, x, y in lines)
        figures += (f'<figure class=small><h4>{key}</h4><svg viewBox="0 0 230 116"><line x1=4 x2=226 y1=96 y2=96 class=grid />{drawn}<text x=4 y=112>'
                    f'{low:.3g} to {high:.3g}</text><text x=226 y=112 text-anchor=end>{stop:.0f} s</text></svg></figure>')
    return (f"<p class=legend>{names}</p>" if len(directories) > 1 else "") + figures


def thumbnail(path, side=224):
    """Data URI of an image file, at most `side` pixels large."""
    raw, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(raw)) as image:
        if max(image.size) > side or len(raw) > 4000:
            image.thumbnail((side, side), Image.LANCZOS)
            image.save(buffer := io.BytesIO(), "WEBP", quality=70)
            raw, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def gallery(runs, block=32):
    """What the report's script needs, as inert <script> elements whose text cannot end them.

    #data: an index with all numbers, read at once. #pN: pictures and messages of item N, read when it is shown. #tN: prompts,
    references and answers of `block` items, compressed, read when one is opened or searched. The more pictures, the smaller each.
    """
    modes = modes_of(runs)
    inert = lambda id_, value: f'<script type="application/json" id={id_}>' + json.dumps(value).replace("<", "\\u003c") + "</script>"
    answers, index, texts = [{(row["id"], row["mode"]): row for row in run["rows"] if row["k"] == 0} for run in runs], [], []
    items = [item for item in runs[0]["items"].values() if item["target"]]
    of = lambda item, make: {mode: [make(run, a[item["id"], mode]) if (item["id"], mode) in a else None for run, a in zip(runs, answers)] for mode in modes}
    file = lambda run, row: row["render"] and run["dir"] / row["render"]
    files = {runs[0]["dir"] / item["target"] for item in items} | {f for item in items for fs in of(item, file).values() for f in fs if f}
    side = int(min(224, max(64, PICTURES / max(1, len(files)) / 9)))  # a thumbnail takes about 9 bytes for each pixel of its side
    with ThreadPoolExecutor() as pool:
        pictures = dict(zip(files, pool.map(lambda f: thumbnail(f, side), files)))
    number = lambda v: v if v is None else round(v, 3)
    for item in items:
        index.append({"id": item["id"], "page": item[PAGES], "task": item["task"], "source": item["source"],
                      "runs": of(item, lambda run, row: [row["status"], *(number(row[m]) for m in METRICS)])})
        texts.append({"prompt": item["prompt"], "answer": item["answer"], "runs": of(item, lambda run, row: row["response"])})
    made = [inert("data", {"runs": [r["label"] for r in runs], "metrics": METRICS, "parts": REWARD_PARTS, "modes": {m: MODES.get(m, m) for m in modes},
                           "shown": SHOWN, "block": block, "items": index})]
    for n, item in enumerate(items):
        shown = {}  # equal pictures once
        at = lambda f: f and shown.setdefault(pictures[f], len(shown))
        target = at(runs[0]["dir"] / item["target"])
        made.append(inert(f"p{n}", {"target": target, "runs": of(item, lambda run, row: [at(file(run, row)), row["message"]]), "pictures": list(shown)}))
    for n in range(0, len(texts), block):
        made.append(f'<script type="text/plain" id=t{n // block}>'
                    + base64.b64encode(gzip.compress(json.dumps(texts[n:n + block]).encode(), mtime=0)).decode() + "</script>")
    return "\n".join(made)


def page(runs):
    """{title: HTML} of the numbers of runs, or of their part for one domain."""
    last, found = runs[-1], differences(runs)
    kinds = [kind for kind in ("language", "source", "task") if sum(g[0] == kind for g in last["table"]) > 1]
    table = lambda kind: html_table(*score_table(runs, kind), last["label"])
    folded = lambda title, content: f"<details><summary>{title}</summary>{content}</details>"
    legend = "".join(f"<span><i class={colour(runs, r)}></i>{escape(run['label'])}</span>" for r, run in enumerate(runs))
    legend += "".join(f"<span><i class='ink m{m}'></i>{MODES.get(mode, mode)}</span>" for m, mode in enumerate(modes_of(runs)) if len(modes_of(runs)) > 1)
    legend += "".join(f"<span><b class={name}></b>{BASELINES[name]}</span>" for name in ("blank", "other") if name in last["table"]["all", "all"])
    return {
        "At a glance": f"{tiles(runs)}<p class=legend>{legend}</p><div class='figures four'>{''.join(bars(runs, m) for m in SHOWN)}</div>",
        f"{last['label']} against the others": found and forest(runs, found) + "<p>Paired over the same items: mean ± standard error, * and dark beyond two "
            "of them; the line is the 95 % bootstrap interval.</p>" + folded("Numbers, by source", html_table(*difference_table(runs, found))),
        "Metrics of the domains": domain_section(runs),
        "Scores": table(kinds[0] if kinds else "all") + "".join(folded(f"By {kind}", table(kind)) for kind in kinds[1:])}


def write_report(runs, path, note="", training=()):
    """One HTML file that needs nothing else. Text of models and data is escaped, or set as text by the script; the
    page's content policy forbids every other script and every request."""
    n, groups = len(runs[0]["items"]), groups_of(runs[0]["items"])
    shown = sum(bool(item["target"]) for item in runs[0]["items"].values())
    pages = {"all": page(runs)}
    if sum(kind == PAGES for kind, _ in groups) > 1:
        pages |= {name: page([only(run, ids) for run in runs]) for (kind, name), ids in groups.items() if kind == PAGES}
    section = lambda title, content: f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""
    tabs = "".join(f'<a href="#{quote(name, errors="replace")}" data-page="{html.escape(name)}">{escape(name)} '
                   f'<small>{len(groups[PAGES if i else "all", name])}</small></a>'
                   for i, name in enumerate(pages))
    published = published_table(runs) and html_table(*published_table(runs)) + "".join(f"<p>{escape(line)}</p>" for line in benchmarks.notes(runs[-1]["benchmark"]))
    searched = "".join(f'<figure><h4>{escape(run["label"])}</h4><img alt="quality against programs sampled per image" src="data:image/png;base64,'
                       f'{base64.b64encode((run["dir"] / "search.png").read_bytes()).decode()}"></figure>'
                       for run in runs if any(map(SEARCHED.fullmatch, run["means"])) and (run["dir"] / "search.png").is_file())
    notes = "".join(f"<p class=note>{escape(p.strip())}</p>" for p in note.split("\n\n") if p.strip())
    explained = (f"<p>A program that fails counts 0 in every mean. {'; '.join(f'{m}: {what}' for m, what in MEANING.items())} (masked SSIM, edges, palette, "
                 "coarse layout). Columns without a mode are greedy.</p><ul>"
                 + "".join(f"<li>{escape(run['label'])}: {escape(run['counts'])}</li>" for run in runs) + "</ul>")
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    write_text(path, f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'">
<title>nanoVinci: evaluation</title><style>{STYLE}</style><main><h1>nanoVinci: from image to code</h1><p class=lead>{n} held-out images, {len(runs)}
run{"s" * (len(runs) > 1)}, answers: {", ".join(MODES.get(m, m) for m in modes_of(runs))}. Means ± standard error over images.</p>
{notes and f"<section>{notes}</section>"}
<nav aria-label=pages>{tabs * (len(pages) > 1)}<button id=jump>gallery ↓</button></nav>
{"".join(f"<div class=page{' hidden' * (i > 0)}>{''.join(section(*s) for s in sections.items())}</div>" for i, sections in enumerate(pages.values()))}
{section("Beside published numbers", published)}{section("Search at test time", searched)}{section("Training", training and f"<div class=figures>{curves(training)}</div>")}{section("How to read this", explained)}
<section id=gallery><h2>Gallery</h2><p>{f"The first {shown} of {n} items. " if shown < n else ""}The target, then for each run its first answer and the
difference to the target: <span class=key><i class=missing></i>missing <i class=extra></i>too much <i class=changed></i>other colour</span></p>
<noscript>The gallery needs JavaScript.</noscript><div id=controls></div><div id=cards></div></section></main>
{gallery(runs)}<script>{SCRIPT}</script></html>""")


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
