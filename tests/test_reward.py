"""reward.py: calibrated, ordered as a person would, exact about formats."""
import itertools
import math
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import ladder
import encoder as encoders
import reward as R
import texts
from pixels import background, patches
from render import Render, Renderer, available


def canvas(*boxes, size=(64, 64), ground=(255, 255, 255)):
    """boxes: (x, y, w, h, colour) -> uint8 [H, W, 3]."""
    image = np.full((size[1], size[0], 3), ground, np.uint8)
    for x, y, w, h, colour in boxes:
        image[y:y + h, x:x + w] = colour
    return image


RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 160, 0)
TARGETS = {
    "two boxes": canvas((8, 8, 24, 16, RED), (36, 40, 20, 20, BLUE)),
    "thin line": canvas((0, 31, 64, 1, (0, 0, 0))),
    "dark page": canvas((20, 10, 30, 30, (250, 250, 0)), ground=(20, 20, 30)),
    "wide": canvas((10, 10, 60, 20, GREEN), (150, 30, 40, 40, RED), size=(240, 80)),
    "large": canvas((100, 50, 500, 300, BLUE), (700, 400, 120, 90, RED), size=(900, 600)),
    "tall": canvas((4, 4, 8, 700, RED), size=(40, 900)),
    "sparse page": canvas((300, 200, 30, 12, (90, 60, 90)), size=(512, 288), ground=(243, 245, 246)),
}


def visual(target, image):
    return R.visual_parts(R.features(target), image)["visual"]


@pytest.mark.parametrize("name", TARGETS)
def test_calibration(name):
    """Identical 1, blank 0; black, noise, the target's mean colour at most .05, whatever the target."""
    target = TARGETS[name]
    ground = target[-1, -1]
    assert visual(target, target) == pytest.approx(1, abs=1e-6)
    assert visual(target, np.full_like(target, ground)) == pytest.approx(0, abs=1e-6)
    noise = np.random.default_rng(0).integers(0, 256, target.shape, dtype=np.uint8)
    mean = np.full_like(target, target.reshape(-1, 3).mean(0).astype(np.uint8))
    for image in (noise, mean, np.full_like(target, (0, 0, 0)), np.full_like(target, (255, 255, 255))):
        assert visual(target, image) <= 0.05


