"""Benchmarks: each published layout in miniature, read as what was put in; one of them scored, with the published numbers beside it."""
import json
import re
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmarks
import data
import eval as ev
from conftest import run_eval
from test_eval import needs_svg

PICTURES = [data.png(np.full((6, 8, 3), shade, np.uint8)) for shade in (10, 120, 230)]
SVG = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 6'>\n<rect width='4' height='6' fill='{}'/></svg>"


def chartmimic(root):
    for name, code in (("bar_1", "plt.figure(figsize=(5.0, 4))\nplt.bar([1], [2])"), ("pie_2", "plt.pie([1, 2])"), ("line_3", "plt.plot([1])")):
        file = root / "direct_600" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    for i, name in enumerate(("bar_1", "pie_2")):  # line_3 has no picture
        (root / "direct_600" / f"{name}.png").write_bytes(PICTURES[i])
    (root / "customized_600").mkdir()
    (root / "customized_600" / "bar_1.py").write_text("another task")
    return [("bar_1", "plt.figure(figsize=(5.0, 4))\nplt.bar([1], [2])", PICTURES[0]), ("pie_2", "plt.pie([1, 2])", PICTURES[1])]


def design2code(root):
    root.mkdir(parents=True)
    for i, page in enumerate(("<p>é</p>", "<b>two</b>")):
        (root / f"{i}.html").write_text(page, encoding="utf-8")
    (root / "2.html").write_bytes(b"<p>\xff</p>")  # no UTF-8
    for i in range(3):
        (root / f"{i}.png").write_bytes(PICTURES[i])
    (root / "rick.jpg").write_bytes(b"the placeholder")
    return [("0", "<p>é</p>", PICTURES[0]), ("1", "<b>two</b>", PICTURES[1])]


def unisvg(root):
    root.mkdir(parents=True)
    question = "Create the SVG code for the icon from this image: "
    rows = [{"type": "ISVGEN", "image_path": f"{n}.png", "q_text": question, "a_text": f"The code is:\n{SVG.format(n)}."} for n in ("red", "blue", "green")]
    rows.append({"type": "CSVGUN_color", "image_path": None, "q_text": "Which colour?", "a_text": "red"})
    (root / "test.json").write_text(json.dumps(rows))
    (root / "png").mkdir()
    for i, n in enumerate(("red", "blue")):  # green has no picture
        (root / "png" / f"{n}.png").write_bytes(PICTURES[i])
    return [("red", SVG.format("red"), PICTURES[0]), ("blue", SVG.format("blue"), PICTURES[1])]


def image2latex(root):
    columns = {"image": [{"bytes": p, "path": None} for p in PICTURES], "uuid": ['"a-1"', '"b-2"', '"c-3"'], "text": [r"\begin{tikzpicture}", r"\draw;", None]}
    (root / "plot").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "plot" / "validation-00000-of-00001.parquet")
    (root / "table").mkdir()
    pq.write_table(pa.table({**columns, "uuid": ["x", "y", "z"]}), root / "table" / "validation-00000-of-00001.parquet")
    return [("a-1", r"\begin{tikzpicture}", PICTURES[0]), ("b-2", r"\draw;", PICTURES[1])]


def plot2code(root):
    for part, names in (("python_matplotlib", ("p_0", "p_1")), ("python_plotly", ("q_0",))):
        folder = root / "data" / part / "test"
        folder.mkdir(parents=True)
        lines = [json.dumps({"file_name": f"{n}.png", "code": f"plt.plot({i})", "url": "", "instruction": ""}) for i, n in enumerate(names)]
        (folder / "metadata.jsonl").write_text("\n".join([*lines, '{"file_name": "p_2.png"']))  # the last line is cut off
        for i, n in enumerate(names):
            (folder / f"{n}.png").write_bytes(PICTURES[i])
    return [("p_0", "plt.plot(0)", PICTURES[0]), ("p_1", "plt.plot(1)", PICTURES[1])]


MAKERS = {f.__name__: f for f in (chartmimic, design2code, unisvg, image2latex, plot2code)}


