"""Stage 2, ViRL: reinforcement learning from rendered pixels (GRPO).

One step: sample a group of answers to each prompt -> run their code in the sandbox -> compare render and target ->
advantages inside the group -> one policy-gradient update. No code labels are needed, only target images.

    python virl.py                                          # 1 CPU or GPU: the embedded default, after sft.py
    torchrun --nproc_per_node=2 virl.py                     # 2 processes: gloo on CPU, nccl on GPU, weights sharded
    torchrun --nproc_per_node=8 virl.py --model out/sft --data DIR --lr 1e-6 --matrix-lr 0 --prompts 64 \\
        --max-new-tokens 4096 --micro-groups 1 --steps 164 --out out/virl

The algorithm is GRPO (arXiv 2402.03300 eq. 3) with the global token mean and clip-higher of DAPO (arXiv 2503.14476),
dual clip (arXiv 1912.09729) and, by default, advantages that keep execution and likeness apart. A KL term towards the
start model is optional (--kl); VinciCoder's released configuration has none.

Left out here: rollouts balanced between ranks.

Reads DIR/*.parquet; writes OUT (a Hugging Face directory), OUT/run.json, OUT/metrics.jsonl, OUT/rollouts/step_N.jsonl,
OUT/progress.html (curves, targets, renders and code, from OUT/samples; open it while training), OUT/best (the policy
that did best on held-out samples by the metric outside the reward, with best.json) and OUT/state.

Shapes: P prompts, G group, N answer tokens.
"""
import argparse
import json
import math
import os
import signal
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np
import torch

import data
import distributed as D
import policy as P
from eval import greedy_scores
from generate import generate, rollout_seed
from loader import Prompts, held_out_samples
from progress import write_progress
from render import HARMLESS, Renderer, available
from reward import WEIGHTS, extract_code, reward_named, score_group, scorers
from state import build_optimizers, claim, load_state, save_state, trim_metrics

# ------------------------------------------------------------------------------------------------------------ arguments
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
parser.add_argument("--model", type=cli.name, default="out/sft", help="model directory or hub id to start from")
parser.add_argument("--data", type=cli.name, default="out/data/rl", help="directory of parquet files; needs no code")
parser.add_argument("--out", type=cli.name, default="out/virl", help="directory to write")
parser.add_argument("--steps", type=cli.whole(1), default=144, help="rollout phases")
parser.add_argument("--max-seconds", type=cli.real(), default=0, help="stop after so much training time (0: by steps)")
parser.add_argument("--prompts", type=cli.whole(1), default=16, help="prompts per step over all processes")
parser.add_argument("--group", type=cli.whole(2), default=8, help="rollouts per prompt (G)")
parser.add_argument("--refill", type=cli.whole(0), default=0, help="rounds of further prompts where spread is lacking")
parser.add_argument("--max-new-tokens", type=cli.whole(1), default=96, help="tokens per answer at most")
parser.add_argument("--temperature", type=cli.real(above=True), default=1.0, help="of sampling and scoring")
parser.add_argument("--slots", type=cli.whole(1), default=128, help="rollouts decoded together on one process")
parser.add_argument("--updates", type=cli.whole(1), default=1, help="optimizer steps per rollout phase")
parser.add_argument("--micro-groups", type=cli.whole(1), default=8, help="groups per forward and backward of a process")
parser.add_argument("--reward", default="nanovinci",
                    help="nanovinci, paper (VinciCoder's formula; needs --encoder), or your MODULE:FUNCTION")
parser.add_argument("--encoder", default="", help="vision encoder mixed into the reward, such as facebook/dinov2-large")
parser.add_argument("--advantage", default="decoupled", choices=("decoupled", "paper"), help="how rewards are compared")
parser.add_argument("--clip-low", type=cli.real(), default=0.2, help="lower clip of the probability ratio")
parser.add_argument("--clip-high", type=cli.real(), default=0.28, help="upper clip of the probability ratio")
parser.add_argument("--kl", type=cli.real(), default=0.0,
                    help="weight of the KL divergence from --model, which is then held a second time (0: none)")
