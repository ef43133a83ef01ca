"""Image-code pairs of others: import into our schema, export from it.

    python data.py import FILE.parquet FOLDER hf://datasets/NAME --out out/mine      # 70 % sft, 20 % rl, 10 % test
    python data.py import train.parquet --split sft --out out/mine                   # or splits that are there already
    python data.py export out/mine/sft --format trl --out sft-trl

Rows stream: one file is read by one process, a few rows at a time, so memory does not grow with the file. What cannot
be used is written to a rejects file with its reason; rows read = rows written + rows rejected, always.

Read are
    user_content, assistant_content, image      the released SFT data (image: bytes, or datasets' {"bytes": ...})
    problem, answer, images                     EasyR1's schema, of the released RL data
    messages, images                            TRL's schema: one user and one assistant turn
    a folder of programs                        x.py, x.html, x.svg, x.tex, each with its picture x.png, .jpg or .webp
                                                beside it; without one the program is rendered
"""
import hashlib
import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path

import data
from data import NAMES, Sample
from parts import Writer, counted, finish, finished, in_processes, stamp
from render import ENDINGS
from reward import FENCES

CODE_ENDINGS = {ending: language for ending, language in ENDINGS.items() if language in FENCES}
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
BATCH = 4  # rows decoded together: a few MB at most

# -------------------------------------------------------------------------------------------------------------- reading

def inputs_of(paths):
    """Paths, folders, hf:// ids -> list of parquet files and folders of programs.

    Raises SystemExit with one line for a path that is neither, and for an id that cannot be fetched.
    """
    found = []
    for path in map(str, paths):
        if path.startswith("hf://"):
            path = download(path)
        if Path(path).is_dir() and not any(Path(path).glob("**/*.parquet")):
            if not any(f.suffix.lower() in CODE_ENDINGS for f in Path(path).rglob("*")):
                raise SystemExit(f"error: {path} holds no .parquet file and no program ({' '.join(CODE_ENDINGS)}).")
            found.append(Path(path))
        elif Path(path).is_dir():
            found += sorted(Path(path).glob("**/*.parquet"))
        else:
            found += data.parquet_files(path)
    return found


def download(name, files="*.parquet"):
    """hf://datasets/ORG/NAME or ORG/NAME -> local folder with those of its files that match the pattern(s).

    Raises SystemExit with one line when they cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    id = name.removeprefix("hf://").removeprefix("datasets/")
    try:
        return snapshot_download(id, repo_type="dataset", allow_patterns=files)
    except Exception as error:  # huggingface_hub raises many classes; offline, unknown and forbidden are the usual ones
        wanted = files if isinstance(files, str) else ", ".join(files)
        raise SystemExit(f"error: cannot fetch {name} ({type(error).__name__}: {str(error).splitlines()[0]}). "
                         f"Download its files elsewhere ({wanted}) and give their folder.") from None


def raw_rows(path):
    """The rows of a parquet file or the programs of a folder, one dict at a time, in a fixed order.

    Raises SystemExit with one line for a broken parquet file, OSError for one that cannot be opened.
    """
    if path.is_dir():
        yield from folder_rows(path)
        return
    import pyarrow.parquet as pq
    try:  # without pre-buffering, or the whole column of a single large row group would be held
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as parquet:
            for batch in parquet.iter_batches(BATCH, use_threads=False):
                yield from batch.to_pylist()
    except OSError:
        raise
    except Exception as error:  # pyarrow raises several unrelated classes for a broken file
        raise SystemExit(f"error: {path} is not a readable parquet file ({str(error).splitlines()[0]}).") from None


def folder_rows(path):
    """The programs below a folder as rows of the released schema; "render" says that there is no picture of one yet."""
    readable = lambda name: name.encode("utf-8", "replace").decode()  # a name of a file may be no UTF-8
    for file in sorted(f for f in path.rglob("*") if f.suffix.lower() in CODE_ENDINGS and f.is_file()):
        language = CODE_ENDINGS[file.suffix.lower()]
        row = {"id": readable(str(file.relative_to(path))), "language": language, "image": b"", "render": True,
               "source": readable(path.name), "user_content": f"Write {NAMES[language]} code that draws this image."}
        try:
            row["assistant_content"] = data.fenced(language, file.read_text(encoding="utf-8").strip("\n"))
        except UnicodeDecodeError:
            row["problem with it"] = "not UTF-8"
        for picture in (file.with_suffix(ending) for ending in IMAGE_ENDINGS):
            if picture.is_file():
                row["image"], row["render"] = picture.read_bytes(), False
        yield row


def picture_of(value):
    """bytes, datasets' {"bytes": ..., "path": ...} or a list of one of them -> bytes. Raises ValueError: the reason."""
    if isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise ValueError(f"{len(value)} images in place of one")
        (value,) = value
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is not None and not isinstance(value, bytes):
        raise ValueError("image column holds no bytes")
    return value or b""


