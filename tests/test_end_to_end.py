"""All stages at toy size, with real renders: what a user runs, interrupted, resumed and distributed."""
import html
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, Stage, refusal
from test_sft import metrics, run, wait_for

import data
from render import available
from state import saved_steps

pytestmark = pytest.mark.skipif(bool(available()["svg"]), reason=f"SVG cannot be rendered here: {available()['svg']}")
DOMAINS = [domain for domain, language in (("svg", "svg"), ("web", "html"), ("chart", "python")) if not available()[language]]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Samples of the domains that this machine renders, and a model trained for a few steps on them."""
    base = tmp_path_factory.mktemp("job")
    run("data.py", "synth", "--out", base / "data", "--labelled", 96, "--targets", 24, "--test", 12, "--domains", ",".join(DOMAINS))
    run("sft.py", "--model", base / "tiny", "--build-tiny", "--data", base / "data" / "sft", "--out", base / "sft", "--steps", 60, "--batch", 16)
    return base


def virl(base, out, *more):
    return ["virl.py", "--model", base / "sft", "--data", base / "data" / "rl", "--out", out, "--steps", 4, "--prompts", 4, "--group", 4,
            "--max-new-tokens", 32, "--overlong", 8, "--dtype", "float32", "--save-every", 2, "--micro-groups", 2, *more]


@pytest.fixture(scope="module")
def trained(base):
    run(*virl(base, base / "virl"))
    return base / "virl"


def comparable(record):
    return {k: v for k, v in record.items() if not k.startswith("seconds") and k not in ("rollout_tokens_per_second", "memory_gb")}


def test_virl_writes_what_the_design_promises(trained):
    curve = metrics(trained)
    assert [m["step"] for m in curve] == [1, 2, 3, 4] and all(m["infra"] == 0 for m in curve)
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "run.json"} <= {p.name for p in trained.iterdir()}
    rollouts = [json.loads(line) for line in open(trained / "rollouts" / "step_1.jsonl")]
    assert len(rollouts) == 16 and {"id", "response", "reward", "visual", "status", "advantage"} <= rollouts[0].keys()
    assert (trained / "samples" / "step_1.html").exists()
    page = (trained / "progress.html").read_text()
    assert "<h2>step 1</h2>" in page and page.count("data:image/png;base64,") >= 4 and html.escape(rollouts[0]["response"])[:20] in page
    assert "<script" not in page
    assert any(m["kept"] > 0 for m in curve)  # some group had a spread, so the weights moved
    assert (trained / "model.safetensors").read_bytes() != (trained.parent / "sft" / "model.safetensors").read_bytes()


def answers(out, step):
    return {(r["id"], r["sample"]): r["response"] for f in (out / "rollouts").glob(f"step_{step}.*jsonl") for r in map(json.loads, open(f))}


def test_virl_on_two_processes_gives_the_same_curve(base, trained):
    """FSDP2 on gloo; rollouts are the same tokens on any rank, so rewards are equal and losses within float tolerance.

    After an update the weights agree to 1e-6, no longer bit for bit, and one token in many may then fall the other way: what
    follows from there is another run. Compared is up to there, the first update that moves the weights included.
    """
    run(*virl(base, base / "two"), processes=2)
    moved = 0
    for a, b in zip(metrics(trained), metrics(base / "two"), strict=True):
        if answers(trained, a["step"]) != answers(base / "two", a["step"]):
            break
        assert abs(a["reward"] - b["reward"]) < 1e-6 and a["kept"] == b["kept"] and a["length"] == b["length"]
        assert (a["loss"] is None) == (b["loss"] is None)
        if a["loss"] is not None:
            assert b["loss"] == pytest.approx(a["loss"], abs=1e-4) and b["grad_norm"] == pytest.approx(a["grad_norm"], rel=2e-3, abs=1e-6)
            moved += a["grad_norm"] > 0.1
    assert moved


def test_virl_killed_and_resumed_equals_uninterrupted(base, trained):
    out = base / "killed"
    stage = Stage(*virl(base, out))
    wait_for(out / "state" / "step_2" / "extra.json", stage)
    stage.signal(signal.SIGKILL)
    assert stage.wait().returncode == -signal.SIGKILL
    run(*virl(base, out), "--resume")
    assert [comparable(m) for m in metrics(out)] == [comparable(m) for m in metrics(trained)]
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_virl_evaluates_and_keeps_the_best_policy(base):
    """Held-out greedy answers every two steps; OUT/best is the policy of the better one; two processes, with a KL term."""
    out = base / "best_kept"
    run(*virl(base, out, "--eval-every", 2, "--eval-samples", 6, "--kl", 0.1), processes=2)
    rows = [m for m in metrics(out) if "held_out_outside" in m]
    assert [m["step"] for m in rows] == [2, 4] and all(0 <= m["held_out_execution"] <= 1 for m in rows)
    best = json.loads((out / "best" / "best.json").read_text())
    assert best["held_out_outside"] == max(m["held_out_outside"] for m in rows)
    assert (out / "best" / "model.safetensors").exists()
    trained = [m["kl"] for m in metrics(out) if "kl" in m]
    assert trained[0] == pytest.approx(0, abs=1e-6) and all(k >= -1e-6 for k in trained)


def test_virl_killed_at_random_moments_equals_uninterrupted(base, tmp_path):
    """kill -9 in rollouts, updates and saving, four times: what is resumed ends with the same weights, no rollout lost or doubled."""
    often = ["--steps", 10, "--save-every", 1]
    run(*virl(base, tmp_path / "whole", *often))
    whole, out, rng = metrics(tmp_path / "whole"), tmp_path / "killed", random.Random(0)
    for _ in range(4):
        state = (saved_steps(out) or [0])[-1]
        stage = Stage(*virl(base, out, *often), *(["--resume"] if state else []))
        wait_for(out / "state" / f"step_{state + 1}" / "extra.json", stage)
        time.sleep(rng.random() * whole[-1]["seconds"] / len(whole))  # at most as long as a step takes
        stage.signal(signal.SIGKILL)
        assert stage.wait().returncode == -signal.SIGKILL, "the run ended before it was killed"
    run(*virl(base, out, *often), "--resume")
    assert [comparable(m) for m in metrics(out)] == [comparable(m) for m in whole]
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    for step in range(1, 11):
        assert answers(out, step) == answers(tmp_path / "whole", step)


SPARSE = """
import zlib
def judge(target, render, response, language, **kwargs):
    value = len(response) % 5 / 5 if zlib.crc32(target.tobytes()) % 2 else 0.0
    return {'reward': value, 'execution': 1.0, 'visual': value}
