"""Measurements on one GPU with randomly initialised models of the published sizes: no weights, data or hub are needed.

    python tests/bench_gpu.py decode --model Qwen/Qwen3-VL-2B-Instruct --rows 64 128    # rollouts: tokens/s against the memory's limit
    python tests/bench_gpu.py sft --model Qwen/Qwen3-VL-2B-Instruct --tokens 16384      # a step of sft.py: tokens/s, MFU, memory
    python tests/bench_gpu.py sft --trainer                                             # the same samples through Trainer (pip install accelerate)

decode: the limit is the time in which the memory moves the bf16 weights and the filled part of the key/value cache once, at the
bandwidth of a large copy measured in the same run. Beside it: the same steps without CUDA graphs, and transformers' `generate`
on the same weights. sft: rows packed from samples of 700 to 3,500 tokens, a 512 x 512 image each; Hugging Face's
Trainer on the same samples and weights, padded, with the same bf16 autocast, activation checkpointing and AdamW.
"""
import argparse
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cli  # noqa: E402

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import attention  # noqa: E402
import distributed as D  # noqa: E402
import plan  # noqa: E402
import policy as P  # noqa: E402
import tiny  # noqa: E402
from state import build_optimizers  # noqa: E402

WORDS = "import matplotlib.pyplot as plt fig ax = subplots figsize bar plot scatter color title label set legend grid 0 1 2 3".split()


def random_policy(name, device, dtype, side):
    """A Policy of a published size with random weights and a small tokenizer; images are `side` pixels square."""
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    tokenizer = tiny.train_tokenizer([" ".join(WORDS)] * 50)
    config = plan.published_config(name)
    for key, token in (("image_token_id", "<|image_pad|>"), ("video_token_id", "<|video_pad|>"), ("vision_start_token_id", "<|vision_start|>"),
                       ("vision_end_token_id", "<|vision_end|>")):
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = (Qwen2_5_VLForConditionalGeneration if "2.5" in name else Qwen3VLForConditionalGeneration)(config)
    torch.set_default_dtype(torch.float32)
    vision = config.vision_config
    processor = Qwen2VLImageProcessorPil(patch_size=vision.patch_size, merge_size=vision.spatial_merge_size, temporal_patch_size=vision.temporal_patch_size,
                                         image_mean=[0.5] * 3, image_std=[0.5] * 3, size={"shortest_edge": side**2, "longest_edge": side**2})
    return attention.wire(P.Policy(model, tokenizer, processor)).to(device)


