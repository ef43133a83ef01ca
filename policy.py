"""The policy: a vision-language model that reads an image and an instruction and writes code.

Load any, score tokens, save, make ready to train. Both stages and the sampler use this file, so the weights that train
are the weights that sample. Processes and sharding stand in distributed.py, optimizers and saved states in state.py.

    python policy.py --plan Qwen/Qwen3-VL-8B-Instruct --gpus 8      # memory of one GPU, without downloading weights

Shapes: B rows, T tokens, N scored tokens, V vocabulary, D hidden size.
"""
import contextlib
import copy
import functools
import importlib.util
import itertools
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import torch
import torch.distributed as dist
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from attention import group_segments, wire
from distributed import barrier, is_main, shard
from state import replacing

# ---------------------------------------------------------------------------------------------------------- the policy

# A CPU's rows are rounded up to so many tokens: oneDNN compiles each of 15 products anew for each shape, in .6 ms.
ROW = 64


def products_in(device, dtype):
    """Context: matrix products on the torch.device in dtype, weights as they are."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


@dataclass
class Example:
    """One encoded sample. T = prompt tokens + answer tokens (0 answer tokens for a prompt alone)."""
    input_ids: torch.Tensor  # [T] int64
    prompt_length: int  # tokens, those of the image among them
    position_ids: torch.Tensor  # [3, T] int64: multimodal-RoPE positions (temporal, height, width)
    pixel_values: torch.Tensor  # [patches, channels * temporal * patch * patch] uint8: a quarter of float32's memory
    image_grid_thw: torch.Tensor  # [1, 3] int64: patches in time, height, width
    branches: tuple = ()  # tokens of each of several answers that share the prompt; empty: there is one answer

    def extend(self, token_ids):
        """The prompt with an answer (list of int) appended; text positions go on from the largest one."""
        return replace(self.branch([token_ids]), branches=())

    def branch(self, answers):
        """The prompt with several answers (lists of int) behind it: a GRPO group in one row.

        Each answer sees the prompt and itself alone, and its text positions go on from the prompt's largest one.
        """
        tokens = torch.tensor([t for a in answers for t in a], dtype=torch.long)  # [answer tokens]
        tail = torch.cat([self.position_ids.max() + 1 + torch.arange(len(a)) for a in answers])  # [answer tokens]
        return replace(self, input_ids=torch.cat([self.input_ids, tokens]), branches=tuple(map(len, answers)),
                       position_ids=torch.cat([self.position_ids, tail.expand(3, -1)], 1))

    def before(self):
        """Where the token stands that each answer token follows, int64 [answer tokens]."""
        index = torch.arange(self.prompt_length, len(self.input_ids)) - 1
        if self.branches:  # the first of each answer follows the prompt
            index[torch.tensor((0, *self.branches[:-1])).cumsum(0)] = self.prompt_length - 1
        return index

    def owner(self):
        """Which answer each token belongs to, int64 [T], from 1; 0 is the prompt, which every answer sees."""
        lengths = torch.tensor((self.prompt_length, *self.branches))
        return torch.arange(len(lengths)).repeat_interleave(lengths)


class Policy(nn.Module):
    """A Qwen-VL model with its tokenizer and image processor. `forward` is the only door, so FSDP2's hooks see all."""

    def __init__(self, model, tokenizer, image_processor):
        super().__init__()
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.eos_id, self.pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.context = model.config.text_config.max_position_embeddings
        self.dtype = torch.float32  # of the matrix products; sft.py and virl.py set bfloat16 by flag
        self.autocast = True  # `shard` turns it off where FSDP2 gathers weights of that type
        self.score = score_tokens  # `prepare` compiles it by flag
        self.recurrent = "linear_attention" in (getattr(model.config.text_config, "layer_types", None) or ())
        # Only flash-linear-attention stops a state where a row's sample ends.
        self.padded = self.recurrent and not importlib.util.find_spec("fla")
        # A sampled <|image_pad|> would break the placeholder count of the next forward: every special token but the
        # end of the answer is banned, in sampling and in training alike, so both use the same distribution.
        vocabulary = model.config.text_config.vocab_size
        banned = torch.zeros(vocabulary, dtype=torch.bool)  # [V]
        banned[[i for i in tokenizer.added_tokens_decoder if i != self.eos_id and i < vocabulary]] = True
        banned[len(tokenizer):] = True
        self.register_buffer("banned", banned, persistent=False)
        self.register_buffer("mean", torch.tensor(image_processor.image_mean)[:, None], persistent=False)  # [C, 1]
        self.register_buffer("std", torch.tensor(image_processor.image_std)[:, None], persistent=False)  # [C, 1]
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ""}]}]
        empty = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, enable_thinking=False)
        ids = tokenizer(empty, add_special_tokens=False)["input_ids"]
        self.template_tokens = len(ids) - 1  # without the placeholder

    @property
    def device(self):
        """The torch.device to which `forward` brings what it gets."""
        return self.banned.device

    def encode(self, prompt, image, answer=None):
        """Instruction (str), target (PIL image) and answer (str or None) -> Example on the CPU.

        Prompt and answer are tokenised apart, so a prompt has the same tokens in training and in sampling. The answer
        ends with the end-of-turn token, which is trained like every other. Raises ValueError beyond the context, for a
        prompt that contains the image placeholder, for an image that the image processor refuses, and where the model's
        chat template does not begin a whole conversation with what it gives for the prompt alone.
        """
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
        templated = functools.partial(self.tokenizer.apply_chat_template, tokenize=False, enable_thinking=False)
        text = templated(chat, add_generation_prompt=True)
        if answer is not None:
            turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
            if not templated([*chat, turn]).startswith(text + answer + self.tokenizer.eos_token):
                raise ValueError("the chat template puts something between prompt, answer and end of turn: training "
                                 "would differ from sampling")
        pixels = self.image_processor(images=[image], return_tensors="pt", do_rescale=False, do_normalize=False)
        grid = pixels["image_grid_thw"]  # [1, 3]
        merge = self.model.config.vision_config.spatial_merge_size
        n_image = int(grid.prod()) // merge**2
        placeholder = self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)
        ids = self.tokenizer(text.replace(placeholder, placeholder * n_image), add_special_tokens=False)["input_ids"]
        prompt_length = len(ids)
        if answer is not None:
            ids = ids + self.tokenizer(answer, add_special_tokens=False)["input_ids"] + [self.eos_id]
        if len(ids) > self.context:
            raise ValueError(f"{len(ids)} tokens do not fit the model's context of {self.context}")
        ids = torch.tensor(ids)  # [T]
        is_image = (ids == self.model.config.image_token_id).int()[None]  # [1, T]
        if int(is_image.sum()) != n_image:
            raise ValueError("the instruction contains the image placeholder token")
        positions, _ = self.model.model.get_rope_index(ids[None], mm_token_type_ids=is_image, image_grid_thw=grid)
        return Example(ids, prompt_length, positions[:, 0], pixels["pixel_values"].to(torch.uint8), grid)

    def count_tokens(self, samples, answers=True):
        """Tokens of samples as `encode` makes them, exactly, without touching their pixels: list of int.

        answers: whether the answer counts. Raises ValueError for an image too narrow for the image processor.
        """
        texts = [text for s in samples for text in (s.prompt, s.answer if answers else "")]
        lengths = [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        merge = self.model.config.vision_config.spatial_merge_size
        images = [self.image_processor.get_number_of_image_patches(s.height, s.width) // merge**2 for s in samples]
        return [a + b + n + self.template_tokens + answers for a, b, n in zip(lengths[::2], lengths[1::2], images)]

    def products(self):
        """Context: matrix products in self.dtype."""
        return products_in(self.device, self.dtype if self.autocast else torch.float32)

    def normalised(self, pixels):
        """uint8 pixels [patches, C * values] -> float32 of the same shape, as the image processor would give them."""
        return ((pixels.view(len(pixels), len(self.mean), -1) / 255 - self.mean) / self.std).flatten(1)

    def forward(self, examples, images=None, last_only=False, cache=None, chunk=2048):
        """Answer logprobs, or next-token logits.

        examples: list of B Example. images: list of B indices into the distinct images (rows of one GRPO group share
        one), so the vision tower runs once per image; None = one image per row. chunk: as for `token_logprobs`.
        Returns (logprobs [N], entropy [N]) of all answer tokens, row after row, in fp32; with `last_only` the logits
        [B, V] that follow each row, having filled `cache` (a transformers Cache).
        All rows lie one behind the other in one, each attending to itself alone: nothing is computed for padding. A
        cache needs rows of its own, padded on the right: causal attention never looks at what comes after a token. Of a
        row with several answers (`Example.branch`; all rows or none have them) the prompt is computed once.
        """
        batch, config = [e.input_ids for e in examples], self.model.model.language_model.config
        lengths = [len(ids) for ids in batch]
        if cache is not None or self.padded:
            input_ids = nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=self.pad_id)  # [B, T]
            positions = nn.utils.rnn.pad_sequence([e.position_ids.T for e in examples]).permute(2, 1, 0)  # [3, B, T]
            starts = range(0, input_ids.numel(), input_ids.shape[1])
            config._attn_implementation, segments = "sdpa", {}
        else:
            input_ids = torch.cat(batch)[None]  # [1, T]
            text = torch.cat([torch.arange(n) for n in lengths])  # [T]; transformers wants it before the other three
            positions = torch.cat([text[None], torch.cat([e.position_ids for e in examples], 1)])[:, None]  # [4, 1, T]
            starts = [0, *itertools.accumulate(lengths)]
            if self.device.type == "cpu":
                input_ids, positions = (F.pad(x, (0, -x.shape[-1] % ROW)) for x in (input_ids, positions))
            config._attn_implementation = "packed"
            segments = {"cu_seq_lens_q": torch.tensor(starts, dtype=torch.int32, device=self.device),
                        "max_length_q": max(lengths)}
            owners = [e.owner() for e in examples] if examples[0].branches else None
            if owners or self.device.type == "cpu" or self.dtype == torch.float32:  # torch's kernel takes none of these
                segments["groups"] = group_segments(lengths, input_ids.shape[1], self.device, owners)
        images = list(range(len(batch))) if images is None else images
        first = {image: b for b, image in reversed(list(enumerate(images)))}  # the first row of each distinct image
        order = sorted(first)
        pixels = torch.cat([examples[first[i]].pixel_values for i in order]).to(self.device)  # [patches, C * values]
        grid = torch.cat([examples[first[i]].image_grid_thw for i in order]).to(self.device)  # [images, 3]
        slot = [order.index(i) for i in images]
        with self.products():
            vision = self.model.model.get_image_features(self.normalised(pixels), grid, return_dict=True)
            if slot != list(range(len(slot))):
                vision.pooler_output = [vision.pooler_output[s] for s in slot]
                if getattr(vision, "deepstack_features", None):
                    vision.deepstack_features = [[f[s] for s in slot] for f in vision.deepstack_features]
            hidden = self.model.model(
                input_ids=input_ids.to(self.device), position_ids=positions.to(self.device),
                mm_encoder_outputs={"image": vision}, past_key_values=cache, use_cache=cache is not None, **segments,
            ).last_hidden_state.flatten(0, 1)  # [T, D], with a cache [B T, D]
            if last_only:
                last = torch.tensor([start + n - 1 for start, n in zip(starts, lengths)], device=self.device)  # [B]
                return self.model.lm_head(hidden[last])  # [B, V]
        # A token is predicted from the hidden state of the one before it.
        answers = [torch.arange(e.prompt_length, len(e.input_ids)) for e in examples]
        keep = torch.cat([index + start for start, index in zip(starts, answers)])  # [N]
        before = torch.cat([e.before() + start for start, e in zip(starts, examples)])  # [N]
        targets, N = input_ids.flatten()[keep].to(self.device), len(keep)  # [N]
        if self.device.type == "cpu":
            before, targets = (F.pad(x, (0, -N % ROW)) for x in (before, targets))
        logprobs, entropy = token_logprobs(hidden[before.to(self.device)], self.model.lm_head, targets, self.banned,
                                           self.dtype if self.autocast else torch.float32, chunk, self.score)
        return logprobs[:N].clone(), entropy[:N]  # no view, of which FSDP2 warns

    def decode(self, token_ids, positions, mask, cache):
        """One step of decoding: token_ids [B], positions [B] (text position of each) -> logits [B, V].

        mask: bool [B, 1, 1, T], which tokens of the cache each row sees; cache: a transformers Cache, which grows by
        the token (generate.SlotCache).
        """
        config = self.model.model.language_model.config
        config._attn_implementation = "slots"
        with self.products():
            embeds = self.model.get_input_embeddings()(token_ids)[:, None]  # [B, 1, D]
            if mask.is_cuda:  # once, in place of once a layer
                mask = torch.zeros(mask.shape, dtype=self.dtype, device=self.device).masked_fill(~mask, float("-inf"))
            hidden = self.model.model.language_model(
                inputs_embeds=embeds, position_ids=positions[None, :, None].expand(3, -1, -1),
                attention_mask={"full_attention": mask, "linear_attention": None} if self.recurrent else mask,
                past_key_values=cache, use_cache=True).last_hidden_state[:, 0]  # [B, D]
            config._attn_implementation = "sdpa"  # what follows may be the stock model's own forward
            return self.model.lm_head(hidden)


def score_tokens(logits, targets, banned):
    """Logprob [n] and entropy [n] (no gradient) of targets [n] under softmax(logits [n, V]), fp32.

    banned: bool [V], tokens that count as -inf; logits are overwritten.
    """
    logp = logits.masked_fill_(banned, float("-inf")).log_softmax(-1, dtype=torch.float32)  # [n, V]
    entropy = -(logp.detach().exp() * logp.detach().clamp(min=-1e4)).sum(-1)  # [n]; 0 times -inf is no number
    return logp.gather(1, targets[:, None])[:, 0], entropy


def token_logprobs(hidden, head, targets, banned, dtype=torch.float32, chunk=2048, score=score_tokens):
    """Logprob and entropy of each target under softmax(head(hidden)) with banned tokens at -inf.

    hidden [N, D], targets [N], banned bool [V] -> logprobs [N], entropy [N] (no gradient), fp32. dtype: of the
    products; score: `score_tokens`, perhaps compiled. Works through `chunk` tokens at a time and recomputes each
    chunk's logits in backward, so [N, V] never exists at once.
    """
    def one(h, y):
        with products_in(h.device, dtype):
            logits = head(h)  # [n, V]
        return score(logits, y, banned)

    again = torch.is_grad_enabled() and len(targets) > chunk
    parts = [torch.utils.checkpoint.checkpoint(one, h, y, use_reentrant=False) if again else one(h, y)
             for h, y in zip(hidden.split(chunk), targets.split(chunk))]
    if not parts:
        return hidden.new_zeros(0), hidden.new_zeros(0)
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


# ------------------------------------------------------------------------------------------------------- load, save

def read_config(path):
    """The transformers config of a model directory or hub id; SystemExit with one line where there is none."""
    from transformers import AutoConfig
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as e:
        no_id = "Repo id must" in str(e)
        why = "there is no such directory, and it is no hub id" if no_id else str(e).splitlines()[0].strip(".")
        raise SystemExit(f"error: no model at {path or repr(path)} ({why}). Give a Hugging Face model directory, "
                         f"or a hub id where the hub can be reached.") from None


def skeleton(config, name):
    """The model of a config on the meta device: every module and shape, no weights. name: for the message.

    What is asked of a family: a vision tower `visual` over a grid of patches, positions by `get_rope_index`; SystemExit
    with one line where it lacks them. Qwen2-VL to Qwen3.5 and GLM-4V have them; tests/test_families.py holds the list
    of those tried.
    """
    from transformers import AutoModelForImageTextToText
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(copy.deepcopy(config))
    except ValueError as e:
        if "Unrecognized configuration class" not in str(e):
            raise
        model = None
    inner = getattr(model, "model", None)
    if not all(hasattr(inner, part) for part in ("visual", "language_model", "get_rope_index")):
        raise SystemExit(f"error: {name} is a {config.model_type} model; needed is one with a vision tower over an "
                         f"image grid and multimodal RoPE, such as Qwen2.5-VL, Qwen3-VL, Qwen3.5 or GLM-4V.")
    return model


def load_policy(path, device="cpu", weights=True):
    """Load a model directory (or hub id) of a family that `skeleton` accepts as a Policy with fp32 weights.

    weights=False leaves them out (meta device): enough to `encode` with. In a process group rank 0 alone reads them,
    into its host's memory, and `shard` must follow, which sends each rank its part: the model need fit neither one GPU
    nor the host once a process. Raises SystemExit with one line when it is missing, incomplete or of another class.
    """
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
    from transformers.utils import logging
    logging.disable_progress_bar()
    model, missing = skeleton(read_config(path), path), []
    try:
        if weights and not is_main():
            model.to_empty(device="cpu").tie_weights()  # addresses without pages: nothing has been written there yet
        elif weights:
            model, info = AutoModelForImageTextToText.from_pretrained(
                path, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True)
            missing = sorted(info["missing_keys"])
        tokenizer = AutoTokenizer.from_pretrained(path)
        processor = AutoImageProcessor.from_pretrained(path, backend="pil")  # the other backend needs torchvision
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise SystemExit(f"error: the model at {path} does not load ({str(e).splitlines()[0]}).") from None
    # Without files transformers makes an empty tokenizer.
    if tokenizer.convert_ids_to_tokens(model.config.image_token_id) is None:
        raise SystemExit(f"error: {path} has no tokenizer that knows the model's image token: add tokenizer.json and "
                         f"its fellows from the model it was made of.")
    if not tokenizer.chat_template:
        raise SystemExit(f"error: {path} has no chat template: add chat_template.jinja or the tokenizer_config.json of "
                         f"the model it was made of.")
    if missing:  # transformers fills them with random numbers
        raise SystemExit(f"error: {path} lacks {len(missing)} weights of a {type(model).__name__}, such as "
                         f"{missing[0]}: the files are of another class or incomplete.")
    policy = wire(Policy(model, tokenizer, processor))
    return policy.to(device) if weights and not dist.is_initialized() else policy


def save_policy(policy, out):
    """Write the full weights as a Hugging Face directory at `out`, replacing what stood there only when complete.

    LoRA's factors are multiplied into the matrices. Collective: every rank calls it, rank 0 writes. Raises SystemExit
    with one line where the disk is full.
    """
    state = {}
    for k, v in policy.state_dict().items():
        full = v.full_tensor() if hasattr(v, "full_tensor") else v  # every rank gathers, one keeps
        if is_main():
            state[k.removeprefix("model.")] = full.cpu()
    if is_main():
        for a in [k for k in state if k.endswith(".lora_A.default.weight")]:
            base, b = a.replace("lora_A.default", "base_layer"), a.replace("lora_A", "lora_B")
            state[base] = state[base] + LORA_SCALE * state.pop(b) @ state.pop(a)  # W + s B A
        state = {k.replace(".base_layer.", "."): v for k, v in state.items()}
        if policy.model.config.tie_word_embeddings:
            del state["lm_head.weight"]  # the hub's files of tied models do not name it either
        whole = Path(out) / "weights"
        shutil.rmtree(whole, ignore_errors=True)
        with replacing(whole) as temporary:
            policy.model.save_pretrained(temporary, state_dict=state)
            policy.tokenizer.save_pretrained(temporary)
            policy.image_processor.save_pretrained(temporary)
        # config.json last: a directory whose weights are not all there has none, or the complete older one.
        for file in sorted(whole.iterdir(), key=lambda f: f.name == "config.json"):
            os.replace(file, Path(out) / file.name)
        whole.rmdir()
    barrier()


# ------------------------------------------------------------------------------------------------------- ready to train

def add_arguments(parser):
    """The arguments with which both stages prepare a policy for training (see `prepare`)."""
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"),
                        help="type of the training pass's matrix products; weights stay float32")
    parser.add_argument("--recompute", action="store_true",
                        help="activation checkpointing: keep one activation a layer, compute the others again")
    parser.add_argument("--freeze-vision", action="store_true", help="train the language model alone")
    parser.add_argument("--lora", type=cli.whole(0), default=0,
                        help="train factors of this rank beside the language model's frozen matrices "
                             "(needs peft; 0: all weights)")
    parser.add_argument("--replicas", type=cli.whole(1), default=1,
                        help="copies of the weights, each sharded over processes / replicas "
                             "(HSDP: the number of nodes)")


