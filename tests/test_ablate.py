"""tests/ablate.py: its rewards on pictures, its table on numbers, its order of work; no training here."""
import json
import math
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import ablate
import reward as R
import stats
from render import Render

ANSWER = "```svg\n<svg/>\n```"
VARIANTS = (ablate.coarse_only, ablate.fine_only, ablate.coarse_and_fine, ablate.no_format, ablate.ssim)
TARGET = np.full((64, 64, 3), 255, np.uint8)
TARGET[16:32, 8:40] = 200, 0, 0
SHIFTED = np.roll(TARGET, 4, 1)


def judged(function, image, answer=ANSWER, status="ok"):
    return function(TARGET, Render(image, status), answer, "svg", known=R.features(TARGET))


@pytest.mark.parametrize("function", VARIANTS, ids=lambda f: f.__name__)
def test_rewards_order_pictures_and_count_failures(function):
    most = 0.9 if function is ablate.no_format else 1.0
    same, shifted = judged(function, TARGET), judged(function, SHIFTED)
    assert same["reward"] == pytest.approx(most, abs=1e-4) and same["visual"] == pytest.approx(1, abs=1e-4)
    assert 0 < shifted["visual"] < 0.99 and shifted["execution"] == 1
    failed = judged(function, None, status="error")
    assert failed["visual"] == failed["execution"] == 0 and failed["reward"] == pytest.approx(most - 0.9)
    assert function(TARGET, None, "prose", "svg")["reward"] == 0
    assert math.isnan(judged(function, None, status="infra")["reward"])
    raster = judged(function, TARGET, ANSWER.replace("<svg/>", "<svg>iVBORw0KGgo</svg>"))
    assert raster["visual"] == 0 and raster["reward"] == pytest.approx(most - 0.9)


def test_rewards_are_what_they_are_called():
    whole = judged(R.score, SHIFTED)
    assert whole["coarse"] != pytest.approx(whole["fine"], abs=0.01)  # or the next lines say nothing
    assert judged(ablate.coarse_only, SHIFTED)["visual"] == pytest.approx(whole["coarse"])
    assert judged(ablate.fine_only, SHIFTED)["visual"] == pytest.approx(whole["fine"])
    assert judged(ablate.coarse_and_fine, SHIFTED)["visual"] == pytest.approx((whole["coarse"] + whole["fine"]) / 2)
    assert judged(ablate.no_format, SHIFTED)["reward"] == pytest.approx(whole["reward"] - 0.1)
    blank = np.full_like(TARGET, 255)
    assert judged(ablate.coarse_only, blank)["visual"] == judged(ablate.fine_only, blank)["visual"] == 0
    assert judged(ablate.ssim, blank)["visual"] > 0.5  # why plain SSIM is on the list


def rows(values):
    """{(run, seed): value of every metric} -> what `collect` gives; runs that are not named get 0."""
    cell = lambda v: {mode: {m: (v, 0.03) for m in ablate.METRICS} for mode in ablate.MODES}
    value = lambda run, seed: values.get((run, seed), 0.0)
    groups = ("all=all", "task=generate", "task=refine")
    return [{"run": run, "seed": seed, "groups": dict.fromkeys(groups, cell(value(run, seed))), "paired": {"all=all": cell(value(run, seed) - value("virl", seed))}}
            for run in ablate.RUNS for seed in (0, 1, 2)]


def test_table_means_and_errors_over_seeds():
    scores = {"virl": (0.5, 0.6, 0.7), "ssim": (0.4, 0.5, 0.6), "fine": (0.5, 0.5, 0.8)}
    found = rows({(run, seed): of[seed] for run, of in scores.items() for seed in (0, 1, 2)})
    plain, paired = ablate.table(found, [0, 1, 2], "all=all"), ablate.table(found, [0, 1, 2], "all=all", "virl")
    line = lambda lines, name: next(row for row in lines if row.startswith(f"| {ablate.RUNS[name][0]} |"))
    assert line(plain, "virl").count(".600±.058") == 8  # .1 / sqrt 3
    assert line(paired, "ssim").count("-.100±.000*") == 8  # the seeds' own spread cancels
    assert line(paired, "fine").count("+.000±.058 ") == 8  # differences 0, -.1, .1
    assert not any(row.startswith(f"| {ablate.RUNS['virl'][0]} |") for row in paired)
    alone = ablate.table(found, [0], "all=all", "virl")
    assert line(alone, "ssim").count("-.100±.030*") == 8  # of a single seed: over items
    for row in found:
        row["paired"]["all=all"] = {mode: {m: (mean, 0.1) for m, (mean, _) in of.items()} for mode, of in row["paired"]["all=all"].items()}
    assert line(ablate.table(found, [0, 1, 2], "all=all", "virl"), "ssim").count("-.100±.000 ") == 8  # three seeds agree, their images do not: .1 / sqrt 3


