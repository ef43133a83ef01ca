"""reward.py: calibrated, ordered as a person would, exact about formats."""
import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import reward as R
from render import Render


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
}


def visual(target, image):
    return R.visual_parts(R.features(target), image)["visual"]


@pytest.mark.parametrize("name", TARGETS)
def test_calibration(name):
    """Identical 1, blank 0; black, noise, the target's mean colour at most .09, whatever the target."""
    target = TARGETS[name]
    ground = target[-1, -1]
    assert visual(target, target) == pytest.approx(1, abs=1e-6)
    assert visual(target, np.full_like(target, ground)) == pytest.approx(0, abs=1e-6)
    noise = np.random.default_rng(0).integers(0, 256, target.shape, dtype=np.uint8)
    mean = np.full_like(target, target.reshape(-1, 3).mean(0).astype(np.uint8))
    for image in (noise, mean, np.full_like(target, (0, 0, 0))):
        assert visual(target, image) <= 0.09


@pytest.mark.parametrize("name", TARGETS)
def test_falls_as_the_picture_moves_away(name):
    """Monotone under a growing shift of the whole picture."""
    target = TARGETS[name]
    scores = [visual(target, np.roll(target, (step, 0), (0, 1))) for step in (0, 1, 2, 4)]
    assert scores[0] > scores[1] and all(a >= b for a, b in zip(scores, scores[1:])), scores


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
    assert visual(target, target.repeat(2, 1)) < 0.5  # the same drawing, stretched to twice the width
    parts = R.visual_parts(R.features(target), target.repeat(2, 1))
    assert parts["size"] == pytest.approx(0.5)


def test_blank_target_scores_only_its_equal():
    blank = canvas()
    assert visual(blank, blank) == 1 and visual(blank, TARGETS["two boxes"]) < 0.05


@pytest.mark.parametrize("response, language, code", [
    ("```svg\n<svg/>\n```", "svg", "<svg/>"), ("text\n```svg\n<svg/>\n```\nmore", "svg", "<svg/>"),
    ("```SVG\n<svg/>\n```", "svg", "<svg/>"), ("```python\na\n\nb\n```", "python", "a\n\nb"), ("```tikz\nx\n```", "latex", "x"),
    ("```html\n<svg/>\n```", "svg", None), ("```python3\nx\n```", "python", None), ("```\nx\n```", "python", None),
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
