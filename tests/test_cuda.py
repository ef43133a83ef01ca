"""What is different on a GPU; everything here is skipped, and counted as such, where there is none."""
import pytest
import torch

import distributed as D
from generate import free_memory, generate, rollout_seed
from test_generate import prompts
from test_policy import encode, gradient

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def on_gpu(loaded):
    return loaded.to("cuda")


def test_replayed_decoding_equals_plain_decoding(on_gpu, samples, monkeypatch):
    """CUDA graphs against the same steps launched one by one, fp32: same tokens; rows that stop and are refilled, lengths over several graphs."""
    import generate as module
    monkeypatch.setattr(module, "LENGTHS", 16)
    examples = prompts(on_gpu, samples)
    seeds = [[rollout_seed("s", i, g) for g in range(4)] for i in range(5)]
    with torch.no_grad():
        on_gpu.model.get_input_embeddings().weight[on_gpu.eos_id] *= 4
    replayed = [generate(on_gpu, examples, 4, 40, 1.0, seeds, slots) for slots in (6, 64)]
    captured = []
    monkeypatch.setattr(module.Replayed, "__call__", lambda self, B, longest: (captured.append(B), self.step(B, longest)))
    plain = generate(on_gpu, examples, 4, 40, 1.0, seeds, 6)
    ids = [[[r.token_ids for r in group] for group in run] for run in (*replayed, plain)]
    assert captured and ids[0] == ids[1] == ids[2]
    assert len({len(t) for group in ids[0] for t in group}) > 1


def test_logprobs_of_replayed_decoding_equal_a_teacher_forced_pass(on_gpu, samples):
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.3)):
        on_gpu.dtype = dtype
        examples = prompts(on_gpu, samples)
        for group in generate(on_gpu, examples, 3, 40, slots=4):
            for r in group:
                logp, _ = on_gpu([examples[r.example].extend(r.token_ids)])
                assert (logp.cpu() - torch.tensor(r.logprobs)).abs().max() < tolerance


def test_weights_changed_between_calls_are_the_ones_that_sample(on_gpu, samples):
    """bf16: no copy of a weight outlives the call that made it."""
    on_gpu.dtype = torch.bfloat16
    examples = prompts(on_gpu, samples)
    before = generate(on_gpu, examples, 1, 16, temperature=0)
    with torch.no_grad():
        for p in on_gpu.parameters():
            p.neg_()
    after = generate(on_gpu, examples, 1, 16, temperature=0)
    assert [r.token_ids for g in before for r in g] != [r.token_ids for g in after for r in g]


def test_variable_length_kernel_equals_one_forward_a_sample(on_gpu, samples):
    """bf16, packed rows: logprobs and gradients as near to fp32 as those of single samples are."""
    examples = encode(on_gpu, samples[:7])
    found = {}
    for name, dtype, packed in (("exact", torch.float32, False), ("apart", torch.bfloat16, False), ("packed", torch.bfloat16, True)):
        on_gpu.dtype = dtype
        on_gpu.zero_grad()
        logprobs = on_gpu(examples)[0] if packed else torch.cat([on_gpu([e])[0] for e in examples])
        (logprobs * torch.linspace(-1, 1, len(logprobs), device="cuda")).sum().backward()
        found[name] = logprobs.detach(), gradient(on_gpu)
    error = lambda name, k: ((found[name][k] - found["exact"][k]).norm() / found["exact"][k].norm()).item()
    for k in (0, 1):
        assert 0 < error("packed", k) < 1.5 * error("apart", k) + 1e-3


def test_fsdp2_on_one_gpu_decodes_and_trains(tmp_path, tiny, samples):
    """torchrun with one process: sharded bf16 weights, captured decoding among FSDP2's hooks, a step in between."""
    import subprocess
    import sys

    from conftest import ROOT
    script = tmp_path / "one.py"
    script.write_text(f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]
import torch, data, distributed as D, policy as P
from conftest import drawn_samples
from generate import generate
from state import build_optimizers
device = D.init_distributed()
policy = P.load_policy({str(tiny)!r}, device)
policy.dtype = torch.bfloat16
D.shard(policy)
samples = drawn_samples(4)
optimizers = build_optimizers(policy, 1e-2, 0)
prompts = [policy.encode(s.prompt, data.open_image(s)) for s in samples]
seen = []
for step in range(2):
    rollouts = [r for group in generate(policy, prompts, 2, 40, 1.0) for r in group]
    logp = torch.cat([policy([prompts[r.example].extend(r.token_ids)])[0] for r in rollouts])
    gap = (logp.detach().cpu() - torch.tensor([x for r in rollouts for x in r.logprobs])).abs().mean().item()
    seen.append((gap, [r.token_ids for r in rollouts]))
    policy.train()
    (-logp.mean()).backward()
    optimizers[0].step()
    optimizers[0].zero_grad()
assert seen[0][0] < 0.03 and seen[1][0] < 0.03, seen
assert seen[0][1] != seen[1][1]
D.finish()
print("done")
""")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--master_port=29577", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "done" in done.stdout, done.stderr[-3000:]


def test_memory_of_slots_is_planned_on_the_gpu(on_gpu):
    assert 0 < free_memory(torch.device("cuda")) <= torch.cuda.get_device_properties(0).total_memory
    assert D.memory_used(torch.device("cuda")) > 0
