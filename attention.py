"""What policy.py puts in place of parts of a transformers model: attention, patch embedding, norms.

Each is the same function as the part that it replaces (tests compare with transformers' own forward), and faster.
Attention comes in three: inside images, inside the segments of a packed row, and of one new token (decoding).

Shapes: T tokens of a row or segment, H query heads, K key/value heads (H is a multiple of K), D hidden size.
"""
import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F

HALVES = (torch.float16, torch.bfloat16)  # what the variable-length kernel takes
# Tokens up to which plain products are faster than SDPA on a CPU, forward and backward: ten times at 64; a pass over
# groups of 150 to 350 tokens, masked as ViRL's, takes 27 % less with them.
SHORT = 512
# A group of segments: at most so many, longest over shortest at most so much, its length a multiple of so many tokens.
# 32 segments of 37 to 77 tokens take 2.8 ms a layer with ratios of 1.1 to 1.5, 5.0 as one group. Few different shapes,
# because oneDNN compiles each one anew (.5 ms).
TOGETHER, ALIKE, STEP = 8, 1.5, 8


def attend(query, key, value, scale, mask=None, causal=False):
    """Attention; query [n, H, T, head size], key and value [n, K, T, head size] -> [n, H, T, head size].

    mask: [1 or n, T, T] of 0 or -inf, added to the scores. causal: each token sees itself and those before it, where
    there is no mask; up to SHORT tokens the mask must say so.
    """
    n, H, T, head = query.shape
    K = key.shape[1]
    if query.is_cuda or T > SHORT or not torch.is_grad_enabled():
        mask = mask if mask is None else mask[:, None].to(query.dtype)  # [1 or n, 1, T, T]
        if K != H:  # with `enable_gqa` and a mask SDPA may fall back to all T x T scores
            key, value = (x.repeat_interleave(H // K, 1) for x in (key, value))  # [n, H, T, head size]
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal and mask is None, scale=scale)
    # [n K, H / K T, head size]: the queries that share a key lie one behind the other, no key is repeated
    query = query.reshape(n * K, H // K * T, head)
    key, value = (x.reshape(n * K, T, head) for x in (key, value))  # [n K, T, head size]
    if mask is None:
        scores = query @ key.transpose(1, 2) * scale  # [n K, H / K T, T]
    else:
        mask = mask.to(query.dtype).repeat(1, H // K, 1)  # [1 or n, H / K T, T]
        mask = mask if len(mask) == 1 else mask.repeat_interleave(K, 0)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scale)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)  # in bf16 it takes twice as long
    return (weights @ value).view(n, H, T, head)


def in_one_call(query, key, value, starts, longest, scale, causal):
    """Attention inside each segment by torch's variable-length kernel -> [1, T, H, head size].

    query: [1, H, T, head size], key and value: [1, K, T, head size]; starts: int32 [segments + 1], where the segments
    begin, and T; longest: tokens of the longest, a number: asking the GPU for it would stop the queue of kernels in
    every layer.
    """
    from torch.nn.attention.varlen import varlen_attn
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # [T, H or K, head size]
    window = (-1, 0) if causal else (-1, -1)  # tokens before and after that are seen; -1: all
    return varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale, window_size=window,
                       enable_gqa=q.shape[1] != k.shape[1])[None]


# The three attentions have the signature that transformers calls; each returns (output, None: no weights).

def image_attention(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None,
                    **kwargs):
    """Attention inside each image of a flattened batch -> [1, sum of patches, H, head size], None.

    query, key, value: [1, H, sum of patches, head size]; cu_seq_lens_q: int32 [images + 1], where the images begin.
    transformers calls its SDPA once per image; images of one size (the usual batch of the tiny model) go in one call.
    """
    if query.is_cuda and value.dtype in HALVES:
        return in_one_call(query, key, value, cu_seq_lens_q, max_length_q, scaling, False), None
    sizes = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    if len(set(sizes)) == 1:
        n, (_, heads, _, head) = len(sizes), query.shape
        shape = heads, n, sizes[0], head
        q, k, v = (x.view(shape).transpose(0, 1) for x in (query, key, value))  # [n, H, patches, head size]
        out = attend(q, k, v, scaling)
        return out.transpose(1, 2).reshape(1, n * sizes[0], heads, head), None
    parts = [x.split(sizes, dim=2) for x in (query, key, value)]
    out = torch.cat([attend(q, k, v, scaling) for q, k, v in zip(*parts)], dim=2)
    return out.transpose(1, 2), None  # [1, sum of patches, H, head size]


@dataclass
class Groups:
    """How a packed row of T tokens goes through an attention without a variable-length kernel.

    Segments of nearly one length go together, padded to one length: a group.
    """
    padded: torch.Tensor  # [S] int64: the token at each place of all groups, padding repeats its segment's last
    places: torch.Tensor  # [T] int64: where each token stands among these
    shapes: list  # (segments n, tokens L of each) of each group; S = sum of n L
    masks: list  # [1 or n, L, L] of each group, None for segments so long that a kernel does without


