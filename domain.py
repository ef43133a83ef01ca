"""Metrics of single domains, each as its benchmark defines it and named after it; optional encoders; the refine task.

    chart   chartmimic_text, _type, _layout, _color,       need a trace of the program, `Render.details`
            their mean chartmimic (traced.py)
    web     d2c_block, d2c_text, d2c_position, d2c_color,  need a trace of the page, `Render.details`
            treebleu (traced.py)
    svg     unisvg_ssim; unisvg                            need the SVG drawn 336 pixels large; unisvg: the encoders
                                                           clip and lpips
    latex   tex_text, tex_tokens; ems                      need the sources; ems: asked for, since it takes seconds
    chem    valid, exact, tanimoto_morgan, tanimoto_rdkit  need RDKit

All are 1 for the reference itself and the larger the better. A metric is None where it cannot be computed: never a
number.
"""
import functools
import math
import re
from collections import Counter

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from skimage.metrics import structural_similarity

import traced
from data import DOMAIN_OF
from metrics import SIDE, edit_similarity, f1, letterbox

METRICS = {"chart": ("chartmimic", "chartmimic_text", "chartmimic_type", "chartmimic_layout", "chartmimic_color"),
           "web": ("d2c_block", "d2c_text", "d2c_position", "d2c_color", "treebleu"), "svg": ("unisvg", "unisvg_ssim"),
           "latex": ("ems", "tex_text", "tex_tokens"), "chem": ("valid", "exact", "tanimoto_morgan", "tanimoto_rdkit")}
REFINE = ("gain", "gain_normalised", "improved", "worsened", "unchanged", "fixed", "copied")
ENCODERS = ("clip", "siglip", "dinov2", "lpips")
GRAY = np.array((0.299, 0.587, 0.114))


def domain_of(language, code):
    """Whose metrics judge a program: chemistry, where it is Python that draws molecules, is no chart."""
    if language == "python":
        return "chem" if re.search(r"\b(rdkit|indigo)\b", code) else "chart"
    return DOMAIN_OF[language]


def domain_scores(language, reference, candidate, ems=False):
    """{metric of the reference's domain: float, or None = not computed}; reference and candidate are (code, Render).

    A candidate without an image scores 0 everywhere; one with an image but the code "" is a blank canvas. All is None
    where the reference does not render, or our renderer failed. SVG renders should be SIDE pixels large, those of
    charts and pages come with `details`. `ems` is computed if asked for, `unisvg` by encoder_scores.
    """
    code, right = reference
    answer, drawn = candidate
    domain = domain_of(language, code)
    if domain not in METRICS:
        return {}
    lost = drawn is not None and drawn.status == "infra"  # by our renderer
    if lost or right.status != "ok" or domain in ("chart", "web") and right.details is None:
        return dict.fromkeys(METRICS[domain])
    if drawn is None or drawn.status != "ok":
        return {m: None if m == "unisvg" or m == "ems" and not ems else 0.0 for m in METRICS[domain]}
    if domain in ("chart", "web"):
        if answer and drawn.details is None:  # it drew without matplotlib: nothing to trace
            return dict.fromkeys(METRICS[domain])
        scores = {"chart": traced.chart_scores, "web": traced.web_scores}[domain]
        return scores(right.details, drawn.details if answer else None)
    if domain == "svg":
        return {"unisvg": None, "unisvg_ssim": unisvg_ssim(right.image, drawn.image)}
    if domain == "latex":
        return {"ems": earth_mover_similarity(drawn.image, right.image) if ems else None, **tex_scores(code, answer)}
    return chem_scores(molecules(code, right), molecules(answer, drawn))


# ------------------------------------------------------------------------------------------------------------------ SVG

