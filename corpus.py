"""Image-code pairs in the schemas of others: import into ours, export from it; and how data commands share their files out.

    python data.py import FILE.parquet FOLDER hf://datasets/NAME --out out/mine
    python data.py export out/mine/sft --format trl --out sft-trl.parquet
    torchrun --nproc_per_node=8 data.py import FOLDER --out out/mine        # on several machines: they share the files

Rows stream: one file is read by one process, a few rows at a time, so memory does not grow with the file. What cannot
be used is written to a rejects file with its reason; rows read = rows written + rows rejected, always. A file that has
been finished is not read again when the same command is repeated after an interruption.

Read are
    user_content, assistant_content, image      the released SFT data (image: bytes, or {"bytes": ...} as datasets writes)
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
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import cli
import data
from data import NAMES, Sample
from render import ENDINGS
from reward import FENCES

CODE_ENDINGS = {ending: language for ending, language in ENDINGS.items() if language in FENCES}
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
BATCH = 4  # rows decoded together: a few MB at most
# Of the reading processes: give back at once what is freed. A page of a foreign file can hold 1,024 images, and three of
# them are alive at a time: 390 MB at most for images of 87 kB, 500 with the defaults.
LEAN = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "200000", "MALLOC_MMAP_THRESHOLD_": "200000"}
FLUSH = 4 << 20  # bytes of images after which a row group is written, or data.ROW_GROUP rows


# --------------------------------------------------------------------------------------------------------------- reading

def inputs_of(paths):
    """Paths, folders and hf:// ids -> list of parquet files and folders of programs. Raises SystemExit with one line."""
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
    """hf://datasets/ORG/NAME or ORG/NAME -> local folder with those of its files that match the pattern(s)."""
    from huggingface_hub import snapshot_download
    try:
        return snapshot_download(name.removeprefix("hf://").removeprefix("datasets/"), repo_type="dataset", allow_patterns=files)
    except Exception as error:  # huggingface_hub raises many classes; offline, unknown and forbidden are the usual ones
        raise SystemExit(f"error: cannot fetch {name} ({type(error).__name__}: {str(error).splitlines()[0]}). "
                         f"Download its files elsewhere ({files if isinstance(files, str) else ', '.join(files)}) and give their folder.") from None


def raw_rows(path):
    """The rows of a parquet file or the programs of a folder, one dict at a time, in a fixed order."""
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
    for file in sorted(f for f in path.rglob("*") if f.suffix.lower() in CODE_ENDINGS):
        language = CODE_ENDINGS[file.suffix.lower()]
        row = {"id": str(file.relative_to(path)), "language": language, "image": b"", "source": path.name, "render": True,
               "user_content": f"Write {NAMES[language]} code that draws this image."}
        try:
            row["assistant_content"] = data.fenced(language, file.read_text(encoding="utf-8").strip("\n"))
        except UnicodeDecodeError:
            row["problem with it"] = "not UTF-8"
        for picture in (file.with_suffix(ending) for ending in IMAGE_ENDINGS):
            if picture.is_file():
                row["image"], row["render"] = picture.read_bytes(), False
        yield row


def picture_of(value):
    """bytes, datasets' {"bytes": ..., "path": ...} or a list of one of them -> bytes. Raises ValueError with the reason."""
    if isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise ValueError(f"{len(value)} images in place of one")
        (value,) = value
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is not None and not isinstance(value, bytes):
        raise ValueError("image column holds no bytes")
    return value or b""


