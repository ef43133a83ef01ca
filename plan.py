"""What a run costs: memory of one GPU, computed from shapes alone, and FLOPs of a training step.

    python policy.py --plan Qwen/Qwen3-VL-8B-Instruct --gpus 8

Forward and backward of the language model and of the vision tower run on torch's meta device, where tensors have shapes
and no data; a dispatch mode adds up the storages that are alive. So activations are those that autograd keeps for this
code, not a rule of thumb. Left out: the allocator's fragmentation, NCCL's buffers and the CUDA context (some GB
together).
"""
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import policy as P

# Published configurations (their config.json), so that no network is needed: hidden size, layers, heads, key/value
# heads, head size, MLP size, vocabulary, tied embeddings; vision: depth, hidden size, MLP size, heads, layers of the
# deep features or None.
PUBLISHED = {
    "Qwen/Qwen3-VL-2B-Instruct": ((2048, 28, 16, 8, 128, 6144, 151936, True), (24, 1024, 4096, 16, [5, 11, 17])),
    "Qwen/Qwen3-VL-4B-Instruct": ((2560, 36, 32, 8, 128, 9728, 151936, True), (24, 1024, 4096, 16, [5, 11, 17])),
    "Qwen/Qwen3-VL-8B-Instruct": ((4096, 36, 32, 8, 128, 12288, 151936, False), (27, 1152, 4304, 16, [8, 16, 24])),
    "Qwen/Qwen3-VL-32B-Instruct": ((5120, 64, 64, 8, 128, 25600, 151936, False), (27, 1152, 4304, 16, [8, 16, 24])),
    "Qwen/Qwen2.5-VL-3B-Instruct": ((2048, 36, 16, 2, 128, 11008, 151936, True), (32, 1280, 3420, 16, None)),
    "Qwen/Qwen2.5-VL-7B-Instruct": ((3584, 28, 28, 4, 128, 18944, 152064, False), (32, 1280, 3420, 16, None)),
}
# bf16 FLOP/s of dense matrix products with fp32 sums, from NVIDIA's data sheets; the first name that occurs in the
# device's counts.
PEAK_FLOPS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12,
              "L40S": 362e12, "4090": 165e12}


def published_config(name):
    """The transformers config of a model in PUBLISHED. Raises KeyError for any other."""
    from transformers import Qwen2_5_VLConfig, Qwen3VLConfig
    (hidden, layers, heads, kv, head, mlp, vocabulary, tied), (depth, v_hidden, v_mlp, v_heads, deep) = PUBLISHED[name]
    text = dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
                intermediate_size=mlp, vocab_size=vocabulary, tie_word_embeddings=tied)
    vision = dict(depth=depth, hidden_size=v_hidden, intermediate_size=v_mlp, num_heads=v_heads, out_hidden_size=hidden)
    if deep is None:
        rope = dict(rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24])
        return Qwen2_5_VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=vision,
                                tie_word_embeddings=tied)
    rope = dict(rope_type="default", rope_theta=5e6, mrope_interleaved=True, mrope_section=[24, 20, 20])
    return Qwen3VLConfig(text_config={**text, "head_dim": head, "rope_parameters": rope},
                         vision_config={**vision, "deepstack_visual_indexes": deep}, tie_word_embeddings=tied)


class LiveBytes(TorchDispatchMode):
    """Context: `live` and `peak` bytes of the storages that were made inside it; `known` tensors do not count."""

    def __init__(self, known=()):
        super().__init__()
        self.seen = {t.untyped_storage()._cdata for t in known}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return out

    def freed(self, key, size):
        """Called as a storage dies: `key`, its address, may come back as that of another; size: its bytes."""
        self.seen.discard(key)
        self.live -= size


class KernelAttention(torch.autograd.Function):
    """What a fused attention kernel keeps for backward, without its arithmetic.

    That is: query, key, value, output and one fp32 number a query.
    """

    @staticmethod
    def forward(ctx, query, key, value):
        """query [B, H, T, head size], key and value [B, K, T, head size] -> [B, H, T, head size], uninitialised."""
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, gradient):
        """gradient [B, H, T, head size] -> those of query, key and value, of their shapes, uninitialised."""
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])


