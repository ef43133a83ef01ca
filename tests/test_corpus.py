"""corpus.py: every schema read, every row accounted for, exact after an interruption, readable by others."""
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from conftest import ROOT, drawn_samples
from test_data import command, released, write_released

import corpus
import data
import parts
from render import available


def kept(out):
    return {s.id: s for split in ("sft", "rl", "test") for s in data.read_samples(out / split)}


def rejects(out):
    return [json.loads(line) for line in open(out / "rejects.jsonl")]


def as_easyr1(row):
    return {"problem": "<image>" + row["user_content"], "answer": row["assistant_content"], "images": [{"bytes": row["image"], "path": None}]}


def as_trl(row, parts=True):
    user = [{"type": "image", "text": None}, {"type": "text", "text": row["user_content"]}] if parts else "<image>\n" + row["user_content"]
    answer = [{"type": "text", "text": row["assistant_content"]}] if parts else row["assistant_content"]
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}], "images": [{"bytes": row["image"], "path": None}]}


@pytest.mark.parametrize("change", [lambda r: r, lambda r: {**r, "image": {"bytes": r["image"], "path": "x.png"}}, as_easyr1, as_trl, lambda r: as_trl(r, False)],
                         ids=["released", "as datasets writes it", "EasyR1", "TRL", "TRL, plain strings"])
def test_every_schema_gives_the_same_samples(tmp_path, change):
    rows = [released(seed=i, code=f"<svg>{i}</svg>") for i in range(40)]
    write_released(tmp_path / "in.parquet", [change(r) for r in rows])
    corpus.import_files([tmp_path / "in.parquet"], tmp_path / "out", workers=1)
    assert sorted((s.prompt, s.answer, s.image, s.language) for s in kept(tmp_path / "out").values()) == \
        sorted((r["user_content"], r["assistant_content"], r["image"], "svg") for r in rows)
    assert not rejects(tmp_path / "out")