def plain_text(content):
    """A turn of a conversation, a string or parts of {"type", "text"} -> string."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


def sample_of(row):
    """A row of any schema that we read -> Sample. Raises ValueError with the reason why it is none."""
    if row.get("problem with it"):
        raise ValueError(row["problem with it"])
    ours = {k: row[k] for k in data.COLUMNS[3:] if row.get(k) is not None}
    if "user_content" in row and "assistant_content" in row:
        prompt, answer, image = row["user_content"], row["assistant_content"], row.get("image")
    elif "messages" in row:
        turns = [(turn["role"], plain_text(turn["content"])) for turn in row["messages"] or [] if turn["role"] != "system"]
        if [role for role, _ in turns] != ["user", "assistant"]:
            raise ValueError("messages are not one user and one assistant turn")
        (_, prompt), (_, answer) = turns
        image = row.get("images", row.get("image"))
    elif "problem" in row:
        prompt, answer, image = row["problem"], row.get("answer"), row.get("images", row.get("image"))
    else:
        raise ValueError(f"unknown columns: {', '.join(sorted(row))}")
    prompt = re.sub(r"^\s*<image>|<image>\s*$", "", prompt or "")  # the placeholder; an <image> inside is SVG code
    return Sample(prompt.strip(), answer or "", picture_of(image), **ours)


# ---------------------------------------------------------------------------------------------------------------- import

class Writer:
    """A parquet file in our schema, written a row group at a time under a temporary name, renamed by `close`."""

    def __init__(self, path):
        self.path, self.rows, self.bytes, self.file, self.count = Path(path), [], 0, None, 0

    def add(self, sample):
        self.rows.append(sample)
        self.count += 1
        self.bytes += len(sample.image)
        if len(self.rows) == data.ROW_GROUP or self.bytes > FLUSH:
            self.flush()

    def flush(self):
        import pyarrow.parquet as pq
        table = data.table_of(self.rows)
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = pq.ParquetWriter(self.path.with_name(self.path.name + ".tmp"), table.schema, use_dictionary=["domain", "language", "task", "source"])
        self.file.write_table(table)
        self.rows, self.bytes = [], 0

    def close(self):
        if self.rows:
            self.flush()
        if self.file:
            self.file.close()
            os.replace(self.path.with_name(self.path.name + ".tmp"), self.path)
        else:
            self.path.unlink(missing_ok=True)  # nothing is left of an earlier run with another input


def split_of(image):
    """The split of an image, by its hash: 70 % sft, 20 % rl, 10 % test. One image never stands in two of them."""
    bucket = int(hashlib.sha256(image).hexdigest()[:8], 16) % 10
    return "test" if bucket == 0 else "rl" if bucket < 3 else "sft"


def finished(out, number, wanted):
    """The record of part `number` if it was made from just this input, else None."""
    done = out / ".done" / f"{number:05d}.json"
    record = json.loads(done.read_text()) if done.exists() else {}
    return record if record.get("input") == wanted else None


def finish(out, number, record, rejects):
    """Write the rejected rows of a part, then, last of all, its record: what has none is done again."""
    done = out / ".done" / f"{number:05d}.json"
    done.parent.mkdir(parents=True, exist_ok=True)
    done.with_suffix(".rejects.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rejects))
    record["rejected"] = Counter(r["reason"] for r in rejects)
    done.with_suffix(".tmp").write_text(json.dumps(record))
    os.replace(done.with_suffix(".tmp"), done)
    return record


def all_ranks(world):
    """Wait for the other processes of torchrun; they may take days."""
    if world > 1:
        import torch.distributed as dist
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(days=30))
        dist.barrier()


def over_files(work, files, workers=None):
    """Yields work(file) of each file in order, in processes where there are several."""
    os.environ.update(LEAN)
    if len(files) == 1:
        yield work(files[0])
        return
    with cli.Pool(max(1, min(workers or os.cpu_count() or 1, len(files)))) as pool:
        yield from pool.map(work, files)


def in_processes(work, jobs, workers, out, title):
    """Call work(*job) for each job, `workers` at a time -> the records of all. The rejects of all parts are put together.

    Under torchrun each process does its share of the jobs, on any number of machines that share the disk; all of them go on
    when the last is done, and rank 0 reports (`data.main`).
    """
    from tqdm import tqdm
    os.environ.update(LEAN)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = jobs[rank::world]
    with cli.Pool(max(1, min(workers or os.cpu_count() or 1, len(mine)))) as pool:
        futures = [pool.submit(work, *job) for job in mine]
        records = [future.result() for future in tqdm(futures, desc=title, unit="file", mininterval=1, disable=rank > 0)]
    all_ranks(world)
    if world > 1:
        records = [json.loads((out / ".done" / f"{n:05d}.json").read_text()) for n in range(len(jobs))]
    if rank == 0:
        with open(out / "rejects.jsonl", "w") as f:
            for n in range(len(jobs)):
                f.write((out / ".done" / f"{n:05d}.rejects.jsonl").read_text())
    all_ranks(world)  # who reads the rejects finds them
    return records


def import_file(path, number, out, limit, unsafe):
    """Import one file into part `number` of each split. -> {"read", "kept": {split: n}, "rejected": {reason: n}}."""
    from render import Renderer
    wanted = [str(path), path.stat().st_size, path.stat().st_mtime_ns, limit]
    if record := finished(out, number, wanted):
        return record
    writers = {split: Writer(out / split / f"part-{number:05d}.parquet") for split in ("sft", "rl", "test")}
    rejects, ids, read, renderer = [], set(), 0, None
    try:
        for i, row in enumerate(raw_rows(path)):
            if limit and i == limit:
                break
            read += 1
            try:
                sample = sample_of(row)
                if row.get("render"):
                    renderer = renderer or Renderer(1, unsafe=unsafe)
                    render = renderer.submit(sample.language, data.extract_code(sample.answer, sample.language)[0] or "").result()
                    if render.status != "ok":
                        raise ValueError(f"no image, and the program does not run ({render.status})")
                    sample.image = data.png(render.image)
                sample.id = sample.id or f"{hashlib.sha256(sample.image).hexdigest()[:12]}-{number}-{i}"
                if reason := data.check_sample(sample) or ("duplicate id" if sample.id in ids else ""):
                    raise ValueError(reason)
            except ValueError as error:
                rejects.append({"input": str(path), "row": i, "id": str(row.get("id") or ""), "reason": str(error),
                                "prompt": str(row.get("user_content") or row.get("problem") or "")[:200]})
                continue
            ids.add(sample.id)
            writers[split_of(sample.image)].add(sample)
    finally:
        if renderer:
            renderer.close()
    for writer in writers.values():
        writer.close()
    return finish(out, number, {"input": wanted, "read": read, "kept": {split: w.count for split, w in writers.items()}}, rejects)


def import_files(paths, out, limit=0, workers=None, unsafe=False):
    """Import every input into `out`/{sft,rl,test}, one part per input file, `workers` files at a time.

    limit: rows of each input at most. Raises SystemExit with one line when a split stays empty.
    """
    out, files = Path(out), inputs_of(paths)
    known = {f"part-{n:05d}.parquet" for n in range(len(files))}
    strangers = [str(f) for split in ("sft", "rl", "test") for f in (out / split).glob("*.parquet") if f.name not in known]
    if strangers:
        raise SystemExit(f"error: {strangers[0]} is there already and not of this import. Give another --out, or remove {out}.")
    out.mkdir(parents=True, exist_ok=True)
    records = in_processes(import_file, [(path, n, out, limit, unsafe) for n, path in enumerate(files)], workers, out, "import")
    kept, rejected = Counter(), Counter()
    for record in records:
        kept.update(record["kept"])
        rejected.update(record["rejected"])
    read = sum(record["read"] for record in records)
    for split in ("sft", "rl", "test"):
        if not kept[split]:
            raise SystemExit(f"error: no usable row for the {split} split: {read} rows read, {sum(rejected.values())} rejected ({dict(rejected)}).")
    print(f"read {read} rows of {len(files)} input(s): " + ", ".join(f"{split} {kept[split]}" for split in ("sft", "rl", "test"))
          + f", rejected {sum(rejected.values())} (reasons in {out / 'rejects.jsonl'})")
    for reason, n in rejected.most_common():
        print(f"  rejected {n}: {reason}")

# ---------------------------------------------------------------------------------------------------------------- export
def in_chunks(rows, size):
    """Rows -> lists of `size` of them."""
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def exported(sample, form):
    """A Sample as a row of another project's schema."""
    image = {"bytes": sample.image, "path": None}
    rest = {k: v for k, v in asdict(sample).items() if k not in ("prompt", "answer", "image")}
    if form == "easyr1":
        return {"problem": "<image>" + sample.prompt, "answer": sample.answer, "images": [image], **rest}
    text = lambda string: {"type": "text", "text": string}
    turns = [{"role": "user", "content": [{"type": "image", "text": None}, text(sample.prompt)]}, {"role": "assistant", "content": [text(sample.answer)]}]
    return {"messages": turns, "images": [image], **rest}


