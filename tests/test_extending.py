"""docs/extending.md does what it says: its domain passes through every stage, its language needs the places named and no others."""
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, Stage

import data
import dedupe
import defects
import domain
import reward
from render import HARMLESS, LANGUAGES, Renderer, available, safe
from server import FAMILIES

TEXT = (ROOT / "docs" / "extending.md").read_text()
SHORT = {"sft.py": ["--steps", 2, "--batch", 4, "--render-every", 0],
         "virl.py": ["--steps", 1, "--prompts", 2, "--group", 2, "--max-new-tokens", 16, "--dtype", "float32"],
         "eval.py": ["--limit", 2, "--samples", 1, "--max-new-tokens", 16]}


def block(heading, kind):
    """The first code block of a kind below a heading of the document."""
    section = TEXT.split(f"\n## {heading}\n")[1]
    return next(code for name, code in re.findall(r"^```(\w*)\n(.*?)^```$", section, re.M | re.S) if name == kind)


@pytest.mark.skipif(bool(available()["svg"]), reason=f"SVG cannot be rendered here: {available()['svg']}")
def test_the_domain_passes_through_every_stage(tmp_path):
    code, ran = block("A domain of your own", "python"), set()
    assert len(code.splitlines()) < 40
    (tmp_path / "my_domain.py").write_text(code)
    commands = [shlex.split(line) for line in block("A domain of your own", "").splitlines()]
    for _, script, *words in commands:
        words = [str(tmp_path / word) if word.startswith("out/") else word for word in words]
        if script == "my_domain.py":
            words[1] = "120"
            result = subprocess.run([sys.executable, script, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        else:
            result = Stage(script, *words, *(["--workers", 1] if words[0] == "refine" else SHORT.get(script, ()))).wait()
        assert result.returncode == 0, (script, result.stderr[-2000:])
        ran.add(script)
    assert ran == {"my_domain.py", "data.py", *SHORT}

    clocks = {split: data.read_samples(tmp_path / "out" / "clocks" / split) for split in ("sft", "rl", "test")}
    assert 100 < sum(map(len, clocks.values())) <= 120 and len(clocks["sft"]) > len(clocks["rl"]) > len(clocks["test"]) > 2
    assert not any(data.check_sample(s, answer=split != "rl") for split, mine in clocks.items() for s in mine) and not any(s.answer for s in clocks["rl"])
    with Renderer(1) as renderer:
        for s in (s for split in ("sft", "test") for s in clocks[split]):
            assert data.png(renderer.submit("svg", data.extract_code(s.answer, "svg")[0], (64, 64)).result().image) == s.image
    hands = {split: {tuple(re.findall(r"<line[^>]*>", s.answer)) for s in mine} for split, mine in clocks.items()}
    assert len(hands["test"]) > 2 and all(len(h) == 2 for h in hands["test"]) and not hands["test"] & hands["sft"]  # no time of test is trained on
    assert not {s.image for s in clocks["test"]} & {s.image for split in ("sft", "rl") for s in clocks[split]}
    assert len({s.image for mine in clocks.values() for s in mine}) == sum(map(len, clocks.values()))
    tasks = [s.task for s in data.read_samples(tmp_path / "out" / "clock-pairs" / "sft")]
    assert tasks.count("generate") == len(clocks["sft"]) and tasks.count("refine") > len(clocks["sft"]) / 2
    assert (tmp_path / "out" / "clock-virl" / "model.safetensors").exists() and len((tmp_path / "out" / "clock-eval" / "items.jsonl").read_text().splitlines()) == 2


PROBE = """
import sys
import numpy as np
import data, parts
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from render import Renderer, available
from scoring import Answer, judge

program, wrong, fence = ".rr\\nbb.\\nb..\\nb..\\n...\\n" * 2, ".rr\\nbb.\\nb..\\nb..\\n..g\\n" * 2, lambda code: data.fenced("grid", code)
if __name__ == "__main__":
    if available()["grid"]:
        sys.exit("not confined")
    with Renderer(1) as renderer:
        target, other, broken = renderer.render_many([("grid", code, None) for code in (program, wrong, "..x")])
    assert target.status == other.status == "ok" and target.image.shape == (80, 24, 3) and (target.image[0, 8] == (255, 0, 0)).all(), target
    assert broken.status == "error" and "'x'" in broken.message, broken
    assert data.infer_language(data.Sample("Write Grid code", fence(program), b"")) == "grid"
    answers = [Answer(fence(code), render, view=(code, render)) for code, render in ((program, target), (wrong, other))]
    rows = judge(data.png(target.image), "grid", program, answers, target)
    assert rows[0]["reward"] == 1 > rows[1]["reward"] > 0.1 and rows[0]["domain"] == {}, rows
    Path("programs").mkdir()
    parts.cli.Pool = lambda workers, *_: ThreadPoolExecutor(workers)  # four commands without starting four processes
    rng = np.random.default_rng(0)
    for i in range(60):
        Path(f"programs/{i}.grid").write_text("\\n".join("".join(rng.choice(list("..rgb"), 6)) for _ in range(6)))
    for command in ("import programs --out raw", "filter raw --out clean", "dedupe clean --out unique", "refine unique --out pairs --correct 1", "stats pairs"):
        sys.argv = ["data.py", *command.split()]
        data.main()
    samples = [s for split in ("sft", "rl", "test") for s in data.read_samples(f"pairs/{split}")]
    assert [s.task for s in samples].count("generate") == [s.task for s in samples].count("refine") == 60 and {s.domain for s in samples} == {"grid"}
"""


def with_grid(folder, leave_out=None):
    """A copy of the scripts with the language of the document added, but for entry number `leave_out`."""
    for file in (f for ending in ("py", "css", "js") for f in ROOT.glob(f"*.{ending}")):
        shutil.copy(file, folder)
    entries = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \| `([^`]+)` \|", TEXT.split("\n## A language of your own\n")[1], re.M)
    entries = [(file, behind, behind + added) for file, behind, added in entries]
    for i, (file, old, new) in enumerate([*entries, ("drawing.py", "def draw_svg(", block("A language of your own", "python") + "def draw_svg(")]):
        lines = (folder / file).read_text()
        (place,) = re.findall(rf"^{re.escape(old)}", lines, re.M)
        if i != leave_out:
            (folder / file).write_text(re.sub(rf"^{re.escape(old)}", lambda m: new, lines, flags=re.M))
    (folder / "probe.py").write_text(PROBE)
    return len(entries)


def probe(folder):
    return subprocess.run([sys.executable, "probe.py"], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not safe(), reason="programs cannot be confined here")
def test_the_language_needs_the_places_that_are_named(tmp_path):
    assert with_grid(tmp_path) == 7
    result = probe(tmp_path)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-2000:]
    shown = subprocess.run([sys.executable, "render.py", "programs/0.grid"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stderr.splitlines()[-1].startswith("ok"), shown.stderr


@pytest.mark.skipif(not safe(), reason="programs cannot be confined here")
@pytest.mark.parametrize("entry, words", [*((i, "KeyError: 'grid'") for i in (0, 1, 3, 4)), (2, "in <module>\n.*infer_language")])
def test_no_entry_is_superfluous(tmp_path, entry, words):
    """Those of dedupe.py are looked up only where two pictures are alike; see test_the_lists_agree."""
    with_grid(tmp_path, entry)
    result = probe(tmp_path)
    assert result.returncode != 0 and re.search(words, result.stderr), result.stderr[-1000:]


def test_the_lists_agree():
    assert set(LANGUAGES) == set(available()) >= set(data.LANGUAGES) == set(data.NAMES) == set(data.DOMAIN_OF) == set(reward.FENCES)
    assert set(HARMLESS) < set(LANGUAGES) and {"svg", "html", "latex", "chart"} < set(FAMILIES)
    assert set(data.DOMAINS) == set(domain.METRICS) == set(defects.OPERATORS) == set(dedupe.NEAR) == set(dedupe.NEAREST)
