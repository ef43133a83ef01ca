"""What policy.py puts in place of parts of a transformers model: attention for images, packed rows and decoding, fused norms.

Each is the same function as the part that it replaces (tests compare with transformers' own forward), and faster.
"""
import types

import torch
import torch.nn.functional as F

HALVES = (torch.float16, torch.bfloat16)  # what the variable-length kernel takes


def attend(query, key, value, scale):
    """Attention without a mask; query, key, value [n, H, T, head size]."""
    if query.is_cuda or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    # On the CPU SDPA's backward takes longer than that of plain products (measured: .119 s a step against .077).
    return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value


def rms_norm(module, hidden):
    """A decoder's RMSNorm: on a GPU one kernel in place of seven."""
    if hidden.is_cuda:
        return F.rms_norm(hidden, hidden.shape[-1:], module.weight.to(hidden.dtype), module.variance_epsilon)
    return type(module).forward(module, hidden)


def in_one_call(query, key, value, starts, longest, scale, causal):
    """Attention inside each segment by torch's variable-length kernel; query [1, H, T, head size] and all else as below -> [1, T, H, head size].

    The longest segment comes as a number: asking the GPU for it would stop the queue of kernels in every layer.
    """
    from torch.nn.attention.varlen import varlen_attn
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # [T, H, head size]
    return varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale, window_size=(-1, 0) if causal else (-1, -1), enable_gqa=q.shape[1] != k.shape[1])[None]


def image_attention(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None, **kwargs):
    """Attention inside each image of a flattened batch; query, key, value [1, H, sum of patches, head size].

    transformers calls its SDPA once per image; images of one size (the usual batch of the tiny model) go in one call.
    """
    if query.is_cuda and value.dtype in HALVES:
        return in_one_call(query, key, value, cu_seq_lens_q, max_length_q, scaling, False), None
    sizes = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    if len(set(sizes)) == 1:
        n, (_, heads, _, head) = len(sizes), query.shape
        q, k, v = (x.view(heads, n, sizes[0], head).transpose(0, 1) for x in (query, key, value))  # [n, H, patches, head]
        out = attend(q, k, v, scaling)
        return out.transpose(1, 2).reshape(1, n * sizes[0], heads, head), None
    parts = [x.split(sizes, dim=2) for x in (query, key, value)]
    out = torch.cat([attend(q, k, v, scaling) for q, k, v in zip(*parts)], dim=2)
    return out.transpose(1, 2), None  # [1, sum of patches, H, head size]


def embed_patches(module, pixels):
    """The patch embedding, pixels [patches, values] -> [patches, D]: its convolution has one position, so it is a matrix product.

    As a convolution it takes 5 ms more of a step of 85 ms (embedded default, 2 CPU cores).
    """
    return F.linear(pixels.to(module.proj.weight.dtype), module.proj.weight.flatten(1), module.proj.bias)


def packed_attention(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None, **kwargs):
    """Causal attention inside each segment of a packed row; query [1, H, T, head size], key and value with fewer heads.

    cu_seq_lens_q int32 [segments + 1]: where they begin, and T; max_length_q: tokens of the longest. No mask exists, and no product of two segments is computed:
    a dense mask costs T^2, 6.8 times as much for four segments of 2,048 tokens on a CPU.
    """
    if query.is_cuda and value.dtype in HALVES:
        return in_one_call(query, key, value, cu_seq_lens_q, max_length_q, scaling, True), None
    sizes = cu_seq_lens_q.diff().tolist()
    parts = [x.split(sizes, dim=2) for x in (query, key, value)]
    out = torch.cat([F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True) for q, k, v in zip(*parts)], dim=2)
    return out.transpose(1, 2), None  # [1, T, H, head size]


def slot_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of one new token a row; query [B, H, 1, head size], key and value [B, K, T, head size], attention_mask bool [B, 1, 1, T].

    No key is repeated for the H / K queries that share it: reading the cache is the cost of decoding.
    """
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=True).transpose(1, 2), None
    # On a CPU they go as one small sequence.
    B, H, _, head = query.shape
    out = F.scaled_dot_product_attention(query.reshape(B, key.shape[1], -1, head), key, value, attention_mask, scale=scaling)  # [B, K, H / K, head size]
    return out.reshape(B, 1, H, head), None


def wire(policy):
    """Give a Policy's model our attentions and patch embedding, in place; returns it."""
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
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):  # Qwen-VL's, which is T5's; Qwen3.5's is another
            module.forward = types.MethodType(rms_norm, module)
    return policy
