"""Which samples are worth training on: `data.py filter` by the program, `select-rl` by how a model fares with it.

    python data.py filter out/mine --out out/clean
    python data.py select-rl out/clean/rl --scores out/eval/sft/scores.jsonl --out out/selected
"""
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

import data
from corpus import in_chunks, keep_rows, samples_of
from parts import Writer, counted, finish, finished, in_processes, over_files, reject, stamp
from pixels import background
from render import Renderer
from reward import embeds_raster, features, visual_parts

# --------------------------------------------------------------------------------------------------------------- filter

SIMILAR = 0.9  # reward.visual of a program's render and its stored image below which the render becomes the image
REMOTE = re.compile(
    r"""(?:\bsrc|\bsrcset|\bposter|\bxlink:href|<link\b[^>]*\bhref)\s*=\s*["']?\s*(?:https?:)?//"""
    r"""|url\(\s*["']?(?:https?:)?//|@import\s+["'](?:https?:)?//|\b(?:requests|urllib|httpx|urlopen|wget)\b""", re.I)
READS = {
    "python": re.compile(
        r"\b(?:imread|read_(?:csv|excel|json|table|parquet|pickle)|loadtxt|genfromtxt|np\.load|Image\.open)\(\s*[\"'rf]"
        r"|(?<![\w.])open\((?![^\n]*[\"'][awx][bt+]*[\"'])"),  # not where it writes, nor Image.open(BytesIO(...))
    "latex": re.compile(r"\\(?:input|include|includegraphics|openin|read|verbatiminput)\b"),
    "html": re.compile(r"file://"),
    "svg": re.compile(r"file://|<image\b(?![^>]*data:)")}
# HTML elements that must be closed; for p, li, td and others the standard lets browsers do it
CLOSED = set("a article aside button div footer form h1 h2 h3 h4 h5 h6 header main nav ol script section select span "
             "style svg table textarea title ul".split())


def python_error(code):
    """The name of the error that ast.parse raises, such as SyntaxError, or None."""
    import ast
    import warnings
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in the strings of others
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return type(error).__name__


def svg_error(code):
    """The name of the error that defusedxml raises (broken XML, entities), "no svg element", or None."""
    from defusedxml import ElementTree
    try:
        root = ElementTree.fromstring(code.encode())
    except Exception as error:  # defusedxml and expat raise several unrelated classes
        return type(error).__name__
    if root.tag.rpartition("}")[2] != "svg":
        return "no svg element"


def html_error(code):
    """Why a page is broken, or None. Browsers forgive nearly all.

    Refused are a page without any element, one of CLOSED that is closed more or less often than opened, and <![x[.
    """
    parser, opened, closed = HTMLParser(), Counter(), Counter()
    parser.handle_starttag = lambda tag, attributes: opened.update([tag])
    parser.handle_startendtag = lambda tag, attributes: opened.update([f"{tag}/"])
    parser.handle_endtag = lambda tag: closed.update([tag])
    try:
        parser.feed(code)
    except AssertionError:  # how html.parser refuses <![x[
        return "a declaration that HTML does not know"
    if not opened:
        return "no element"
    if wrong := [tag for tag in CLOSED if opened[tag] != closed[tag]]:
        return f"<{min(wrong)}> is not closed as often as it is opened"


def latex_error(code):
    """Which are not closed as often as opened, braces or environments (by name), comments left out; or None."""
    bare = re.sub(r"(?<!\\)%.*", "", code.replace("\\\\", ""))
    plain = re.sub(r"\\[{}]", "", bare)
    if plain.count("{") != plain.count("}"):
        return "braces do not match"
    if Counter(re.findall(r"\\begin\{([^}]*)\}", bare)) != Counter(re.findall(r"\\end\{([^}]*)\}", bare)):
        return "\\begin and \\end do not match"


ERRORS = {"python": python_error, "svg": svg_error, "html": html_error, "latex": latex_error}


def parse_error(language, code):
    """Why a program cannot be parsed, "" if it can. No program is run."""
    why = ERRORS[language](code) if language in ERRORS else None
    return f"does not parse: {why}" if why else ""


