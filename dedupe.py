"""Near-duplicates and contamination: what a corpus holds twice, and what it shares with an evaluation set.

    python data.py dedupe out/clean --out out/unique
    python data.py decontaminate out/unique --against bench/*.parquet --out out/decontaminated

Two samples are duplicates if one of these holds, the cheapest first:
    the same pixels, or the same tokens of code (comments and white space left out) and pictures that are not worlds apart;
    both have code: pictures near (`NEAR`) and tokens with a Jaccard index of at least 0.9: a template whose data or words differ
    is no duplicate, since its picture then differs somewhere in detail;
    one of them has none: pictures nearer still (`NEAREST`).
Pictures are compared by a perceptual hash of 256 bits (Zauner 2010: signs of the low frequencies of the cosine transform) of the part
that holds ink, by aspect and colours, and where these agree by their ink in detail. A hash alone cannot do it: with 64 bits, as
commonly used, 61 % of 160 distinct formulas have one and the same hash.

Two passes over the files: the first writes a row of 250 bytes for each sample, the second copies what stays. The first of two
duplicates stays, in the order test, sft, rl. A refinement sample is no duplicate of the pair it was made from.
"""
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import corpus
import data

HASH = 16  # frequencies along each side
CANDIDATES = 40  # of 256 bits that may differ for a pair to be looked at in detail
ASPECT, COLOUR = 0.06, 0.12  # largest difference in ln(aspect), in any of 8 x 8 colours (0 to 1)
# Largest error in detail (`detail`). Re-encoded at 0.7 of the size as JPEG, 95 % of charts stay below .08, formulas .16, molecules .19,
# drawings .37; other charts of one template begin at .36, other formulas at .39, other molecules at .09 (`tests/bench.py dedupe`).
NEAR = {"chart": 0.25, "web": 0.25, "svg": 0.25, "latex": 0.25, "chem": 0.06}
NEAREST = {"chart": 0.2, "web": 0.2, "svg": 0.1, "latex": 0.15, "chem": 0.06}
JACCARD = 0.9
APART = 96  # bits: pictures of equal code that differ in more are not the same (an input that was random, another renderer)
GRAM, SHARED, COMMON = 13, 0.5, 0.01
# Of Python those without a quote: a # within a string, as in '#d62728', is none
COMMENT = {"python": r"#[^\n'\"]*(?=\n|$)", "latex": r"(?<!\\)%[^\n]*", "html": r"<!--.*?-->", "svg": r"<!--.*?-->|<\?xml.*?\?>"}
ORDER = ("test", "sft", "rl")


# --------------------------------------------------------------------------------------------------------------- measures

