"""Stage 1: supervised fine-tuning on image-code pairs.

Next-token cross-entropy on the answer (code and end-of-turn token), never on the instruction or the image.

    python sft.py                                           # 1 CPU or GPU: the embedded default, made if missing
    torchrun --nproc_per_node=2 sft.py                      # 2 processes: gloo on CPU, nccl on GPU, weights sharded
    torchrun --nproc_per_node=8 sft.py --model Qwen/Qwen3-VL-2B-Instruct --data DIR --lr 1e-5 --matrix-lr 0 \\
        --steps 10400 --pack 16384 --batch 16 --max-length 8192 --load-workers 2 --out out/sft

What goes through the model together lies one behind the other in a row, each sample attending to itself alone: nothing
is padded. --batch counts samples drawn at random, or with --pack rows of so many tokens, filled by best fit, so that
every forward costs the same. Either way the stream of samples is `loader.Stream`: a run that is cut goes on with just
the samples that it had not seen, on any number of processes.

Reads DIR/*.parquet; writes OUT (a Hugging Face directory), OUT/config.json is the model's; OUT/run.json the arguments;
OUT/metrics.jsonl one object per step; OUT/state the resumable state.
"""
import argparse
import itertools
import json
import math
import os
import signal
import time
from functools import lru_cache
from pathlib import Path

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import torch

import data
import distributed as D
import plan
import policy as P
import render
import synth
import tiny
from loader import POOL, Stream, bucket, held_out_samples, pack
from state import build_optimizers, claim, load_state, save_state, trim_metrics

# ------------------------------------------------------------------------------------------------------------ arguments
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
parser.add_argument("--model", type=cli.name, default="out/tiny",
                    help="model directory or hub id; out/tiny is built when missing")
parser.add_argument("--build-tiny", action="store_true",
                    help="build the tiny random model at --model when nothing is there")
parser.add_argument("--data", type=cli.name, default="out/data/sft",
                    help="directory of parquet files; out/data/sft is made when missing")
parser.add_argument("--eval-data", default="",
                    help="held-out samples for the in-loop loss (default: DATA/../test if there)")
parser.add_argument("--out", type=cli.name, default="out/sft", help="directory to write")
parser.add_argument("--steps", type=cli.whole(1), default=1000, help="optimizer steps")
parser.add_argument("--max-seconds", type=cli.real(), default=0,
                    help="stop after this much training time; the learning rate decays by it (0: by steps)")
parser.add_argument("--batch", type=cli.whole(1), default=32,
                    help="samples (with --pack: rows) per optimizer step over all processes")
parser.add_argument("--pack", type=cli.whole(0), default=0,
                    help="tokens of a row filled with samples, one forward and backward (0: --batch counts samples)")
parser.add_argument("--micro-batch", type=cli.whole(1), default=32,
                    help="without --pack: samples per forward and backward on one process")
parser.add_argument("--max-length", type=cli.whole(1), default=2048,
                    help="tokens per sample at most; longer ones are set aside and counted")
parser.add_argument("--load-workers", type=cli.whole(0), default=0,
                    help="processes that read and encode samples ahead (0: in the training process)")
parser.add_argument("--compile", action="store_true",
                    help="compile each layer (torch.compile): a minute at the start, then fewer and larger kernels; "
                         "for GPUs")
parser.add_argument("--lr", type=cli.real(), default=3e-3, help="AdamW learning rate")
parser.add_argument("--matrix-lr", type=cli.real(), default=0.015,
                    help="Muon learning rate of the inner matrices (0: AdamW for all)")
parser.add_argument("--weight-decay", type=cli.real(), default=0.01,
                    help="decoupled weight decay of the inner matrices")
parser.add_argument("--warmup", type=cli.whole(0), default=20, help="steps of linear warm-up")
parser.add_argument("--decay", type=cli.real(0, 1), default=0.4,
                    help="last fraction of the run with linear decay to zero")
parser.add_argument("--clip", type=cli.real(above=True), default=5.0, help="gradient norm limit")
parser.add_argument("--eval-every", type=cli.whole(0), default=200, help="steps between held-out losses (0: never)")
parser.add_argument("--render-every", type=cli.whole(0), default=500,
                    help="steps between greedy answers to held-out samples that are rendered and scored (0: never)")
parser.add_argument("--eval-samples", type=cli.whole(0), default=32, help="samples that are answered then")
parser.add_argument("--save-every", type=cli.whole(1), default=200, help="steps between resumable states")
parser.add_argument("--seed", type=cli.whole(0), default=0, help="seed of the data order")
parser.add_argument("--resume", action="store_true", help="go on from the newest state in OUT")
parser.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
P.add_arguments(parser)


