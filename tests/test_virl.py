"""virl.py: the algorithm's exactness and its bookkeeping.

What must hold of a GRPO loop, and where it is tested:
 1  ratio 1 and nothing clipped at the first update, loss = -mean(A w)        here
 2  gradient = that of a naive loop over single samples                      here
 3  micro-batches, padding and packing change nothing                        here; test_policy.py, test_families.py
 4  2 and 4 processes = one, also where a rank has nothing to train          test_end_to_end.py
 5  sampled logprobs = those of a teacher-forced pass                        test_generate.py, test_families.py
 6  tokens do not depend on slots, order or company                          test_generate.py
 7  logprobs in chunks = dense, without all logits in memory                 test_policy.py, test_plan.py
 8  advantages add up to 0; constant groups and lost renders count nothing   here
 9  the KL penalty has the divergence's value and gradient                   here
10  importance weight 1 where sampler = trainer, capped elsewhere            here
11  the stop token counts once, nothing after it, cut answers are marked     test_generate.py
12  image placeholders are never sampled                                     test_generate.py, here
13  the reward: blank 0, identical 1, monotone; programs cannot escape       test_reward.py, test_render.py
14  a resumed run = an uninterrupted one, bit for bit                        test_end_to_end.py
15  a bandit is solved                                                       here
"""
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import drawn_samples

import data
import policy as P
import virl
from generate import Rollout, generate, rollout_seed
from loader import Prompts


def rollouts_of(policy, samples, groups=3, group=4):
    """Random answers of ragged length to `groups` prompts: lists of prompts and of token lists."""
    g = torch.Generator().manual_seed(1)
    prompts = [policy.encode(s.prompt, data.open_image(s)) for s in samples[:groups]]
    answers = [[torch.randint(30, 200, (int(torch.randint(3, 15, (1,), generator=g)),), generator=g).tolist() + [policy.eos_id]
                for _ in range(group)] for _ in prompts]
    return prompts, answers


def gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def update(policy, prompts, answers, advantage, groups_per_micro):
    """Gradient of virl's loss over micro-batches of whole groups."""
    policy.zero_grad()
    n = sum(len(a) for group in answers for a in group)
    for i in range(0, len(prompts), groups_per_micro):
        ps = range(i, min(i + groups_per_micro, len(prompts)))
        logp, _ = policy([prompts[p].extend(a) for p in ps for a in answers[p]], images=[p for p in ps for _ in answers[p]])
        a = torch.cat([advantage[p, g].expand(len(x)) for p in ps for g, x in enumerate(answers[p])])
        loss, metrics = virl.policy_loss(logp, logp.detach(), logp.detach(), a, 0.2, 0.28)
        (loss / n).backward()
        assert metrics["clipped_high"] == metrics["clipped_low"] == 0 and metrics["importance_weight"] == 1
    return gradient(policy)


def test_first_update_has_ratio_one_and_loss_minus_mean_advantage():
    """1: ratio exactly 1, nothing clipped, loss = -sum(A w)."""
    logp = torch.randn(50, requires_grad=True)
    sampled = logp.detach() + 0.01 * torch.randn(50)
    a = torch.randn(50)
    loss, metrics = virl.policy_loss(logp, logp.detach(), sampled, a, 0.2, 0.28)
    w = (logp.detach() - sampled).exp()
    assert metrics["clipped_high"] == metrics["clipped_low"] == 0
    assert metrics["logprob_gap"] == pytest.approx(w.log().abs().mean().item(), rel=1e-4) and metrics["logprob_gap_max"] == pytest.approx(w.log().abs().max().item(), rel=1e-4)
    assert metrics["approx_kl"] == pytest.approx((w - 1 - w.log()).mean().item(), abs=1e-6)
    torch.testing.assert_close(loss, -(a * w).sum())
    loss.backward()
    torch.testing.assert_close(logp.grad, -a * w)


