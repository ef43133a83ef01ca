"""Defects of LaTeX, by the tokens of the source. What an operator is: defects.py."""
import re
from functools import lru_cache
from types import SimpleNamespace

from mistakes import COLOURS, NUMBER, WORDS, misspelt, other, scaled

TEX = re.compile(r"(?P<comment>%[^\n]*)|(?P<command>\\(?:[a-zA-Z@]+\*?|.))|(?P<number>\d+\.?\d*|\.\d+)"
                 r"|(?P<word>[A-Za-z]+)|(?P<space>\s+)|(?P<mark>.)", re.S)
STATEMENTS = set("\\draw \\node \\fill \\path \\filldraw \\addplot \\shade \\shadedraw \\pattern".split())
TEX_COLOURS = {*COLOURS, *"yellow white cyan violet olive lime pink darkgray lightgray".split()}
GREEK = """\\alpha \\beta \\gamma \\delta \\theta \\lambda \\mu \\pi \\rho \\sigma \\phi \\psi \\omega \\epsilon
    \\varphi""".split()
OPENER = {"}": "{", "]": "[", ")": "("}
WIDTHS = ("thin", "thick", "very thick", "ultra thick", "ultra thin", "very thin", "semithick")
DASHES = ("dashed", "dotted", "solid", "densely dashed")


@lru_cache(8)
def latex(code):
    """-> code and its tokens, comments left out: kind, text, start, end and

    before: the token before, without spaces; opener: the token that opens the group it is in, or None; of those that
    open one, partner and items; math, drawn (in a tikzpicture), body: is it in there?
    """
    tokens, stack, math, environments, dollar = [], [], False, [], False
    body, last = code.find("\\begin{document}"), None
    for m in TEX.finditer(code):
        t = SimpleNamespace(kind=m.lastgroup, text=m[0], start=m.start(), end=m.end(),
                            before=last, partner=None, items=[])
        opener = OPENER.get(t.text)
        if any(o.text == opener for o in stack) and (t.text == "}" or stack[-1].text == opener):
            while (o := stack.pop()).text != opener:
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
            math = t.text in ("\\[", "\\(")
        dollar ^= t.text == "$"
        formula = any(re.match("equation|align|gather|eqn|math|.*matrix|cases", e) for e in environments)
        t.math = math or dollar or formula
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


# -------------------------------------------------------------------------------------------------- places in a program

def enclosing(t):
    """The tokens that open the groups a token is in, innermost first."""
    while t := t.opener:
        yield t


def options(p):
    """Yields (start, end, text, opener) of the items of option lists: [...] and {...} after `style=`."""
    named = re.compile(r"(style\s*=|\\tikzset|\\pgfplotsset)\s*$")
    for o in p.tokens:
        style = o.text == "{" and named.search(p.code[max(0, o.start - 20):o.start])
        if o.partner and (o.text == "[" and not o.math or style) and o.start < o.partner.start:
            edges = [o.end - 1, *(t.start for t in o.items if t.text == "," and t.opener is o), o.partner.start]
            for a, b in zip(edges, edges[1:]):
                text = p.code[a + 1:b]
                start = a + 1 + len(text) - len(text.lstrip())
                yield start, start + len(text.strip()), text.strip(), o


def statements(p, names=STATEMENTS):
    """Yields (command, its semicolon), both tokens, of the paths and nodes of pictures."""
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
        if bracket:
            yield [(bracket.partner.start, bracket.partner.start, ", " + new)]
        else:
            yield [(t.end, t.end, f"[{new}]")]


def replaced(t, new):
    """The edit that writes another token."""
    return [(t.start, t.end, new)]


def rescaled(rng, start, number):
    """The edit that misreads a number, a match in a text that begins at `start`."""
    return [(start + number.start(), start + number.end(), scaled(rng, number[0]))]


# ------------------------------------------------------------------------------------------------------------ operators

def latex_colour(rng, p):
    """A wrong colour in options or a colour command; a drawn path or node gets another one. No edit without any."""
    commands = ("\\color", "\\textcolor", "=", "\\pagecolor", "\\tikzset", "\\colorbox")
    for t in p.tokens:
        if t.kind == "word" and t.text in TEX_COLOURS:
            if any(o.text == "[" or o.before and o.before.text in commands for o in enclosing(t)):
                yield replaced(t, other(rng, t.text, COLOURS))
    yield from styled(rng, p, COLOURS, STATEMENTS - {"\\path"})


def latex_coordinate(rng, p):
    """A coordinate or its angle misread, within pictures. No edit without numbers in (x,y) or (angle:radius)."""
    for t in p.tokens:
        before, o = p.code[t.start - 1], t.opener
        place = t.drawn and not t.math and o and o.text == "(" and any(u.text in ",:" for u in o.items)
        if place and t.kind == "number" and before in " (,:*+-":
            if p.code[t.end:t.end + 1] == ":":  # the angle of polar ones
                new = float(t.text) + rng.choice((20, 45, 90))
            else:
                new = float(t.text) + rng.choice((-1, 1)) * rng.choice((0.4, 0.8, 1.5)) * max(1, float(t.text) / 4)
            new = -new if before == "-" else new
            yield [(t.start - (before == "-"), t.end, f"{new:.2f}".rstrip("0").rstrip("."))]


