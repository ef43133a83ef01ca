"""
The reward's text term: strings that two pictures show, and molecules as graphs.

A text is (string, (x0, y0, x1, y1)). The renderer reports boxes in pixels; here they are in widths and heights of the
image.
"""
import math
from collections import Counter

import numpy as np

MOST_TEXTS = 400  # strings of an image that are compared, longest first
WHOLE = (0, 0, 1, 1)  # the box of a text that fills the image: a molecule's SMILES
LONGEST_SMILES = 200  # characters; longer ones are compared as strings
SUBSTITUTED = 0.8  # what an atom of another element, or a bond of another order, counts in a molecule


def visible_texts(texts, image):
    """[(string, box in pixels)] -> [(string, box in widths and heights)] of those that can be seen.

    That is: half of the box or more lies inside the image, uint8 [H, W, 3], on a patch that is not flat.
    """
    height, width = image.shape[:2]
    found = []
    for string, (x0, y0, x1, y1) in sorted(texts, key=lambda t: -len(t[0]))[:MOST_TEXTS]:
        left, right = max(0, int(x0)), min(width, math.ceil(x1))
        top, bottom = max(0, int(y0)), min(height, math.ceil(y1))
        inside = max(0, right - left) * max(0, bottom - top) / max(1.0, (x1 - x0) * (y1 - y0))
        if string.strip() and inside >= 0.5 and np.ptp(image[top:bottom, left:right].reshape(-1, 3), axis=0).max() > 24:
            found.append((" ".join(string.split()), (left / width, top / height, right / width, bottom / height)))
    return found


def text_share(texts, ink):
    """The share, 0 to 1, of the ink, float [H, W], that stands in the boxes of the texts."""
    height, width = ink.shape
    inside = np.zeros(ink.shape, bool)  # [H, W]
    for _, (x0, y0, x1, y1) in texts:
        inside[int(y0 * height):math.ceil(y1 * height), int(x0 * width):math.ceil(x1 * width)] = True
    return float(ink[inside].sum() / max(1e-6, ink.sum()))


def letter_pairs(string):
    """The set of pairs of adjacent characters of a string with its ends marked; a repeated pair is another element."""
    marked, seen, pairs = f"\0{string}\0", Counter(), set()
    for pair in zip(marked, marked[1:]):
        seen[pair] += 1
        pairs.add((*pair, seen[pair]))
    return pairs


def text_similarity(a, b):
    """Two lists of texts, the first not empty -> 0 to 1: strings matched one to one, weighted by their letters."""
    from scipy.optimize import linear_sum_assignment
    if not b:
        return 0.0
    pairs_a, pairs_b = ([letter_pairs(string) for string, _ in texts] for texts in (a, b))
    index = {pair: i for i, pair in enumerate(set().union(*pairs_a, *pairs_b))}
    holds = [np.zeros((len(pairs), len(index)), np.float32) for pairs in (pairs_a, pairs_b)]  # [n, pairs], [m, pairs]
    for matrix, pairs in zip(holds, (pairs_a, pairs_b)):
        for row, mine in zip(matrix, pairs):
            row[[index[pair] for pair in mine]] = 1
    n_a, n_b = (matrix.sum(1) for matrix in holds)  # [n], [m]
    dice = 2 * holds[0] @ holds[1].T / (n_a[:, None] + n_b)  # [n, m], Dice 1945
    place_a, place_b = (np.array([((x0 + x1) / 2, (y0 + y1) / 2) for _, (x0, y0, x1, y1) in texts]) for texts in (a, b))
    distance = np.sqrt(((place_a[:, None] - place_b) ** 2).sum(-1))  # [n, m], in widths and heights
    gain = np.minimum(n_a[:, None], n_b) * np.where(dice > 0.5, dice, 0) * np.exp(-2 * distance)  # [n, m]
    matched = gain[linear_sum_assignment(-gain)].sum()
    return float(2 * matched / (n_a.sum() + n_b.sum()))


def molecule(texts):
    """The visible texts that fill the image, if they are SMILES -> (elements [n], bonds [4, n, n], by order), or None.

    Several molecules are one graph. Atoms (by atomic number) and bonds (single, aromatic, double, triple) are what the
    SMILES says, hydrogen left out and nothing made sense of.
    """
    smiles = ".".join(string for string, box in texts if box == WHOLE)
    if not 0 < len(smiles) <= LONGEST_SMILES:
        return None
    from rdkit import Chem, rdBase
    with rdBase.BlockLogs():
        found = Chem.MolFromSmiles(smiles, sanitize=False)
    if not found:
        return None
    orders = Chem.GetAdjacencyMatrix(found, useBO=True)  # [n, n], dative bonds in one direction only
    orders = np.maximum(orders, orders.T)
    bonds = np.stack([orders == k for k in (1, 1.5, 2, 3)]).astype(float)  # [4, n, n]
    return np.array([atom.GetAtomicNum() for atom in found.GetAtoms()]), bonds


def molecule_similarity(a, b):
    """Two results of `molecule` -> 0 to 1: of the atoms and bonds of either, the share that both have, squared.

    Squared, since strangers share half. 0 where one of them is None. Graph edit distance is a quadratic assignment of
    atoms to atoms, approximated: by linear assignments to its gradient (Frank and Wolfe 1956; Vogelstein et al. 2015),
    from the ten pairs of atoms whose neighbourhoods are most alike.
    """
    from scipy.optimize import linear_sum_assignment
    if not a or not b:
        return 0.0
    (elements_a, bonds_a), (elements_b, bonds_b) = a, b
    any_a, any_b = bonds_a.sum(0), bonds_b.sum(0)  # [n, n], [m, m]
    atoms = np.where(elements_a[:, None] == elements_b, 1, SUBSTITUTED)  # [n, m]
    bonds = lambda match: (SUBSTITUTED * any_a @ match @ any_b  # [n, m]
                           + (1 - SUBSTITUTED) * (bonds_a @ match @ bonds_b).sum(0))
    degrees = np.maximum(1, np.maximum.outer(any_a.sum(1), any_b.sum(1)))  # [n, m]
    alike, common = atoms, 0.0
    for _ in range(6):
        alike = (atoms + bonds(alike) / degrees) / 2
    for start in [None, *np.argsort(-alike, axis=None)[:10]]:
        match = np.eye(*atoms.shape)  # [n, m]: SMILES are canonical, so that equal molecules are in the same order
        if start is not None:
            i, j = divmod(start, len(elements_b))
            match = np.full(atoms.shape, 1 / max(atoms.shape))
            match[i], match[:, j], match[i, j] = 0, 0, 1
        around, last = bonds(match), None  # of a sum of matches they are the sum
        for step in range(10):
            chosen = linear_sum_assignment(-atoms - around)
            if last and (chosen[1] == last[1]).all():
                break
            best = np.zeros(atoms.shape)
            best[chosen] = 1
            then, last = bonds(best), chosen
            common = max(common, (best * (atoms + then / 2)).sum())
            around += (then - around) * 2 / (step + 3)
    total = atoms.shape[0] + atoms.shape[1] + (bonds_a.sum() + bonds_b.sum()) / 2
    return float(common / (total - common)) ** 2
