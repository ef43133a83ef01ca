"""Defects of LaTeX, by the tokens of the source. An operator is described in defects.py."""
import re
from functools import lru_cache
from types import SimpleNamespace

from mistakes import COLOURS, NUMBER, WORDS, misspelt, other, scaled

TEX = re.compile(r"(?P<comment>%[^\n]*)|(?P<command>\\(?:[a-zA-Z@]+\*?|.))|(?P<number>\d+\.?\d*|\.\d+)|(?P<word>[A-Za-z]+)|(?P<space>\s+)|(?P<mark>.)", re.S)
STATEMENTS = set("\\draw \\node \\fill \\path \\filldraw \\addplot \\shade \\shadedraw \\pattern".split())
TEX_COLOURS = set(COLOURS) | set("yellow white cyan violet olive lime pink darkgray lightgray gray".split())
GREEK = "\\alpha \\beta \\gamma \\delta \\theta \\lambda \\mu \\pi \\rho \\sigma \\phi \\psi \\omega \\epsilon \\varphi".split()
OPENER = {"}": "{", "]": "[", ")": "("}


@lru_cache(8)
def latex(code):
    """-> code and its tokens: kind, text, start, end; before: the token before, without spaces; opener: the token that opens the
    group it is in, or None; of those that open one, partner and items; math, drawn (in a tikzpicture), body: is it in there?"""
    tokens, stack, math, environments, dollar = [], [], [], [], False
    body = code.find("\\begin{document}")
    last = None
    for m in TEX.finditer(code):
        t = SimpleNamespace(kind=m.lastgroup, text=m[0], start=m.start(), end=m.end(), partner=None, before=last, items=[])
        if t.text in OPENER and any(o.text == OPENER[t.text] for o in stack) and (t.text == "}" or stack[-1].text == OPENER[t.text]):
            while (o := stack.pop()).text != OPENER[t.text]:
                pass
            o.partner, t.partner = t, o
            name = code[o.end:t.start]
            if t.text == "}" and o.before and o.before.text == "\\begin":
                environments.append(name)
            elif t.text == "}" and o.before and o.before.text == "\\end" and name in environments:
                environments.remove(name)
        t.opener = stack[-1] if stack else None
        if t.opener:
            t.opener.items.append(t)
        if t.text in ("\\[", "\\(", "\\]", "\\)"):
            math = [1] if t.text in ("\\[", "\\(") else []
        dollar ^= t.text == "$"
        t.math = bool(math or dollar or any(re.match("equation|align|gather|eqn|math|.*matrix|cases", e) for e in environments))
        t.drawn, t.body = "tikzpicture" in environments, t.start > body
        if t.text in ("{", "[", "("):
            stack.append(t)
        if t.kind not in ("space", "comment"):
            last = t
        tokens.append(t)
    tokens = [t for t in tokens if t.kind != "comment"]
    if "tikz" not in code and "$" not in code and "\\[" not in code and body < 0:
        for t in tokens:  # a bare formula
            t.math = True
    return SimpleNamespace(code=code, tokens=tokens)


def enclosing(t):
    while t := t.opener:
        yield t


def options(p):
    """[(start, end, text, opener)] of the items of option lists: [...] and {...} after `style=`."""
    for o in p.tokens:
        style = o.text == "{" and re.search(r"(style\s*=|\\tikzset|\\pgfplotsset)\s*$", p.code[max(0, o.start - 20):o.start])
        if o.partner and (o.text == "[" and not o.math or style) and o.start < o.partner.start:
            edges = [o.end - 1, *(t.start for t in o.items if t.text == "," and t.opener is o), o.partner.start]
            for a, b in zip(edges, edges[1:]):
                text = p.code[a + 1:b]
                start = a + 1 + len(text) - len(text.lstrip())
                yield start, start + len(text.strip()), text.strip(), o


