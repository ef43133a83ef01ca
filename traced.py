"""How alike two drawings are by what was drawn: the low-level metrics of ChartMimic and the metrics of Design2Code.

    with Renderer() as renderer:
        a, b = renderer.render_many([("python", code, None, True) for code in (reference, answer)])
    chart_scores(a.details, b.details)          # {"chartmimic_text": 0.8, ..., "chartmimic": 0.9}

`details` are what render.py reports of a drawing with inspect=True (DETAILS there says in which form). Each function
gives the reference first. None for the candidate (a program that failed, or that drew by other means) is 0 in every
score; None for the reference makes every score None: it cannot be computed. Where neither drawing has a thing (no text,
say) they agree in it: 1, so that a drawing scores 1 against itself; the benchmarks give 0 or divide by zero there.

Left out: ChartMimic's judge and Design2Code's CLIP similarity need models.
"""
import math
import re
from collections import Counter, defaultdict, deque
from difflib import SequenceMatcher

import numpy as np
from scipy.optimize import linear_sum_assignment
from skimage.color import deltaE_ciede2000, rgb2lab

from metrics import f1

CHART_PARTS = ("chartmimic_text", "chartmimic_type", "chartmimic_layout", "chartmimic_color", "chartmimic")
WEB_PARTS = ("d2c_block", "d2c_text", "d2c_position", "d2c_color", "treebleu")
# letters + 20 per block, one page's times the other's: beyond the first blocks are not merged any more, beyond the
# second only equal texts match. At these sizes unlike pages take ten to thirty seconds.
MERGED, COMPARED = 1 << 27, 1 << 29


def alike(a, b):
    """Colour similarity max(0, 1 - CIEDE2000 / 100) of RGB in 0..255, [n, 3] and [m, 3] -> [n, m]."""
    a, b = (rgb2lab(np.reshape(x, (1, -1, 3)) / 255)[0] for x in (a, b))
    return np.clip(1 - deltaE_ciede2000(a[:, None], b[None]) / 100, 0, 1)


# ---------------------------------------------------------------------------------------------------------- ChartMimic
# github.com/ChartMimic/ChartMimic, chart2code/utils/evaluator; paper: arXiv 2406.09961

def multiset_f1(reference, candidate):
    """F1 of two multisets, whose equal elements are matched one to one.

    text_evaluator.py, layout_evaluator.py, chart_type_evaluator.py.
    """
    reference, candidate = Counter(reference), Counter(candidate)
    if not reference and not candidate:
        return 1.0
    both = (reference & candidate).total()
    return f1(both / max(1, candidate.total()), both / max(1, reference.total()))


def rgb(colour):
    """"#RRGGBB" -> [r, g, b]; None for the name of a colormap."""
    return [int(colour[i:i + 2], 16) for i in (1, 3, 5)] if re.fullmatch("#[0-9A-Fa-f]{6}", colour) else None


def thin_out(colours):
    """The different (function, colour) in order; of more than ten only those at most 0.7 like one that is kept.

    Whatever the functions (color_evaluator.py, color_utils.py); the names of colormaps, each once, are kept. The order
    is the alphabet's here; there it is Python's of a set of strings, which differs between runs.
    """
    colours = sorted(set(map(tuple, colours)))
    if len(colours) <= 10:
        return colours
    names = {colour: (call, colour) for call, colour in reversed(colours) if not rgb(colour)}
    hexes = [c for c in colours if rgb(c[1])]
    values, left, kept = np.array([rgb(c[1]) for c in hexes]), np.ones(len(hexes), bool), list(names.values())
    while left.any():
        first = left.argmax()
        kept.append(hexes[first])
        left &= alike(values[first], values)[0] <= 0.7
    return kept


def color_f1(reference, candidate):
    """F1 of [(function, colour)]: similarities of the best one-to-one matching within each function, over the colours.

    color_evaluator.py, with the Hungarian algorithm in place of a trial of all permutations. Colormaps match by name
    alone, and no colour.
    """
    reference, candidate = thin_out(reference), thin_out(candidate)
    if not reference and not candidate:
        return 1.0
    total = len({c for c in reference if not rgb(c[1])} & {c for c in candidate if not rgb(c[1])})
    for call in {call for call, _ in reference} & {call for call, _ in candidate}:
        a, b = ([rgb(colour) for c, colour in side if c == call and rgb(colour)] for side in (reference, candidate))
        if a and b:
            likeness = alike(a, b)
            total += likeness[linear_sum_assignment(-likeness)].sum()
    return f1(total / max(1, len(candidate)), total / max(1, len(reference)))


