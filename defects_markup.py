"""Defects of pages and SVG, by the elements of the source and its CSS declarations. What an operator is: defects.py."""
import re
from functools import lru_cache
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.parsers import expat

import tinycss2

from mistakes import COLOURS, NUMBER, is_colour, misspelt, other, recoloured, reworded, scaled

SHAPES = ("g", "path", "rect", "circle", "ellipse", "polygon", "text", "use")
VOID = set("area base br col embed hr img input link meta source track wbr".split())
HIDDEN = ("head", "defs", "clipPath", "style", "script", "title", "meta", "link")
ATTRIBUTE = re.compile(r"""\s([^\s=/>"']+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>"']+))?""")


# -------------------------------------------------------------------------------------------------------------- parsing

def tree_of(code, events):
    """Events (kind, tag, start, end) in order -> code, elements and styles (the CSS declarations).

    An element: tag, parent, children; start; named, opened: the ends of the tag's name and of the start tag; closing,
    end: start and end of the end tag; end is None for an element that is never closed. attributes: {name: (start, end,
    start of the value, its end)}.
    """
    root = SimpleNamespace(tag="", children=[], parent=None, end=None, opened=0, closing=len(code), attributes={})
    stack, elements = [root], []
    for kind, tag, start, end in events:
        if kind == "end":
            if any(e.tag == tag for e in stack[1:]):
                while (element := stack.pop()).tag != tag:
                    pass
                element.closing, element.end = start, end
            continue
        element = SimpleNamespace(tag=tag, start=start, named=start + 1 + len(tag), opened=end, closing=end,
                                  end=None if kind == "start" else end, parent=stack[-1], children=[], attributes={})
        for m in ATTRIBUTE.finditer(code, element.named, end):
            value = m.end(), m.end()
            if m[2]:
                quote = m[2][0] in "\"'"
                value = m.start(2) + quote, m.end() - quote
            element.attributes.setdefault(m[1].lower(), (m.start(), m.end(), *value))
        stack[-1].children.append(element)
        elements.append(element)
        if kind == "start":
            stack.append(element)
    styles = []
    for e in elements:
        if e.tag == "style" and e.end:
            styles += declarations(code, e.opened, e.closing)
        if "style" in e.attributes:
            styles += declarations(code, *e.attributes["style"][2:])
    return SimpleNamespace(code=code, elements=elements, styles=styles)


def declarations(code, start, end):
    """The CSS declarations in a part of the code: name, start, end (past the semicolon), tokens [(token, start, end)].

    Those of :hover, print and keyframes are left out: no picture shows them.
    """
    css, found = code[start:end], []
    starts = [0] + [m.end() for m in re.finditer("\r\n|[\n\r\f]", css)]  # as CSS counts lines
    place = lambda node: start + starts[node.source_line - 1] + node.source_column - 1

    def tokens(values):
        for t in values:
            text = t.serialize()
            if t.type not in ("whitespace", "comment") and code.startswith(text, place(t)):
                yield t, place(t), place(t) + len(text)
            if t.type == "function":
                yield from tokens(t.arguments)

    def shown(node):
        prelude = tinycss2.serialize(node.prelude)
        if node.type == "qualified-rule":
            return not re.search(":(hover|focus|active|visited|disabled)", prelude)
        return node.content and node.lower_at_keyword in ("media", "supports", "layer") and "print" not in prelude

    def visit(nodes):
        for node in nodes:
            if node.type == "declaration" and (parts := list(tokens(node.value))):
                last = max(e for _, _, e in parts)
                tail = re.compile(r"\s*(?:!\s*important\s*)?;?").match(code, last, end)
                found.append(SimpleNamespace(name=node.lower_name, start=place(node), end=tail.end(), tokens=parts))
            elif node.type in ("qualified-rule", "at-rule") and shown(node):
                visit(tinycss2.parse_blocks_contents(node.content))

    visit(tinycss2.parse_blocks_contents(css))
    return found


@lru_cache(8)
def html(code):
    """-> `tree_of` a page. Raises AssertionError for a declaration that html.parser does not know."""
    parser, events = HTMLParser(convert_charrefs=False), []
    starts = [0] + [m.end() for m in re.finditer("\n", code)]
    here = lambda: starts[parser.getpos()[0] - 1] + parser.getpos()[1]

    def opens(kind):
        return lambda tag, _: events.append(
            ("empty" if tag in VOID else kind, tag, here(), here() + len(parser.get_starttag_text())))

    parser.handle_starttag, parser.handle_startendtag = opens("start"), opens("empty")
    parser.handle_endtag = lambda tag: events.append(("end", tag, here(), code.find(">", here()) + 1))
    parser.feed(code)
    return tree_of(code, events)