def ruff_findings(samples):
    """Samples -> what ruff finds wrong in their Python programs: a reason each, "" for nothing or without ruff.

    No program is run: syntax errors, undefined names, bad comparisons and formats. One call takes 2,000 files in .16 s.
    Raises SystemExit with one line when ruff itself fails.
    """
    codes = [data.extract_code(s.answer, s.language)[0] if s.language == "python" else None for s in samples]
    ruff = shutil.which("ruff")
    if not ruff or not any(codes):
        return [""] * len(samples)
    with tempfile.TemporaryDirectory() as folder:
        for n, code in enumerate(codes):
            if code:
                Path(folder, f"{n}.py").write_text(code, errors="replace")
        done = subprocess.run([ruff, "check", "--isolated", "--no-cache", "--select", "E9,F63,F7,F82",
                               "--output-format", "json", folder], capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: it found something
        message = (done.stderr.strip() or "no message").splitlines()[0]
        raise SystemExit(f"error: ruff failed: {message}. Update or uninstall it.")
    found = {}
    for finding in json.loads(done.stdout):
        found.setdefault(int(Path(finding["filename"]).stem), f"ruff: {finding['code'] or 'syntax error'}")
    return [found.get(n, "") for n in range(len(samples))]


def static_reason(sample, longest):
    """Why a sample falls before its program is run, "" if it does not: cheapest first."""
    if reason := data.check_sample(sample):
        return reason
    code, _ = data.extract_code(sample.answer, sample.language)
    if len(code) > longest:
        return f"longer than {longest} characters"
    if reason := parse_error(sample.language, code):
        return reason
    if REMOTE.search(code):
        return "remote resource"
    if sample.language in READS and READS[sample.language].search(code):
        return "reads a file"
    return "embedded raster" if embeds_raster(code) else ""


def image_reason(image):
    """Why a picture, uint8 [H, W, 3], teaches nothing, "" if it does."""
    height, width = image.shape[:2]
    if min(height, width) < 32 or max(height, width) / min(height, width) > 10:
        return "smaller than 32 pixels or longer than ten times its width"
    differs = np.abs(image / 255 - background(image / 255)).max(-1) > 0.1  # [H, W]
    return "blank" if image.std() < 2 or differs.mean() < 0.005 else ""


def filter_file(path, number, out, split, longest, timeout, unsafe):
    """Filter one parquet file into part `number` of a split. -> record: "read", "kept", "rejected", "re-rendered"."""
    wanted = [*stamp(path), longest, timeout]
    if record := finished(out, number, wanted):
        return record
    writer, rejects, read, redrawn = Writer(out / split / f"part-{number:05d}.parquet"), [], 0, 0
    pairs = (pair for chunk in in_chunks(samples_of(path), 64) for pair in zip(chunk, ruff_findings(chunk)))
    with Renderer(1, timeout, unsafe=unsafe) as renderer:
        for sample, finding in counted(pairs):
            read += 1
            first = None  # the picture that its program draws, where it has one
            if not sample.answer.strip():  # a target for ViRL: there is only the image to be judged
                reason = data.check_sample(sample, answer=False) or image_reason(np.asarray(data.open_image(sample)))
            elif not (reason := static_reason(sample, longest) or finding):
                code, size = data.extract_code(sample.answer, sample.language)[0], (sample.width, sample.height)
                first, second = (renderer.submit(sample.language, code, size).result() for _ in range(2))
                if first.status != "ok":
                    reason = f"does not run: {first.status}"
                elif second.status != "ok" or not np.array_equal(first.image, second.image):
                    reason = "two renders differ"
                else:
                    reason = image_reason(first.image)
            if reason:
                rejects.append(reject(path, read - 1, sample, reason))
                continue
            if first and visual_parts(features(np.asarray(data.open_image(sample))), first.image)["visual"] < SIMILAR:
                sample.image, redrawn = data.png(first.image), redrawn + 1
                sample.height, sample.width = first.image.shape[:2]
            writer.add(sample)
    writer.close()
    return finish(out, number, {"input": wanted, "read": read, "kept": writer.count, "re-rendered": redrawn}, rejects)


def filter_samples(path, out, longest, timeout=10.0, workers=None, unsafe=False):
    """Keep the samples below `path` whose program parses, is allowed, runs, and draws the same twice.

    longest: characters of a program; timeout: seconds for it. Prints how many fell where.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(file, n, out, split, longest, timeout, unsafe) for n, (file, split) in enumerate(data.split_files(path))]
    records = in_processes(filter_file, jobs, workers, out, "filter")
    reasons, examples = Counter(), {}
    for row in map(json.loads, open(out / "rejects.jsonl")):
        reasons[row["reason"]] += 1
        examples.setdefault(row["reason"], row["id"])
    total = {key: sum(r[key] for r in records) for key in ("read", "kept", "re-rendered")}
    print(f"read {total['read']}, kept {total['kept']}, of them {total['re-rendered']} with a new image because their "
          f"program draws another than the stored one; rejected {reasons.total()} (in {out / 'rejects.jsonl'})")
    for reason, n in reasons.most_common():
        print(f"  rejected {n}: {reason}, such as {examples[reason]}")


# ------------------------------------------------------------------------------------------------- prompts for ViRL

LEVELS = (("hard", 0.0, 0.4), ("medium", 0.4, 0.7), ("easy", 0.7, 1.01))  # by the mean reward of a model's samples


def sampled_rewards(files):
    """eval.py's scores.jsonl or virl.py's rollouts -> {id: [(reward, execution)] of its answers at temperature 1}.

    Raises SystemExit with one line for a file that holds something else.
    """
    rewards = defaultdict(list)
    for file in files:
        try:
            for row in map(json.loads, filter(str.strip, open(file))):
                if not isinstance(row, dict) or not {"id", "reward", "execution"} <= row.keys():
                    raise SystemExit(f"error: {file} has lines without id, reward and execution; "
                                     "give eval.py's scores.jsonl or virl.py's rollouts.")
                scored = isinstance(row["reward"], (int, float)) and math.isfinite(row["reward"])
                if scored and row.get("mode", "t1") == "t1":
                    rewards[str(row["id"])].append((row["reward"], row["execution"]))
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: {file} cannot be read as scores ({error}).") from None
    return rewards


def mean_reward(rewards):
    """[(reward, execution)] of a prompt's answers, at least one -> mean of the rewards."""
    return sum(r for r, _ in rewards) / len(rewards)


def useless_reason(rewards, low, high, spread):
    """Why a prompt teaches a group nothing (equal rewards have no advantage), "" if it does.

    rewards: [(reward, execution)], 0 to 1 each.
    """
    mean = mean_reward(rewards)
    if len(rewards) < 2:
        return "fewer than two scored answers"
    if not any(execution for _, execution in rewards):
        return "no answer runs"
    if mean < low:
        return f"too hard: mean reward below {low}"
    if mean > high:
        return f"no head-room: mean reward above {high}"
    deviation = math.sqrt(sum((r - mean) ** 2 for r, _ in rewards) / len(rewards))
    return f"no spread: standard deviation below {spread}" if deviation < spread else ""


def ids_and_languages(path):
    """[(id, language)] of the rows of a parquet file of samples; no image is read."""
    found = []
    for _, parquet in data.opened(path):
        columns = [c for c in ("id", "language") if c in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(1024, columns=["user_content", "assistant_content", *columns]):
            samples = map(data.sample_from, batch.to_pylist())
            found += [(s.id, s.language) for s in samples]
    return found


def select_rl(path, score_files, out, count=0, low=0.2, high=0.95, spread=0.03, seed=0, workers=None):
    """Keep the prompts that a model's own scores show to be worth training on, evenly over languages and difficulty.

    path: samples; score_files: what `sampled_rewards` reads; count: prompts wanted (0: all that are useful); low, high,
    spread: see `useless_reason`. The bins, language by difficulty, are filled evenly: those that hold too little give
    their share to the others. Raises SystemExit with one line where nothing is scored or useful.
    """
    out, rewards, files = Path(out), sampled_rewards(score_files), data.parquet_files(path)
    data.Corpus(path)  # one line where something is no file of samples
    bins, rejects, scored = defaultdict(list), {}, 0  # of prompts by their number; {number: reject}
    places, unnamed = [], [{} for _ in files]  # places: (file, row, id) of each prompt
    for f, rows in enumerate(over_files(ids_and_languages, files, workers)):
        for k, (id, language) in enumerate(rows):
            n = len(places)
            if not id:
                id = unnamed[f][k] = f"row {n}"
            places.append((f, k, id))
            level, reason = "", "not scored"
            if id in rewards:
                scored += 1
                mean = mean_reward(rewards[id])
                # a length penalty can make a mean negative
                level = next((name for name, a, b in LEVELS if a <= mean < b), LEVELS[0][0])
                reason = useless_reason(rewards[id], low, high, spread)
            if reason:
                rejects[n] = {"id": id, "language": language, "level": level, "reason": reason}
            else:
                bins[language, level].append(n)
    if not scored:
        names = ", ".join(map(str, score_files))
        raise SystemExit(f"error: none of the {len(places)} samples of {path} is scored in {names}: `python eval.py "
                         f"--model DIR --data {path} --samples 8 --out OUT` writes OUT/scores.jsonl.")
    left, kept = count or len(places), Counter()  # kept: of each bin
    for done, (key, members) in enumerate(sorted(bins.items(), key=lambda item: (len(item[1]), item[0]))):
        share = -(-left // (len(bins) - done))  # the smallest bins first
        chosen = {members[j] for j in data.epoch_order(len(members), seed, key)[:share]}
        full = {"language": key[0], "level": key[1], "reason": "its bin is full"}
        rejects |= {n: {"id": places[n][2], **full} for n in members if n not in chosen}
        kept[key] = len(chosen)
        left -= len(chosen)
    dropped = [{} for _ in files]
    for n, row in rejects.items():
        f, k, _ = places[n]
        dropped[f][k] = row
    jobs = [(file, f, out, "rl", dropped[f], unnamed[f]) for f, file in enumerate(files)]
    in_processes(keep_rows, jobs, workers, out, "select")
    print(f"read {len(places)} prompts, {scored} of them scored, kept {kept.total()} "
          f"(the others and why: {out / 'rejects.jsonl'})")
    table = {key: Counter() for key in bins}
    for row in rejects.values():
        if row["level"]:
            table.setdefault((row["language"], row["level"]), Counter())[row["reason"]] += 1
    for key in sorted(table):
        here, reasons = kept[key], table[key]
        print("  {:7} {:7}".format(*key) + f" {here + reasons.total():6} scored, {here:6} kept"
              + "".join(f"; {m} {why}" for why, m in reasons.most_common()))
    if not kept.total():
        raise SystemExit("error: no prompt is useful by these limits; widen --low, --high or --spread.")