def text_of(value):
    """A string, or the parts {"type", "text"} of a turn -> string, "" for None. Raises ValueError: the reason."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        value = "".join(str(part.get("text") or "") for part in value if part.get("type") == "text")
    if value is not None and not isinstance(value, str):
        raise ValueError("instruction or answer is no text")
    return value or ""


def sample_of(row):
    """A row of any schema that we read -> Sample. Raises ValueError with the reason why it is none."""
    if row.get("problem with it"):
        raise ValueError(row["problem with it"])
    image = row.get("images", row.get("image"))
    if "user_content" in row and "assistant_content" in row:
        prompt, answer, image = row["user_content"], row["assistant_content"], row.get("image")
    elif "messages" in row:
        turns = row["messages"] if isinstance(row["messages"], list) else []
        turns = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") != "system"]
        if [turn.get("role") for turn in turns] != ["user", "assistant"]:
            raise ValueError("messages are not one user and one assistant turn")
        prompt, answer = (turn.get("content") for turn in turns)
    elif "problem" in row:
        prompt, answer = row["problem"], row.get("answer")
    else:
        raise ValueError(f"unknown columns: {', '.join(sorted(row))}")
    ours = {c: row[c] for c in data.OURS if row.get(c) is not None}
    ours = {c: v if c in data.NUMBERS else str(v) for c, v in ours.items()}  # an id may be a number, too
    prompt = re.sub(r"^\s*<image>|<image>\s*$", "", text_of(prompt))  # the placeholder; an <image> inside is SVG code
    return Sample(prompt.strip(), text_of(answer), picture_of(image), **ours)


def samples_of(path):
    """The samples of a parquet file, one at a time. Raises SystemExit with one line for a row that is none."""
    for i, row in enumerate(raw_rows(path)):
        try:
            sample = sample_of(row)
        except ValueError as error:
            raise SystemExit(f"error: row {i} of {path}: {error}. `python data.py import` sorts these out.") from None
        yield sample


def in_chunks(rows, size):
    """Rows -> lists of `size` of them."""
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def keep_rows(path, number, out, split, dropped, ids):
    """Copy a parquet file to part `number` of a split, without the rows `dropped`, {row: reject}.

    ids: {row: id} of rows that have none. -> record: "kept", "rejected" {reason: rows}.
    """
    choice = hashlib.sha256(json.dumps([dropped, ids]).encode()).hexdigest()
    wanted = [*stamp(path), split, choice]
    if record := finished(out, number, wanted):
        return record
    writer = Writer(out / split / f"part-{number:05d}.parquet")
    for i, sample in enumerate(counted(samples_of(path))):
        if i not in dropped:
            sample.id = ids.get(i, sample.id)
            writer.add(sample)
    writer.close()
    return finish(out, number, {"input": wanted, "kept": writer.count}, list(dropped.values()))


# --------------------------------------------------------------------------------------------------------------- import

def split_of(image):
    """The split of an image, by its hash: 70 % sft, 20 % rl, 10 % test. One image never stands in two of them."""
    bucket = int(hashlib.sha256(image).hexdigest()[:8], 16) % 10
    return "test" if bucket == 0 else "rl" if bucket < 3 else "sft"


def import_file(path, number, out, limit, unsafe, split=""):
    """Import one file into part `number` of each split, or of `split` alone.

    -> {"read": rows, "kept": {split: rows}, "rejected": {reason: rows}}
    """
    from render import Renderer
    wanted, records = [*stamp(path), limit], out / split
    if record := finished(records, number, wanted):
        return record
    writers = {name: Writer(out / name / f"part-{number:05d}.parquet") for name in ([split] if split else data.SPLITS)}
    rejects, ids, read, renderer = [], set(), 0, None
    try:
        for i, row in enumerate(counted(raw_rows(path))):
            if limit and i == limit:
                break
            read += 1
            try:
                sample = sample_of(row)
                if path.is_dir() and row["render"]:
                    renderer = renderer or Renderer(1, unsafe=unsafe)
                    code = data.extract_code(sample.answer, sample.language)[0] or ""
                    render = renderer.submit(sample.language, code).result()
                    if render.status != "ok":
                        raise ValueError(f"no image, and the program does not run ({render.status})")
                    sample.image = data.png(render.image)
                sample.id = sample.id or f"{hashlib.sha256(sample.image).hexdigest()[:12]}-{number}-{i}"
                reason = data.check_sample(sample, answer=split != "rl" or sample.answer.strip() != "")
                if reason or sample.id in ids:
                    raise ValueError(reason or "duplicate id")
            except ValueError as error:
                rejects.append({"input": str(path), "row": i, "id": str(row.get("id") or ""), "reason": str(error),
                                "prompt": str(row.get("user_content") or row.get("problem") or "")[:200]})
                continue
            ids.add(sample.id)
            writers[split or split_of(sample.image)].add(sample)
    finally:
        if renderer:
            renderer.close()
    for writer in writers.values():
        writer.close()
    kept = {name: writer.count for name, writer in writers.items()}
    return finish(records, number, {"input": wanted, "read": read, "kept": kept}, rejects)


def refuse_strangers(out, split, parts):
    """Raises SystemExit with one line when `out` holds more than an import into these parts may have written.

    That is other files, or splits imported with --split where this is without, and the other way round.
    """
    names = [split] if split else data.SPLITS
    strangers = [out / ".done"] if split else [out / name / ".done" for name in data.SPLITS]
    strangers += [file for name in names for file in (out / name).glob("*.parquet") if file.name not in parts]
    for stranger in filter(Path.exists, strangers):
        raise SystemExit(f"error: {stranger} is there already and not of this import. "
                         f"Give another --out, or remove {out}.")


def import_files(paths, out, limit=0, workers=None, unsafe=False, split=""):
    """Import every input into `out`/{sft,rl,test}, one part per input file, `workers` files at a time.

    limit: rows of each input at most; split: put all rows there, whatever their image; of "rl" rows need no answer.
    Raises SystemExit with one line when a split stays empty.
    """
    out, files = Path(out), inputs_of(paths)
    refuse_strangers(out, split, {f"part-{n:05d}.parquet" for n in range(len(files))})
    (out / split).mkdir(parents=True, exist_ok=True)
    jobs = [(path, n, out, limit, unsafe, split) for n, path in enumerate(files)]
    records = in_processes(import_file, jobs, workers, out / split, "import", limit)
    kept, rejected = Counter(), Counter()
    for record in records:
        kept.update(record["kept"])
        rejected.update(record["rejected"])
    read = sum(record["read"] for record in records)
    for name, n in kept.items():
        if not n:
            raise SystemExit(f"error: no usable row for the {name} split: {read} rows read, {rejected.total()} rejected"
                             f" ({dict(rejected)}). Rows too few for three splits need --split.")
    print(f"read {read} rows of {len(files)} input(s): " + ", ".join(f"{name} {n}" for name, n in kept.items())
          + f", rejected {rejected.total()} (reasons in {out / split / 'rejects.jsonl'})")
    for reason, n in rejected.most_common():
        print(f"  rejected {n}: {reason}")


# --------------------------------------------------------------------------------------------------------------- export

def exported(sample, form):
    """A Sample as a row of another project's schema: form "trl" or "easyr1"."""
    image = {"bytes": sample.image, "path": None}
    rest = {c: getattr(sample, c) for c in data.OURS}
    if form == "easyr1":
        return {"problem": "<image>" + sample.prompt, "answer": sample.answer, "images": [image], **rest}
    text = lambda string: {"type": "text", "text": string}
    turns = [{"role": "user", "content": [{"type": "image", "text": None}, text(sample.prompt)]},
             {"role": "assistant", "content": [text(sample.answer)]}]
    return {"messages": turns, "images": [image], **rest}