def mixed(target, share):
    """`share` of the 4 x 4 pixel blocks replaced by others of the image: more of them with a larger share, the rest the same."""
    rng, image = np.random.default_rng(0), target.copy()
    blocks = [(y, x) for y in range(0, target.shape[0] - 3, 4) for x in range(0, target.shape[1] - 3, 4)]
    for y, x in rng.permutation(blocks)[:int(share * len(blocks))]:
        image[y:y + 4, x:x + 4] = rng.integers(0, 256, 3)
    return image


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("perturb, steps", [
    (lambda t, k: np.roll(t, (k, 0), (0, 1)), (0, 1, 2, 4)), (mixed, (0, 0.02, 0.1, 0.3, 0.8)),
    (lambda t, k: np.where(t == t[-1, -1], t, np.clip(t * 1.0 + (60 * k, -40 * k, 25 * k), 0, 255)).astype(np.uint8), (0, 1, 2, 3)),
    (lambda t, k: np.concatenate([t[:len(t) - k * len(t) // 8], np.broadcast_to(t[-1, -1], (k * len(t) // 8, *t.shape[1:]))]), (0, 2, 4, 7))],
    ids=["shift", "noise", "colour", "cut off"])
def test_falls_as_the_picture_moves_away(name, perturb, steps):
    target = TARGETS[name]
    scores = [visual(target, perturb(target, step)) for step in steps]
    assert scores[0] > scores[-1] and all(a >= b - 1e-6 for a, b in zip(scores, scores[1:])), scores


def test_terms_are_those_of_the_formula():
    """Each term of a small pair against its definition written out, and the total of its parts."""
    target, image = TARGETS["two boxes"], canvas((10, 8, 24, 16, GREEN), (36, 40, 20, 20, BLUE))
    parts, ground = R.visual_parts(R.features(target), image), np.ones(3)
    a, b = target / 255, image / 255
    side = 64 // R.COARSE
    small = [np.array([[x[y:y + side, z:z + side].mean((0, 1)) for z in range(0, 64, side)] for y in range(0, 64, side)]) for x in (a, b)]
    error = lambda p, q: 1 - math.exp(-4 * np.abs(p - q).max())
    common = total = 0.0
    for p, q in zip(small[0].reshape(-1, 3), small[1].reshape(-1, 3)):
        most = max(error(p, ground), error(q, ground))
        common, total = common + max(0.0, most - error(p, q)), total + most
    assert parts["coarse"] == pytest.approx(common / total, abs=1e-5)
    common = total = 0.0
    wide = [np.pad(v, ((3, 3), (3, 3), (0, 0)), "symmetric") for v in (a, b)]
    for y in range(64):
        for x in range(64):
            p, q = (v[y:y + 7, x:x + 7].reshape(-1, 3) for v in wide)
            cs = lambda p, q: ((2 * ((p * q).mean(0) - p.mean(0) * q.mean(0)) + R.C2) / (p.var(0) + q.var(0) + R.C2)).mean()
            e = lambda p, q: 1 - min(1, max(0, cs(p, q))) * (1 - error(p.mean(0), q.mean(0)))
            most = max(e(p, np.ones_like(p)), e(q, np.ones_like(q)))
            common, total = common + max(0.0, most - e(p, q)), total + most
    assert parts["fine"] == pytest.approx(common / total, abs=1e-5)
    w, s = R.WEIGHTS, parts
    agree = min(1, (s["fine"] + s["edges"]) / R.AGREE)
    assert s["visual"] == pytest.approx(w["fine"] * s["fine"] + w["edges"] * s["edges"] + agree * (w["coarse"] * s["coarse"] + w["palette"] * s["palette"]))
    assert sum(w.values()) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(40, 57), (5, 9), (2, 1)])
def test_means_of_patches_are_those_of_scipy(shape):
    from scipy.ndimage import uniform_filter
    plane = np.random.default_rng(0).random(shape, dtype=np.float32)
    assert np.allclose(patches(plane, 7), uniform_filter(plane, 7), rtol=0, atol=3e-7)


def test_background_of_a_large_sheet_is_its_colour():
    """A sum of 250,000 float32 numbers one after the other is wrong in its third digit."""
    colour = np.array([243, 245, 246], np.float32) / 255
    sheet = np.broadcast_to(colour, (500, 500, 3)).copy()
    sheet[100:200, 50:400] = 0
    assert np.allclose(background(sheet), colour, rtol=0, atol=1e-6)


def test_order_is_a_persons_where_plain_ssim_errs():
    from skimage.metrics import structural_similarity
    target = TARGETS["two boxes"]
    ladder = [target, canvas((10, 8, 24, 16, RED), (36, 40, 20, 20, BLUE)), canvas((8, 8, 24, 16, GREEN), (36, 40, 20, 20, BLUE)),
              canvas((8, 8, 24, 16, RED)), canvas((40, 4, 16, 28, GREEN))]
    scores = [visual(target, image) for image in ladder]
    assert scores[0] > scores[1] > scores[2] > scores[4] and scores[1] > scores[3] > scores[4]
    ssim = lambda image: structural_similarity(target, image, channel_axis=2)
    assert ssim(canvas()) > ssim(ladder[4])  # a blank page "looks more like it" than a wrong picture


def test_wrong_aspect_costs_and_wrong_scale_does_not():
    target = TARGETS["wide"]
    doubled = target.repeat(2, 0).repeat(2, 1)
    assert visual(target, doubled) > 0.95
    assert visual(target, target.repeat(2, 1)) < 0.5 * visual(target, doubled)  # the same drawing, stretched to twice the width
    parts = R.visual_parts(R.features(target), target.repeat(2, 1))
    assert parts["size"] == pytest.approx(0.5)


def test_blank_target_scores_only_its_equal():
    blank = canvas()
    assert visual(blank, blank) == 1 and visual(blank, TARGETS["two boxes"]) < 0.05


@pytest.mark.parametrize("response, language, code", [
    ("```svg\n<svg/>\n```", "svg", "<svg/>"), ("text\n```svg\n<svg/>\n```\nmore", "svg", "<svg/>"),
    ("```SVG\n<svg/>\n```", "svg", "<svg/>"), ("```python\na\n\nb\n```", "python", "a\n\nb"), ("```tikz\nx\n```", "latex", "x"),
    ("```html\n<svg/>\n```", "svg", None), ("``` svg\n<svg/>\n```", "svg", "<svg/>"), ("````svg\n<svg/>\n````", "svg", None), ("```python3\nx\n```", "python", None), ("```\nx\n```", "python", None),
    ("```svg\n```", "svg", None), ("```svg\n \n```", "svg", None), ("```svg\n<svg/>", "svg", None), ("<svg/>", "svg", None),
    ("```svg\na\n```\n```svg\nb\n```", "svg", None), ("```html\n```js\nx\n```\n```", "html", None), ("", "svg", None)])
def test_exactly_one_block_of_the_language(response, language, code):
    assert R.extract_code(response, language) == (code, float(code is not None))


def test_total_and_its_parts():
    target, answer = TARGETS["two boxes"], "```svg\nx\n```"
    good = R.score(target, Render(target, "ok"), answer, "svg")
    assert good["reward"] == pytest.approx(1) and good["execution"] == good["format"] == 1
    failed = R.score(target, Render(None, "error", "x"), answer, "svg")
    assert failed["reward"] == pytest.approx(0.1) and failed["execution"] == failed["visual"] == 0
    assert R.score(target, None, "no code", "svg")["reward"] == 0
    wrong_language = R.score(target, None, "```html\nx\n```", "svg")
    assert wrong_language["reward"] == 0
    assert R.score(target, Render(target, "ok"), answer, "svg", R.features(target)) == good


def test_a_program_far_longer_than_the_reference_pays():
    target, answer = TARGETS["two boxes"], "```svg\n" + "x " * 500 + "\n```"
    reward = lambda reference: R.score(target, Render(target, "ok"), answer, "svg", reference_code=reference)["reward"]
    assert reward("y" * 600) == reward(None) == pytest.approx(1)
    assert reward("y" * 333) == pytest.approx(1 - 0.05 * (1000 / 333 - 2)) and reward("y") == pytest.approx(0.9)


def test_an_embedded_raster_is_no_drawing():
    target = TARGETS["two boxes"]
    reward = lambda code: R.score(target, Render(target, "ok"), f"```svg\n{code}\n```", "svg")["reward"]
    assert reward("<image href='data:image/png;base64,iVBORw0KGgoAAAANSUhEUg'/>") == pytest.approx(0.1)
    assert reward("<a b='" + "Qz8+" * 100 + "'/>") == pytest.approx(0.1)
    assert reward("<path d='" + "M10 20 L30.5 40 C1 2 3 4 5 6 " * 100 + "'/>") == pytest.approx(1)


# ------------------------------------------------------------------------------------------------------------- text term

def written(*texts, size=(300, 200)):
    """(string, x, y) -> a Render with a striped box where each string stands, and its texts."""
    image, boxes = np.full((size[1], size[0], 3), 255, np.uint8), []
    for string, x, y in texts:
        width = 6 * len(string)
        image[y:y + 10, x:x + width:3] = 0
        boxes.append((string, (x, y, x + width, y + 10)))
    return Render(image, "ok", texts=boxes)


def text_part(reference, render):
    return R.visual_parts(R.features(reference.image, reference), render.image, render.texts)["text"]


def test_a_typo_is_noticed_and_a_missing_string_more():
    reference = written(("Sales by region", 90, 10), ("Region", 120, 180), ("2024", 250, 20))
    typo = written(("Sales by regien", 90, 10), ("Region", 120, 180), ("2024", 250, 20))
    missing, displaced = written(("Region", 120, 180), ("2024", 250, 20)), written(("Sales by region", 90, 150), ("Region", 120, 30), ("2024", 20, 20))
    twice = written(*[(s, x, y) for s, x, y in [("Sales by region", 90, 10), ("Region", 120, 180), ("2024", 250, 20)]], ("Sales by region", 90, 60))
    scores = [text_part(reference, r) for r in (reference, typo, displaced, missing, written(("Water", 10, 10)))]
    assert scores[0] == pytest.approx(1) and 0.9 < scores[1] < 0.97 and scores[1] > scores[2] > 0.2 and scores[1] > scores[3] > scores[4] == 0
    assert text_part(reference, twice) < 0.85
    assert R.visual_parts(R.features(reference.image, reference), typo.image, typo.texts)["visual"] < 0.99


def test_only_texts_that_can_be_seen_count():
    reference = written(("Sales by region", 90, 10))
    hidden = Render(np.full((200, 300, 3), 255, np.uint8), "ok", texts=reference.texts)
    outside = Render(reference.image, "ok", texts=[("Sales by region", (-200, 10, -110, 20))])
    assert text_part(reference, hidden) == text_part(reference, outside) == 0
    assert text_part(reference, Render(reference.image, "ok", texts=None)) == 0


def test_texts_buy_nothing_in_an_empty_picture():
    reference = written(("Sales by region", 90, 10), ("Region", 120, 180))
    shown = R.features(TARGETS["wide"], reference)
    assert shown["texts"]
    parts = R.visual_parts(shown, np.full((80, 240, 3), 255, np.uint8), [])
    assert parts["visual"] == 0


# ------------------------------------------------------------------------------------------------------------- molecules

def drawn_molecule(*smiles, ink=(20, 40, 20, 4, (0, 0, 0))):
    image = canvas(ink)
    return Render(image, "ok", texts=[(string, (0, 0, *image.shape[1::-1])) for string in smiles])


def graph(*smiles):
    return texts.molecule([(string, texts.WHOLE) for string in smiles])


def common_by_hand(a, b):
    """The most that two molecules of few atoms have in common: all assignments of the smaller one's atoms."""
    if len(a[0]) > len(b[0]):
        a, b = b, a
    (elements_a, bonds_a), (elements_b, bonds_b) = a, b
    most, n = 0, len(elements_a)
    for chosen in itertools.permutations(range(len(elements_b)), n):
        value = sum(1 if elements_a[i] == elements_b[chosen[i]] else texts.SUBSTITUTED for i in range(n))
        for i, j in itertools.combinations(range(n), 2):
            x, y = bonds_a[:, i, j], bonds_b[:, chosen[i], chosen[j]]
            value += (1 if (x == y).all() else texts.SUBSTITUTED) if x.any() and y.any() else 0
        most = max(most, value)
    total = sum(len(elements) + bonds.sum() / 2 for elements, bonds in (a, b))
    return (most / (total - most)) ** 2


def test_molecules_are_compared_as_a_search_over_all_assignments_does():
    names = "CC#N CCO CC(C)=O C1CCNC1 c1ccsc1 OC(=O)C=C CS(=O)C C1CC1=O ClCCBr NC(N)=O N->[Pt]".split()
    pairs = [(graph(x), graph(y)) for x, y in itertools.product(names, names)]
    found, exact = ([measure(*pair) for pair in pairs] for measure in (texts.molecule_similarity, common_by_hand))
    assert all(f <= e + 1e-9 for f, e in zip(found, exact))
    assert np.mean(np.isclose(found, exact)) > 0.9 and np.mean(found) > 0.98 * np.mean(exact)


def test_molecules_in_the_order_of_a_chemist():
    """In whatever order their atoms are written; an edit costs about the same in every place; several are one."""
    aspirin = graph("CC(=O)Oc1ccccc1C(=O)O")
    assert [texts.molecule_similarity(aspirin, graph(s)) for s in ("CC(=O)Oc1ccccc1C(=O)O", "OC(=O)c1ccccc1OC(C)=O")] == pytest.approx([1, 1])
    one, two = texts.molecule_similarity(aspirin, graph("CC(=O)Nc1ccccc1C(=O)O")), texts.molecule_similarity(aspirin, graph("CC(=O)Nc1ccncc1C(=O)O"))
    assert 1 > one > two > texts.molecule_similarity(aspirin, graph("CCN(CC)CC")) + 0.3
    both = graph("CCO", "CC#N")
    assert texts.molecule_similarity(both, graph("CC#N", "CCO")) == pytest.approx(1) and texts.molecule_similarity(both, graph("CCO")) < 0.5
    assert graph("Sales by region") is None and graph("C" * 500) is None and texts.molecule([("CCO", (0, 0, 1, 0.5))]) is None


def test_a_molecules_name_needs_a_picture_of_its_ink():
    reference = drawn_molecule("CC(=O)Oc1ccccc1C(=O)O")
    known = R.features(reference.image, reference)
    score = lambda image, *smiles: R.visual_parts(known, image, drawn_molecule(*smiles).texts)["visual"]
    turned = np.rot90(reference.image).copy()
    assert score(reference.image, "CC(=O)Oc1ccccc1C(=O)O") == pytest.approx(1)
    assert score(turned, "CC(=O)Oc1ccccc1C(=O)O") > score(turned, "CC(=O)Nc1ccncc1C(=O)O") > score(turned, "CCN(CC)CC") > score(turned)
    noise = np.random.default_rng(0).integers(0, 256, turned.shape, dtype=np.uint8)
    for image, most in ((np.full_like(turned, 255), 0), (np.full_like(turned, 0), 0.05), (noise, 0.05), (canvas((0, 0, 32, 64, (0, 0, 0))), 0.1)):
        assert score(image, "CC(=O)Oc1ccccc1C(=O)O") <= most


# ------------------------------------------------------------------------------------------------------------- cropped figures

def test_a_crop_that_has_moved_is_found():
    whole = np.float32(canvas((12, 12, 9, 5, RED), (30, 18, 4, 8, BLUE), (40, 12, 6, 3, GREEN), (52, 33, 5, 4, RED), size=(60, 40))) / 255
    part = whole[9:30, 10:49]  # without the last box
    for swapped in (False, True):
        a, b = R.align(part, whole, np.ones(3))[::-1] if swapped else R.align(whole, part, np.ones(3))
        assert a.shape == b.shape == whole.shape and (a == whole).all() and (b[9:30, 10:49] == part).all() and b.sum() > a.sum()


def test_in_latex_a_missing_element_does_not_move_the_others():
    target = canvas((8, 8, 40, 30, RED), (60, 50, 30, 20, BLUE), (150, 20, 10, 10, GREEN), size=(168, 78))
    cropped = target[:, :98]  # without the green box, and so without the paper around it
    scores = [R.visual_parts(R.features(target, language=language), cropped)["visual"] for language in ("svg", "latex")]
    assert scores[0] < 0.3 and scores[1] > 0.5
    known = R.features(target, language="latex")
    assert R.visual_parts(known, target)["visual"] == pytest.approx(1, abs=1e-6)
    assert R.visual_parts(known, np.full((30, 90, 3), 255, np.uint8))["visual"] == 0
    assert R.visual_parts(known, np.full((9, 9000, 3), 0, np.uint8))["visual"] <= 0.05


# ------------------------------------------------------------------------------------------------------- real pictures

@pytest.mark.skipif(bool(available()["python"]), reason="no Python charts here")
def test_charts_in_the_order_of_a_person():
    chart = ladder.CHART
    changes = {"same": chart, "typo": chart.replace("Sales by region", "Sales by regien"), "one value": chart.replace("[3, 7", "[3, 6.5"),
               "permuted": chart.replace("[3, 7, 5, 9, 4]", "[9, 3, 7, 5, 4]"), "colour": chart.replace("#1f77b4", "#d62728"),
               "wide": chart.replace("(6, 4)", "(8, 4)"), "lying": chart.replace("ax.bar(", "ax.barh("),
               "line": chart.replace("ax.bar(", "ax.plot("), "empty axes": ladder.BARE_CHART % "", "blank": ladder.BARE_CHART % "ax.remove()"}
    with Renderer(2) as renderer:
        r = {name: renderer.submit("python", code) for name, code in changes.items()}
        r = {name: future.result() for name, future in r.items()}
    known = R.features(r["same"].image, r["same"])
    score = {name: R.visual_parts(known, render.image, render.texts)["visual"] for name, render in r.items()}
    assert score["same"] == pytest.approx(1) and 0.9 < score["typo"] < 0.995 and 0.9 < score["one value"] < 0.99
    for name in ("permuted", "colour", "wide", "lying", "line"):
        assert score["empty axes"] + 0.2 < score[name] < 0.9, score
    assert score["empty axes"] <= 0.15 and score["blank"] == 0
    image_alone = R.features(r["same"].image)
    assert R.visual_parts(image_alone, r["typo"].image)["visual"] > score["typo"]  # without the text term it passes nearly unnoticed


@pytest.mark.parametrize("domain", ladder.SYNTHETIC)
def test_every_edit_changes_the_program_and_finds_a_place(domain):
    language, make = ladder.SYNTHETIC[domain]
    for seed in range(20):
        rng = random.Random(seed)
        code = make(rng)
        assert ladder.edited(rng, domain, code) not in (None, code)
    for operator in ladder.OPERATORS[domain]:
        codes = [make(random.Random(seed)) for seed in range(40)]
        assert any((new := operator(random.Random(1), code)) and new != code for code in codes), "an operator that never applies"


@pytest.mark.skipif(any(available()[language] for language in ("python", "html", "svg")), reason="a language is missing here")
def test_cheating_does_not_pay():
    with Renderer(2) as renderer:
        rows, attempts = ladder.score_hacks(renderer)
    assert len(rows) >= 20 and all(len(a) >= 5 for a in attempts.values())
    for domain, name, bound, parts in rows:
        assert parts["reward"] <= {"nothing": 0.15, "little": min(attempts[domain])}.get(bound, bound), (domain, name, parts)


def test_the_ladders_statistics_are_right():
    scores = [{"m": {"one": [0.9], "five": [0.5], "other": [0.6], "blank": [0.0]}}, {"m": {"one": [0.9], "five": [0.7], "other": [0.0], "blank": [0.0]}}]
    made = [ladder.Ladder("svg", "svg", "", None, {}, {})] * 2
    order, area, one, *_ = ladder.summary(made, scores)["svg"]["m"]
    # one > five, one and five > other and blank, other > blank: 6 pairs a ladder; wrong are five > other and the tie other = blank
    assert order == pytest.approx(10 / 12) and area == pytest.approx(3 / 4) and one == pytest.approx(0.9)


# ------------------------------------------------------------------------------------------- encoder, VinciCoder's formula

@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A tiny random DINOv2, 14 pixel patches."""
    import torch
    from transformers import Dinov2Config, Dinov2Model
    path = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14))
    with torch.no_grad():
        for w in model.parameters():
            w.mul_(3)
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text('{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "image_processor_type": "BitImageProcessor"}')
    return path


def first_tokens(model, images, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """By hand: list of uint8 [56, 56, 3] -> the model's output."""
    import torch
    x = torch.stack([(torch.tensor(i / 255.0) - torch.tensor(mean)) / torch.tensor(std) for i in images]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        return model(pixel_values=x, output_hidden_states=True)


def cos(a, b):
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_vincicoders_formula_against_a_computation_by_hand(dinov2):
    """A 2 : 1 target: two tiles and the thumbnail; a 1 : 1 render of another size is stretched to it."""
    from transformers import Dinov2Model
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (40, 80, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    image = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    encoder, model = encoders.Encoder(str(dinov2), side=56), Dinov2Model.from_pretrained(dinov2).eval()
    assert encoders.tile_grid(160, 80, 56) == (4, 2) and encoders.tile_grid(100, 50, 56) == (2, 1) and encoders.tile_grid(64, 64, 56) == (1, 1) and encoders.tile_grid(640, 480, 448) == (4, 3)
    assert encoders.tile_grid(1280, 720, 448) == (4, 2)  # 9 pictures with the thumbnail, as measured on the original
    small, values = target[:80:2, :120:2][:40, :60], []
    stretched = Image.fromarray(image).resize((60, 40), Image.BICUBIC)
    sheets = [p.resize((3 * 56, 2 * 56), Image.BICUBIC) for p in (Image.fromarray(small), stretched)]
    assert encoders.tile_grid(60, 40, 56) == (3, 2)
    tiles = [[np.asarray(s)[y:y + 56, x:x + 56] for y in (0, 56) for x in (0, 56, 112)] for s in sheets]
    for i, p in enumerate((Image.fromarray(small), stretched)):
        tiles[i].append(np.asarray(p.resize((56, 56), Image.BICUBIC)))
    a, b = (first_tokens(model, t).hidden_states[-1][:, 0].numpy() for t in tiles)
    values = [(cos(x, y) + 1) / 2 for x, y in zip(a, b)]
    assert len(values) == 7 and encoder.paper_similarity(small, image) == pytest.approx(np.mean(values), abs=1e-5)
    parts = R.paper_score(small, Render(image, "ok"), "```svg\nx\n```", "svg", encoder=encoder)
    assert parts["reward"] == pytest.approx(0.1 + 0.9 * np.mean(values), abs=1e-5)
    failed = R.paper_score(small, Render(None, "error"), "```svg\nx\n```", "svg", encoder=encoder)
    assert failed["reward"] == pytest.approx(0.1) and math.isnan(R.paper_score(small, Render(None, "infra"), "```svg\nx\n```", "svg", encoder=encoder)["reward"])


def test_encoder_term_is_calibrated(dinov2):
    from transformers import Dinov2Model
    encoder, model, target = encoders.Encoder(str(dinov2), side=56), Dinov2Model.from_pretrained(dinov2).eval(), TARGETS["two boxes"]
    image = canvas((10, 8, 24, 16, RED))
    known = R.features(target, encoder=encoder)
    shown = [np.asarray(Image.fromarray(i).resize((56, 56), Image.BICUBIC)) for i in (target, image, np.full_like(target, 255))]
    tokens = first_tokens(model, shown).last_hidden_state.numpy()
    t, r, blank = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
    expected = max(0.0, (cos(t, r) - cos(t, blank)) / (1 - cos(t, blank)))
    parts, plain = R.visual_parts(known, image, encoder=encoder), R.visual_parts(R.features(target), image)
    assert parts["encoder"] == pytest.approx(expected, abs=1e-4)
    assert parts["visual"] == pytest.approx((1 - R.WEIGHT_ENCODER) * plain["visual"] + R.WEIGHT_ENCODER * expected, abs=1e-4)
    assert R.visual_parts(known, target, encoder=encoder)["visual"] == pytest.approx(1, abs=1e-5)
    assert R.visual_parts(known, np.full_like(target, 255), encoder=encoder)["visual"] == pytest.approx(0, abs=1e-6)


def test_an_encoder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="error: no vision encoder at"):
        encoders.Encoder(str(tmp_path))


# -------------------------------------------------------------------------------------------------------- scoring processes

def test_processes_score_as_the_function_does_and_import_no_torch():
    target, answer = TARGETS["two boxes"], "```svg\nx\n```"
    answers = [(Render(target, "ok"), answer), (Render(canvas((8, 8, 24, 16, RED)), "ok"), answer + " "), (None, "no code"), (Render(None, "infra"), answer + "  ")]
    main = sys.modules["__main__"].__dict__.copy()
    with R.scorers(2) as pool:
        assert {k: sys.modules["__main__"].__dict__.get(k) for k in ("__file__", "__spec__")} == {k: main.get(k) for k in ("__file__", "__spec__")}
        (first, second) = R.score_batch([(target, "svg", answers), (TARGETS["wide"], "svg", answers[:1])], pool)
        assert not any(pool.map(eval, ["'torch' in __import__('sys').modules"] * 4))
    for row, (render, response) in zip(first, answers):
        alone = R.score(target, render, response, "svg")
        assert all(row[k] == alone[k] or math.isnan(row[k]) and math.isnan(alone[k]) for k in alone) and row.keys() == {*alone, "seconds_reward"}
    assert len(first) == 4 and math.isnan(first[3]["reward"]) and 0 < second[0]["reward"] < 1


def test_processes_end_with_the_one_that_uses_them():
    """Even if it is killed: a pool's workers hold both ends of their own queue and would wait for ever."""
    script = "import reward, time, os\nif __name__ == '__main__':\n    pool = reward.scorers(2)\n    print(*pool._processes, flush=True)\n    time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    alive = lambda: [pid for pid in workers if os.path.exists(f"/proc/{pid}") and "State:\tZ" not in open(f"/proc/{pid}/status").read()]
    assert len(alive()) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive()


def test_the_documents_own_reward_runs(tmp_path, monkeypatch):
    """The example under "A reward of your own": it is Python as it stands, under 40 lines, and does what the text says."""
    text = (ROOT / "docs" / "reward.md").read_text().split("## A reward of your own")[1]
    code = text.split("```python\n")[1].split("\n```\n")[0]
    assert len(code.splitlines()) < 40
    (tmp_path / "my_reward.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    target = canvas((8, 8, 24, 16, RED), (36, 40, 20, 20, BLUE))
    answers = [(Render(image, "ok"), f"```svg\n{i}\n```") for i, image in enumerate((target, canvas(), canvas((8, 8, 24, 16, RED))))]
    with R.scorers(1) as pool:
        (parts,) = R.score_batch([(target, "svg", answers, None, None, "my_reward:my_score")], pool)
    for wrong in ("my_reward:none", "no_such_module:x", "nonsense", "paper"):
        with pytest.raises(SystemExit, match="error: --reward"):
            R.reward_named(wrong)
    assert parts[0]["reward"] == pytest.approx(1) and parts[0]["reward"] > parts[2]["reward"] > parts[1]["reward"]


def test_our_own_failure_is_nan_not_zero():
    parts = R.score(TARGETS["wide"], Render(None, "infra", "worker lost"), "```svg\nx\n```", "svg")
    assert all(math.isnan(v) for v in parts.values()) and "reward" in parts


def test_command_line_prints_the_parts_and_explains(tmp_path):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect x="8" y="8" width="24" height="16" fill="#f00"/>%s</svg>'
    Image.fromarray(TARGETS["two boxes"]).save(tmp_path / "t.png")
    blue = '<rect x="36" y="40" width="20" height="20" fill="#00f"/>'
    for name, text in (("half.svg", svg % ""), ("answer.txt", "```svg\n" + svg % blue + "\n```"),
                       ("broken.svg", "<svg"), ("two.txt", "```svg\na\n```\n```svg\nb\n```")):
        (tmp_path / name).write_text(text)

    def run(*arguments):
        result = subprocess.run([sys.executable, "reward.py", str(tmp_path / "t.png"), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
        return result.returncode, dict(line.split() for line in result.stdout.splitlines() if len(line.split()) == 2), result.stdout + result.stderr
    code, half, _ = run(tmp_path / "half.svg", "--explain", tmp_path / "e.png")
    assert code == 0 and 0.2 < float(half["visual"]) < 0.9 and float(half["format"]) == 1
    picture = np.asarray(Image.open(tmp_path / "e.png"))
    heat = picture[:, -64:].astype(int)  # the blue box is missing: red there, and nowhere else
    missing = (heat[..., 0] - heat[..., 2] > 60)
    assert missing[40:60, 36:56].any() and not missing[:34].any()
    code, whole, _ = run(tmp_path / "answer.txt", "--language", "svg")
    assert code == 0 and float(whole["reward"]) == 1
    assert run(tmp_path / "broken.svg")[0] == 1 and run(tmp_path / "two.txt", "--language", "svg")[0] == 1
    code, _, words = run(tmp_path / "answer.txt")
    assert code == 1 and "--language" in words and "Traceback" not in words
