"""virl.py beside transformers' model.generate and TRL's GRPOTrainer. Takes minutes and wants an idle machine.

    python tests/bench_virl.py out [--trl PYTHON]    # out: a folder of the main job; PYTHON: an interpreter that has trl==1.16.0

Two mixes of 16 prompts with 8 rollouts each. *short*: the embedded default, its own lengths and its reward. *ragged*: images of
384 pixels (144 tokens each) and lengths as real code has them, most answers of 4 to 24 tokens, one in sixteen of 300 to 400. Those
are forced upon all engines alike; such answers hold no program, so the reward there is the length's remainder by 7, for all alike.
Same weights, threads and limits everywhere; answers are sampled in fp32, updates are made with bf16 products.
"""
import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import cli  # noqa: E402

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

import data  # noqa: E402
import generate as G  # noqa: E402
import policy as P  # noqa: E402

PROMPTS, GROUP, WARM = 16, 8, 2
STEPS = {"short": 14, "ragged": 4}
LIMIT = {"short": 96, "ragged": 400}
END = 0.995  # ragged: a rollout ends at the first of its random numbers above this


def folder(out, mix, into):
    """The model of a mix, and its prompts."""
    samples = data.read_samples(Path(out, "data", "rl"))[:PROMPTS * STEPS[mix]]
    if mix == "short":
        return Path(out, "sft"), samples
    shutil.copytree(Path(out, "sft"), into, dirs_exist_ok=True, ignore=shutil.ignore_patterns("state", "best", "*.jsonl"))
    file = Path(into, "preprocessor_config.json")
    config = json.loads(file.read_text())
    config["size"] = {"shortest_edge": 384 * 384, "longest_edge": 384 * 384}
    file.write_text(json.dumps(config))
    for s in samples:
        s.image = data.png(np.asarray(data.open_image(s).resize((384, 384))))
        s.width = s.height = 384
    return Path(into), samples


def length_and_seed(number, g):
    """ragged: the length of rollout g of prompt `number`, and a seed that gives it."""
    rng = random.Random(1000 * number + g)
    low, high = (300, 400) if (number * GROUP + g) % 16 == 7 else (4, 24)
    while True:
        seed = rng.getrandbits(62)
        over = torch.rand(LIMIT["ragged"], generator=torch.Generator().manual_seed(seed)) > END
        if over.any() and low <= (length := int(over.int().argmax()) + 1) <= high:
            return length, seed


def force_lengths(policy):
    """ragged: make generate.py end an answer where the random number says so, and nowhere else."""
    pick, eos = G.pick, policy.eos_id

    def forced(logits, banned, temperature, uniform, top_p):
        token, logp = pick(logits, banned | (torch.arange(len(banned)) == eos), temperature, uniform, top_p)
        return torch.where(uniform > END, eos, token), logp
    G.pick = forced


class Lengths:
    """A logits processor that does the same to model.generate: `lengths` of the rows."""

    def __init__(self, lengths, prompt, eos):
        self.lengths, self.prompt, self.eos = torch.tensor(lengths), prompt, eos

    def __call__(self, input_ids, scores):
        last = input_ids.shape[1] - self.prompt + 1 == self.lengths
        scores[:, self.eos] = float("-inf")
        scores[last] = float("-inf")
        scores[last, self.eos] = 0.0
        return scores


def remainder(target, render, response, language, **kwargs):
    """The reward of the ragged mix."""
    value = len(response) % 7 / 6
    return {"reward": value, "execution": 1.0, "visual": value}


# ------------------------------------------------------------------------------------------------------------- rollouts