"""  # says nothing about half of the targets: their groups have no spread


def test_first_update_is_the_same_on_one_two_and_four_processes(base, tmp_path):
    """Rollouts token for token, the gradient's norm to 1e-5, the step to 1 % (AdamW makes signs of gradients near 0), though some
    ranks have their only group dropped."""
    from safetensors.torch import load_file
    (tmp_path / "sparse.py").write_text(SPARSE)
    weights, norms, idle = [], [], []
    for world in (1, 2, 4):
        out = tmp_path / str(world)
        result = Stage(*virl(base, out, "--steps", 1, "--reward", "sparse:judge", "--overlong", 0, "--warmup", 1), processes=world, path=str(tmp_path)).wait()
        assert result.returncode == 0, result.stderr[-2000:]
        assert answers(out, 1) == answers(tmp_path / "1", 1)
        per_rank = [[json.loads(line)["advantage"] for line in open(f)] for f in sorted((out / "rollouts").glob("step_1.*jsonl"))]
        idle.append(sum(not any(rank) for rank in per_rank))
        weights.append(load_file(out / "model.safetensors"))
        (record,) = metrics(out)
        assert 0 < record["kept"] < 1 and record["update_ratio"] > 0
        norms.append(record["grad_norm"])
    assert idle[0] == 0 < idle[2] < 4
    start = load_file(base / "sft" / "model.safetensors")
    length = lambda a, b: sum((a[name] - b[name]).double().square().sum() for name in start) ** 0.5
    assert all(length(weights[0], other) < 1e-2 * length(weights[0], start) for other in weights[1:])
    assert norms == pytest.approx(norms[:1] * 3, rel=1e-5)


def test_refill_asks_for_prompts_until_enough_groups_have_a_spread(base, tmp_path):
    """Half of the prompts tell nothing: further rounds bring others, none twice; the position is exact after a kill."""
    (tmp_path / "sparse.py").write_text(SPARSE)
    options = virl(base, tmp_path / "out", "--refill", 3, "--reward", "sparse:judge", "--overlong", 0, "--save-every", 1)
    result = Stage(*options, path=str(tmp_path)).wait()
    assert result.returncode == 0, result.stderr[-2000:]
    curve = metrics(tmp_path / "out")
    assert any(m["groups"] > 4 for m in curve)
    for m in curve:
        kept = round(m["kept"] * m["groups"])
        assert kept >= 3 or m["groups"] > 4  # enough, or all rounds used
        assert len(answers(tmp_path / "out", m["step"])) == 4 * m["groups"] == m["rollouts"]
    assert curve[-1]["position"] == sum(m["groups"] for m in curve)
    first_epoch = [id for m in curve for id, _ in dict.fromkeys((r[0], 0) for r in answers(tmp_path / "out", m["step"]))][:22]  # of 24, 2 are held out
    assert len(set(first_epoch)) == len(first_epoch)
    shutil.copytree(tmp_path / "out" / "state", tmp_path / "cut" / "state")
    shutil.rmtree(tmp_path / "cut" / "state" / "step_4")
    shutil.copy(tmp_path / "out" / "metrics.jsonl", tmp_path / "cut")
    options[options.index(tmp_path / "out")] = tmp_path / "cut"
    assert Stage(*options, "--resume", path=str(tmp_path)).wait().returncode == 0
    assert [comparable(m) for m in metrics(tmp_path / "cut")] == [comparable(m) for m in curve]
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("body, words", [
    ("raise KeyError('colour')", "error: the reward my_reward:judge raised KeyError: 'colour' at an answer to sample synth-rl-0-"),
    ("return {'reward': 1.7e308 * (len(response) % 2), 'execution': 1.0, 'visual': 0.0}", "loss or gradient was not finite 3 times in a row")])
def test_virl_with_a_reward_that_misbehaves(base, tmp_path, body, words):
    """Raises: one line. Gives infinite advantages: no update, the third time stops."""
    (tmp_path / "my_reward.py").write_text(f"def judge(target, render, response, language, **kwargs):\n    {body}\n")
    options = virl(base, tmp_path / "out", "--reward", "my_reward:judge", "--advantage", "paper", "--overlong", 0, "--save-every", 50)
    result = Stage(*options, path=str(tmp_path)).wait()
    assert result.returncode == 1 and words in result.stderr and "Traceback" not in result.stderr, result.stderr[-2000:]


DYING = """
import pathlib, sys
sys.path.insert(0, sys.argv.pop(1))
import distributed, sandbox, virl
whole, out, doomed = sandbox.Sandbox.run, pathlib.Path(sys.argv[sys.argv.index("--out") + 1]), {}

