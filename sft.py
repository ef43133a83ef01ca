"""Stage 1: supervised fine-tuning on image-code pairs.

Next-token cross-entropy on the answer (code and end-of-turn token), never on the instruction or the image.

    python sft.py                                           # 1 CPU or GPU: the embedded default, made if missing
    torchrun --nproc_per_node=2 sft.py                      # 2 processes: gloo on CPU, nccl on GPU, weights sharded
    torchrun --nproc_per_node=8 sft.py --model Qwen/Qwen3-VL-2B-Instruct --data DIR --lr 1e-5 --matrix-lr 0 \\
        --steps 12500 --batch 128 --micro-batch 2 --max-length 8192 --out out/sft

Left out here: sequence packing, LoRA, activation checkpointing.

Reads DIR/*.parquet; writes OUT (a Hugging Face directory), OUT/config.json is the model's; OUT/run.json the arguments;
OUT/metrics.jsonl one object per step; OUT/state the resumable state.
"""
import argparse
import json
import math
import signal
import time
from functools import lru_cache
from pathlib import Path

import torch

import data
import policy as P
import synth

# ------------------------------------------------------------------------------------------------------------ arguments
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
parser.add_argument("--model", default="out/tiny", help="model directory or hub id; out/tiny is built when missing")
parser.add_argument("--build-tiny", action="store_true", help="build the tiny random model at --model when nothing is there")
parser.add_argument("--data", default="out/data/sft", help="directory of parquet files; out/data/sft is made when missing")
parser.add_argument("--eval-data", default="", help="held-out samples for the in-loop loss (default: DATA/../test if there)")
parser.add_argument("--out", default="out/sft", help="directory to write")
parser.add_argument("--steps", type=int, default=1000, help="optimizer steps")
parser.add_argument("--max-seconds", type=float, default=0, help="stop after this much training time; the learning rate decays by it (0: by steps)")
parser.add_argument("--batch", type=int, default=32, help="samples per optimizer step over all processes")
parser.add_argument("--micro-batch", type=int, default=32, help="samples per forward and backward on one process")
parser.add_argument("--max-length", type=int, default=2048, help="tokens per sample at most; longer ones are set aside and counted")
parser.add_argument("--lr", type=float, default=3e-3, help="AdamW learning rate")
parser.add_argument("--matrix-lr", type=float, default=0.015, help="Muon learning rate of the inner matrices (0: AdamW for all)")
parser.add_argument("--weight-decay", type=float, default=0.01, help="decoupled weight decay of the inner matrices")
parser.add_argument("--warmup", type=int, default=20, help="steps of linear warm-up")
parser.add_argument("--decay", type=float, default=0.4, help="last fraction of the run with linear decay to zero")
parser.add_argument("--clip", type=float, default=5.0, help="gradient norm limit")
parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="type of the matrix products; weights stay float32")
parser.add_argument("--eval-every", type=int, default=200, help="steps between held-out losses (0: never)")
parser.add_argument("--save-every", type=int, default=200, help="steps between resumable states")
parser.add_argument("--seed", type=int, default=0, help="seed of the data order")
parser.add_argument("--resume", action="store_true", help="go on from the newest state in OUT")
parser.add_argument("--unsafe-render", action="store_true", help="making the embedded samples: render without confinement where none is possible")


def embedded_default(args):
    """Make the embedded samples and the tiny model where the default paths point to nothing (rank 0 only)."""
    if args.data == "out/data/sft" and not Path("out/data/rl/part-0.parquet").exists():  # the last file of `synth`
        synth.synth("out/data", unsafe=args.unsafe_render)
    if (args.model == "out/tiny" or args.build_tiny) and not Path(args.model).is_dir():
        P.build_tiny(args.model, [s.prompt + "\n" + s.answer for s in data.read_samples(args.data)], seed=args.seed)


def batch_plan(lengths, batch, seed, epoch):
    """All batches of an epoch, lists of indices: samples of similar length go together to save padding.

    A pure function of its arguments: shuffle, sort by length inside pools of 8 batches, cut. The last may be smaller.
    """
    order = data.epoch_order(len(lengths), seed, epoch)
    pools = [sorted(order[i:i + 8 * batch], key=lambda k: lengths[k]) for i in range(0, len(order), 8 * batch)]
    plan = [pool[i:i + batch] for pool in pools for i in range(0, len(pool), batch)]
    return [plan[i] for i in data.epoch_order(len(plan), seed, f"{epoch}/batches")]