def group_segments(lengths, T, device, owners=None):
    """Groups of the segments of a packed row of T tokens.

    lengths: list of int; where they add up to less than T, the rest of the row is of no use. owners: of each segment
    int64 [its tokens], see `Example.owner`; without them each token sees those before it. What pads a segment stands
    behind it: no token sees it, nothing of it is kept, so it changes neither values nor gradients.
    """
    groups = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or len(groups[-1]) == TOGETHER or lengths[i] * ALIKE < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(i)
    starts = torch.tensor([0, *lengths]).cumsum(0)  # [segments + 1]
    padded, real, shapes, masks = [], [], [], []
    for members in groups:
        n, L = len(members), -(-lengths[members[0]] // STEP) * STEP
        length, place = torch.tensor([lengths[i] for i in members])[:, None], torch.arange(L)  # [n, 1], [L]
        padded.append((starts[members][:, None] + place.minimum(length - 1)).flatten())  # [n L]
        real.append((place < length).flatten())  # [n L]
        seen = (place[:, None] >= place)[None]  # [1, L, L]
        if owners:
            owner = torch.stack([F.pad(owners[i], (0, L - lengths[i]), value=-1) for i in members])  # [n, L]
            seen = seen & ((owner[:, None] == 0) | (owner[:, None] == owner[:, :, None]))  # [n, L, L]
        shapes.append((n, L))
        mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))  # [1 or n, L, L]
        masks.append(mask.to(device) if owners or L <= SHORT else None)
    padded, real = torch.cat(padded), torch.cat(real)  # [S]
    places = F.pad(real.nonzero()[:, 0][padded[real].argsort()], (0, T - sum(lengths)))  # [T]
    return Groups(padded.to(device), places.to(device), shapes, masks)


def packed_attention(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None,
                     groups=None, **kwargs):
    """Attention inside each segment of a packed row -> [1, T, H, head size], None.

    query: [1, H, T, head size], key and value: [1, K, T, head size]. groups: see `group_segments`. None: causal, by
    `in_one_call`, whose starts and longest cu_seq_lens_q and max_length_q are.
    """
    if groups is None:
        return in_one_call(query, key, value, cu_seq_lens_q, max_length_q, scaling, True), None
    sizes = [n * L for n, L in groups.shapes]
    flat = [x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value)]  # [T, H or K, head size]
    parts = [x.index_select(0, groups.padded).split(sizes) for x in flat]  # of each group [n L, H or K, head size]
    out = []
    for (n, L), mask, *qkv in zip(groups.shapes, groups.masks, *parts):
        q, k, v = (x.view(n, L, *x.shape[1:]).transpose(1, 2) for x in qkv)  # [n, H or K, L, head size]
        out.append(attend(q, k, v, scaling, mask, causal=True).transpose(1, 2).reshape(n * L, -1, v.shape[-1]))
    return torch.cat(out).index_select(0, groups.places)[None], None  # [1, T, H, head size]


def slot_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of one new token a row -> [B, 1, H, head size], None.

    query: [B, H, 1, head size], key and value: [B, K, T, head size], attention_mask: [B, 1, 1, T], bool or 0 and -inf.
    No key is repeated for the H / K queries that share it: reading the cache is the cost of decoding.
    """
    if query.is_cuda:
        out = F.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    B, H, _, head = query.shape
    query = query.reshape(B, key.shape[1], -1, head)  # [B, K, H / K, head size]: on a CPU they go as one small sequence
    out = F.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling)  # [B, K, H / K, head size]
    return out.reshape(B, 1, H, head), None


def embed_patches(module, pixels):
    """The patch embedding, pixels [patches, values] -> [patches, D]. Its convolution has one position: a product.

    As a convolution it takes 5 ms more of a step of 85 ms (embedded default, 2 CPU cores).
    """
    return F.linear(pixels.to(module.proj.weight.dtype), module.proj.weight.flatten(1), module.proj.bias)


def rms_norm(module, hidden):
    """A decoder's RMSNorm, hidden [..., D] -> [..., D]: on a GPU one kernel in place of seven."""
    if hidden.is_cuda:
        return F.rms_norm(hidden, hidden.shape[-1:], module.weight.to(hidden.dtype), module.variance_epsilon)
    return type(module).forward(module, hidden)


def wire(policy):
    """Put the functions above into a Policy's model, in place; returns the Policy.

    Which attention its decoder calls is chosen in `Policy.forward` and `Policy.decode`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    # transformers hands the segment lengths only to attentions with "flash" in their name.
    AttentionInterface.register("vision_flash_per_image", image_attention)
    AttentionInterface.register("packed", packed_attention)
    AttentionInterface.register("slots", slot_attention)
    AttentionMaskInterface.register("packed", lambda *args, **kwargs: None)
    visual = policy.model.model.visual
    visual.config._attn_implementation = "vision_flash_per_image"
    visual.patch_embed.forward = types.MethodType(embed_patches, visual.patch_embed)
    for module in policy.modules():
        # Qwen-VL's, which is T5's; Qwen3.5's is another
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = types.MethodType(rms_norm, module)
    return policy