def chart_scores(reference, candidate):
    """ChartMimic's low-level scores in [0, 1] of two matplotlib figures; all None without a reference.

    F1 of texts (as strings, without the labels of x and y ticks), types (calls of plotting functions), layout (places
    of the Axes in their grids) and colours by function; `chartmimic` is their mean. What is traced, and where that
    deviates: charts.py, trace_matplotlib. Not taken over: that the benchmark takes any graph's layout as one cell.
    """
    if reference is None or candidate is None:
        return dict.fromkeys(CHART_PARTS, None if reference is None else 0.0)
    placed = lambda side: [tuple(sorted(place.items())) for place in side["layout"]]
    scores = [multiset_f1(reference["texts"], candidate["texts"]), multiset_f1(reference["types"], candidate["types"]),
              multiset_f1(placed(reference), placed(candidate)), color_f1(reference["colors"], candidate["colors"])]
    return {part: float(score) for part, score in zip(CHART_PARTS, [*scores, np.mean(scores)])}


# --------------------------------------------------------------------------------------------------------- Design2Code
# github.com/NoviScl/Design2Code, Design2Code/metrics/visual_score.py; paper: arXiv 2403.03163

class Likeness:
    """Ratios of difflib between texts, each computed once."""

    def __init__(self):
        self.known, self.matcher = {}, SequenceMatcher(None)

    def __call__(self, texts, others):
        """Two lists of texts -> their ratios, float [n, m]."""
        for b in dict.fromkeys(others):
            missing = [a for a in dict.fromkeys(texts) if (a, b) not in self.known]
            if missing:
                self.matcher.set_seq2(b)
            for a in missing:
                self.matcher.set_seq1(a)
                self.known[a, b] = 1.0 if a == b else self.matcher.ratio()
        return np.array([[self.known[a, b] for b in others] for a in texts]).reshape(len(texts), len(others))


