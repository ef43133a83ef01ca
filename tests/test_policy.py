"""policy.py: the encoded sample, logprobs, saving and loading."""
import data
import pytest
import torch

import attention
import policy as P
import tiny as T
from conftest import ROOT


def gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def encode(policy, samples):
    return [policy.encode(s.prompt, data.open_image(s), s.answer) for s in samples]


def test_prompt_is_prefix_and_answer_ends_with_stop(loaded, samples):
    for s in samples[:6]:
        full, prompt = loaded.encode(s.prompt, data.open_image(s), s.answer), loaded.encode(s.prompt, data.open_image(s))
        n = prompt.prompt_length
        assert torch.equal(full.input_ids[:n], prompt.input_ids) and full.prompt_length == n == len(prompt.input_ids)
        assert full.input_ids[-1] == loaded.eos_id
        assert loaded.tokenizer.decode(full.input_ids[n:-1]) == s.answer
        grown = prompt.extend(full.input_ids[n:].tolist())
        assert torch.equal(grown.input_ids, full.input_ids) and torch.equal(grown.position_ids, full.position_ids)


def test_tokens_are_counted_exactly_and_pixels_are_the_processors(loaded, samples):
    examples = encode(loaded, samples[:12])
    assert loaded.count_tokens(samples[:12]) == [len(e.input_ids) for e in examples]
    assert loaded.count_tokens(samples[:12], answers=False) == [e.prompt_length for e in examples]
    image = data.open_image(samples[0]).resize((80, 50))
    e = loaded.encode("x", image)
    assert e.pixel_values.dtype == torch.uint8
    assert torch.equal(loaded.normalised(e.pixel_values), loaded.image_processor(images=[image], return_tensors="pt")["pixel_values"])


def test_a_template_that_trains_what_is_not_sampled_is_refused(loaded, samples):
    loaded.tokenizer.chat_template = loaded.tokenizer.chat_template.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    with pytest.raises(ValueError, match="chat template"):
        encode(loaded, samples[:1])


def test_logprobs_equal_the_stock_model(loaded, samples):
    """Against transformers' own forward with its own position computation and attention: 1e-5."""
    stock = loaded.model
    for e in encode(loaded, samples[:4]):
        ours, entropy = loaded([e])
        is_image = (e.input_ids == stock.config.image_token_id).int()[None]
        stock.model.visual.config._attn_implementation = stock.model.language_model.config._attn_implementation = "eager"
        logits = stock(input_ids=e.input_ids[None], pixel_values=loaded.normalised(e.pixel_values), image_grid_thw=e.image_grid_thw,
                       mm_token_type_ids=is_image, use_cache=False).logits[0].float()
        stock.model.visual.config._attn_implementation = "vision_flash_per_image"
        logp = logits.masked_fill(loaded.banned, float("-inf")).log_softmax(-1)[e.prompt_length - 1:-1]  # [N, V]
        torch.testing.assert_close(ours, logp.gather(1, e.input_ids[e.prompt_length:, None])[:, 0], atol=1e-5, rtol=1e-5)
        p = logp.exp()
        torch.testing.assert_close(entropy, -(p * logp.masked_fill(loaded.banned, 0)).sum(-1), atol=1e-5, rtol=1e-4)


def test_micro_batches_do_not_change_gradients(loaded, samples):
    examples = encode(loaded, samples[:8])
    references = None
    for size in (1, 3, 8):
        loaded.zero_grad()
        for i in range(0, 8, size):
            loaded(examples[i:i + size])[0].sum().backward()
        g = gradient(loaded)
        references = g if references is None else references
        assert (g - references).norm() / references.norm() < 1e-5


