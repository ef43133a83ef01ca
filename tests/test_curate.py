"""curate.py: what falls, why, and that everything is counted."""
import io
import json

import numpy as np
import pytest
from PIL import Image
from conftest import drawn_samples
from test_corpus import rejects
from test_data import REAL, command

import curate
import data
from render import available

# --------------------------------------------------------------------------------------------------------------- filter

@pytest.mark.parametrize("language, good, bad", [
    ("python", "x = '\\d'\nprint(x)", "print(1"), ("python", "f'{1}'", "def f():\nreturn 1"), ("svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", "<svg><g></svg>"),
    ("svg", "<svg/>", "<html/>"), ("svg", "<svg/>", '<!DOCTYPE s [<!ENTITY a "b">]><svg>&a;</svg>'), ("html", "<div><p>a<p>b<br><img src=x></div>", "<div><div>a</div>"),
    ("html", "<ul><li>a<li>b</ul>", "just words"), ("html", "<br>", "<![foo bar["), ("latex", "\\begin{a} 50\\% \\{ % }\n\\end{a}", "\\begin{a}\\end{b}"), ("latex", "{a}\\\\{b}", "{a")])
def test_parsing_tells_good_from_broken(language, good, bad):
    assert curate.parse_error(language, good) == "" and curate.parse_error(language, bad).startswith("does not parse")


@pytest.mark.parametrize("language, code, reason", [
    ("html", "<img src='https://x.org/a.png'>", "remote resource"), ("html", "<style>a{background:url(//x.org/a.png)}</style>", "remote resource"),
    ("html", "<a href='https://x.org'>link</a>", ""), ("html", "<link rel=stylesheet href='http://x.org/a.css'>", "remote resource"), ("html", "<img src='a.png'>", ""),
    ("python", "import requests\nrequests.get('x')", "remote resource"), ("python", "import pandas as pd\npd.read_csv('a.csv')", "reads a file"),
    ("python", "with open('a.csv') as f:\n    rows = f.read()", "reads a file"), ("python", "open(path, 'rb')", "reads a file"),
    ("python", "with open('a.png', 'wb') as f:\n    f.write(b'x')", ""), ("python", "open(os.path.join('out', 'a.png'), mode=\"w+\")", ""),
    ("python", "Image.open(io.BytesIO(drawer.GetDrawingText())).save('a.png')", ""), ("python", "Image.open('a.png')", "reads a file"),
    ("python", "plt.imread('a.png')", "reads a file"), ("python", "plt.savefig('a.png')", ""), ("latex", "\\includegraphics{a.png}", "reads a file"), ("latex", "\\input{a}", "reads a file"),
    ("svg", "<svg><image href='a.png'/></svg>", "reads a file"), ("svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", ""), ("svg", "<svg><g id='" + "a" * 500 + "'/></svg>", "embedded raster")])
def test_policy(language, code, reason):
    sample = data.Sample("x", data.fenced(language, code), drawn_samples(1)[0].image, language=language)
    assert curate.static_reason(sample, 10000) == reason
    assert curate.static_reason(sample, 5).startswith("longer than")


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
    reasons = [curate.static_reason(s, 30000) for s in data.read_samples(REAL)]
    assert sum(map(bool, reasons)) <= 11, [r for r in reasons if r]


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
    assert curate.ruff_findings(samples) == ["", "", "ruff: F821", ""]
    tool.write_text("#!/bin/sh\necho broken >&2; exit 2\n")
    with pytest.raises(SystemExit, match="ruff failed: broken"):
        curate.ruff_findings(samples)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert curate.ruff_findings(samples) == [""] * 4


# ------------------------------------------------------------------------------------------------------------ select-rl

@pytest.mark.parametrize("rewards, reason", [
    ([0.2, 0.8], ""), ([0.5], "fewer than two"), ([0.1, 0.1], "too hard"), ([0.99, 0.97], "no head-room"), ([0.5, 0.51], "no spread"), ([-1, -2], "no answer runs")])
def test_prompts_that_teach_a_group_nothing(rewards, reason):
    found = curate.useless_reason([(r, float(r > 0)) for r in rewards], 0.2, 0.95, 0.03)
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
    curate.select_rl(tmp_path / "in", [tmp_path / "scores.jsonl"], tmp_path / "out", count=30)
    chosen = [s.id for s in data.read_samples(tmp_path / "out" / "rl")]
    assert len(chosen) == 30 and {f"t{i}" for i in range(60, 70)} < set(chosen)
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "out" / "rl").iterdir()}
    curate.select_rl(tmp_path / "in", [tmp_path / "scores.jsonl"], tmp_path / "out", count=30)
    assert files == {f: f.stat().st_mtime_ns for f in files}  # a finished part is not written again
    capsys.readouterr()
    curate.select_rl(tmp_path / "in", [tmp_path / "scores.jsonl"], tmp_path / "out", count=30, workers=1)
    printed, left = capsys.readouterr().out, rejects(tmp_path / "out")
    assert {*chosen} | {r["id"] for r in left} == {s.id for s in samples} and len(left) == 50
    assert "read 80 prompts, 78 of them scored, kept 30" in printed and "svg     medium      60 scored,     20 kept; 40 its bin is full" in printed
    assert "html    hard         8 scored,      0 kept; 8 too hard" in printed
    with pytest.raises(SystemExit, match="none of the 80 samples .* eval.py"):
        (tmp_path / "none.jsonl").write_text("")
        curate.select_rl(tmp_path / "in", [tmp_path / "none.jsonl"], tmp_path / "out2")


@pytest.mark.parametrize("line", ["{", "[1]", "5", '{"id": "a"}', '{"id": "a", "reward": 1.0}', "\xff"])
def test_scores_that_are_none_are_one_line(tmp_path, line):
    (tmp_path / "scores.jsonl").write_text(line + "\n", encoding="latin-1")
    with pytest.raises(SystemExit, match="^error: .*scores.jsonl (has lines without|cannot be read)"):
        curate.sampled_rewards([tmp_path / "scores.jsonl"])