def shown(samples):
    return [(s.id, ev.code_of(s.answer, s.language), s.image) for s in samples]


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
def test_what_is_loaded_is_what_was_put_in(name, tmp_path, capsys):
    put = MAKERS[name](tmp_path / "bench")
    samples = benchmarks.load(name, tmp_path / "bench")
    assert shown(samples) == put
    assert {(s.language, s.source, s.task) for s in samples} == {(benchmarks.BENCHMARKS[name].language, name, "generate")}
    assert all(s.prompt.endswith(f"```{s.language} block.") for s in samples)
    assert re.search(rf"{name}: 2 items; set aside: 1 with no \w+", capsys.readouterr().out)


def test_prompts_follow_the_rows(tmp_path):
    for name in ("chartmimic", "unisvg"):
        MAKERS[name](tmp_path / name)
    bar, pie = benchmarks.load("chartmimic", tmp_path / "chartmimic")
    assert "figsize=(5.0, 4)" in bar.prompt and "figsize" not in pie.prompt
    assert benchmarks.load("unisvg", tmp_path / "unisvg")[0].prompt.startswith("Create the SVG code for the icon from this image: Answer")


def test_archives_and_parts_of_a_layout_are_read_alike(tmp_path):
    put = chartmimic(tmp_path / "c")
    assert shown(benchmarks.load("chartmimic", tmp_path / "c" / "direct_600")) == put
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "dataset-iclr.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "c", arcname=".")
    for path in ("packed", "packed/dataset-iclr.tar.gz"):
        assert shown(benchmarks.load("chartmimic", tmp_path / path)) == put
    put = unisvg(tmp_path / "u")
    with zipfile.ZipFile(tmp_path / "u" / "png.zip", "w") as archive:
        for file in (tmp_path / "u" / "png").glob("*"):
            archive.write(file, f"png/{file.name}")
            archive.writestr(f"__MACOSX/png/._{file.name}", "no picture")
            file.unlink()
    (tmp_path / "u" / "png").rmdir()
    assert shown(benchmarks.load("unisvg", tmp_path / "u")) == put
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table({"image": [{"bytes": PICTURES[0], "path": None}], "text": ["<p>1</p>"]}), tmp_path / "d" / "train-00000-of-00001.parquet")
    assert shown(benchmarks.load("design2code", tmp_path / "d")) == [("0", "<p>1</p>", PICTURES[0])]


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
def test_wrong_folder_is_one_line(name, tmp_path):
    wanted = re.escape(benchmarks.BENCHMARKS[name].layout)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(SystemExit, match=wanted) as e:
            benchmarks.load(name, path)
        assert str(e.value).startswith("error: ") and "\n" not in str(e.value)


def test_broken_files_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "plot").mkdir()
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "plot" / "validation-0.parquet")
    (tmp_path / "dataset-iclr.tar.gz").write_bytes(b"half a download")
    (tmp_path / "test.json").write_text('[{"type": "ISVGEN"}]')
    for name, message in (("image2latex", "has no column text, uuid"), ("chartmimic", "dataset-iclr.tar.gz is no readable archive"),
                          ("unisvg", "is not UniSVG's list .*image_path")):
        with pytest.raises(SystemExit, match=message) as e:
            benchmarks.load(name, tmp_path)
        assert "\n" not in str(e.value)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("offline\nsecond line")))
    with tarfile.open(tmp_path / "dataset-iclr.tar.gz", "w:gz") as archive:
        (tmp_path / "noise.py").write_bytes(np.random.default_rng(0).bytes(50_000))
        archive.add(tmp_path / "noise.py", "direct_600/a.py")
    whole = (tmp_path / "dataset-iclr.tar.gz").read_bytes()
    (tmp_path / "dataset-iclr.tar.gz").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(SystemExit, match="is no readable archive .*download complete"):
        benchmarks.load("chartmimic", tmp_path)
    with pytest.raises(SystemExit, match=r"cannot fetch lili24/UniSVG \(OSError: offline\).*test.json, png.zip") as e:
        benchmarks.load("unisvg", "lili24/UniSVG")
    assert "\n" not in str(e.value)


