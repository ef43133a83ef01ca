"""Samples: make, read, check, look at.

A sample is a target image, an instruction, and (where one exists) the answer: code in one fenced block that draws
the image. Two tasks: *generate* (image -> code) and *refine* (image + defective code -> corrected code; the
instruction then holds the defective code). On disk samples are parquet with the columns of the released VinciCoder
SFT data first (`user_content, assistant_content, image`), then ours, all optional on input:
`id, domain, language, task, source, license, width, height, operator, change` (the last two: how a refinement sample's
code was made defective).

    python data.py synth --out out/data                   # procedural: the embedded default, or five domains (synth.py)
    python data.py import FILE.parquet --out out/mine     # foreign data -> our splits, rejects counted (corpus.py)
    python data.py filter out/mine --out out/clean        # what parses, runs, draws the same twice (curate.py)
    python data.py dedupe out/clean --out out/unique      # without near-duplicates (dedupe.py)
    python data.py decontaminate out/unique --against SET.parquet --out out/mine    # without what an evaluation set holds
    python data.py refine out/clean --out out/refined     # defective programs to be corrected (refine.py)
    python data.py select-rl out/clean/rl --scores out/eval/sft/scores.jsonl --out out/selected    # prompts worth ViRL (curate.py)
    python data.py export out/mine/sft --out trl.parquet  # our samples -> TRL's or EasyR1's schema (corpus.py)
    python data.py stats out/data                         # what is in it
    python data.py view out/data --model out/tiny         # look at it, offline: which tokens are supervised

`synth` and `import` both write the layout that every stage reads: `DIR/sft` (pairs), `DIR/rl` (targets for ViRL:
images, most of them without any code) and `DIR/test` (held out; no image of it occurs in the other two).
"""
import argparse
import base64
import html
import io
import os
import random
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

from reward import FENCES, extract_code

LANGUAGES = tuple(FENCES)
COLUMNS = ("user_content", "assistant_content", "image", "id", "domain", "language", "task", "source", "license",
           "width", "height", "operator", "change")
REFINE = "This {name} code should draw the image but is wrong. Correct it.\n```{language}\n{code}\n```"
NAMES = {"python": "Python", "html": "HTML", "svg": "SVG", "latex": "LaTeX"}
DOMAIN_OF = {"python": "chart", "html": "web", "svg": "svg", "latex": "latex"}  # where a sample does not say
DOMAINS = (*DOMAIN_OF.values(), "chem")
ROW_GROUP = 64  # small row groups: random access and streaming both stay cheap (pandas writes one huge group)


@dataclass
class Sample:
    """One image-code pair; see the module docstring for the meaning of the fields."""
    prompt: str  # user_content
    answer: str  # assistant_content: exactly one fenced block; "" for a target without code
    image: bytes  # PNG of the target
    id: str = ""
    domain: str = ""
    language: str = ""
    task: str = "generate"
    source: str = ""
    license: str = ""
    width: int = 0
    height: int = 0
    operator: str = ""  # of a refinement sample: what made its code defective
    change: str = ""  # and the place where it did


# ---------------------------------------------------------------------------------------------- reading and writing

def table_of(samples):
    """A list of Sample -> pyarrow table in our schema."""
    import pyarrow as pa
    rename = {"prompt": "user_content", "answer": "assistant_content"}
    rows = [{rename.get(k, k): v for k, v in asdict(s).items()} for s in samples]
    schema = pa.schema([(c, pa.binary() if c == "image" else pa.int32() if c in ("width", "height") else pa.string())
                        for c in COLUMNS])
    return pa.Table.from_pylist(rows, schema=schema)


def write_samples(samples, path):
    """Write a list of Sample as one parquet file, complete or not at all (temporary name, then rename)."""
    import pyarrow.parquet as pq
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table_of(samples), temporary, row_group_size=ROW_GROUP)
    os.replace(temporary, path)


def parquet_files(path):
    """The parquet files of `path` (a file, or a directory searched in name order). Raises SystemExit when none."""
    path = Path(path)
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.parquet")) if path.is_dir() else []
    if not files:
        why = "holds no .parquet file" if path.is_dir() else "does not exist"
        raise SystemExit(f"error: data directory {path} {why}. Make samples with `python data.py synth --out DIR` or "
                         f"`python data.py import FILE.parquet --out DIR`, then give DIR.")
    return files