def unisvg_ssim(a, b):
    """UniSVG's SSIM of two renders, uint8 [H, W, 3], 336 pixels large on white: uniform windows of 7, mean over RGB.

    github.com/Ryanlijinke/unisvg.github.io, evaluation.py. CairoSVG, asked for 336 x 336, fits a drawing into the
    middle of the square: so does this, to the fraction of a pixel, but cuts what leaves the view box. It does not close
    the tags of an unfinished SVG.
    """
    # float64 would change the ninth digit and take thrice as long
    a, b = (letterbox(x, SIDE).astype(np.float32) for x in (a, b))  # [336, 336, 3] each
    return float(structural_similarity(a, b, channel_axis=2, win_size=7, data_range=255))


# ---------------------------------------------------------------------------------------------------------------- LaTeX

def closing(code, pair):
    """{place of an opening bracket: place of the closing one} in a TeX source; pair: such as "{}".

    An escaped bracket is none, one that is never closed is left out.
    """
    ends, opened = {}, []
    for m in re.finditer(r"\\.|[" + re.escape(pair) + "]", code, re.DOTALL):
        if m[0] == pair[0]:
            opened.append(m.start())
        elif m[0] == pair[1] and opened:
            ends[opened.pop()] = m.start()
    return ends


def node_texts(code):
    """The strings that a TeX source sets in nodes, labels, titles and legends, white space folded: Counter."""
    code, texts = re.sub(r"(?<!\\)%.*", "", code), Counter()
    ends = {opening: closing(code, pair) for opening, pair in (("{", "{}"), ("[", "[]"), ("(", "()"))}
    for m in re.finditer(r"\bnode\b|\b(?:[xyz]?label|pin|title)\s*=\s*(?={)|\\(?:addlegendentry|legend)\s*(?={)", code):
        at = m.end()
        # of a node options, name and place come first
        while m[0] == "node" and (skip := re.compile(r"\s+|at\b|[\[(]").match(code, at)):
            at = skip.end() if skip[0] not in ends else ends[skip[0]].get(at, len(code)) + 1
        if at in ends["{"]:
            texts[" ".join(code[at + 1:ends["{"][at]].split())] += 1
    del texts[""]
    return texts


def tex_tokens(code):
    """Tokens of a TeX source without its comments: control sequences, words, numbers, other characters."""
    return re.findall(r"\\(?:[A-Za-z@]+|.)|[A-Za-z]+|\d+(?:\.\d+)?|\S", re.sub(r"(?<!\\)%.*", "", code))


def tex_scores(reference, code):
    """Two TeX sources -> {"tex_text", "tex_tokens"}, 0 to 1.

    tex_text: F1 of the multisets of node_texts, None where the reference has none. tex_tokens: 1 - Levenshtein distance
    of the tokens / the longer length, None beyond metrics.LONGEST_CODE tokens.

    They are no benchmark's: DaTikZ's TED (arXiv 2310.00367) is the extended edit distance, which lets blocks jump and
    charges for what is covered twice, on the tokens of Pygments' TexLexer, which keeps a run of text in one token.
    """
    a, b = node_texts(reference), node_texts(code)
    common = sum((a & b).values())
    index = {}
    strings = ["".join(chr(index.setdefault(t, len(index))) for t in tex_tokens(c)) for c in (reference, code)]
    alike = edit_similarity(*strings)
    return {"tex_text": f1(common / max(1, sum(b.values())), common / sum(a.values())) if a else None,
            "tex_tokens": None if math.isnan(alike) else float(alike)}


PATCH, MOST_PATCHES, FAINT = 8, 100, 0.001
INSIDE = np.stack(np.meshgrid(np.arange(PATCH), np.arange(PATCH)), -1).reshape(-1, 2) / PATCH  # [64, 2]: x, y


@functools.lru_cache(1024)
def marginals(n, m):
    """The constraints of a transport between n and m places: sparse [n + m - 1, n * m].

    The last of n + m is left out, since it follows from the others.
    """
    i, j = np.divmod(np.arange(n * m), m)
    rows, columns = np.concatenate([i, n + j]), np.tile(np.arange(n * m), 2)
    return csr_array((np.ones(2 * n * m), (rows, columns)), (n + m, n * m))[:-1]