def embedded_default(args):
    """Make the embedded samples and the tiny model where the default paths point to nothing (rank 0 only)."""
    if args.data == "out/data/sft" and not Path("out/data/rl/part-0.parquet").exists():  # the last file of `synth`
        synth.synth("out/data", unsafe=args.unsafe_render)
    if (args.model == "out/tiny" or args.build_tiny) and not Path(args.model).is_dir():
        tiny.build_tiny(args.model, [s.prompt + "\n" + s.answer for s in data.read_samples(args.data)], seed=args.seed)


class Encoded(torch.utils.data.Dataset):
    """Encodes samples, in the loading processes or in this one; keep: so many encoded ones are kept.

    A key of `shares` -> (key, Example, {number of a sample that was replaced: reason}). Raises SystemExit where the
    sample and all its stand-ins cannot be used.
    """

    def __init__(self, corpus, policy, keep):
        self.corpus, self.policy = corpus, policy
        self.encode = lru_cache(maxsize=keep)(self.encode)

    def encode(self, i):
        """Sample number i -> Example with its answer. Raises ValueError where it cannot be used."""
        s = self.corpus[i]
        return self.policy.encode(s.prompt, data.open_image(s), s.answer)

    def __getitem__(self, key):
        replaced = {}
        for i in (key[0], *key[1]):
            try:
                return key, self.encode(i), replaced
            except ValueError as error:
                replaced[i] = str(error)
        raise SystemExit(f"error: sample {self.corpus[key[0]].id} of {self.corpus.path} and its stand-ins cannot be "
                         f"used: {set(replaced.values())}")


def shares(stream, position, args, rank, world):
    """This rank's share of every step from `position` on, without end.

    Yields lists of (sample, stand-ins, micro-batch, position after the step, whether it counts), all ints but the
    stand-ins, a list, and the last. What a step holds does not depend on the number of processes. A rank for which
    nothing is left takes part with a sample that does not count.
    """
    bins = stream.bins(position)
    while True:
        if args.pack:
            step = list(itertools.islice(bins, args.batch))
            position, rows = step[-1][0], [row for _, row in step]
            micros = rows[rank::world] or [rows[0][:1]]
            counts = rank < len(rows)
        else:
            position, row = next(bins)
            mine = row[rank::world] or row[:1]
            micros = [mine[i:i + args.micro_batch] for i in range(0, len(mine), args.micro_batch)]
            counts = rank < len(row)
        yield [(i, stand_ins, m, position, counts) for m, micro in enumerate(micros) for i, stand_ins in micro]