def export_schema(form):
    """The Arrow schema of TRL's or EasyR1's rows, with the features as datasets writes them: `images` holds images."""
    import pyarrow as pa
    value = lambda kind, name: (kind, {"dtype": name, "_type": "Value"})
    string, number = value(pa.string(), "string"), value(pa.int32(), "int32")
    listed = lambda of: (pa.list_(of[0]), {"feature": of[1], "_type": "List"})
    struct = lambda **parts: (pa.struct([(name, kind) for name, (kind, _) in parts.items()]),
                              {name: feature for name, (_, feature) in parts.items()})
    turn = struct(role=string, content=listed(struct(type=string, text=string)))
    columns = {"problem": string, "answer": string} if form == "easyr1" else {"messages": listed(turn)}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}
    columns |= {"images": listed(image), **{c: number if c in data.NUMBERS else string for c in data.OURS}}
    features = {name: feature for name, (_, feature) in columns.items()}
    return pa.schema([(name, kind) for name, (kind, _) in columns.items()],
                     metadata={"huggingface": json.dumps({"info": {"features": features}})})


def export_file(path, number, out, form):
    """Write one parquet file of samples as part `number` of OUT, form "trl" or "easyr1". -> record: "written"."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    wanted = [*stamp(path), form]
    if record := finished(out, number, wanted):
        return record
    target, schema, n = out / f"part-{number:05d}.parquet", export_schema(form), 0
    temporary = target.with_name(target.name + ".tmp")
    with pq.ParquetWriter(temporary, schema) as writer:
        for chunk in in_chunks((exported(sample, form) for sample in counted(samples_of(path))), data.ROW_GROUP):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            n += len(chunk)
    os.replace(temporary, target)
    return finish(out, number, {"input": wanted, "written": n}, [])


def export(path, form, out, workers=None):
    """Write the samples of a directory as parquet files that TRL or EasyR1 reads, one for each of ours."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(file, n, out, form) for n, file in enumerate(data.parquet_files(path))]
    records = in_processes(export_file, jobs, workers, out, "export")
    (out / "rejects.jsonl").unlink()  # nothing is rejected, and who reads the folder wants parquet files alone
    print(f"wrote {out}: {sum(record['written'] for record in records)} samples for {form}")