def latex_text(rng, p):
    """A word of a node, a label or a paragraph."""
    labels = re.compile(r"(\bnode\b[^{};]*|(title|label|legend)\s*=\s*)$")
    commands = re.compile(r"\\(legend|addlegendentry|text\w*|emph|section\*?|caption|title|scriptsize|small"
                          r"|footnotesize|item)")
    for t in p.tokens:
        o = t.opener
        if t.kind == "word" and t.body and not t.math and not any(e.text != "{" for e in enclosing(t)):
            label = t.drawn and o and labels.search(p.code[max(0, o.start - 300):o.start])
            named = o and o.before and commands.fullmatch(o.before.text)
            prose = not o and not t.drawn and len(t.text) > 2
            if label or named or prose:
                yield replaced(t, other(rng, t.text, WORDS if len(t.text) > 1 else "ABCXYZ"))


def latex_arrow(rng, p):
    """An arrow turned round, of another kind, or a plain line."""
    for a, b, text, _ in options(p):
        if re.fullmatch(r"[\w.>|<']*-[\w.>|<']*", text) and re.search(r"[<>|]|(?i:stealth|latex|to\b)", text):
            yield [(a, b, other(rng, text, ("->", "<-", "-", "<->")))]


def latex_line(rng, p):
    """A line of another width or dash; paths and plots get one more option. No edit without any."""
    for a, b, text, _ in options(p):
        for group in (WIDTHS, DASHES):
            if text in group:
                yield [(a, b, other(rng, text, group))]
        if re.match(r"line width\s*=", text) and (m := NUMBER.search(text)):
            yield rescaled(rng, a, m)
    yield from styled(rng, p, ("dashed", "dotted", "ultra thick"), {"\\draw", "\\addplot", "\\filldraw"})


def latex_dropped(rng, p):
    """A path or node forgotten. No edit for a named node that others refer to, nor without a semicolon."""
    for t, end in statements(p):
        names = re.findall(r"\(([A-Za-z]\w*)\)", p.code[t.start:end.end]) if t.text == "\\node" else ()
        if any(len(re.findall(rf"\b{name}\b", p.code)) > 1 for name in names):
            continue  # others refer to it
        start, stop = p.code.rfind("\n", 0, t.start) + 1, p.code.find("\n", end.end) + 1
        whole_line = not p.code[start:t.start].strip() and not re.sub("%.*", "", p.code[end.end:stop]).strip()
        yield [(start, stop, "") if whole_line else (t.start, end.end, "")]


def latex_scale(rng, p):
    """A number misread that scales, turns, shifts or sizes; pictures get a scale. No edit without any."""
    sizes = re.compile(r"([xy]?scale|[xyz]|rotate|[xy]?shift|width|height|node distance|text width|font)\s*=")
    for a, _, text, _ in options(p):
        if sizes.match(text) and (m := re.search(r"\d+\.?\d*", text)):
            yield rescaled(rng, a, m)
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
            if "=" in text:
                yield from (rescaled(rng, a, m) for m in re.finditer(r"(?<![\w!#\\])\d+\.?\d*", text))


def latex_place(rng, p):
    """Something on the other side: above and below, left and right, north and south, east and west."""
    for t in p.tokens:
        for pair in (("above", "below"), ("left", "right"), ("north", "south"), ("east", "west")):
            if t.text in pair and t.drawn and not t.math and any(o.text in "[(" for o in enclosing(t)):
                yield replaced(t, other(rng, t.text, pair))


def latex_math(rng, p):
    """A number, letter or operator of a formula misread."""
    commands = re.compile(r"\\(text\w*|begin|end|math\w+|operatorname|label|color|usepackage|documentclass|[mhv]\w+)")
    for t in p.tokens:
        o = t.opener
        if not t.math or not t.body or o and o.before and commands.fullmatch(o.before.text):
            continue
        if t.kind == "number":
            yield replaced(t, other(rng, t.text, [str(int(float(t.text)) + d) for d in (1, 2, 7)]))
        elif t.kind == "word":
            i = rng.randrange(len(t.text))
            new = other(rng, t.text[i], "abxyzn" if t.text[i].islower() else "ABXYZN")
            yield [(t.start + i, t.start + i + 1, new)]
        else:
            for group in (GREEK, "+-=<>", "^_"):
                if t.text in group:
                    yield replaced(t, other(rng, t.text, group))


def latex_library(rng, p):
    """Fails: a package or library forgotten that is needed."""
    uses = r"\\use(?:tikzlibrary|package|pgfplotslibrary)(?:\[[^\]]*\])?\{[^}]*\}\n?"
    return ([(m.start(), m.end(), "")] for m in re.finditer(uses, p.code))


def latex_brace(rng, p):
    """Fails: a brace forgotten."""
    return (replaced(t, "") for t in p.tokens if t.text in ("{", "}"))


def latex_command(rng, p):
    """Fails: a command misspelt."""
    for t in p.tokens:
        if t.kind == "command" and len(t.text) > 3 and t.body and t.text[-1].isalpha():
            yield [(t.start + 1, t.end, misspelt(rng, t.text[1:]))]


LATEX = (latex_colour, latex_coordinate, latex_text, latex_arrow, latex_line, latex_dropped, latex_scale, latex_option,
         latex_place, latex_math, latex_library, latex_brace, latex_command)
