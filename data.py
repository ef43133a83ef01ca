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
    python data.py decontaminate out/unique --against SET --out out/mine    # without what an evaluation set holds
    python data.py refine out/clean --out out/refined     # defective programs to be corrected (refine.py)
    python data.py select-rl out/clean/rl --scores SCORES.jsonl --out out/selected    # prompts worth ViRL (curate.py)
    python data.py export out/mine/sft --out out/trl      # our samples -> TRL's or EasyR1's schema (corpus.py)
    python data.py stats out/data                         # what is in it (view.py)
    python data.py view out/data --model out/tiny         # look at it, offline: which tokens are supervised

`synth` and `import` both write the layout that every stage reads: `DIR/sft` (pairs), `DIR/rl` (targets for ViRL:
images, most of them without any code) and `DIR/test` (held out; no image of it occurs in the other two).
"""
import argparse
import io
import os
import random
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

from reward import FENCES, extract_code

LANGUAGES = tuple(FENCES)
NEEDED = ("user_content", "assistant_content", "image")
OURS = ("id", "domain", "language", "task", "source", "license", "width", "height", "operator", "change")
NUMBERS = ("width", "height")
REFINE = "This {name} code should draw the image but is wrong. Correct it.\n```{language}\n{code}\n```"
NAMES = {"python": "Python", "html": "HTML", "svg": "SVG", "latex": "LaTeX"}
DOMAIN_OF = {"python": "chart", "html": "web", "svg": "svg", "latex": "latex"}  # where a sample does not say
DOMAINS = (*DOMAIN_OF.values(), "chem")
SPLITS = ("sft", "rl", "test")
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
    kinds = {"image": pa.binary(), **dict.fromkeys(NUMBERS, pa.int32())}
    schema = pa.schema([(c, kinds.get(c, pa.string())) for c in (*NEEDED, *OURS)])
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
        if (below := split_dirs(path)) != [path]:
            raise SystemExit(f"error: {path} holds no .parquet file itself. Give one of {', '.join(map(str, below))}.")
        why = "holds no .parquet file" if path.is_dir() else "does not exist"
        raise SystemExit(f"error: data directory {path} {why}. Make samples with `python data.py synth --out DIR` or "
                         f"`python data.py import FILE.parquet --out DIR`, then give DIR.")
    return files


def split_dirs(path):
    """The split directories below `path`, or `path` itself."""
    return [Path(path) / split for split in SPLITS if (Path(path) / split).is_dir()] or [Path(path)]


def split_files(path):
    """[(parquet file, name of its split)] below `path`. Raises SystemExit when there are none."""
    return [(file, split.name) for split in split_dirs(path) for file in parquet_files(split)]


def sample_from(row):
    """A row of our schema, or of the released one -> Sample."""
    fields = {k: v for k, v in row.items() if v is not None}
    prompt, answer, image = (fields.pop(c, none) for c, none in zip(NEEDED, ("", "", b"")))
    if isinstance(image, dict):  # Hugging Face Image feature: {"bytes": ..., "path": ...}
        image = image.get("bytes") or b""
    return Sample(prompt, answer, image, **fields)


def fits(column, kind):
    """Can an Arrow type hold this column of ours?"""
    import pyarrow.types as types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if column == "image":
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_struct(kind)
    if column in NUMBERS:
        return types.is_integer(kind) or types.is_null(kind)
    return column not in NEEDED or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)


def opened(path):
    """Yields (file, its ParquetFile of pyarrow) of `path`. Raises SystemExit with one line for what is no samples."""
    import pyarrow.parquet as pq
    for file in parquet_files(path):
        try:  # without pre-buffering, or the whole of a large row group would be held
            parquet = pq.ParquetFile(file, pre_buffer=False)
        except Exception as e:  # pyarrow raises several unrelated classes for a broken file
            raise SystemExit(f"error: {file} is not a readable parquet file ({str(e).splitlines()[0]}).") from None
        with parquet:
            kinds = dict(zip(parquet.schema_arrow.names, parquet.schema_arrow.types))
            if missing := [c for c in NEEDED if c not in kinds]:
                raise SystemExit(f"error: {file} has no column {', '.join(missing)} (its columns: {', '.join(kinds)}). "
                                 "`python data.py import` reads other schemas.")
            if wrong := [f"{c} ({kind})" for c, kind in kinds.items() if not fits(c, kind)]:
                raise SystemExit(f"error: {file} has columns of another type: {', '.join(wrong)}. "
                                 "`python data.py import` writes what can be used.")
            yield file, parquet


def columns_of(parquet):
    """Those of our columns that a ParquetFile has."""
    return [c for c in (*NEEDED, *OURS) if c in parquet.schema_arrow.names]


def read_samples(path):
    """Read every sample of a directory of parquet files (or of one file) into a list of Sample.

    Raises SystemExit with one line when nothing is there or a needed column is missing.
    """
    samples = []
    for _, parquet in opened(path):
        for batch in parquet.iter_batches(ROW_GROUP, columns=columns_of(parquet)):
            samples += map(sample_from, batch.to_pylist())
    if not samples:
        raise SystemExit(f"error: {path} holds no samples.")
    return samples


def open_image(sample):
    """The target as an RGB PIL image on white ground. Raises ValueError when the bytes are no readable image."""
    from PIL import Image, UnidentifiedImageError
    try:
        image = Image.open(io.BytesIO(sample.image))
        image.load()
    except Exception as e:
        why = "of no known format" if isinstance(e, UnidentifiedImageError) else e
        raise ValueError(f"unreadable image ({why})") from None
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fenced(language, code):
    """A program as the one fenced block of an answer: what `reward.extract_code` takes apart again."""
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
LARGEST_GROUP = 1 << 28  # bytes


class Corpus:
    """The samples of a directory of parquet files (or one file), read by number: len(corpus), corpus[i] -> Sample.

    Holds the places of the row groups and the last WINDOW row groups read. Raises SystemExit with one line for files
    that are no samples and for row groups too large to be read in pieces.
    """

    def __init__(self, path):
        import numpy as np
        self.path, self.groups, self.cache = path, [], {}  # (file, row group, its rows); {number: table}
        for file, parquet in opened(path):
            for number in range(parquet.num_row_groups):
                group = parquet.metadata.row_group(number)
                if group.total_byte_size > LARGEST_GROUP:
                    raise SystemExit(f"error: {file} has row groups of {group.total_byte_size >> 20} MB: "
                                     "`python data.py import` writes small ones.")
                self.groups.append((file, number, group.num_rows))
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
            file, number, _ = self.groups[g]
            with pq.ParquetFile(file, pre_buffer=False) as parquet:
                table = parquet.read_row_group(number, columns_of(parquet), use_threads=False)
            if len(self.cache) == WINDOW:
                del self.cache[next(iter(self.cache))]
            self.cache[g] = table
        (row,) = self.cache[g].slice(int(i - self.starts[g]), 1).to_pylist()
        sample = sample_from(row)
        sample.id = sample.id or f"row {i}"
        return sample

    def order(self, seed, epoch):
        """Order of an epoch, int64 [n]: row groups shuffled, then rows in windows of them. Pure in (seed, epoch)."""
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
    alias = {name: language for language, names in FENCES.items() for name in names}
    alias |= {"matplotlib": "python", "rdkit": "python"}
    for word in words:
        word = alias.get(word.lower(), word.lower())
        if word in LANGUAGES:
            return word
    return ""


def check_sample(sample, answer=True):
    """Why a foreign row cannot be used ("" = it can). Fills language, domain, width and height in place.

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
    except (OSError, Image.DecompressionBombError):
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


