"""Shared by all tests: the repository on the path, a tiny model, samples that need no renderer."""
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def refusal(monkeypatch, script, *argv):
    """Call a stage with bad arguments in this process (sparing the imports of a new one) -> the one line it ends with."""
    import importlib
    import signal

    import policy
    monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as stop:
            policy.run(importlib.import_module(script.removesuffix(".py")).main)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    line = stop.value.code  # Python prints a string to stderr and exits with 1
    assert isinstance(line, str) and line.startswith("error: ") and "\n" not in line
    return line


def drawn_samples(n, seed=0, source="test"):
    """n embedded-default samples whose images are random colour blocks: what they show does not matter here."""
    import data
    import synth
    rng = np.random.default_rng(seed)
    samples = []
    for i, (sample, _) in enumerate(synth.synth_split(n, seed, ("svg", "web", "chart"), synth.LABELLED, 0.3, 0.0, 0.0, True, source)):
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
    import policy
    path = tmp_path_factory.mktemp("model") / "tiny"
    policy.build_tiny(path, [s.prompt + "\n" + s.answer for s in samples], hidden=64, layers=2)
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
