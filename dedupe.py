"""Near-duplicates and contamination: what a corpus holds twice, and what it shares with an evaluation set.

    python data.py dedupe out/clean --out out/unique
    python data.py decontaminate out/unique --against bench/*.parquet --out out/decontaminated

Two samples are duplicates if one of these holds, the cheapest first:
    the same pixels, or the same tokens of code (without comments and white space) and pictures not worlds apart;
    both have code: pictures near (`NEAR`) and tokens with a Jaccard index of at least 0.9: a template whose data or
    words differ is no duplicate, since its picture then differs somewhere in detail;
    one of them has none: pictures nearer still (`NEAREST`).
Pictures are compared by a perceptual hash of 256 bits (Zauner 2010: signs of the low frequencies of the cosine
transform) of the part that holds ink, by aspect and colours, and where these agree by their ink in detail. A hash alone
cannot do it: with 64 bits, as commonly used, 96 % of 160 distinct formulas lie within 4 bits of another one.

Two passes over the files: the first writes a row of 250 bytes for each sample, the second copies what stays. The first
of two duplicates stays, in the order test, sft, rl. A refinement sample is no duplicate of the pair it was made from.
"""
import hashlib
import re
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

import data
from corpus import inputs_of, keep_rows, raw_rows, sample_of, samples_of
from parts import counted, finish, finished, in_processes, refuse_mixture, stamp
from pixels import background

HASH = 16  # frequencies along each side
CANDIDATES = 40  # of 256 bits that may differ for a pair to be looked at in detail
LONGEST = 500  # rows of a bucket that are compared with each other
ASPECT, COLOUR = 0.06, 0.12  # largest difference in ln(aspect), in any of 8 x 8 colours (0 to 1)
# Largest error in detail (`detail`). Re-encoded at 0.7 of the size as JPEG, 95 % of charts stay below .08, formulas
# .16, molecules .19, drawings .37; other charts of one template begin at .36, other formulas at .39, other molecules
# at .09 (`tests/bench.py dedupe`).
NEAR = {"chart": 0.25, "web": 0.25, "svg": 0.25, "latex": 0.25, "chem": 0.06}
NEAREST = {"chart": 0.2, "web": 0.2, "svg": 0.1, "latex": 0.15, "chem": 0.06}
JACCARD = 0.9
APART = 96  # bits: pictures of equal code that differ in more are not the same (a random input, another renderer)
GRAM = 13  # tokens of an n-gram
SHARED = 0.5  # share of an evaluation program's n-grams that tells it
COMMON = 0.01  # share of the training programs from which on an n-gram tells nothing
# Of Python those without a quote: a # within a string, as in '#d62728', is none
COMMENT = {"python": r"#[^\n'\"]*(?=\n|$)", "latex": r"(?<!\\)%[^\n]*",
           "html": r"<!--.*?-->", "svg": r"<!--.*?-->|<\?xml.*?\?>"}
ORDER = ("test", "sft", "rl")


# ------------------------------------------------------------------------------------------------------------- measures

def digest(value):
    """bytes or str -> 64 bits."""
    value = value if isinstance(value, bytes) else value.encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")


def tokens(language, code):
    """The words and marks of a program, comments left out."""
    return re.findall(r"\w+|[^\w\s]", re.sub(COMMENT.get(language, "(?!)"), " ", code, flags=re.S))


def pixels_of(sample):
    """The picture of a sample, uint8 [H, W, 3]. Raises ValueError when it cannot be read."""
    return np.asarray(data.open_image(sample))


def words_of(sample, language):
    """The tokens of the code of a sample's answer, [] without code."""
    return tokens(language, data.extract_code(sample.answer, language)[0] or "")