def digest(value):
    """bytes or str -> 64 bits."""
    return int.from_bytes(hashlib.blake2b(value if isinstance(value, bytes) else value.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def tokens(language, code):
    """The words and marks of a program, comments left out."""
    return re.findall(r"\w+|[^\w\s]", re.sub(COMMENT.get(language, "(?!)"), " ", code, flags=re.S))


def inked(image):
    """uint8 [H, W, 3] -> (ink float32 [h, w] in [0, 1], picture of at most 512 pixels, box of all but .2 % of the ink on each side)."""
    import numpy as np
    from PIL import Image
    from reward import background
    picture = Image.fromarray(image)
    picture.thumbnail((512, 512), Image.BOX)
    pixels = np.asarray(picture, np.float32) / 255
    ink = np.abs(pixels - background(pixels)).max(-1)
    ink[ink < 0.1] = 0
    box = []
    for axis in (0, 1):
        sums = np.concatenate([[0], np.cumsum(ink.sum(axis), dtype=np.float64)])
        box += list(np.interp([0.002, 0.998], sums / sums[-1], np.arange(len(sums)))) if sums[-1] else [0, len(sums) - 1]
    x0, x1, y0, y1 = box
    return ink, picture, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def signature(image):
    """uint8 [H, W, 3] -> (hash uint64 [4], colours uint8 [192], ln of the aspect of what holds ink)."""
    import numpy as np
    from PIL import Image
    from scipy.fft import dctn
    _, picture, box = inked(image)
    grey = np.asarray(picture.convert("L").resize((64, 64), Image.BILINEAR, box=box), float)
    low = dctn(grey, norm="ortho")[:HASH, :HASH].ravel()
    colours = np.asarray(picture.resize((8, 8), Image.BOX, box=box)).ravel()
    return np.packbits(low > np.median(low)).view(np.uint64), colours, np.log((box[2] - box[0]) / (box[3] - box[1]))


def detail(a, b):
    """Where two pictures, uint8 [H, W, 3], differ most: ink in 4,096 cells that the other lacks within one cell, mean of 3 x 3, 0 to 1."""
    import numpy as np
    from PIL import Image
    from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter
    shape, found = None, []
    for image in (a, b):
        ink, _, box = inked(image)
        if shape is None:
            k = int(np.clip(round(np.log2((box[2] - box[0]) / (box[3] - box[1])) / 2), -2, 2))
            shape = int(64 * 2.0**k), int(64 * 2.0**-k)
        found.append(np.asarray(Image.fromarray((255 * ink).astype(np.uint8)).resize(shape, Image.BOX, box=box), np.float32) / 255)
    missing = [np.maximum(0, np.maximum(x - maximum_filter(y, 3), minimum_filter(y, 3) - x)) for x, y in (found, found[::-1])]
    return max(float(uniform_filter(m, 3).max()) for m in missing)


def near_pairs(hashes, most=CANDIDATES, longest=500):
    """Pairs of rows of uint64 [n, 4] that differ in at most `most` bits -> (i, j, bits) int arrays with i < j, and how many rows stood in
    buckets too full to be compared with all the others of it.

    Locality-sensitive hashing by banding: rows that share one of 16 bands of 16 bits are compared, certain up to 15 bits.
    """
    import numpy as np
    bands, found, crowded = hashes.view(np.uint16), {}, np.zeros(len(hashes), bool)  # [n, 16]
    for band in range(bands.shape[1]):
        order = np.argsort(bands[:, band], kind="stable")
        key, rows = bands[order, band], hashes[order]
        for step in range(1, len(order)):
            same = np.flatnonzero(key[step:] == key[:-step])
            if step > longest and len(same):
                crowded[order[same]] = True
                break
            if not len(same):
                break
            bits = np.bitwise_count(rows[same] ^ rows[same + step]).sum(1)
            for k in np.flatnonzero(bits <= most):
                i, j = sorted((int(order[same[k]]), int(order[same[k] + step])))
                found[i, j] = int(bits[k])
    pairs = sorted(found)
    array = np.array(pairs, int).reshape(-1, 2)
    return array[:, 0], array[:, 1], np.array([found[p] for p in pairs], int), int(crowded.sum())


# --------------------------------------------------------------------------------------------------------------- first pass

def measure_file(path, number, out, split, grams):
    """Write `out`/NNNNN.npz: a row for each sample of a parquet file; grams: None, or a file of n-grams to look for (`find_grams`)."""
    import numpy as np
    wanted = [str(path), path.stat().st_size, path.stat().st_mtime_ns, split, grams and Path(grams).stat().st_mtime_ns]
    if record := corpus.finished(out, number, wanted):
        return record
    rows, held = defaultdict(list), np.load(grams) if grams else None
    for i, row in enumerate(corpus.raw_rows(path)):
        sample = corpus.sample_of(row)
        try:
            image = np.asarray(data.open_image(sample))
        except ValueError as error:
            raise SystemExit(f"error: row {i} of {path}: {error}. `python data.py filter` sorts out such samples.") from None
        hashed, colours, aspect = signature(image)
        code = data.extract_code(sample.answer, sample.language)[0] if sample.answer else None
        words = tokens(sample.language, code) if code else []
        defect = digest(sample.prompt) if sample.task == "refine" else 0
        shared = np.flatnonzero(np.isin(held, grams_of(words), assume_unique=True)) if grams else np.zeros(0, int)
        for name, value in (("hash", hashed), ("colours", colours), ("aspect", aspect), ("pixels", np.uint64(digest(image.tobytes() + repr(image.shape).encode()))),
                            ("code", np.uint64(digest(" ".join(words)) if words else 0)), ("defect", np.uint64(defect)), ("grams", len(shared)),
                            ("id", sample.id or f"row {i}"), ("domain", sample.domain), ("language", sample.language)):
            rows[name].append(value)
        rows["shared"] += shared.tolist()
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / f"{number:05d}.npz", **{name: np.array(values) for name, values in rows.items()})
    return corpus.finish(out, number, {"input": wanted, "read": len(rows["id"])}, [])


class Table:
    """The rows of the first pass over the splits of a data directory, those of `ORDER` first; `at(i)` reads sample i."""

    def __init__(self, path, out, workers, title, grams=None):
        import numpy as np
        splits = sorted(data.split_dirs(path), key=lambda p: ORDER.index(p.name) if p.name in ORDER else -1)
        self.files = [(file, split.name) for split in splits for file in data.parquet_files(split)]
        self.readers = [data.Corpus(split) for split in splits]  # of the files in the same order; what is no file of samples ends here
        folder = Path(out) / title
        folder.mkdir(parents=True, exist_ok=True)
        corpus.in_processes(measure_file, [(f, n, folder, split, grams) for n, (f, split) in enumerate(self.files)], workers, folder, title)
        parts = [np.load(folder / f"{n:05d}.npz") for n in range(len(self.files))]
        self.columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0].files}
        self.lengths = [len(p["id"]) for p in parts]
        self.split = [split for (_, split), n in zip(self.files, self.lengths) for _ in range(n)]
        self.starts, self.begins = np.cumsum([0, *self.lengths]), np.cumsum([0, *map(len, self.readers)])  # of each file, of each split

    def __getattr__(self, name):
        return self.__dict__["columns"][name]

    def at(self, i):
        n = int(self.begins.searchsorted(i, "right")) - 1
        return self.readers[n][int(i - self.begins[n])]


