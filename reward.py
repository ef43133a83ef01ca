"""The reward: how well does the rendered answer show the target? Coarse to fine, calibrated, between 0 and 1.

    python reward.py TARGET.png FILE                        # FILE: an answer, or a bare program (.py .html .svg .tex)
    python reward.py TARGET.png FILE --explain OUT.png      # target | render | where the fine term lost points
    python tests/ladder.py                                  # does it put pictures in a person's order? (docs/reward.md)

    total  = 0.1 format + 0.9 visual - length_penalty                           (VinciCoder's weights, arXiv 2511.00391)
    visual = size * drawn * (0.35 fine + 0.35 edges + min(1, (fine + edges) / 0.4) * (0.15 coarse + 0.15 palette))
    with the texts that the reference program draws: visual = (1 - w) visual + w text * min(1, visual / 0.02), where
    w = 0.4 * min(1, share of the target's ink that is text / 0.15)

One measure serves all four terms. Let a and b say, place by place, how much the target and the render differ from an
empty sheet of the target's background (their ink, 0 to 1), and e how much they differ from each other:

    overlap = sum max(0, max(a, b) - e) / sum max(a, b)

the weighted Jaccard index (Ruzicka 1958): of all that stands in either picture, the share that stands in both. Hence,
for every target, the target itself scores 1 and an empty sheet 0; white paper around a drawing adds nothing, and ink
that the target does not have is paid for. The terms differ in what ink is:

coarse     the whole image downsampled to about 32 x 32 cells; e = 1 - exp(-4 max_rgb |difference|)
fine       local patches of 7 x 7 pixels at full detail; e = 1 - s exp(-4 max_rgb |difference of their means|) with s
           the contrast-structure factor of SSIM (Wang et al. 2004, eq. 9 and 10). SSIM's own luminance factor hardly
           sees the difference between two light colours, so the exponential stands in its place
edges      strength and direction of the edges, whatever their colour, in cells of 8 x 8 pixels (akin to histograms of
           oriented gradients, Dalal and Triggs 2005): a drawing in a wrong colour is still the drawing
palette    how much ink of each of 6 x 6 x 6 colours, wherever it is: a shifted drawing is still the drawing
           Colours count as far as shapes agree: noise and mean colours have the right colours everywhere
text       strings and their places: Dice's coefficient of their letter pairs, one to one, heavier for longer strings
           and lighter for displaced ones. Only strings that can be seen in the picture count, and only in a picture
           that shows something of the target: text alone, or hidden text, buys nothing. The text of a molecule is its
           SMILES; molecules are compared as graphs: the atoms and bonds that both have when atom is assigned to atom
size       exp(-|ln(aspect of the render / aspect of the target)|); the render is fitted into the target's canvas on its
           own background, never stretched. A figure of LaTeX is cropped to what it shows, so that one missing element
           moves all others: it is also compared unscaled, where it covers the target best; the better of the two counts
drawn      min(1, edges in the render / 5 % of the edges in the target): a flat sheet of any colour is a blank
format     exactly one fenced block in the language asked for, with code in it (language alignment): `extract_code`
execution  1 if the renderer drew the program. Reported, and used by virl.py's decoupled advantages; in the total a
           program that fails has no image and so a visual score of 0
length_penalty  0 up to twice the length of the reference program, then 0.05 for each further length of it, at most 0.1

A program that carries a raster inside (a data: URI, base64) is no drawing: `embeds_raster`; its visual score is 0.
A failure of our own renderer is not the program's fault: every part is NaN and the caller leaves the rollout out.

`--encoder NAME` mixes in 0.2 of the cosine of a vision encoder's features, calibrated in the same way: 0 where it is no
greater than that of the empty sheet. `--reward paper` is VinciCoder's formula instead, for comparison: the mean over
thumbnail and tiles of (cos + 1) / 2, which gives a blank canvas more than half marks.
"""
import argparse
import contextlib
import importlib
import math
import re
import sys
import time
from pathlib import Path

import cli

if __name__ == "__main__":
    cli.end_quietly()  # before the imports that take seconds

import numpy as np
from PIL import Image

from encoder import Encoder, calibrated, cosine
from pixels import align, background, cells, colour_error, fit, patches, structure_tensor
from texts import molecule, molecule_similarity, text_share, text_similarity, visible_texts