def statements(p, names=STATEMENTS):
    """[(command, its semicolon)]"""
    for i, t in enumerate(p.tokens):
        if t.text in names:
            end = next((u for u in p.tokens[i:] if u.text == ";" and u.opener is t.opener), None)
            if end:
                yield t, end


def styled(rng, p, choices, names=STATEMENTS):
    """The edits that give a statement one more option."""
    for t, _ in statements(p, names):
        new = rng.choice(choices)
        bracket = next((u for u in p.tokens if u.before is t and u.text == "[" and u.partner), None)
        yield [(bracket.partner.start, bracket.partner.start, ", " + new)] if bracket else [(t.end, t.end, f"[{new}]")]

def latex_colour(rng, p):
    for t in p.tokens:
        grouped = [o for o in enclosing(t) if o.text == "[" or o.before and o.before.text in ("\\color", "\\textcolor", "=", "\\pagecolor", "\\tikzset", "\\colorbox")]
        if t.kind == "word" and t.text in TEX_COLOURS and grouped:
            yield [(t.start, t.end, other(rng, t.text, COLOURS))]
    yield from styled(rng, p, COLOURS, STATEMENTS - {"\\path"})

def latex_coordinate(rng, p):
    for t in p.tokens:
        place = t.drawn and not t.math and t.opener and t.opener.text == "(" and any(u.text in ",:" for u in t.opener.items)
        if place and t.kind == "number" and p.code[t.start - 1] in " (,:*+-":
            polar = p.code[t.end:t.end + 1] == ":"
            new = float(t.text) + (rng.choice((20, 45, 90)) if polar else rng.choice((-1, 1)) * rng.choice((0.4, 0.8, 1.5)) * max(1, float(t.text) / 4))
            yield [(t.start - (p.code[t.start - 1] == "-"), t.end, f"{new if p.code[t.start - 1] != '-' else -new:.2f}".rstrip("0").rstrip("."))]

def latex_text(rng, p):
    """A word of a node, a label or a paragraph."""
    for t in p.tokens:
        o = t.opener
        if t.kind == "word" and t.body and not t.math and not any(e.text != "{" for e in enclosing(t)):
            node = o and re.search(r"(\bnode\b[^{};]*|(title|label|legend)\s*=\s*)$", p.code[max(0, o.start - 300):o.start])
            named = o and o.before and re.fullmatch(r"\\(legend|addlegendentry|text\w*|emph|section\*?|caption|title|scriptsize|small|footnotesize|item)", o.before.text)
            if node and t.drawn or named or not o and not t.drawn and len(t.text) > 2 or o and not o.before and t.math:
                yield [(t.start, t.end, other(rng, t.text, WORDS) if len(t.text) > 1 else other(rng, t.text, "ABCXYZ"))]

def latex_arrow(rng, p):
    """Dropped, turned round, or of another kind."""
    for a, b, text, _ in options(p):
        if re.fullmatch(r"[\w.>|<']*-[\w.>|<']*", text) and (re.search("[<>|]", text) or re.search("(?i)stealth|latex|to\\b", text)):
            yield [(a, b, other(rng, text, ("->", "<-", "-", "<->")))]

def latex_line(rng, p):
    for a, b, text, _ in options(p):
        for group in (("thin", "thick", "very thick", "ultra thick", "ultra thin", "very thin", "semithick"), ("dashed", "dotted", "solid", "densely dashed")):
            if text in group:
                yield [(a, b, other(rng, text, group))]
        if re.match(r"line width\s*=", text) and (m := NUMBER.search(text)):
            yield [(a + m.start(), a + m.end(), scaled(rng, m[0]))]
    yield from styled(rng, p, ("dashed", "dotted", "ultra thick"), {"\\draw", "\\addplot", "\\filldraw"})