def rollouts(out, mix):
    """Useful tokens a second of model.generate and of generate.py, in turn: {engine: [median, smallest, largest]}."""
    with tempfile.TemporaryDirectory() as temporary:
        path, samples = folder(out, mix, temporary)
        policy = P.load_policy(path)
    policy.eval()
    samples = samples[:PROMPTS]
    examples = [policy.encode(s.prompt, data.open_image(s)) for s in samples]
    seeds = [[G.rollout_seed(i, g) for g in range(GROUP)] for i in range(PROMPTS)]
    pick = G.pick
    if mix == "ragged":
        chosen = [[length_and_seed(i, g) for g in range(GROUP)] for i in range(PROMPTS)]
        seeds = [[seed for _, seed in row] for row in chosen]
        lengths = [length for row in chosen for length, _ in row]
        print(f"ragged: mean {np.mean(lengths):.0f} tokens, 95th percentile {np.percentile(lengths, 95):.0f}")
        force_lengths(policy)
    T = max(len(e.input_ids) for e in examples)
    left = lambda values, fill: torch.stack([torch.cat([torch.full((T - len(v),), fill), v]) for v in values])
    ids = left([e.input_ids for e in examples], policy.pad_id)  # [16, T]
    inputs = dict(input_ids=ids, attention_mask=left([torch.ones_like(e.input_ids) for e in examples], 0),
                  mm_token_type_ids=(ids == policy.model.config.image_token_id).int(), image_grid_thw=torch.cat([e.image_grid_thw for e in examples]),
                  pixel_values=torch.cat([policy.normalised(e.pixel_values) for e in examples]))
    banned = torch.nonzero(policy.banned).flatten().tolist()

    def stock():
        policy.model.model.language_model.config._attn_implementation = "sdpa"
        processor = [Lengths(lengths, T, policy.eos_id)] if mix == "ragged" else []
        new = policy.model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=GROUP, max_new_tokens=LIMIT[mix],
                                    suppress_tokens=banned, logits_processor=processor, pad_token_id=policy.pad_id, eos_token_id=policy.eos_id)[:, T:]
        return int((new != policy.pad_id).sum())

    def ours():
        return sum(len(r.token_ids) for group in G.generate(policy, examples, GROUP, LIMIT[mix], 1.0, seeds, PROMPTS * GROUP) for r in group)
    rates = {"model.generate": [], "generate.py": []}
    with torch.no_grad():
        for turn in tqdm(range(6), f"{mix}, rollouts"):
            for name, engine in (("model.generate", stock), ("generate.py", ours)):
                started = time.perf_counter()
                tokens = engine()
                if turn:
                    rates[name].append(tokens / (time.perf_counter() - started))
    G.pick = pick
    return {name: [float(f(r)) for f in (np.median, np.min, np.max)] for name, r in rates.items()}


# ----------------------------------------------------------------------------------------------------------- whole steps

