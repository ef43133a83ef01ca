"""Evaluation: metrics against hand-made truth, statistics, predictions of all kinds."""
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import data
import eval as ev
import metrics
import scenes
import scoring
import stats
from conftest import ROOT, drawn_samples, run_eval
from render import Render, Renderer, available

needs_svg = pytest.mark.skipif(bool(available()["svg"]), reason=f"SVG cannot be rendered here: {available()['svg']}")
HOSTILE = ('"><img src=x onerror="window.pwned=1"><script>window.pwned=1</script></script><script src="https://example.com/a.js">'
           "</script><svg onload=window.pwned=1><iframe src=https://example.com></iframe><!--${`\u2028")


def predictions(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# ------------------------------------------------------------------------------------------------------------- metrics

def canvas(*boxes, size=64, ground=255):
    image = np.full((size, size, 3), ground, np.uint8)
    for x, y, w, h, colour in boxes:
        image[y:y + h, x:x + w] = colour
    return image


def outside(a, b):
    side = metrics.working_side(a)
    return metrics.outside_metrics(metrics.look(a, side), metrics.look(b, side))


def test_outside_metric_orders_images_as_a_person_would():
    target = canvas((8, 8, 24, 16, (255, 0, 0)), (36, 40, 20, 20, (0, 0, 255)))
    near = canvas((12, 8, 24, 16, (255, 0, 0)), (36, 40, 20, 20, (0, 0, 255)))
    half = canvas((8, 8, 24, 16, (255, 0, 0)))
    recoloured = canvas((8, 8, 24, 16, (0, 160, 0)), (36, 40, 20, 20, (0, 0, 255)))
    other = canvas((40, 4, 16, 28, (0, 128, 0)), (4, 44, 28, 12, (255, 160, 0)))
    same, *worse = [outside(target, x)["outside"] for x in (target, near, half, other, canvas())]
    assert same == pytest.approx(1) and all(a > b + 0.1 for a, b in zip([same, *worse], worse))
    assert worse[-1] < 0.1  # a blank canvas; plain SSIM puts it above a wrong picture:
    assert outside(target, canvas())["ssim"] > outside(target, other)["ssim"] + 0.1
    assert outside(target, recoloured)["palette"] < 0.9


def test_outside_metric_on_odd_images():
    white, red = canvas(), canvas((0, 0, 64, 64, (255, 0, 0)))
    assert all(outside(white, white)[m] == 1 for m in ("outside", "masked_ssim", "edge_f1", "palette", "lowres", "ssim"))
    assert outside(white, red)["palette"] < 0.6
    wide = np.zeros((10, 300, 3), np.uint8)
    for image in (np.zeros((1, 1, 3), np.uint8), wide, np.full((900, 3, 3), 7, np.uint8)):
        parts = outside(white, image), outside(image, white), outside(image, image)
        assert all(0 <= v <= 1 + 1e-9 for p in parts for k, v in p.items() if k not in ("masked_ssim", "ssim", "outside"))
        assert parts[2]["outside"] == pytest.approx(1)
    square = canvas((16, 16, 32, 32, (0, 0, 0)))
    stretched = np.repeat(square, 2, axis=1)  # [64, 128, 3]: fitted without stretching, so the aspect ratio costs
    assert outside(square, stretched)["outside"] < 0.8


def test_edit_similarity_equals_the_textbook_recursion():
    def slow(a, b):
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            row, last = [i], row
            for j, y in enumerate(b, 1):
                row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y)))
        return 1 - row[-1] / max(len(a), len(b), 1)

    rng = random.Random(0)
    for _ in range(60):
        a, b = ("".join(rng.choices("ab\u00e9\U0001f600", k=rng.randint(0, 9))) for _ in range(2))
        assert metrics.edit_similarity(a, b) == pytest.approx(slow(a, b))
    assert metrics.edit_similarity("x\ud800", "x") == 0.5 and math.isnan(metrics.edit_similarity("a" * (metrics.LONGEST_CODE + 1), "a"))


# ---------------------------------------------------------------------------------------------------------- statistics

def row(id_, mode, k, value, status="ok"):
    number = math.nan if status == "infra" else value
    return {"id": id_, "mode": mode, "k": k, "status": status, "tokens": 5, "finish": "stop",
            **{m: None if number != number else number for m in stats.METRICS}, "execution": float(status == "ok")}


