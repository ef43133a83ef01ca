"""From scored runs to report.html: what `eval.py` writes last. The numbers are those of stats.py.

One file that needs nothing else and opens offline: pages of numbers, then a gallery of targets, renders and code. Its
style and script are report.css and report.js beside this file; they are copied into it.

What models and data wrote is hostile text. `tag` escapes whatever is not HTML already, the gallery's texts lie in inert
elements from which the script sets them as text, and the page's content policy forbids every other script and every
request.

A run is what `stats.load_runs` reads of a scored OUT directory.

Left out: anything that would have to be fetched (fonts, chart libraries), pictures in their full size.
"""
import base64
import gzip
import hashlib
import html
import io
import json
import re
import unicodedata
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw

import benchmarks
from stats import (BASELINES, METRICS, MODES, REWARD_PARTS, SEARCHED, SHOWN, beyond_errors, cell, difference_table,
                   differences, domain_tables, gain_cell, groups_of, modes_of, only, paired, published_table,
                   read_lines, score_table, write_text)

MEANING = {"execution": "share of programs that render", "visual": "likeness to the target, as ViRL trains it",
           "reward": "what ViRL trains on", "outside": "likeness, sharing no code with the reward"}
PAGES = "domain"  # what the report has a page for each of
PICTURES = 15e6  # bytes that a report's pictures take, about
STYLE, SCRIPT = (Path(__file__).with_name(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
CURVES = ("loss", "held_out_loss", "reward", "execution", "visual", "entropy", "length", "kept")  # of metrics.jsonl


# ----------------------------------------------------------------------------------------------------------------- HTML

class Html(str):
    """Text that is HTML already; any other str is escaped where it becomes part of a page."""


def escape(text):
    """Text -> Html; characters that draw nothing, turn the text around or end a line unseen show as their number.

    report.js does the same.
    """
    hidden = lambda c: unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp") and c not in "\n\t"
    return Html(html.escape("".join("\\u%04x" % ord(c) if hidden(c) else c for c in text)))


def joined(*parts):
    """Html of parts: Html, str (escaped), or lists of parts."""
    as_html = lambda part: part if isinstance(part, Html) else escape(part) if isinstance(part, str) else joined(*part)
    return Html("".join(map(as_html, parts)))


def tag(name, *inside, **attributes):
    """Html of an element. inside: parts as `joined` takes them.

    attributes: class_ is class, data_page data-page, True has no value.

    >>> tag("p", "a < b", tag("br"), class_="note")
    '<p class="note">a &lt; b<br></p>'
    """
    dashed = lambda key: key.rstrip("_").replace("_", "-")
    values = "".join(f" {dashed(key)}" + ("" if value is True else f'="{html.escape(str(value))}"')
                     for key, value in attributes.items())
    return Html(f"<{name}{values}>" + ("" if name in ("br", "img") else f"{joined(*inside)}</{name}>"))


def data_uri(raw, kind):
    """Bytes of a picture of a kind (png, webp) -> what an <img> shows without a request."""
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def html_table(head, rows, strong=None):
    """Html of a table of stats.py, lists of str; rows whose second cell is `strong` stand out, baselines stand back.

    Where groups have several rows, the first cell becomes a line of its own above them.
    """
    grouped, body = any(not row[0] for row in rows), []
    for row in rows:
        if grouped and row[0]:
            body.append(tag("tr", tag("th", tag("span", row[0]), colspan=len(head) - 1), class_="group"))
        kind = "strong" if row[1] == strong else "soft" if row[1] in BASELINES.values() else ""
        body.append(tag("tr", [tag("td", small_errors(value)) for value in row[grouped:]], class_=kind))
    top = tag("tr", [tag("th", title) for title in head[grouped:]])
    table = tag("table", tag("thead", top), tag("tbody", body), class_="grouped" if grouped else "")
    return tag("div", table, class_="scroll", tabindex=0)


def small_errors(text):
    """A cell whose errors and intervals stand in small print."""
    return Html(re.sub(r"±[.0-9]+|\[.*\]", r"<small>\g<0></small>", escape(text)))


# -------------------------------------------------------------------------------------------------------------- figures
# Lengths are in percent of a figure's width, so that it fits every screen and its text keeps its size.

def colour(runs, r):
    """CSS class of a run's colour: the last run is always blue."""
    return f"c{(len(runs) - 1 - r) % 6}"


def percent(share):
    """A number of 0 to 1, cut to that, as a length."""
    return f"{100 * min(1, max(0, share)):.1f}%"


def line(x1, x2, y1, y2, kind):
    """Html of an SVG line of the CSS class `kind`; lengths: numbers of pixels, or strings in percent."""
    return tag("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=kind)


def bars(runs, metric):
    """Html of a figure: per group a bar of `metric` for each run and mode with its standard error, baselines dashed.

    The groups: all, then the domains or, where there is but one, the sources.
    """
    table, modes, rows = runs[0]["table"], modes_of(runs), []
    kind = "source" if sum(g[0] == PAGES for g in table) == 1 else PAGES
    several = sum(g[0] == kind for g in table) > 1
    lane = 8 * len(modes) + 3  # pixels of a run: its bars and a gap
    height = lane * len(runs)
    for group in (g for g in table if g[0] == "all" or g[0] == kind and several):
        drawn = [line(f"{x}%", f"{x}%", -5, height + 5, "grid") for x in (0, 50, 100)]
        for r, run in enumerate(runs):
            for m, (mode, name) in enumerate(modes.items()):
                column, y = run["table"][group].get(mode, {}), lane * r + 8 * m + 1
                if metric in column:
                    mean, se = column[metric]
                    error = se if se == se else 0
                    kinds = f"{colour(runs, r)} m{m}"
                    drawn.append(tag("g", tag("title", f"{run['label']}, {name}: {cell(column, metric)}"),
                                     tag("rect", x=0, y=y, width=percent(mean), height=7, class_=kinds),
                                     line(percent(mean - error), percent(mean + error), y + 3.5, y + 3.5, "error")))
        for name in ("blank", "other"):
            if metric != "execution" and metric in (column := table[group].get(name, {})):
                x, title = percent(column[metric][0]), f"{BASELINES[name]}: {cell(column, metric)}"
                drawn.append(tag("g", tag("title", title), line(x, x, -2, height, f"base {name}")))
        rows += [tag("span", group[1]), tag("svg", drawn, width="100%", height=height)]
    ticks = tag("div", [tag("span", text) for text in ("0", ".5", "1")], class_="ticks")
    drawing = tag("div", rows, tag("span"), ticks, class_="bars")
    return tag("figure", tag("h4", metric), tag("small", MEANING[metric]), drawing)


def forest(runs, found):
    """Html of figures, one for each run but the last: what the last gains on it over all items.

    Per metric and mode mean and 95 % interval, beside the line of no difference; dark where the mean is beyond two
    errors. found: of `differences`.
    """
    bounds = [0.0, *(v for _, _, gains in found for m in SHOWN for v in gains["all", "all"][m][2:])]
    low, span = min(bounds), max(bounds) - min(bounds) or 1
    at = lambda v: f"{2 + 96 * (v - low) / span:.1f}%"
    modes, figures = modes_of(runs), []
    for r, other in enumerate(runs[:-1]):
        mine, rows = [(mode, gains["all", "all"]) for label, mode, gains in found if label == other["label"]], []
        for metric, mode, gain in ((metric, mode, gain) for metric in SHOWN for mode, gain in mine):
            mean, _, *interval = gain[metric]
            sure = "sure" if beyond_errors(gain[metric]) else ""
            drawn = [line(at(0), at(0), -2, 22, "zero"), line(*map(at, interval), 10, 10, f"whisker {sure}"),
                     tag("circle", cx=at(mean), cy=10, r=4.5, class_=f"dot {sure}")]
            rows += [tag("span", f"{metric} ", tag("small", modes[mode])), tag("svg", drawn, width="100%", height=20),
                     tag("span", gain_cell(gain, metric).split(" [")[0], class_=sure)]
        title = tag("h4", tag("i", class_=colour(runs, r)), f"{runs[-1]['label']} minus {other['label']}")
        figures.append(tag("figure", title, tag("div", rows, class_="forest")))
    return tag("div", figures, class_="figures")


def tiles(runs):
    """Html of the last run at a glance: each metric in the first mode, the gain on the run before, other modes."""
    column, modes, made = runs[-1]["table"]["all", "all"], modes_of(runs), []
    plus_minus = lambda mean, se: f"{mean:.3f}" + (f" ± {se:.3f}" if se == se else "")
    for metric in SHOWN:
        numbers = [(mode, column[mode][metric]) for mode in modes if metric in column.get(mode, ())]
        if not numbers:
            continue
        (mode, (mean, se)), *others = numbers
        notes = [tag("small", f"± {se:.3f}")] if se == se else []
        before = runs[-2]["means"].get(mode, {}) if len(runs) > 1 else {}
        gains = paired(before, runs[-1]["means"][mode], runs[-1]["items"]) if len(runs) > 1 else {}
        if gain := gains.get(metric):
            sign = "" if not beyond_errors(gain) else "up" if gain[0] > 0 else "down"
            text = f"{gain[0]:+.3f} ± {gain[1]:.3f} against {runs[-2]['label']}"
            notes = [tag("small", text, class_=f"delta {sign}")]
        notes += [tag("small", f"{modes[other]} {plus_minus(*number)}") for other, number in others]
        made.append(tag("div", tag("span", f"{metric} ", tag("small", modes[mode])), tag("b", f"{mean:.3f}"), notes))
    return tag("div", made, class_="tiles")


def curves(directories):
    """Html of training runs: a small panel per key of CURVES, a colour per directory.

    Drawn are running means over seconds of training. Raises SystemExit with one line where a directory is none of a
    training run.
    """
    found, figures, names = defaultdict(list), [], []
    for r, directory in enumerate(map(Path, directories)):
        if not (directory / "metrics.jsonl").is_file():
            raise SystemExit(f"error: {directory} has no metrics.jsonl; "
                             f"--curves wants directories of sft.py or virl.py.")
        rows = read_lines(directory / "metrics.jsonl")
        names.append(tag("span", tag("i", class_=f"c{r % 6}"), directory.name))
        for key in CURVES:
            points = [(row["seconds"], row[key]) for row in rows if row.get(key) is not None and "seconds" in row]
            if len(points) > 1:
                x, y = np.array(points, dtype=float).T  # [n] each
                window = max(1, len(x) // 40)
                smooth = np.convolve(np.pad(y, (window - 1, 0), "edge"), np.ones(window) / window, "valid")  # [n]
                kept = np.unique(np.linspace(0, len(x) - 1, 240).astype(int))  # as many as can be told apart
                found[key].append((r, x[kept], smooth[kept]))
    for key, drawn in found.items():
        every_x, every_y = (np.concatenate(values) for values in list(zip(*drawn))[1:])  # [points of all directories]
        start, stop, low, high = every_x.min(), every_x.max(), every_y.min(), every_y.max()
        across = lambda x: 4 + 222 * (x - start) / max(1e-9, stop - start)
        down = lambda y: 96 - 88 * (y - low) / max(1e-9, high - low)
        points = lambda x, y: " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across(x), down(y)))
        lines = [tag("polyline", points=points(x, y), class_=f"c{r % 6}") for r, x, y in drawn]
        texts = [tag("text", f"{low:.3g} to {high:.3g}", x=4, y=112),
                 tag("text", f"{stop:.0f} s", x=226, y=112, text_anchor="end")]
        panel = tag("svg", line(4, 226, 96, 96, "grid"), lines, texts, viewBox="0 0 230 116")
        figures.append(tag("figure", tag("h4", key), panel, class_="small"))
    return joined(tag("p", names, class_="legend") if len(directories) > 1 else "", figures)


# -------------------------------------------------------------------------------------------------------------- gallery

def thumbnail(path, side=224):
    """Data URI of an image file, at most `side` pixels large (WebP); small files stay as they are (PNG)."""
    raw, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(raw)) as image:
        if max(image.size) > side or len(raw) > 4000:
            image.thumbnail((side, side), Image.LANCZOS)
            image.save(buffer := io.BytesIO(), "WEBP", quality=70)
            raw, kind = buffer.getvalue(), "webp"
    return data_uri(raw, kind)


def gallery(runs, block=32):
    """What the report's script needs, as inert <script> elements whose text cannot end them.

    #data: an index with all numbers, read at once. #pN: pictures and messages of item N, read when it is shown. #tN:
    prompts, references and answers of `block` items, compressed, read when one is opened or searched. The more
    pictures, the smaller each. Raises OSError where a picture is missing.
    """
    modes, index, texts = modes_of(runs), [], []
    script = lambda kind, id_, text: Html(f'<script type="{kind}" id="{id_}">{text}</script>')
    inert = lambda id_, value: script("application/json", id_, json.dumps(value).replace("<", "\\u003c"))
    answers = [{(row["id"], row["mode"]): row for row in run["rows"] if row["k"] == 0} for run in runs]
    items = [item for item in runs[0]["items"].values() if item["target"]]

    def of(item, make):
        """{mode: [make(run, row of its first answer to the item) or None, per run]}."""
        rows = {mode: [(run, a.get((item["id"], mode))) for run, a in zip(runs, answers)] for mode in modes}
        return {mode: [row and make(run, row) for run, row in pairs] for mode, pairs in rows.items()}

    target = lambda item: runs[0]["dir"] / item["target"]
    file = lambda run, row: row["render"] and run["dir"] / row["render"]
    files = {target(item) for item in items} | {f for item in items for fs in of(item, file).values() for f in fs if f}
    # A thumbnail takes about 9 bytes for each pixel of its side.
    side = int(min(224, max(64, PICTURES / max(1, len(files)) / 9)))
    with ThreadPoolExecutor() as pool:
        pictures = dict(zip(files, pool.map(lambda f: thumbnail(f, side), files)))
    number = lambda v: v if v is None else round(v, 3)
    for item in items:
        index.append({"id": item["id"], "page": item[PAGES], "task": item["task"], "source": item["source"],
                      "runs": of(item, lambda run, row: [row["status"], *(number(row[m]) for m in METRICS)])})
        answered = of(item, lambda run, row: row["response"])
        texts.append({"prompt": item["prompt"], "answer": item["answer"], "runs": answered})
    made = [inert("data", {"runs": [run["label"] for run in runs], "metrics": METRICS, "parts": REWARD_PARTS,
                           "modes": modes, "shown": SHOWN, "block": block, "items": index})]
    for n, item in enumerate(items):
        shown = {}  # equal pictures once
        at = lambda f: f and shown.setdefault(pictures[f], len(shown))
        first, answered = at(target(item)), of(item, lambda run, row: [at(file(run, row)), row["message"]])
        made.append(inert(f"p{n}", {"target": first, "runs": answered, "pictures": list(shown)}))
    for n in range(0, len(texts), block):
        packed = gzip.compress(json.dumps(texts[n:n + block]).encode(), mtime=0)
        made.append(script("text/plain", f"t{n // block}", base64.b64encode(packed).decode()))
    return Html("\n".join(made))


# ----------------------------------------------------------------------------------------------------------------- page

def section(title, *content):
    """Html of a section; content: parts as `joined` takes them; nothing where there is none."""
    content = joined(*content)
    return tag("section", tag("h2", title), content) if content else content


def folded(title, *content):
    """Html of what shows only its title until it is opened; content: parts as `joined` takes them."""
    return tag("details", tag("summary", title), *content)


def page(runs):
    """Html of the numbers of runs, or of their part for one domain."""
    last, found, modes = runs[-1], differences(runs), modes_of(runs)
    table = lambda kind: html_table(*score_table(runs, kind), last["label"])
    kinds = [kind for kind in ("language", "source", "task") if sum(g[0] == kind for g in last["table"]) > 1]
    legend = [tag("span", tag("i", class_=colour(runs, r)), run["label"]) for r, run in enumerate(runs)]
    legend += [tag("span", tag("i", class_=f"ink m{m}"), modes[mode]) for m, mode in enumerate(modes) if len(modes) > 1]
    known = last["table"]["all", "all"]
    legend += [tag("span", tag("b", class_=name), BASELINES[name]) for name in ("blank", "other") if name in known]
    figures = tag("div", [bars(runs, m) for m in SHOWN], class_="figures four")
    legend, against = tag("p", legend, class_="legend"), ""
    if found:
        how = ("Paired over the same items: mean ± standard error, * and dark beyond two of them; the line is the 95 % "
               "bootstrap interval.")
        numbers = folded("Numbers, by source", html_table(*difference_table(runs, found)))
        against = section(f"{last['label']} against the others", forest(runs, found), tag("p", how), numbers)
    return joined(
        section("At a glance", tiles(runs), legend, figures), against,
        section("Metrics of the domains", domain_section(runs)),
        section("Scores", table((kinds or ["all"])[0]), [folded(f"By {kind}", table(kind)) for kind in kinds[1:]]))


def domain_section(runs):
    """The tables of domain_tables and how to read them, as parts for `joined`; "" without any."""
    if not (tables := domain_tables(runs)):
        return ""
    return [html_table(*table) for table in tables], tag("p", (
        "Metrics of the domains, as their benchmarks define them (domain.py, traced.py): mean ± standard error with "
        "failures as 0, in brackets the mean over the answers that ran; last, for how many answers a metric was not "
        "computed. Refine: what answers gained in the outside metric over the defective program, as a share of what "
        "could be gained, how often the result was better, worse or the same, how often a program that fails runs "
        "afterwards, how often the program came back unchanged."))


def published_section(runs):
    """A benchmark's published numbers beside ours, as parts for `joined`; "" where the runs are of none."""
    if not (table := published_table(runs)):
        return ""
    return html_table(*table), [tag("p", note) for note in benchmarks.notes(runs[-1]["benchmark"])]


def searched_section(runs):
    """What search.py drew of each run that it served, as parts for `joined`."""
    figures = []
    for run in runs:
        file = run["dir"] / "search.png"
        if any(map(SEARCHED.fullmatch, run["means"])) and file.is_file():
            source = data_uri(file.read_bytes(), "png")
            picture = tag("img", alt="quality against programs sampled per image", src=source)
            figures.append(tag("figure", tag("h4", run["label"]), picture))
    return figures


def explanation(runs):
    """How to read the numbers, and what each run's numbers are of, as parts for `joined`."""
    meaning = "; ".join(f"{metric}: {what}" for metric, what in MEANING.items())
    text = (f"A program that fails counts 0 in every mean. {meaning} (masked SSIM, edges, palette, coarse layout). "
            "Columns without a mode are greedy.")
    return tag("p", text), tag("ul", [tag("li", f"{run['label']}: {run['counts']}") for run in runs])


def write_report(runs, path, note="", training=""):
    """Write runs as one HTML file at `path`; note: paragraphs shown at its top; training: Html of `curves`.

    Raises OSError where a picture of a run is missing.
    """
    n, groups = len(runs[0]["items"]), groups_of(runs[0]["items"])
    shown = sum(bool(item["target"]) for item in runs[0]["items"].values())
    pages = {"all": page(runs)}
    if sum(kind == PAGES for kind, _ in groups) > 1:
        pages |= {name: page([only(run, ids) for run in runs]) for (kind, name), ids in groups.items() if kind == PAGES}
    count = lambda i, name: tag("small", str(len(groups[PAGES if i else "all", name])))
    tabs = [tag("a", f"{name} ", count(i, name), href=f"#{quote(name, errors='replace')}", data_page=name)
            for i, name in enumerate(pages)]
    notes = [tag("p", p.strip(), class_="note") for p in note.split("\n\n") if p.strip()]
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    bodies = [tag("div", content, class_="page", **({"hidden": True} if i else {}))
              for i, content in enumerate(pages.values())]
    write_text(path, f"""<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content="width=device-width">
<meta http-equiv=Content-Security-Policy content="{policy}">
<title>nanoVinci: evaluation</title><style>{STYLE}</style><main><h1>nanoVinci: from image to code</h1>\
<p class=lead>{n} held-out images, {len(runs)}
run{"s" * (len(runs) > 1)}, answers: {", ".join(modes_of(runs).values())}. Means ± standard error over images.</p>
{tag("section", notes) if notes else ""}
<nav aria-label=pages>{joined(tabs if len(pages) > 1 else [])}<button id=jump>gallery ↓</button></nav>
{joined(bodies)}
{section("Beside published numbers", published_section(runs))}{section("Search at test time", searched_section(runs))}
{section("Training", tag("div", training, class_="figures") if training else "")}\
{section("How to read this", explanation(runs))}
<section id=gallery><h2>Gallery</h2><p>{f"The first {shown} of {n} items. " if shown < n else ""}The target, then for \
each run its first answer and the
difference to the target: <span class=key><i class=missing></i>missing <i class=extra></i>too much \
<i class=changed></i>other colour</span></p>
<noscript>The gallery needs JavaScript.</noscript><div id=controls></div><div id=cards></div></section></main>
{gallery(runs)}<script>{SCRIPT}</script></html>""")


def write_sheet(runs, path, columns=16, side=64):
    """Write a PNG for a quick look: targets in the first row, below them each run's first answer to them.

    That at temperature 1, else the greedy one; `columns` items at most, `side` pixels large. Grey: no image.
    """
    shown = [item for item in runs[0]["items"].values() if item["target"]]
    shown = [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, columns).astype(int))]
    rows = [("target", [runs[0]["dir"] / item["target"] for item in shown])]
    for run in runs:
        answers = {row["id"]: row for mode in MODES for row in run["rows"] if row["mode"] == mode and row["k"] == 0}
        mine = [answers.get(item["id"]) for item in shown]
        rows.append((run["label"], [row and row["render"] and run["dir"] / row["render"] for row in mine]))
    sheet = Image.new("RGB", (110 + (side + 8) * len(shown), (side + 8) * len(rows)), "#e3e7ee")
    for y, (label, files) in enumerate(rows):
        ImageDraw.Draw(sheet).text((8, y * (side + 8) + side // 2), label, fill="black")
        for x, file in enumerate(files):
            picture = Image.open(file).convert("RGB") if file else Image.new("RGB", (side, side), "#9aa5b8")
            picture.thumbnail((side, side))
            sheet.paste(picture, (110 + x * (side + 8), 4 + y * (side + 8)))
    sheet.save(path)