def jaccard(a, b):
    """Jaccard index of the token multisets of two samples."""
    a, b = (Counter(tokens(s.language, data.extract_code(s.answer, s.language)[0] or "")) for s in (a, b))
    return sum((a & b).values()) / max(1, sum((a | b).values()))


def same_picture(a, i, b, j, codes):
    """Are samples i of Table a and j of Table b one picture? codes: whether code must confirm it. -> the reason, or ""."""
    if abs(a.aspect[i] - b.aspect[j]) > ASPECT or abs(a.colours[i].astype(int) - b.colours[j]).max() > 255 * COLOUR:
        return ""
    first, second = a.at(i), b.at(j)
    import numpy as np
    error = detail(np.asarray(data.open_image(first)), np.asarray(data.open_image(second)))
    limit = (NEAR if codes else NEAREST)[first.domain]
    return f"near picture (detail {error:.3f})" if error <= limit and (not codes or jaccard(first, second) >= JACCARD) else ""


# ------------------------------------------------------------------------------------------------------------- second pass

def keep_file(path, number, out, split, dropped):
    """Copy a parquet file without the rows of `dropped`, {row: reject}."""
    wanted = [str(path), path.stat().st_size, path.stat().st_mtime_ns, split, digest(json.dumps(dropped, sort_keys=True))]
    if record := corpus.finished(out, number, wanted):
        return record
    writer, read = corpus.Writer(out / split / f"part-{number:05d}.parquet"), 0
    for i, row in enumerate(corpus.raw_rows(path)):
        read += 1
        if i not in dropped:
            writer.add(corpus.sample_of(row))
    writer.close()
    return corpus.finish(out, number, {"input": wanted, "read": read, "kept": writer.count}, list(dropped.values()))