def test_collect_pairs_items(tmp_path):
    for run, scores in (("sft", (0.2, 0.4)), ("virl", (0.5, 0.9))):
        folder = tmp_path / "seed_3" / "eval" / run
        folder.mkdir(parents=True)
        row = lambda id_, mode, v: {**dict.fromkeys(stats.METRICS, v), "id": id_, "mode": mode, "k": 0, "status": "ok"}
        stats.write_lines(folder / "scores.jsonl", [row(id_, mode, v) for mode in ablate.MODES for id_, v in zip("ab", scores)])
        items = [{"id": id_, "language": "svg", "source": "s", "task": task} for id_, task in (("a", "generate"), ("b", "refine"))]
        stats.write_lines(folder / "items.jsonl", items)
        cell = {mode: {"n": 2, **{m: stats.mean_se(scores) for m in ablate.METRICS}} for mode in ablate.MODES}
        (folder / "scores.json").write_text(json.dumps({"status": {"ok": 4}, "groups": {"all=all": cell, "length=long": cell}}))
        (folder / "report.html").touch()
        (tmp_path / "seed_3" / run).mkdir()
        (tmp_path / "seed_3" / run / "metrics.jsonl").write_text('{"step": 7, "seconds": 1.25}\n')
    virl, sft = ablate.collect(tmp_path)
    assert (virl["run"], sft["run"], sft["seed"], sft["steps"], [*sft["groups"]]) == ("virl", "sft", 3, 7, ["all=all"])
    assert sft["paired"]["all=all"]["greedy"]["reward"] == pytest.approx((-0.4, 0.1)) and virl["paired"]["all=all"]["t1"]["outside"] == (0, 0)
    assert sft["paired"]["task=refine"]["t1"]["reward"][0] == pytest.approx(-0.5)  # of item b alone
    assert sft["groups"]["all=all"]["t1"]["visual"] == pytest.approx((0.3, 0.1))


def test_finished_runs_are_not_done_again_and_a_failure_stops(tmp_path):
    done = tmp_path / "done"
    done.touch()
    ablate.run(done, "no_such_script.py")
    with pytest.raises(SystemExit, match="error: the command above ended with code"):
        ablate.run(tmp_path / "absent", "no_such_script.py")


@pytest.mark.parametrize("code", [130, -signal.SIGINT])
def test_ctrl_c_lets_the_script_save(tmp_path, code):
    """The signal goes to both, as in a terminal; the script takes a second to save."""
    (tmp_path / "script.py").write_text(f"""
import os, signal, sys, time
def save(*_):
    time.sleep(1)
    open({str(tmp_path / "saved")!r}, "w").close()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    {"sys.exit(130)" if code == 130 else "os.kill(os.getpid(), signal.SIGINT)"}
signal.signal(signal.SIGINT, save)
print("ready", flush=True)
time.sleep(60)
""")
    program = f"import ablate, pathlib; ablate.run(pathlib.Path({str(tmp_path / 'absent')!r}), {str(tmp_path / 'script.py')!r})"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT / "tests", text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while "ready" not in process.stdout.readline():
        pass
    os.killpg(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130 and words == "interrupted: the same command of ablate.py goes on.\n" and (tmp_path / "saved").exists()


def test_only_complete_seeds_are_reported(tmp_path, monkeypatch, capsys):
    found = [row for row in rows({("sft", 0): 0.5, ("sft", 1): 0.6}) if (row["run"], row["seed"]) != ("fine", 2)]
    monkeypatch.setattr(ablate, "collect", lambda out: found)
    monkeypatch.setattr(ablate, "TABLES", ablate.TABLES[:2])
    monkeypatch.setattr(ablate.sys, "argv", ["ablate.py", str(tmp_path), "--seeds"])
    ablate.main()
    assert json.loads((tmp_path / "ablations.json").read_text())["complete seeds"] == [0, 1]
    assert len(re.findall("over 2 seed", capsys.readouterr().out)) == 2
    assert (tmp_path / "ablations.png").stat().st_size > 10_000
    found[:] = found[:3]
    with pytest.raises(SystemExit, match="no seed"):
        ablate.main()