@lru_cache(8)
def svg(code):
    """-> `tree_of` a drawing. Raises ExpatError where the code is no XML, ValueError where it declares entities."""
    raw, events, parser = code.encode(), [], expat.ParserCreate("utf-8")

    def here():  # expat counts bytes
        byte = parser.CurrentByteIndex
        return byte if len(raw) == len(code) else len(raw[:byte].decode())

    def start(tag, _):
        end = re.compile(r"""(?:[^>"']|"[^"]*"|'[^']*')*>""").match(code, here()).end()
        events.append(("empty" if code[end - 2] == "/" else "start", tag, here(), end))

    def end(tag):
        if code.startswith("</", here()):
            events.append(("end", tag, here(), code.find(">", here()) + 1))

    def refuse(*_):
        raise ValueError("entities")

    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, refuse
    parser.Parse(raw, True)
    return tree_of(code, events)


# -------------------------------------------------------------------------------------------------- places in a program

def valued(t, pattern):
    """[(start, end, text)] of the attribute values whose names match."""
    found = [v[2:] for e in t.elements for name, v in e.attributes.items() if re.fullmatch(pattern, name)]
    return [(a, b, t.code[a:b]) for a, b in found if a < b]


def attribute_numbers(t, pattern):
    """[(start, end, digits)] of the numbers in the attributes that match."""
    return [(a + m.start(), a + m.end(), m[0]) for a, _, text in valued(t, pattern) for m in NUMBER.finditer(text)]


def css_numbers(rng, t, pattern):
    """The edits that misread a number of the declarations whose names match."""
    found = [(a, token) for d in t.styles if re.fullmatch(pattern, d.name) for token, a, _ in d.tokens]
    return [[(a, a + len(token.representation), scaled(rng, token.representation))] for a, token in found
            if token.type in ("dimension", "percentage", "number") and token.value]


def css_words(rng, t, pattern, *groups):
    """The edits that exchange a keyword for another one of its group."""
    places = [(a, b, t.code[a:b]) for d in t.styles if re.fullmatch(pattern, d.name) for _, a, b in d.tokens]
    return [[(a, b, other(rng, word, group.split()))] for a, b, word in places for group in groups
            if word in group.split()]


def whole(elements):
    """Those of the elements that are drawn and closed: not what HIDDEN holds, nor the whole page or SVG."""
    no_node = (*HIDDEN, "html", "body", "svg")
    return [e for e in elements if e.end and e.tag not in no_node and e.parent.tag not in HIDDEN]


def bare(t, *names):
    """The shapes of an SVG that have none of these attributes."""
    return [e for e in whole(t.elements) if e.tag in SHAPES and not {*names} & set(e.attributes)]


def given(element, text):
    """The edit that gives an element an attribute."""
    return [(element.named, element.named, f" {text}")]


# -------------------------------------------------------------------------------------------------------- pages and SVG

def node_dropped(rng, t):
    """An element forgotten with all that is in it. No edit where none is drawn and closed."""
    return ([(e.start, e.end, "")] for e in whole(t.elements))


def node_duplicated(rng, t):
    """An element twice, one behind the other. No edit where none is drawn and closed."""
    return ([(e.end, e.end, "\n" + t.code[e.start:e.end])] for e in whole(t.elements))


def node_swapped(rng, t):
    """Two neighbours exchanged: in SVG what is in front, in HTML what comes first."""
    for e in t.elements:
        nodes = whole(e.children)
        for a, b in zip(nodes, nodes[1:]):
            yield [(a.start, a.end, t.code[b.start:b.end]), (b.start, b.end, t.code[a.start:a.end])]


def node_text(rng, t):
    """A text misread. No edit without text, or where it holds entities."""
    for e in whole(t.elements):
        if all(c.end for c in e.children):
            edges = [e.opened, *(x for c in e.children for x in (c.start, c.end)), e.closing]
            for a, b in zip(edges[::2], edges[1::2]):
                text = t.code[a:b].strip()
                if re.search(r"\w", text) and not re.search("[<>&]", text):
                    at = t.code.index(text, a)
                    yield [(at, at + len(text), reworded(rng, text))]


def node_colour(rng, t):
    """A wrong colour, of a CSS declaration or an attribute; an SVG shape without one gets one."""
    for d in t.styles:
        if re.search("color|background|border|fill|stroke|shadow|outline|^--", d.name):
            for token, a, b in d.tokens:
                if token.type in ("hash", "ident", "function") and is_colour(t.code[a:b]):
                    yield [(a, b, recoloured(rng, t.code[a:b]))]
    for a, b, text in valued(t, "fill|stroke|stop-color|flood-color|bgcolor|color"):
        if is_colour(text) or text == "currentColor":
            yield [(a, b, recoloured(rng, text))]
    for e in bare(t, "fill", "class", "style", "stroke"):
        up = e
        while up.parent and not {"stroke", "style"} & set(up.attributes):
            up = up.parent
        yield given(e, f'{"stroke" if "stroke" in up.attributes else "fill"}="{rng.choice(COLOURS)}"')