def keep(table, out, workers, dropped):
    """Write the samples of a table that are not in `dropped`, {sample number: reject}; prints a row for each domain."""
    jobs = []
    for n, (file, split) in enumerate(table.files):
        a, b = int(table.starts[n]), int(table.starts[n + 1])
        jobs.append((file, n, Path(out), split, {i - a: dropped[i] for i in range(a, b) if i in dropped}))
    corpus.in_processes(keep_file, jobs, workers, Path(out), "write")
    print(f"read {len(table.id)}, kept {len(table.id) - len(dropped)}, rejected {len(dropped)} (in {Path(out) / 'rejects.jsonl'})")
    for domain in sorted(set(table.domain)):
        mine = [i for i in range(len(table.id)) if table.domain[i] == domain]
        reasons = Counter(dropped[i]["rule"] for i in mine if i in dropped)
        print(f"  {domain:6} {len(mine):7} read, {len(mine) - sum(reasons.values()):7} kept" + "".join(f"; {n} {why}" for why, n in reasons.most_common()))
        for rule in reasons:
            first = next(dropped[i] for i in mine if i in dropped and dropped[i]["rule"] == rule)
            print(f"         {rule}: {first['id']} of {first['of']}")


def dedupe(path, out, workers=None):
    """Copy the samples below `path` to `out` without duplicates. Returns {sample number: reject} of a Table."""
    import numpy as np
    from tqdm import tqdm
    table = Table(path, out, workers, ".signatures")
    dropped = {}

    def drop(j, i, rule, reason):
        dropped[j] = {"id": str(table.id[j]), "of": str(table.id[i]), "rule": rule, "reason": f"{rule} of {table.id[i]}" + (f": {reason}" if reason else "")}

    for rule, column in (("same pixels", table.pixels), ("same code", table.code)):
        first = {}
        for j in range(len(table.id)):
            key = int(column[j]), str(table.language[j]), int(table.defect[j])
            i = first.setdefault(key, j)
            if column[j] and i != j and j not in dropped and (rule == "same pixels" or np.bitwise_count(table.hash[i] ^ table.hash[j]).sum() <= APART):
                drop(j, i, rule, "")
    left, right, bits, crowded = near_pairs(table.hash)
    for i, j, n in tqdm(list(zip(left.tolist(), right.tolist(), bits.tolist())), desc="compare", unit="pair", mininterval=1):
        twins = table.defect[i] != table.defect[j] and not (table.split[i] == "test" != table.split[j])  # refinement of the same picture
        if i not in dropped and j not in dropped and not twins and table.domain[i] == table.domain[j]:
            if reason := same_picture(table, i, table, j, bool(table.code[i] and table.code[j])):
                drop(j, i, "near-duplicate", f"{n} of 256 bits, {reason}")
    if crowded:
        print(f"{crowded} samples share a part of their hash with more than 500 others: compared with the nearest in order only")
    keep(table, out, workers, dropped)
    return dropped


# -------------------------------------------------------------------------------------------------------- decontamination

def grams_of(words):
    """Tokens -> the distinct 64-bit hashes of their 13-grams, uint64 [n]; a shorter program is one gram."""
    import numpy as np
    parts = {" ".join(words[k:k + GRAM]) for k in range(max(1, len(words) - GRAM + 1))} if words else ()
    return np.unique(np.array([digest(p) for p in parts], np.uint64))


