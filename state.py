"""A training run's optimizers, and what it leaves on disk to go on from.

A state is whole or not there: it is written under a temporary name, then renamed (`replacing`).
"""
import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from distributed import barrier, is_main

# Iterations of Muon: 5 take 12 % longer a step and end no better (held-out loss, two seeds: .245 against .244).
NEWTON_SCHULZ = 3


def build_optimizers(policy, lr, matrix_lr, weight_decay=0.01):
    """AdamW for everything; with matrix_lr > 0 Muon takes the inner weight matrices.

    It learns them about twice as fast. Returns a list of one or two optimizers of what is trained. Norms, biases and
    embeddings get no weight decay.
    """
    parameters = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    inner = {n for n, p in parameters.items() if p.ndim == 2 and not any(k in n for k in ("embed", "lm_head", "norm"))}
    matrices, rest = [parameters[n] for n in sorted(inner)], [p for n, p in parameters.items() if n not in inner]
    groups = [{"params": rest, "weight_decay": 0.0, "lr": lr}]
    if not matrix_lr:
        groups.append({"params": matrices, "weight_decay": weight_decay, "lr": lr})
    # LoRA trains matrices alone; an empty group would not survive a resume.
    groups = [group for group in groups if group["params"]]
    optimizers = [torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)] if groups else []
    if matrix_lr:
        muon = torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=weight_decay, ns_steps=NEWTON_SCHULZ)
        optimizers.append(muon)
    return optimizers


@contextlib.contextmanager
def in_one_line(path):
    """Context: where `path` cannot be written, SystemExit with one line.

    safetensors, torch and Python raise unrelated errors when a disk is full.
    """
    try:
        yield
    except BaseException as e:  # torch's CheckpointException is no Exception
        free, why = shutil.disk_usage(Path(path).parent).free, (str(e).strip() or type(e).__name__).splitlines()[-1]
        if free >= 1 << 20 and not isinstance(e, OSError) and "No space left" not in why:
            raise
        # torch's unwritten streams are freed as the process ends; Python 3.13 prints what their close() raises.
        sys.unraisablehook = lambda unraisable: None
        raise SystemExit(f"error: cannot write {path}: {why} ({free / 1e6:.0f} MB free). What was saved before is "
                         f"intact; make room, then run the same command again (a stage: with --resume).") from None


@contextlib.contextmanager
def replacing(path):
    """A temporary folder to write in; when the block ends it is renamed to `path`, which must not stand there.

    Where that fails the unfinished folder is removed. Raises SystemExit as `in_one_line`.
    """
    temporary = Path(path).with_name(Path(path).name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with in_one_line(path):
            yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    os.replace(temporary, path)


def save_state(out, step, policy, optimizers, extra, keep=2):
    """Write the resumable training state `out`/state/step_N: weights, optimizers, and the dict `extra` (JSON).

    Each rank writes its own shards of what is trained (torch.distributed.checkpoint) under a temporary name; the rename
    at the end makes it a state, so a kill at any moment leaves the previous one. No generator state is needed: every
    random number in training derives from (seed, step, sample). Collective; the newest `keep` states stay. Raises
    SystemExit as `in_one_line`.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
    root = Path(out) / "state"
    model, optimizer = get_state_dict(policy, optimizers, options=StateDictOptions(ignore_frozen_params=True))
    final, temporary = root / f"step_{step}", root / f"step_{step}.tmp"
    if is_main():
        shutil.rmtree(final, ignore_errors=True)
    with replacing(final) if is_main() else in_one_line(final):
        barrier()  # the folder is there
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is no reason to warn
            state = {"model": model, "optimizer": optimizer}
            dcp.save(state, checkpoint_id=temporary, no_dist=not dist.is_initialized())
        if is_main():
            (temporary / "extra.json").write_text(json.dumps({**extra, "step": step}))
    for old in saved_steps(out)[:-keep] if is_main() else ():
        shutil.rmtree(root / f"step_{old}")
    barrier()


def saved_steps(out):
    """The steps of the complete states under `out`, ascending."""
    return sorted(int(p.name[5:]) for p in (Path(out) / "state").glob("step_*") if p.name[5:].isdigit())


def load_state(out, policy, optimizers):
    """Load the newest state of `out` in place and return its `extra` dict, `step` among it. Collective.

    Raises SystemExit when there is none, or it is damaged.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
    steps = saved_steps(out)
    if not steps:
        why = "the run is finished" if (Path(out) / "config.json").exists() else "run without --resume"
        raise SystemExit(f"error: nothing to resume in {Path(out) / 'state'}: {why}.")
    path = Path(out) / "state" / f"step_{steps[-1]}"
    model, optimizer = get_state_dict(policy, optimizers, options=StateDictOptions(ignore_frozen_params=True))
    state = {"model": model, "optimizer": optimizer}
    try:
        extra = json.loads((path / "extra.json").read_text())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(state, checkpoint_id=path, no_dist=not dist.is_initialized())
    # CheckpointException is no Exception; it holds what was raised on each rank.
    except (Exception, dcp.api.CheckpointException) as e:
        cause = next(iter(e.failures.values()))[0] if isinstance(e, dcp.api.CheckpointException) else e
        why = f"{type(cause).__name__}: {str(cause).strip()}".splitlines()[0].rstrip(": ")
        before = f"--resume goes on from step {steps[-2]}" if len(steps) > 1 else "start again"
        raise SystemExit(f"error: {path} does not load ({why}): it is damaged, or of another model. "
                         f"Remove it and {before}.") from None
    # Frozen weights are the start model's and not part of the state, hence strict=False; DCP has checked all others.
    set_state_dict(policy, optimizers, model_state_dict=state["model"], optim_state_dict=state["optimizer"],
                   options=StateDictOptions(strict=False))
    return extra


HELD = []  # the lock of this run, open until the process ends


def claim(out, resume):
    """Make this run the only one that writes `out`. To be called on every rank.

    Raises SystemExit with one line when `out` holds an earlier run that --resume does not go on with (its weights would
    be overwritten, its states mixed with the new ones), or when another run is at work there.
    """
    finished = (Path(out) / "config.json").exists()
    what, how = ("a finished", "") if finished else ("an interrupted", "--resume goes on with it; or ")
    if not resume and (finished or saved_steps(out)):
        raise SystemExit(f"error: {out} holds {what} run: {how}give another --out, or remove it.")
    if int(os.environ.get("RANK", 0)):
        return
    Path(out).mkdir(parents=True, exist_ok=True)
    HELD.append(open(Path(out) / ".lock", "a"))
    try:
        fcntl.lockf(HELD[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process; forked children do not hold it
    except OSError as e:
        if e.errno in (errno.EACCES, errno.EAGAIN):  # anything else: a file system that has no locks
            raise SystemExit(f"error: another run is writing {out}: wait for it, or give another --out.") from None


def trim_metrics(file, step):
    """Drop the records after `step` from a metrics.jsonl, which a killed run had written but not saved (0: all).

    A last line that was cut is dropped, too; where there is no file, an empty one is made.
    """
    file = Path(file)
    lines = file.read_text().splitlines() if file.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    file.write_text("".join(line + "\n" for line in kept))
