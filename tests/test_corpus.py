"""corpus.py: every schema read, every row accounted for, exact after an interruption, readable by others."""
import io
import json
import multiprocessing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from conftest import ROOT, drawn_samples
from test_data import REAL, command, released, write_released

import corpus
import data
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


def test_an_output_of_another_import_is_not_mixed_in(tmp_path):
    write_released(tmp_path / "in.parquet", [released(seed=i) for i in range(40)])
    data.write_samples(data.read_samples(tmp_path / "in.parquet"), tmp_path / "out" / "sft" / "mine.parquet")
    result = command("import", tmp_path / "in.parquet", "--out", tmp_path / "out")
    assert result.returncode == 1 and "is there already" in result.stderr and len(result.stderr.strip().splitlines()) == 1


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
    for name, value in corpus.LEAN.items():
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
    corpus.Writer(tmp_path / "a" / "p.parquet").close()
    data.write_samples(drawn_samples(1), tmp_path / "a" / "p.parquet")
    corpus.Writer(tmp_path / "a" / "p.parquet").close()
    assert not (tmp_path / "a" / "p.parquet").exists()


# --------------------------------------------------------------------------------------------------------------- filter

@pytest.mark.parametrize("language, good, bad", [
    ("python", "x = '\\d'\nprint(x)", "print(1"), ("python", "f'{1}'", "def f():\nreturn 1"), ("svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", "<svg><g></svg>"),
    ("svg", "<svg/>", "<html/>"), ("svg", "<svg/>", '<!DOCTYPE s [<!ENTITY a "b">]><svg>&a;</svg>'), ("html", "<div><p>a<p>b<br><img src=x></div>", "<div><div>a</div>"),
    ("html", "<ul><li>a<li>b</ul>", "just words"), ("latex", "\\begin{a} 50\\% \\{ % }\n\\end{a}", "\\begin{a}\\end{b}"), ("latex", "{a}\\\\{b}", "{a")])
def test_parsing_tells_good_from_broken(language, good, bad):
    assert corpus.parse_error(language, good) == "" and corpus.parse_error(language, bad).startswith("does not parse")


@pytest.mark.parametrize("language, code, reason", [
    ("html", "<img src='https://x.org/a.png'>", "remote resource"), ("html", "<style>a{background:url(//x.org/a.png)}</style>", "remote resource"),
    ("html", "<a href='https://x.org'>link</a>", ""), ("html", "<link rel=stylesheet href='http://x.org/a.css'>", "remote resource"), ("html", "<img src='a.png'>", ""),
    ("python", "import requests\nrequests.get('x')", "remote resource"), ("python", "import pandas as pd\npd.read_csv('a.csv')", "reads a file"),
    ("python", "plt.imread('a.png')", "reads a file"), ("python", "plt.savefig('a.png')", ""), ("latex", "\\includegraphics{a.png}", "reads a file"), ("latex", "\\input{a}", "reads a file"),
    ("svg", "<svg><image href='a.png'/></svg>", "reads a file"), ("svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", ""), ("svg", "<svg><g id='" + "a" * 500 + "'/></svg>", "embedded raster")])
def test_policy(language, code, reason):
    sample = data.Sample("x", data.fenced(language, code), drawn_samples(1)[0].image, language=language)
    assert corpus.static_reason(sample, 10000) == reason
    assert corpus.static_reason(sample, 5).startswith("longer than")


@pytest.mark.skipif(any(available()[language] for language in ("svg", "python")), reason="SVG or Python cannot be rendered here")
def test_filter_counts_where_each_sample_falls(tmp_path):
    """One sample for each reason, good ones around them; a wrong image is replaced by the program's own."""
    svg = lambda inner, box="0 0 64 64": f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{inner}</svg>'
    square = '<rect x="10" y="10" width="30" height="30" fill="red"/>'
    chart = "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1))\nplt.plot([1, 2])\n%s\nplt.savefig('a.png')"
    cases = [("svg", svg(square), ""), ("svg", svg("<rect"), "does not parse: ParseError"), ("svg", svg(""), "blank"), ("svg", svg(square).replace("viewBox", 'width="640" height="20" viewBox'), "smaller than"),
             ("python", chart % "import time, os\nplt.text(0.1, 1, str(time.time_ns())[-9:-3])", "two renders differ"), ("python", chart % "1 / 0", "does not run: error"), ("python", chart % "", "")]
    samples = [data.Sample("draw", data.fenced(language, code), drawn_samples(1)[0].image, id=f"{i}", language=language) for i, (language, code, _) in enumerate(cases)]
    samples.append(data.Sample("draw", "", drawn_samples(1)[0].image, id="target", language="svg"))
    data.write_samples(samples, tmp_path / "in" / "sft" / "part-0.parquet")
    printed = command("filter", tmp_path / "in", "--out", tmp_path / "out", "--render-timeout", 5).stdout
    found = {r["id"]: r["reason"] for r in rejects(tmp_path / "out")}
    kept = {s.id: s for s in data.read_samples(tmp_path / "out" / "sft")}
    assert found.keys() | kept.keys() == {s.id for s in samples} and not found.keys() & kept.keys()
    for i, (_, _, reason) in enumerate(cases):
        assert (str(i) in kept) == (reason == "") and found.get(str(i), "").startswith(reason), (i, found)
    assert "read 8, kept 3, of them 2 with a new image" in printed
    assert kept["target"].image == samples[-1].image
    red = np.asarray(Image.open(io.BytesIO(kept["0"].image)))[20, 20]
    assert tuple(red) == (255, 0, 0)


