"""Metrics between two images and two programs: gains are not graded by their own teacher.

They share no code with reward.py.

    side = working_side(target)                                                       # images: uint8 [H, W, 3]
    outside_metrics(look(target, side), look(render, side))["outside"]                # 1 for equal images

Left out here: metrics of single domains (domain.py, traced.py).
"""
import math

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

OUTSIDE_PARTS = ("outside", "masked_ssim", "edge_f1", "palette", "lowres", "ssim", "code")
SIDE = 336  # pixels: longest side at which the outside metrics look at an image
LONGEST_CODE = 20_000  # characters: the edit distance is quadratic


def letterbox(image, side):
    """uint8 [H, W, 3] -> [side, side, 3], fitted without stretching on white: a wrong aspect ratio costs."""
    height, width = image.shape[:2]
    if height == width == side:
        return image
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (side, side), "white")
    sheet.paste(Image.fromarray(image).resize(size, Image.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(sheet)


def look(image, side):
    """What `outside_metrics` needs of one image, uint8 [H, W, 3], at S = `side` pixels; tolerances are fractions of it.

    rgb [S, S, 3]; gray [S, S]; near_ink, edges, near_edges: bool [S, S]; lab [1 + C, 3]: the background's colour, then
    up to 8 of the ink; mass [C], which sums to 1: shares of the ink; small [24 * 24 * 3], with mean 0.
    """
    rgb = letterbox(image, side)  # [S, S, 3]
    bins = (rgb.reshape(-1, 3) >> 3).astype(int) @ (1024, 32, 1)  # [S * S]
    ground = rgb.reshape(-1, 3)[bins == np.bincount(bins).argmax()].mean(0)  # [3]: the most frequent colour
    ink = np.abs(rgb - ground).max(-1) > 24  # [S, S]
    colours, mass = np.zeros((0, 3)), np.zeros(0)
    if ink.any():  # palette: up to 8 bins of 24 levels that hold at least 1 % of the ink
        pixels = rgb[ink]  # [n, 3]
        _, where, count = np.unique((pixels // 24).astype(int) @ (121, 11, 1), return_inverse=True, return_counts=True)
        top = np.argsort(-count, kind="stable")[:8]
        top = top[count[top] >= min(0.01 * len(pixels), count.max())]
        colours = np.stack([np.bincount(where, pixels[:, c])[top] for c in range(3)], 1) / count[top, None]
        mass = count[top] / count[top].sum()
    gray = rgb @ np.array((0.299, 0.587, 0.114))
    edges = np.hypot(ndimage.sobel(gray, 0), ndimage.sobel(gray, 1)) > 100
    small = np.asarray(Image.fromarray(rgb).resize((24, 24), Image.BOX), dtype=float).ravel()
    within = lambda mask, pixels: ndimage.maximum_filter(mask, 2 * max(1, round(pixels * side / SIDE)) + 1)
    return {"rgb": rgb, "gray": gray, "near_ink": within(ink, 5), "edges": edges, "near_edges": within(edges, 2),
            "lab": rgb2lab(np.concatenate([ground[None], colours])[None] / 255)[0], "mass": mass,
            "small": small - small.mean()}


def f1(precision, recall):
    """Harmonic mean of precision and recall, 0 to 1 each; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outside_metrics(a, b):
    """Metrics between two looks of the same side, each 1 for equal images; `outside` is the mean of the first four.

    masked_ssim: SSIM (Gaussian, sigma 1.5, gray) averaged where either image has ink. edge_f1: Sobel edges within a
    tolerance. palette: CIEDE2000 similarity of the ink's colours, matched one to one by mass, times that of the
    backgrounds. lowres: correlation at 24 x 24 pixels. ssim: plain SSIM (uniform 7 x 7, RGB) for comparison with
    other work only: alone it prefers a blank page to a wrong one.
    """
    _, local = structural_similarity(a["gray"], b["gray"], full=True, gaussian_weights=True, sigma=1.5,
                                     use_sample_covariance=False, data_range=255)  # [S, S]
    mask = a["near_ink"] | b["near_ink"]
    n_a, n_b = a["edges"].sum(), b["edges"].sum()
    edge = float(n_a == n_b)  # where one of them has no edges
    if n_a and n_b:
        edge = f1((b["edges"] & a["near_edges"]).sum() / n_b, (a["edges"] & b["near_edges"]).sum() / n_a)
    alike = np.clip(1 - deltaE_ciede2000(a["lab"][:, None], b["lab"][None]) / 100, 0, 1)  # [1 + colours, 1 + colours]
    palette, colours = float(len(a["mass"]) == len(b["mass"])), alike[1:, 1:]
    if len(a["mass"]) and len(b["mass"]):
        i, j = linear_sum_assignment(-colours * np.minimum(a["mass"][:, None], b["mass"]))
        palette = f1((colours[i, j] * b["mass"][j]).sum(), (colours[i, j] * a["mass"][i]).sum())
    x, y = a["small"], b["small"]
    norm = math.sqrt((x @ x) * (y @ y))
    lowres = max(0, x @ y / norm) if norm > 1e-6 else x @ x < 1e-6 > y @ y  # of one colour: are both?
    parts = {"masked_ssim": local[mask].mean() if mask.any() else local.mean(), "edge_f1": edge,
             "palette": palette * alike[0, 0], "lowres": lowres}
    parts["outside"] = sum(parts.values()) / 4
    parts["ssim"] = structural_similarity(a["rgb"], b["rgb"], channel_axis=2, win_size=7, data_range=255)
    return {k: float(v) for k, v in parts.items()}


def working_side(target):
    """Side in pixels at which a target [H, W, 3] is judged: its own longest one, between 24 and SIDE."""
    return max(24, min(SIDE, max(target.shape[:2])))


def edit_similarity(a, b):
    """1 - Levenshtein distance / longer length of two strings; NaN beyond LONGEST_CODE characters."""
    if max(len(a), len(b)) > LONGEST_CODE:
        return math.nan
    longest = max(len(a), len(b), 1)
    a, b = (np.frombuffer(s.encode("utf-32-le", "surrogatepass"), np.uint32) for s in (a, b))
    row = steps = np.arange(len(b) + 1)
    for i, letter in enumerate(a, 1):
        row = np.concatenate(([i], np.minimum(row[1:] + 1, row[:-1] + (b != letter))))  # deletion, substitution
        row = np.minimum.accumulate(row - steps) + steps  # insertions, all at once
    return 1 - row[-1] / longest