def transport(a, b, cost):
    """Cheapest transport of the masses a [n] to b [m], equal in sum, at cost [n, m]: (its cost, flow [n, m]).

    Raises ArithmeticError where the solver gives up.
    """
    n, m = cost.shape
    if min(n, m) == 1:
        flow = np.outer(a, b) / a.sum()
        return float((flow * cost).sum()), flow
    found = linprog(cost.ravel(), A_eq=marginals(n, m), b_eq=np.concatenate([a, b])[:-1], method="highs-ds",
                    options={"presolve": False})
    if found.x is None:
        raise ArithmeticError(found.message)
    return found.fun, found.x.reshape(n, m)


def patch_distance(a, b):
    """Earth mover's distance of two patches under |x - x'| + |y - y'| + |gray - gray'|.

    Each is (weights [64], gray [64]).
    """
    common = np.where(a[1] == b[1], np.minimum(a[0], b[0]), 0)  # under a metric, what both hold in the same place stays
    p, q = a[0] - common, b[0] - common
    i, j = p > 1e-12, q > 1e-12
    if not i.any() or not j.any():
        return 0.0
    q = q[j] * (p[i].sum() / q[j].sum())
    return transport(p[i], q, cdist(INSIDE[i], INSIDE[j], "cityblock") + np.abs(a[1][i, None] - b[1][j]))[0]