def decontaminate(path, against, out, workers=None):
    """Copy the samples below `path` to `out` without those of sft and rl that the evaluation sets `against` hold, by picture or by code.

    against: what `corpus.inputs_of` takes. Code: half of an evaluation program's 13-grams, those left out that more than 1 % of 100
    or more training programs of the language have (imports, preambles). Returns {sample number: reject} of a Table.
    """
    import numpy as np
    out = Path(out)
    names, images, programs, hashes, colours, aspects = [], [], [], [], [], []
    for file in corpus.inputs_of(against):
        for k, row in enumerate(corpus.raw_rows(file)):
            try:
                sample = corpus.sample_of(row)
                images.append(np.asarray(data.open_image(sample)))
            except ValueError as error:
                raise SystemExit(f"error: row {k} of the evaluation set {file} cannot be read: {error}.") from None
            sample.language = sample.language or data.infer_language(sample)
            code = data.extract_code(sample.answer, sample.language)[0] if sample.answer and sample.language in data.LANGUAGES else None
            names.append((file.name, sample.id or f"row {k}"))
            programs.append(grams_of(tokens(sample.language, code)) if code else np.zeros(0, np.uint64))
            for column, value in zip((hashes, colours, aspects), signature(images[-1])):
                column.append(value)
    out.mkdir(parents=True, exist_ok=True)
    held, grams = np.unique(np.concatenate(programs)), out / "evaluation-grams.npy"
    if not grams.exists() or not np.array_equal(np.load(grams), held):
        np.save(grams, held)
    table = Table(path, out, workers, ".signatures", grams)

    by_code, offsets = {}, np.cumsum([0, *table.grams])
    shared = table.shared.astype(int) if len(table.shared) else np.zeros(0, int)
    common = np.zeros(len(held), bool)
    for language in set(table.language):
        mine = [i for i in range(len(table.id)) if table.language[i] == language and table.code[i] and table.split[i] != "test"]
        counts = np.bincount(np.concatenate([shared[offsets[i]:offsets[i + 1]] for i in mine] or [np.zeros(0, int)]), minlength=len(held))
        common |= (counts > COMMON * len(mine)) & (len(mine) >= 100)
    programs = [np.searchsorted(held, p) for p in programs]
    programs = [p[~common[p]] for p in programs]
    holders = defaultdict(list)
    for e, program in enumerate(programs):
        for gram in program:
            holders[int(gram)].append(e)
    for i in range(len(table.id)):
        counts = Counter(e for gram in shared[offsets[i]:offsets[i + 1]] for e in holders.get(int(gram), ()))
        hit = max(counts, key=lambda e: (counts[e] / len(programs[e]), -e), default=None)
        if hit is not None and counts[hit] >= SHARED * len(programs[hit]):
            by_code[i] = hit, counts[hit] / len(programs[hit])

    by_image, n = {}, len(table.id)
    left, right, bits, crowded = near_pairs(np.concatenate([table.hash, np.array(hashes)]))
    for i, j, b in zip(left.tolist(), right.tolist(), bits.tolist()):
        if i < n <= j and i not in by_image and abs(table.aspect[i] - aspects[j - n]) <= ASPECT and abs(table.colours[i].astype(int) - colours[j - n]).max() <= 255 * COLOUR:
            error = detail(np.asarray(data.open_image(table.at(i))), images[j - n])
            if error <= NEAREST[str(table.domain[i])]:
                by_image[i] = j - n, b
    if crowded:
        print(f"{crowded} samples share a part of their hash with more than 500 others: compared with the nearest in order only")

    dropped = {}
    for i in sorted(by_code.keys() | by_image.keys()):
        if table.split[i] != "test":
            rule = "in the evaluation set by " + ("image and code" if i in by_code and i in by_image else "code" if i in by_code else "image")
            file, id_ = names[(by_image.get(i) or by_code[i])[0]]
            why = (f"{by_image[i][1]} of 256 bits" if i in by_image else "") + (f" {by_code[i][1]:.0%} of its 13-grams" if i in by_code else "")
            dropped[i] = {"id": str(table.id[i]), "of": id_, "set": file, "rule": rule, "reason": f"{rule}: {id_} of {file} ({why.strip()})"}
    keep(table, out, workers, dropped)
    for file in sorted({f for f, _ in names}):
        rules = Counter(d["rule"] for d in dropped.values() if d["set"] == file)
        print(f"  {file}: {sum(f == file for f, _ in names)} samples; " + (", ".join(f"{n} {rule}" for rule, n in rules.most_common()) or "none of them found"))
    return dropped