def sample_from(row):
    """A row of our schema, or of the released one -> Sample."""
    image = row.pop("image")
    if isinstance(image, dict):  # Hugging Face Image feature: {"bytes": ..., "path": ...}
        image = image.get("bytes")
    fields = {k: v for k, v in row.items() if v is not None}
    return Sample(prompt=fields.pop("user_content", ""), answer=fields.pop("assistant_content", ""), image=image or b"", **fields)


def read_samples(path):
    """Read every sample of a directory of parquet files (or of one file) into a list of Sample.

    Raises SystemExit with one line when nothing is there or a needed column is missing.
    """
    import pyarrow.parquet as pq
    samples = []
    for file in parquet_files(path):
        try:
            parquet = pq.ParquetFile(file)
        except Exception as e:  # pyarrow raises several unrelated classes for a broken file
            raise SystemExit(f"error: {file} is not a readable parquet file ({str(e).splitlines()[0]}).") from None
        names = parquet.schema_arrow.names
        missing = [c for c in COLUMNS[:3] if c not in names]
        if missing:
            raise SystemExit(f"error: {file} has no column {', '.join(missing)} (its columns: {', '.join(names)}). "
                             f"`python data.py import` reads the released schema user_content, assistant_content, image.")
        for batch in parquet.iter_batches(ROW_GROUP, columns=[c for c in COLUMNS if c in names]):
            for row in batch.to_pylist():
                samples.append(sample_from(row))
    if not samples:
        raise SystemExit(f"error: {path} holds no samples.")
    return samples


def open_image(sample):
    """The target as an RGB PIL image on white ground. Raises ValueError when the bytes are no readable image."""
    from PIL import Image
    try:
        image = Image.open(io.BytesIO(sample.image))
        image.load()
    except Exception as e:
        raise ValueError(f"unreadable image ({e})") from None
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fenced(language, code):
    return f"```{language}\n{code}\n```"


def png(array):
    """uint8 array [H, W, 3] -> PNG bytes."""
    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def epoch_order(n, seed, epoch):
    """The order in which epoch number `epoch` visits `n` samples: a pure function of (n, seed, epoch)."""
    order = list(range(n))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


WINDOW = 16  # row groups that are mixed with each other: a reading process holds as many


class Corpus:
    """The samples of a directory of parquet files (or one file), read by number: len(corpus), corpus[i] -> Sample.

    Holds the places of the row groups and the last WINDOW row groups read. Raises SystemExit with one line for files that
    are no samples and for row groups too large to be read in pieces.
    """

    def __init__(self, path):
        import numpy as np
        import pyarrow.parquet as pq
        self.path, self.groups, self.cache = path, [], {}  # (file, row group, its samples)
        for file in parquet_files(path):
            try:
                metadata, names = pq.read_metadata(file), pq.read_schema(file).names
            except Exception as e:  # pyarrow raises several unrelated classes for a broken file
                raise SystemExit(f"error: {file} is not a readable parquet file ({str(e).splitlines()[0]}).") from None
            if missing := [c for c in COLUMNS[:3] if c not in names]:
                raise SystemExit(f"error: {file} has no column {', '.join(missing)} (its columns: {', '.join(names)}). "
                                 f"`python data.py import` reads the released schema user_content, assistant_content, image.")
            for group in range(metadata.num_row_groups):
                part = metadata.row_group(group)
                if part.total_byte_size > 1 << 28:
                    raise SystemExit(f"error: {file} has row groups of {part.total_byte_size >> 20} MB: `python data.py import` writes small ones.")
                self.groups.append((file, group, part.num_rows))
        self.starts = np.cumsum([0] + [rows for _, _, rows in self.groups])  # [row groups + 1]
        if not len(self):
            raise SystemExit(f"error: {path} holds no samples.")

    def __len__(self):
        return int(self.starts[-1])

    def __getitem__(self, i):
        import numpy as np
        import pyarrow.parquet as pq
        g = int(np.searchsorted(self.starts, i, "right")) - 1
        if g not in self.cache:
            file, group, _ = self.groups[g]
            with pq.ParquetFile(file, pre_buffer=False) as parquet:
                table = parquet.read_row_group(group, [c for c in COLUMNS if c in parquet.schema_arrow.names], use_threads=False)
            if len(self.cache) == WINDOW:
                del self.cache[next(iter(self.cache))]
            self.cache[g] = table
        (row,) = self.cache[g].slice(int(i - self.starts[g]), 1).to_pylist()
        sample = sample_from(row)
        sample.id = sample.id or f"row {i}"
        return sample

    def order(self, seed, epoch):
        """The order of an epoch, int64 [n]: row groups shuffled, then rows inside windows of them. Pure in (seed, epoch)."""
        import numpy as np
        rng = np.random.default_rng((seed, epoch))
        shuffled, found = rng.permutation(len(self.groups)), []
        for k in range(0, len(shuffled), WINDOW):
            rows = np.concatenate([np.arange(self.starts[g], self.starts[g + 1]) for g in shuffled[k:k + WINDOW]])
            found.append(rng.permutation(rows))
        return np.concatenate(found)