def assert_packing_is_exact(policy, examples):
    """One packed row against one forward a sample: logprobs and gradients to 1e-5, and segments do not see each other."""
    apart = torch.cat([policy([e])[0] for e in examples])
    weight = torch.linspace(-1, 1, len(apart))
    (apart * weight).sum().backward()
    g = gradient(policy)
    policy.zero_grad()
    together, _ = policy(examples)
    (together * weight).sum().backward()
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    assert (g - gradient(policy)).norm() / g.norm() < 1e-5
    policy.zero_grad()
    with torch.no_grad():  # another kernel
        torch.testing.assert_close(policy(examples)[0], apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("short", [512, 0])
def test_packed_equals_apart(loaded, samples, monkeypatch, short):
    """Segments of very different length; by plain products and by SDPA."""
    monkeypatch.setattr(attention, "SHORT", short)
    examples = encode(loaded, samples[:5]) + [loaded.encode("word " * n, data.open_image(samples[0]), samples[0].answer) for n in (60, 200)]
    assert len(attention.group_segments([len(e.input_ids) for e in examples], 2000, "cpu").shapes) > 2
    assert_packing_is_exact(loaded, examples)


def test_groups_pad_each_segment_with_its_own_tokens():
    """Places and tokens are inverse, groups hold segments of nearly one length, padding names no other segment."""
    lengths = [3, 9, 4, 10, 1, 4]
    groups = attention.group_segments(lengths, 40, "cpu")
    assert torch.equal(groups.padded[groups.places[:31]], torch.arange(31)) and len(groups.places) == 40
    assert groups.shapes == [(2, 16), (3, 8), (1, 8)] and len(attention.group_segments([5] * 20, 100, "cpu").shapes) == 3
    segment = torch.arange(6).repeat_interleave(torch.tensor(lengths))
    rows = [row for (n, L), part in zip(groups.shapes, groups.padded.split([n * L for n, L in groups.shapes])) for row in part.view(n, L)]
    assert sorted(segment[row].unique().tolist() for row in rows) == [[i] for i in range(6)]


def test_recomputed_activations_give_the_same_gradients(loaded, samples):
    """Activation checkpointing: each decoder layer runs again in backward, the vision tower's blocks too; gradients stay."""
    examples, runs = encode(loaded, samples[:3]), []
    loaded.model.model.language_model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: runs.append(1))
    loaded.train()
    loaded(examples)[0].sum().backward()
    g, once = gradient(loaded), len(runs)
    loaded.zero_grad()
    loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    loaded(examples)[0].sum().backward()
    assert once == 1 and len(runs) == 1 + 2
    assert (g - gradient(loaded)).norm() / g.norm() < 1e-6


def test_a_frozen_tower_is_not_trained(loaded, samples):
    loaded.model.model.visual.requires_grad_(False)
    optimizers = P.build_optimizers(loaded, 1e-2, 1e-2)
    before = {n: p.detach().clone() for n, p in loaded.named_parameters()}
    loaded(encode(loaded, samples[:2]))[0].sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    moved = {n for n, p in loaded.named_parameters() if not torch.equal(p, before[n])}
    assert moved and not any("visual" in n for n in moved) and any("layers.1.mlp" in n for n in moved)


def test_shared_image_equals_repeated_image(loaded, samples):
    """Rows of one GRPO group share one pass of the vision tower: same logprobs, same gradients."""
    prompts = [loaded.encode(s.prompt, data.open_image(s)) for s in samples[:2]]
    rows = [prompts[p].extend([20 + p, 90, 40 + k, loaded.eos_id]) for p in (0, 1) for k in range(3)]
    once, _ = loaded(rows, images=[4, 4, 4, 9, 9, 9])
    once.sum().backward()
    g = gradient(loaded)
    loaded.zero_grad()
    apart, _ = loaded(rows)
    apart.sum().backward()
    torch.testing.assert_close(once, apart, atol=1e-5, rtol=1e-5)
    assert (g - gradient(loaded)).norm() / g.norm() < 1e-5


def test_images_of_different_size_in_one_batch(loaded, samples):
    """image_attention's loop (unequal sizes) equals one forward per image."""
    examples = []
    for i, s in enumerate(samples[:3]):
        examples.append(loaded.encode(s.prompt, data.open_image(s).resize((64, 64) if i else (96, 48)), s.answer))
    assert len({tuple(e.image_grid_thw[0].tolist()) for e in examples}) == 2
    together, _ = loaded(examples)
    torch.testing.assert_close(together, torch.cat([loaded([e])[0] for e in examples]), atol=1e-5, rtol=1e-5)