# ------------------------------------------------------------------------------------------------------ the commands

SHARED = {  # options of several commands
    "--out": dict(type=cli.name, required=True, help="directory to write"),
    "--render-timeout": dict(type=cli.real(above=True), default=10.0, help="seconds per program"),
    "--workers": dict(type=cli.whole(1), help="processes, of the renderer or one a file (default: one per core)"),
    "--unsafe-render": dict(action="store_true", help="render without confinement where none is possible"),
}


def main():
    import corpus  # these build on this file
    import curate
    import dedupe
    import refine
    import scenes
    import synth
    from view import stats, view
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, run, does, *shared):
        """A command that calls run(arguments), with the options `shared` -> the function that adds others."""
        sub = commands.add_parser(name, help=does, allow_abbrev=False)
        sub.set_defaults(run=run)
        for flag in shared:
            sub.add_argument(flag, **SHARED[flag])
        return sub.add_argument

    add = command("synth", lambda a: synth.synth(
        a.out, a.labelled, a.targets, a.test, a.seed, a.label_jitter, a.broken, a.domains.split(","), a.difficulty,
        a.workers, a.unsafe_render, rank, world),
        "make procedural samples: the embedded default's, or five domains at three difficulties",
        "--out", "--workers", "--unsafe-render")
    add("--labelled", type=cli.whole(0), default=3200, help="number of image-code pairs for SFT")
    add("--targets", type=cli.whole(0), default=2400, help="number of target images without code for ViRL")
    add("--test", type=cli.whole(0), default=768, help="number of held-out samples")
    add("--label-jitter", type=cli.real(0, 1), default=0.1,
        help="difficulty 1: probability that a number in a label is off by one step")
    add("--broken", type=cli.real(0, 1), default=0.1, help="difficulty 1: share of labels that are damaged")
    add("--domains", default=",".join(scenes.MIXTURE), help=f"with commas, taken in turn: {', '.join(DOMAINS)}")
    add("--difficulty", choices=("1", "2", "3", "mixed"), default="1",
        help="1: the embedded default's scenes of 64 pixels; 2: small programs; 3: rich ones")
    add("--seed", type=cli.whole(0), default=0, help="seed of the scenes")

    add = command("import", lambda a: corpus.import_files(
        a.inputs, a.out, a.limit, a.workers, a.unsafe_render, a.split),
        "read data of the released, EasyR1's or TRL's schema, or folders of programs",
        "--out", "--workers", "--unsafe-render")
    add("inputs", nargs="+", help="parquet files, directories of them, folders of programs, hf://datasets/NAME")
    add("--limit", type=cli.whole(0), default=0, help="rows of each input file at most (0: all)")
    add("--split", choices=SPLITS, default="",
        help="put all rows there; without it an image's hash decides: 70 %% sft, 20 %% rl, 10 %% test")

    add = command("filter", lambda a: curate.filter_samples(
        a.path, a.out, a.max_characters, a.render_timeout, a.workers, a.unsafe_render),
        "keep the samples whose program parses, is allowed, runs and draws the same twice",
        "--out", "--render-timeout", "--workers", "--unsafe-render")
    add("path", help="directory of samples")
    add("--max-characters", type=cli.whole(1), default=30000, help="longest program")

    add = command("dedupe", lambda a: dedupe.dedupe(a.path, a.out, a.workers),
                  "drop near-duplicates", "--out", "--workers")
    add("path", help="directory of samples whose images can be read (see filter)")

    add = command("decontaminate", lambda a: dedupe.decontaminate(a.path, a.against, a.out, a.workers),
                  "drop from sft and rl what an evaluation set holds", "--out", "--workers")
    add("path", help="directory of samples whose images can be read (see filter)")
    add("--against", nargs="+", required=True, help="evaluation sets: whatever `import` reads; answers may be missing")

    add = command("refine", lambda a: refine.refine_samples(
        a.path, a.out, a.only, a.predictions, a.correct, a.seed, a.render_timeout, a.workers, a.unsafe_render),
        "make refinement samples: image + defective code -> corrected code",
        "--out", "--render-timeout", "--workers", "--unsafe-render")
    add("path", help="directory of samples whose programs run (see filter)")
    add("--from", dest="predictions",
        help="predictions.jsonl of eval.py for these samples: a model's wrong answers become defects too")
    add("--only", action="store_true", help="write refinement samples alone, without the samples they are made of")
    add("--correct", type=cli.real(0, 1), default=0.07,
        help="share of programs without a defect, which are to be left alone")
    add("--seed", type=cli.whole(0), default=0, help="seed of the defects")

    add = command("select-rl", lambda a: curate.select_rl(
        a.path, a.scores, a.out, a.count, a.low, a.high, a.spread, a.seed, a.workers),
        "keep the prompts for ViRL on which a model's own samples have spread and head-room", "--out", "--workers")
    add("path", help="directory of samples or parquet file")
    add("--scores", nargs="+", required=True, help="eval.py's scores.jsonl or virl.py's rollouts, of that model")
    add("--count", type=cli.whole(0), default=0,
        help="prompts wanted, evenly over languages and difficulty (0: all useful)")
    add("--low", type=cli.real(), default=0.2, help="least mean reward of a prompt's answers")
    add("--high", type=cli.real(), default=0.95, help="largest mean reward")
    add("--spread", type=cli.real(), default=0.03, help="least standard deviation of the rewards")
    add("--seed", type=cli.whole(0), default=0, help="seed of the choice inside a full bin")

    add = command("export", lambda a: corpus.export(a.path, a.format, a.out, a.workers),
                  "write samples in TRL's or EasyR1's schema", "--out", "--workers")
    add("path", help="directory of samples or parquet file")
    add("--format", choices=("trl", "easyr1"), default="trl", help="schema")

    add = command("stats", lambda a: stats(a.path), "count what is in a data directory")
    add("path", help="data directory or parquet file")

    add = command("view", lambda a: view(a.path, a.out, a.limit, a.model), "write an offline HTML page of samples")
    add("path", help="data directory or parquet file")
    add("--out", default="samples.html", help="HTML file to write")
    add("--limit", type=cli.whole(0), default=60, help="samples shown per split")
    add("--model", default="", help="model directory: show the tokens, and which of them are supervised")

    args = parser.parse_args()
    if rank:
        sys.stdout = open(os.devnull, "w")  # under torchrun rank 0 reports
    try:
        args.run(args)
    except BrokenPipeError:  # `data.py stats DIR | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it stopped.")
    except OSError as e:  # no permission, disk full
        where = e.filename or getattr(args, "out", None) or args.path
        sys.exit(f"error: {e.strerror}: {where}. Nothing half-written was left under the final names.")


if __name__ == "__main__":
    main()
