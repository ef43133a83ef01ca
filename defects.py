"""Defects: the mistakes of a model that looks and writes, made in programs of five domains.

An operator is a function (rng, code) -> (new code, change) or None where it finds nothing to change. It works on a
syntax tree with source positions (ast; html.parser and tinycss2; expat; a SMILES and a TeX tokenizer) and replaces a
few characters of the source, so comments and formatting survive everywhere else: a wrong colour, number, word, place or
kind, something forgotten, and programs that do not run (`FAILING`). `mutate` draws one or more of them; refine.py makes
training pairs of what they do.

The files of the languages hold what makes an operator: a function (rng, parsed program) -> the edits to choose from.
"""
from functools import wraps
from xml.parsers import expat

from defects_chem import CHEM, smiles
from defects_latex import LATEX, latex
from defects_markup import SVG, WEB, html, svg
from defects_python import CHART
from defects_tree import python

# What parsers and operators raise; html.parser asserts, a number of 400 digits overflows
UNPARSED = (SyntaxError, ValueError, RecursionError, MemoryError, AssertionError, OverflowError, expat.ExpatError)


def one_line(text, length):
    """A text without line breaks, cut to at most `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[:length - 3] + "..."


def shown(code, start, end, new):
    """What an edit does as "old -> new"; a short one with what stands before it on its line."""
    before = code[:start].rpartition("\n")[2][-max(0, 16 - (end - start)):] if end - start < 16 else ""
    return f"{one_line(before + code[start:end], 50) or 'nothing'} -> {one_line(before + new, 50) or 'nothing'}"


def operator(parse, possible):
    """The operator that does by chance one of the edits which possible(rng, parse(code)) lists.

    An edit is a list of (start, end, new text). An operator that is not FAILING never leaves a program that `parse`
    refuses.
    """
    @wraps(possible)
    def apply(rng, code):
        try:
            edits = list(possible(rng, parse(code)))
        except UNPARSED:
            return None
        rng.shuffle(edits)
        for edit in edits[:8]:
            new = code
            for start, end, text in sorted(edit, reverse=True):
                new = new[:start] + text + new[end:]
            try:
                if new == code or possible.__name__ not in FAILING and not parse(new):
                    continue
            except UNPARSED:
                continue
            return new, one_line("; ".join(shown(code, *one) for one in edit), 120)
    return apply


OPERATORS = {domain: [operator(parse, possible) for possible in those] for domain, parse, those in (
    ("chart", python, CHART), ("chem", smiles, CHEM), ("web", html, WEB), ("svg", svg, SVG), ("latex", latex, LATEX))}
FAILING = set("""missing_import misspelt_keyword misspelt_attribute unequal_length unclosed_bracket broken_smiles
    svg_unclosed svg_unquoted latex_library latex_brace latex_command""".split())


def mutate(rng, domain, code, n=1, failing=False):
    """-> (code after n operators, their names joined by "+", their changes joined by "; "), None where none applies.

    Fewer where fewer apply. failing: the last of them is one of FAILING; else none is.
    """
    names, changes = [], []
    of = lambda kind: [o for o in OPERATORS.get(domain, ()) if (o.__name__ in FAILING) == kind]
    plain, broken = of(False), of(True)
    for wanted, group in ((n - failing, plain), (int(failing), broken)):
        for apply in rng.sample(group, len(group)):
            if wanted and (found := apply(rng, code)):
                code, wanted = found[0], wanted - 1
                names.append(apply.__name__)
                changes.append(found[1])
    return (code, "+".join(names), "; ".join(changes)) if names and (not failing or names[-1] in FAILING) else None