def activations(model, tokens, patches, chunk=2048):
    """Bytes of activations of one training pass of a model on the meta device: (language model, vision tower, logits).

    tokens: of the packed row; patches: of its images; chunk: scored tokens whose logits exist together. Each is the
    peak over forward and backward; a gradient is dropped as soon as it is complete, as FSDP2 does.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    def kernel(module, query, key, value, *args, **kwargs):  # as transformers calls an attention
        return KernelAttention.apply(query, key, value).transpose(1, 2), None

    AttentionInterface.register("plan_flash", kernel)
    AttentionMaskInterface.register("plan_flash", lambda *args, **kwargs: None)
    visual, language = model.model.visual, model.model.language_model
    visual.config._attn_implementation = language.config._attn_implementation = "plan_flash"
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    known = [*model.parameters(), *model.buffers()]
    new = lambda *shape: torch.empty(*shape, device="meta", dtype=model.dtype, requires_grad=True)
    with LiveBytes(known) as text:
        positions = torch.zeros(3, 1, tokens, dtype=torch.long, device="meta")
        embeds = new(1, tokens, language.config.hidden_size)
        hidden = language(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
        hidden.sum().backward()
    width = visual.patch_embed.embed_dim
    with LiveBytes(known) as tower:
        hidden = new(patches, width)
        head = width // visual.config.num_heads
        angles = [torch.empty(patches, head, device="meta") for _ in range(2)]  # cosine, sine
        for block in visual.blocks:
            hidden = block(hidden, cu_seqlens=torch.tensor([0, patches]), position_embeddings=tuple(angles))
        hidden.sum().backward()
    n = min(chunk, tokens)
    with LiveBytes(known) as logits:
        banned = torch.zeros(model.lm_head.weight.shape[0], dtype=torch.bool, device="meta")
        targets = torch.zeros(n, dtype=torch.long, device="meta")
        logp, _ = P.token_logprobs(new(n, language.config.hidden_size), model.lm_head, targets, banned)
        logp.sum().backward()
    return text.peak, tower.peak, logits.peak


def attention_layers(text):
    """The number of decoder layers with attention; text: a model's text_config.

    The others (linear attention) keep a state of fixed size, which is not counted.
    """
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    return sum(kind != "linear_attention" for kind in kinds)


def head_size(text):
    """Values of an attention head; text: a model's text_config, which need not name it."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def kv_bytes(config, slots, length):
    """Bytes of the key/value cache of `slots` rollouts of `length` tokens (prompt and answer) in bf16."""
    text = config.text_config
    return 2 * 2 * attention_layers(text) * text.num_key_value_heads * head_size(text) * slots * length


def memory(config, name, gpus, tokens=16384, image_share=0.36, slots=64, length=4096, recompute=False):
    """Bytes on one of `gpus` GPUs, FSDP2 over all of them: ({what: bytes} of training, {what: bytes} of rollouts).

    config, name: as `policy.skeleton` takes them; tokens: of a packed row; image_share: how many of these are images';
    slots, length: as for `kv_bytes`; recompute: with activation checkpointing.
    """
    count = lambda *modules: sum(p.numel() for module in modules for p in module.parameters())
    model = P.skeleton(config, name).to(torch.bfloat16)
    model.train()
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
    language = model.model.language_model
    total, layer = count(model), max(map(count, [*language.layers, model.model.visual]))
    root = count(language.embed_tokens, *([] if config.tie_word_embeddings else [model.lm_head]))
    patches = int(tokens * image_share) * config.vision_config.spatial_merge_size**2
    text, tower, logits = activations(model, tokens, patches)
    shared = {"weights, fp32": 4 * total / gpus, "optimizer (AdamW), fp32": 8 * total / gpus}
    training = {**shared, "gradients, fp32": 4 * total / gpus,
                # bf16 weights of the embeddings and of two units; one unit's gradient in bf16 and, to be reduced, fp32
                "gathered units, bf16": 2 * root + 2 * 2 * layer + 6 * max(root, layer),
                f"activations, {tokens} tokens": text, f"activations, {patches} patches": tower,
                "logits of 2048 tokens": logits}
    rollouts = {**shared, "gathered weights, bf16": 2 * total,
                f"key/value cache, {slots} x {length}": kv_bytes(config, slots, length)}
    return training, rollouts