# ------------------------------------------------------------------------------------------------------ foreign rows

def infer_language(sample):
    """Language of a foreign row: the answer's fence first, then whole words of the instruction; "" if neither tells."""
    fence = re.findall(r"^```[ \t]*([A-Za-z+#]+)", sample.answer, re.M)
    words = fence[:1] + re.findall(r"[a-z]+", sample.prompt.lower())
    alias = {"matplotlib": "python", "rdkit": "python"} | {name: language for language, names in FENCES.items() for name in names}
    for word in words:
        word = alias.get(word.lower(), word.lower())
        if word in LANGUAGES:
            return word
    return ""


def check_sample(sample, answer=True):
    """Why a foreign row cannot be used ("" = it can). Fills language, domain, task, width and height in place.

    answer: whether the row must have one (ViRL needs none).
    """
    try:
        if sample.image:
            sample.width, sample.height = open_image(sample).size
    except ValueError:
        return "unreadable image"
    return check_text(sample, answer)


def check_text(sample, answer=True):
    """As `check_sample`, but the image is not decoded: of one whose size is not known only the header is read."""
    from PIL import Image
    if not sample.prompt.strip():
        return "empty instruction"
    if not sample.image:
        return "no image"
    try:
        if not (sample.width and sample.height):
            sample.width, sample.height = Image.open(io.BytesIO(sample.image)).size
    except OSError:
        return "unreadable image"
    if max(sample.width, sample.height) > 200 * min(sample.width, sample.height):
        return "image longer than 200 times its width"  # no image processor of the Qwen-VL line takes it
    if not sample.language:
        sample.language = infer_language(sample)
    if sample.language not in LANGUAGES:
        return "unknown language"
    if answer and extract_code(sample.answer, sample.language)[0] is None:
        return f"answer without one ```{sample.language} fence"
    sample.domain = sample.domain or DOMAIN_OF[sample.language]
    if sample.domain not in DOMAINS:
        return "unknown domain"
    if sample.task not in ("generate", "refine"):
        return "unknown task"
    return ""


def usable(samples, path, answer=True):
    """The samples read from `path` that can be used; prints how many cannot, and why (main process only).

    Raises SystemExit with one line when more than 0.1 % cannot: that is no accident but the wrong data.
    """
    kept, bad = [], []
    for i, sample in enumerate(samples):
        sample.id = sample.id or f"row {i}"
        reason = check_sample(sample, answer)
        bad.append((sample.id, reason)) if reason else kept.append(sample)
    if bad:
        what = (f"{len(bad)} of {len(samples)} samples of {path} cannot be used, first {bad[0][0]}: {bad[0][1]} "
                f"({', '.join(f'{n} {why}' for why, n in Counter(why for _, why in bad).most_common())})")
        if len(bad) > len(samples) / 1000:
            raise SystemExit(f"error: {what}. `python data.py import` sorts out such rows and writes what is left.")
        if os.environ.get("RANK", "0") == "0":
            print(f"set aside: {what}")
    return kept


# ------------------------------------------------------------------------------------------------------ stats and view

