"""Which samples are worth training on: `data.py filter`, by what a program is and draws; `select-rl`, by how a model fares with it.

    python data.py filter out/mine --out out/clean
    python data.py select-rl out/clean/rl --scores out/eval/sft/scores.jsonl --out out/selected

Both share the files out, and skip what is finished, as corpus.py does.
"""
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import data
from corpus import Writer, finish, finished, in_chunks, in_processes, over_files, raw_rows, sample_of

# ---------------------------------------------------------------------------------------------------------------- filter

SIMILAR = 0.9  # reward.visual of a program's render and its stored image below which the render becomes the image
REMOTE = re.compile(r"""(?:\bsrc|\bsrcset|\bposter|\bxlink:href|<link\b[^>]*\bhref)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?(?:https?:)?//"""
                    r"""|@import\s+["'](?:https?:)?//|\b(?:requests|urllib|httpx|urlopen|wget)\b""", re.I)
READS = {"python": re.compile(r"\b(?:imread|read_(?:csv|excel|json|table|parquet|pickle)|loadtxt|genfromtxt|np\.load|Image\.open)\(\s*[\"'rf]|\bopen\([^)]*\)(?!\.write)(?![^\n]*[\"']w)"),
         "latex": re.compile(r"\\(?:input|include|includegraphics|openin|read|verbatiminput)\b"), "html": re.compile(r"file://"), "svg": re.compile(r"file://|<image\b(?![^>]*data:)")}
# HTML elements that must be closed; for p, li, td and others the standard lets browsers do it
CLOSED = set("a article aside button div footer form h1 h2 h3 h4 h5 h6 header main nav ol script section select span style svg table textarea title ul".split())


def parse_error(language, code):
    """Why a program cannot be parsed, "" if it can. No program is run."""
    if language == "python":
        import ast
        import warnings
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about escapes in the strings of others
                ast.parse(code)
        except (SyntaxError, ValueError, RecursionError) as error:
            return f"does not parse: {type(error).__name__}"
    elif language == "svg":
        from defusedxml import ElementTree
        try:
            if ElementTree.fromstring(code.encode()).tag.rpartition("}")[2] != "svg":
                return "does not parse: no svg element"
        except Exception as error:  # defusedxml and expat raise several unrelated classes
            return f"does not parse: {type(error).__name__}"
    elif language == "html":
        from html.parser import HTMLParser
        opened, closed = Counter(), Counter()
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, attributes: opened.update([tag])
        parser.handle_startendtag = lambda tag, attributes: opened.update([f"{tag}/"])
        parser.handle_endtag = lambda tag: closed.update([tag])
        parser.feed(code)
        if not opened:
            return "does not parse: no element"
        if wrong := [tag for tag in CLOSED if opened[tag] != closed[tag]]:
            return f"does not parse: <{sorted(wrong)[0]}> is not closed as often as it is opened"
    elif language == "latex":
        bare = re.sub(r"(?<!\\)%.*", "", code.replace("\\\\", ""))
        plain = re.sub(r"\\[{}]", "", bare)
        if plain.count("{") != plain.count("}"):
            return "does not parse: braces do not match"
        if Counter(re.findall(r"\\begin\{([^}]*)\}", bare)) != Counter(re.findall(r"\\end\{([^}]*)\}", bare)):
            return "does not parse: \\begin and \\end do not match"
    return ""