WEIGHT_FORMAT, WEIGHT_VISUAL = 0.1, 0.9
# Chosen on the synthetic programs of tests/ladder.py, checked on real ones (LOG.md, "The reward"): a third more or less
# of any of these weights or of the text's moves a domain's order by at most 0.004 and its AUC by 0.011. Edges alone
# order line drawings best but see no colour; without texts, pages whose layout has shifted fall to the level of others.
WEIGHTS = {"coarse": 0.15, "fine": 0.35, "edges": 0.35, "palette": 0.15}
AGREE = 0.4  # fine + edges from which colours count in full
WEIGHT_TEXT, WEIGHT_ENCODER = 0.4, 0.2
TEXT_SHARE = 0.15  # share of the ink that is text from which the text term has its full weight
TEXT_NEEDS = 0.02  # visual score below which the text term fades out
LONGEST = 512  # pixels: larger targets are judged at this longest side
WINDOW = 7  # pixels: the side of the fine term's patches (scikit-image's default for SSIM)
CELL = 8  # pixels: the side of the cells in which edges are gathered
COARSE = 32  # the coarse term downsamples a square image to about COARSE x COARSE
C2 = 0.03**2  # SSIM's second constant for images in [0, 1]
LEAST_EDGES = 0.05
MOLECULE_NEEDS = 0.2  # palette score below which a molecule's text term fades out
FENCES = {"python": ("python", "py"), "html": ("html",), "svg": ("svg", "xml"), "latex": ("latex", "tex", "tikz")}


# -------------------------------------------------------------------------------------------------- format and language

def extract_code(response, language):
    """The code of an answer and its format score: (str, 1.0), or (None, 0.0).

    The answer must hold exactly one fenced block, opened by ``` and a name of the language (FENCES) on a line of its
    own and closed by ``` on a line of its own, with code inside; text around it is allowed. Two blocks, an unclosed or
    nested one, another language, a name that only begins like the language (python3), an empty block: no code.
    """
    lines = response.split("\n")
    fences = [i for i, line in enumerate(lines) if line.startswith("```")]
    if len(fences) != 2 or lines[fences[1]].strip() != "```":
        return None, 0.0
    if lines[fences[0]][3:].strip().lower() not in FENCES[language]:
        return None, 0.0
    code = "\n".join(lines[fences[0] + 1:fences[1]])
    return (code, 1.0) if code.strip() else (None, 0.0)


def embeds_raster(code):
    """Whether the program holds an encoded picture: base64 that begins as PNG, JPEG, GIF or WebP, or 400 letters."""
    return re.search(r"iVBORw0KGgo|/9j/4AAQ|/9j/2w|R0lGOD|UklGR|[A-Za-z0-9+/]{400}", code) is not None


def length_penalty(code, reference):
    """Soft bound on the length of `code`, in characters, relative to the reference program, both str: 0 to 0.1."""
    return min(0.1, 0.05 * max(0.0, len(code) / max(1, len(reference)) - 2))


# --------------------------------------------------------------------------------------------------------- visual terms

def look(pixels, ground):
    """What the terms need of one float32 image [H, W, 3] seen against the colour `ground` [3]: a dict of arrays."""
    from scipy.ndimage import gaussian_filter  # here and below: 50 MB, not for who only wants code
    planes = [pixels[..., i] - ground[i] for i in range(3)]  # three [H, W]; small, as float32 sums want it
    paper = np.zeros(3, np.float32)
    mean = [patches(x, WINDOW) for x in planes]  # [H, W] of each colour
    variance = [patches(x**2, WINDOW) - m**2 for x, m in zip(planes, mean)]  # [H, W] of each colour
    small = [cells(x, max(1, round(math.sqrt(x.size) / COARSE))) for x in planes]  # [h, w]
    tensor = [cells(x, CELL) for x in structure_tensor(planes)]  # two [h', w']
    red, green, blue = (np.minimum(6 * x, 5).astype(np.uint8) for x in np.moveaxis(pixels, -1, 0))
    amounts = np.bincount((36 * red + 6 * green + blue).ravel(), colour_error(planes, paper).ravel(), 216)
    fine = 1 - sum(C2 / (v + C2) for v in variance) / 3 * (1 - colour_error(mean, paper))  # [H, W]
    return {"pixels": pixels, "planes": planes, "mean": mean, "variance": variance, "fine": fine, "small": small,
            "tensor": tensor, "coarse": colour_error(small, paper), "edges": np.hypot(*tensor),
            "palette": gaussian_filter(amounts.reshape(6, 6, 6), 0.6)}