def split_dirs(path):
    """The split directories below `path`, or `path` itself."""
    below = [p for p in (Path(path) / "sft", Path(path) / "rl", Path(path) / "test") if p.is_dir()]
    return below or [Path(path)]


def count_file(path):
    """(Counter of sources, {kind: lengths}) of a parquet file of samples; no image is read."""
    import pyarrow.parquet as pq
    wanted, sources, kinds = ("user_content", "assistant_content", "domain", "language", "task", "source"), Counter(), {}
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(1024, columns=[c for c in wanted if c in parquet.schema_arrow.names]):
            for row in batch.to_pylist():
                s = sample_from({"image": b"", **row})
                sources[s.source] += 1
                kinds.setdefault((s.domain, s.language, s.task, "with code" if s.answer else "no code"), []).append(len(s.answer or s.prompt))
    return sources, kinds


def stats(path):
    """Print what a data directory holds: per split and kind the number of samples and the length of their code."""
    from corpus import over_files
    for split in split_dirs(path):
        Corpus(split)  # one line where something is no file of samples
        sources, kinds = Counter(), {}
        for found, lengths in over_files(count_file, parquet_files(split)):
            sources.update(found)
            for kind, sizes in lengths.items():
                kinds.setdefault(kind, []).extend(sizes)
        print(f"{split}: {sources.total()} samples of {len(sources)} source(s)" + (f": {', '.join(sorted(sources))}" if len(sources) < 4 else ""))
        for kind, sizes in sorted(kinds.items()):
            sizes.sort()
            print("  {:6} {:7} {:9} {:9}".format(*kind) + f" {len(sizes):6}  characters median {sizes[len(sizes) // 2]}, max {sizes[-1]}")


def token_marks(policy, sample):
    """The tokens of a sample as training sees them, as HTML: those that are supervised on colour, image tokens as a count."""
    try:
        example = policy.encode(sample.prompt, open_image(sample), sample.answer or None)
    except ValueError as error:
        return f"cannot be encoded: {html.escape(str(error))}"
    marks, n_image = [], int((example.input_ids == policy.model.config.image_token_id).sum())
    for t, token in enumerate(example.input_ids.tolist()):
        if token != policy.model.config.image_token_id:
            kind = "prompt" if t < example.prompt_length else f"answer{t % 2}"
            marks.append(f"<span class={kind}>{html.escape(policy.tokenizer.decode([token]))}</span>")
        elif not marks or not marks[-1].startswith("<i>"):
            marks.append(f"<i>[{n_image} image tokens]</i>")
    supervised = len(example.input_ids) - example.prompt_length
    return f"<p>{len(example.input_ids)} tokens, {supervised} supervised</p><pre>{''.join(marks)}</pre>"


def view(path, out, limit=60, model=""):
    """An offline HTML page of samples: target, instruction, answer; with a model directory the tokens of both, and which of
    them are supervised. Code is shown as escaped text only."""
    import policy as P
    policy = P.load_policy(model, weights=False) if model else None
    cards = []
    for split in split_dirs(path):
        corpus = Corpus(split)
        for s in (corpus[i] for i in range(min(limit, len(corpus)))):
            defect = f"<br>{html.escape(s.operator)}<br>{html.escape(s.change)}" if s.operator else ""
            text = (f"<td colspan=2>{token_marks(policy, s)}</td>" if policy else
                    f"<td><pre>{html.escape(s.prompt)}</pre></td><td><pre>{html.escape(s.answer) or '(no code)'}</pre></td>")
            cards.append(f"<tr><td>{html.escape(split.name)}<br>{html.escape(s.id)}<br>{s.language} {s.task}{defect}</td>"
                         f"<td><img src='data:image/png;base64,{base64.b64encode(s.image).decode()}'></td>{text}</tr>")
    head = "<th colspan=2>tokens: <span class=prompt>prompt</span>, <span class=answer0>super</span><span class=answer1>vised</span>" if policy else "<th>instruction<th>answer (supervised)"
    Path(out).write_text("<!doctype html><meta charset=utf-8><title>samples</title><style>body{font:14px sans-serif}"
                         "img{max-width:240px;border:1px solid #ccc}pre{white-space:pre-wrap;max-width:60em}td:first-child{max-width:16em;overflow-wrap:anywhere}"
                         ".prompt{color:#777}.answer0{background:#cfe8cf}.answer1{background:#b3dcee}"
                         f"td{{vertical-align:top;border-top:1px solid #ddd;padding:6px}}</style><table><tr><th>sample<th>target{head}</tr>" + "".join(cards) + "</table>")
    print(f"wrote {out}: {len(cards)} samples")