parser.add_argument("--overlong", type=cli.whole(0), default=16, help="tokens below the limit on which a penalty rises")
parser.add_argument("--lr", type=cli.real(), default=3e-4, help="AdamW learning rate")
parser.add_argument("--matrix-lr", type=cli.real(), default=0.002, help="Muon learning rate of matrices (0: AdamW)")
parser.add_argument("--weight-decay", type=cli.real(), default=0.0, help="decoupled weight decay of the inner matrices")
parser.add_argument("--warmup", type=cli.whole(0), default=5, help="steps of linear warm-up")
parser.add_argument("--decay", type=cli.real(0, 1), default=0.3, help="last fraction of the run: linear decay to 0")
parser.add_argument("--clip", type=cli.real(above=True), default=1.0, help="gradient norm limit")
parser.add_argument("--render-workers", type=cli.whole(0), default=0, help="renderers a process (0: cores / processes)")
parser.add_argument("--render-timeout", type=cli.real(above=True), default=10.0, help="seconds per program")
parser.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
parser.add_argument("--eval-data", default="",
                    help="held-out samples for the in-loop evaluation (default: up to a tenth of DATA, not trained on)")
parser.add_argument("--eval-every", type=cli.whole(0), default=36,
                    help="steps between greedy answers to held-out samples; the best policy is in OUT/best (0: never)")
parser.add_argument("--eval-samples", type=cli.whole(0), default=64, help="samples that are answered then")
parser.add_argument("--save-every", type=cli.whole(1), default=50, help="steps between resumable states")
parser.add_argument("--sample-every", type=cli.whole(1), default=25, help="steps between entries of OUT/progress.html")
parser.add_argument("--seed", type=cli.whole(0), default=0, help="seed of the data order and of every rollout")
parser.add_argument("--resume", action="store_true", help="go on from the newest state in OUT")
P.add_arguments(parser)

PARTS = ("reward", "execution", "visual", *WEIGHTS, "format", "length_penalty", "overlong")
WORK = ("seconds_render", "seconds_reward")  # of the processes that render and score
MIN_SPREAD = 1e-3  # a group whose rewards differ by less carries no signal: dropped and counted
ENOUGH = 0.75  # share of --prompts with a spread from which --refill asks for no more
SHARED = 4096  # tokens of a group, prompt once and all answers, up to which they share a row (and its mask)
TIS_CAP = 2.0  # cap of the importance weight between sampler and trainer (truncated importance sampling)
DUAL_CLIP = 3.0  # arXiv 1912.09729, as in VinciCoder's released configuration


# ------------------------------------------------------------------------------------------------------- the algorithm

def group_advantages(reward, execution, kind):
    """Advantages of groups of rollouts. reward, execution: float arrays [P, G], NaN where our renderer failed.

    Returns (advantage [P, G], kept bool [P]); failures of the infrastructure and dropped groups get advantage 0.
    paper: (r - mean r) / (std r + 1e-6), GRPO's outcome supervision (arXiv 2402.03300, section 4.1.2).
    decoupled: 2 (e - mean e) + 1[e = 1] (r - mean_E r) / max(std_E r, 0.045), clipped to [-3, 3], with E the rollouts
    that executed. In `paper` one failure among seven good renders swallows the differences between those 30-fold.
    """
    valid = np.isfinite(reward)  # [P, G]
    advantage = np.zeros(reward.shape)
    kept = np.zeros(len(reward), dtype=bool)
    for p in range(len(reward)):
        ok = valid[p]
        r, e = reward[p, ok], execution[p, ok]
        if len(r) < 2 or r.max() - r.min() <= MIN_SPREAD:
            continue
        kept[p] = True
        if kind == "paper":
            advantage[p, ok] = (r - r.mean()) / (r.std(ddof=1) + 1e-6)
            continue
        a, ran = 2 * (e - e.mean()), e > 0
        if ran.sum() >= 2:
            a[ran] += (r[ran] - r[ran].mean()) / max(r[ran].std(ddof=1), 0.045)  # 0.05 of the visual score
        advantage[p, ok] = np.clip(a, -3, 3)
    return advantage, kept