def errors(a, b):
    """How much two looks of one size differ: coarse [h, w], fine [H, W], edges [h', w'], palette [6, 6, 6]."""
    covariance = [patches(x * y, WINDOW) - m * n for x, y, m, n in zip(a["planes"], b["planes"], a["mean"], b["mean"])]
    structure = sum((2 * c + C2) / (v + w + C2)  # [H, W], SSIM's eq. 9 and 10
                    for c, v, w in zip(covariance, a["variance"], b["variance"])) / 3
    return {"coarse": colour_error(a["small"], b["small"]), "palette": np.abs(a["palette"] - b["palette"]),
            "fine": 1 - np.clip(structure, 0, 1) * (1 - colour_error(a["mean"], b["mean"])),
            "edges": np.hypot(*(x - y for x, y in zip(a["tensor"], b["tensor"])))}


def overlap(a, b, error):
    """Ink of the target, ink of the render, their difference, arrays of one shape -> share of common ink, 0 to 1."""
    either = np.maximum(a, b)
    total = float(either.sum())
    return float(np.maximum(0, either - error).sum()) / total if total > 1e-6 else 1.0


def features(target, reference=None, encoder=None, language=None):
    """What `score` needs of a target, computed once for all rollouts of a group.

    target: uint8 [H, W, 3]; reference: render.Render of the program that drew it, where there is one: it knows the
    texts; encoder: an Encoder, for its term; language: that of the answers.
    """
    height, width = target.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    pixels = fit(target, max(1, round(width * scale)), max(1, round(height * scale)))  # [H, W, 3]
    ground = background(pixels).astype(np.float32)
    known = {"aspect": width / height, "ground": ground, "look": look(pixels, ground), "scale": scale,
             "cropped": language == "latex", "texts": []}
    if reference is not None and reference.status == "ok":
        known["texts"] = visible_texts(reference.texts or [], reference.image)
        known["molecule"] = molecule(known["texts"])
        known["text weight"] = WEIGHT_TEXT * min(1.0, text_share(known["texts"], known["look"]["fine"]) / TEXT_SHARE)
    if encoder:
        blank = np.broadcast_to(np.round(255 * ground).astype(np.uint8), target.shape)
        known["encoded"], known["blank"] = encoder.describe([target, blank])
    return known


def compare(a, b, size):
    """Two looks of equal shape, the size term -> dict of visual and its terms, without encoder and texts."""
    error = errors(a, b)
    parts = {term: overlap(a[term], b[term], error[term]) for term in WEIGHTS}
    needed = LEAST_EDGES * float(a["edges"].sum())
    parts["drawn"] = min(1.0, float(b["edges"].sum()) / needed) if needed > 1e-6 else 1.0
    shapes = WEIGHTS["fine"] * parts["fine"] + WEIGHTS["edges"] * parts["edges"]
    others = sum(weight * parts[term] for term, weight in WEIGHTS.items()) - shapes
    trust = size * parts["drawn"]
    visual = trust * (shapes + min(1.0, (parts["fine"] + parts["edges"]) / AGREE) * others)
    return {"visual": visual, **parts, "size": size}


def visual_parts(known, image, texts=None, encoder=None):
    """Likeness of a render, uint8 [h, w, 3] with its texts, to a target's `features`: {visual and its terms: float}."""
    a, ground = known["look"], known["ground"]
    height, width = a["pixels"].shape[:2]
    size = math.exp(-abs(math.log(image.shape[1] / image.shape[0] / known["aspect"])))
    parts = compare(a, look(fit(image, width, height), ground), size)
    h, w = (max(1, round(known["scale"] * side)) for side in image.shape[:2])
    if known["cropped"] and (h, w) != (height, width) and max(h, w) <= 2 * LONGEST:
        moved = compare(*(look(sheet, ground) for sheet in align(a["pixels"], fit(image, w, h), ground)), size)
        parts = max(parts, moved, key=lambda found: found["visual"])
    visual = parts["visual"]
    if encoder:
        (seen,) = encoder.describe([image])
        parts["encoder"] = calibrated(cosine(known["encoded"], seen), cosine(known["encoded"], known["blank"]))
        visual = (1 - WEIGHT_ENCODER) * visual + WEIGHT_ENCODER * parts["size"] * parts["drawn"] * parts["encoder"]
    if known["texts"]:
        seen, shown = visible_texts(texts or [], image), visual / TEXT_NEEDS
        if known["molecule"]:
            parts["text"] = molecule_similarity(known["molecule"], molecule(seen))
            shown = parts["drawn"] * parts["palette"] / MOLECULE_NEEDS  # one changed atom can turn the whole drawing
        else:
            parts["text"] = text_similarity(known["texts"], seen)
        weight = known["text weight"]
        visual = (1 - weight) * visual + weight * parts["text"] * min(1.0, shown)
    return {**parts, "visual": visual}