def export_schema(form):
    """The Arrow schema of TRL's or EasyR1's rows; images carry datasets' Image feature."""
    import pyarrow as pa
    image, string = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.string()
    turn = pa.struct([("role", string), ("content", pa.list_(pa.struct([("type", string), ("text", string)])))])
    first = [("problem", string), ("answer", string)] if form == "easyr1" else [("messages", pa.list_(turn))]
    rest = [(c, pa.int32() if c in ("width", "height") else string) for c in data.COLUMNS[3:]]
    value = lambda kind: {"dtype": kind, "_type": "Value"}
    part = {"type": value("string"), "text": value("string")}
    features = {c: value("int32" if c in ("width", "height") else "string") for c, _ in rest} | {"images": {"feature": {"_type": "Image"}, "_type": "List"}}
    features |= {"problem": value("string"), "answer": value("string")} if form == "easyr1" else {
        "messages": {"feature": {"role": value("string"), "content": {"feature": part, "_type": "List"}}, "_type": "List"}}
    return pa.schema([*first, ("images", pa.list_(image)), *rest], metadata={"huggingface": json.dumps({"info": {"features": features}})})


def export_file(path, number, out, form):
    """Write one parquet file of samples as part `number` of OUT."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    wanted = [str(path), path.stat().st_size, path.stat().st_mtime_ns, form]
    if record := finished(out, number, wanted):
        return record
    target, schema, n = out / f"part-{number:05d}.parquet", export_schema(form), 0
    temporary = target.with_name(target.name + ".tmp")
    with pq.ParquetWriter(temporary, schema) as writer:
        for chunk in in_chunks((exported(sample_of(row), form) for row in raw_rows(path)), data.ROW_GROUP):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            n += len(chunk)
    os.replace(temporary, target)
    return finish(out, number, {"input": wanted, "written": n}, [])


def export(path, form, out, workers=None):
    """Write the samples of a directory as parquet files that TRL or EasyR1 reads, one for each of ours."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    records = in_processes(export_file, [(file, n, out, form) for n, file in enumerate(data.parquet_files(path))], workers, out, "export")
    (out / "rejects.jsonl").unlink()  # nothing is rejected, and who reads the folder wants parquet files alone
    print(f"wrote {out}: {sum(record['written'] for record in records)} samples for {form}")