def node_attribute(rng, t):
    """An attribute forgotten."""
    kept = ("lang|charset|name|content|rel|http-equiv|xmlns.*|viewbox|version|data-.*|aria-.*|id|on.*|type|href|alt|"
            "title|d|points|width|height|method|action|for")
    for e in t.elements:
        if e.tag not in ("meta", "link", "script", "html"):
            for name, (a, b, *_) in e.attributes.items():
                if not re.fullmatch(kept, name) and (name != "class" or t.styles):
                    yield [(a, b, "")]


# ---------------------------------------------------------------------------------------------------------------- pages

def web_font_size(rng, t):
    """Type, its lines or its spacing larger or smaller. No edit where the CSS gives no such number."""
    return css_numbers(rng, t, "font-size|font|line-height|letter-spacing")


def web_font_style(rng, t):
    """Another weight, slant, case or family, or another element, as p for h3. No edit without any of these."""
    yield from css_words(rng, t, "font.*|text.*", "bold normal", "600 400", "700 400", "500 800", "italic normal",
                         "uppercase none lowercase", "underline none", "sans-serif serif monospace")
    others = {"h1": "h3", "h2": "h4", "h3": "p", "strong": "span", "b": "span", "p": "h3", "em": "span"}
    for e in whole(t.elements):
        if new := others.get(e.tag):
            yield [(e.start + 1, e.named, new), (e.closing + 2, e.closing + 2 + len(e.tag), new)]


def web_spacing(rng, t):
    """A margin, padding, gap or offset misread. No edit where the CSS gives none but 0."""
    names = "(margin|padding)(-.*)?|gap|row-gap|column-gap|border-spacing|top|left|right|bottom|inset"
    return css_numbers(rng, t, names)


def web_layout(rng, t):
    """Another direction, alignment or position of boxes and text."""
    yield from css_words(rng, t, "flex.*|display", "row column", "flex block", "grid block", "inline-block block",
                         "wrap nowrap", "inline-flex block", "none block")
    yield from css_words(rng, t, "justify-.*|align-.*|place-.*", "center flex-start flex-end",
                         "space-between center flex-start", "space-around flex-start")
    yield from css_words(rng, t, "text-align|float|position|vertical-align", "left right center", "absolute static",
                         "relative static", "top bottom middle")


def web_width(rng, t):
    """A width, height, flex or number of columns misread, in CSS or attributes. No edit without any."""
    yield from css_numbers(rng, t, "(max-|min-)?(width|height)|flex-basis|flex|grid-template-columns")
    for a, b, text in valued(t, "width|height|colspan|rowspan|cols|rows"):
        if NUMBER.fullmatch(text):
            yield [(a, b, scaled(rng, text))]


def web_border(rng, t):
    """A border of another width, radius or style. No edit where the CSS has none."""
    yield from css_numbers(rng, t, "border.*|outline")
    yield from css_words(rng, t, "border.*", "solid dashed dotted")


def web_declaration(rng, t):
    """A declaration forgotten."""
    return ([(d.start, d.end, "")] for d in t.styles if not re.match("transition|animation|cursor|outline|-", d.name))


def web_class(rng, t):
    """One of an element's classes misspelt or forgotten."""
    for a, b, text in valued(t, "class"):
        word = rng.choice(text.split() or ["x"])
        at = a + text.index(word) if word in text else a
        yield [(at, at + len(word), other(rng, word, (misspelt(rng, word), word + "s", "")))]


def web_unclosed(rng, t):
    """An end tag forgotten: what follows moves into the element. No edit where no drawn element has one."""
    return ([(e.closing, e.end, "")] for e in whole(t.elements) if e.closing < e.end)


# ------------------------------------------------------------------------------------------------------------------ SVG

def set_apart(t, a, b, text):
    """The part of an edit that writes a number, not run together with its neighbours.

    In a path, 7.6-1.5 and 1.5.5 are two numbers each.
    """
    before = " " if re.match(r"[\d.]", t.code[a - 1]) and text[0] != "-" else ""
    return a, b, before + text + (" " if re.match(r"[\d.]", t.code[b]) else "")


def view_box(text):
    """The numbers of a view box: [x, y, width, height], [] where these are not four."""
    box = [float(n) for n in NUMBER.findall(text)]
    return box if len(box) == 4 else []


