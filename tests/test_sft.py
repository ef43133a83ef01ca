"""sft.py as a user runs it: fails cleanly, resumes exactly, gives the same curve on one process and on two."""
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, Stage, refusal


def run(*command, processes=1, check=True):
    """Run a stage to its end."""
    result = Stage(*command, processes=processes).wait()
    assert not check or result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result


def wait_for(file, stage):
    """Until the file is there and holds something."""
    while not file.exists() or not file.stat().st_size:
        assert stage.running(), f"the run ended before it wrote {file}"
        time.sleep(0.005)


def metrics(out):
    return [json.loads(line) for line in open(out / "metrics.jsonl")]


def arguments(tiny, data_dir, out, **kw):
    options = {"--steps": 6, "--batch": 6, "--micro-batch": 2, "--dtype": "float32", "--save-every": 3, "--eval-every": 3, "--render-every": 0, **kw}
    return ["sft.py", "--model", tiny, "--data", data_dir / "sft", "--out", out, *(x for pair in options.items() for x in pair if x != "")]


@pytest.fixture(scope="module")
def one_process(tiny, tmp_path_factory):
    """A finished run of 6 steps on one process."""
    import data
    from conftest import drawn_samples
    base = tmp_path_factory.mktemp("sft")
    samples = drawn_samples(48)
    data.write_samples(samples[:36], base / "data" / "sft" / "part-0.parquet")
    data.write_samples(samples[36:], base / "data" / "test" / "part-0.parquet")
    run(*arguments(tiny, base / "data", base / "one"))
    return base


def test_loss_falls_and_a_model_is_written(one_process):
    curve = metrics(one_process / "one")
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.1 and curve[-1]["held_out_loss"] < curve[2]["held_out_loss"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "run.json"} <= {p.name for p in (one_process / "one").iterdir()}