def test_means_and_errors_are_over_items():
    items = {i: {"id": i, "language": "svg", "source": "s", "task": "generate"} for i in "abc"}
    rows = [row("a", "t1", 0, 1.0), row("a", "t1", 1, 0.0, "error"), row("b", "t1", 0, 0.5), row("b", "t1", 1, 0.3),
            row("b", "t1", 2, None, "infra"), row("c", "t1", 0, None, "infra")]
    table = stats.summarise(stats.item_means(rows), items)["all", "all"]["t1"]
    assert table["n"] == 2  # item c has no answer that our renderer could judge
    assert table["reward"] == pytest.approx((0.45, np.std([0.5, 0.4], ddof=1) / math.sqrt(2)))
    assert table["visual_valid"][0] == pytest.approx((1.0 + 0.4) / 2) and table["execution"][0] == 0.75


def test_paired_differences():
    rng = np.random.default_rng(0)
    base, gain = rng.random(200), rng.normal(0.05, 0.02, 200)
    a = {str(i): dict.fromkeys(stats.SHOWN, float(v)) for i, v in enumerate(base)}
    b = {str(i): dict.fromkeys(stats.SHOWN, float(v + g)) for i, (v, g) in enumerate(zip(base, gain))}
    mean, se, low, high = stats.paired(a, b, list(a))["reward"]
    assert mean == pytest.approx(gain.mean()) and se == pytest.approx(gain.std(ddof=1) / math.sqrt(200))
    assert (low, high) == pytest.approx((mean - 1.96 * se, mean + 1.96 * se), abs=0.5 * se)  # far below the spread of `base`
    assert stats.paired(a, {}, list(a)) == {}


def test_unusable_prediction_lines_are_counted(tmp_path):
    good = {"id": "a", "mode": "t1", "k": 1, "response": "x"}
    file = predictions(tmp_path / "p.jsonl", [good, good, "{", "", "3", {**good, "id": "zz"}, {**good, "id": ["a"]}, {**good, "mode": "t2"},
                                              {**good, "k": -1}, {**good, "response": None}, "[" * 100_000, '{"id": "a"}', "\x00\xff"])
    found, aside = ev.read_predictions([file], {"a"})
    assert list(found) == [("a", "t1", 1)] and aside == {"duplicates": 1, "unknown ids": 2, "broken lines": 8}


# ----------------------------------------------------------------------------------------------- scoring and the report