def merged(a, b):
    """One block of two neighbours: texts joined, the box around both, the mean colour in whole steps."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a["box"], b["box"]
    x, y = min(ax, bx), min(ay, by)
    return {"text": a["text"] + " " + b["text"], "box": [x, y, max(ax + aw, bx + bw) - x, max(ay + ah, by + bh) - y],
            "color": [(v + w) // 2 for v, w in zip(a["color"], b["color"])]}


def gain(before, after):
    """How much the mean similarity of the pairs that differ rises (difference_of_means, there of costs).

    No rise, 0, unless the best of those that were won is better than all that were lost.
    """
    before, after = Counter(before), Counter(after)
    lost, won = list((before - after).elements()), list((after - before).elements())
    rise = (np.mean(won) if won else 0) - (np.mean(lost) if lost else 0)
    return rise if rise <= 0 or max(won) > max(lost, default=0) else 0.0


def pairs(likeness):
    """The similarities of the best one-to-one matching of likeness [n, m]: [min(n, m)]."""
    return likeness[linear_sum_assignment(-likeness)]


def merge_neighbours(blocks, others, ratio):
    """The blocks, those neighbours merged whose union raises the likeness of the best matching by more than 0.05.

    The largest rise comes first, and no block is merged twice. ratio(texts, others): as of `Likeness`.
    """
    texts, others = [b["text"] for b in blocks], [b["text"] for b in others]
    likeness, wanted, rises = ratio(texts, others), Counter(others), []
    before, have = pairs(likeness), Counter(texts)
    for i, (a, b) in enumerate(zip(texts, texts[1:])):
        both = a + " " + b
        if ((have - Counter((a, b)) + Counter((both,))) & wanted).total() < (before == 1).sum():
            continue  # an exact pair would be lost, which no gain makes up for
        rise = gain(before, pairs(np.concatenate([likeness[:i], ratio([both], others), likeness[i + 2:]])))
        if rise > 0.05:
            rises.append((rise, i))
    done, blocks = set(), list(blocks)
    for _, i in sorted(rises, key=lambda r: -r[0]):
        if not {i, i + 1} & done:
            done |= {i, i + 1}
            blocks[i], blocks[i + 1] = merged(blocks[i], blocks[i + 1]), None
    return [b for b in blocks if b]


def match_blocks(reference, candidate):
    """Blocks of two pages, merged, and which belong together: (reference, candidate, [(i, j, likeness of texts)]).

    Neighbours are merged on either side as long as that helps (find_possible_merge), then the best one-to-one matching
    of texts is taken, in which a pair above 0.5 is worth a tenth of its two most alike neighbours (pairs up to one
    block before or behind on both pages) more; pairs below 0.5 are none. Large pages (MERGED, COMPARED) get less of
    this.
    """
    work = math.prod(sum(len(b["text"]) + 20 for b in side) for side in (reference, candidate))
    if work > COMPARED:
        places = defaultdict(deque)
        for i, block in enumerate(reference):
            places[block["text"]].append(i)
        same = [(places[b["text"]].popleft(), j, 1.0) for j, b in enumerate(candidate) if places[b["text"]]]
        return reference, candidate, same
    ratio, size = Likeness(), 0
    while work <= MERGED and size != (size := (len(reference), len(candidate))):
        candidate = merge_neighbours(candidate, reference, ratio)
        reference = merge_neighbours(reference, candidate, lambda texts, others: ratio(others, texts).T)
    likeness = ratio([b["text"] for b in candidate], [b["text"] for b in reference])  # [candidate, reference]
    padded, worth = np.pad(likeness, 1), likeness.copy()
    n, m = likeness.shape
    around = np.stack([padded[y:y + n, x:x + m] for y in range(3) for x in range(3) if (y, x) != (1, 1)])  # [8, n, m]
    worth += np.where(likeness > 0.5, 0.1 * np.sort(around, 0)[-2:].sum(0), 0)
    found = [(i, j, likeness[j, i]) for j, i in zip(*linear_sum_assignment(-worth)) if likeness[j, i] >= 0.5]
    return reference, candidate, found


def web_scores(reference, candidate):
    """Design2Code's scores of two pages but CLIP's, and WebCode2M's TreeBLEU, in [0, 1].

    d2c_block: area of the matched text blocks over the area of all, of both pages. d2c_text, d2c_position, d2c_color:
    means over the matched pairs of difflib's ratio of the lower-case texts, of 1 - max(|dx|, |dy|) of the centres as
    parts of the page, and of 1 - CIEDE2000 / 100. Nothing matched: 0; a reference without text: None, there is nothing
    to match. treebleu (arXiv 2404.06369): share of the reference's different height-1 subtrees that the candidate has.

    Deviations: where the benchmark finds a block's box and colour by drawing the page again with a colour of its own
    for each text, these are the box of the text in the DOM (line height, not ink) and its CSS color (opacity ignored);
    white space in texts is collapsed; texts outside all elements that it colours are blocks as well (it does not see
    them); pages with an element repeated more than 50 times are not cut. Subtrees are those of the DOM after its
    scripts ran.
    """
    if reference is None:
        return dict.fromkeys(WEB_PARTS)
    unasked = dict.fromkeys(WEB_PARTS[:4]) if not reference["blocks"] else {}
    if candidate is None:
        return dict.fromkeys(WEB_PARTS, 0.0) | unasked
    trees, theirs = set(reference["trees"]), set(candidate["trees"])
    scores = {"treebleu": len(trees & theirs) / len(trees) if trees else float(not theirs)}
    lowered = lambda side: [{**block, "text": block["text"].lower()} for block in side["blocks"]]
    a, b, found = match_blocks(lowered(reference), lowered(candidate))
    if not found:
        return dict.fromkeys(WEB_PARTS, 0.0) | scores | unasked
    area = [[block["box"][2] * block["box"][3] for block in side] for side in (a, b)]
    i, j, texts = zip(*found)
    box, other = (np.array([side[k]["box"] for k in ks]) for side, ks in ((a, i), (b, j)))  # [pairs, 4]: x, y, w, h
    shift = np.abs(box[:, :2] + box[:, 2:] / 2 - other[:, :2] - other[:, 2:] / 2).max(1)
    color, second = (rgb2lab(np.array([[side[k]["color"] for k in ks]]) / 255)[0] for side, ks in ((a, i), (b, j)))
    matched = sum(area[0][k] for k in i) + sum(area[1][k] for k in j)
    apart = deltaE_ciede2000(color, second)  # [pairs]
    scores |= {"d2c_block": matched / (sum(area[0]) + sum(area[1])), "d2c_text": np.mean(texts),
               "d2c_position": np.mean(1 - np.minimum(shift, 1)), "d2c_color": np.mean(np.clip(1 - apart / 100, 0, 1))}
    return {part: float(scores[part]) for part in WEB_PARTS}