def main(name, gpus, **options):
    """Print the plan of a model as two tables, in GB (1e9 bytes); options: those of `memory`.

    name: a key of PUBLISHED or its short form (qwen3-vl-8b), a directory or a hub id; "all": the sums of each in
    PUBLISHED. Raises SystemExit with one line for what is none of these.
    """
    if gpus < 1:
        raise SystemExit("error: --gpus must be at least 1.")
    if name == "all":
        print("| model | parameters | training, GB | rollouts, GB |\n|---|---|---|---|")
        for key in PUBLISHED:
            config = published_config(key)
            sums = [sum(part.values()) / 1e9 for part in memory(config, key, gpus, **options)]
            parameters = sum(p.numel() for p in P.skeleton(config, key).parameters())
            print(f"| {key} | {parameters / 1e9:.2f}B | {sums[0]:.0f} | {sums[1]:.0f} |")
        return
    short = lambda key: key.split("/")[1].lower().removesuffix("-instruct")
    matches = [key for key in PUBLISHED if name.lower() in (key.lower(), short(key))]
    config = published_config(matches[0]) if matches else P.read_config(name)
    print(f"{matches[0] if matches else name}, {gpus} GPU(s), FSDP2 over all, bf16 products: GB on each, computed from "
          f"shapes")
    for title, part in zip(("training", "rollouts (ViRL)"), memory(config, name, gpus, **options)):
        print(f"\n| {title} | GB |\n|---|---|")
        for what, size in part.items():
            print(f"| {what} | {size / 1e9:.2f} |")
        print(f"| **together** | **{sum(part.values()) / 1e9:.1f}** |")


# ---------------------------------------------------------------------------------------------------------------- FLOPs

def trained(module):
    """Whether any weight of it is trained."""
    return any(p.requires_grad for p in module.parameters())


def flops_per_token(policy):
    """FLOPs of forward and backward in matrix products, by what causes them.

    They are those of: a token in the decoder layers, a patch, a merged image token, a scored token. 2 for each weight
    forward, 2 for its input's gradient, 2 for its own where it is trained. A frozen tower has no backward, the patch
    embedding's input no gradient.
    """
    inner, config = policy.model.model, policy.model.config.text_config
    # The share of experts that a token takes; they lie in 3-D weights.
    active = getattr(config, "num_experts_per_tok", 0) / (getattr(config, "num_experts", 0) or 1)
    matrices = lambda module: [p for p in module.parameters() if p.ndim > 1]
    of = lambda module: sum(p.numel() * (active if p.ndim == 3 else 1) * (4 + 2 * p.requires_grad)
                            for p in matrices(module))
    tower = {name: sum(p.numel() for p in matrices(module)) for name, module in inner.visual.named_children()}
    each = 6 if trained(inner.visual) else 2
    patch = tower["patch_embed"] * min(4, each) + tower["blocks"] * each
    merger = sum(n for name, n in tower.items() if "merger" in name) * each
    return of(inner.language_model.layers), patch, merger, of(policy.model.lm_head)


def training_flops(policy, per_token, examples):
    """FLOPs of one forward and backward over the examples; per_token: `flops_per_token`.

    Attention adds 12 for each pair of query and key and unit of width (4 without backward, in a frozen tower), of which
    the causal one has half. What --recompute computes twice counts once, as model FLOPs utilisation (MFU) is defined
    (arXiv 2204.02311, appendix B).
    """
    text, patch, merger, head = per_token
    config, vision = policy.model.config.text_config, policy.model.config.vision_config
    visual, width = policy.model.model.visual, config.num_attention_heads * head_size(config)
    looking = (12 if trained(visual) else 4) * vision.depth * visual.patch_embed.embed_dim
    flops = 0
    for e in examples:
        T, patches = len(e.input_ids), int(e.image_grid_thw.prod())
        flops += text * T + patch * patches + merger * patches // vision.spatial_merge_size**2
        flops += head * (T - e.prompt_length)
        flops += 6 * width * attention_layers(config) * T**2 + looking * patches**2
    return flops


def peak_flops(device):
    """bf16 FLOP/s of the torch.device by its data sheet; None where it is not in PEAK_FLOPS (any CPU): no MFU then."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)
