"""Scored runs: their files, statistics, differences between them, and all of it as tables of text.

    from stats import load_runs, score_table        # as eval.py and report.py do

A *run* is what `eval.py` left in a directory. In memory it is a dict:
    dir, label        its directory; its name in tables
    counts            a sentence: how many predictions, for how many items, with which statuses
    benchmark         the name of the benchmark that its data is, or None
    rows              of scores.jsonl
    items             {id: object of items.jsonl}
    means, table      see `item_means` and `summarise`
    absent            Counter of (domain, mode, metric): answers for which a metric could not be computed
A *table* is (head, rows), all strings; a row whose first cell is not empty begins a group.

Standard errors are over items: the answers to an item are averaged first. Runs are compared over the items that all of
them answered, with paired bootstrap intervals (Efron & Tibshirani 1993, ch. 16).

Left out: corrections for looking at many differences at once.
"""
import contextlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

import benchmarks
from domain import ENCODERS, METRICS as DOMAIN_METRICS, REFINE, refine_scores
from metrics import OUTSIDE_PARTS

REWARD_PARTS = ("reward", "format", "execution", "visual", "coarse", "fine")
METRICS = REWARD_PARTS + OUTSIDE_PARTS
SHOWN = ("execution", "visual", "reward", "outside")  # the columns of tables and bars
MODES = {"greedy": "greedy", "t1": "T=1"}  # name in tables; those of search.py, SEARCHED, are named as they are
SEARCHED = re.compile(r"best\d+(\+refine\d+)?")
BASELINES = {"blank": "blank canvas", "other": "random other", "copy": "copy input (refine)"}
MOST_SOURCES = 12  # real data names a file for each image: more sources than this are no groups


# ---------------------------------------------------------------------------------------------------------------- files

def write_text(path, text):
    """Write a file, complete or not at all. Lone surrogates, which no encoding has, become question marks."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", errors="replace")
    os.replace(temporary, path)


def finite(value):
    """Anything that JSON can hold, null in place of NaN and infinity, for which JSON has no word."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path, value):
    """Write a file of JSON, complete or not at all; NaN becomes null."""
    write_text(path, json.dumps(finite(value), indent=1))


def write_lines(path, rows):
    """Write dicts as JSON lines, complete or not at all; NaN becomes null."""
    write_text(path, "".join(json.dumps(finite(row)) + "\n" for row in rows))