# ---------------------------------------------------------------------------------------------------------------- score

def start(render, response, language, *names):
    """What every reward begins with -> (the answer's code or None, parts that are all 0 but for format).

    names: of further parts. The code is None, too, where the program failed; NaN parts say that our renderer did.
    """
    code, format_ = extract_code(response, language)
    parts = {"reward": 0.0, "format": format_, "execution": 0.0, "visual": 0.0, **dict.fromkeys(names, 0.0)}
    if render is not None and render.status == "infra":
        return None, dict.fromkeys(parts, math.nan)
    drawn = code is not None and render is not None and render.status == "ok"
    return code if drawn else None, {**parts, "execution": float(drawn)}


def score(target, render, response, language, known=None, reference_code=None, encoder=None):
    """Score one answer -> dict of floats in [0, 1], reward and its parts; all NaN when the renderer itself failed.

    target: uint8 [H, W, 3]; render: render.Render of the answer's code, or None where it holds no code; response: the
    whole answer; language: the one asked for; known: `features(target, ...)`, so that a group computes them once;
    reference_code: the target's own program, where there is one, for the bound on the length; encoder: an Encoder, for
    its term. The parts of `visual_parts` that are no WEIGHTS are told only where there is an image.
    """
    code, parts = start(render, response, language, "length_penalty", *WEIGHTS)
    if code and not embeds_raster(code):
        known = known or features(target, encoder=encoder, language=language)
        parts.update(visual_parts(known, render.image, render.texts, encoder))
    if code and reference_code:
        parts["length_penalty"] = length_penalty(code, reference_code)
    parts["reward"] = WEIGHT_FORMAT * parts["format"] + WEIGHT_VISUAL * parts["visual"] - parts["length_penalty"]
    return parts


def paper_score(target, render, response, language, known=None, reference_code=None, encoder=None):
    """VinciCoder's reward, arguments and result as those of `score`: 0.9 paper_similarity + 0.1 format."""
    code, parts = start(render, response, language)
    if code:
        parts["visual"] = encoder.paper_similarity(target, render.image)
    parts["reward"] = WEIGHT_FORMAT * parts["format"] + WEIGHT_VISUAL * parts["visual"]
    return parts


def reward_named(name, encoder=None):
    """The function that --reward names: nanovinci, paper, or MODULE:FUNCTION. Raises SystemExit with one line."""
    if name in ("nanovinci", "paper"):
        if name == "paper" and not encoder:
            raise SystemExit("error: --reward paper needs --encoder, such as --encoder facebook/dinov2-large.")
        return score if name == "nanovinci" else paper_score
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(f"error: --reward {name}: {error}. It is nanovinci, paper, or MODULE:FUNCTION, as in "
                         f"my_reward:my_score.") from None


_encoder = None  # of a scoring process


def start_scorer(encoder=None):
    """What a scoring process does first; encoder: a name or None."""
    global _encoder
    _encoder = Encoder(encoder) if encoder else None


def score_group(target, language, answers, reference=None, reference_code=None, reward="nanovinci"):
    """Score the answers to one target: a list of (Render or None, response) -> a list of dicts, as `score`.

    The target's features are computed once; equal answers are scored once. reference: as for `features`; reward: as
    `reward_named` takes it. Each dict also tells what it took, `seconds_reward`.
    """
    judge, found, rows = reward_named(reward, _encoder), {}, []
    started = time.perf_counter()
    known = features(target, reference, _encoder if judge is score else None, language)
    options = dict(known=known, reference_code=reference_code, encoder=_encoder)
    for render, response in answers:
        if response not in found:
            found[response] = judge(target, render, response, language, **options)
        rows.append({**found[response], "seconds_reward": time.perf_counter() - started})
        started = time.perf_counter()
    return rows