def test_chunked_logprobs_equal_dense_and_never_build_all_logits():
    """Values, gradients, and the largest logits tensor alive: chunk x V, not N x V."""
    torch.manual_seed(0)
    N, D, V, chunk = 512, 16, 3000, 64
    head, banned = torch.nn.Linear(D, V, bias=False), torch.zeros(V, dtype=torch.bool)
    banned[-5:] = True
    hidden, targets = torch.randn(N, D, requires_grad=True), torch.randint(0, V - 5, (N,))
    rows = []
    head.register_forward_hook(lambda m, i, o: rows.append(o.shape[0]))
    ours, entropy = P.token_logprobs(hidden, head, targets, banned, chunk=chunk)
    (ours * torch.arange(N)).sum().backward()
    g_hidden, g_head = hidden.grad.clone(), head.weight.grad.clone()
    assert max(rows) == chunk and len(rows) == 2 * N // chunk  # forward, and once more in backward
    hidden.grad = head.weight.grad = None
    logp = head(hidden).masked_fill(banned, float("-inf")).log_softmax(-1)
    dense = logp.gather(1, targets[:, None])[:, 0]
    (dense * torch.arange(N)).sum().backward()
    torch.testing.assert_close(ours, dense)
    torch.testing.assert_close(g_hidden, hidden.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(g_head, head.weight.grad, atol=1e-3, rtol=1e-4)


def test_saved_directory_loads_in_transformers_with_hub_names(loaded, samples, tmp_path):
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText
    P.save_policy(loaded, tmp_path / "saved")
    e = encode(loaded, samples[:1])[0]
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    again = P.load_policy(tmp_path / "saved")
    assert torch.equal(loaded([e])[0], again([e])[0])
    assert type(stock).__name__ == "Qwen3VLForConditionalGeneration"
    keys = safe_open(tmp_path / "saved" / "model.safetensors", "pt").keys()
    assert all(k.startswith(("model.visual.", "model.language_model.")) for k in keys)  # tied: no lm_head
    assert stock.generation_config.eos_token_id == loaded.eos_id


def test_the_documents_way_to_use_a_checkpoint_gives_our_own_tokens(loaded, samples, tmp_path):
    """The block of docs/training.md, "Using the result", as it stands, but for the three names and the length."""
    from generate import generate
    P.save_policy(loaded, tmp_path / "saved")
    (tmp_path / "shot.png").write_bytes(samples[0].image)
    code = (ROOT / "docs" / "training.md").read_text().split("## Using the result")[1].split("```python\n")[1].split("```\n")[0]
    for old, new in (('"out/virl2b"', f'"{tmp_path}/saved"'), ('"shot.png"', f'"{tmp_path}/shot.png"'), ('"Write HTML code that draws this image."', repr(samples[0].prompt)),
                     ("max_new_tokens=4096", "max_new_tokens=24")):
        assert code.count(old) == 1
        code = code.replace(old, new)
    found = {}
    exec(code, found)
    ours = generate(loaded, [loaded.encode(samples[0].prompt, data.open_image(samples[0]))], 1, 24, temperature=0.0)
    assert len(set(ours[0][0].token_ids)) > 1  # not one token for ever
    assert found["tokens"].tolist() == ours[0][0].token_ids


@pytest.mark.parametrize("content, words", [(None, "no model at"), ('{"model_type": "bert"}', "is a bert model"), ('{"model_type": "llava"}', "is a llava model"), ("{}", "no model at"),
                                            ('{"model_type": "qwen3_vl"}', "does not load")])
def test_bad_model_directories_end_in_one_line(tmp_path, content, words):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(SystemExit) as e:
        P.load_policy(tmp_path if content else tmp_path / "absent")
    assert words in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("damage, words", [
    (lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-1000]), "does not load"),
    (lambda p: (p / "model.safetensors").write_bytes(b""), "does not load"), (lambda p: (p / "model.safetensors").unlink(), "does not load"),
    (lambda p: (p / "tokenizer.json").write_text("{"), "does not load"), (lambda p: (p / "preprocessor_config.json").unlink(), "does not load"),
    (lambda p: (p / "chat_template.jinja").unlink(), "no chat template"), (lambda p: (p / "config.json").write_text("{"), "no model at")])