def read_lines(path):
    """JSON lines -> list. Raises SystemExit with one line that names the broken one."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            raise SystemExit(f"error: line {number} of {path} is no JSON: "
                             "the file is damaged or was cut off.") from None
    return rows


def salvage_lines(files):
    """Yields the objects of JSON-lines files that may have been cut off or written by anyone, None for other lines."""
    for line in (line for file in files for line in Path(file).read_bytes().splitlines() if line.strip()):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield row if isinstance(row, dict) else None


@contextlib.contextmanager
def append_lines(path):
    """Context: a function that appends a dict as a JSON line, NaN as null.

    It does so at once: a kill costs at most the line under way.
    """
    with open(path, "ab") as file:
        if file.tell():
            file.write(b"\n")  # ends a line that a kill may have cut off; blank lines are skipped

        def write(row):
            file.write(json.dumps(finite(row)).encode() + b"\n")
            file.flush()

        yield write


def read_run(path):
    """A scored OUT directory -> a run, so far without `means`, `table` and `absent`, and the rows of its baselines.

    Raises SystemExit with one line where `path` holds no scored run.
    """
    files = ("scores.json", "scores.jsonl", "items.jsonl", "baselines.jsonl")
    if absent := [f for f in files if not (path / f).is_file()]:
        raise SystemExit(f"error: {path} is not a scored run (no {', '.join(absent)}). Make one with "
                         f"`python eval.py --predictions FILE --data DIR --out {path}` or with --model.")
    rows, items, baselines = (read_lines(path / f) for f in files[1:])
    baselines = baselines[1:]  # below the fingerprint
    try:
        scores = json.loads((path / "scores.json").read_text())
        run = {"dir": path, "label": scores["label"], "counts": scores["counts"], "benchmark": scores.get("benchmark"),
               "rows": rows, "items": {item["id"]: item for item in items}}
        if foreign := {row["id"] for row in rows + baselines} - run["items"].keys():
            raise ValueError(f"{len(foreign)} scored ids are not in items.jsonl")
    except (ValueError, KeyError, TypeError) as e:
        why = f"{type(e).__name__}: {e}"
        raise SystemExit(f"error: {path} is not a scored run: its files do not fit each other ({why}).") from None
    return run, baselines


def load_runs(paths):
    """Scored OUT directories -> list of runs, restricted to the items that all of them answered (and that is said).

    The baselines are those of the first: they depend on the items alone. Raises SystemExit with one line where a
    directory holds no scored run, or where no item is in all of them.
    """
    runs, baselines = zip(*(read_run(path) for path in map(Path, paths)))
    answered = [{row["id"] for row in run["rows"]} for run in runs]
    shared, left_out = set.intersection(*answered), set.union(*answered) - set.intersection(*answered)
    if not shared:
        raise SystemExit(f"error: no item was answered in all of {', '.join(map(str, paths))}: "
                         "they are not of the same data.")
    if left_out:
        print(f"compared on the {len(shared)} items that all runs answered; {len(left_out)} others are left out")
    labels = Counter(run["label"] for run in runs)
    for run in runs:
        if labels[run["label"]] > 1:
            run["label"] += f" ({run['dir']})"
        run["items"] = {i: item for i, item in run["items"].items() if i in shared}
        rows = [row for row in run["rows"] + baselines[0] if row["id"] in shared]
        run["means"] = item_means(rows)
        run["table"] = summarise(run["means"], run["items"])
        run["absent"] = Counter((run["items"][row["id"]]["domain"], row["mode"], metric)
                                for row in rows if row["status"] != "infra"
                                for metric, value in (row.get("domain") or {}).items() if value is None)
    return list(runs)


def only(run, ids):
    """The run as if its data were the items `ids`."""
    items = {i: item for i, item in run["items"].items() if i in ids}
    return {**run, "items": items, "table": summarise(run["means"], items)}


# ----------------------------------------------------------------------------------------------------------- statistics

def item_means(rows):
    """Rows of scores.jsonl and baselines.jsonl -> {mode or baseline: {id: {metric: mean over the item's answers}}}.

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
            special |= refine_scores(row["outside"], given["outside"], row["execution"], given["execution"],
                                     row["copied"])
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
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(np.mean(values)), error


def groups_of(items):
    """{(kind, name): set of ids}: all, then per language, source, task and domain, of items as in a run.

    A kind with more than MOST_SOURCES names makes no groups.
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
    """The `means` of `item_means` over the groups of the items.

    -> {(kind, name): {mode or baseline: {"n": items, metric: (mean, standard error)}}}
    """
    table = {}
    for group, ids in groups_of(items).items():
        table[group] = {}
        for mode, of in means.items():
            if here := [of[i] for i in items if i in ids and i in of]:
                metrics = dict.fromkeys(m for row in here for m in row)
                over = {m: mean_se([row[m] for row in here if m in row]) for m in metrics}
                table[group][mode] = {"n": len(here), **over}
    return table


def paired(a, b, ids, draws=2000):
    """Differences b - a of two {id: {metric: value}} over the `ids` that both have.

    Returns {metric: (mean, standard error, 2.5 % and 97.5 % quantile of a paired bootstrap of the mean)}, {} where they
    share none.
    """
    shared = sorted(i for i in ids if i in a and i in b)  # a set has another order in every process
    if not shared:
        return {}
    n = len(shared)
    weight = np.random.default_rng(0).multinomial(n, [1 / n] * n, draws) / n  # [draws, n]
    gains = {m: np.array([b[i][m] - a[i][m] for i in shared]) for m in SHOWN}  # each [n]
    return {m: (*mean_se(d), *np.quantile(weight @ d, (0.025, 0.975)).tolist()) for m, d in gains.items()}


def beyond_errors(gain):
    """Whether a result of `paired` for one metric lies beyond two standard errors."""
    return abs(gain[0]) > 2 * gain[1]


def differences(runs):
    """The last run minus each other, over all items and per source.

    -> [(label of the other, mode, {group: result of `paired`})], without modes that they do not share.
    """
    groups = {group: ids for group, ids in groups_of(runs[0]["items"]).items() if group[0] in ("all", "source")}
    found = []
    for other in runs[:-1]:
        for mode in modes_of(runs):
            a, b = (run["means"].get(mode, {}) for run in (other, runs[-1]))
            gains = {group: paired(a, b, ids) for group, ids in groups.items()}
            if gains["all", "all"]:
                found.append((other["label"], mode, gains))
    return found


# --------------------------------------------------------------------------------------------------------------- tables

def modes_of(runs):
    """{mode: its name in tables} of those that any of the runs has: MODES, then search.py's, ever more programs."""
    found = {mode for run in runs for mode in run["means"]}
    searched = sorted(filter(SEARCHED.fullmatch, found), key=lambda mode: [int(n) for n in re.findall(r"\d+", mode)])
    return {mode: name for mode, name in MODES.items() if mode in found} | {mode: mode for mode in searched}


def short(text):
    """Numbers without the zero before their point: "0.931±0.004" -> ".931±.004"."""
    return re.sub(r"\b0\.", ".", text)


def cell(column, metric):
    """".931±.004" of one column of `summarise`, or None; "-" where it has no such number."""
    if metric not in (column or ()):
        return "-"
    mean, se = column[metric]
    return short(f"{mean:.3f}" + (f"±{se:.3f}" if se == se else ""))


def gain_cell(gain, metric):
    """"+.062±.011* [+.041, +.083]" of a result of `paired`, * beyond two standard errors."""
    if metric not in gain:
        return "-"
    mean, se, low, high = gain[metric]
    return short(f"{mean:+.3f}±{se:.3f}{'*' if beyond_errors(gain[metric]) else ' '} [{low:+.3f}, {high:+.3f}]")


def score_table(runs, kind, metrics=SHOWN):
    """Table: for all items and per `kind` a line for each run, then for each baseline.

    Columns: the metrics, each in all modes.
    """
    rows, table, modes = [], runs[0]["table"], modes_of(runs)
    for group in (g for g in table if g[0] in ("all", kind)):
        lines = [(run["label"], [run["table"][group].get(mode) for mode in modes]) for run in runs]
        others = [None] * (len(modes) - 1)  # a baseline has one mode
        lines += [(name, [table[group][b], *others]) for b, name in BASELINES.items() if b in table[group]]
        for i, (label, columns) in enumerate(lines):
            items = max((column["n"] for column in columns if column), default=0)
            cells = [cell(column, m) for m in metrics for column in columns]
            rows.append([group[1] if i == 0 else "", label, str(items), *cells])
    head = [m if mode == "greedy" else f"{m} {name}" for m in metrics for mode, name in modes.items()]
    return [kind, "answers of", "items", *head], rows


def difference_table(runs, found):
    """Table of `found`, the result of `differences`: the last run minus each other, over all items and per source."""
    rows, modes, before = [], modes_of(runs), None
    for other, mode, gains in found:
        for metric in SHOWN:
            first, before = "" if other == before else f"{runs[-1]['label']} - {other}", other
            rows.append([first, f"{metric} {modes[mode]}", *(gain_cell(gain, metric) for gain in gains.values())])
    return ["difference", "metric", *(g[1] for g in groups_of(runs[0]["items"]) if g[0] in ("all", "source"))], rows


def published_table(runs):
    """Table of a benchmark: our means, and below them the published ones; () where the data is no benchmark."""
    if not (name := runs[-1]["benchmark"]):
        return ()
    columns, rows = benchmarks.COLUMNS[name], []
    for run in runs:
        for mode, title in modes_of(runs).items():
            if means := run["table"]["all", "all"].get(mode):
                ours = [f"{np.mean([means[m][0] for m in metrics]):.3f}" if metrics and all(m in means for m in metrics)
                        else "not computed" for _, metrics in columns]
                rows.append(["" if rows else name, f"{run['label']}, {title}", *ours, f"here, {means['n']} items"])
    for i, (model, source, *values) in enumerate(benchmarks.PUBLISHED[name]):
        cells = ("-" if v is None else f"{v / 100:.3f}" for v in values)
        rows.append(["" if i else "published", model, *cells, source])
    return ["", "model", *(column for column, _ in columns), "source"], rows


def domain_tables(runs, brief=False):
    """[table]: one per domain that has metrics of its own, then one of the refine task.

    Cells of a domain: mean ± standard error, failures counting 0, and in brackets the mean over the answers that ran;
    how many answers a metric could not be computed for stands in the last column. brief: the first mode only (greedy,
    else T=1).
    """
    modes = list(modes_of(runs).items())[:1 if brief else None]
    tables = [domain_table(runs, modes, name) for name in DOMAIN_METRICS]
    lines, rows = lines_of(runs, modes, ("task", "refine")), []
    for label, _, column, _ in lines:
        rows.append(["" if rows else "refine", label, str(column["n"]), *(cell(column, m) for m in REFINE)])
    if any(m in column for _, _, column, _ in lines for m in REFINE):
        tables.append((["task", "answers of", "items", *REFINE], rows))
    return list(filter(None, tables))


def lines_of(runs, modes, group):
    """What the table of a group has lines for: the runs by `modes` [(mode, name)], then the baselines.

    -> [(label, run, its column, mode or baseline)] of those that have a column.
    """
    lines = [(f"{run['label']}, {name}", run, mode) for run in runs for mode, name in modes]
    lines += [(name, runs[0], baseline) for baseline, name in BASELINES.items()]
    return [(label, run, column, mode) for label, run, mode in lines
            if (column := run["table"].get(group, {}).get(mode))]


def domain_table(runs, modes, name):
    """The table of domain `name`, None where nothing of it was computed."""
    lines, possible = lines_of(runs, modes, ("domain", name)), (*DOMAIN_METRICS[name], *ENCODERS)
    absent = [{m: n for m in possible if (n := run["absent"][name, mode, m])} for _, run, _, mode in lines]
    known = {m for (_, _, column, _), lacking in zip(lines, absent) for m in (*column, *lacking)}
    metrics = [m for m in possible if m in known]
    if not any(m in column for _, _, column, _ in lines for m in metrics):
        return None
    rows = []
    for (label, _, column, _), lacking in zip(lines, absent):
        ran = {m: (column[f"{m}_valid"][0], math.nan) for m in metrics if f"{m}_valid" in column}
        rows.append(["" if rows else name, label, str(column["n"]),
                     *(f"{cell(column, m)} ({cell(ran, m)})" if m in column else "not computed" for m in metrics),
                     ", ".join(f"{m} {n}" for m, n in lacking.items())])
    return ["domain", "answers of", "items", *metrics, "not computed"], rows


def print_table(head, rows):
    """Print a table, a line above each of its groups."""
    widths = [max(len(row[c]) for row in (head, *rows)) for c in range(len(head))]
    for row in (head, *rows):
        if row[0] and row is not head:
            print("-" * (sum(widths) + 2 * len(widths) - 2))
        print("  ".join(v.ljust(w) if c < 2 else v.rjust(w) for c, (v, w) in enumerate(zip(row, widths))).rstrip())