def test_kl_penalty_has_the_value_and_the_gradient_of_the_divergence():
    """9: over all tokens of a vocabulary, weighted by the sampling policy, against KL(p || q) by enumeration."""
    g = torch.Generator().manual_seed(0)
    theta, q = torch.randn(7, generator=g, dtype=torch.float64, requires_grad=True), torch.randn(7, generator=g, dtype=torch.float64).log_softmax(0)
    p = theta.log_softmax(0)
    exact = (p.exp() * (p - q)).sum()
    (wanted,) = torch.autograd.grad(exact, theta, retain_graph=True)
    expected = sum(p[y].exp().detach() * virl.kl_penalty(p[y:y + 1], p[y:y + 1].detach(), q[y:y + 1]) for y in range(7))
    torch.testing.assert_close(expected, exact)
    (gradient_,) = torch.autograd.grad(expected, theta, retain_graph=True)
    torch.testing.assert_close(gradient_, wanted)
    plain = sum(p[y].exp().detach() * ((q[y] - p[y]).exp() - 1 - (q[y] - p[y])) for y in range(7))  # without the ratio
    (other,) = torch.autograd.grad(plain, theta)
    assert torch.cosine_similarity(other, wanted, dim=0) < 0.99


def test_gradient_equals_naive_reinforce_and_ignores_micro_batches(loaded, samples):
    """2 and 3: one sample at a time, -A grad log p / N; then groups of 1, 2, 3 per micro-batch."""
    prompts, answers = rollouts_of(loaded, samples)
    advantage = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    n = sum(len(a) for group in answers for a in group)
    loaded.zero_grad()
    for p, prompt in enumerate(prompts):
        for g, answer in enumerate(answers[p]):
            (-loaded([prompt.extend(answer)])[0].sum() * advantage[p, g] / n).backward()
    naive = gradient(loaded)
    for size in (1, 2, 3):
        ours = update(loaded, prompts, answers, advantage, size)
        assert (ours - naive).norm() / naive.norm() < 1e-5


def test_groups_share_their_prompt_in_any_layout(loaded, samples, monkeypatch):
    """3: one row a group, or rows one behind the other: logprobs, entropies and gradients of each answer alone."""
    prompts, answers = rollouts_of(loaded, samples)
    groups = [virl.Group(s, p, 0, [Rollout(0, g, a, [], "stop", "") for g, a in enumerate(group)]) for s, p, group in zip(samples, prompts, answers)]
    alone = [loaded([p.extend(a)]) for p, group in zip(prompts, answers) for a in group]
    logp, entropy = (torch.cat(x) for x in zip(*alone))
    weights = torch.randn(len(logp), generator=torch.Generator().manual_seed(3))
    (logp * weights).sum().backward()
    naive = gradient(loaded)
    for limit in (4096, 0):
        monkeypatch.setattr(virl, "SHARED", limit)
        loaded.zero_grad()
        ours, ours_entropy = virl.score_tokens(loaded, groups)
        torch.testing.assert_close(ours, logp, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours_entropy, entropy, atol=1e-5, rtol=1e-5)
        (ours * weights).sum().backward()
        assert (gradient(loaded) - naive).norm() / naive.norm() < 1e-5


def test_clip_higher_and_dual_clip_by_hand():
    """Ratios 0.5, 1.1, 1.25, 2, 4 with either sign of the advantage; gradient 0 where clipped."""
    ratio = torch.tensor([0.5, 1.1, 1.25, 2.0, 4.0])
    for sign, value, live in ((1.0, [0.5, 1.1, 1.25, 1.28, 1.28], [1, 1, 1, 0, 0]), (-1.0, [-0.8, -1.1, -1.25, -2.0, -3.0], [0, 1, 1, 1, 0])):
        logp = ratio.log().requires_grad_()
        loss, metrics = virl.policy_loss(logp, torch.zeros(5), torch.zeros(5), torch.full((5,), sign), 0.2, 0.28)
        torch.testing.assert_close(loss, -torch.tensor(value).sum())
        loss.backward()
        assert (logp.grad != 0).int().tolist() == live
        assert (metrics["clipped_high"], metrics["clipped_low"]) == pytest.approx((0.4, 0) if sign > 0 else (0, 0.2))