@pytest.mark.skipif(not REAL.exists(), reason="the real pairs are not shipped with the project")
def test_the_filter_keeps_what_people_wrote():
    """Of 222 real pairs, all of which run, the checks before the render let nearly all pass."""
    reasons = [corpus.static_reason(s, 30000) for s in data.read_samples(REAL)]
    assert sum(map(bool, reasons)) <= 11, [r for r in reasons if r]


@pytest.mark.parametrize("name, words", [("hf://datasets/nobody/nothing", "cannot fetch"), ("empty", "no .parquet file and no program"), ("absent", "does not exist")])
def test_inputs_that_are_not_there_are_one_line(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    result = command("import", name if ":" in name else tmp_path / name, "--out", tmp_path / "out")
    assert result.returncode == 1 and words in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_ruff_sees_what_parsing_does_not(monkeypatch, tmp_path):
    """A stand-in for ruff, which need not be installed: its findings reach the sample they belong to, the others pass."""
    tool = tmp_path / "ruff"
    tool.write_text("""#!/usr/bin/env python3
import json, pathlib, sys
assert "--isolated" in sys.argv
found = [{"filename": str(f), "code": "F821"} for f in pathlib.Path(sys.argv[-1]).iterdir() if "undefined" in f.read_text()]
print(json.dumps(found)); sys.exit(bool(found))
""")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    of = lambda language, code: data.Sample("x", data.fenced(language, code), b"", language=language)
    samples = [of("python", "x = 1"), of("svg", "<undefined/>"), of("python", "undefined"), of("python", "y = 1")]
    assert corpus.ruff_findings(samples) == ["", "", "ruff: F821", ""]
    tool.write_text("#!/bin/sh\necho broken >&2; exit 2\n")
    with pytest.raises(SystemExit, match="ruff failed: broken"):
        corpus.ruff_findings(samples)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert corpus.ruff_findings(samples) == [""] * 4


# ------------------------------------------------------------------------------------------------------------ select-rl

@pytest.mark.parametrize("rewards, reason", [
    ([0.2, 0.8], ""), ([0.5], "fewer than two"), ([0.1, 0.1], "too hard"), ([0.99, 0.97], "no head-room"), ([0.5, 0.51], "no spread"), ([-1, -2], "no answer runs")])
def test_prompts_that_teach_a_group_nothing(rewards, reason):
    found = corpus.useless_reason([(r, float(r > 0)) for r in rewards], 0.2, 0.95, 0.03)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_selection_is_even_over_languages_and_difficulty(tmp_path, capsys):
    """60 medium SVG prompts, 10 easy HTML ones, useless ones: 30 wanted are 10 + 20; every prompt is kept or told why not."""
    samples, lines = drawn_samples(80), []
    for i, s in enumerate(samples):
        s.language, s.answer = ("svg" if i < 60 else "html"), ""
        mean = 0.5 if i < 60 else 0.8 if i < 70 else 0.05
        if i < 78:  # the last two are not scored
            lines += [{"id": s.id, "mode": "t1", "k": k, "reward": mean + 0.1 * (-1) ** k, "execution": 1.0} for k in range(4)] + [{"id": s.id, "mode": "greedy", "reward": 1.0, "execution": 1.0}]
    lines.append({"id": samples[0].id, "mode": "t1", "reward": None, "execution": 0.0})  # the renderer's failure
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for part in range(4):
        data.write_samples(samples[20 * part:20 * part + 20], tmp_path / "in" / f"{part}.parquet")
    corpus.select_rl(tmp_path / "in", [tmp_path / "scores.jsonl"], tmp_path / "out", count=30)
    chosen = [s.id for s in data.read_samples(tmp_path / "out" / "rl")]
    assert len(chosen) == 30 and {f"t{i}" for i in range(60, 70)} < set(chosen)
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "out" / "rl").iterdir()}
    corpus.select_rl(tmp_path / "in", [tmp_path / "scores.jsonl"], tmp_path / "out", count=30)
    assert files == {f: f.stat().st_mtime_ns for f in files}  # a finished part is not written again
    capsys.readouterr()
    corpus.select_rl(tmp_path / "in", [tmp_path / "scores.jsonl"], tmp_path / "out", count=30, workers=1)
    printed, left = capsys.readouterr().out, rejects(tmp_path / "out")
    assert {*chosen} | {r["id"] for r in left} == {s.id for s in samples} and len(left) == 50
    assert "read 80 prompts, 78 of them scored, kept 30" in printed and "svg     medium      60 scored,     20 kept; 40 its bin is full" in printed
    assert "html    hard         8 scored,      0 kept; 8 too hard" in printed
    with pytest.raises(SystemExit, match="none of the 80 samples .* eval.py"):
        (tmp_path / "none.jsonl").write_text("")
        corpus.select_rl(tmp_path / "in", [tmp_path / "none.jsonl"], tmp_path / "out2")


def test_two_processes_do_the_work_of_one(tmp_path):
    """torchrun: each rank takes its share of the files, rank 0 reports once, the result is that of one process."""
    import subprocess
    import sys
    for k in range(3):
        write_released(tmp_path / f"{k}.parquet", [released(seed=100 * k + i) for i in range(30)] + [released(image=b"")])
    files = [str(tmp_path / f"{k}.parquet") for k in range(3)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    done = subprocess.run([*launcher, "data.py", "import", *files, "--out", str(tmp_path / "two"), "--workers", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("read 93 rows of 3 input(s)") == 1 and "rejected 3: no image" in done.stdout, done.stderr
    corpus.import_files(files, tmp_path / "one", workers=1)
    assert kept(tmp_path / "one") == kept(tmp_path / "two") and rejects(tmp_path / "one") == rejects(tmp_path / "two")