def prepare(policy, args, compile=False):
    """Make a loaded policy ready to train, in place; args: those of `add_arguments`. Collective.

    Freezes parts, adds LoRA, turns activation checkpointing on, compiles each layer (compile), shards the weights.
    Raises SystemExit with one line where peft is missing or the replicas do not divide the processes.
    """
    policy.dtype = getattr(torch, args.dtype)
    if args.freeze_vision:
        policy.model.model.visual.requires_grad_(False)
    if args.lora:
        add_lora(policy, args.lora)
    if args.recompute:
        policy.model.activation_checkpointing_enable({"use_reentrant": False})
    if compile:
        for layer in (*policy.model.model.language_model.layers, *policy.model.model.visual.blocks):
            layer.compile()
        policy.score = torch.compile(score_tokens)
    shard(policy, args.replicas)


LORA_SCALE = 2.0  # alpha / rank


def add_lora(policy, rank):
    """Freeze everything and train W + s B A with A [rank, in], B [out, rank] in the decoder layers, in place.

    s: LORA_SCALE. arXiv 2106.09685, section 4.1. Raises SystemExit with one line where peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise SystemExit("error: --lora needs peft, which is not installed. Install it: "
                         ".venv/bin/pip install peft==0.21.2") from None
    policy.requires_grad_(False)
    matrices = r".*language_model\.layers\..*proj\w*"
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=LORA_SCALE * rank, target_modules=matrices), policy.model)


def main():
    import argparse
    parser = argparse.ArgumentParser(description="Plan the memory of a model.", allow_abbrev=False)
    parser.add_argument("--plan", metavar="MODEL", required=True, help="print the memory of one GPU: a hub id such as "
                        "Qwen/Qwen3-VL-8B-Instruct, a directory, or all")
    parser.add_argument("--gpus", type=cli.whole(1), default=8, help="GPUs that the weights are sharded over")
    parser.add_argument("--tokens", type=cli.whole(1), default=16384, help="tokens of a packed row")
    parser.add_argument("--slots", type=cli.whole(1), default=64, help="rollouts decoded together on one GPU")
    parser.add_argument("--length", type=cli.whole(1), default=4096, help="tokens of a rollout, prompt and answer")
    parser.add_argument("--recompute", action="store_true", help="with activation checkpointing")
    args = parser.parse_args()
    import plan
    plan.main(args.plan, args.gpus, tokens=args.tokens, slots=args.slots, length=args.length, recompute=args.recompute)


if __name__ == "__main__":
    main()
