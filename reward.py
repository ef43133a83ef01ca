"""The reward: how well does the rendered answer show the target? Coarse to fine, calibrated, between 0 and 1.

    python reward.py TARGET.png FILE                        # FILE: an answer, or a bare program (.py .html .svg .tex)
    python reward.py TARGET.png FILE --explain OUT.png      # target | render | where the fine term lost points

    total = 0.1 format + 0.9 visual                           (the weights of VinciCoder's released configuration)
    visual = size * (0.5 coarse + 0.5 fine)

format     exactly one fenced block in the language asked for, with code in it (language alignment)
execution  1 if the renderer drew the program. Reported, and used by virl.py's decoupled advantages; in the total a
           program that fails has no image and so a visual score of 0
coarse     the whole image, downsampled: error of a cell 1 - exp(-4 max_rgb |difference|)
fine       local patches at full detail: error 1 - SSIM (Wang et al. 2004), windows of 7 x 7 pixels, each colour channel
size       exp(-|ln(aspect of the render / aspect of the target)|); the render is fitted into the target's canvas on its
           own background, never stretched

Calibration. Summed over the image, each error is a distance d. With the empty canvas b of the target's background as
the anchor, Steinhaus' transform (Marczewski and Steinhaus 1958; Jaccard's index is its special case for sets) turns it
into a similarity of target t and render r:

    (d(t, b) + d(r, b) - d(t, r)) / (d(t, b) + d(r, b) + d(t, r)) * min(1, d(t, b) / d(r, b))

For every target the target itself scores 1, an empty canvas 0, and so does a drawing that has nothing in common with
it; white paper around a drawing adds nothing. The last factor is ours: a render with more ink than the target pays for
it, or a flooded canvas would be paid for covering the target by chance. Plain SSIM prefers a blank page to a wrong drawing; (cos + 1) / 2 of
DINOv2 features, the original's measure, gives a blank page more than half.

A failure of our own renderer is not the program's fault: every part is NaN and the caller leaves the rollout out.

Left out here: a text term, an encoder term, the original's formula, defences against long or over-painted programs.
"""
import argparse
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

WEIGHT_FORMAT, WEIGHT_VISUAL = 0.1, 0.9
LONGEST = 512  # pixels: larger targets are judged at this longest side
WINDOW = 7  # pixels: the side of the fine term's patches (scikit-image's default for SSIM)
CELLS = 16  # the coarse term downsamples a square image to CELLS x CELLS
C1, C2 = 0.01**2, 0.03**2  # SSIM's constants for images in [0, 1]
FENCES = {"python": ("python", "py"), "html": ("html",), "svg": ("svg", "xml"), "latex": ("latex", "tex", "tikz")}


def extract_code(response, language):
    """The code of an answer and its format score: (str, 1.0), or (None, 0.0).

    The answer must hold exactly one fenced block, opened by ``` and a name of the language (FENCES) on a line of its
    own and closed by ``` on a line of its own, with code inside; text around it is allowed. Two blocks, an unclosed or
    nested one, another language, an empty block: no code.
    """
    lines = response.split("\n")
    fences = [i for i, line in enumerate(lines) if line.startswith("```")]
    if len(fences) != 2 or lines[fences[1]].strip() != "```":
        return None, 0.0
    if lines[fences[0]][3:].strip().lower() not in FENCES[language]:
        return None, 0.0
    code = "\n".join(lines[fences[0] + 1:fences[1]])
    return (code, 1.0) if code.strip() else (None, 0.0)


def background(image):
    """The most frequent colour of the border of a float image [H, W, 3] in [0, 1] -> [3]."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])  # [n, 3]
    bins = (border * 31).astype(int) @ (1024, 32, 1)  # [n]
    return border[bins == np.bincount(bins).argmax()].mean(0)


def fit(image, width, height):
    """uint8 [h, w, 3] -> float32 [height, width, 3] in [0, 1]: scaled without stretching, centred on its background."""
    h, w = image.shape[:2]
    if (w, h) != (width, height):
        ground = tuple(int(round(255 * v)) for v in background(image / 255.0))
        scale = min(width / w, height / h)
        inner = Image.fromarray(image).resize((max(1, round(w * scale)), max(1, round(h * scale))), Image.BOX if scale < 1 else Image.BILINEAR)
        sheet = Image.new("RGB", (width, height), ground)
        sheet.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
        image = np.asarray(sheet)
    return image.astype(np.float32) / 255


def look(pixels):
    """What both terms need of one float image [H, W, 3]: its cells [h, w, 3], local means and variances [H, W, 3]."""
    H, W, _ = pixels.shape
    side = max(1, round(math.sqrt(H * W) / CELLS))  # pixels of a cell
    sums = np.add.reduceat(np.add.reduceat(pixels, range(0, H, side), 0), range(0, W, side), 1)  # [h, w, 3]
    area = np.outer(np.diff([*range(0, H, side), H]), np.diff([*range(0, W, side), W]))  # [h, w] pixels
    mean = uniform_filter(pixels, (WINDOW, WINDOW, 1))  # [H, W, 3]
    return {"pixels": pixels, "cells": sums / area[..., None], "mean": mean,
            "variance": uniform_filter(pixels**2, (WINDOW, WINDOW, 1)) - mean**2}


def errors(a, b):
    """Two looks of equal size -> (coarse [h, w], fine [H, W, 3]) errors, 0 where they are equal."""
    coarse = 1 - np.exp(-4 * np.abs(a["cells"] - b["cells"]).max(-1))  # [h, w]
    covariance = uniform_filter(a["pixels"] * b["pixels"], (WINDOW, WINDOW, 1)) - a["mean"] * b["mean"]  # [H, W, 3]
    # SSIM, Wang et al. 2004 eq. 13
    ssim = ((2 * a["mean"] * b["mean"] + C1) * (2 * covariance + C2)
            / ((a["mean"]**2 + b["mean"]**2 + C1) * (a["variance"] + b["variance"] + C2)))  # [H, W, 3]
    return coarse, 1 - ssim


def distances(a, b):
    """(coarse, fine) distance of two looks of equal size: 0 for equal images."""
    return tuple(float(error.sum()) for error in errors(a, b))


def features(target):
    """What `score` needs of a target, uint8 [H, W, 3]; computed once for all rollouts of a group."""
    height, width = target.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    pixels = fit(target, max(1, round(width * scale)), max(1, round(height * scale)))  # [H, W, 3]
    seen = look(pixels)
    blank = look(np.broadcast_to(background(pixels).astype(np.float32), pixels.shape))
    return {"aspect": width / height, "look": seen, "blank": blank, "to_blank": distances(seen, blank)}


def visual_parts(known, image):
    """Calibrated similarity of a render, uint8 [H, W, 3], to a target's `features`: dict of visual, coarse, fine, size."""
    size = math.exp(-abs(math.log(image.shape[1] / image.shape[0] / known["aspect"])))
    height, width = known["look"]["pixels"].shape[:2]
    render = look(fit(image, width, height))
    coarse, fine = (max(0.0, (tb + rb - tr) / (tb + rb + tr)) * min(1.0, tb / rb) if rb > 1e-6 else float(tb <= 1e-6) for tb, rb, tr in
                    zip(known["to_blank"], distances(render, known["blank"]), distances(known["look"], render)))
    return {"visual": size * (0.5 * coarse + 0.5 * fine), "coarse": coarse, "fine": fine, "size": size}