def trl(out, mix):
    """Steps of TRL's GRPOTrainer, in an interpreter that has it; prints JSON."""
    from datasets import Dataset, Image, List
    from bench import trl_processor
    from transformers import AutoModelForImageTextToText, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from render import Renderer
    from reward import extract_code, score_group, scorers
    temporary = tempfile.mkdtemp()
    path, samples = folder(out, mix, temporary)
    policy = P.load_policy(path)
    policy.tokenizer.padding_side = "left"
    rows = Dataset.from_list([{"images": [data.open_image(s)], "prompt": [{"role": "user", "content": s.prompt}], "number": i}
                              for i, s in enumerate(samples)]).cast_column("images", List(Image()))
    model = AutoModelForImageTextToText.from_pretrained(path, attn_implementation="eager", dtype=torch.float32)
    spent = {"generate": [], "reward": []}
    ends, tokens, stock = [], [], model.generate
    banned = torch.nonzero(policy.banned).flatten().tolist()

    def timed_generate(*args, **inputs):
        started, extra = time.perf_counter(), {}
        if mix == "ragged":
            count, T = inputs["input_ids"].shape
            step = len(spent["generate"])
            extra["logits_processor"] = [Lengths([length_and_seed(step * PROMPTS + k // GROUP, k % GROUP)[0] for k in range(count)], T, policy.eos_id)]
            started = time.perf_counter()
        model.config.text_config._attn_implementation = "sdpa"
        with torch.autocast("cpu", enabled=False):
            found = stock(*args, **inputs, suppress_tokens=banned, **extra)
        model.config.text_config._attn_implementation = "eager"
        spent["generate"].append(time.perf_counter() - started)
        return found
    model.generate = timed_generate
    with Renderer(workers=os.cpu_count(), cache=20000) as renderer, scorers(os.cpu_count()) as pool:
        def visual(completions, number, completion_ids, **kwargs):
            started = time.perf_counter()
            tokens.append(sum(map(len, completion_ids)))
            texts = [c[0]["content"] if isinstance(c[0]["content"], str) else c[0]["content"][0]["text"] for c in completions]
            if mix == "ragged":
                found = [remainder(None, None, t, None)["reward"] for t in texts]
            else:
                jobs = [(s := samples[n], text, extract_code(text, s.language)[0]) for n, text in zip(number, texts)]
                renders = [code and renderer.submit(s.language, code, (s.width, s.height)) for s, _, code in jobs]
                answers = [(r and r.result(), text) for r, (_, text, _) in zip(renders, jobs)]
                groups = [pool.submit(score_group, np.asarray(data.open_image(jobs[k][0])), jobs[k][0].language, answers[k:k + GROUP]) for k in range(0, len(jobs), GROUP)]
                found = [row["reward"] for group in groups for row in group.result()]
            spent["reward"].append(time.perf_counter() - started)
            return found

        class Watch(TrainerCallback):
            def on_step_end(self, *args, **kwargs):
                ends.append(time.perf_counter())
        config = GRPOConfig(output_dir=temporary, per_device_train_batch_size=64, gradient_accumulation_steps=2, num_generations=GROUP, max_completion_length=LIMIT[mix],
                            temperature=1.0, top_p=1.0, top_k=0, beta=0.0, num_iterations=1, learning_rate=3e-4, max_steps=STEPS[mix], bf16=True, use_cpu=True, use_vllm=False,
                            gradient_checkpointing=False, logging_steps=100, save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False)
        GRPOTrainer(model=model, args=config, reward_funcs=visual, train_dataset=rows, callbacks=[Watch()],
                    processing_class=trl_processor(policy)).train()
    shutil.rmtree(temporary)
    print(json.dumps({"step": np.diff(ends)[WARM - 1:].tolist(), "tokens": tokens[WARM:], **{k: v[WARM:] for k, v in spent.items()},
                      "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def ours(out, mix):
    """Steps of virl.py, prints JSON."""
    import virl
    with tempfile.TemporaryDirectory() as temporary:
        path, samples = folder(out, mix, Path(temporary, "model"))
        data.write_samples(samples, Path(temporary, "rl", "part-0.parquet"))
        more = []
        if mix == "ragged":
            force_lengths(P.load_policy(path))
            virl.rollout_seed = lambda seed, number, id, g: length_and_seed(number, g)[1]
            more = ["--reward", "bench_virl:remainder", "--overlong", "0"]
            os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        sys.argv = ["virl.py", "--model", str(path), "--data", f"{temporary}/rl", "--out", f"{temporary}/virl", "--steps", str(STEPS[mix]), "--eval-every", "0",
                    "--max-new-tokens", str(LIMIT[mix]), "--matrix-lr", "0", "--save-every", "1000", *more]
        virl.main()
        rows = [json.loads(line) for line in open(f"{temporary}/virl/metrics.jsonl")]
    print("\n" + json.dumps({"step": np.diff([r["seconds"] for r in rows])[WARM - 1:].tolist(), "tokens": [r["length"] * r["rollouts"] for r in rows[WARM:]],
                             **{k: [r[f"seconds_{k}"] for r in rows[WARM:]] for k in ("rollout", "prefill", "decode", "reward_wait", "update")},
                             "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("out", help="folder of the main job, with sft and data/rl")
    parser.add_argument("--trl", help="interpreter with requirements.txt and trl==1.16.0")
    parser.add_argument("--only", nargs=2, metavar=("PART", "MIX"), help="one part in this process: trl, ours")
    args = parser.parse_args()
    if args.only:
        sys.exit({"trl": trl, "ours": ours}[args.only[0]](args.out, args.only[1]))
    missed = False
    for mix, wanted in (("short", 1.8), ("ragged", 3.0)):
        rates = rollouts(args.out, mix)
        for name, (median, low, high) in rates.items():
            print(f"{mix}, rollouts, {name}: {median:.0f} useful tokens/s ({low:.0f} to {high:.0f})")
        gain = rates["generate.py"][0] / rates["model.generate"][0]
        print(f"{mix}, rollouts: {gain:.2f}x (wanted {wanted})")
        missed |= gain < wanted
        runs = {}
        for part, python in (("trl", args.trl), ("ours", sys.executable)):
            if python:
                printed = subprocess.run([python, __file__, args.out, "--only", part, mix], stdout=subprocess.PIPE, check=True, text=True).stdout
                run = runs[part] = json.loads(printed.strip().splitlines()[-1])
                parts = ", ".join(f"{k} {np.mean(v):.3f} s" for k, v in run.items() if k not in ("step", "tokens", "rss"))
                print(f"{mix}, step, {part}: {np.mean(run['step']):.3f} s for {np.mean(run['tokens']):.0f} tokens ({parts}); peak memory {run['rss']:.0f} MB")
        if "trl" in runs:
            gain = np.mean(runs["trl"]["step"]) / np.mean(runs["ours"]["step"])
            print(f"{mix}, step: {gain:.2f}x (wanted {wanted})")
            missed |= gain < wanted
    sys.exit(int(missed))
