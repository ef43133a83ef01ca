"""generate.py: the sampler against the stock model and against itself."""
import collections

import data
import pytest
import torch

from generate import generate, pick, rollout_seed


def prompts(policy, samples, n=5):
    return [policy.encode(s.prompt, data.open_image(s)) for s in samples[:n]]


def test_same_tokens_for_any_number_of_slots_and_any_company(loaded, samples):
    """Per-rollout seeds: 1 slot, 3 slots, all slots, another order of prompts, one prefill at a time."""
    examples = prompts(loaded, samples)
    seeds = [[rollout_seed("s", i, g) for g in range(4)] for i in range(5)]
    runs = [generate(loaded, examples, 4, 24, 1.0, seeds, slots, prefill_batch=batch) for slots, batch in ((1, 1), (3, 2), (64, 16))]
    turned = generate(loaded, examples[::-1], 4, 24, 1.0, seeds[::-1], 7)[::-1]
    looked_rarely = generate(loaded, examples, 4, 24, 1.0, seeds, 3, check_every=5)
    ids = [[[r.token_ids for r in group] for group in run] for run in (*runs, turned, looked_rarely)]
    assert all(other == ids[0] for other in ids)
    assert len({tuple(t) for group in ids[0] for t in group}) > 15  # the rollouts do differ from each other


def test_logprobs_equal_a_teacher_forced_pass(loaded, samples):
    """what the sampler reports is what training will compute: 1e-5 in fp32."""
    examples = prompts(loaded, samples)
    for group in generate(loaded, examples, 3, 24, slots=4):
        for r in group:
            logp, _ = loaded([examples[r.example].extend(r.token_ids)])
            torch.testing.assert_close(logp, torch.tensor(r.logprobs), atol=1e-5, rtol=1e-5)


def test_greedy_equals_stock_generate(loaded, samples):
    e = prompts(loaded, samples, 1)[0]
    ours = generate(loaded, [e], 1, 20, temperature=0)[0][0]
    is_image = (e.input_ids == loaded.model.config.image_token_id).int()[None]
    bad = [[i] for i in torch.nonzero(loaded.banned).flatten().tolist()]
    loaded.model.model.visual.config._attn_implementation = "eager"
    stock = loaded.model.generate(input_ids=e.input_ids[None], attention_mask=torch.ones_like(e.input_ids)[None],
                                  pixel_values=loaded.normalised(e.pixel_values), image_grid_thw=e.image_grid_thw, mm_token_type_ids=is_image,
                                  max_new_tokens=20, do_sample=False, bad_words_ids=bad)[0, len(e.input_ids):].tolist()
    assert ours.token_ids == stock[:len(ours.token_ids)] and len(ours.token_ids) in (20, len(stock))


def test_stop_token_is_counted_once_and_ends_the_answer(loaded, samples):
    """the stop token belongs to the answer and is its last; a cut answer says so."""
    with torch.no_grad():  # tied embeddings: a longer row makes the stop token likelier
        loaded.model.get_input_embeddings().weight[loaded.eos_id] *= 12
    rollouts = [r for g in generate(loaded, prompts(loaded, samples), 8, 12, slots=5) for r in g]
    stopped, cut = ([r for r in rollouts if r.finish == f] for f in ("stop", "length"))
    assert stopped and cut
    for r in stopped:
        assert r.token_ids.count(loaded.eos_id) == 1 and r.token_ids[-1] == loaded.eos_id and "<|im_end|>" not in r.text
    for r in cut:
        assert loaded.eos_id not in r.token_ids and len(r.token_ids) == 12
    assert all(len(r.logprobs) == len(r.token_ids) for r in rollouts)


def test_banned_tokens_are_never_sampled():
    banned = torch.tensor([True, False, False, True])
    logits = torch.tensor([[50.0, 0.0, 1.0, 50.0]]).repeat(1000, 1)
    token, logp = pick(logits, banned, 1.0, torch.linspace(0, 1 - 1e-7, 1000))
    assert set(token.tolist()) == {1, 2}
    share = (token == 2).float().mean()
    torch.testing.assert_close(share, torch.sigmoid(torch.tensor(1.0)), atol=2e-3, rtol=0)  # the inverse CDF samples the softmax
    torch.testing.assert_close(logp.exp()[token == 2][0], torch.sigmoid(torch.tensor(1.0)))


def test_nucleus_holds_the_fewest_tokens_that_reach_top_p():
    """By hand: .5 .3 .15 .05 at top_p .7 leaves .5 and .3, drawn and reported as .625 and .375."""
    p = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    token, logp = pick(p.log().repeat(8, 1), torch.zeros(4, dtype=torch.bool), 1.0, torch.arange(8) / 8 + 0.01, 0.7)
    assert token.tolist() == [1, 1, 1, 1, 1, 3, 3, 3]
    torch.testing.assert_close(logp.exp(), torch.tensor([0.625] * 5 + [0.375] * 3))
    assert set(pick(p.log().repeat(99, 1), torch.zeros(4, dtype=torch.bool), 1.0, torch.arange(99) / 99, 0.1)[0].tolist()) == {1}


def test_slots_are_planned_from_the_memory_that_is_there(loaded, samples):
    """Fewer slots than asked for: a warning and the same answers; none: one line."""
    examples = prompts(loaded, samples)
    capacity = max(e.prompt_length for e in examples) + 12 + 1
    config = loaded.model.config.text_config
    slot = 2 * 4 * capacity * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    with pytest.warns(UserWarning, match="2 of 10 slots"):
        few = generate(loaded, examples, 2, 12, budget=2 * slot + 9)
    assert [[r.token_ids for r in g] for g in few] == [[r.token_ids for r in g] for g in generate(loaded, examples, 2, 12)]
    with pytest.raises(ValueError, match="lower --max-new-tokens"):
        generate(loaded, examples, 2, 12, budget=slot - 1)


def test_occupancy_counts_decoded_tokens(loaded, samples):
    timing = collections.defaultdict(float)
    rollouts = [r for g in generate(loaded, prompts(loaded, samples), 2, 12, slots=4, timing=timing) for r in g]
    assert timing["busy"] == sum(len(r.token_ids) - 1 for r in rollouts) and timing["busy"] <= timing["slots"]
    assert timing["prefill"] > 0 and timing["decode"] > 0


def test_bf16_sampling_is_near_a_bf16_teacher_forced_pass(loaded, samples):
    """The sampler's small products round otherwise than training's: the difference that virl.py logs as logprob_gap."""
    loaded.dtype = torch.bfloat16
    examples = prompts(loaded, samples)
    gaps = torch.cat([(loaded([examples[r.example].extend(r.token_ids)])[0] - torch.tensor(r.logprobs)).abs()
                      for group in generate(loaded, examples, 3, 24, slots=4) for r in group])
    assert 0 < gaps.mean() < 0.03 and gaps.max() < 0.3


def test_every_answer_is_handed_out_once_while_others_decode(loaded, samples):
    seen = []
    groups = generate(loaded, prompts(loaded, samples), 4, 16, slots=3, on_finish=lambda r: seen.append((r.example, r.sample)))
    assert sorted(seen) == [(i, g) for i in range(5) for g in range(4)] and all(r for group in groups for r in group)


def test_prompt_that_cannot_fit_is_refused(loaded, samples):
    with pytest.raises(ValueError, match="exceeds the context"):
        generate(loaded, prompts(loaded, samples, 1), 1, loaded.context)
