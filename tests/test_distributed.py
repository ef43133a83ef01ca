"""Gradients of the real loops over 1, 2 and 4 processes (gloo): the same, however the work is cut."""
import multiprocessing
import os
import shutil
import socket
import sys

import data
import pytest
import torch
from conftest import drawn_samples


class Enough(Exception):
    """Ends the run after its first gradient."""


def first_gradient(rank, world, port, arguments, out):
    """Run sft.py on one of `world` ranks until its first clipped gradient; rank 0 writes it whole to `out`."""
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    import distributed as D
    import sft

    def keep(policy, limit):
        found = {n: (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad) for n, p in policy.named_parameters() if p.grad is not None}
        if rank == 0:
            torch.save(found, out)
        raise Enough
    D.clip_gradients = keep
    if rank:  # the weights come from rank 0
        arguments = ["--model", arguments[1] + ".no_weights", *arguments[2:]]
    sys.argv = ["sft.py", *arguments]
    try:
        sft.main()
    except Enough:
        D.finish()


@pytest.fixture(scope="module")
def gradient(tiny, tmp_path_factory):
    """-> function of (world, extra arguments) -> {name: gradient} of a step over the same 12 samples."""
    folder = tmp_path_factory.mktemp("distributed")
    shutil.copytree(tiny, folder / "tiny")
    shutil.copytree(tiny, folder / "tiny.no_weights", ignore=shutil.ignore_patterns("*.safetensors"))
    data.write_samples(drawn_samples(12, seed=5), folder / "sft" / "part-0.parquet")
    context = multiprocessing.get_context("forkserver")  # imports torch once for all ranks
    context.set_forkserver_preload(["sft", "virl", "transformers.models.qwen3_vl.modeling_qwen3_vl"])

    def run(world, *extra):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        out = folder / f"gradient_{world}_{'_'.join(extra)}.pt"
        arguments = ["--model", str(folder / "tiny"), "--data", str(folder / "sft"), "--out", str(folder / "out"), "--steps", "1", "--dtype", "float32", *extra]
        ranks = [context.Process(target=first_gradient, args=(rank, world, port, arguments, out)) for rank in range(world)]
        for p in ranks:
            p.start()
        for p in ranks:
            p.join(120)
        assert [p.exitcode for p in ranks] == [0] * world
        return torch.load(out)
    return run


def test_gradient_is_the_same_however_the_step_is_cut(gradient):
    """12 samples in one step: micro-batches, packed rows (fewer than ranks, too), processes (of which the first reads the weights), replicas,
    recomputed activations."""
    whole = gradient(1, "--batch", "12", "--micro-batch", "12")
    norm = sum(g.square().sum() for g in whole.values()).sqrt()
    assert norm > 0.01
    for world, *extra in ((1, "--batch", "12", "--micro-batch", "5"), (1, "--batch", "2", "--pack", "1024"), (2, "--batch", "12", "--micro-batch", "4"),
                          (4, "--batch", "12", "--replicas", "2"), (4, "--batch", "12", "--recompute"), (4, "--batch", "4", "--pack", "1024")):
        other = gradient(world, *extra)
        assert other.keys() == whole.keys()
        distance = sum((other[n] - whole[n]).square().sum() for n in whole).sqrt() / norm
        assert distance < 1e-5, (world, extra, distance)