def samples(policy, count, low, high, side=512, seed=0):
    """`count` Examples of `low` to `high` tokens with noise for images."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        image = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        prompt = policy.encode("draw this", image)
        length = int(rng.integers(low, high + 1)) - prompt.prompt_length
        found.append(prompt.extend(rng.integers(len(tiny.SPECIAL), len(policy.tokenizer) - 1, length).tolist()))
    return found


def bandwidth(device):
    """Bytes/s of a large copy on the device, read and written."""
    a = torch.empty(2 << 30, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        b.copy_(a)
    torch.cuda.synchronize()
    return 10 * 2 * a.nbytes / (time.perf_counter() - started)


def decode(args):
    from generate import Replayed, generate
    device = torch.device("cuda")
    speed = bandwidth(device)
    policy = random_policy(args.model, device, torch.bfloat16, 512)
    policy.dtype = torch.bfloat16
    policy.banned[policy.eos_id] = True  # every answer has the same length: what is measured is decoding
    text = policy.model.model.language_model
    weights = 2 * (sum(p.numel() for p in text.layers.parameters()) + policy.model.lm_head.weight.numel())
    print(f"{args.model}, {torch.cuda.get_device_name()}, copy {speed / 1e12:.2f} TB/s, weights read a token {weights / 1e9:.2f} GB", flush=True)
    for rows in args.rows:
        group = 8
        prompts = [e.extend([]) for e in samples(policy, rows // group, args.context - args.new, args.context - args.new)]
        for e in prompts:
            e.prompt_length = len(e.input_ids)
        cache = plan.kv_bytes(policy.model.config, rows, args.context - args.new / 2)
        limit = rows / ((weights + cache) / speed)
        for name in ("captured", "launched one by one", "transformers' generate"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            if name == "transformers' generate":
                first = prompts[0]
                batch = torch.stack([prompts[i // group].input_ids for i in range(rows)]).to(device)
                policy.model.model.language_model.config._attn_implementation = "sdpa"
                policy.model.generation_config.pad_token_id = policy.pad_id
                is_image = (batch == policy.model.config.image_token_id).int()
                run = lambda n: policy.model.generate(
                    input_ids=batch, attention_mask=torch.ones_like(batch), mm_token_type_ids=is_image, do_sample=True, top_k=0, max_new_tokens=n, min_new_tokens=n,
                    pixel_values=torch.cat([policy.normalised(prompts[i // group].pixel_values.to(device)) for i in range(rows)]).to(torch.bfloat16),
                    image_grid_thw=first.image_grid_thw.to(device).repeat(rows, 1))
                try:
                    with torch.no_grad():
                        took = []
                        for n in (1, 33):
                            run(1)
                            torch.cuda.synchronize()
                            started = time.perf_counter()
                            run(n)
                            torch.cuda.synchronize()
                            took.append(time.perf_counter() - started)
                    per_second = rows * 32 / (took[1] - took[0])
                except torch.OutOfMemoryError:
                    print(f"  {rows} rows x {args.context}: {name:24} out of memory", flush=True)
                    continue
            else:
                plain = Replayed.__call__
                if name != "captured":
                    Replayed.__call__ = lambda self, B, longest: self.step(B, longest)
                timing = defaultdict(float)
                new = args.new if name == "captured" else 32
                generate(policy, prompts, group, new, 1.0, slots=rows, timing=timing)
                Replayed.__call__ = plain
                per_second = timing["busy"] / timing["decode"]
            print(f"  {rows} rows x {args.context}: {name:24} {per_second:8.0f} tokens/s = {per_second / limit:.0%} of the limit ({limit:.0f}), "
                  f"{1000 * rows / per_second:.1f} ms a step, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB", flush=True)


def sft(args):
    device = torch.device("cuda") if args.trainer else D.init_distributed()
    policy = random_policy(args.model, device, torch.float32, 512)
    P.prepare(policy, argparse.Namespace(dtype="bfloat16", recompute=args.recompute, freeze_vision=False, lora=0, replicas=1), args.compile)
    policy.train()
    pool = samples(policy, 12 * args.rows, 700, 3500)
    rows = [[]]
    for e in pool:
        if sum(len(x.input_ids) for x in rows[-1]) + len(e.input_ids) > args.tokens:
            rows.append([])
        rows[-1].append(e)
    rows = rows[:args.rows]
    assert len(rows) == args.rows
    examples = [e for row in rows for e in row]
    peak, per_token = plan.peak_flops(device), plan.flops_per_token(policy)
    how = ", recompute" * args.recompute + ", compiled" * args.compile

    def report(name, seconds, padded, examples=examples):
        useful, flops = sum(len(e.input_ids) for e in examples), plan.training_flops(policy, per_token, examples)
        print(f"{args.model}{how}: {name:12} {useful / seconds:7.0f} tokens/s, {1000 * seconds:.0f} ms a step of {useful} tokens ({useful / padded:.2f} useful), "
              f"MFU {flops / seconds / peak if peak else float('nan'):.1%}, peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB", flush=True)

    (trainer_steps if args.trainer else our_steps)(args, policy, examples, rows, report)


def our_steps(args, policy, examples, rows, report):
    optimizers = build_optimizers(policy, 1e-5, 0)
    took = []
    for step in range(args.steps):
        torch.cuda.synchronize()
        started = time.perf_counter()
        n = sum(len(e.input_ids) - e.prompt_length for e in examples)
        for row in rows:
            (-policy(row)[0].sum() / n).backward()
        D.clip_gradients(policy, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        took.append(time.perf_counter() - started)
    report("sft.py", statistics.median(took[2:]), args.rows * args.tokens)
    if args.profile:
        from torch.profiler import ProfilerActivity, profile
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as p:
            (-policy(rows[0])[0].sum()).backward()
            torch.cuda.synchronize()
        print(p.key_averages().table(sort_by="cuda_time_total", row_limit=args.profile, max_name_column_width=60))
    D.finish()


def trainer_steps(args, policy, examples, rows, report):
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging
    logging.set_verbosity_error()
    policy.model.model.language_model.config._attn_implementation = policy.model.model.visual.config._attn_implementation = "sdpa"

    def collate(batch):
        T = max(len(e.input_ids) for e in batch)
        out = {k: torch.full((len(batch), T), v) for k, v in (("input_ids", policy.pad_id), ("labels", -100), ("attention_mask", 0))}
        for b, e in enumerate(batch):
            n = len(e.input_ids)
            out["input_ids"][b, :n], out["attention_mask"][b, :n] = e.input_ids, 1
            out["labels"][b, e.prompt_length:n] = e.input_ids[e.prompt_length:]
        return {**out, "mm_token_type_ids": (out["input_ids"] == policy.model.config.image_token_id).int(),
                "pixel_values": torch.cat([policy.normalised(e.pixel_values.to(policy.device)).cpu() for e in batch]), "image_grid_thw": torch.cat([e.image_grid_thw for e in batch])}

    class Clock(TrainerCallback):
        at = []

        def on_step_end(self, *_, **__):
            torch.cuda.synchronize()
            self.at.append(time.perf_counter())

    accumulate = len(examples) // args.micro
    given = examples[:accumulate * args.micro] * args.steps
    padded = sum(args.micro * max(len(e.input_ids) for e in given[i:i + args.micro]) for i in range(0, accumulate * args.micro, args.micro))
    options = TrainingArguments("/tmp/trainer", per_device_train_batch_size=args.micro, gradient_accumulation_steps=accumulate, max_steps=args.steps, bf16=True, learning_rate=1e-5,
                                gradient_checkpointing=args.recompute, report_to=[], save_strategy="no", logging_strategy="no", remove_unused_columns=False, disable_tqdm=True)
    trainer = Trainer(policy.model, options, data_collator=collate, train_dataset=given, callbacks=[Clock()])
    trainer._get_train_sampler = lambda *_, **__: torch.utils.data.SequentialSampler(given)
    trainer.train()
    report("HF Trainer", statistics.median(np.diff(Clock.at)[1:]), padded, given[:accumulate * args.micro])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("what", choices=("decode", "sft"))
    parser.add_argument("--model", default="Qwen/Qwen3-VL-2B-Instruct", help="a key of plan.PUBLISHED")
    parser.add_argument("--rows", type=int, nargs="+", default=None, help="decode: rollouts decoded together (64 128); sft: packed rows of a step (4)")
    parser.add_argument("--context", type=int, default=2048, help="decode: tokens of prompt and answer")
    parser.add_argument("--new", type=int, default=256, help="decode: tokens of the answer")
    parser.add_argument("--tokens", type=int, default=16384, help="sft: tokens of a packed row")
    parser.add_argument("--micro", type=int, default=4, help="sft: samples of one forward of Trainer")
    parser.add_argument("--steps", type=int, default=6, help="sft: steps, of which the first two are not counted")
    parser.add_argument("--recompute", action="store_true", help="sft: activation checkpointing")
    parser.add_argument("--compile", action="store_true", help="sft: compiled layers")
    parser.add_argument("--trainer", action="store_true", help="sft: Hugging Face's Trainer instead")
    parser.add_argument("--profile", type=int, default=0, help="sft: print so many lines of a profile")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: torch sees no GPU here; these measurements need one.")
    args.rows = args.rows or ([64, 128] if args.what == "decode" else [4])
    if args.what == "sft":
        args.rows = args.rows[0]
    {"decode": decode, "sft": sft}[args.what](args)


if __name__ == "__main__":
    main()
