"""plan.py: the computed memory and FLOPs against what really exists and really runs."""
import data
import plan
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import attention
import policy as P
from generate import SlotCache


@pytest.mark.parametrize("name, parameters", [  # as the hub counts them
    ("Qwen/Qwen3-VL-2B-Instruct", 2127532032), ("Qwen/Qwen3-VL-4B-Instruct", 4437815808), ("Qwen/Qwen3-VL-8B-Instruct", 8767123696),
    ("Qwen/Qwen3-VL-32B-Instruct", 33357390064), ("Qwen/Qwen2.5-VL-3B-Instruct", 3754622976), ("Qwen/Qwen2.5-VL-7B-Instruct", 8292166656)])
def test_published_configurations_have_their_parameters(name, parameters):
    assert sum(p.numel() for p in P.skeleton(plan.published_config(name), name).parameters()) == parameters


def test_activations_on_the_meta_device_equal_those_of_a_real_pass(tiny, monkeypatch):
    """The same tracker around the real language model (bf16, CPU, fused attention) and around its skeleton: within 5 %."""
    monkeypatch.setattr(attention, "SHORT", 0)  # no plain products: they keep their scores
    T = 512
    config = P.read_config(tiny)
    computed, _, logits = plan.activations(P.skeleton(config, tiny).to(torch.bfloat16).train(), T, 64, chunk=T)
    policy = P.load_policy(tiny)
    model = policy.model.to(torch.bfloat16).train()
    language = model.model.language_model
    language.config._attn_implementation = "packed"
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with plan.LiveBytes([*model.parameters(), *policy.buffers()]) as real:
        embeds = torch.zeros(1, T, language.config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        language(inputs_embeds=embeds, position_ids=torch.zeros(3, 1, T, dtype=torch.long), use_cache=False, groups=attention.group_segments([T], T, "cpu")).last_hidden_state.sum().backward()
    assert abs(computed / real.peak - 1) < 0.05, (computed, real.peak)
    with plan.LiveBytes([*model.parameters(), *policy.buffers()]) as real:
        hidden = torch.zeros(T, language.config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        P.token_logprobs(hidden, model.lm_head, torch.zeros(T, dtype=torch.long), policy.banned)[0].sum().backward()
    assert abs(logits / real.peak - 1) < 0.05, (logits, real.peak)


def test_chunks_bound_the_memory_of_the_logits():
    """Peak of forward and backward with the weights' gradient: far below [N, V], and in step with the chunk."""
    N, D, V = 4096, 8, 4000
    head, banned = torch.nn.Linear(D, V, bias=False), torch.zeros(V, dtype=torch.bool)
    peaks = {}
    for chunk in (256, 512, N):
        with plan.LiveBytes(head.parameters()) as memory:
            hidden = torch.zeros(N, D, requires_grad=True)
            P.token_logprobs(hidden, head, torch.zeros(N, dtype=torch.long), banned, chunk=chunk)[0].sum().backward()
        peaks[chunk], head.weight.grad = memory.peak, None
    dense = N * V * 4  # bytes of all logits, once
    assert peaks[256] < dense / 2 and peaks[512] < dense and 1.7 < peaks[512] / peaks[256] < 2.2 and peaks[N] > 3 * dense


def test_cache_bytes_equal_the_samplers_cache(loaded, samples):
    from transformers import DynamicCache
    store = DynamicCache(config=loaded.model.config)
    with torch.no_grad():
        loaded([loaded.encode(samples[0].prompt, data.open_image(samples[0]))], last_only=True, cache=store)
    cache = SlotCache(5, 300, store)
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == 2 * plan.kv_bytes(loaded.model.config, 5, 300)  # this one is fp32


def test_sharded_bytes_fall_with_the_gpus_and_recomputing_spares_activations(tiny):
    config = P.read_config(tiny)
    one, rollouts = plan.memory(config, tiny, 1, tokens=512, slots=4, length=100)
    eight, _ = plan.memory(config, tiny, 8, tokens=512, slots=4, length=100)
    again, _ = plan.memory(config, tiny, 8, tokens=512, slots=4, length=100, recompute=True)
    total = sum(p.numel() for p in P.skeleton(config, tiny).parameters())
    assert one["weights, fp32"] == 4 * total and eight["optimizer (AdamW), fp32"] == total
    assert again["activations, 512 tokens"] < 0.6 * eight["activations, 512 tokens"]
    assert rollouts["gathered weights, bf16"] == 2 * total


@pytest.mark.parametrize("frozen", [False, True])
def test_flops_equal_those_that_torch_counts(loaded, samples, monkeypatch, frozen):
    """Against FlopCounterMode, which counts both halves of causal attention: 1 %, also where --freeze-vision leaves the
    tower without backward. Nothing is rounded up: these rows are short."""
    monkeypatch.setattr(P, "ROW", 1)
    monkeypatch.setattr(attention, "STEP", 1)
    examples = [loaded.encode(s.prompt, data.open_image(s), s.answer) for s in samples[:6]]
    loaded.train()
    loaded.model.model.visual.requires_grad_(not frozen)
    ours = plan.training_flops(loaded, plan.flops_per_token(loaded), examples)
    with FlopCounterMode(display=False) as counter:
        sum(loaded([e])[0].sum() for e in examples).backward()
    loaded.model.model.visual.requires_grad_(True)
    config = loaded.model.config.text_config
    other_half = 6 * config.num_attention_heads * config.head_dim * config.num_hidden_layers * sum(len(e.input_ids)**2 for e in examples)
    assert abs((ours + other_half) / counter.get_total_flops() - 1) < 0.01, (ours, other_half, counter.get_total_flops())


def test_plan_prints_two_tables(capsys):
    plan.main("qwen3-vl-2b", 2, tokens=2048, recompute=True)
    text = capsys.readouterr().out
    assert text.startswith("Qwen/Qwen3-VL-2B-Instruct, 2 GPU(s)") and text.count("**together**") == 2
    with pytest.raises(SystemExit, match="--gpus"):
        plan.main("qwen3-vl-2b", 0)