def test_importance_weight_is_one_when_sampler_equals_trainer_and_capped_otherwise():
    """10."""
    z, a = torch.zeros(3), torch.ones(3)
    for sampled, weight, capped in ((z, 1, 0), (z - 5, virl.TIS_CAP, 1)):
        metrics = virl.policy_loss(z, z, sampled, a, 0.2, 0.28)[1]
        assert metrics["importance_weight"] == weight and metrics["importance_capped"] == capped


@pytest.mark.parametrize("kind", ["paper", "decoupled"])
def test_advantages(kind):
    """8: sum over a group 0, constant group dropped, infrastructure failures excluded, a failure below every render."""
    nan = float("nan")
    execution = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, nan, 0], [nan, nan, nan, 1]], dtype=float)
    visual = np.array([[.9, .8, .7, 0], [.5, .5, .5, .5], [.9, .2, nan, 0], [nan, nan, nan, .3]])
    reward = 0.1 + 0.9 * execution * visual
    advantage, kept = virl.group_advantages(reward, execution, kind)
    assert kept.tolist() == [True, False, True, False]
    assert abs(advantage[0].sum()) < 1e-6 and not advantage[1].any() and not advantage[3].any()
    assert advantage[2, 2] == 0 and abs(advantage[2].sum()) < 1e-6
    assert advantage[0, 0] > advantage[0, 1] > advantage[0, 2] > advantage[0, 3]


def test_decoupled_keeps_visual_differences_beside_a_failure():
    """The defect of the paper's normalisation that `decoupled` mends: seven renders .94-.97 and one failure."""
    visual = np.array([[.97, .965, .96, .955, .95, .945, .94, 0]])
    execution = np.array([[1.0] * 7 + [0.0]])
    spread = {}
    for kind in ("paper", "decoupled"):
        a, _ = virl.group_advantages(0.1 + 0.9 * execution * visual, execution, kind)
        spread[kind] = a[0, 0] - a[0, 6]
    assert spread["decoupled"] > 5 * spread["paper"]


def test_decoupled_counts_the_length_penalties():
    """Two equal renders, one of a longer answer; without penalties it is the formula in visual scores with a floor of 0.05."""
    visual, execution = np.array([[.9, .9, .5, 0]]), np.array([[1.0, 1, 1, 0]])
    ran = visual[0, :3]
    a, _ = virl.group_advantages(0.1 + 0.9 * visual, execution, "decoupled")
    np.testing.assert_allclose(a[0], [*(0.5 + (ran - ran.mean()) / max(ran.std(ddof=1), 0.05)), -1.5])
    longer, _ = virl.group_advantages(0.1 + 0.9 * visual - [[0, 0.25, 0, 0]], execution, "decoupled")
    assert longer[0, 0] > longer[0, 1] + 0.5