def test_two_processes_give_the_same_curve(one_process, tiny):
    """FSDP2 by hand on gloo, Muon included; the batch of 6 is cut differently (micro-batch 1)."""
    run(*arguments(tiny, one_process / "data", one_process / "two", **{"--micro-batch": 1}), processes=2)
    for a, b in zip(metrics(one_process / "one"), metrics(one_process / "two"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 2e-4 and abs(a["grad_norm"] / b["grad_norm"] - 1) < 2e-3
        assert a["answer_tokens"] == b["answer_tokens"]


def state_of(out, step):
    """The tensors of a saved state, weights and optimizers, as one dict."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    file = out / "state" / f"step_{step}.pt"
    dcp_to_torch_save(out / "state" / f"step_{step}", file)
    return torch.load(file, weights_only=False)


def test_killed_and_resumed_equals_uninterrupted(one_process, tiny):
    """40 steps; against kill -9 after the state of step 20 and --resume: weights, optimizers, metrics and positions, bit for bit."""
    from torch.utils._pytree import tree_leaves
    options = {"--steps": 40, "--save-every": 20, "--eval-every": 20}
    run(*arguments(tiny, one_process / "data", one_process / "whole", **options))
    out = one_process / "killed"
    stage = Stage(*arguments(tiny, one_process / "data", out, **options))
    wait_for(out / "state" / "step_20" / "extra.json", stage)
    stage.signal(signal.SIGKILL)
    assert stage.wait().returncode == -signal.SIGKILL
    run(*arguments(tiny, one_process / "data", out, **options), "--resume")
    clock = ("seconds", "tokens_per_second", "tflops_per_process", "eta", "memory_gb")
    kept = [[{k: v for k, v in m.items() if k not in clock} for m in metrics(folder)] for folder in (out, one_process / "whole")]
    assert len(kept[0]) == 40 and kept[0] == kept[1] and len({m["position"] for m in kept[0]}) == 40
    ours, theirs = (tree_leaves(state_of(folder, 40)) for folder in (out, one_process / "whole"))
    tensors = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, torch.Tensor)]
    assert len(tensors) > 80 and all(torch.equal(a, b) for a, b in tensors)
    assert (out / "model.safetensors").read_bytes() == (one_process / "whole" / "model.safetensors").read_bytes()


def test_packed_run_goes_on_with_another_number_of_processes(one_process, tiny, monkeypatch):
    """Packed rows, two loading processes; cut after step 3 and resumed on two ranks: the same samples, losses within 1e-3."""
    packed = {"--pack": 512, "--batch": 3, "--max-length": 512, "--decay": 0}  # a constant learning rate, whatever --steps
    run(*arguments(tiny, one_process / "data", one_process / "packed", **packed, **{"--load-workers": 2}))
    run(*arguments(tiny, one_process / "data", one_process / "cut", **packed, **{"--steps": 3}))
    run(*arguments(tiny, one_process / "data", one_process / "cut", **packed), "--resume", processes=2)
    whole, cut = metrics(one_process / "packed"), metrics(one_process / "cut")
    for key in ("position", "answer_tokens", "set_aside"):
        assert [m[key] for m in whole] == [m[key] for m in cut]
    assert whole[-1]["position"] > 0 and all(0.5 < m["useful_tokens"] <= 1 for m in whole)
    assert all(abs(a["loss"] - b["loss"]) < 1e-3 for a, b in zip(whole, cut, strict=True))
    line = refusal(monkeypatch, *arguments(tiny, one_process / "data", one_process / "cut", **{"--steps": 8}), "--resume")
    assert "--resume needs the --pack and --batch" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_exits_cleanly(one_process, tiny, number, monkeypatch):
    """Meanwhile nobody else may write there, under any name of the directory."""
    out = one_process / f"signal{number}"
    stage = Stage(*arguments(tiny, one_process / "data", out, **{"--steps": 100000, "--save-every": 100000}))
    wait_for(out / "metrics.jsonl", stage)
    for more in ([], ["--resume"]):
        line = refusal(monkeypatch, *arguments(tiny, one_process / "data", one_process / "data" / ".." / out.name), *more)
        assert "another run is writing" in line
    stage.signal(number)
    result = stage.wait(60)
    assert result.returncode == (130 if number == signal.SIGINT else 0) and "--resume goes on" in result.stdout
    assert len(list((out / "state").glob("step_*/extra.json"))) == 1


def test_nan_never_reaches_the_weights(one_process, tiny, tmp_path):
    """A model with a NaN weight gives NaN losses: no update, ids written, three in a row stop with a saved state."""
    import shutil

    from safetensors.torch import load_file, save_file
    shutil.copytree(tiny, tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    weights["model.language_model.norm.weight"][0] = float("nan")
    save_file(weights, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    result = run(*arguments(tmp_path / "nan", one_process / "data", tmp_path / "out"), check=False)
    assert result.returncode != 0 and "3 steps in a row" in result.stderr and "Traceback" not in result.stderr
    assert [m["skipped"] for m in metrics(tmp_path / "out")] == [1, 2, 3]
    assert len(json.loads((tmp_path / "out" / "nonfinite.jsonl").read_text().splitlines()[0])["ids"]) == 6
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    dcp_to_torch_save(tmp_path / "out" / "state" / "step_3", tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=False)["model"]
    for name, w in weights.items():
        assert torch.equal(state[f"model.{name}"].nan_to_num(7), w.nan_to_num(7))


@pytest.mark.parametrize("field, value, words", [
    ("image", b"no picture", "unreadable image"), ("answer", "no fence", "answer without one"), ("language", "cobol", "unknown language")])
def test_unusable_samples_stop_the_run_with_their_reason(one_process, tiny, tmp_path, monkeypatch, field, value, words):
    import data
    samples = data.read_samples(one_process / "data" / "sft")
    setattr(samples[3], field, value)
    data.write_samples(samples, tmp_path / "data" / "sft" / "part-0.parquet")
    line = refusal(monkeypatch, *arguments(tiny, tmp_path / "data", tmp_path / "out"))
    assert "1 of 36 samples" in line and words in line


@pytest.mark.parametrize("change, words", [
    ({"--data": "absent"}, "does not exist"), ({"--model": "absent"}, "no model at"), ({"--max-length": 10}, "raise --max-length"),
    ({"--out": "/proc/none"}, "/proc/none"), ({"--resume": ""}, "nothing to resume")])
def test_bad_input_is_one_line(one_process, tiny, tmp_path, monkeypatch, change, words):
    line = refusal(monkeypatch, *arguments(tiny, one_process / "data", tmp_path / "out"), *(x for pair in change.items() for x in pair if x != ""))
    assert words in line


def test_a_new_run_does_not_mix_with_an_earlier_one(one_process, tiny, tmp_path, monkeypatch):
    """A state of an earlier run with a higher step would be taken for the newest."""
    import shutil
    assert "holds a finished run" in refusal(monkeypatch, *arguments(tiny, one_process / "data", one_process / "one"))
    shutil.copytree(one_process / "one" / "state", tmp_path / "out" / "state")
    before = sorted(tmp_path.rglob("*"))
    assert "holds an interrupted run: --resume" in refusal(monkeypatch, *arguments(tiny, one_process / "data", tmp_path / "out"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("damage", [lambda state: (state / "extra.json").write_text("{"), lambda state: next(state.glob("*.distcp")).unlink(),
                                    lambda state: next(state.glob("*.distcp")).write_bytes(b""), lambda state: (state / ".metadata").unlink()])
def test_a_damaged_state_is_named_in_one_line(one_process, tiny, tmp_path, monkeypatch, damage):
    import shutil
    shutil.copytree(one_process / "one" / "state", tmp_path / "out" / "state")
    damage(tmp_path / "out" / "state" / "step_6")
    line = refusal(monkeypatch, *arguments(tiny, one_process / "data", tmp_path / "out"), "--resume")
    assert "step_6 does not load" in line and "--resume goes on from step 3" in line


@pytest.mark.parametrize("change, words", [(("--data", "absent"), "does not exist"), (("--lerning", 1), "unrecognized arguments")])
def test_bad_input_fails_the_command(one_process, tiny, tmp_path, change, words):
    """A true command."""
    command = [sys.executable, *map(str, arguments(tiny, one_process / "data", tmp_path / "out")), *map(str, change)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0 and words in result.stderr and "Traceback" not in result.stderr