def main():
    import corpus  # they build on this file
    import curate
    import scenes
    import synth
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("synth", help="make procedural samples: the embedded default's, or five domains at three difficulties", allow_abbrev=False)
    p.add_argument("--out", required=True, help="directory to write (sft, rl, test below it)")
    p.add_argument("--labelled", type=cli.whole(0), default=3200, help="number of image-code pairs for SFT")
    p.add_argument("--targets", type=cli.whole(0), default=2400, help="number of target images without code for ViRL")
    p.add_argument("--test", type=cli.whole(0), default=768, help="number of held-out samples")
    p.add_argument("--label-jitter", type=cli.real(0, 1), default=0.1, help="difficulty 1: probability that a number in a label is off by one step")
    p.add_argument("--broken", type=cli.real(0, 1), default=0.1, help="difficulty 1: share of labels that are damaged")
    p.add_argument("--domains", default=",".join(scenes.MIXTURE), help=f"comma-separated domains, taken in turn: {', '.join(DOMAINS)}")
    p.add_argument("--difficulty", choices=("1", "2", "3", "mixed"), default="1", help="1: the embedded default's scenes of 64 pixels; 2: small programs; 3: rich ones")
    p.add_argument("--seed", type=cli.whole(0), default=0, help="seed of the scenes")
    p.add_argument("--workers", type=cli.whole(1), default=None, help="renderer workers (default: one per core)")
    p.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    p = commands.add_parser("import", help="read data of the released, EasyR1's or TRL's schema, or folders of programs", allow_abbrev=False)
    p.add_argument("inputs", nargs="+", help="parquet files, directories of them, folders of programs, hf://datasets/NAME")
    p.add_argument("--out", required=True, help="directory to write (sft, rl, test, rejects.jsonl)")
    p.add_argument("--limit", type=cli.whole(0), default=0, help="rows of each input file at most (0: all)")
    p.add_argument("--workers", type=cli.whole(1), default=None, help="files read at a time (default: one per core)")
    p.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    p = commands.add_parser("filter", help="keep the samples whose program parses, is allowed, runs and draws the same twice", allow_abbrev=False)
    p.add_argument("path", help="directory of samples")
    p.add_argument("--out", required=True, help="directory to write")
    p.add_argument("--max-characters", type=cli.whole(1), default=30000, help="longest program")
    p.add_argument("--render-timeout", type=cli.real(above=True), default=10.0, help="seconds per program")
    p.add_argument("--workers", type=cli.whole(1), default=None, help="files read at a time (default: one per core)")
    p.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    p = commands.add_parser("dedupe", help="drop near-duplicates", allow_abbrev=False)
    p.add_argument("path", help="directory of samples whose images can be read (see filter)")
    p.add_argument("--out", required=True, help="directory to write")
    p.add_argument("--workers", type=cli.whole(1), default=None, help="files read at a time (default: one per core)")
    p = commands.add_parser("decontaminate", help="drop from sft and rl what an evaluation set holds", allow_abbrev=False)
    p.add_argument("path", help="directory of samples whose images can be read (see filter)")
    p.add_argument("--against", nargs="+", required=True, help="evaluation sets: whatever `import` reads; answers may be missing")
    p.add_argument("--out", required=True, help="directory to write")
    p.add_argument("--workers", type=cli.whole(1), default=None, help="files read at a time (default: one per core)")
    p = commands.add_parser("refine", help="make refinement samples: image + defective code -> corrected code", allow_abbrev=False)
    p.add_argument("path", help="directory of samples whose programs run (see filter)")
    p.add_argument("--out", required=True, help="directory to write")
    p.add_argument("--from", dest="predictions", help="predictions.jsonl of eval.py for these samples: a model's wrong answers become defects too")
    p.add_argument("--only", action="store_true", help="write refinement samples alone, without the samples they are made of")
    p.add_argument("--correct", type=cli.real(0, 1), default=0.07, help="share of programs without a defect, which are to be left alone")
    p.add_argument("--seed", type=cli.whole(0), default=0, help="seed of the defects")
    p.add_argument("--render-timeout", type=cli.real(above=True), default=10.0, help="seconds per program")
    p.add_argument("--workers", type=cli.whole(1), default=None, help="files read at a time (default: one per core)")
    p.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    p = commands.add_parser("select-rl", help="keep the prompts for ViRL on which a model's own samples have spread and head-room", allow_abbrev=False)
    p.add_argument("path", help="directory of samples or parquet file")
    p.add_argument("--scores", nargs="+", required=True, help="eval.py's scores.jsonl or virl.py's rollouts, of that model")
    p.add_argument("--out", required=True, help="directory to write (rl, rejects.jsonl)")
    p.add_argument("--count", type=cli.whole(0), default=0, help="prompts wanted, evenly over languages and difficulty (0: all useful ones)")
    p.add_argument("--low", type=cli.real(), default=0.2, help="least mean reward of a prompt's answers")
    p.add_argument("--high", type=cli.real(), default=0.95, help="largest mean reward")
    p.add_argument("--spread", type=cli.real(), default=0.03, help="least standard deviation of the rewards")
    p.add_argument("--seed", type=cli.whole(0), default=0, help="seed of the choice inside a full bin")
    p.add_argument("--workers", type=cli.whole(1), default=None, help="files read at a time (default: one per core)")
    p = commands.add_parser("export", help="write samples in TRL's or EasyR1's schema", allow_abbrev=False)
    p.add_argument("path", help="directory of samples or parquet file")
    p.add_argument("--format", choices=("trl", "easyr1"), default="trl", help="schema")
    p.add_argument("--out", required=True, help="directory to write")
    p.add_argument("--workers", type=cli.whole(1), default=None, help="files read at a time (default: one per core)")
    p = commands.add_parser("stats", help="count what is in a data directory", allow_abbrev=False)
    p.add_argument("path", help="data directory or parquet file")
    p = commands.add_parser("view", help="write an offline HTML page of samples", allow_abbrev=False)
    p.add_argument("path", help="data directory or parquet file")
    p.add_argument("--out", default="samples.html", help="HTML file to write")
    p.add_argument("--limit", type=cli.whole(0), default=60, help="samples shown per split")
    p.add_argument("--model", default="", help="model directory: show the tokens, and which of them are supervised")
    args = parser.parse_args()
    if int(os.environ.get("RANK", 0)):
        sys.stdout = open(os.devnull, "w")  # under torchrun rank 0 reports
    if args.command == "synth":
        synth.synth(args.out, args.labelled, args.targets, args.test, args.seed, args.label_jitter, args.broken,
                    args.domains.split(","), args.difficulty, args.workers, args.unsafe_render,
                    int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    elif args.command == "import":
        corpus.import_files(args.inputs, args.out, args.limit, args.workers, args.unsafe_render)
    elif args.command == "filter":
        curate.filter_samples(args.path, args.out, args.max_characters, args.render_timeout, args.workers, args.unsafe_render)
    elif args.command == "dedupe":
        import dedupe
        dedupe.dedupe(args.path, args.out, args.workers)
    elif args.command == "decontaminate":
        import dedupe
        dedupe.decontaminate(args.path, args.against, args.out, args.workers)
    elif args.command == "refine":
        import refine
        refine.refine_samples(args.path, args.out, args.only, args.predictions, args.correct, args.seed, args.render_timeout, args.workers, args.unsafe_render)
    elif args.command == "select-rl":
        curate.select_rl(args.path, args.scores, args.out, args.count, args.low, args.high, args.spread, args.seed, args.workers)
    elif args.command == "export":
        corpus.export(args.path, args.format, args.out, args.workers)
    elif args.command == "stats":
        stats(args.path)
    else:
        view(args.path, args.out, args.limit, args.model)


if __name__ == "__main__":
    main()
