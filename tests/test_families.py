"""Other families than the embedded default's, by one generic path: tiny random models of each, against transformers' own forward."""
import shutil

import data
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import policy as P
from generate import generate
from test_policy import assert_packing_is_exact, encode

ROPE = dict(rope_type="default", rope_theta=10000.0)
VISION = dict(depth=2, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=16, spatial_merge_size=1, temporal_patch_size=2, out_hidden_size=64)
FAMILIES = {  # what differs from the common configuration: text, vision
    "qwen2_vl": ({}, dict(depth=2, embed_dim=32, hidden_size=64, num_heads=2, mlp_ratio=2, patch_size=16, spatial_merge_size=1, temporal_patch_size=2)),
    "qwen2_5_vl": ({}, dict(VISION, window_size=64, fullatt_block_indexes=[1])),
    "qwen3_vl_moe": (dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1),
                     dict(VISION, num_position_embeddings=16, deepstack_visual_indexes=[0])),
    "qwen3_5": (dict(head_dim=16, num_hidden_layers=4, layer_types=["linear_attention"] * 3 + ["full_attention"], linear_num_key_heads=2,
                     linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
                     rope_parameters=dict(ROPE, mrope_section=[1, 1, 0], partial_rotary_factor=0.25)), dict(VISION, num_position_embeddings=16)),
    "glm4v": (dict(rope_parameters=dict(ROPE, mrope_section=[4, 2, 2], partial_rotary_factor=1.0)), dict(VISION, image_size=64)),
}


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request, tiny, tmp_path_factory):
    """A random model of a family beside the tokenizer and image processor of the tiny model."""
    base, (text, vision) = P.read_config(tiny), FAMILIES[request.param]
    ids = {k: getattr(base, k) for k in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    common = dict(vocab_size=base.text_config.vocab_size, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=2048, rope_parameters=dict(ROPE, mrope_section=[4, 2, 2]),
                  pad_token_id=base.text_config.pad_token_id, bos_token_id=None, eos_token_id=base.text_config.eos_token_id)
    config = AutoConfig.for_model(request.param, text_config={**common, **text}, vision_config=vision, tie_word_embeddings=False, **ids)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for w in model.parameters():
            if w.ndim > 1:
                w.mul_(3)  # random logits are then far from uniform
    path = tmp_path_factory.mktemp("families") / request.param
    shutil.copytree(tiny, path)
    model.save_pretrained(path)
    return path


def test_logprobs_equal_the_stock_model_and_company_changes_nothing(directory, samples):
    policy = P.load_policy(directory)
    examples = encode(policy, samples[:4])
    assert policy.count_tokens(samples[:4]) == [len(e.input_ids) for e in examples]
    stock = AutoModelForImageTextToText.from_pretrained(directory, attn_implementation="eager").eval()
    apart = [policy([e])[0] for e in examples]
    for e, ours in zip(examples, apart):
        is_image = (e.input_ids == stock.config.image_token_id).int()[None]
        logits = stock(input_ids=e.input_ids[None], pixel_values=policy.normalised(e.pixel_values), image_grid_thw=e.image_grid_thw,
                       mm_token_type_ids=is_image, use_cache=False).logits[0].float()
        logp = logits.masked_fill(policy.banned, float("-inf")).log_softmax(-1)[e.prompt_length - 1:-1]  # [N, V]
        torch.testing.assert_close(ours, logp.gather(1, e.input_ids[e.prompt_length:, None])[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(policy(examples)[0], torch.cat(apart), atol=1e-5, rtol=1e-5)
    twice = policy([examples[0], examples[0]], images=[0, 0])[0]  # one pass of the tower for two rows
    torch.testing.assert_close(twice, apart[0].repeat(2), atol=1e-5, rtol=1e-5)


def test_packing_is_exact(directory, samples):
    policy = P.load_policy(directory)
    assert policy.padded == policy.recurrent  # flash-linear-attention is not installed
    assert_packing_is_exact(policy, encode(policy, samples[:4]))


def test_answers_that_share_their_prompt_equal_each_alone(directory, samples):
    policy = P.load_policy(directory)
    if policy.recurrent:
        pytest.skip("a recurrent state cannot branch: virl.py gives each answer a row of its own")
    prompts = [policy.encode(s.prompt, data.open_image(s)) for s in samples[:2]]
    answers = [[[40, 41, 42], [50, 51, 52, 53, 54], [60]], [[70, 71], [80, 81, 82], [90, 91]]]
    alone = torch.cat([policy([p.extend(a)])[0] for p, group in zip(prompts, answers) for a in group])
    torch.testing.assert_close(policy([p.branch(group) for p, group in zip(prompts, answers)])[0], alone, atol=1e-5, rtol=1e-5)


def test_sampled_logprobs_equal_a_teacher_forced_pass(directory, samples):
    """Slots, caches (a recurrent state included) and positions of each family, with prompts of unequal length."""
    policy = P.load_policy(directory)
    examples = [policy.encode(s.prompt + " again" * i, data.open_image(s)) for i, s in enumerate(samples[:5])]
    assert len({e.prompt_length for e in examples}) == 5
    few, many = (generate(policy, examples, 2, 16, slots=slots) for slots in (3, 64))
    for group, again in zip(few, many):
        assert [r.token_ids for r in group] == [r.token_ids for r in again]
        for r in group:
            logp, _ = policy([examples[r.example].extend(r.token_ids)])
            torch.testing.assert_close(logp, torch.tensor(r.logprobs), atol=1e-5, rtol=1e-5)


def test_saved_directory_has_the_names_of_its_class(directory, samples, tmp_path):
    from safetensors import safe_open
    policy = P.load_policy(directory)
    P.save_policy(policy, tmp_path / "saved")
    names = [sorted(safe_open(p / "model.safetensors", "pt").keys()) for p in (directory, tmp_path / "saved")]
    assert names[0] == names[1]
    e = encode(policy, samples[:1])
    assert torch.equal(policy(e)[0], P.load_policy(tmp_path / "saved")(e)[0])


def test_weights_of_another_class_or_incomplete_ones_are_refused(tiny, tmp_path):
    """transformers would fill what is missing with random numbers and go on."""
    from safetensors.torch import load_file, save_file
    shutil.copytree(tiny, tmp_path / "m")
    weights = load_file(tiny / "model.safetensors")
    del weights["model.language_model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="lacks 1 weights .*layers.1.mlp.up_proj") as e:
        P.load_policy(tmp_path / "m")
    assert "\n" not in str(e.value)


def test_a_thinking_template_is_used_without_thinking(loaded, samples):
    """Templates such as Qwen3's open a thought unless told not to: prompt and training agree on the closed one."""
    loaded.tokenizer.chat_template = loaded.tokenizer.chat_template.replace(
        "assistant\n{% endif", "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif").replace(
        "<|im_start|>{{ m.role }}\n", "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}")
    e = encode(loaded, samples[:1])[0]
    assert loaded.tokenizer.decode(e.input_ids[:e.prompt_length]).endswith("<think>\n\n</think>\n\n")
    assert loaded.tokenizer.decode(e.input_ids[e.prompt_length:-1]) == samples[0].answer