def policy_loss(logp, old, rollout_logp, advantage, clip_low, clip_high):
    """Summed loss of tokens, all [N]: log-probabilities now, before this phase's updates, while sampling; advantage.

    Clipped objective of GRPO eq. 3 (arXiv 2402.03300) with asymmetric clip and dual clip, weighted by the capped
    sampler-to-trainer ratio. Returns (loss sum, {metric: mean over the tokens, or largest}).
    """
    gap = old - rollout_logp  # [N]
    weight = gap.exp().clamp(max=TIS_CAP)  # [N]
    ratio = (logp - old).exp()  # [N]; exactly 1 at the first update
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    surrogate = torch.where(advantage < 0, torch.maximum(surrogate, DUAL_CLIP * advantage), surrogate)
    drift = logp.detach() - rollout_logp  # [N]
    means = dict(clipped_high=(ratio > 1 + clip_high) & (advantage > 0), importance_weight=weight,
                 clipped_low=(ratio < 1 - clip_low) & (advantage < 0), importance_capped=gap.exp() > TIS_CAP,
                 logprob_gap=gap.abs(), approx_kl=drift.exp() - 1 - drift)  # each [N]
    metrics = {**{k: v.float().mean().item() for k, v in means.items()}, "logprob_gap_max": gap.abs().max().item()}
    return -(weight * surrogate).sum(), metrics


def kl_penalty(logp, old, reference):
    """Summed KL(policy || reference) of tokens, all [N]: log-probabilities now, before this phase's updates, of the
    reference.

    Schulman's k3 = q/p - 1 - log(q/p), at least 0 for every token (http://joschu.net/blog/kl-approx.html), times the
    ratio to the sampling policy: only with that factor is its gradient that of the KL divergence; GRPO eq. 4 lacks it.
    """
    gap = reference - logp  # [N]
    return ((logp - old).exp() * (gap.exp() - 1 - gap)).sum()


def overlong_penalty(length, limit, buffer):
    """Soft length penalty (DAPO eq. 13): 0 up to limit - buffer tokens, rising linearly to 0.5 at the limit."""
    return 0.5 * min(1.0, max(0.0, (length - (limit - buffer)) / max(1, buffer)))


# ------------------------------------------------------------------------------------------------ rollouts and rewards

@dataclass
class Group:
    """One prompt and its G rollouts, from the sampling to the update."""
    sample: data.Sample
    prompt: P.Example
    number: int  # of the prompt in the endless row of prompts
    rollouts: list = None  # G Rollout
    judged: Future = None  # of `judge`
    rows: list = None  # G dicts of reward parts
    renders: list = None  # G images [H, W, 3], None where there is none
    advantage: np.ndarray = None  # [G]
    kept: bool = False

    def settle(self, kind):
        """Wait for the rewards and turn them into advantages; returns the seconds waited."""
        started = time.perf_counter()
        if self.rows is None:
            self.rows, self.renders = self.judged.result()
            reward, execution = (np.array([[float(row[k]) for row in self.rows]]) for k in ("reward", "execution"))
            (self.advantage,), (self.kept,) = group_advantages(reward, execution, kind)
        return time.perf_counter() - started


def judge(sample, rollouts, futures, reference, pool, args):
    """Wait for the renders of one group and have it scored in a process of `pool`.

    rollouts: G Rollout; futures: G Future[Render], None where there is no code; reference: Future[Render] of the
    target's own program, where the data has one: it knows the texts. Returns (G dicts with `reward` after the length
    penalty, G images or None). Raises SystemExit with one line where the reward function raises.
    """
    renders = [future and future.result() for future in futures]
    target = np.asarray(data.open_image(sample))  # [H, W, 3]
    answers = [(render, r.text) for render, r in zip(renders, rollouts)]
    code, _ = extract_code(sample.answer, sample.language)
    try:
        rows = pool.submit(score_group, target, sample.language, answers, reference and reference.result(), code,
                           args.reward).result()
    except Exception as e:  # someone's own function may raise anything
        why = str(e).splitlines()[0] if str(e) else ""
        raise SystemExit(f"error: the reward {args.reward} raised {type(e).__name__}: {why} at an answer to sample "
                         f"{sample.id}. States already saved are intact: mend it, then --resume.") from None
    for row, rollout, render in zip(rows, rollouts, renders):
        row["overlong"] = overlong_penalty(len(rollout.token_ids), args.max_new_tokens, args.overlong)
        row["reward"] -= row["overlong"]
        row["seconds_render"] = render.seconds if render else 0.0
        row["status"] = render.status if render else "no code"
        row["message"] = render.message if render else "no single fenced block"
    return rows, [render and render.image for render in renders]