def score(target, render, response, language, target_features=None):
    """Score one answer.

    target: uint8 [H, W, 3]; render: render.Render of the answer's code, or None where it holds no code; response: the
    whole answer; language: the one asked for. Returns a dict of floats in [0, 1]: reward, format, execution, visual,
    coarse, fine, size; all NaN when the renderer itself failed.
    """
    _, format_ = extract_code(response, language)
    parts = {"reward": 0.0, "format": format_, "execution": 0.0, "visual": 0.0, "coarse": 0.0, "fine": 0.0, "size": 0.0}
    if render is not None and render.status == "infra":
        return dict.fromkeys(parts, math.nan)
    if format_ and render is not None and render.status == "ok":
        parts.update(execution=1.0, **visual_parts(target_features or features(target), render.image))
    parts["reward"] = WEIGHT_FORMAT * parts["format"] + WEIGHT_VISUAL * parts["visual"]
    return parts


# ---------------------------------------------------------------------------------------------------------- command line

def explain(target, image):
    """Two images, uint8 [H, W, 3] and [h, w, 3] -> PIL image: target | render as it is compared | fine error, red."""
    look_ = features(target)["look"]
    height, width = look_["pixels"].shape[:2]
    render = look(fit(image, width, height))
    lost = np.clip(errors(look_, render)[1].mean(-1, keepdims=True), 0, 1)  # [H, W, 1]
    faint = 1 - 0.25 * (1 - look_["pixels"].mean(-1, keepdims=True))  # the target in light grey, for orientation
    heat = faint * (1 - lost) + np.array([0.85, 0.1, 0.1]) * lost  # [H, W, 3]
    gap = np.full((height, 8, 3), 0.5)
    return Image.fromarray((255 * np.hstack([look_["pixels"], gap, render["pixels"], gap, heat])).round().astype(np.uint8))


def main():
    from render import Renderer
    parser = argparse.ArgumentParser(description="Score one answer against a target image.", allow_abbrev=False)
    parser.add_argument("target", help="image file")
    parser.add_argument("file", help="the answer with its fenced block, or a bare program whose ending names the language")
    parser.add_argument("--language", choices=sorted(FENCES), help="language asked for (default: by the file's ending)")
    parser.add_argument("--explain", metavar="OUT.png", help="write target | render | where the fine term lost points")
    parser.add_argument("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    args = parser.parse_args()
    try:
        target = np.asarray(Image.open(args.target).convert("RGB"))
        response = Path(args.file).read_text(errors="replace")
    except OSError as error:
        raise SystemExit(f"error: {error}")
    endings = {"py": "python", "htm": "html", "tex": "latex"}
    ending = Path(args.file).suffix[1:].lower()
    language = args.language or endings.get(ending, ending)
    if language not in FENCES:
        raise SystemExit(f"error: cannot tell the language of {args.file}: name it with --language {{{','.join(sorted(FENCES))}}}.")
    if not any(line.startswith("```") for line in response.split("\n")):
        response = f"```{language}\n{response}\n```"
    code, _ = extract_code(response, language)
    render = None
    if code:
        try:
            with Renderer(1, unsafe=args.unsafe_render) as renderer:
                render = renderer.submit(language, code, target.shape[1::-1]).result()
        except RuntimeError as error:
            raise SystemExit(f"error: {error}")
    for name, value in score(target, render, response, language).items():
        print(f"{name:10} {value:.4f}")
    print("no single fenced block in the language asked for" if not code else f"render: {render.status} {render.message}")
    if args.explain and render and render.image is not None:
        explain(target, render.image).save(args.explain)
        print(f"wrote {args.explain}")
    return int(render is None or render.status != "ok")


if __name__ == "__main__":
    sys.exit(main())
