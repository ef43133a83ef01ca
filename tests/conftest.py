"""Shared by all tests: the repository on the path, a tiny model, samples that need no renderer."""
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests start many small processes


def pytest_configure(config):
    """From Python 3.12 on, a fork of a process with threads warns, and torch has threads. These forks are meant:
    sft.py's loading processes, a renderer used by a child, a process that is killed while it saves."""
    config.addinivalue_line("filterwarnings", "ignore:This process .* is multi-threaded:DeprecationWarning")


def stage_process(script, argv, environment, output):
    """In a forked process: what `python SCRIPT ARGV...` does, its stdout and stderr going to files of that name."""
    import importlib
    import traceback
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
    os.environ.update(environment)
    sys.path.append(environment["PYTHONPATH"])
    os.chdir(ROOT)
    sys.argv = [script, *argv]
    try:
        main = importlib.import_module(script.removesuffix(".py")).main
        importlib.import_module("distributed").run(main) if script in ("sft.py", "virl.py") else main()
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        sys.exit(e.code if isinstance(e.code, int) else int(e.code is not None))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


class Stage:
    """A stage running as its command would, on one process or (gloo) several. They are forked from one that has imported torch
    and transformers, which takes longer than most of these runs; some tests start true commands and torchrun."""

    def __init__(self, script, *argv, processes=1, path=""):
        """path: a directory in which Python looks for modules, too."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["sft", "virl", "transformers.models.qwen3_vl.modeling_qwen3_vl"])
        self.folder, self.argv = tempfile.TemporaryDirectory(), [script, *map(str, argv)]
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        shared = dict(WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)) if processes > 1 else {}
        self.ranks = []
        for rank in range(processes):
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if shared else {}
            environment["PYTHONPATH"] = path
            self.ranks.append(context.Process(target=stage_process, args=(script, self.argv[1:], environment, f"{self.folder.name}/{rank}")))
            self.ranks[-1].start()

    def running(self):
        return all(p.is_alive() for p in self.ranks)

    def signal(self, number):
        for p in self.ranks:
            os.kill(p.pid, number)

    def wait(self, seconds=300):
        """-> CompletedProcess with what rank 0 printed and the first exit code that is not 0."""
        for p in self.ranks:
            p.join(seconds)
        assert not any(p.is_alive() for p in self.ranks), f"{self.argv} still runs after {seconds} s"
        out, err = (Path(self.folder.name, f"0.{name}").read_text() for name in ("out", "err"))
        self.folder.cleanup()
        return subprocess.CompletedProcess(self.argv, next((p.exitcode for p in self.ranks if p.exitcode), 0), out, err)


def refusal(monkeypatch, script, *argv):
    """Call a stage with bad arguments in this process (sparing the imports of a new one) -> the one line it ends with."""
    import importlib
    import signal

    import distributed
    monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as stop:
            distributed.run(importlib.import_module(script.removesuffix(".py")).main)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    line = stop.value.code  # Python prints a string to stderr and exits with 1
    assert isinstance(line, str) and line.startswith("error: ") and "\n" not in line
    return line


def run_eval(monkeypatch, *argv):
    """eval.py's main() with these arguments, in this process; its signal handlers do not stay."""
    import signal

    import eval as ev
    monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, argv)])
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        ev.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def drawn_samples(n, seed=0, source="test"):
    """n embedded-default samples whose images are random colour blocks: what they show does not matter here."""
    import data
    import scenes
    rng = np.random.default_rng(seed)
    samples = []
    for i, (sample, _) in enumerate(scenes.scene_samples(n, seed, ("svg", "web", "chart"), scenes.LABELLED, 0.3, 0.0, 0.0, True, source)):
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        sample.image, sample.id, sample.width, sample.height = data.png(blocks.repeat(16, 0).repeat(16, 1)), f"t{i}", 64, 64
        samples.append(sample)
    return samples


@pytest.fixture(scope="session")
def samples():
    return drawn_samples(48)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, samples):
    """Directory of a tiny random Qwen3-VL."""
    import tiny as model
    path = tmp_path_factory.mktemp("model") / "tiny"
    model.build_tiny(path, [s.prompt + "\n" + s.answer for s in samples], hidden=64, layers=2)
    return path


@pytest.fixture
def loaded(tiny):
    """A fresh fp32 Policy, with weights three times as large: random logits are then far from uniform."""
    import torch

    import policy
    p = policy.load_policy(tiny)
    with torch.no_grad():
        for w in p.parameters():
            if w.ndim > 1:
                w.mul_(3)
    return p


@pytest.fixture
def data_dir(tmp_path, samples):
    """A data directory with sft, rl and test."""
    import data
    data.write_samples(samples[:36], tmp_path / "data" / "sft" / "part-0.parquet")
    data.write_samples(samples[36:42], tmp_path / "data" / "rl" / "part-0.parquet")
    data.write_samples(samples[42:], tmp_path / "data" / "test" / "part-0.parquet")
    return tmp_path / "data"