def roll_out(policy, groups, renderer, pool, judges, args, timing):
    """Sample the rollouts of all groups, in place. A program is rendered as soon as its answer has ended, and a group
    scored when it is complete, while other rows still decode; what then still runs is waited for in `Group.settle`."""
    finished = [{} for _ in groups]  # {g: (Rollout, Future[Render] or None)} of each group

    def submit(sample, text):
        code = extract_code(text, sample.language)[0]
        return code and renderer.submit(sample.language, code, (sample.width, sample.height))

    def on_finish(rollout):
        group, mine = groups[rollout.example], finished[rollout.example]
        mine[rollout.sample] = rollout, submit(group.sample, rollout.text)
        if len(mine) == args.group:
            group.rollouts, renders = zip(*(mine[g] for g in range(args.group)))
            reference = submit(group.sample, group.sample.answer)
            group.judged = judges.submit(judge, group.sample, group.rollouts, renders, reference, pool, args)

    policy.dtype = torch.float32 if policy.device.type == "cpu" else getattr(torch, args.dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))  # two renderers and two decoding threads on two cores hinder each other
    seeds = [[rollout_seed(args.seed, group.number, group.sample.id, g) for g in range(args.group)] for group in groups]
    try:
        prompts = [group.prompt for group in groups]
        generate(policy, prompts, args.group, args.max_new_tokens, args.temperature, seeds, args.slots, on_finish,
                 timing=timing)
    except ValueError as e:  # the cache of a single rollout does not fit the memory
        raise SystemExit(f"error: {e}.") from None
    finally:
        torch.set_num_threads(threads)


def collect(policy, prompts, position, renderer, pool, judges, args, timing):
    """The rollouts of one step: of `prompts` from `position` on each rank takes its own in turn, with --refill further
    ones until enough groups of all ranks have a spread.

    Returns (this rank's list of Group, number of prompts that all ranks together have used). Raises SystemExit where
    log-probabilities are not finite. Collective.
    """
    (rank, world), groups, used, missing = D.world(), [], 0, args.prompts
    for _ in range(1 + args.refill):
        numbers = range(position + used, position + used + missing)[rank::world]
        fresh = [Group(s := prompts[number], policy.encode(s.prompt, data.open_image(s)), number) for number in numbers]
        roll_out(policy, fresh, renderer, pool, judges, args, timing)
        groups, used = groups + fresh, used + missing
        if D.all_max(any(not math.isfinite(sum(r.logprobs)) for group in fresh for r in group.rollouts), policy.device):
            raise SystemExit("error: the log-probabilities of the rollouts are not finite: an earlier update has "
                             "broken the weights. Lower --lr and --matrix-lr and start anew from --model, or from an "
                             f"older state: remove the newer ones in {Path(args.out) / 'state'}, then --resume.")
        if args.refill:
            timing["reward_wait"] += sum(group.settle(args.advantage) for group in fresh)
            missing = args.prompts - int(D.all_sum(sum(group.kept for group in groups), policy.device))
            if missing <= (1 - ENOUGH) * args.prompts:
                break
    return groups, used


# ----------------------------------------------------------------------------------------------------------- the update

def micro_batches(groups, args, timing):
    """Yields lists of at most --micro-groups groups that have a spread, first those that are judged first, so that the
    update begins while the last programs are still rendered. Which groups share a list is not a matter of speed."""
    def last_judged(group):
        return group.sample.language not in HARMLESS, max(len(r.token_ids) for r in group.rollouts)
    together = []
    for group in sorted(groups, key=last_judged):
        timing["reward_wait"] += group.settle(args.advantage)
        if group.kept:
            together.append(group)
        if len(together) == args.micro_groups:
            yield together
            together = []
    if together:
        yield together