def test_bandit_is_solved(loaded, samples):
    """15: the reward is the share of one token, which the start draws now and then; the loop's own pieces bring it above .9 in 50 steps."""
    prompt = loaded.encode(samples[0].prompt, data.open_image(samples[0]))
    drawn = [t for r in generate(loaded, [prompt], 64, 8)[0] for t in r.token_ids if t != loaded.eos_id]
    word = max(set(drawn), key=drawn.count)
    optimizer = torch.optim.AdamW(loaded.parameters(), 5e-3)
    shares = []
    for step in range(50):
        ((*rollouts,),) = generate(loaded, [prompt], 16, 8, seeds=[[rollout_seed(step, g) for g in range(16)]])
        reward = np.array([[r.token_ids.count(word) / 8 for r in rollouts]])
        shares.append(reward.mean())
        advantage, _ = virl.group_advantages(reward, np.ones_like(reward), "paper")
        group = virl.Group(samples[0], prompt, 0, rollouts)
        logp, _ = virl.score_tokens(loaded, [group])  # [N]
        a = torch.cat([torch.full((len(r.token_ids),), float(x)) for r, x in zip(rollouts, advantage[0])])  # [N]
        sampled = torch.tensor([x for r in rollouts for x in r.logprobs])
        loss, _ = virl.policy_loss(logp, logp.detach(), sampled, a, 0.2, 0.28)
        (loss / len(logp)).backward()
        torch.nn.utils.clip_grad_norm_(loaded.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert shares[0] < 0.2 and np.mean(shares[-5:]) > 0.9, shares


def test_placeholders_are_banned_in_sampling_and_training(loaded, samples):
    """12: every special token but the end of the answer; what training scores has no probability for them either."""
    ids = {t: loaded.tokenizer.convert_tokens_to_ids(t) for t in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>")}
    assert {t for t, i in ids.items() if not loaded.banned[i]} == {"<|im_end|>"}
    prompt = loaded.encode(samples[0].prompt, data.open_image(samples[0]))
    hidden = torch.randn(1, loaded.model.config.text_config.hidden_size)
    logp, _ = P.token_logprobs(hidden, loaded.model.lm_head, torch.tensor([ids["<|im_end|>"]]), loaded.banned)
    logits = loaded.model.lm_head(hidden)[0].masked_fill(loaded.banned, float("-inf"))
    torch.testing.assert_close(logp[0], logits.log_softmax(-1)[ids["<|im_end|>"]])
    with torch.no_grad():  # a model that wants to say nothing else
        loaded.model.get_input_embeddings().weight[ids["<|image_pad|>"]] *= 50
    (group,) = generate(loaded, [prompt], 8, 12)
    assert not any(loaded.banned[t] for r in group for t in r.token_ids)


def test_overlong_penalty_is_soft():
    assert [virl.overlong_penalty(n, 96, 16) for n in (10, 80, 88, 96)] == [0, 0, 0.25, 0.5]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """40 samples in row groups of 4, two of them in a language that this machine does not render, one that is too long."""
    path, samples = tmp_path_factory.mktemp("prompts") / "rl" / "part-0.parquet", drawn_samples(40)
    for s, language in zip(samples, ["latex"] * 2 + ["svg"] * 38):
        s.language = language
    samples[7].prompt *= 100
    path.parent.mkdir()
    pq.write_table(data.table_of(samples), path, row_group_size=4)
    return data.Corpus(path.parent)


def prompts_of(corpus, **options):
    return Prompts(corpus, lambda samples: [len(s.prompt) for s in samples], 1000, {"latex": "no TeX"}, **{"seed": 0, **options})


def test_every_prompt_is_visited_once_per_epoch(corpus):
    """In another order each time, the same whoever asks for it first; what cannot be used is never among them."""
    prompts = prompts_of(corpus)
    assert len(prompts) == 37 and sorted(prompts.left_out.values()) == [1, 2] and not prompts.held_out
    first, second = ([prompts[k].id for k in range(epoch * 37, epoch * 37 + 37)] for epoch in (0, 1))
    assert set(first) == set(second) and len(set(first)) == 37 and first != second
    assert [prompts_of(corpus)[k].id for k in (50, 3)] == [second[50 - 37], first[3]]
    assert [prompts_of(corpus, seed=1)[k].id for k in range(37)] != first


def test_held_out_prompts_are_never_trained_on(corpus):
    """At most a tenth of them; the same ones whatever the seed."""
    prompts = prompts_of(corpus, held_out=64)
    assert len(prompts.held_out) == 3 and len(prompts) == 34
    held_out = {s.id for s in prompts.held_out}
    assert not held_out & {prompts[k].id for k in range(2 * 34)}
    assert {s.id for s in prompts_of(corpus, held_out=64, seed=5).held_out} == held_out


def test_wrong_data_are_refused(corpus, tmp_path):
    samples = [corpus[i] for i in range(40)]
    samples[3].image = b"no picture"
    data.write_samples(samples, tmp_path / "part-0.parquet")
    with pytest.raises(SystemExit, match="1 of 40 samples .* cannot be used.*unreadable image"):
        prompts_of(data.Corpus(tmp_path))