def inked(image):
    """uint8 [H, W, 3] -> (ink, picture, box) of a picture of at most 512 pixels.

    ink: float32 [h, w] in [0, 1]; box: x0, y0, x1, y1 of all but .2 % of the ink on each side.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((512, 512), Image.BOX)
    pixels = np.asarray(picture, np.float32) / 255  # [h, w, 3]
    ink = np.abs(pixels - background(pixels)).max(-1)  # [h, w]
    ink[ink < 0.1] = 0
    box = []
    for axis in (0, 1):
        sums = np.concatenate([[0], np.cumsum(ink.sum(axis), dtype=np.float64)])
        whole = [0, len(sums) - 1]
        box += list(np.interp([0.002, 0.998], sums / sums[-1], np.arange(len(sums)))) if sums[-1] else whole
    x0, x1, y0, y1 = box
    return ink, picture, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def signature(image):
    """uint8 [H, W, 3] -> (hash uint64 [4], colours uint8 [192], ln of the aspect of what holds ink)."""
    from scipy.fft import dctn
    _, picture, box = inked(image)
    grey = np.asarray(picture.convert("L").resize((64, 64), Image.BILINEAR, box=box), float)
    low = dctn(grey, norm="ortho")[:HASH, :HASH].ravel()  # [256]
    colours = np.asarray(picture.resize((8, 8), Image.BOX, box=box)).ravel()  # [8 * 8 * 3]
    return np.packbits(low > np.median(low)).view(np.uint64), colours, np.log((box[2] - box[0]) / (box[3] - box[1]))


def detail(a, b):
    """Where two pictures, uint8 [H, W, 3], differ most, 0 to 1.

    Of the ink in each of 4,096 cells what the other picture lacks within one cell, mean of 3 x 3 cells.
    """
    from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter
    shape, found = None, []
    for image in (a, b):
        ink, _, box = inked(image)
        if shape is None:
            k = int(np.clip(round(np.log2((box[2] - box[0]) / (box[3] - box[1])) / 2), -2, 2))
            shape = int(64 * 2.0**k), int(64 * 2.0**-k)
        levels = Image.fromarray((255 * ink).astype(np.uint8))
        found.append(np.asarray(levels.resize(shape, Image.BOX, box=box), np.float32) / 255)
    missing = [np.maximum(0, np.maximum(x - maximum_filter(y, 3), minimum_filter(y, 3) - x))
               for x, y in (found, found[::-1])]
    return max(float(uniform_filter(m, 3).max()) for m in missing)


def near_pairs(hashes, most=CANDIDATES, longest=LONGEST):
    """Pairs of rows of uint64 [n, 4] that differ in at most `most` bits -> (i, j, bits) int arrays with i < j.

    And the number of rows that stood in buckets too full to be compared with all the others of it. Locality-sensitive
    hashing by banding: rows that share one of 16 bands of 16 bits are compared, certain up to 15 bits.
    """
    bands, found, crowded = hashes.view(np.uint16), {}, np.zeros(len(hashes), bool)  # bands: [n, 16]
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


def candidates(hashes):
    """[(i, j, bits)] of the near pairs of hashes, uint64 [n, 4]; says how many samples had too many for all of them."""
    left, right, bits, crowded = near_pairs(hashes)
    if crowded:
        print(f"{crowded} samples share a part of their hash with more than {LONGEST} others: "
              "compared with the nearest in order only")
    return list(zip(left.tolist(), right.tolist(), bits.tolist()))


def alike(a, i, b, j):
    """Do aspect and colours of rows i of table a and j of table b agree, so that a look at the details is worth it?"""
    colours = np.abs(a.colours[i].astype(int) - b.colours[j]).max()
    return abs(a.aspect[i] - b.aspect[j]) <= ASPECT and colours <= 255 * COLOUR


def grams_of(words):
    """Tokens -> the distinct 64-bit hashes of their 13-grams, uint64 [n]; a shorter program is one gram."""
    parts = {" ".join(words[k:k + GRAM]) for k in range(max(1, len(words) - GRAM + 1))} if words else ()
    return np.unique(np.array([digest(p) for p in parts], np.uint64))


# ----------------------------------------------------------------------------------------------------------- first pass

def measure_file(path, number, out, split, grams):
    """Write `out`/NNNNN.npz: a row for each sample of a parquet file; grams: None, or a file of `grams_of` to look for.

    Raises SystemExit with one line for a sample that cannot be read.
    """
    wanted = [*stamp(path), split, grams and Path(grams).stat().st_mtime_ns]
    if record := finished(out, number, wanted):
        return record
    rows, held = defaultdict(list), np.load(grams) if grams else None  # held: uint64 [n]
    for i, sample in enumerate(counted(samples_of(path))):
        try:
            image = pixels_of(sample)
            if reason := data.check_text(sample, answer=False):
                raise ValueError(reason)
        except ValueError as error:
            raise SystemExit(f"error: row {i} of {path}: {error}. `python data.py filter` sorts these out.") from None
        words = words_of(sample, sample.language)
        shared = np.flatnonzero(np.isin(held, grams_of(words), assume_unique=True)) if grams else np.zeros(0, int)
        hashed, colours, aspect = signature(image)
        row = {"hash": hashed, "colours": colours, "aspect": aspect,
               "pixels": np.uint64(digest(image.tobytes() + repr(image.shape).encode())),
               "code": np.uint64(digest(" ".join(words)) if words else 0),
               "defect": np.uint64(digest(sample.prompt) if sample.task == "refine" else 0),
               "grams": len(shared), "id": sample.id or f"row {i}",
               "domain": sample.domain, "language": sample.language}
        for name, value in row.items():
            rows[name].append(value)
        rows["shared"] += shared.tolist()
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / f"{number:05d}.npz", **{name: np.array(values) for name, values in rows.items()})
    return finish(out, number, {"input": wanted, "read": len(rows["id"])}, [])


class Table:
    """The rows of the first pass over the splits of a data directory, those of `ORDER` first; `at(i)` reads sample i.

    Its columns are those that `measure_file` writes: table.hash, table.id, ...
    """

    def __init__(self, path, out, workers, grams=None):
        splits = sorted(data.split_dirs(path), key=lambda p: ORDER.index(p.name) if p.name in ORDER else -1)
        self.files = [(file, split.name) for split in splits for file in data.parquet_files(split)]
        refuse_mixture(Path(out), [file for file, _ in self.files])
        self.readers = [data.Corpus(split) for split in splits]  # of the files in the same order
        folder = Path(out) / ".signatures"
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [(file, n, folder, split, grams) for n, (file, split) in enumerate(self.files)]
        in_processes(measure_file, jobs, workers, folder, "measure")
        parts = [np.load(folder / f"{n:05d}.npz") for n in range(len(self.files))]
        self.columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0].files}
        lengths = [len(p["id"]) for p in parts]
        self.split = [split for (_, split), n in zip(self.files, lengths) for _ in range(n)]
        self.starts = np.cumsum([0, *lengths])  # of each file
        self.begins = np.cumsum([0, *map(len, self.readers)])  # of each split

    def __getattr__(self, name):
        return self.__dict__["columns"][name]

    def at(self, i):
        """Sample i with its image, read from its file; the rows of a Table hold what is compared first."""
        n = int(self.begins.searchsorted(i, "right")) - 1
        return self.readers[n][int(i - self.begins[n])]


def same_picture(table, i, j):
    """Are samples i and j of a Table one picture, and if both have code, one program? -> the reason, or ""."""
    if not alike(table, i, table, j):
        return ""
    first, second = table.at(i), table.at(j)
    codes = table.code[i] and table.code[j]
    error = detail(pixels_of(first), pixels_of(second))
    if error > (NEAR if codes else NEAREST)[str(table.domain[i])]:
        return ""
    if codes:
        a, b = (Counter(words_of(s, str(table.language[k]))) for s, k in ((first, i), (second, j)))
        if (a & b).total() / (a | b).total() < JACCARD:  # of the multisets of tokens
            return ""
    return f"near picture (detail {error:.3f})"


# ---------------------------------------------------------------------------------------------------------- second pass

def keep(table, out, workers, dropped):
    """Write the samples of a table that are not in `dropped`, {sample number: reject}; prints a row for each domain."""
    out, mine = Path(out), [{} for _ in table.files]
    for i in sorted(dropped):
        n = int(table.starts.searchsorted(i, "right")) - 1
        mine[n][int(i - table.starts[n])] = dropped[i]
    jobs = [(file, n, out, split, mine[n], {}) for n, (file, split) in enumerate(table.files)]
    in_processes(keep_rows, jobs, workers, out, "write")
    n = len(table.id)
    print(f"read {n}, kept {n - len(dropped)}, rejected {len(dropped)} (in {out / 'rejects.jsonl'})")
    for domain in sorted(set(table.domain)):
        numbers = np.flatnonzero(table.domain == domain)
        rejects = [dropped[i] for i in numbers.tolist() if i in dropped]
        rules = Counter(r["rule"] for r in rejects)
        print(f"  {domain:6} {len(numbers):7} read, {len(numbers) - len(rejects):7} kept"
              + "".join(f"; {m} {rule}" for rule, m in rules.most_common()))
        for rule in rules:
            first = next(r for r in rejects if r["rule"] == rule)
            print(f"         {rule}: {first['id']} of {first['of']}")


def dedupe(path, out, workers=None):
    """Copy the samples below `path` to `out` without duplicates. Returns {sample number: reject} of a Table."""
    from tqdm import tqdm
    table, dropped = Table(path, out, workers), {}

    def drop(j, i, rule, why=""):
        of = str(table.id[i])
        dropped[j] = {"id": str(table.id[j]), "of": of, "rule": rule, "reason": f"{rule} of {of}{why}"}

    for rule, column in (("same pixels", table.pixels), ("same code", table.code)):
        first = {}
        for j in range(len(table.id)):
            i = first.setdefault((int(column[j]), str(table.language[j]), int(table.defect[j])), j)
            if column[j] and i != j and j not in dropped:
                if rule == "same pixels" or np.bitwise_count(table.hash[i] ^ table.hash[j]).sum() <= APART:
                    drop(j, i, rule)
    for i, j, bits in tqdm(candidates(table.hash), desc="compare", unit="pair", mininterval=1):
        leak = table.split[i] == "test" and table.split[j] != "test"
        twins = table.defect[i] != table.defect[j] and not leak  # refinement of the same picture
        if i not in dropped and j not in dropped and not twins and table.domain[i] == table.domain[j]:
            if reason := same_picture(table, i, j):
                drop(j, i, "near-duplicate", f": {bits} of 256 bits, {reason}")
    keep(table, out, workers, dropped)
    return dropped


# ------------------------------------------------------------------------------------------------------ decontamination

def evaluation_table(against):
    """The samples of evaluation sets as columns: file, id, image (uint8 [H, W, 3]), grams, hash, colours, aspect.

    Raises SystemExit with one line for one that cannot be read.
    """
    rows = []
    for file in inputs_of(against):
        for k, row in enumerate(raw_rows(file)):
            try:
                sample = sample_of(row)
                image = pixels_of(sample)
            except ValueError as error:
                raise SystemExit(f"error: row {k} of the evaluation set {file} cannot be read: {error}.") from None
            language = sample.language or data.infer_language(sample)
            words = words_of(sample, language) if language in data.LANGUAGES else []
            rows.append((file.name, sample.id or f"row {k}", image, grams_of(words), *signature(image)))
    if not rows:
        raise SystemExit(f"error: the evaluation sets {', '.join(map(str, against))} hold no samples.")
    columns = dict(zip(("file", "id", "image", "grams", "hash", "colours", "aspect"), zip(*rows)))
    return SimpleNamespace(**columns | {name: np.array(columns[name]) for name in ("hash", "colours", "aspect")})


def hits_by_code(table, programs, held):
    """Samples of a Table that hold half of an evaluation program: {number: (evaluation sample, share of its grams)}.

    programs: the 13-grams of each evaluation sample; held: all of them, uint64 [n]. Those are left out that more than
    1 % of 100 or more training programs of the language have (imports, preambles).
    """
    positions, offsets = table.shared.astype(int), np.cumsum([0, *table.grams])
    shared = lambda i: positions[offsets[i]:offsets[i + 1]]  # the grams of sample i, as positions in `held`
    common = np.zeros(len(held), bool)
    training = np.array([split != "test" for split in table.split]) & (table.code > 0)
    for language in set(table.language):
        mine = np.flatnonzero(training & (table.language == language))
        if len(mine) >= 100:
            counts = np.bincount(np.concatenate([shared(i) for i in mine]), minlength=len(held))
            common |= counts > COMMON * len(mine)
    rare = [k[~common[k]] for k in (np.searchsorted(held, p) for p in programs)]
    holders, hits = defaultdict(list), {}  # holders: {position in `held`: evaluation samples}
    for e, program in enumerate(rare):
        for k in program.tolist():
            holders[k].append(e)
    for i in range(len(table.id)):
        counts = Counter(e for k in shared(i).tolist() for e in holders.get(k, ()))
        best = max(counts, key=lambda e: (counts[e] / len(rare[e]), -e), default=None)
        if best is not None and counts[best] >= SHARED * len(rare[best]):
            hits[i] = best, counts[best] / len(rare[best])
    return hits


def hits_by_picture(table, evaluation):
    """Samples of a Table with an evaluation picture: {number: (evaluation sample, bits of the hash that differ)}."""
    hits, n = {}, len(table.id)
    for i, j, bits in candidates(np.concatenate([table.hash, evaluation.hash])):
        if i < n <= j and i not in hits and alike(table, i, evaluation, j - n):
            if detail(pixels_of(table.at(i)), evaluation.image[j - n]) <= NEAREST[str(table.domain[i])]:
                hits[i] = j - n, bits
    return hits


def decontaminate(path, against, out, workers=None):
    """Copy the samples below `path` to `out` without those of sft and rl that evaluation sets hold, by picture or code.

    against: what `corpus.inputs_of` takes. Returns {sample number: reject} of a Table.
    """
    out, evaluation = Path(out), evaluation_table(against)
    out.mkdir(parents=True, exist_ok=True)
    held, grams = np.unique(np.concatenate(evaluation.grams)), out / "evaluation-grams.npy"
    if not grams.exists() or not np.array_equal(np.load(grams), held):
        np.save(grams, held)
    table = Table(path, out, workers, grams)
    by_code, by_picture = hits_by_code(table, evaluation.grams, held), hits_by_picture(table, evaluation)
    dropped = {}
    for i in sorted(by_code.keys() | by_picture.keys()):
        if table.split[i] != "test":
            e, _ = by_picture.get(i) or by_code[i]
            how, why = [], []
            if i in by_picture:
                how, why = ["image"], [f"{by_picture[i][1]} of 256 bits"]
            if i in by_code:
                how, why = [*how, "code"], [*why, f"{by_code[i][1]:.0%} of its 13-grams"]
            rule, of, file = f"in the evaluation set by {' and '.join(how)}", evaluation.id[e], evaluation.file[e]
            dropped[i] = {"id": str(table.id[i]), "of": of, "set": file, "rule": rule,
                          "reason": f"{rule}: {of} of {file} ({' '.join(why)})"}
    keep(table, out, workers, dropped)
    for file, n in sorted(Counter(evaluation.file).items()):
        rules = Counter(d["rule"] for d in dropped.values() if d["set"] == file)
        found = ", ".join(f"{m} {rule}" for rule, m in rules.most_common())
        print(f"  {file}: {n} samples; {found or 'none of them found'}")
    return dropped