def main():
    args = parser.parse_args()
    device = P.init_distributed()
    rank, world = P.world()
    main_rank = rank == 0
    if args.batch < world:
        raise SystemExit(f"error: --batch {args.batch} is smaller than the number of processes ({world}).")
    out = Path(args.out)
    if main_rank:
        embedded_default(args)
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.json").write_text(json.dumps(vars(args), indent=1))
        print("arguments: " + " ".join(f"{k}={v}" for k, v in vars(args).items()), f"| {world} process(es) on {device.type}")
    P.barrier()

    # ------------------------------------------------------------------------------------------------------------ model
    policy = P.load_policy(args.model, device)
    policy.dtype = getattr(torch, args.dtype)
    P.shard(policy)
    policy.train()
    optimizers = P.build_optimizers(policy, args.lr, args.matrix_lr, args.weight_decay)
    base_lr = [[g["lr"] for g in o.param_groups] for o in optimizers]

    # ------------------------------------------------------------------------------------------------------------- data
    samples = data.usable(data.read_samples(args.data), args.data)
    limit = min(args.max_length, policy.context)
    lengths = [policy.count_tokens(s.prompt, s.answer, s.width, s.height) for s in samples]
    fit = [i for i, n in enumerate(lengths) if n <= limit]
    if main_rank:
        print(f"{len(samples)} samples: {len(fit)} used, {len(samples) - len(fit)} set aside for more than {limit} tokens; "
              f"{sum(p.numel() for p in policy.parameters()) / 1e6:.2f}M parameters")
    if not fit:
        raise SystemExit(f"error: no sample of {args.data} fits {limit} tokens; raise --max-length.")
    samples, lengths = [samples[i] for i in fit], [lengths[i] for i in fit]

    @lru_cache(maxsize=4096 if max(s.width * s.height for s in samples) <= 128 * 128 else 0)
    def encode(i):
        s = samples[i]
        return policy.encode(s.prompt, data.open_image(s), s.answer)

    eval_dir = Path(args.eval_data) if args.eval_data else Path(args.data).parent / "test"
    held_out = data.usable(data.read_samples(eval_dir), eval_dir) if args.eval_data or eval_dir.is_dir() else []
    held_out = [held_out[i] for i in data.epoch_order(len(held_out), 0, "held-out")]
    held_out = [s for s in held_out if policy.count_tokens(s.prompt, s.answer, s.width, s.height) <= limit][:128]
    held_out = [policy.encode(s.prompt, data.open_image(s), s.answer) for s in held_out]

    def held_out_loss():
        """Mean cross-entropy per answer token over the held-out samples; every rank computes the same number."""
        with torch.no_grad():
            parts = [policy(held_out[i:i + args.micro_batch])[0] for i in range(0, len(held_out), args.micro_batch)]
        return -torch.cat(parts).mean().item()

    # ------------------------------------------------------------------------------------------------------------- loop
    steps_per_epoch = math.ceil(len(samples) / args.batch)
    step, elapsed, skipped = 0, 0.0, 0
    if args.resume:
        extra = P.load_state(out, policy, optimizers)
        step, elapsed, skipped = extra["step"], extra["elapsed"], extra["skipped"]
    if main_rank:
        P.trim_metrics(out / "metrics.jsonl", step)
    stop = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, frame: stop.append(number))
    bar = P.progress_bar("sft", args.steps, args.max_seconds, step, elapsed, main_rank)
    bad_in_a_row, plan, plan_epoch = 0, None, None
    while step < args.steps and not (args.max_seconds and elapsed >= args.max_seconds):
        started = time.perf_counter()
        progress = elapsed / args.max_seconds if args.max_seconds else step / args.steps
        progress = P.all_sum(progress, device) / world  # ranks' clocks differ: the learning rate must not
        scale = min(1, (step + 1) / max(1, args.warmup)) * min(1, (1 - progress) / max(args.decay, 1e-9))
        for optimizer, lrs in zip(optimizers, base_lr):
            for group, lr in zip(optimizer.param_groups, lrs):
                group["lr"] = lr * scale
        epoch = step // steps_per_epoch
        if plan_epoch != epoch:
            plan, plan_epoch = batch_plan(lengths, args.batch, args.seed, epoch), epoch
        indices = plan[step % steps_per_epoch]
        mine = indices[rank::world] or indices[:1]  # a rank without a sample still takes part, with weight 0
        weight = 1.0 if indices[rank::world] else 0.0
        examples = [encode(i) for i in mine]
        micros = [examples[i:i + args.micro_batch] for i in range(0, len(examples), args.micro_batch)]
        rounds = int(P.all_max(len(micros), device))  # FSDP2's collectives: every rank runs the same number of forwards

        # --- the step -------------------------------------------------------------------------------------------------
        n_tokens = P.all_sum(weight * sum(len(e.input_ids) - e.prompt_length for e in examples), device)
        loss_sum = 0.0
        for k in range(rounds):
            w = weight if k < len(micros) else 0.0
            logprobs, _ = policy(micros[k] if k < len(micros) else micros[0])  # [N]
            # SFT loss, L = -(1/N) sum_t log p(y_t | y_<t, image, instruction), N = answer tokens over all ranks and
            # micro-batches. FSDP2 averages gradients over ranks, hence the factor `world`.
            (-logprobs.sum() * w * world / n_tokens).backward()
            loss_sum += -logprobs.sum().item() * w
        loss = P.all_sum(loss_sum, device) / n_tokens
        norm = P.clip_gradients(policy, args.clip)
        if math.isfinite(loss) and math.isfinite(norm):
            for optimizer in optimizers:
                optimizer.step()
            bad_in_a_row = 0
        else:
            skipped, bad_in_a_row = skipped + 1, bad_in_a_row + 1
            if main_rank:
                with open(out / "nonfinite.jsonl", "a") as f:
                    f.write(json.dumps({"step": step, "ids": [samples[i].id for i in indices]}) + "\n")
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        # --------------------------------------------------------------------------------------------------------------
        step += 1
        elapsed += time.perf_counter() - started
        record = {"step": step, "epoch": epoch, "loss": loss, "grad_norm": norm, "lr": optimizers[0].param_groups[0]["lr"],
                  "answer_tokens": int(n_tokens), "tokens_per_second": n_tokens / (time.perf_counter() - started),
                  "skipped": skipped, "seconds": elapsed}
        if held_out and args.eval_every and (step % args.eval_every == 0 or step == args.steps):
            record["held_out_loss"] = held_out_loss()
        if main_rank:
            with open(out / "metrics.jsonl", "a") as f:
                f.write(json.dumps(record) + "\n")
            bar.set_postfix(step=step, loss=f"{loss:.3f}", tokens_s=f"{record['tokens_per_second']:.0f}", refresh=False)
            bar.update((min(elapsed, args.max_seconds) if args.max_seconds else step) - bar.n)
        if bad_in_a_row == 3:
            P.save_state(out, step, policy, optimizers, {"elapsed": elapsed, "skipped": skipped})
            raise SystemExit(f"error: loss or gradient was not finite in 3 steps in a row; sample ids in {out}/nonfinite.jsonl, "
                             f"state saved. Lower --lr or look at those samples, then --resume.")
        interrupted = P.all_max(len(stop), device) > 0  # ranks leave together
        if interrupted or step % args.save_every == 0:
            P.save_state(out, step, policy, optimizers, {"elapsed": elapsed, "skipped": skipped})
        if interrupted:
            bar.close()
            if main_rank:
                print(f"interrupted: state of step {step} saved in {out}/state; the same command with --resume goes on.")
            P.finish()
            return
    bar.close()

    # ------------------------------------------------------------------------------------------------------------- save
    P.save_policy(policy, out)
    if main_rank:
        print(f"wrote {out}: {step} steps in {elapsed:.0f} s, {skipped} skipped for non-finite values")
    P.finish()


if __name__ == "__main__":
    P.run(main)