def latex_dropped(rng, p):
    for t, end in statements(p):
        names = re.findall(r"\(([A-Za-z]\w*)\)", p.code[t.start:end.end]) if t.text == "\\node" else ()
        if any(len(re.findall(rf"\b{name}\b", p.code)) > 1 for name in names):
            continue  # others refer to it
        start, stop = p.code.rfind("\n", 0, t.start) + 1, p.code.find("\n", end.end) + 1
        whole_line = not p.code[start:t.start].strip() and not re.sub("%.*", "", p.code[end.end:stop]).strip()
        yield [(start, stop, "") if whole_line else (t.start, end.end, "")]

def latex_scale(rng, p):
    for a, b, text, _ in options(p):
        if re.match(r"([xy]?scale|[xyz]|rotate|[xy]?shift|width|height|node distance|text width|font)\s*=", text) and (m := re.search(r"\d+\.?\d*", text)):
            yield [(a + m.start(), a + m.end(), scaled(rng, m[0]))]
    for m in re.finditer(r"\\begin\{tikzpicture\}(\s*\[)?", p.code):
        new = rng.choice(("scale=0.7", "scale=1.4", "xscale=1.3", "yscale=0.7"))
        yield [(m.end(), m.end(), new + ", " if m[1] else f"[{new}]")]

def latex_option(rng, p):
    """An option forgotten, or its number misread."""
    for a, b, text, o in options(p):
        if o.body or o.text == "{":
            comma = re.compile(r"\s*,\s*").match(p.code, b)  # a blank line must not be left
            if text and "style" not in text and comma:
                yield [(a, comma.end(), "")]
            yield from ([(a + m.start(), a + m.end(), scaled(rng, m[0]))] for m in re.finditer(r"(?<![\w!#\\])\d+\.?\d*", text) if "=" in text)

def latex_place(rng, p):
    """On the other side: above, below, left, right, north, ..."""
    for t in p.tokens:
        for pair in (("above", "below"), ("left", "right"), ("north", "south"), ("east", "west")):
            if t.text in pair and t.drawn and not t.math and any(o.text in "[(" for o in enclosing(t)):
                yield [(t.start, t.end, other(rng, t.text, pair))]

def latex_math(rng, p):
    """A number, letter or operator of a formula misread."""
    for t in p.tokens:
        o = t.opener
        named = o and o.before and re.fullmatch(r"\\(text\w*|begin|end|math\w+|operatorname|label|color|usepackage|documentclass|[mhv]\w+)", o.before.text)
        if t.math and t.body and not named:
            if t.kind == "number":
                yield [(t.start, t.end, other(rng, t.text, [str(int(float(t.text)) + d) for d in (1, 2, 7)]))]
            elif t.kind == "word":
                i = rng.randrange(len(t.text))
                yield [(t.start + i, t.start + i + 1, other(rng, t.text[i], "abxyzn" if t.text[i].islower() else "ABXYZN"))]
            elif t.text in GREEK or t.text in "+-=<>" or t.text in "^_":
                group = GREEK if t.text in GREEK else "+-=<>" if t.text in "+-=<>" else "^_"
                yield [(t.start, t.end, other(rng, t.text, group))]

def latex_library(rng, p):
    """Fails: a package or library forgotten that is needed."""
    yield from ([(m.start(), m.end(), "")] for m in re.finditer(r"\\use(?:tikzlibrary|package|pgfplotslibrary)(?:\[[^\]]*\])?\{[^}]*\}\n?", p.code))

def latex_brace(rng, p):
    """Fails."""
    yield from ([(t.start, t.end, "")] for t in p.tokens if t.text in ("{", "}"))

def latex_command(rng, p):
    """Fails."""
    yield from ([(t.start + 1, t.end, misspelt(rng, t.text[1:]))] for t in p.tokens if t.kind == "command" and len(t.text) > 3 and t.body and t.text[-1].isalpha())


LATEX = (latex_colour, latex_coordinate, latex_text, latex_arrow, latex_line, latex_dropped, latex_scale, latex_option,
         latex_place, latex_math, latex_library, latex_brace, latex_command)