def test_each_bad_row_is_rejected_with_its_reason(tmp_path):
    good, bad = [as_trl(released(seed=i)) for i in range(60)], as_trl(released(seed=99))
    two_turns = {**bad, "messages": bad["messages"] * 2}
    two_images, none = {**bad, "images": bad["images"] * 2}, {**bad, "images": []}
    write_released(tmp_path / "a.parquet", good + [two_turns, two_images, none])
    write_released(tmp_path / "b.parquet", [{"text": "x", "picture": b"y"}])
    corpus.import_files([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out")
    assert [(r["row"], r["reason"]) for r in rejects(tmp_path / "out")] == [
        (60, "messages are not one user and one assistant turn"), (61, "2 images in place of one"), (62, "0 images in place of one"),
        (0, "unknown columns: picture, text")]
    assert len(kept(tmp_path / "out")) == 60


@pytest.mark.skipif(bool(available()["svg"]), reason="SVG cannot be rendered here")
def test_a_folder_of_programs(tmp_path):
    """With a picture beside it, rendered without one, rejected where neither is possible."""
    folder = tmp_path / "programs"
    (folder / "deep").mkdir(parents=True)
    for i in range(40):
        (folder / "deep" / f"{i}.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="{i + 9}" height="20"/></svg>')
    Image.new("RGB", (5, 7), "red").save(folder / "deep" / "3.png")
    (folder / "broken.svg").write_text("<svg")
    (folder / "foreign.svg").write_bytes("<svg>\u00e9</svg>".encode("latin-1"))
    (folder / "notes.txt").write_text("not a program")
    corpus.import_files([folder], tmp_path / "out")
    found = kept(tmp_path / "out")
    assert len(found) == 40 and (found["deep/3.svg"].width, found["deep/3.svg"].height) == (5, 7)
    assert np.asarray(Image.open(io.BytesIO(found["deep/9.svg"].image))).mean() < 250
    assert sorted((r["id"], r["reason"]) for r in rejects(tmp_path / "out")) == [
        ("broken.svg", "no image, and the program does not run (error)"), ("foreign.svg", "not UTF-8")]
    (folder / "deep" / "4.svg").write_text((folder / "deep" / "5.svg").read_text().replace("/>", " />"))  # a change deep in it is seen
    corpus.import_files([folder], tmp_path / "out")
    assert " />" in kept(tmp_path / "out")["deep/4.svg"].answer


def test_an_interrupted_import_goes_on_and_reads_nothing_twice(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for k in range(3):
        write_released(tmp_path / "in" / f"{k}.parquet", [released(seed=100 * k + i) for i in range(40)])
    files, out, read = corpus.inputs_of([tmp_path / "in"]), tmp_path / "out", []
    plain = corpus.raw_rows

    def rows(path, until):
        for i, row in enumerate(plain(path)):
            if i == until:
                raise KeyboardInterrupt
            read.append(path.name)
            yield row
    monkeypatch.setattr(corpus, "raw_rows", lambda path: rows(path, None if path == files[0] else 20))
    corpus.import_file(files[0], 0, out, 0, False)
    with pytest.raises(KeyboardInterrupt):
        corpus.import_file(files[1], 1, out, 0, False)
    assert not list(out.glob("*/part-00001.parquet"))  # nothing half-written under a final name
    monkeypatch.setattr(corpus, "raw_rows", lambda path: rows(path, None))
    for n, path in enumerate(files):
        corpus.import_file(path, n, out, 0, False)
    assert read.count("0.parquet") == 40 and read.count("1.parquet") == 20 + 40
    whole = tmp_path / "whole"
    for n, path in enumerate(files):
        corpus.import_file(path, n, whole, 0, False)
    assert kept(out) == kept(whole) and len(kept(out)) == 120


def refused(function, *args, **kwargs):
    """The one line with which a function ends the program."""
    with pytest.raises(SystemExit) as end:
        function(*args, **kwargs)
    assert len(str(end.value).splitlines()) == 1
    return str(end.value)


def test_an_output_of_another_import_is_not_mixed_in(tmp_path):
    """Files of others, an import of other inputs, splits with and without --split; more inputs than before go on."""
    for name, seeds in (("a", range(40)), ("b", range(40, 80))):
        write_released(tmp_path / f"{name}.parquet", [released(seed=i) for i in seeds])
    a, b, out = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "out"
    data.write_samples(data.read_samples(a), out / "sft" / "mine.parquet")
    result = command("import", a, "--out", out)
    assert result.returncode == 1 and "is there already" in result.stderr and len(result.stderr.strip().splitlines()) == 1
    (out / "sft" / "mine.parquet").unlink()
    corpus.import_files([a], out, workers=1)
    assert f"holds what was made from {a}" in refused(corpus.import_files, [b], out)
    assert "is there already" in refused(corpus.import_files, [b], out, split="test")
    corpus.import_files([a, b], out, workers=1)
    assert "part-00001" in refused(corpus.import_files, [a], out) and len(kept(out)) == 80
    assert "the directory that is read" in refused(corpus.import_files, [tmp_path], tmp_path)


def test_splits_that_are_there_already(tmp_path, capsys):
    """--split puts every row there, one split after the other in one directory; prompts for ViRL need no answer."""
    rows = {split: [released(seed=100 * k + i) for i in range(3)] for k, split in enumerate(data.SPLITS)}
    bare = {**released(seed=999), "assistant_content": ""}
    for split, mine in rows.items():
        write_released(tmp_path / f"{split}.parquet", [*mine, bare])
        corpus.import_files([tmp_path / f"{split}.parquet"], tmp_path / "out", workers=1, split=split)
        assert f"read 4 rows of 1 input(s): {split} {3 + (split == 'rl')}, rejected" in capsys.readouterr().out
        images = [s.image for s in data.read_samples(tmp_path / "out" / split)]
        assert images == [r["image"] for r in mine] + [bare["image"]] * (split == "rl")
        assert [r["reason"] for r in rejects(tmp_path / "out" / split)] == ["answer without one ```svg fence"] * (split != "rl")
    assert "is there already" in refused(corpus.import_files, [tmp_path / "sft.parquet"], tmp_path / "out")
    assert "--split" in refused(corpus.import_files, [tmp_path / "sft.parquet"], tmp_path / "few", workers=1)
    result = command("import", tmp_path / "sft.parquet", "--split", "test", "--out", tmp_path / "command")
    assert result.returncode == 0 and len(data.read_samples(tmp_path / "command" / "test")) == 3 and not (tmp_path / "command" / "sft").exists()


@pytest.mark.parametrize("change, reason", [
    ({"user_content": 5}, "instruction or answer is no text"), ({"image": "cG5n"}, "image column holds no bytes"),
    ({"assistant_content": [{"type": "text", "text": None}]}, "answer without one"), ({"image": {"path": "a.png"}}, "no image"),
    ({"language": "Klingon"}, "unknown language"), ({"domain": 3}, "unknown domain"),
    ({"id": 7}, ""), ({"width": "wide"}, ""), ({"render": True}, ""), ({"source": None}, "")])
def test_a_row_of_any_kind_is_kept_or_rejected(tmp_path, change, reason):
    """A column of another type, or one that means something else to its author, never ends the import."""
    good = [released(seed=i) for i in range(3)]
    write_released(tmp_path / "good.parquet", good)
    write_released(tmp_path / "odd.parquet", [{**released(seed=9), **change}])
    corpus.import_files([tmp_path / "good.parquet", tmp_path / "odd.parquet"], tmp_path / "out", workers=1, split="sft")
    assert len(data.read_samples(tmp_path / "out" / "sft")) == 3 + (not reason)
    assert [r["reason"].startswith(reason) for r in rejects(tmp_path / "out" / "sft")] == [True] * bool(reason)


@pytest.mark.parametrize("messages", [
    None, "text", ["user", "assistant"], [{"content": "x"}], [{"role": "user", "content": "x"}, {"role": "assistant", "content": 3}],
    [{"role": "user", "content": ["x"]}, {"role": "assistant", "content": "y"}]])
def test_what_is_no_conversation_has_a_reason(messages):
    with pytest.raises(ValueError, match="messages are not one user and one assistant turn|is no text"):
        corpus.sample_of({"messages": messages, "images": [b"x"]})


def test_a_foreign_directory_is_one_line_for_the_commands_that_want_ours(tmp_path):
    import curate
    import dedupe
    write_released(tmp_path / "in" / "sft" / "a.parquet", [{"text": "x", "picture": b"y"}])
    for work in (lambda: curate.filter_samples(tmp_path / "in", tmp_path / "out", 99, workers=1),
                 lambda: corpus.export(tmp_path / "in" / "sft", "trl", tmp_path / "out", 1)):
        assert "row 0" in (line := refused(work)) and "unknown columns: picture, text" in line and "data.py import" in line
    assert "has no column user_content" in refused(dedupe.dedupe, tmp_path / "in", tmp_path / "out", workers=1)
    write_released(tmp_path / "empty.parquet", [released()])
    pq.write_table(pq.read_table(tmp_path / "empty.parquet").slice(0, 0), tmp_path / "empty.parquet")
    assert "hold no samples" in refused(dedupe.decontaminate, tmp_path / "in", [tmp_path / "empty.parquet"], tmp_path / "out")


def test_the_progress_bar_counts_rows(tmp_path, capsys):
    for name in "ab":
        write_released(tmp_path / "in" / f"{name}.parquet", [released(seed=ord(name) + i) for i in range(5)])
    corpus.import_files([tmp_path / "in"], tmp_path / "out", limit=4, workers=2, split="sft")
    assert "| 8/8 [" in capsys.readouterr().err


def die(path, number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line(tmp_path):
    """As the kernel kills what takes too much memory; the same command goes on afterwards."""
    write_released(tmp_path / "in.parquet", [released(seed=i) for i in range(3)])
    file = tmp_path / "in.parquet"
    line = refused(parts.in_processes, die, [(file, 0)], 1, tmp_path / "out", "die")
    assert "a process was killed" in line and "goes on" in line


SLEEPER = """
import sys, time
from pathlib import Path
import data, parts

def work(path, number):
    (path.parent / f"begun-{number}").touch()
    time.sleep(60)

def main():
    here = Path(sys.argv[1])
    parts.in_processes(work, [(here / "in.parquet", n) for n in range(4)], 2, here / "out", "sleep")

if __name__ == "__main__":
    data.sys.argv = ["data.py", "stats", "x"]
    import view
    view.stats = lambda path: main()
    data.main()
"""


def test_ctrl_c_is_one_line(tmp_path):
    """Of the main process alone, at once, though two jobs run and two wait."""
    (tmp_path / "sleeper.py").write_text(SLEEPER.replace("sys.argv[1]", repr(str(tmp_path))))
    process = subprocess.Popen([sys.executable, tmp_path / "sleeper.py"], env={**os.environ, "PYTHONPATH": str(ROOT)},
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list(tmp_path.glob("begun-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    *progress, last = process.communicate(timeout=20)[1].strip().splitlines()
    assert process.returncode == 1 and last == "interrupted: the same command goes on where it stopped."
    assert not any("Traceback" in line for line in progress)


@pytest.mark.parametrize("form", ["trl", "easyr1"])
def test_export_and_import_are_inverse(tmp_path, samples, form):
    for part, some in enumerate((samples[:20], samples[20:])):
        data.write_samples(some, tmp_path / "mine" / f"part-{part}.parquet")
    corpus.export(tmp_path / "mine", form, tmp_path / "theirs")
    files = sorted(p for p in (tmp_path / "theirs").iterdir() if p.name != ".done")
    assert [f.name for f in files] == ["part-00000.parquet", "part-00001.parquet"]
    schema = pq.ParquetFile(files[0]).schema_arrow
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["images"]["feature"]["_type"] == "Image" and set(features) == set(schema.names)
    assert schema.names[0] == {"trl": "messages", "easyr1": "problem"}[form]
    back = [corpus.sample_of(row) for file in files for row in corpus.raw_rows(file)]
    assert back == samples


def test_datasets_reads_the_export_as_images(tmp_path, samples):
    datasets = pytest.importorskip("datasets", reason="datasets is not among our requirements")
    data.write_samples(samples, tmp_path / "mine" / "part-0.parquet")
    corpus.export(tmp_path / "mine", "trl", tmp_path / "theirs")
    row = datasets.load_dataset("parquet", data_dir=str(tmp_path / "theirs"), split="train", cache_dir=str(tmp_path / "cache"))[0]
    assert row["images"][0].size == (64, 64) and row["messages"][1]["content"][0]["text"] == samples[0].answer


def peak_of(path, out, queue):
    peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10  # MB; ru_maxrss begins with the parent's
    before = peak()
    corpus.import_file(path, 0, out, 0, False)
    queue.put((before, peak()))


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """A file of one row group, as pandas writes it: 140 MB, read by a process that grows by much less."""
    for name, value in parts.LEAN.items():
        monkeypatch.setenv(name, value)
    picture = data.png(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)) + bytes(24_000)
    row = lambda i: released(image=picture + str(i).encode(), code=f"<svg>{i}</svg>")  # what follows its end is no part of a PNG
    pq.write_table(pa.Table.from_pylist([row(i) for i in range(6000)]), tmp_path / "big.parquet", row_group_size=10**6, compression="none", use_dictionary=False)
    assert (tmp_path / "big.parquet").stat().st_size > 130 << 20
    queue = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=peak_of, args=(tmp_path / "big.parquet", tmp_path / "out", queue))
    process.start()
    before, after = queue.get(timeout=120)
    process.join()
    assert after - before < 130, f"{before} -> {after} MB"
    assert len(kept(tmp_path / "out")) == 6000


def test_only_the_placeholder_is_taken_out_of_a_prompt():
    prompt = lambda text: corpus.sample_of({"user_content": text, "assistant_content": "x", "image": b""}).prompt
    assert prompt("<image>\nCorrect it: <svg><image></svg>") == "Correct it: <svg><image></svg>" and prompt("Draw. <image>") == "Draw."


def test_a_part_that_comes_out_empty_leaves_no_older_one(tmp_path):
    parts.Writer(tmp_path / "a" / "p.parquet").close()
    data.write_samples(drawn_samples(1), tmp_path / "a" / "p.parquet")
    parts.Writer(tmp_path / "a" / "p.parquet").close()
    assert not (tmp_path / "a" / "p.parquet").exists()


@pytest.mark.parametrize("name, words", [("hf://datasets/nobody/nothing", "cannot fetch"), ("empty", "no .parquet file and no program"), ("absent", "does not exist")])
def test_inputs_that_are_not_there_are_one_line(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    result = command("import", name if ":" in name else tmp_path / name, "--out", tmp_path / "out")
    assert result.returncode == 1 and words in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_two_processes_do_the_work_of_one(tmp_path):
    """torchrun: each rank takes its share of the files, rank 0 reports once, the result is that of one process."""
    for k in range(3):
        write_released(tmp_path / f"{k}.parquet", [released(seed=100 * k + i) for i in range(30)] + [released(image=b"")])
    files = [str(tmp_path / f"{k}.parquet") for k in range(3)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    done = subprocess.run([*launcher, "data.py", "import", *files, "--out", str(tmp_path / "two"), "--workers", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("read 93 rows of 3 input(s)") == 1 and "rejected 3: no image" in done.stdout, done.stderr
    corpus.import_files(files, tmp_path / "one", workers=1)
    assert kept(tmp_path / "one") == kept(tmp_path / "two") and rejects(tmp_path / "one") == rejects(tmp_path / "two")