def patches(image, frequent):
    """uint8 [H, W, 3] -> gray of its patches [P, 64] in 0 to 1, their places [P, 2]: row and column, 0 to 1.

    It is padded with the colour `frequent`, [3].
    """
    height, width = (-(-side // PATCH) * PATCH for side in image.shape[:2])
    sheet = np.broadcast_to(frequent, (height, width, 3)).copy()
    sheet[:image.shape[0], :image.shape[1]] = image
    rows, columns = height // PATCH, width // PATCH
    gray = (sheet @ GRAY / 255).reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2).reshape(rows * columns, -1)
    return gray, np.stack(np.divmod(np.arange(rows * columns), columns), -1) / (rows, columns)


def earth_movers_distance(image, reference):
    """HELM's EMD of two images, uint8 [H, W, 3] of the same size, in patches of 8 x 8 (see earth_mover_similarity).

    HELM computes the distances of all pairs of patches, about 10,000 transports. Here they start as lower bounds, the
    sum of the distances along x, y and gray alone; a pair that the best transport uses gets its true distance, until it
    uses no bound.
    """
    height, width = reference.shape[:2]
    count = math.ceil(height / PATCH) * math.ceil(width / PATCH)
    if count > MOST_PATCHES:
        width = math.ceil(width / PATCH / math.sqrt(count / MOST_PATCHES)) * PATCH
        height = MOST_PATCHES // (width // PATCH) * PATCH
        image, reference = (np.asarray(Image.fromarray(x).resize((width, height))) for x in (image, reference))
    colours, counts = np.unique(reference.reshape(-1, 3), axis=0, return_counts=True)
    frequent = colours[counts.argmax()]
    (a, place), (b, _) = patches(image, frequent), patches(reference, frequent)
    ink = [np.abs(x - frequent @ GRAY / 255) > 1e-6 for x in (a, b)]  # [P, 64] each
    weights = [FAINT + (1 - FAINT) * x.any(1) for x in ink]
    weights = np.maximum(*(w / w.sum() for w in weights))  # [P]
    keep = ink[0].any(1) | ink[1].any(1) if counts.max() > 0.5 * height * width else np.full(len(a), True)
    weights = np.where(keep, weights, 0) / max(1e-12, weights[keep].sum())
    keep &= (a != b).any(1)  # what is equal in place stays there
    if not keep.any():
        return 0.0
    a, b, place, weights = a[keep], b[keep], place[keep], weights[keep]
    inner = [(w / w.sum(1, keepdims=True)) for w in (FAINT + (1 - FAINT) * x[keep] for x in ink)]  # [P, 64] each
    levels = np.unique(np.concatenate([a, b]))

    def along(w, gray):
        """Cumulative masses of patches along gray, x and y, times the steps: [patches, levels - 1 + 2 * 8].

        Their L1 distances are 1-D earth mover's distances.
        """
        of_gray = np.zeros((len(w), len(levels)))
        np.add.at(of_gray, (np.arange(len(w))[:, None], np.searchsorted(levels, gray)), w)
        square = w.reshape(-1, PATCH, PATCH)
        return np.concatenate([of_gray.cumsum(1)[:, :-1] * np.diff(levels), square.sum(1).cumsum(1) / PATCH,
                               square.sum(2).cumsum(1) / PATCH], 1)

    moving = cdist(place, place, "cityblock") * PATCH / (height + width)
    cost = cdist(along(inner[0], a), along(inner[1], b), "cityblock") + moving  # [P, P]
    known, ask, found = np.zeros(cost.shape, bool), np.eye(len(a), dtype=bool), {}
    while ask.any():
        for i, j in zip(*ask.nonzero()):
            key = a[i].tobytes(), b[j].tobytes()
            if key not in found:
                found[key] = patch_distance((inner[0][i], a[i]), (inner[1][j], b[j]))
            cost[i, j] = found[key] + moving[i, j]
        if (a == a[0]).all():  # of one colour: whichever patch moves costs the same, so none has to change its place
            return float(weights @ cost.diagonal())
        known |= ask
        total, flow = transport(weights, weights, cost)
        ask = (flow > 1e-12) & ~known
    return total


@functools.lru_cache(64)
def distance_of_constant(size, pixels):
    """EMD between a reference and its opposite in one colour.

    By its size (H, W) and bytes, so that the answers to an item share it.
    """
    reference = np.frombuffer(pixels, np.uint8).reshape(*size, 3)
    colours, counts = np.unique(reference.reshape(-1, 3), axis=0, return_counts=True)
    opposite = 255 if colours[counts.argmax()] @ GRAY < 127 else 0
    return earth_movers_distance(np.full_like(reference, opposite), reference)


def earth_mover_similarity(image, reference):
    """EMS of Image2Struct (HELM): 1 - EMD(image, reference) / EMD(constant, reference), images uint8 [H, W, 3].

    The image is resized to the reference. The constant is black where the reference's most frequent colour is light,
    else white. At most 100 patches of 8 x 8 gray pixels; one of the most frequent colour alone weighs 0.001 and, where
    that colour fills more than half the reference, drops out if it is so in both. Can fall below 0; None for a
    reference of one colour, and where the solver gives up.

    github.com/stanford-crfm/helm, src/helm/benchmark/metrics/vision_language/{emd_utils,image_metrics}.py, which solves
    the same transports with cv2.EMD. HELM compares grays as floats, and with NumPy 2.4 on x86-64 its white patches come
    out as ink, not as background (.831 for the .783 of the test's moved boxes); here grays less than 1e-6 apart are
    equal, which is what it says it does.
    """
    if image.shape != reference.shape:
        image = np.asarray(Image.fromarray(image).resize(reference.shape[1::-1]))
    try:
        whole = distance_of_constant(reference.shape[:2], reference.tobytes())
        return 1 - earth_movers_distance(image, reference) / whole if whole else None
    except ArithmeticError:  # the solver gave up
        return None


# ------------------------------------------------------------------------------------------------------------ chemistry

# RDKit's paths grow without bound; bonds: of one atom; a SMILES in characters
MOST_ATOMS, MOST_BONDS, MOST_MOLECULES, LONGEST_SMILES = 300, 8, 50, 1000


def molecules(code, render):
    """RDKit molecules that a program drew: those that the renderer saw, else those that the code names, else none.

    The renderer notes the SMILES of a molecule as a text that fills the image.
    """
    from rdkit import Chem, rdBase

    def small(mol):
        return 0 < mol.GetNumAtoms() <= MOST_ATOMS and max(a.GetDegree() for a in mol.GetAtoms()) <= MOST_BONDS

    whole = (0, 0, *render.image.shape[1::-1])
    strings = [string for string, box in render.texts or () if tuple(box) == whole]
    named = [m[2] for m in re.finditer(r"""(?:MolFromSmiles|loadMolecule)\(\s*r?(["'])(.*?)\1""", code)]
    with rdBase.BlockLogs():
        for source in (strings, named):
            readable = [s for s in source[:MOST_MOLECULES] if len(s) <= LONGEST_SMILES and s.isascii()]
            if found := [m for m in map(Chem.MolFromSmiles, readable) if m and small(m)]:
                return found
    return []


def chem_scores(reference, drawn):
    """Metrics between two lists of RDKit molecules; None without any in the reference, 0 without any drawn.

    valid: a molecule was drawn. exact: the canonical isomeric SMILES agree. tanimoto_*: similarity of Morgan
    fingerprints (radius 2, 2048 bits) and of RDKit's path fingerprints; published Tanimoto values do not say which.
    Where several molecules are drawn they are matched one to one, and those left over on either side count 0.
    """
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator as fingerprints
    if not reference or not drawn:
        return dict.fromkeys(METRICS["chem"], 0.0 if reference else None)
    names = [[Chem.MolToSmiles(m) for m in mols] for mols in (reference, drawn)]
    scores = {"valid": 1.0, "exact": float(sorted(names[0]) == sorted(names[1]))}
    # A molecule without bonds has no paths, yet is like itself
    same = np.array(names[0])[:, None] == np.array(names[1])  # [reference, drawn]
    morgan, rdkit = fingerprints.GetMorganGenerator(radius=2, fpSize=2048), fingerprints.GetRDKitFPGenerator()
    for name, make in (("morgan", morgan), ("rdkit", rdkit)):
        a, b = ([make.GetFingerprint(m) for m in mols] for mols in (reference, drawn))
        alike = np.array([DataStructs.BulkTanimotoSimilarity(x, b) for x in a])  # [reference, drawn]
        alike = np.maximum(alike, same)
        scores[f"tanimoto_{name}"] = float(alike[linear_sum_assignment(-alike)].sum() / max(alike.shape))
    return scores


# ------------------------------------------------------------------------------------------------------------- encoders

class Encoder:
    """An optional image encoder: kind in ENCODERS, name a directory or hub id (for lpips: alex or vgg).

    Raises SystemExit with one line where it cannot be loaded.
    """

    def __init__(self, kind, name):
        import torch
        self.kind, self.device = kind, "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "lpips":
            try:
                import lpips
            except ImportError:
                raise SystemExit("error: lpips is not installed: pip install lpips, "
                                 "or leave lpips=... out of --encoders.") from None
            self.model = lpips.LPIPS(net=name).to(self.device).eval()
            return
        from encoder import load_vision
        model, self.processor = load_vision(name)
        self.model = model.to(self.device)

    def features(self, images):
        """n images uint8 [H, W, 3], prepared as the model's own processor does -> [n, D]; of any kind but lpips.

        They are projected embeddings of CLIP, pooled ones of SigLIP, the mean of all tokens of DINOv2.
        """
        prepared = self.processor(images=[Image.fromarray(x) for x in images], return_tensors="pt")
        pixels = prepared["pixel_values"].to(self.device)  # [n, 3, S, S]
        if hasattr(self.model, "get_image_features"):
            return self.model.get_image_features(pixel_values=pixels).pooler_output
        return self.model(pixel_values=pixels).last_hidden_state.mean(1)


def image_similarity(encoder, a, b):
    """Similarity of two images, uint8 [H, W, 3], by an Encoder: 1 for equal ones.

    clip: cosine, as UniSVG (ViT-L/14-336) and WebCode2M (ViT-B/32, whole page; Design2Code first paints over the
    texts). siglip: cosine, as DeTikZify (so400m). dinov2: (1 + cosine) / 2 of mean tokens, as StarVector (base). lpips:
    1 - LPIPS of images in -1 to 1, as UniSVG (alex); b is resized to a, if need be.
    """
    import torch
    with torch.no_grad():
        if encoder.kind == "lpips":
            if a.shape != b.shape:
                b = np.asarray(Image.fromarray(b).resize(a.shape[1::-1], Image.BICUBIC))
            prepared = lambda image: torch.from_numpy(image / 127.5 - 1).float().permute(2, 0, 1)[None]  # [1, 3, H, W]
            x, y = (prepared(image).to(encoder.device) for image in (a, b))
            return 1 - float(encoder.model(x, y))
        x, y = encoder.features([a, b]).float()
        cosine = float(torch.nn.functional.cosine_similarity(x, y, dim=0))
    return (1 + cosine) / 2 if encoder.kind == "dinov2" else cosine


def encoder_scores(encoders, scores, reference, candidate):
    """The domain's `scores` of one answer and a metric per Encoder; encoders: {kind: Encoder}.

    reference, candidate: Render. The encoders' metrics are None where the reference does not render or our renderer
    failed, 0 for a candidate without an image. With clip and lpips an SVG gets UniSVG's score, 0.2 SSIM + 0.2 (1 -
    LPIPS) + 0.6 CLIP (source: see unisvg_ssim).
    """
    if reference.status != "ok" or candidate is not None and candidate.status == "infra":
        return {**scores, **dict.fromkeys(encoders)}
    here = dict.fromkeys(encoders, 0.0)
    if candidate is not None and candidate.status == "ok":
        pictures = [letterbox(r.image, SIDE) if "unisvg" in scores else r.image for r in (reference, candidate)]
        here = {kind: image_similarity(encoder, *pictures) for kind, encoder in encoders.items()}
    if "unisvg" in scores and {"clip", "lpips"} <= {*here}:
        here["unisvg"] = 0.2 * scores["unisvg_ssim"] + 0.2 * here["lpips"] + 0.6 * here["clip"]
    return {**scores, **here}


def check_encoders(pairs):
    """["clip=openai/clip-vit-large-patch14-336", ...] -> {kind: name}.

    Raises SystemExit with one line where a pair is none.
    """
    for pair in pairs:
        kind, _, name = pair.partition("=")
        if kind not in ENCODERS or not name:
            raise SystemExit(f"error: --encoders {pair}: write KIND=NAME with a KIND of {', '.join(ENCODERS)}, "
                             "as in dinov2=facebook/dinov2-base.")
    return dict(pair.split("=", 1) for pair in pairs)


def load_encoders(pairs):
    """Pairs as check_encoders takes them -> {kind: Encoder}. Raises SystemExit as Encoder does."""
    return {kind: Encoder(kind, name) for kind, name in check_encoders(pairs).items()}


# --------------------------------------------------------------------------------------------------------------- refine

def refine_scores(similarity, of_input, ran, input_ran, copied):
    """What an answer to the refine task did to the defective program -> {metric of REFINE: number}.

    similarity, of_input: of the answer's and the defective program's images to the target, 0 where they do not run;
    ran, input_ran: whether they do; copied: whether the answer is the defective program unchanged.

    gain: S_out - S_in. gain_normalised: of what could be gained, (S_out - S_in) / (1 - S_in), None where the program
    was right already. improved, worsened, unchanged: is the gain beyond or within 0.001? fixed: does the answer to a
    program that fails run? None for one that does not fail.
    """
    gain, room = similarity - of_input, 1 - of_input
    return {"gain": gain, "gain_normalised": gain / room if room > 0.001 else None,
            "improved": float(gain > 0.001), "worsened": float(gain < -0.001), "unchanged": float(abs(gain) <= 0.001),
            "fixed": None if input_ran else float(ran), "copied": float(copied)}