def score_tokens(policy, groups):
    """Log-probabilities and entropies, [N] each, of all answer tokens of the groups. The vision tower runs once a
    group, and so does the prompt, all answers following it in one row; groups too long for the mask that this needs
    lie one answer behind the other."""
    longest = max(len(group.prompt.input_ids) + sum(len(r.token_ids) for r in group.rollouts) for group in groups)
    if longest <= SHARED and not policy.recurrent:
        return policy([group.prompt.branch([r.token_ids for r in group.rollouts]) for group in groups])
    rows = [group.prompt.extend(r.token_ids) for group in groups for r in group.rollouts]
    images = [p for p, group in enumerate(groups) for _ in group.rollouts]
    return policy(rows, images)


def before_updates(policy, micros):
    """Log-probabilities of the answers of each micro-batch, without gradient: {number of its first group: [N]}.
    Collective."""
    with torch.no_grad(), D.gathered(policy):  # ranks may hold different numbers of kept groups
        return {groups[0].number: score_tokens(policy, groups)[0] for groups in micros}


def update(policy, reference, optimizers, micros, old_logp, spare, args):
    """One optimizer step, in which every kept token weighs the same, whatever rank, micro-batch or answer it stands in.

    micros: iterator over this rank's micro-batches, lists of Group; old_logp: see `before_updates`, empty where the
    weights have not changed since; spare: an Example for a rank that has fewer micro-batches than others.
    Returns (loss, gradient norm, [(tokens, {metric: mean over them, or largest})]), where no rank has a token
    (None, None, []). Where loss or norm is not finite the weights stay as they are. Collective.
    """
    device, (_, world) = policy.device, D.world()
    loss_sum, n_tokens, stats = 0.0, 0, []
    while D.all_max((groups := next(micros, None)) is not None, device):
        if groups is None:  # nothing left here, but FSDP2's collectives need every rank
            (policy([spare])[0].sum() * 0).backward()
            if reference:
                with torch.no_grad():
                    reference([spare])
            continue
        logp, entropy = score_tokens(policy, groups)  # [N], [N]
        answers = [(r, a) for group in groups for r, a in zip(group.rollouts, group.advantage)]
        sampled = torch.tensor([x for r, _ in answers for x in r.logprobs], device=device)  # [N]
        lengths = torch.tensor([len(r.token_ids) for r, _ in answers])  # [rollouts]
        advantage = torch.tensor([float(a) for _, a in answers]).repeat_interleave(lengths).to(device)  # [N]
        old = old_logp.get(groups[0].number, logp.detach())  # [N]
        loss, metrics = policy_loss(logp, old, sampled, advantage, args.clip_low, args.clip_high)
        metrics["entropy"] = entropy.mean().item()
        if reference:
            with torch.no_grad():
                known = score_tokens(reference, groups)[0]  # [N]
            penalty = kl_penalty(logp, old, known)
            loss, metrics["kl"] = loss + args.kl * penalty, penalty.item() / len(logp)
        loss.backward()
        loss_sum, n_tokens = loss_sum + loss.item(), n_tokens + len(logp)
        stats.append((len(logp), metrics))
    n_tokens = D.all_sum(n_tokens, device)
    if not n_tokens:
        return None, None, stats
    # Global token mean (DAPO eq. 8): the divisor counts the tokens of all ranks; FSDP2 averages over ranks, hence the
    # factor `world`.
    for p in policy.parameters():
        if p.grad is not None:
            p.grad.mul_(world / n_tokens)
    loss, norm = D.all_sum(loss_sum, device) / n_tokens, D.clip_gradients(policy, args.clip)
    if math.isfinite(loss) and math.isfinite(norm):
        layers = policy.model.model.language_model.layers
        watched = list(layers[len(layers) // 2].parameters())  # how far a step moves them is a metric
        before = [p.detach().clone() for p in watched]
        for optimizer in optimizers:
            optimizer.step()
        change, size = (D.all_sum(sum(D.local(x).square().sum().item() for x in xs), device)
                        for xs in ([p.detach() - b for p, b in zip(watched, before)], before))
        stats.append((n_tokens, {"update_ratio": math.sqrt(change / size)}))
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    return loss, norm, stats


# -------------------------------------------------------------------------------------------------------------- records

def step_record(step, groups, stats):
    """Metrics of one step over all ranks; README ("Metrics") explains the keys.

    groups: this rank's, settled; stats: [(tokens, {metric: mean over them, or largest})] of its updates. Collective.
    """
    def of(group, row, rollout, advantage):
        return {**{k: row.get(k, 0.0) for k in (*PARTS, *WORK)}, "status": row["status"], "finish": rollout.finish,
                "language": group.sample.language, "length": len(rollout.token_ids), "kept": group.kept,
                "advantage_abs": abs(float(advantage))}

    def mean(values):
        return float(np.mean(values)) if values else None

    def means(keys, rows):
        return {k: mean([row[k] for row in rows]) for k in keys}
    found = D.all_lists([[of(g, *each) for each in zip(g.rows, g.rollouts, g.advantage)] for g in groups])
    rows = [row for group in found for row in group]
    known = [row for row in rows if math.isfinite(row["reward"])]  # without what our own renderer lost
    record = {"step": step, **means(PARTS, known), "languages": {}}
    record["reward_std"] = float(np.std([row["reward"] for row in known])) if known else None
    for language in sorted({row["language"] for row in known}):
        mine = [row for row in known if row["language"] == language]
        record["languages"][language] = {"rollouts": len(mine), **means(("reward", "execution", "visual"), mine)}

    rewards = [[row["reward"] for row in group if math.isfinite(row["reward"])] for group in found]
    ran = [[row["execution"] > 0 for row in group] for group in found]
    record.update(groups=len(found), kept=mean([group[0]["kept"] for group in found]),
                  spread=mean([max(r) - min(r) for r in rewards if r]),
                  all_failed=mean([not any(r) for r in ran]), all_ran=mean([all(r) for r in ran]))

    states, lengths = [row["status"] for row in rows], [row["length"] for row in rows]
    record.update(rollouts=len(rows), status={s: states.count(s) for s in sorted(set(states))},
                  infra=len(rows) - len(known), timeout=states.count("timeout"),
                  length=mean(lengths), length_p50=float(np.median(lengths)), length_max=max(lengths),
                  length_p95=float(np.percentile(lengths, 95)),
                  length_ran=mean([row["length"] for row in rows if row["execution"] > 0]),
                  length_failed=mean([row["length"] for row in rows if not row["execution"] > 0]),
                  truncated=mean([row["finish"] == "length" for row in rows]),
                  **means(["advantage_abs"], rows), **{k: sum(row[k] for row in rows) for k in WORK})

    stats = D.all_lists(stats)
    for key in {k: None for _, metrics in stats for k in metrics}:
        n, values = zip(*((n, metrics[key]) for n, metrics in stats if key in metrics))
        record[key] = max(values) if key.endswith("_max") else float(np.average(values, weights=n))
    return record


def write_rollouts(path, groups):
    """One JSON object per rollout: prompt id, response, reward parts, status, advantage."""
    with open(path, "w") as f:
        for group in groups:
            for g, (rollout, parts, advantage) in enumerate(zip(group.rollouts, group.rows, group.advantage)):
                row = {"id": group.sample.id, "sample": g, "response": rollout.text, "finish": rollout.finish,
                       "tokens": len(rollout.token_ids), "advantage": float(advantage),
                       **{k: v for k, v in parts.items() if isinstance(v, (int, float, str))}}
                f.write(json.dumps(row) + "\n")


# ----------------------------------------------------------------------------------------------------------------- main

def main():
    args = parser.parse_args()
    claim(args.out, args.resume)
    device = D.init_distributed()
    rank, world = D.world()
    main_rank = rank == 0
    if args.prompts < world:
        raise SystemExit(f"error: --prompts {args.prompts} is smaller than the number of processes ({world}).")
    reward_named(args.reward, args.encoder)  # a wrong name ends here
    out = Path(args.out)
    policy = P.load_policy(args.model, device)
    if main_rank:
        (out / "rollouts").mkdir(parents=True, exist_ok=True)
        (out / "run.json").write_text(json.dumps(vars(args), indent=1))
        print("arguments:", *(f"{k}={v}" for k, v in vars(args).items()), f"| {world} process(es) on {device.type}")
    D.barrier()

    # ------------------------------------------------------------------------------------------- model, optimizer, data
    P.prepare(policy, args)
    reference = None
    if args.kl:
        reference = P.load_policy(args.model, device).requires_grad_(False).eval()
        reference.dtype = getattr(torch, args.dtype)  # before sharding: the gathered copies take it
        D.shard(reference, args.replicas)
    optimizers = build_optimizers(policy, args.lr, args.matrix_lr, args.weight_decay)
    base_lr = [[g["lr"] for g in o.param_groups] for o in optimizers]
    absent = {} if args.unsafe_render else {language: why for language, why in available().items() if why}
    measure, limit = lambda samples: policy.count_tokens(samples, answers=False), policy.context - args.max_new_tokens
    aside = args.eval_samples if args.eval_every and not args.eval_data else 0
    prompts = Prompts(data.Corpus(args.data), measure, limit, absent, args.seed, aside)
    held_out = prompts.held_out
    if args.eval_every and args.eval_data:
        drawn = (s for s in held_out_samples(args.eval_data, measure, limit, answer=False) if s.language not in absent)
        held_out = list(drawn)[:args.eval_samples]
    if main_rank:
        why = "; ".join(f"{n} {reason}" for reason, n in prompts.left_out.items()) or "none"
        print(f"{len(prompts)} prompts; set aside: {why}; held out for evaluation: {len(held_out)}")
    if not len(prompts):
        raise SystemExit(f"error: no prompt of {args.data} can be rendered here and leaves room for "
                         f"{args.max_new_tokens} new tokens.")

    # ------------------------------------------------------------------------------------------------------------- loop
    step, position, elapsed, skipped, best = 0, 0, 0.0, 0, -1.0  # position: prompts used so far, over all ranks
    if args.resume:
        extra = load_state(out, policy, optimizers)
        step, position, elapsed, skipped, best = (extra[k] for k in ("step", "position", "elapsed", "skipped", "best"))
    state = lambda: {"position": position, "elapsed": elapsed, "skipped": skipped, "best": best}
    if main_rank:
        trim_metrics(out / "metrics.jsonl", step)
    stop = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, frame: stop.append(number))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    workers = args.render_workers or max(1, (os.cpu_count() or 1) // local)
    bar = cli.progress_bar("virl", args.steps, args.max_seconds, step, elapsed, main_rank)
    bad_in_a_row = 0
    with Renderer(workers=workers, timeout=args.render_timeout, unsafe=args.unsafe_render, cache=20000) as renderer, \
            scorers(workers, args.encoder) as pool, ThreadPoolExecutor(args.prompts) as judges:
        while step < args.steps and not (args.max_seconds and elapsed >= args.max_seconds):
            started, timing = time.perf_counter(), defaultdict(float)  # seconds of each part
            progress = elapsed / args.max_seconds if args.max_seconds else step / args.steps
            progress = D.all_sum(progress, device) / world  # ranks' clocks differ: the learning rate must not
            scale = min(1, (step + 1) / max(1, args.warmup)) * min(1, (1 - progress) / max(args.decay, 1e-9))
            for optimizer, lrs in zip(optimizers, base_lr):
                for group, lr in zip(optimizer.param_groups, lrs):
                    group["lr"] = lr * scale

            # --- the step ---------------------------------------------------------------------------------------------
            groups, used = collect(policy, prompts, position, renderer, pool, judges, args, timing)
            rolled_out, waited = time.perf_counter(), timing["reward_wait"]
            policy.train()
            policy.dtype = getattr(torch, args.dtype)
            # A group's update follows from its place among the prompts of all ranks: the same on any number of them.
            shares = [[] for _ in range(args.updates)]
            for group in groups:
                shares[(group.number - position) * args.updates // used].append(group)
            updates, old_logp = [micro_batches(share, args, timing) for share in shares], {}
            if args.updates > 1:
                updates = [list(micros) for micros in updates]
                old_logp = before_updates(policy, [groups for micros in updates for groups in micros])
            spare, stats, loss, norm = groups[0].prompt.extend([policy.eos_id]), [], None, None
            for micros in updates:
                outcome = update(policy, reference, optimizers, iter(micros), old_logp, spare, args)
                stats += outcome[2]
                if outcome[0] is None:
                    continue
                loss, norm = outcome[:2]
                bad_in_a_row = 0 if math.isfinite(loss) and math.isfinite(norm) else bad_in_a_row + 1
                if bad_in_a_row:
                    skipped, ids = skipped + 1, [group.sample.id for group in groups]
                    with open(out / "nonfinite.jsonl", "a") as f:
                        f.write(json.dumps({"step": step, "rank": rank, "ids": ids}) + "\n")
            ended = time.perf_counter()

            # --- records, evaluation, states --------------------------------------------------------------------------
            step, position, elapsed = step + 1, position + used, elapsed + ended - started
            record = step_record(step, groups, stats)
            record.update({f"seconds_{k}": timing[k] for k in ("reward_wait", "prefill", "decode", "gather")})
            record.update(seconds=elapsed, seconds_rollout=rolled_out - started - waited,
                          seconds_update=ended - rolled_out - (timing["reward_wait"] - waited),
                          rollout_tokens_per_second=record["length"] * record["rollouts"] / (rolled_out - started),
                          occupancy=timing["busy"] / max(1, timing["slots"]), confinement=renderer.confinement,
                          memory_gb=D.all_max(D.memory_used(device), device) / 1e9, loss=loss, grad_norm=norm,
                          skipped=skipped, lr=optimizers[0].param_groups[0]["lr"], position=position)
            write_rollouts(out / "rollouts" / f"step_{step}{'' if world == 1 else f'.rank{rank}'}.jsonl", groups)
            if held_out and (step % args.eval_every == 0 or step == args.steps):
                scores = greedy_scores(policy, held_out, renderer, args.max_new_tokens)
                record.update({f"held_out_{k}": v for k, v in scores.items()})
                if record["held_out_outside"] > best:  # not by the reward: its hacks would be chosen
                    best = record["held_out_outside"]
                    P.save_policy(policy, out / "best")
                    if main_rank:
                        known = {k: v for k, v in record.items() if k == "step" or k.startswith("held_out")}
                        (out / "best" / "best.json").write_text(json.dumps(known))
            if main_rank:
                with open(out / "metrics.jsonl", "a") as f:
                    f.write(json.dumps(record) + "\n")
                if step % args.sample_every == 0 or step == 1:
                    write_progress(out, step, groups)
                bar.set_postfix(step=step, reward=f"{record['reward'] or 0:.3f}", run=f"{record['execution'] or 0:.2f}",
                                kept=f"{record['kept']:.2f}", refresh=False)
                bar.update((min(elapsed, args.max_seconds) if args.max_seconds else step) - bar.n)
            if bad_in_a_row >= 3:
                save_state(out, step, policy, optimizers, state())
                raise SystemExit(f"error: loss or gradient was not finite 3 times in a row; prompts in "
                                 f"{out}/nonfinite.jsonl, state saved. Lower --lr, then --resume.")
            interrupted = D.all_max(len(stop), device) > 0  # ranks leave together
            if interrupted or step % args.save_every == 0:
                save_state(out, step, policy, optimizers, state())
            if interrupted:
                bar.close()
                if main_rank:
                    print(f"interrupted: state of step {step} saved in {out}/state; the same command with --resume "
                          "goes on.")
                D.finish()
                raise SystemExit(130 if signal.SIGINT in stop else 0)  # after Ctrl-C what follows && must not go on
    bar.close()
    P.save_policy(policy, out)
    if main_rank:
        print(f"wrote {out}: {step} steps in {elapsed:.0f} s, {skipped} updates skipped for non-finite values")
    D.finish()


if __name__ == "__main__":
    D.run(main)