def run(self, language, code, *job):
    if not (out / "samples" / "step_1.html").exists() and doomed.setdefault(code, len(doomed) % 2 == 0):
        self.kill()
        self.process.wait()
        with open("kills.txt", "a") as file:
            file.write(f"{self.process.returncode}\\n")
    return whole(self, language, code, *job)

sandbox.Sandbox.run = run
distributed.run(virl.main)
"""  # every second program of the first step


def test_renderers_that_die_cost_no_step(base, tmp_path):
    """Servers are killed as they begin a program, and again at its second try: what they lost is excluded and counted, the
    other programs count, the next step is whole."""
    (tmp_path / "dying.py").write_text(DYING)
    command = [sys.executable, "dying.py", str(ROOT), *map(str, virl(base, tmp_path / "out", "--steps", 2)[1:])]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr[-2000:]
    first, second = metrics(tmp_path / "out")
    rows = [json.loads(line) for line in open(tmp_path / "out" / "rollouts" / "step_1.jsonl")]
    lost = [row for row in rows if row["status"] == "infra"]
    assert first["infra"] == first["status"]["infra"] == len(lost) > 0 and first["rollouts"] == len(rows) == 16
    assert all(row["advantage"] == 0 and math.isnan(row["reward"]) for row in lost)
    assert len(lost) + first["status"].get("no code", 0) < 16 and second["infra"] == 0
    assert {*(tmp_path / "kills.txt").read_text().split()} == {"-9"}  # exit status of the servers


def test_a_step_of_which_every_render_is_lost_goes_on(base, tmp_path):
    """Nothing is known of its answers: no update, no reward in its record."""
    (tmp_path / "lost.py").write_text("def judge(*args, **kwargs):\n    return dict.fromkeys(('reward', 'execution', 'visual'), float('nan'))\n")
    result = Stage(*virl(base, tmp_path / "out", "--steps", 2, "--reward", "lost:judge"), path=str(tmp_path)).wait()
    assert result.returncode == 0, result.stderr[-2000:]
    assert [(m["reward"], m["infra"], m["kept"], m["loss"]) for m in metrics(tmp_path / "out")] == [(None, 16, 0, None)] * 2


def test_programs_that_hang_end_at_their_time_limit(base, tmp_path):
    """No program is that fast: all answers with code time out, none of them is trained as our own failure."""
    run(*virl(base, tmp_path / "out", "--steps", 2, "--render-timeout", 0.001))
    for m in metrics(tmp_path / "out"):
        assert m["timeout"] == m["status"]["timeout"] > 0 and m["infra"] == 0 and m["execution"] == 0


def test_languages_that_cannot_be_rendered_are_set_aside(base, tmp_path):
    (tmp_path / "without.py").write_text("import sys; sys.path.insert(0, sys.argv.pop(1)); import distributed, virl\n"
                                         "virl.available = lambda: {'python': 'no matplotlib', 'html': 'no Chromium', 'svg': None}\ndistributed.run(virl.main)")
    command = [sys.executable, "without.py", str(ROOT), *map(str, virl(base, tmp_path / "out", "--steps", 1)[1:])]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    kinds = [s.language for s in data.read_samples(base / "data" / "rl")]
    for language, why in (("python", "no matplotlib"), ("html", "no Chromium")):
        assert not kinds.count(language) or f"{kinds.count(language)} in {language}, which cannot be rendered here: {why}" in result.stdout
    assert set(metrics(tmp_path / "out")[0]["languages"]) == {"svg"}


def test_virl_stops_when_an_update_has_broken_the_weights(base, tmp_path):
    """Their rollouts would be noise, all rewards equal, and the run would go on without ever updating again."""
    result = run(*virl(base, tmp_path / "out", "--lr", 1e38, "--matrix-lr", 0), check=False)
    assert result.returncode == 1 and "not finite: an earlier update has broken the weights" in result.stderr and "Traceback" not in result.stderr


def test_bare_sft_makes_what_is_missing_on_two_processes(tmp_path):
    """`torchrun sft.py` where nothing is there: rank 0 makes all samples (fewer here) and the model, the other waits."""
    (tmp_path / "bare.py").write_text("import sys; sys.path.insert(0, sys.argv.pop(1)); import functools, distributed, sft, synth\n"
                                      "synth.synth = functools.partial(synth.synth, labelled=40, targets=10, test=8, domains=['svg'])\ndistributed.run(sft.main)")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    command = [*launcher, "bare.py", str(ROOT), "--steps", "2", "--batch", "8", "--render-every", "0"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    written = sum(len(data.read_samples(tmp_path / "out" / "data" / split)) for split in ("sft", "rl", "test"))
    assert 40 < written <= 58 and (tmp_path / "out" / "sft" / "config.json").exists()


def test_virl_saves_on_a_signal(base):
    out = base / "signal"
    stage = Stage(*virl(base, out, "--steps", 10000, "--save-every", 10000))
    wait_for(out / "metrics.jsonl", stage)
    stage.signal(signal.SIGTERM)
    result = stage.wait(60)
    assert result.returncode == 0 and "--resume goes on" in result.stdout
    assert len(list((out / "state").glob("step_*/extra.json"))) == 1


def test_evaluation_and_report(base, trained):
    for name, label in (("sft", "SFT"), ("virl", "SFT + ViRL")):
        run("eval.py", "--model", base / name, "--data", base / "data" / "test", "--out", base / "eval" / name, "--label", label,
            "--samples", 1, "--max-new-tokens", 32)
    printed = run("eval.py", "--compare", base / "eval" / "sft", base / "eval" / "virl", "--out", base).stdout
    assert "SFT + ViRL" in printed and "blank canvas" in printed and "random other" in printed
    report = (base / "report.html").read_text()
    assert "SFT + ViRL" in report and "data:image/png;base64," in report
    for name in ("sft", "virl"):
        scores = [json.loads(line) for line in open(base / "eval" / name / "scores.jsonl")]
        assert len(scores) == 24 and not any(row["status"] == "infra" for row in scores)
        # the visual score has been computed from real renders: what failed counts 0
        assert all(row["visual"] == 0 for row in scores if row["status"] != "ok")


def test_real_schema_through_every_stage(base, tmp_path):
    """Rows of the released schema with long programs: import, SFT, ViRL, evaluation all complete, rejects are counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    samples = data.read_samples(base / "data" / "sft")
    rows = [{"user_content": s.prompt, "assistant_content": s.answer, "image": s.image} for s in samples if s.language == "svg"]
    rows.append({**rows[0], "assistant_content": "no code"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "released.parquet")
    printed = run("data.py", "import", tmp_path / "released.parquet", "--out", tmp_path / "mine").stdout
    assert "rejected 1: answer without one" in printed
    run("sft.py", "--model", tmp_path / "tiny", "--build-tiny", "--data", tmp_path / "mine" / "sft", "--out", tmp_path / "sft", "--steps", 2, "--batch", 4)
    run("virl.py", "--model", tmp_path / "sft", "--data", tmp_path / "mine" / "rl", "--out", tmp_path / "virl", "--steps", 1, "--prompts", 2, "--group", 2)
    run("eval.py", "--model", tmp_path / "virl", "--data", tmp_path / "mine" / "test", "--out", tmp_path / "eval", "--samples", 0, "--max-new-tokens", 32)
    assert (tmp_path / "eval" / "report.html").exists()


@pytest.mark.parametrize("change, words", [
    (("--data", "absent"), "does not exist"), (("--model", "absent"), "no model at"),
    (("--max-new-tokens", 100000), "no prompt of"), (("--resume",), "nothing to resume")])
def test_bad_input_to_virl_is_one_line(base, tmp_path, monkeypatch, change, words):
    assert words in refusal(monkeypatch, *virl(base, tmp_path / "out"), *change)


def test_bad_input_fails_the_command(base, tmp_path):
    result = run(*virl(base, tmp_path / "out", "--data", "absent"), check=False)
    assert result.returncode != 0 and "does not exist" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("argv, python, words", [
    (["--sed", "1"], "", "unknown argument '--sed'"), (["--seed"], "", "--seed needs a value"), (["--seed", "x"], "", "a number from 0 on"),
    (["--data", "a b"], "", "a b has no sft, rl and test below it"), (["--resume", "--out", "a b"], "", "there is no"),
    (["--out", "mine"], "", "holds no earlier run"), (["--out", "mine/file"], "", "holds no earlier run"),
    (["setup"], "no such python", "tried: no such python"), (["setup"], "/bin/false", "no Python of version 3.11 or newer")])
def test_run_sh_refuses_in_one_line_and_touches_nothing(tmp_path, argv, python, words):
    """Called from another folder: paths are meant from there."""
    (tmp_path / "project").mkdir()
    for name in ("run.sh", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / "project")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    result = subprocess.run(["bash", "project/run.sh", *argv], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHON": python})
    assert result.returncode in (1, 2) and words in result.stderr and result.stderr.count("\n") == 1 and not result.stdout
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["mine", "mine/file", "project", "project/requirements.txt", "project/run.sh"]


def test_run_sh_leaves_a_running_job_alone(tmp_path):
    """A second one would have moved its folder aside."""
    import fcntl
    (tmp_path / "out" / "data").mkdir(parents=True)
    folder = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    result = subprocess.run(["bash", ROOT / "run.sh", "--out", "out"], cwd=tmp_path, capture_output=True, text=True)
    os.close(folder)
    assert result.returncode == 1 and "another run is writing into" in result.stderr and (tmp_path / "out" / "data").is_dir()