def test_a_hub_id_fetches_the_files_of_the_benchmark(tmp_path, monkeypatch):
    put, asked = plot2code(tmp_path / "hub"), []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **k: asked.append((name, k)) or tmp_path / "hub")
    for path in ("TencentARC/Plot2Code", "hf://datasets/TencentARC/Plot2Code"):
        assert shown(benchmarks.load("plot2code", path)) == put
    assert asked == 2 * [("TencentARC/Plot2Code", {"repo_type": "dataset", "allow_patterns": ("data/python_matplotlib/*",)})]


def test_published_numbers_are_percentages_with_a_source():
    assert set(benchmarks.PUBLISHED) == set(benchmarks.COLUMNS) == set(benchmarks.BENCHMARKS)
    for name, rows in benchmarks.PUBLISHED.items():
        for model, source, *values in rows:
            assert source in benchmarks.SOURCES and len(values) == len(benchmarks.COLUMNS[name]), (name, model)
            assert any(v is not None for v in values) and all(v is None or 1 < v <= 100 for v in values)
    for model, source, ssim, score in benchmarks.PUBLISHED["unisvg"]:  # as printed there: LPIPS and CLIP; score = .2 SSIM + .2 (1 - LPIPS) + .6 CLIP
        for name, lpips, clip in (("Qwen3-VL-8B", 60.0, 73.3), ("VinciCoder-8B-SFT", 19.2, 92.5), ("  + RL, DINO reward", 23.3, 92.7)):
            if model == name:
                assert score == pytest.approx(0.2 * ssim + 0.2 * (100 - lpips) + 0.6 * clip, abs=0.06)


@needs_svg
def test_scored_with_published_numbers_beside(tmp_path, monkeypatch, capsys):
    """eval.py --predictions --benchmark: one answer is the reference, the other no code; a third picture is no picture."""
    unisvg(tmp_path / "u")
    (tmp_path / "u" / "png" / "green.png").write_bytes(b"no picture")
    for name, rgb in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        image = np.full((60, 80, 3), 255, np.uint8)
        image[:, :40] = rgb
        (tmp_path / "u" / "png" / f"{name}.png").write_bytes(data.png(image))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"id": i, "mode": "greedy", "response": r}) + "\n" for i, r in (
        ("red", data.fenced("svg", SVG.format("red"))), ("blue", "sorry"))))
    run_eval(monkeypatch, "--predictions", tmp_path / "p.jsonl", "--benchmark", "unisvg", "--data", tmp_path / "u", "--out", tmp_path / "out", "--workers", 1)
    printed = capsys.readouterr().out
    assert "unisvg: 3 items" in printed and "1 samples set aside (1 unreadable image)" in printed
    assert re.search(r"^unisvg +out, greedy .* here, 2 items$", printed, re.M)
    assert re.search(r"VinciCoder-8B-SFT +0\.811 +0\.879 +Visual-ERM$", printed, re.M) and re.search(r"GPT-4o +- +0\.710 +PrismaCoder$", printed, re.M)
    assert benchmarks.WARNING in printed and "Visual-ERM: arXiv 2603.13224" in printed
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["benchmark"] == "unisvg" and scores["groups"]["all=all"]["greedy"]["execution"][0] == 0.5
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Beside published numbers" in page and "VinciCoder-8B-SFT" in page
    run_eval(monkeypatch, "--compare", tmp_path / "out", "--out", tmp_path / "both")
    assert "VinciCoder-8B-SFT" in capsys.readouterr().out


def test_our_means_fill_the_columns_that_mean_the_same(monkeypatch):
    """The four parts of Design2Code are averaged; a column that lacks one of its metrics is not computed, never a number."""
    import stats
    means = {"n": 2, **{m: (v, 0.0) for m, v in zip(benchmarks.D2C, (0.2, 0.4, 0.6, 1.0))}}
    run = {"benchmark": "design2code", "label": "mine", "means": {"greedy": {}}, "table": {("all", "all"): {"greedy": means}}}
    head, rows = stats.published_table([run])
    assert rows[0] == ["design2code", "mine, greedy", "0.550", "not computed", "not computed", "here, 2 items"] and len(head) == len(rows[1]) == 6
    means["d2c_clip"] = (0.8, 0.0)
    assert stats.published_table([run])[1][0][2:5] == ["0.550", "0.800", "0.600"]
    assert stats.published_table([{**run, "benchmark": None}]) == ()