@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two scored runs, A (the references) and B (hostile and broken answers), of 8 SVG items whose ids are hostile too."""
    root = tmp_path_factory.mktemp("eval")
    pairs = scenes.scene_samples(8, 3, ("svg",), scenes.LABELLED, 0.5, 0.0, 0.0, True, "<b>source</b>")
    with Renderer(2) as renderer:
        renders = renderer.render_many([("svg", truth, (64, 64)) for _, truth in pairs])
    samples = []
    for i, ((sample, _), render) in enumerate(zip(pairs, renders)):
        sample.image, sample.id, sample.width, sample.height = data.png(render.image), f"{i}{HOSTILE}", 64, 64
        samples.append(sample)
    data.write_samples(samples, root / "test" / "part-0.parquet")
    ask = [(s, mode, k) for s in samples for mode, k in (("greedy", 0), ("t1", 0), ("t1", 1))]
    predictions(root / "A.jsonl", [{"id": s.id, "mode": mode, "k": k, "response": s.answer, "tokens": 9, "finish": "stop"} for s, mode, k in ask])
    wrong = [HOSTILE, "", "```svg\n<svg\n```", f"```svg\n<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><text>{HOSTILE}", "\ud800",
             "```svg\n<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><script>window.pwned=1</script><circle r='5' fill='red'/></svg>\n```"]
    predictions(root / "B.jsonl", ["not json"] + [{"id": s.id, "mode": mode, "k": k, "response": wrong[i % len(wrong)]} for i, (s, mode, k) in enumerate(ask[:-3])])
    # Scoring must not need torch: the import is made to fail in the child and in its workers.
    (root / "block" / "torch").mkdir(parents=True)
    (root / "block" / "torch" / "__init__.py").write_text("raise ImportError('scoring imported torch')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "block"), os.environ.get("PYTHONPATH", "")])}
    for name in "AB":
        done = subprocess.run([sys.executable, ROOT / "eval.py", "--predictions", root / f"{name}.jsonl", "--data", root / "test", "--out", root / "runs" / name,
                               "--label", f"{name} {HOSTILE}"], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        (root / f"{name}.log").write_text(done.stdout)
    return root


@needs_svg
def test_reference_code_scores_the_maximum(scored):
    scores = json.loads((scored / "runs" / "A" / "scores.json").read_text())
    for group in ("all=all", "language=svg", "task=generate", "task=refine", "source=<b>source</b>"):
        for mode in ("greedy", "t1"):
            for metric in ("execution", "visual", "reward", "outside", "ssim", "code"):
                assert scores["groups"][group][mode][metric][0] == pytest.approx(1, abs=0.02), (group, mode, metric)
    base = scores["groups"]["all=all"]
    assert base["blank"]["n"] == base["other"]["n"] == 8 and 0 < base["copy"]["n"] < 8
    assert base["blank"]["visual"][0] < 0.05 and base["blank"]["outside"][0] < 0.15 and base["other"]["outside"][0] < 0.6
    assert base["blank"]["code"][0] < 0.3


@needs_svg
def test_failures_count_zero_and_nothing_is_dropped_silently(scored):
    rows = stats.read_lines(scored / "runs" / "B" / "scores.jsonl")
    assert len(rows) == 21
    for r in rows:
        if r["status"] != "ok":
            assert r["render"] is None and all(r[m] == 0 for m in ("execution", "visual", *metrics.OUTSIDE_PARTS)), r
    assert {r["status"] for r in rows} == {"ok", "error", "no code"}
    counts = json.loads((scored / "runs" / "B" / "scores.json").read_text())["counts"]
    assert "1 broken lines" in counts and "1 items without prediction" in counts and counts in (scored / "B.log").read_text()


@needs_svg
def test_baselines_are_taken_from_a_run_beside(scored):
    first, second = ((scored / "runs" / name / "baselines.jsonl").read_text() for name in "AB")
    assert first == second
    samples = ev.held_out(scored / "test", 0)
    assert scoring.known_baselines(samples, scored / "runs" / "C")[1] is not None
    samples[0].prompt += " "
    assert scoring.known_baselines(samples, scored / "runs" / "C")[1] is None


@needs_svg
@pytest.mark.parametrize("happens", ["interrupted", "renderer lost"])
def test_a_run_is_replaced_only_by_a_whole_one(happens, scored, tmp_path, monkeypatch):
    """Ctrl-C while a run is scored again, or a renderer that fails at everything: what OUT held stays, byte for byte."""
    out = tmp_path / "run"
    shutil.copytree(scored / "runs" / "A", out)
    state = lambda: {f.relative_to(out): f.read_bytes() for f in out.rglob("*") if f.is_file()}
    before, item = state(), scoring.Scorer.item

    def stopped(self, number, *rest):
        rows, base = item(self, number, *rest)
        if happens == "interrupted" and number == 3:
            raise SystemExit(130)
        return [{**row, "status": "infra"} for row in rows], base

    monkeypatch.setattr(scoring.Scorer, "item", stopped)
    with pytest.raises(SystemExit, match="130" if happens == "interrupted" else "error: the renderer failed on every prediction"):
        run_eval(monkeypatch, "--predictions", scored / "B.jsonl", "--data", scored / "test", "--out", out)
    assert state() == before
    monkeypatch.setattr(scoring.Scorer, "item", item)
    run_eval(monkeypatch, "--predictions", scored / "B.jsonl", "--data", scored / "test", "--out", out, "--workers", 1)
    assert (out / "scores.jsonl").read_text() == (scored / "runs" / "B" / "scores.jsonl").read_text() != before[Path("scores.jsonl")].decode()


@needs_svg
def test_compare(scored, monkeypatch, capsys):
    (scored / "note.txt").write_text(f"The regime.\n\n{HOSTILE}")
    training = scored / HOSTILE.replace("/", "_")[:60]
    predictions(training / "metrics.jsonl", [{"step": i, "seconds": float(i), "loss": 3 / (i + 1)} for i in range(50)])
    run_eval(monkeypatch, "--compare", scored / "runs" / "B", scored / "runs" / "A", "--out", scored / "both", "--note", scored / "note.txt", "--curves", training)
    printed = capsys.readouterr().out
    assert "compared on the 7 items that all runs answered; 1 others are left out" in printed
    assert any(line.startswith("A ") and "execution greedy" in line for line in printed.split("\n")), printed
    page = (scored / "both" / "report.html").read_text()  # tests/test_report.py opens such a page in a browser
    assert "The regime." in page and "polyline" in page and "<img src=x" not in page and page.count("<script") == 7 + 3  # items, index, answers, script


# ------------------------------------------------------------------------------------------------- generating, resuming

def test_interrupted_and_sharded_generation_give_the_same_answers(tmp_path, tiny, samples):
    items = samples[:6]
    policy = ev.load_model(tiny)
    ask = lambda out, **kw: (out.mkdir(exist_ok=True), ev.predict(lambda: policy, items, out, 2, 12, seed=7, **kw))
    ask(tmp_path / "whole")
    whole = (tmp_path / "whole" / "predictions.jsonl").read_text()
    assert len(whole.splitlines()) == 18 and len({json.loads(x)["response"] for x in whole.splitlines()}) > 6
    for rank in (1, 0):
        ask(tmp_path / "shards", rank=rank, world=2)
    assert (tmp_path / "shards" / "predictions.jsonl").read_text() == whole and len(list((tmp_path / "shards").iterdir())) == 1
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "predictions.jsonl").write_text(whole[:len(whole) // 2])  # ends inside a line
    ask(tmp_path / "cut")
    assert (tmp_path / "cut" / "predictions.jsonl").read_text() == whole
    ev.predict(lambda: pytest.fail("nothing is missing: no model is needed"), items, tmp_path / "cut", 2, 12, seed=7)
    ev.predict(lambda: pytest.fail("nor for less"), items[:2], tmp_path / "cut", 1, 12, seed=7)
    assert sorted((tmp_path / "cut" / "predictions.jsonl").read_text().splitlines()) == sorted(whole.splitlines())  # none is lost


def test_samples_that_cannot_be_asked_count_as_empty_answers(tmp_path, tiny, capsys):
    items = drawn_samples(3)
    items[1].prompt = "draw " * 5000
    policy = ev.load_model(tiny)
    ev.predict(lambda: policy, items, tmp_path, 1, 8, seed=0)
    rows = {(r["id"], r["mode"]): r for r in stats.read_lines(tmp_path / "predictions.jsonl")}
    assert len(rows) == 6 and rows["t1", "t1"]["finish"] == "unusable" and rows["t1", "greedy"]["response"] == ""
    assert "1 of 3 samples cannot be asked and count as empty answers, first: t1" in capsys.readouterr().out


@needs_svg
def test_scores_of_a_policy_in_training(scored, monkeypatch):
    """Two of five answers are the reference, two are no code, one is lost by our renderer and in no mean, whatever the order in which they end."""
    items, seen = ev.held_out(scored / "test", 5), []
    texts = [items[0].answer, "nothing", items[2].answer, "```svg\n<svg/>\n```", ""]
    monkeypatch.setattr(ev, "ask", lambda policy, samples, *rest: [rest[-1](i, 0, {"response": texts[i]}) for i in (3, 1, 4, 0, 2)])
    policy = SimpleNamespace(device=SimpleNamespace(type="cpu"), dtype="theirs", train=lambda: seen.append("train"))

    class Lost(Renderer):
        def submit(self, language, code, size):
            job = Future()
            job.set_result(Render(None, "infra", "lost"))
            return job if code == "<svg/>" else super().submit(language, code, size)

    with Lost(1) as renderer:
        found = ev.greedy_scores(policy, items, renderer, 8)
    assert found["execution"] == 0.5 and found["outside"] == pytest.approx(0.5, abs=0.02) and found["visual"] == pytest.approx(0.5, abs=0.02)
    assert set(found) == set(stats.SHOWN) and seen == ["train"] and policy.dtype == "theirs"


def test_an_answer_that_fits_no_memory_is_one_line_and_other_errors_are_not_taken_for_it(tiny, monkeypatch):
    import generate
    policy, items = ev.load_model(tiny), drawn_samples(1)
    ask = lambda on_answer: ev.ask(policy, items, 1, 4, 0.0, [[0]], 2, 1.0, on_answer)
    with pytest.raises(ValueError, match="mine"):
        ask(lambda *a: (_ for _ in ()).throw(ValueError("mine")))
    monkeypatch.setattr(generate, "free_memory", lambda device: 0)
    with pytest.raises(SystemExit, match="^error: the key/value cache of one rollout .* lower --max-new-tokens"):
        ask(lambda *a: pytest.fail("nothing is answered"))


@needs_svg
def test_sigterm_leaves_predictions_and_resume_finishes(tmp_path, tiny, scored, monkeypatch, capsys):
    out = tmp_path / "run"
    options = ["--model", tiny, "--data", scored / "test", "--out", out, "--samples", "60", "--max-new-tokens", "40"]
    process = subprocess.Popen([sys.executable, ROOT / "eval.py", *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    file, deadline = out / "predictions.jsonl", time.monotonic() + 60
    while not (file.exists() and file.read_bytes().count(b"\n") > 10) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    kept = file.read_text().count("\n")
    assert process.returncode == 143 and "--resume goes on" in printed and 10 < kept < 8 * 61
    with pytest.raises(SystemExit, match="exists: --resume goes on"):
        run_eval(monkeypatch, *options)
    with pytest.raises(SystemExit, match="was made otherwise \\(seed was 0\\)"):
        run_eval(monkeypatch, *options, "--resume", "--seed", 1)
    run_eval(monkeypatch, *options, "--resume")
    assert len(file.read_text().splitlines()) == 8 * 61 and (out / "report.html").exists()
    assert "488 predictions for 8 items" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- bad input

@pytest.mark.parametrize("argv, message", [
    (["--predictions", "p.jsonl", "--data", "nowhere", "--out", "o"], "nowhere does not exist"),
    (["--predictions", "empty.jsonl", "--data", "d", "--out", "o"], "holds no prediction for d \\(it is empty\\)"),
    (["--predictions", "alien.jsonl", "--data", "d", "--out", "o"], "\\(1 unknown ids\\). A line is"),
    (["--compare", "d", "--out", "o"], "d is not a scored run \\(no scores.json"),
    (["--model", "d", "--data", "d", "--out", "o"], "no model at d"),
    (["--model", "d", "--image", "d/x.png", "--language", "svg"], "x.png: .*image"),
    (["--compare", "cut", "--out", "o"], "line 2 of cut/scores.jsonl is no JSON"),
    (["--compare", "mixed", "--out", "o"], "mixed is not a scored run: its files do not fit each other .*1 scored ids"),
    (["--compare", "bare", "--out", "o"], "bare is not a scored run: .*KeyError"),
    (["--compare", "d"], "--compare needs --out"),
    (["--predictions", "alien.jsonl", "--data", "d", "--out", "o", "--resume", "--best-of", "2"], "with --predictions there is no meaning to --best-of, --resume"),
    (["--model", "d", "--data", "d", "--out", "o", "--language", "svg"], "with --model there is no meaning to --language"),
    (["--predictions", "alien.jsonl", "--image", "d/x.png"], "--image needs --model"),
    (["--model", "d", "--data", "d", "--out", "o", "--encoders", "clip"], "--encoders clip: write KIND=NAME"),
    (["--model", "d", "--data", "d", "--out", "o", "--curves", "d"], "d has no metrics.jsonl"),
    (["--model", "d", "--data", "d", "--out", "begun", "--resume"], "run.json is damaged, so how begun/predictions.jsonl was made is unknown"),
])
def test_bad_input_is_one_line(argv, message, tmp_path, samples, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.write_samples(samples[:3], Path("d/part-0.parquet"))
    Path("d/x.png").write_text("no image")
    Path("empty.jsonl").touch()
    predictions(Path("alien.jsonl"), [{"id": "zz", "mode": "t1", "response": ""}])
    for name, scores, label in (("cut", [row("a", "t1", 0, 1.0), '{"id": "a", "mo'], "x"), ("mixed", [row("b", "t1", 0, 1.0)], "x"), ("bare", [], None)):
        predictions(Path(name, "scores.jsonl"), scores)
        predictions(Path(name, "baselines.jsonl"), [{"fingerprint": None}])
        predictions(Path(name, "items.jsonl"), [{"id": "a", "language": "svg"}])
        Path(name, "scores.json").write_text(json.dumps({"label": label, "counts": ""} if label else {}))
    predictions(Path("begun/predictions.jsonl"), [{"id": samples[0].id, "mode": "greedy", "response": ""}])
    Path("begun/run.json").write_text("{")
    with pytest.raises(SystemExit, match=message) as e:
        run_eval(monkeypatch, *argv)
    assert "\n" not in str(e.value) and str(e.value).startswith("error: ")
    assert not any(f.stat().st_size for f in Path().glob("o/pred*"))  # nothing is begun that would have to be resumed


def test_samples_set_aside_are_counted(tmp_path, capsys):
    items = drawn_samples(5)
    items[0].image, items[1].language, items[2].id = b"x", "cobol", items[3].id
    data.write_samples(items, tmp_path / "part-0.parquet")
    assert len(ev.held_out(tmp_path, 0)) == 2
    assert "3 samples set aside (1 unreadable image, 1 unknown language, 1 duplicate id)" in capsys.readouterr().out
