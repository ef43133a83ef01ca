"""data.py: reading, importing, splitting, looking at samples."""
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, drawn_samples

import data
import view

REAL = ROOT.parent / "shared" / "real" / "dev.parquet"


def command(*args):
    return subprocess.run([sys.executable, "data.py", *map(str, args)], cwd=ROOT, capture_output=True, text=True)


def write_released(path, rows):
    """A parquet file with the released schema only."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def released(language="svg", code="<svg/>", image=None, seed=0):
    image = data.png(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)) if image is None else image
    return {"user_content": f"Write {language} code.", "assistant_content": f"```{language}\n{code}\n```", "image": image}


def test_write_and_read_back(tmp_path, samples):
    data.write_samples(samples, tmp_path / "x.parquet")
    assert data.read_samples(tmp_path) == samples == data.read_samples(tmp_path / "x.parquet")
    import pyarrow.parquet as pq
    assert pq.ParquetFile(tmp_path / "x.parquet").schema_arrow.names[:3] == ["user_content", "assistant_content", "image"]


def test_import_counts_every_row(tmp_path):
    """Good rows split by image, each bad row rejected with its reason, nothing lost."""
    rows = [released(seed=i) for i in range(60)]
    rows += [released(language="cobol", seed=100), {**released(seed=101), "assistant_content": "no fence", "user_content": "svg code"},
             released(image=b"not a picture"), {**released(seed=102), "user_content": " "}, released(image=b"")]
    write_released(tmp_path / "in.parquet", rows)
    result = command("import", tmp_path / "in.parquet", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    rejects = [json.loads(line) for line in open(tmp_path / "out" / "rejects.jsonl")]
    reasons = sorted(r["reason"] for r in rejects)
    assert reasons == ["answer without one ```svg fence", "empty instruction", "no image", "unknown language", "unreadable image"]
    assert sum(len(data.read_samples(tmp_path / "out" / s)) for s in ("sft", "rl", "test")) == 60
    assert "rejected 5" in result.stdout


@pytest.mark.parametrize("prompt, answer, language", [
    ("Turn the chart into code", "```python\nx\n```", "python"), ("Write svg code", "```tikz\nx\n```", "latex"),
    ("HTML please", "x", "html"), ("Use matplotlib", "x", "python"), ("my svgs", "x", ""), ("draw", "```\nx\n```", "")])
def test_language_is_inferred_from_fence_then_whole_words(prompt, answer, language):
    assert data.infer_language(data.Sample(prompt, answer, b"")) == language


def test_refinement_prompt_holds_its_own_fence_without_confusing_the_answer():
    prompt = data.REFINE.format(name="SVG", language="svg", code="<svg/>")
    assert data.infer_language(data.Sample(prompt, "```html\nx\n```", b"")) == "html"


@pytest.mark.parametrize("make, words", [
    (lambda p: None, "does not exist"), (lambda p: p.mkdir(), "holds no .parquet"),
    (lambda p: p.write_bytes(b"junk"), "not a readable parquet"),
    (lambda p: write_released(p, [{"prompt": "x", "image": b"y"}]), "has no column user_content, assistant_content"),
    (lambda p: write_released(p, [{**released(), "user_content": 3}]), "columns of another type: user_content (int64)"),
    (lambda p: write_released(p, [{**released(), "image": "a.png"}]), "columns of another type: image (string)"),
    (lambda p: write_released(p, [{**released(), "width": "wide"}]), "columns of another type: width (string)")])
def test_bad_input_is_one_line(tmp_path, make, words):
    make(tmp_path / "in.parquet")
    result = command("stats", tmp_path / "in.parquet")
    assert result.returncode != 0 and words in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_folder_of_splits_is_not_one_of_them(tmp_path):
    (tmp_path / "rl").mkdir()
    with pytest.raises(SystemExit, match=r"holds no .parquet file itself. Give one of .*/rl\.$"):
        data.parquet_files(tmp_path)


def test_an_image_that_claims_ten_gigapixels_is_unreadable():
    import struct
    import zlib
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    sample = data.Sample("draw", "```svg\n<svg/>\n```", bomb, language="svg")
    assert data.check_text(sample) == data.check_sample(sample) == "unreadable image"


def test_view_shows_code_as_text_only(tmp_path):
    sample = drawn_samples(1)[0]
    sample.answer = "```html\n<script>alert(1)</script>\n```"
    data.write_samples([sample], tmp_path / "x.parquet")
    view.view(tmp_path, tmp_path / "view.html")
    page = (tmp_path / "view.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_view_marks_the_supervised_tokens(tiny, tmp_path):
    """Only the answer and its end token are on colour; taken together they are the answer."""
    import html
    import re

    import policy
    loaded, sample = policy.load_policy(tiny, weights=False), drawn_samples(1)[0]
    page = view.token_marks(loaded, sample)
    marked = "".join(html.unescape(x) for x in re.findall(r"<span class=answer.>(.*?)</span>", page, re.S))
    assert marked == sample.answer + "<|im_end|>" and "[16 image tokens]" in page
    assert f"{len(re.findall('<span class=answer', page))} supervised" in page


def test_epoch_order_is_a_permutation_that_changes_with_epoch_and_seed():
    a = data.epoch_order(100, 0, 0)
    assert sorted(a) == list(range(100)) and a == data.epoch_order(100, 0, 0)
    assert a != data.epoch_order(100, 0, 1) and a != data.epoch_order(100, 1, 0)


@pytest.mark.skipif(not REAL.exists(), reason="the real pairs are not shipped with the project")
def test_real_pairs_import_without_loss(tmp_path):
    result = command("import", REAL, "--out", tmp_path / "real")
    assert result.returncode == 0, result.stderr
    rejects = (tmp_path / "real" / "rejects.jsonl").read_text().splitlines()
    kept = [s for name in ("sft", "rl", "test") for s in data.read_samples(tmp_path / "real" / name)]
    assert len(kept) + len(rejects) == 222 and len(kept) >= 220
    assert {s.domain for s in kept} == set(data.DOMAINS)
