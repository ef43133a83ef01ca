"""Randomly initialised Qwen3-VL models with a tokenizer of their own, so that everything runs without a hub.

    python tiny.py --size small --data out/data/sft --out small
"""
import argparse
from pathlib import Path

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import torch

from policy import read_config, skeleton
from state import replacing

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>"]
CHAT_TEMPLATE = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}")


def train_tokenizer(texts, vocabulary=768):
    """A byte-level BPE tokenizer learned from `texts`, in which a number of a list or attribute is one token.

    The model then names a coordinate in a single step. All else may merge freely, lines of boilerplate included: short
    answers are what a CPU can afford.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"(?<=[\"'\[,:]|, )\d{1,3}"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False, min_frequency=2,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    roles = ["user\n", "assistant\n"] * 1000  # the words of the chat template
    bpe.train_from_iterator([*texts, *roles], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL[3:],
        clean_up_tokenization_spaces=False, chat_template=CHAT_TEMPLATE)


PRESETS = {  # what `build_tiny` makes, and its parameters (tests/test_policy.py counts them)
    "tiny": dict(hidden=128, layers=3, resolution=64, vocabulary=768),  # 1.33M: the embedded default
    "small": dict(hidden=384, layers=8, resolution=128, vocabulary=4096),  # 25.8M: for a GPU
    "medium": dict(hidden=768, layers=12, resolution=256, vocabulary=8192),  # 148M: for a GPU
}


def build_tiny(out, texts, seed=0, hidden=128, layers=3, context=4096, resolution=64, patch=16, vocabulary=768):
    """Write a randomly initialised Qwen3-VL to `out`, as an ordinary Hugging Face directory.

    `out` must not stand there. The sizes default to PRESETS["tiny"]. texts: iterable of str, the tokenizer's training
    text. vocabulary: tokens at most. context: tokens of prompt and answer at most. resolution: pixels of the side of
    the square that an image is scaled to (by area, keeping its aspect ratio); patch: pixels of a patch's side. Image
    tokens = resolution^2 / patch^2. Raises SystemExit where the disk is full.
    """
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.utils import logging
    logging.disable_progress_bar()
    tokenizer = train_tokenizer(texts, vocabulary)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in (
        ("image_token_id", "<|image_pad|>"), ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"), ("vision_end_token_id", "<|vision_end|>"))}
    head = hidden // 4
    config = Qwen3VLConfig(
        text_config=dict(
            vocab_size=(len(tokenizer) + 15) // 16 * 16, hidden_size=hidden, intermediate_size=hidden * 5 // 2,
            num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, head_dim=head,
            max_position_embeddings=context, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_interleaved=True,
                                 mrope_section=[head // 2 - 2 * (head // 6), head // 6, head // 6])),
        vision_config=dict(
            depth=layers, hidden_size=hidden, intermediate_size=hidden * 5 // 2, num_heads=4, patch_size=patch,
            spatial_merge_size=1, temporal_patch_size=2, out_hidden_size=hidden,
            num_position_embeddings=(resolution // patch) ** 2, deepstack_visual_indexes=[0]),
        tie_word_embeddings=True, **ids)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    # The image processor that needs no torchvision.
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    processor = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=1, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        size={"shortest_edge": resolution**2, "longest_edge": resolution**2})
    with replacing(out) as temporary:
        for part in (model, tokenizer, processor):
            part.save_pretrained(temporary)


def main():
    import data
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--size", choices=PRESETS, default="tiny", help="of the model: see PRESETS")
    parser.add_argument("--data", default="out/data/sft", help="parquet files whose texts train the tokenizer")
    parser.add_argument("--out", type=cli.name, default="out/model", help="directory to write")
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="seed of the weights")
    args = parser.parse_args()
    if Path(args.out).exists():
        raise SystemExit(f"error: {args.out} is there already; give another --out or remove it.")
    texts = [s.prompt + "\n" + s.answer for s in data.read_samples(args.data)]
    build_tiny(args.out, texts, args.seed, **PRESETS[args.size])
    parameters = sum(p.numel() for p in skeleton(read_config(args.out), args.out).parameters())
    print(f"wrote {args.out}: {parameters / 1e6:.1f}M parameters")


if __name__ == "__main__":
    main()
