"""What goes wrong in long runs, made to happen: kills while saving, a full disk, a dead process, data that disappear."""
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import data
import numpy as np
import pytest
import torch
from tqdm import tqdm
from conftest import ROOT, Stage, drawn_samples
from test_sft import arguments, metrics, run, wait_for

import policy as P
from state import build_optimizers, load_state, save_state, saved_steps


@pytest.fixture(scope="module")
def large_images(tmp_path_factory):
    """Samples in more files than data.Corpus keeps, their images too large for their encodings to be kept: every step reads files."""
    from PIL import Image
    base, samples = tmp_path_factory.mktemp("faults"), drawn_samples(40)
    for s in samples:
        s.image = data.png(np.asarray(data.open_image(s).resize((160, 160), Image.NEAREST)))
        s.width = s.height = 160
    for i, s in enumerate(samples):
        data.write_samples([s], base / "sft" / f"part-{i}.parquet")
    assert len(samples) > 2 * data.WINDOW
    return base


def killed_saves(directory, out, kills, seed=0):
    """Kill -9 a process at a random moment of its endless saving, `kills` times, each going on from the last state -> the steps loaded.

    Every state's weights and moments are filled with its step, so a mixture of two states is noticed.
    """
    torch.set_num_threads(1)  # a forked child has none of this process's threads
    policy = P.load_policy(directory)
    optimizers = build_optimizers(policy, 1e-3, 0)
    policy.train()
    values = lambda: [t for o in optimizers for s in o.state.values() for k, t in s.items() if k == "exp_avg"] + list(policy.parameters())

    def fill(step):
        with torch.no_grad():
            for t in values():
                t.fill_(step)
    for p in policy.parameters():
        p.grad = torch.zeros_like(p)
    for o in optimizers:
        o.step()  # makes the moments
    fill(1)
    started = time.perf_counter()
    save_state(out, 1, policy, optimizers, {"elapsed": 1})
    took, rng, loaded = time.perf_counter() - started, random.Random(seed), []
    for _ in tqdm(range(kills), "kills", mininterval=1):
        step = saved_steps(out)[-1]
        child = os.fork()
        if child == 0:
            try:
                while True:
                    step += 1
                    fill(step)
                    save_state(out, step, policy, optimizers, {"elapsed": step})
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0, 3 * took))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "the child ended by itself"
        extra = load_state(out, policy, optimizers)
        assert extra["elapsed"] == extra["step"] >= step - 1 and all((t == extra["step"]).all() for t in values())
        loaded.append(extra["step"])
    return loaded


def test_kills_at_random_moments_of_saving_leave_a_loadable_state(tiny, tmp_path):
    """20 here; `python tests/bench.py kills` does 200."""
    loaded = killed_saves(tiny, tmp_path, 20)
    assert len(set(loaded)) > 5 and loaded == sorted(loaded)  # some kills hit before, some behind a whole state
    assert len(list((tmp_path / "state").iterdir())) <= 4  # two states, perhaps one in the making and one being removed


@pytest.mark.parametrize("processes", [1, 2])
def test_full_disk_while_saving_keeps_the_older_state(large_images, tiny, tmp_path, processes):
    """OUT on a file system with room for one state and a half: the second fails in one line, the first stays and is resumed from."""
    out = tmp_path / "out"
    size = int(3.5 * (tiny / "model.safetensors").stat().st_size)  # a state holds the weights and AdamW's and Muon's moments
    script = 'cd "$1"; shift; "$@"; code=$?; cp -r "$0/." "$0.saved"; exit $code'
    command = ["bwrap", "--dev-bind", "/", "/", "--size", size, "--tmpfs", out, "sh", "-c", script, out, ROOT, sys.executable,
               *(["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes] if processes > 1 else []), *arguments(tiny, large_images, out)]
    out.mkdir()
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if result.stderr.startswith("bwrap:"):
        pytest.skip(f"no small file system can be made here: {result.stderr}")
    ours = result.stderr.replace("Traceback (most recent call last):\n  File \"<frozen runpy>", "")  # torchrun ends with one of its own
    assert result.returncode == 1 and "Traceback" not in ours, result.stderr[-3000:]
    assert re.search("^error: cannot write .*step_6.*What was saved before is intact", result.stderr, re.M), result.stderr[-3000:]
    saved = tmp_path / "out.saved"
    assert saved_steps(saved) == [3] and not list((saved / "state").glob("*.tmp"))
    run(*arguments(tiny, large_images, saved), "--resume")
    assert [m["step"] for m in metrics(saved)] == [1, 2, 3, 4, 5, 6]


def test_killed_rank_ends_the_others_with_a_message(large_images, tiny, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0",
               *map(str, arguments(tiny, large_images, tmp_path / "out", **{"--steps": 100000, "--save-every": 2}))]
    with open(tmp_path / "log", "w") as log:
        launcher = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while not saved_steps(tmp_path / "out"):
            assert launcher.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.05)
        ranks = [int(p) for p in open(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read().split()]
        second = next(p for p in ranks if b"RANK=1\0" in open(f"/proc/{p}/environ", "rb").read().replace(b"\0RANK", b"\0\0RANK"))
        os.kill(second, signal.SIGKILL)
        assert launcher.wait(60) != 0
    finally:
        launcher.kill()
    log = (tmp_path / "log").read_text()
    assert "error: rank 0 lost another process of this run" in log, log[-3000:]
    assert not [p for p in ranks if os.path.exists(f"/proc/{p}")]
    run(*arguments(tiny, large_images, tmp_path / "out", **{"--steps": saved_steps(tmp_path / "out")[-1] + 1}), "--resume")


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_disappear_end_the_run_with_a_saved_state(large_images, tiny, tmp_path, workers):
    shutil.copytree(large_images / "sft", tmp_path / "sft")
    options = {"--steps": 100000, "--save-every": 100000, "--load-workers": workers}
    stage = Stage(*arguments(tiny, tmp_path, tmp_path / "out", **options))
    wait_for(tmp_path / "out" / "metrics.jsonl", stage)
    shutil.move(tmp_path / "sft", tmp_path / "elsewhere")
    result = stage.wait(60)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert re.search(r"error: the samples .*cannot be read any more .*part-\d+.parquet", result.stderr), result.stderr[-3000:]
    shutil.move(tmp_path / "elsewhere", tmp_path / "sft")
    (step,) = saved_steps(tmp_path / "out")
    run(*arguments(tiny, tmp_path, tmp_path / "out", **{"--steps": step + 2}), "--resume")
    assert [m["step"] for m in metrics(tmp_path / "out")] == list(range(1, step + 3))
