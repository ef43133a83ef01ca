"""The processes of a run: their group, sums over them, weights sharded over them (FSDP2).

One process needs none of it and may call it all. A rank is one process of torchrun's, with one GPU where there are any.
What is called collective must be called by all ranks.
"""
import os

import torch
import torch.distributed as dist
from torch import nn

import cli

# ------------------------------------------------------------------------------------------------------------ the group

def init_distributed():
    """Join the process group that torchrun describes in the environment, if any; returns the torch.device to use.

    A single GPU gets a group of its own, so that its weights are FSDP2's, too: bf16 where autocast would leave half of
    the arithmetic in fp32.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    elif cuda and not dist.is_initialized():
        dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    return device


def finish():
    """Leave the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_main():
    """Whether this is the process that prints and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def world():
    """(rank, world size); (0, 1) without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def barrier():
    """Wait until every rank is here. Collective."""
    if dist.is_initialized():
        dist.barrier()


LOST = ("onnection closed", "onnection reset", "roken pipe", "remote process exited")  # gloo and NCCL of a dead process


def run(main):
    """Call a stage's main(); what is no bug ends in one line (SystemExit), not in a traceback.

    That is: a full disk, a path without permission, a process of the run that has died (the others notice at their next
    collective).
    """
    try:
        main()
    except OSError as e:
        where = f": {e.filename}" if e.filename else ""
        raise SystemExit(f"error: {e.strerror or e}{where}. States already saved are intact; mend it, then run the "
                         f"same command with --resume.") from None
    except RuntimeError as e:
        if not dist.is_initialized() or not any(sign in str(e) for sign in LOST):
            raise
        why = str(e).strip().splitlines()[0]
        raise SystemExit(f"error: rank {dist.get_rank()} lost another process of this run ({why}). States already "
                         f"saved are intact: the same command with --resume goes on.") from None
    finally:
        for bar in cli.BARS:
            bar.close()


# -------------------------------------------------------------------------------------------------------------- numbers

def all_sum(value, device="cpu", op="SUM"):
    """Sum of a number (or scalar tensor) over all ranks, a float; device: where the group's backend can reduce it.

    op: the name of another member of torch.distributed.ReduceOp. Collective.
    """
    if not dist.is_initialized():
        return float(value)
    t = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(t, op=getattr(dist.ReduceOp, op))
    return t.item()


def all_max(value, device="cpu"):
    """Largest of a number over all ranks, a float; device as for `all_sum`. Collective."""
    return all_sum(value, device, "MAX")


def all_lists(mine):
    """The lists of all ranks, in the order of the ranks one behind the other. Collective; elements are pickled."""
    if not dist.is_initialized():
        return mine
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return [x for part in found for x in part]


def memory_used(device):
    """Peak bytes so far: of the GPU's allocator, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ------------------------------------------------------------------------------------------------------ sharded weights

def shard(policy, replicas=1):
    """Apply FSDP2 to a Policy, in place; returns it. The weights are rank 0's. Collective.

    One unit per decoder layer, the vision tower as one unit, the rest in the root. Weights and gradients stay fp32
    masters; with bfloat16 the gathered copies are bf16 and gradients are reduced in fp32. replicas > 1: HSDP, each of
    the replicas is sharded over world / replicas neighbouring ranks; raises SystemExit where that is no whole number.
    Without a process group nothing else happens: one process holds everything.
    """
    n = world()[1]
    if n % replicas:
        raise SystemExit(f"error: {n} process(es) cannot hold {replicas} equal replicas.")
    if not dist.is_initialized():
        return policy
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    mesh = init_device_mesh(device.type, (replicas, n // replicas), mesh_dim_names=("replicate", "shard"))
    half = policy.dtype if device.type == "cuda" and policy.dtype != torch.float32 else None
    policy.autocast = half is None
    options = dict(mesh=mesh if replicas > 1 else mesh["shard"],
                   mp_policy=MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32))
    # Tied embeddings are one parameter of two modules, which FSDP2 takes only inside one unit: the root.
    for unit in (*policy.model.model.language_model.layers, policy.model.model.visual, policy):
        unit.to(device)  # a whole unit is there for this moment only
        for tensor in (*unit.parameters(), *unit.buffers()):
            if local(tensor) is tensor:
                dist.broadcast(tensor.detach(), 0)
        fully_shard(unit, **options)
    return policy


class gathered:
    """Context: full weights on every rank, so that ranks may run different numbers of forwards (rollouts).

    One all-gather on entry (collective), none inside; on exit the weights are resharded. A no-op without FSDP2.
    """

    def __init__(self, policy):
        from torch.distributed.fsdp import FSDPModule
        self.units = [m for m in policy.modules() if isinstance(m, FSDPModule)]

    def __enter__(self):
        for unit in self.units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()

    def __exit__(self, *exc):
        for unit in self.units:
            unit.reshard()
            unit.set_reshard_after_forward(True, recurse=False)


def local(tensor):
    """This rank's part of a parameter or gradient that may be sharded (a DTensor), else the whole: a plain tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def clip_gradients(policy, limit):
    """Scale the (reduced) gradients to a norm of at most `limit`; returns the norm before, a float.

    It is that of all weights on all ranks. Collective under FSDP2.
    """
    norm = nn.utils.clip_grad_norm_(policy.parameters(), limit)
    return (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()