def test_a_damaged_model_directory_ends_in_one_line(tiny, tmp_path, damage, words):
    import shutil
    shutil.copytree(tiny, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(SystemExit) as e:
        P.load_policy(tmp_path / "model")
    assert words in str(e.value) and "\n" not in str(e.value)


def test_prompt_beyond_the_context_is_refused(loaded, samples):
    loaded.context = 50
    with pytest.raises(ValueError, match="context"):
        loaded.encode("word " * 100, data.open_image(samples[0]))


def test_states_keep_the_newest_and_ignore_unfinished(loaded, tmp_path):
    optimizers = P.build_optimizers(loaded, 1e-3, 1e-2)
    for step in (1, 2, 3):
        P.save_state(tmp_path, step, loaded, optimizers, {"elapsed": step})
    (tmp_path / "state" / "step_9.tmp").mkdir()
    assert P.saved_steps(tmp_path) == [2, 3]
    assert P.load_state(tmp_path, loaded, optimizers) == {"elapsed": 3, "step": 3}
    with pytest.raises(SystemExit, match="nothing to resume"):
        P.load_state(tmp_path / "absent", loaded, optimizers)


def test_lora_trains_factors_alone_and_is_saved_merged(loaded, samples, tmp_path, tiny):
    pytest.importorskip("peft", reason="optional: --lora needs peft")
    examples = encode(loaded, samples[:3])
    before = loaded(examples)[0]
    P.add_lora(loaded, 4)
    torch.testing.assert_close(loaded(examples)[0], before)  # B starts at 0
    optimizers = P.build_optimizers(loaded, 1e-2, 0)
    for _ in range(3):
        (-loaded(examples)[0].mean()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    after = loaded(examples)[0].detach()
    assert after.mean() > before.mean() + 0.1
    trained = {n for n, p in loaded.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in n and "language_model" in n for n in trained)
    P.save_state(tmp_path, 3, loaded, optimizers, {})
    assert sum(f.stat().st_size for f in (tmp_path / "state" / "step_3").glob("*.distcp")) < 4 * sum(p.numel() for p in loaded.parameters())  # the frozen weights alone
    again = P.load_policy(tiny)
    for w, v in zip(again.parameters(), [p for n, p in loaded.named_parameters() if "lora_" not in n]):
        w.data.copy_(v)
    P.add_lora(again, 4)
    resumed = P.build_optimizers(again, 1e-2, 0)
    P.load_state(tmp_path, again, resumed)
    assert torch.equal(again(examples)[0], after)
    for policy, (optimizer,) in ((loaded, optimizers), (again, resumed)):
        (-policy(examples)[0].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = loaded(examples)[0].detach()
    assert torch.equal(again(examples)[0], after)
    P.save_policy(loaded, tmp_path / "merged")
    torch.testing.assert_close(P.load_policy(tmp_path / "merged")(examples)[0], after, atol=1e-4, rtol=1e-4)
    assert torch.equal(loaded(examples)[0], after)  # saving has not changed the weights in training


def test_lora_without_peft_is_one_line(loaded, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SystemExit, match="pip install peft"):
        P.add_lora(loaded, 4)


def test_presets_have_the_parameters_they_state(tmp_path, samples):
    import re
    from pathlib import Path
    stated = re.findall(r'"(\w+)": dict\(.*# ([\d.]+)M', Path(T.__file__).read_text())
    assert {name for name, _ in stated} == set(T.PRESETS)
    for name, millions in stated:
        T.build_tiny(tmp_path / name, [s.prompt + s.answer for s in samples], **T.PRESETS[name])
        config = P.read_config(tmp_path / name)
        n = sum(p.numel() for p in P.skeleton(config, name).parameters())
        n += (T.PRESETS[name]["vocabulary"] - config.text_config.vocab_size) * T.PRESETS[name]["hidden"]  # 48 samples fill no vocabulary
        assert abs(n / 1e6 - float(millions)) < 0.01 * float(millions), (name, n)


def test_the_norm_kernel_of_gpus_equals_the_models_own(loaded):
    """F.rms_norm, which `rms_norm` calls on a GPU, against transformers' RMSNorm, on the CPU: the same function."""
    norms = [m for m in loaded.modules() if "RMSNorm" in type(m).__name__]
    assert norms and all(m.forward.__func__ is attention.rms_norm for m in norms)
    for m in norms:
        x = torch.randn(5, len(m.weight)) * 3
        torch.testing.assert_close(torch.nn.functional.rms_norm(x, x.shape[-1:], m.weight, m.variance_epsilon), type(m).forward(m, x))