def canvas(t):
    """The longer side of an SVG: of its view box, else the largest width or height in it, else 100."""
    boxes = [view_box(text) for _, _, text in valued(t, "viewbox")[:1]]
    if boxes and boxes[0]:
        return max(boxes[0][2:])
    return max([float(n) for _, _, n in attribute_numbers(t, "width|height")] or [100])


def svg_stroke_width(rng, t):
    """A line thicker or thinner. No edit where no stroke-width is given."""
    for a, b, n in attribute_numbers(t, "stroke-width"):
        yield [(a, b, scaled(rng, n))]
    yield from css_numbers(rng, t, "stroke-width")


def svg_transform(rng, t):
    """A number of a transform misread; a shape without one is moved, shrunk or turned. No edit without either."""
    for a, b, n in attribute_numbers(t, "transform|gradienttransform"):
        yield [set_apart(t, a, b, scaled(rng, n))]
    side = canvas(t) / 8
    moves = (f"translate({side:g} 0)", f"translate(0 {-side:g})", "scale(0.8)", "rotate(15)")
    for e in bare(t, "transform"):
        yield given(e, f'transform="{rng.choice(moves)}"')


def svg_viewbox(rng, t):
    """A view box moved by an eighth, or larger or smaller. No edit where there is none."""
    for a, b, text in valued(t, "viewbox"):
        if box := view_box(text):
            x, y, w, h = box
            k = rng.choice((0.7, 0.8, 1.25, 1.5))
            new = rng.choice(((x + w / 8, y, w, h), (x, y - h / 8, w, h), (x, y, w * k, h * k)))
            yield [(a, b, " ".join(f"{v:g}" for v in new))]


def svg_coordinate(rng, t):
    """A number moved by 6 to 25 % of the canvas."""
    side = canvas(t)
    for a, b, n in attribute_numbers(t, "x|y|cx|cy|x1|x2|y1|y2|width|height|points|d"):
        new = float(n) + rng.choice((-1, 1)) * rng.uniform(0.06, 0.25) * side
        yield [set_apart(t, a, b, f"{new:.{min(3, len(n.partition('.')[2]))}f}")]


def svg_radius(rng, t):
    """A circle, ellipse or rounded corner of another radius. No edit where no radius is given."""
    return ([(a, b, scaled(rng, n))] for a, b, n in attribute_numbers(t, "r|rx|ry"))


def svg_opacity(rng, t):
    """Another opacity; a shape without one gets 0.4. No edit where there is neither."""
    for a, b, n in attribute_numbers(t, ".*opacity"):
        yield [(a, b, other(rng, n, ("0.3", "0.6", "1")))]
    for e in bare(t, "opacity"):
        yield given(e, 'opacity="0.4"')


def svg_rounded(rng, t):
    """All decimals of a path rounded away."""
    for a, b, text in valued(t, "d|points|transform"):
        def rounded(m):
            joined = text[m.start() - 1:m.start()] in list(".0123456789")  # 1.5.5 are two numbers
            return m[0] if "." not in m[0] else " " * (joined and float(m[0]) >= -0.5) + str(round(float(m[0])))
        yield [(a, b, NUMBER.sub(rounded, text))]


def svg_path(rng, t):
    """A part of a path forgotten, or an absolute command taken for a relative one."""
    for a, _, text in valued(t, "d"):
        letters = re.sub("[eE](?=[-+]?\\d)", "0", text)  # but those of exponents
        commands = [(m.start(), m.end()) for m in re.finditer(r"[a-zA-Z][^a-zA-Z]*", letters)][1:]
        commands = [(s, e) for s, e in commands if text[s] not in "zZ"]
        yield from ([(a + s, a + e, "")] for s, e in commands)
        yield from ([(a + s, a + s + 1, text[s].swapcase())] for s, _ in commands)


def svg_unclosed(rng, t):
    """Fails: an end tag, or the slash of an empty element, forgotten."""
    for e in t.elements:
        if e.end:
            yield [(e.closing, e.end, "")] if e.closing < e.end else [(e.end - 2, e.end - 1, "")]


def svg_unquoted(rng, t):
    """Fails: the closing quote of an attribute forgotten."""
    return ([(b - 1, b, "")] for e in t.elements for _, b, _, end in e.attributes.values() if end < b)


WEB = (node_colour, node_dropped, node_duplicated, node_swapped, node_text, node_attribute, web_font_size,
       web_font_style, web_spacing, web_layout, web_width, web_border, web_declaration, web_class, web_unclosed)
SVG = (node_colour, node_dropped, node_swapped, node_text, node_attribute, svg_stroke_width, svg_transform, svg_viewbox,
       svg_coordinate, svg_radius, svg_opacity, svg_rounded, svg_path, svg_unclosed, svg_unquoted)
