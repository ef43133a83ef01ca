"""Work on many files, part by part: how the data commands share it among processes and machines, and go on with it.

A part is what becomes of one file. It is written by one process, and finished with a record, OUT/.done/NNNNN.json, of
what it was made from and what came out; a finished part is not done again when the same command is repeated after an
interruption. The rows that a command rejects are put together in OUT/rejects.jsonl, each with its reason.

    torchrun --nproc_per_node=8 data.py filter out/mine --out out/clean     # also on several machines with one disk
"""
import json
import os
from collections import Counter
from concurrent.futures import FIRST_EXCEPTION, wait
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import cli
import data

# Of the reading processes: give back at once what is freed. A page of a foreign file can hold 1,024 images, three of
# them are alive at a time: 390 MB at most for images of 87 kB, 500 with the defaults.
LEAN = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1",
        "MALLOC_TRIM_THRESHOLD_": "200000", "MALLOC_MMAP_THRESHOLD_": "200000"}
FLUSH = 4 << 20  # bytes of images after which a row group is written, or data.ROW_GROUP rows


class Writer:
    """A parquet file in our schema, written a row group at a time under a temporary name, renamed by `close`."""

    def __init__(self, path):
        self.path, self.rows, self.bytes, self.file, self.count = Path(path), [], 0, None, 0
        self.temporary = self.path.with_name(self.path.name + ".tmp")

    def add(self, sample):
        """Take a Sample; data.ROW_GROUP of them, or FLUSH bytes of their images, are written as a row group."""
        self.rows.append(sample)
        self.count += 1
        self.bytes += len(sample.image)
        if len(self.rows) == data.ROW_GROUP or self.bytes > FLUSH:
            self.flush()

    def flush(self):
        """Write the samples that wait, at least one, as a row group."""
        import pyarrow.parquet as pq
        table, repeated = data.table_of(self.rows), ["domain", "language", "task", "source"]
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = pq.ParquetWriter(self.temporary, table.schema, use_dictionary=repeated)
        self.file.write_table(table)
        self.rows, self.bytes = [], 0

    def close(self):
        """Write what waits and put the file in its place; without a sample there is none afterwards."""
        if self.rows:
            self.flush()
        if self.file:
            self.file.close()
            os.replace(self.temporary, self.path)
        else:
            self.path.unlink(missing_ok=True)  # nothing is left of an earlier run with another input


def stamp(path):
    """What tells that a file, or a folder with all that is in it, is the one that a part was made from."""
    files = [f.stat() for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file()]
    return [str(path), sum(f.st_size for f in files), max((f.st_mtime_ns for f in files), default=0)]


def record_of(out, number):
    """The record of part `number` of a command that writes to `out`, {} if it has not been finished."""
    done = out / ".done" / f"{number:05d}.json"
    return json.loads(done.read_text()) if done.exists() else {}


def finished(out, number, wanted):
    """The record of part `number` if it was made from just this input, else None."""
    record = record_of(out, number)
    return record if record.get("input") == wanted else None


def finish(out, number, record, rejects):
    """Write the rejected rows of a part, then, last of all, its record: what has none is done again.

    -> the record with "rejected", a Counter of the reasons.
    """
    done = out / ".done" / f"{number:05d}.json"
    done.parent.mkdir(parents=True, exist_ok=True)
    done.with_suffix(".rejects.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rejects))
    record["rejected"] = Counter(r["reason"] for r in rejects)
    done.with_suffix(".tmp").write_text(json.dumps(record))
    os.replace(done.with_suffix(".tmp"), done)
    return record


def refuse_mixture(out, files):
    """Raises SystemExit with one line when `out` is where `files` lie, or holds what was made from others."""
    places = {path.resolve() for path in (out, *(out / split for split in data.SPLITS))}
    if any(file.resolve().parent in places for file in files):
        raise SystemExit(f"error: --out {out} is the directory that is read. Give another one.")
    known = {file.resolve() for file in files}
    for done in sorted((out / ".done").glob("*[0-9].json")):
        before = str(json.loads(done.read_text())["input"][0])
        if Path(before).resolve() not in known:
            raise SystemExit(f"error: {out} is there already and holds what was made from {before}. "
                             "Give another --out, or remove it.")


def reject(path, row, sample, reason):
    """What is told of row number `row` of a file that a command leaves out."""
    return {"input": str(path), "row": row, "id": sample.id, "reason": reason, "prompt": sample.prompt[:200],
            "answer": sample.answer[:500]}


def all_ranks(world):
    """Wait for the other processes of torchrun; they may take days."""
    if world > 1:
        import torch.distributed as dist
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(days=30))
        dist.barrier()


def processes(count, workers, *start):
    """A pool of `workers` processes (None: one per core), at most `count`, that read lean and end with this one.

    start: what each calls first, and a tuple of its arguments.
    """
    os.environ.update(LEAN)
    workers = max(1, min(workers or os.cpu_count() or 1, count))
    return cli.Pool(workers, *start)


def over_files(work, files, workers=None):
    """Yields work(file) of each file in order, in processes where there are several."""
    if len(files) == 1:
        yield work(files[0])
        return
    with processes(len(files), workers) as pool:
        yield from pool.map(work, files)


done_rows = None  # in a process of `in_processes`: how many rows all of them have done, shared


def share_count(number):
    """What a process of `in_processes` calls first; number: a shared multiprocessing.Value of rows."""
    global done_rows
    done_rows = number


def counted(rows):
    """The rows of a part; the progress bar of `in_processes` counts each when the next one is asked for."""
    for row in rows:
        yield row
        if done_rows is not None:
            with done_rows.get_lock():
                done_rows.value += 1


def rows_of(path, limit=0):
    """How many rows a parquet file has, `limit` at most (0: no limit), None for anything else."""
    import pyarrow.parquet as pq
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError):  # a folder of programs, or what `work` has words for
        return None
    return min(rows, limit or rows)


def in_processes(work, jobs, workers, out, title, limit=0):
    """Call work(*job) for each job, `workers` at a time -> the records of all parts; puts their rejects together.

    A job begins with its file (Path) and the number of its part; limit: rows of a file that are done at most. Under
    torchrun each process does its share of the jobs, on any number of machines that share the disk; all go on when the
    last is done, and rank 0 reports (`data.main`). Raises SystemExit with one line for what `refuse_mixture` refuses,
    and when a process dies.
    """
    from tqdm import tqdm
    refuse_mixture(out, [file for file, *_ in jobs])
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine, numbers = jobs[rank::world], range(len(jobs))
    rows = [rows_of(file, limit) for n, (file, *_) in zip(numbers[rank::world], mine) if not record_of(out, n)]
    total, count = None if None in rows else sum(rows), get_context("spawn").Value("Q")
    with (processes(len(mine), workers, share_count, (count,)) as pool,
          tqdm(total=total, desc=title, unit="row", mininterval=1, disable=rank > 0) as bar):
        waiting = {pool.submit(work, *job) for job in mine}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=1, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                bar.update(count.get_obj().value - bar.n)  # without the lock: a killed process may hold it
        except BrokenProcessPool:
            raise SystemExit("error: a process was killed, perhaps for want of memory (fewer --workers take less). "
                             "The same command goes on where it stopped.") from None
    all_ranks(world)
    if rank == 0:
        with open(out / "rejects.jsonl", "w") as f:
            for n in numbers:
                f.write((out / ".done" / f"{n:05d}.rejects.jsonl").read_text())
    all_ranks(world)  # who reads the rejects finds them
    return [record_of(out, n) for n in numbers]
