"""Defects of molecules: of the SMILES in Python programs for RDKit and Indigo. What an operator is: defects.py."""
import ast
import re
from types import SimpleNamespace

from defects_python import misspelt_attribute, missing_import, unclosed_bracket
from defects_tree import added, calls, given, inner, name_of, numbers, numbers_in, python, rescaled, source

SMILES = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops]|%\d\d|[-=#$:/\\.()~\d]")
READERS = {"MolFromSmiles", "loadMolecule", "loadSmarts", "loadQueryMolecule", "MolFromSmarts"}
SWAPS = {"C": "NOS", "N": "COS", "O": "NSC", "S": "ON", "F": ["Cl", "Br"], "Cl": ["F", "Br"], "Br": ["Cl", "I"],
         "I": ["Br"], "c": "n", "n": "c", "s": "o", "o": "s", "P": "N"}


def smiles(code):
    """-> a parsed Python program with molecules: [(literal, [token, ...])] of what may be given to a SMILES reader."""
    p, found = python(code), []
    for n in p.strings if calls(p, READERS) else ():
        tokens = SMILES.findall(n.value)
        direct = isinstance(n.parent, ast.Call) and name_of(n.parent) in READERS
        likely = len(n.value) > 2 and sum(map(is_atom, tokens)) > 1
        if "".join(tokens) == n.value and (direct or likely):
            found.append((n, tokens))
    return SimpleNamespace(**vars(p), molecules=found)


def rewritten(p, change):
    """The edits that change(tokens, i) -> new tokens or None makes, for each place of each molecule."""
    for n, tokens in p.molecules:
        yield from (inner(p, n, "".join(new)) for i in range(len(tokens)) if (new := change(tokens, i)))


def is_atom(token):
    """Is a token of a SMILES an atom, in brackets or not? Bonds, digits and marks are none."""
    return token[0].isalpha() or token[0] == "["


def chem_element(rng, p):
    """An atom taken for another element. No edit where none of them is in SWAPS."""
    return rewritten(p, lambda t, i: [*t[:i], rng.choice(SWAPS[t[i]]), *t[i + 1:]] if t[i] in SWAPS else None)


def chem_bond(rng, p):
    """A bond of another order: double -> single, triple -> double, single -> double."""
    def change(t, i):
        if t[i] in "=#":
            return [*t[:i], {"=": "", "#": "="}[t[i]], *t[i + 1:]]
        return [*t[:i + 1], "=", *t[i + 1:]] if t[i] in "CN" and i + 1 < len(t) and t[i + 1] in "CNO" else None
    return rewritten(p, change)


def chem_dropped(rng, p):
    """A branch or an end atom forgotten."""
    def change(t, i):
        if t[i] == "(":
            depth, end = 1, i
            while depth and end + 1 < len(t):
                end += 1
                depth += {"(": 1, ")": -1}.get(t[end], 0)
            branch = t[i:end + 1]
            closed = all(branch.count(r) % 2 == 0 for r in set(branch) if r.isdigit())
            return t[:i] + t[end + 1:] if closed else None
        if i == len(t) - 1 and is_atom(t[i]) and i:
            return t[:i - (t[i - 1] in "=#-")]
        return t[1:] if i == 0 and len(t) > 1 and is_atom(t[0]) and is_atom(t[1]) else None
    return rewritten(p, change)


def chem_added(rng, p):
    """A substituent too many."""
    def change(t, i):
        if t[i] in "Cc" and not (i + 1 < len(t) and (t[i + 1].isdigit() or t[i + 1] in "=#%")):
            return [*t[:i + 1], f"({rng.choice(('C', 'O', 'N', 'F', 'Cl', 'C=O'))})", *t[i + 1:]]
    return rewritten(p, change)


def chem_stereo(rng, p):
    """A stereo mark forgotten or inverted."""
    def change(t, i):
        new = t[i]
        if new in "/\\":
            new = {"/": "\\", "\\": "/"}[new] if rng.random() < 0.5 else ""
        elif "@" in new:
            new = new.replace("@@", "@") if "@@" in new and rng.random() < 0.5 else new.replace("@", "")
        return [*t[:i], new, *t[i + 1:]] if new != t[i] else None
    return rewritten(p, change)


def chem_ring(rng, p):
    """A ring, or a chain, one atom larger or smaller."""
    def change(t, i):
        if t[i] == "C" and 0 < i < len(t) - 1 and is_atom(t[i + 1]):
            return t[:i] + t[i + 1:] if rng.random() < 0.5 else [*t[:i], "C", *t[i:]]
    return rewritten(p, change)


def chem_size(rng, p):
    """Another size of the drawing; one without a size gets one."""
    sizes = numbers(p, {"size", "subImgSize", "molSize", "width", "height", "molsPerRow"})
    for call in p.nodes:
        if isinstance(call, ast.Call) and re.search("Draw2D|setOption|thumbnail|resize", name_of(call)):
            if "Align" not in source(p, call):
                sizes += [n for n in numbers_in(call) if type(n.value) is int]
    yield from rescaled(rng, p, sizes)
    for call in calls(p, {"MolToImage"}):
        if not given(call, "size") and len(call.args) == 1:
            yield added(p, call, "size=(250, 200)")


def broken_smiles(rng, p):
    """Fails: a ring or a branch is not closed."""
    return rewritten(p, lambda t, i: t[:i] + t[i + 1:] if t[i].isdigit() or t[i] in "()" else None)


CHEM = (chem_element, chem_bond, chem_dropped, chem_added, chem_stereo, chem_ring, chem_size, broken_smiles,
        missing_import, misspelt_attribute, unclosed_bracket)