def own_signals(worker):
    """Loading processes end when told to; Ctrl-C reaches them through the training process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main():
    args = parser.parse_args()
    claim(args.out, args.resume)
    device = D.init_distributed()
    rank, world = D.world()
    main_rank = rank == 0
    if args.batch < world:
        raise SystemExit(f"error: --batch {args.batch} is smaller than the number of processes ({world}).")
    out = Path(args.out)
    if main_rank:
        embedded_default(args)
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.json").write_text(json.dumps(vars(args), indent=1))
        print("arguments: " + " ".join(f"{k}={v}" for k, v in vars(args).items()),
              f"| {world} process(es) on {device.type}")
    D.barrier()

    # ------------------------------------------------------------------------------------------------------------ model
    policy = P.load_policy(args.model, device)
    if args.pack and policy.padded:
        raise SystemExit("error: --pack with a model that has linear attention needs flash-linear-attention: "
                         "pip install it, or leave --pack out.")
    P.prepare(policy, args, args.compile)
    policy.train()
    per_token, peak = plan.flops_per_token(policy), plan.peak_flops(device)
    optimizers = build_optimizers(policy, args.lr, args.matrix_lr, args.weight_decay)
    base_lr = [[g["lr"] for g in o.param_groups] for o in optimizers]

    # ------------------------------------------------------------------------------------------------------------- data
    limit = min(args.max_length, policy.context, args.pack or policy.context)
    together = lambda lengths, size: pack(lengths, args.pack) if args.pack else bucket(lengths, size)
    corpus = data.Corpus(args.data)
    # A batch is drawn at random: of one length throughout it teaches less (LOG.md).
    pool = 4 * POOL if args.pack else args.batch
    stream = Stream(corpus, lambda lengths: together(lengths, args.batch), policy.count_tokens, limit, args.seed, pool)
    dataset = Encoded(corpus, policy, 4096 if corpus[0].width * corpus[0].height <= 128 * 128 else 0)

    eval_dir = Path(args.eval_data) if args.eval_data else Path(args.data).parent / "test"
    held_out = held_out_samples(eval_dir, policy.count_tokens, limit) if args.eval_data or eval_dir.is_dir() else []
    if args.eval_data and not held_out:
        raise SystemExit(f"error: no sample of {eval_dir} is usable as held-out sample: they are too long, or "
                         f"`python data.py filter` tells why.")
    encoded = [policy.encode(s.prompt, data.open_image(s), s.answer) for s in held_out]
    batches = [[encoded[i] for i in b] for b in together([len(e.input_ids) for e in encoded], args.micro_batch)]
    # Tokens that an answer may have.
    longest = max((len(e.input_ids) - e.prompt_length for e in encoded), default=0) + 32
    absent = {} if args.unsafe_render else {language for language, why in render.available().items() if why}
    drawn = [s for s, e in zip(held_out, encoded)
             if s.language not in absent and e.prompt_length + longest <= policy.context][:args.eval_samples]

    def held_out_loss():
        """Mean cross-entropy per answer token over the held-out samples; every rank computes the same number."""
        with torch.no_grad():
            parts = [policy(batch)[0] for batch in batches]
        return -torch.cat(parts).mean().item()

    # ------------------------------------------------------------------------------------------------------------- loop
    layout = [args.pack, args.batch]  # what the position counts
    so_far = {"step": 0, "elapsed": 0.0, "skipped": 0, "position": 0, "layout": layout}
    if args.resume:
        so_far = load_state(out, policy, optimizers)
        if so_far["layout"] != layout:
            raise SystemExit(f"error: --resume needs the --pack and --batch of the run so far: {so_far['layout']}.")
    step, elapsed, skipped, position = (so_far[k] for k in ("step", "elapsed", "skipped", "position"))
    if main_rank:
        trim_metrics(out / "metrics.jsonl", step)
    stop = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, frame: stop.append(number))
    if main_rank:
        accumulated = math.ceil(math.ceil(args.batch / world) / (1 if args.pack else args.micro_batch))
        what, at_most = ("rows", f"{args.pack} tokens") if args.pack else ("samples", f"{args.micro_batch} samples")
        print(f"{len(corpus)} samples; {args.batch} {what} a step = {world} process(es) x {accumulated} accumulated "
              f"forward(s) x at most {at_most}; {len(held_out)} held out, {len(drawn)} of them rendered")
    bar = cli.progress_bar("sft", args.steps, args.max_seconds, step, elapsed, main_rank)
    loader = iter(torch.utils.data.DataLoader(
        dataset, batch_sampler=shares(stream, position, args, rank, world), collate_fn=list,
        num_workers=args.load_workers, worker_init_fn=own_signals,
        multiprocessing_context="fork" if args.load_workers else None))
    state = lambda: {"elapsed": elapsed, "skipped": skipped, "position": position, "layout": layout}
    local, bad_in_a_row = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 0
    while step < args.steps and not (args.max_seconds and elapsed >= args.max_seconds):
        started = time.perf_counter()
        progress = elapsed / args.max_seconds if args.max_seconds else step / args.steps
        progress = D.all_sum(progress, device) / world  # ranks' clocks differ: the learning rate must not
        scale = min(1, (step + 1) / max(1, args.warmup)) * min(1, (1 - progress) / max(args.decay, 1e-9))
        for optimizer, lrs in zip(optimizers, base_lr):
            for group, lr in zip(optimizer.param_groups, lrs):
                group["lr"] = lr * scale
        share, lost = None, ""
        try:
            share = next(loader)
        except OSError as e:
            lost = str(e).strip().splitlines()[-1]
        if D.all_max(bool(lost), device):  # ranks leave together
            del loader  # ends the loading processes
            save_state(out, step, policy, optimizers, state())
            raise SystemExit(f"error: the samples of {args.data} cannot be read any more "
                             f"({lost or 'on another process'}). State of step {step} is saved; when they are back, "
                             f"the same command with --resume goes on.")
        *_, position, counts = share[0][0]
        for i, reason in (pair for *_, replaced in share for pair in replaced.items()):
            stream.reject(corpus[i].id, reason)
        weight = float(counts)
        micro_of = lambda item: item[0][2]
        micros = [[example for _, example, _ in micro] for _, micro in itertools.groupby(share, micro_of)]
        examples = [example for micro in micros for example in micro]
        rounds = int(D.all_max(len(micros), device))  # FSDP2's collectives: every rank runs the same number of forwards

        # --- the step -------------------------------------------------------------------------------------------------
        n_tokens = D.all_sum(weight * sum(len(e.input_ids) - e.prompt_length for e in examples), device)
        loss_sum = 0.0
        for k in range(rounds):
            w = weight if k < len(micros) else 0.0
            logprobs, _ = policy(micros[k] if k < len(micros) else micros[0][:1])  # [N]
            # SFT loss, L = -(1/N) sum_t log p(y_t | y_<t, image, instruction), N = answer tokens over all ranks and
            # micro-batches. FSDP2 averages gradients over ranks, hence the factor `world`.
            (-logprobs.sum() * w * world / n_tokens).backward()
            # It stays on the device: the host goes on to the next row.
            loss_sum = loss_sum - logprobs.detach().sum().double() * w
        loss = D.all_sum(loss_sum, device) / n_tokens
        norm = D.clip_gradients(policy, args.clip)
        if math.isfinite(loss) and math.isfinite(norm):
            for optimizer in optimizers:
                optimizer.step()
            bad_in_a_row = 0
        else:
            skipped, bad_in_a_row = skipped + 1, bad_in_a_row + 1
            ids = [corpus[key[0]].id for key, _, _ in share if counts]
            with open(out / "nonfinite.jsonl", "a") as f:
                f.write(json.dumps({"step": step, "rank": rank, "ids": ids}) + "\n")
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        # --------------------------------------------------------------------------------------------------------------
        step += 1
        elapsed += time.perf_counter() - started
        tokens = D.all_sum(weight * sum(len(e.input_ids) for e in examples), device)
        room = D.all_sum(weight * args.pack * len(micros), device) if args.pack else tokens
        record = {"step": step, "epoch": position / pool / stream.pools, "position": position, "loss": loss,
                  "grad_norm": norm, "lr": optimizers[0].param_groups[0]["lr"], "answer_tokens": int(n_tokens),
                  "useful_tokens": tokens / room, "set_aside": len(stream.set_aside),
                  "unusable": int(D.all_max(len(stream.unusable), device)), "skipped": skipped, "seconds": elapsed}
        flops = D.all_sum(weight * plan.training_flops(policy, per_token, examples), device)
        seconds = time.perf_counter() - started
        left = args.max_seconds - elapsed if args.max_seconds else (args.steps - step) * elapsed / step
        record.update(tokens_per_second=n_tokens / seconds, tflops_per_process=flops / seconds / world / 1e12,
                      eta=max(0.0, left), mfu=flops / seconds / world / peak if peak else None,
                      memory_gb=D.all_max(D.memory_used(device), device) / 1e9)
        if held_out and args.eval_every and (step % args.eval_every == 0 or step == args.steps):
            record["held_out_loss"] = held_out_loss()
        if drawn and args.render_every and (step % args.render_every == 0 or step == args.steps):
            from eval import greedy_scores
            with render.Renderer(max(1, (os.cpu_count() or 1) // local), unsafe=args.unsafe_render) as renderer:
                record.update({f"held_out_{k}": v for k, v in greedy_scores(policy, drawn, renderer, longest).items()})
        if main_rank:
            with open(out / "metrics.jsonl", "a") as f:
                f.write(json.dumps(record) + "\n")
            bar.set_postfix(step=step, loss=f"{loss:.3f}", tokens_s=f"{record['tokens_per_second']:.0f}", refresh=False)
            bar.update((min(elapsed, args.max_seconds) if args.max_seconds else step) - bar.n)
        if bad_in_a_row == 3:
            save_state(out, step, policy, optimizers, state())
            raise SystemExit(f"error: loss or gradient was not finite in 3 steps in a row; sample ids in "
                             f"{out}/nonfinite.jsonl, state saved. Lower --lr or look at those samples, then --resume.")
        interrupted = D.all_max(len(stop), device) > 0  # ranks leave together
        if interrupted or step % args.save_every == 0:
            save_state(out, step, policy, optimizers, state())
        if interrupted:
            bar.close()
            if main_rank:
                print(f"interrupted: state of step {step} saved in {out}/state; "
                      f"the same command with --resume goes on.")
            D.finish()
            raise SystemExit(130 if signal.SIGINT in stop else 0)  # what stands behind && must not go on after Ctrl-C
    bar.close()

    # ------------------------------------------------------------------------------------------------------------- save
    P.save_policy(policy, out)
    if main_rank:
        print(f"wrote {out}: {step} steps in {elapsed:.0f} s, {skipped} skipped for non-finite values; samples set "
              f"aside for more than {limit} tokens: {len(stream.set_aside)}, unusable: {len(stream.unusable)}")
    D.finish()


if __name__ == "__main__":
    D.run(main)