def scorers(workers, encoder=None):
    """A pool of scoring processes: `pool.submit(score_group, ...)`; encoder: a name or None, see `Encoder`.

    They import this file alone, not the caller's script with its torch, and live beside the renderer's servers.
    """
    if encoder:
        Encoder(encoder)  # a name that cannot be loaded ends here
    pool = cli.Pool(workers, start_scorer, (encoder,))
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if getattr(main, name, None) is not None}
    with contextlib.ExitStack() as after:
        for name, value in hidden.items():
            setattr(main, name, None)
            after.callback(setattr, main, name, value)
        list(pool.map(abs, range(workers)))
    return pool


def score_batch(groups, pool):
    """Score many groups in a pool of `scorers`: a list of argument tuples of `score_group` -> a list of its results."""
    return [future.result() for future in [pool.submit(score_group, *group) for group in groups]]


# --------------------------------------------------------------------------------------------------------- command line

def explain(target, image):
    """Two images, uint8 [H, W, 3] and [h, w, 3] -> PIL image: target | render as it is compared | what fine lost."""
    known = features(target)
    a = known["look"]
    height, width = a["pixels"].shape[:2]
    b = look(fit(image, width, height), known["ground"])
    lost = np.minimum(errors(a, b)["fine"], np.maximum(a["fine"], b["fine"]))[..., None]  # [H, W, 1]
    faint = 1 - 0.25 * (1 - a["pixels"].mean(-1, keepdims=True))  # the target in light grey, for orientation
    heat = faint * (1 - lost) + np.array([0.85, 0.1, 0.1]) * lost  # [H, W, 3]
    gap = np.full((height, 8, 3), 0.5)
    return Image.fromarray((255 * np.hstack([a["pixels"], gap, b["pixels"], gap, heat])).round().astype(np.uint8))


def main():
    from render import ENDINGS, Renderer
    parser = argparse.ArgumentParser(description="Score one answer against a target image.", allow_abbrev=False)
    add = parser.add_argument
    add("target", help="image file")
    add("file", help="the answer with its fenced block, or a bare program whose ending names the language")
    add("--language", choices=sorted(FENCES), help="language asked for (default: by the file's ending)")
    add("--reference", metavar="FILE", help="the program that drew the target: for text term and bound on the length")
    add("--explain", metavar="OUT.png", help="write target | render | where the fine term lost points")
    add("--reward", default="nanovinci", help="nanovinci, paper (VinciCoder's; needs --encoder), or MODULE:FUNCTION")
    add("--encoder", metavar="NAME", help="vision encoder, hub name or directory, such as facebook/dinov2-large")
    add("--unsafe-render", action="store_true", help="render without confinement where none is possible")
    args = parser.parse_args()
    judge = reward_named(args.reward, args.encoder)
    try:
        target = np.asarray(Image.open(args.target).convert("RGB"))
        response = Path(args.file).read_text(errors="replace")
        reference_code = Path(args.reference).read_text(errors="replace") if args.reference else None
    except OSError as error:
        raise SystemExit(f"error: {error}")
    language = args.language or ENDINGS.get(Path(args.file).suffix.lower())
    if language not in FENCES:
        raise SystemExit(f"error: cannot tell the language of {args.file}: name it with --language "
                         f"{{{','.join(sorted(FENCES))}}}.")
    if not any(line.startswith("```") for line in response.split("\n")):
        response = f"```{language}\n{response}\n```"
    encoder = Encoder(args.encoder) if args.encoder else None
    code, _ = extract_code(response, language)
    render = reference = None
    try:
        with Renderer(1, unsafe=args.unsafe_render) as renderer:
            if code:
                render = renderer.submit(language, code, target.shape[1::-1]).result()
            if reference_code:
                reference = renderer.submit(language, reference_code, target.shape[1::-1]).result()
    except RuntimeError as error:
        raise SystemExit(f"error: {error}")
    known = features(target, reference, encoder, language)
    parts = judge(target, render, response, language, known=known, reference_code=reference_code, encoder=encoder)
    for name, value in parts.items():
        print(f"{name:14} {value:.4f}")
    found = f"render: {render.status} {render.message}" if code else "no single fenced block in the language asked for"
    print(found.rstrip())
    if args.explain and render and render.image is not None:
        try:
            explain(target, render.image).save(args.explain)
        except (OSError, ValueError) as error:  # no such folder; an ending of no image format
            raise SystemExit(f"error: cannot write {args.explain}: {error}. Give it the ending .png, in a folder "
                             f"that is there.")
        print(f"wrote {args.explain}")
    return int(render is None or render.status != "ok")


if __name__ == "__main__":
    sys.exit(main())