def ruff_findings(samples):
    """What ruff finds wrong in Python programs without running them: syntax errors, undefined names, bad comparisons and
    formats -> list of reasons, "" where it finds nothing or is not installed. One call: it takes 2,000 files in .16 s."""
    codes = [data.extract_code(s.answer, s.language)[0] if s.language == "python" else None for s in samples]
    ruff = shutil.which("ruff")
    if not ruff or not any(codes):
        return [""] * len(samples)
    with tempfile.TemporaryDirectory() as folder:
        for n, code in enumerate(codes):
            if code:
                Path(folder, f"{n}.py").write_text(code, errors="replace")
        done = subprocess.run([ruff, "check", "--isolated", "--no-cache", "--select", "E9,F63,F7,F82", "--output-format", "json", folder],
                              capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: it found something
        raise SystemExit(f"error: ruff failed: {(done.stderr.strip() or 'no message').splitlines()[0]}. Update or uninstall it.")
    found = {int(Path(f["filename"]).stem): f"ruff: {f['code'] or 'syntax error'}" for f in reversed(json.loads(done.stdout))}
    return [found.get(n, "") for n in range(len(samples))]

def static_reason(sample, longest):
    """Why a sample falls before its program is run, "" if it does not: cheapest first."""
    from reward import embeds_raster
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
    import numpy as np
    from reward import background
    height, width = image.shape[:2]
    if min(height, width) < 32 or max(height, width) / min(height, width) > 10:
        return "smaller than 32 pixels or longer than ten times its width"
    differs = np.abs(image / 255 - background(image / 255)).max(-1) > 0.1  # [H, W]
    return "blank" if image.std() < 2 or differs.mean() < 0.005 else ""


def filter_file(path, number, out, split, longest, timeout, unsafe):
    """Filter one parquet file into part `number` of a split. -> record with "read", "kept", "rejected", "re-rendered"."""
    import numpy as np
    from render import Renderer
    from reward import features, visual_parts
    wanted = [str(path), path.stat().st_size, path.stat().st_mtime_ns, longest, timeout]
    if record := finished(out, number, wanted):
        return record
    writer, rejects, read, redrawn = Writer(out / split / f"part-{number:05d}.parquet"), [], 0, 0
    with Renderer(1, timeout, unsafe=unsafe) as renderer:
        samples = (pair for chunk in in_chunks(map(sample_of, raw_rows(path)), 64) for pair in zip(chunk, ruff_findings(chunk)))
        for i, (sample, finding) in enumerate(samples):
            read += 1
            if not sample.answer.strip():  # a target for ViRL: there is only the image to be judged
                if not (reason := data.check_sample(sample, answer=False) or image_reason(np.asarray(data.open_image(sample)))):
                    writer.add(sample)
                    continue
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
                rejects.append({"input": str(path), "row": i, "id": sample.id, "reason": reason, "prompt": sample.prompt[:200], "answer": sample.answer[:500]})
                continue
            if visual_parts(features(np.asarray(data.open_image(sample))), first.image)["visual"] < SIMILAR:
                sample.image, redrawn = data.png(first.image), redrawn + 1
                sample.height, sample.width = first.image.shape[:2]
            writer.add(sample)
    writer.close()
    return finish(out, number, {"input": wanted, "read": read, "kept": writer.count, "re-rendered": redrawn}, rejects)


def filter_samples(path, out, longest, timeout=10.0, workers=None, unsafe=False):
    """Keep the samples below `path` whose program parses, is allowed, runs, and draws the same twice. Prints how many fell where."""
    out, jobs = Path(out), []
    for split in data.split_dirs(path):
        for file in data.parquet_files(split):
            jobs.append((file, len(jobs), out, split.name, longest, timeout, unsafe))
    out.mkdir(parents=True, exist_ok=True)
    records = in_processes(filter_file, jobs, workers, out, "filter")
    reasons, examples = Counter(), {}
    for row in map(json.loads, open(out / "rejects.jsonl")):
        reasons[row["reason"]] += 1
        examples.setdefault(row["reason"], row["id"])
    total = {key: sum(r[key] for r in records) for key in ("read", "kept", "re-rendered")}
    print(f"read {total['read']}, kept {total['kept']}, of them {total['re-rendered']} with a new image because their program draws another than the stored "
          f"one; rejected {sum(reasons.values())} (in {out / 'rejects.jsonl'})")
    for reason, n in reasons.most_common():
        print(f"  rejected {n}: {reason}, such as {examples[reason]}")


# ------------------------------------------------------------------------------------------------- prompts for ViRL

LEVELS = (("hard", 0.0, 0.4), ("medium", 0.4, 0.7), ("easy", 0.7, 1.01))  # difficulty, by the mean reward of a model's samples


def sampled_rewards(files):
    """eval.py's scores.jsonl or virl.py's rollouts -> {id: rewards of its answers sampled at temperature 1}."""
    rewards = defaultdict(list)
    for file in files:
        try:
            rows = [json.loads(line) for line in open(file) if line.strip()]
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: {file} cannot be read as scores ({error}).") from None
        for row in rows:
            if "id" not in row or "reward" not in row:
                raise SystemExit(f"error: {file} has lines without id or reward; give eval.py's scores.jsonl or virl.py's rollouts.")
            if row.get("mode", "t1") == "t1" and row["reward"] is not None and math.isfinite(row["reward"]):
                rewards[row["id"]].append((row["reward"], row["execution"]))
    return rewards


def useless_reason(rewards, low, high, spread):
    """Why a prompt teaches a group nothing (equal rewards have no advantage), "" if it does. rewards: [(reward, execution)], 0 to 1 each."""
    values, runs = [r for r, _ in rewards], [e for _, e in rewards]
    mean = sum(values) / len(values)
    if len(values) < 2:
        return "fewer than two scored answers"
    if not any(runs):
        return "no answer runs"
    if mean < low:
        return f"too hard: mean reward below {low}"
    if mean > high:
        return f"no head-room: mean reward above {high}"
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return f"no spread: standard deviation below {spread}" if deviation < spread else ""


def ids_and_languages(path):
    """[(id, language)] of the rows of a parquet file; no image is read."""
    import pyarrow.parquet as pq
    with pq.ParquetFile(path) as parquet:
        names = [c for c in ("id", "language", "user_content", "assistant_content") if c in parquet.schema_arrow.names]
        rows = (row for batch in parquet.iter_batches(1024, columns=names) for row in batch.to_pylist())
        return [(s.id, s.language) for s in (data.sample_from({"image": b"", **row}) for row in rows)]


def keep_rows(path, number, out, kept, rejects):
    """Write the rows `kept` ([row, id] each) of one parquet file as part `number` of OUT/rl."""
    wanted = [str(path), path.stat().st_size, path.stat().st_mtime_ns, kept]
    if record := finished(out, number, wanted):
        return record
    writer, ids = Writer(out / "rl" / f"part-{number:05d}.parquet"), dict(kept)
    for i, row in enumerate(raw_rows(path)):
        if i in ids:
            sample = sample_of(row)
            sample.id = ids[i]
            writer.add(sample)
    writer.close()
    return finish(out, number, {"input": wanted, "kept": writer.count}, rejects)


def select_rl(path, score_files, out, count=0, low=0.2, high=0.95, spread=0.03, seed=0, workers=None):
    """Keep the prompts that a model's own sampled scores show to be worth training on, evenly over languages and difficulty.

    path: samples; score_files: what `sampled_rewards` reads; count: prompts wanted (0: all that are useful). The bins,
    language by difficulty, are filled evenly: those that hold too little give their share to the others.
    """
    out, rewards, files = Path(out), sampled_rewards(score_files), data.parquet_files(path)
    bins, rejects, scored, n, places = defaultdict(list), [], 0, 0, []  # places: (file, row, id) of prompt n
    data.Corpus(path)  # one line where something is no file of samples
    for f, rows in enumerate(over_files(ids_and_languages, files, workers)):
        for k, (id, language) in enumerate(rows):
            id = id or f"row {n}"
            places.append((f, k, id))
            reject = {"id": id, "language": language, "level": "", "reason": "not scored"}
            if id in rewards:
                scored += 1
                mean = sum(r for r, _ in rewards[id]) / len(rewards[id])
                reject["level"] = next((name for name, a, b in LEVELS if a <= mean < b), LEVELS[0][0])  # a length penalty can make it negative
                reject["reason"] = useless_reason(rewards[id], low, high, spread)
            if reject["reason"]:
                rejects.append((f, reject))
            else:
                bins[language, reject["level"]].append(n)
            n += 1
    if not scored:
        raise SystemExit(f"error: none of the {n} samples of {path} is scored in {', '.join(map(str, score_files))}: "
                         f"`python eval.py --model DIR --data {path} --samples 8 --out OUT` writes OUT/scores.jsonl.")
    left, kept = count or n, set()
    for done, (key, members) in enumerate(sorted(bins.items(), key=lambda item: (len(item[1]), item[0]))):
        share = -(-left // (len(bins) - done))  # the smallest bins first
        chosen = {members[j] for j in data.epoch_order(len(members), seed, key)[:share]}
        rejects += [(places[i][0], {"id": places[i][2], "language": key[0], "level": key[1], "reason": "its bin is full"}) for i in members if i not in chosen]
        left, kept = left - len(chosen), kept | chosen
    jobs = [(file, f, out, [[k, id] for i, (g, k, id) in enumerate(places) if g == f and i in kept], [r for g, r in rejects if g == f]) for f, file in enumerate(files)]
    in_processes(keep_rows, jobs, workers, out, "select")
    print(f"read {n} prompts, {scored} of them scored, kept {len(kept)} (the others and why: {out / 'rejects.jsonl'})")
    table = {(r["language"], r["level"]): Counter() for _, r in rejects if r["level"]} | {key: Counter() for key in bins}
    for _, r in rejects:
        if r["level"]:
            table[r["language"], r["level"]][r["reason"]] += 1
    for language, level in sorted(table):
        reasons, here = table[language, level], sum(i in kept for i in bins[language, level])
        print(f"  {language:7} {level:7} {here + sum(reasons.values()):6} scored, {here:6} kept" + "".join(f"; {m} {why}" for why, m in reasons.most_common()))
    if not kept:
        raise SystemExit("error: no prompt is useful by these limits; widen --low, --high or --spread.")
