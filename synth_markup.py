"""Procedural pages and SVG drawings."""
import math
import re

from words import WORDS, colours, phrase, sentences, tint

# ---------------------------------------------------------------------------------------------------------------- web

def page_body(rng, rich, n):
    """The elements of a page. All sections are written and some are taken; n: cards in a row."""
    many = lambda low, high, make: "\n".join("  " + make() for _ in range(rng.randint(low, high)))
    title = lambda: f"<h2>{phrase(rng, rng.randint(2, 3))}</h2>"
    badge = lambda: f'<span class="badge">{rng.choice(WORDS)}</span>'
    button = lambda kind="button": f'<a class="{kind}">{phrase(rng, rng.randint(1, 2))}</a>'
    item = lambda: f"<li>{phrase(rng, 3)}</li>"
    meter = lambda: f'<p class="meter"><span>{phrase(rng, 1)}</span><b style="width:{rng.randint(10, 70)}%"></b></p>'

    def field():
        kind = rng.choice(("text", "email", "number"))
        return f'type="{kind}" placeholder="{phrase(rng)}"'

    def row():
        cells = f"<td>{phrase(rng)}</td><td>{rng.randint(10, 9999)}</td><td>{rng.choice(WORDS)}</td>"
        return f"<tr>{cells}<td>{badge() if rich else rng.randint(1, 99)}</td></tr>"

    def card():
        picture = f'<div class="picture" style="background:{tint(rng, 0.85, 0.4)}"></div>' if rich else ""
        text = f"<h3>{phrase(rng)}</h3><p>{sentences(rng, 1)}</p>"
        return f'<article class="card">{picture}{text}{rng.choice(("", badge(), button("button small")))}</article>'

    def figure():
        number = f"<strong>{rng.randint(2, 980)}{rng.choice('%+k')}</strong>"
        return f'<div class="figure">{number}<br>{phrase(rng)}</div>'

    sections = [
        f'<section>{title()}<div class="grid">\n{many(n, n, card)}\n</div></section>',
        f'<section>{title()}<table><tr>{"".join(f"<th>{phrase(rng, 1)}</th>" for _ in range(4))}</tr>\n'
        f"{many(3, 6, row)}\n</table></section>",
        f"<section>{title()}<form>\n{many(1, 2 + rich, lambda: f'<label>{phrase(rng)}<input {field()}></label>')}\n"
        f"  <label>{phrase(rng)}<select><option>{phrase(rng)}</option></select></label>\n"
        f'  <button class="button">{phrase(rng, 1)}</button>\n</form></section>',
        f"<section>{title()}<p>{sentences(rng, 3)}</p><ul>\n{many(3, 5, item)}\n</ul></section>",
        f'<section><div class="grid">\n{many(n, n, figure)}\n</div></section>',
        f"<section>{title()}\n{many(3, 5, meter)}\n</section>",
        f'<section class="columns"><div>{title()}<p>{sentences(rng, 3)}</p></div>'
        f"<aside><h3>{phrase(rng)}</h3><ul>\n{many(3, 5, item)}\n</ul></aside></section>",
        f"<blockquote>{sentences(rng, 2)}<cite>{phrase(rng)}</cite></blockquote>"]
    head = (f"<header><h1>{phrase(rng, rng.randint(2, 4))}</h1><p>{sentences(rng, 1)}</p>"
            f"{button() + ' ' + button('ghost') if rich else ''}</header>")
    if rich:
        links = f"<b>{phrase(rng, 1)}</b>" + "".join(f"<span>{phrase(rng, 1)}</span>" for _ in range(rng.randint(2, 4)))
        head = f"<nav>{links}</nav>\n" + rng.choice((head, head, f"<main>{title()}</main>"))
    chosen = rng.sample(sections, rng.randint(2, 4) if rich else rng.randint(1, 2))
    foot = f"<footer><span>{phrase(rng, 3)}</span><span>{phrase(rng)}</span></footer>"
    return "\n".join([head, *chosen, foot])


def page_rules(rng, rich, n, radius, gap, main, accent, ink, pale):
    """The style sheet: [(names of elements or classes, or one of them, their declarations)]."""
    bar = rng.choice((10, 14, 18)), rng.choice((pale, "#ffffff", ink))
    banner = f"padding: {rng.randint(12, 60)}px 32px; color: white; text-align: {rng.choice(('left', 'center'))};"
    fill = main
    if rich:
        fill = rng.choice((main, f"linear-gradient({rng.choice((90, 135, 180))}deg, {main}, {accent})"))
    return [
        ("nav", f"display: flex; align-items: center; gap: 20px; padding: {bar[0]}px 32px; background: {bar[1]}; "
                f"color: {accent};"),
        ("nav b", "margin-right: auto; font-size: 20px;"),
        ("header", f"{banner} background: {fill};"),
        ("header h1", f"margin: 0; font-size: {rng.choice((28, 36, 44))}px;"),
        ("main", "padding: 16px 32px 0;"),
        ("section", f"padding: {rng.choice((12, 20, 28))}px 32px;"),
        ("h2", f"margin: 0 0 12px; color: {main};"),
        ("h3", "margin: 6px 0;"),
        ("grid", f"display: grid; grid-template-columns: repeat({n}, 1fr); gap: {gap}px;"),
        (("card", "figure", "form", "aside"),
         f"background: white; border: {rng.choice((1, 1, 2))}px solid {tint(rng, 0.85, 0.2)}; "
         f"border-radius: {radius}px; padding: 14px;"
         + rng.choice(("", " box-shadow: 0 2px 8px rgba(0, 0, 0, 0.15);"))),
        ("figure", "text-align: center;"),
        ("figure strong", f"font-size: 30px; color: {accent};"),
        ("picture", f"height: {rng.choice((40, 70, 100))}px; border-radius: {radius}px;"),
        ("form", f"max-width: {rng.choice((360, 420, 520))}px;"),
        ("label", "display: block; margin-bottom: 10px;"),
        (("input", "select"), f"display: block; box-sizing: border-box; width: 100%; padding: 7px; "
                              f"border: 1px solid {main}; border-radius: {radius // 2}px;"),
        ("button", f"display: inline-block; padding: 8px 18px; border: 0; border-radius: {rng.choice((radius, 20))}px; "
                   f"background: {accent}; color: white; font: inherit;"),
        ("ghost", "display: inline-block; padding: 6px 16px; border: 2px solid white;"),
        ("small", "padding: 3px 10px; font-size: 13px;"),
        ("badge", f"background: {tint(rng, 0.95, 0.2)}; padding: 2px 8px; border-radius: 10px; font-size: 12px;"),
        ("table", "width: 100%; border-collapse: collapse; background: white;"),
        ("th", f"background: {main}; color: white;"),
        (("th", "td"), f"padding: {rng.choice((6, 8, 10))}px; text-align: left; "
                       f"border-bottom: 1px solid {tint(rng, 0.8, 0.1)};"),
        ("meter", "display: flex; align-items: center; margin: 6px 0;"),
        ("meter span", "width: 110px;"),
        ("meter b", f"height: {rng.choice((10, 14, 18))}px; background: {accent};"),
        ("columns", f"display: flex; gap: {gap}px;"),
        ("columns div", f"flex: {rng.choice((1, 2))};"),
        ("aside", "flex: 1;"),
        ("blockquote", f"margin: 20px 32px; padding: 12px 20px; border-left: 5px solid {accent}; background: white; "
                       "font-style: italic;"),
        ("cite", f"display: block; margin-top: 8px; color: {main};"),
        ("footer", f"display: flex; justify-content: space-between; padding: 16px 32px; background: {ink}; "
                   "color: white;")]


def web(rng, rich):
    """A page; its style sheet has the rules that the page uses and no others: what cannot be seen cannot be learned."""
    main, accent = tint(rng, rng.uniform(0.4, 0.7)), tint(rng, 0.75, 0.75)
    ink, pale = tint(rng, 0.2, 0.4), tint(rng, 1, 0.06)
    radius, gap, n = rng.choice((0, 4, 8, 16)), rng.choice((12, 16, 24)), rng.randint(2, 3) + rich
    body = page_body(rng, rich, n)
    rules = page_rules(rng, rich, n, radius, gap, main, accent, ink, pale)
    font = rng.choice(("Arial, sans-serif", "Georgia, serif", "Verdana, sans-serif", "'Courier New', monospace"))
    css = (f"body {{ margin: 0; font-family: {font}; color: {ink}; background: {pale}; "
           f"line-height: {rng.choice((1.4, 1.5, 1.6))}; }}\n")
    for names, rule in rules:
        selectors = []
        for name in (names,) if isinstance(names, str) else names:
            first = name.split()[0]
            is_class = f"<{first}" not in body or name == "button"
            if re.search(rf'<{first}\b|class="[^"]*\b{first}\b', body):
                selectors.append("." * is_class + name)
        if selectors:
            css += f"{', '.join(selectors)} {{ {rule} }}\n"
    return ('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<style>\n{css}</style>\n</head>\n<body>\n{body}\n</body>\n</html>")


# ---------------------------------------------------------------------------------------------------------------- SVG

def simple_svg(rng):
    """4 to 8 shapes, all of them filled or all outlined, in 256 x 256 or 256 x 192 pixels."""
    n, stroke, paints = rng.randint, rng.random() < 0.4, colours(rng, 6)
    far = lambda: n(10, 110)
    lines = []
    for _ in range(n(4, 8)):
        colour = rng.choice(paints)
        paint = f'fill="none" stroke="{colour}" stroke-width="{n(3, 7)}"' if stroke else f'fill="{colour}"'
        x, y = n(8, 80), n(8, 80)
        lines.append("  " + rng.choice((
            f'<rect x="{x}" y="{y}" width="{n(15, 40)}" height="{n(15, 40)}" rx="{n(0, 8)}" {paint}/>',
            f'<circle cx="{x + 15}" cy="{y + 15}" r="{n(8, 22)}" {paint}/>',
            f'<ellipse cx="{x + 15}" cy="{y + 15}" rx="{n(8, 24)}" ry="{n(8, 24)}" {paint}/>',
            f'<polygon points="{x},{y} {n(20, 110)},{n(20, 110)} {n(20, 110)},{n(20, 110)}" {paint}/>',
            f'<path d="M{x} {y} C{far()} {far()} {far()} {far()} {far()} {far()} L{far()} {far()} Z" {paint}/>')))
    height, body = rng.choice((256, 256, 192)), "\n".join(lines)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="256" height="{height}" viewBox="0 0 120 120">\n'
            f"{body}\n</svg>")


# What follows draws on 400 x 300 with the gradients a (linear) and b (radial). n: rng.randint; paint: six colours.

def landscape(rng, n, paint):
    """A sun, two hills, 2 to 5 trees, and in half of them a house."""
    def hill(y, colour):
        return (f'<path d="M0 {y} Q{n(40, 120)} {y - n(30, 80)} 200 {y} T400 {y - n(0, 30)} V300 H0 Z" '
                f'fill="{colour}"/>')

    def tree():
        return (f'<g transform="translate({n(20, 370)} {n(190, 250)}) scale({n(6, 14) / 10})">'
                '<rect x="-4" y="0" width="8" height="24" fill="#7a5230"/>'
                f'<polygon points="-22,4 0,-48 22,4" fill="{paint[2]}"/></g>')

    house = (f'<g transform="translate({n(60, 300)} {n(180, 230)})"><rect width="60" height="44" fill="{paint[3]}"/>'
             f'<path d="M-8 0 L30 -{n(20, 40)} L68 0 Z" fill="{paint[4]}"/>'
             f'<rect x="{n(8, 36)}" y="18" width="14" height="26" fill="#fff3c0"/></g>')
    return "\n".join(['<rect width="400" height="300" fill="url(#a)"/>',
                      f'<circle cx="{n(40, 360)}" cy="{n(35, 90)}" r="{n(15, 36)}" fill="#ffe27a"/>',
                      hill(n(150, 190), paint[1]), hill(n(190, 230), paint[2]),
                      *[tree() for _ in range(n(2, 5))], *[house] * n(0, 1)])


def bars(rng, n, paint):
    """A chart of 4 to 7 bars with their values and words, under a title."""
    count = n(4, 7)
    step, heights = 320 // count, [n(30, 190) for _ in range(count)]
    lines = ['<text x="200" y="32" font-size="20" text-anchor="middle" font-family="sans-serif">'
             f'{phrase(rng)}</text>', '<line x1="40" y1="250" x2="380" y2="250" stroke="black" stroke-width="2"/>',
             '<g font-size="12" font-family="sans-serif" text-anchor="middle">']
    for i, h in enumerate(heights):
        x = 46 + i * step + step // 2
        lines.append(f'<rect x="{50 + i * step}" y="{250 - h}" width="{step - n(6, 12)}" height="{h}" rx="{n(0, 6)}" '
                     f'fill="{rng.choice(("url(#a)", paint[i % 3]))}"/><text x="{x}" y="{244 - h}">{h}</text>'
                     f'<text x="{x}" y="268">{rng.choice(WORDS)[:6]}</text>')
    return "\n".join([*lines, "</g>"])


def flower(rng, n, paint):
    """5 to 12 turned copies of one petal around a disc."""
    petals, size = n(5, 12), n(40, 90)
    petal = rng.choice((
        f'<ellipse id="petal" cx="0" cy="-{size}" rx="{n(12, 26)}" ry="{n(30, 50)}"/>',
        f'<path id="petal" d="M0 0 C-{n(20, 50)} -{size} -10 -{size + 30} 0 -{size + 40} '
        f'C10 -{size + 30} {n(20, 50)} -{size} 0 0 Z"/>'))
    return "\n".join([
        f'<rect width="400" height="300" fill="{tint(rng, 1, 0.1)}"/>', f"<defs>{petal}</defs>",
        f'<g transform="translate({n(150, 250)} 150)" fill="{paint[0]}" stroke="{paint[1]}" stroke-width="{n(1, 3)}" '
        'opacity="0.9">',
        *(f'<use href="#petal" transform="rotate({round(360 * i / petals)})"/>' for i in range(petals)),
        f'<circle r="{n(14, 34)}" fill="url(#b)"/>', "</g>"])


def flow(rng, n, paint):
    """3 or 4 boxes with a word, in two columns, each joined to the next by a line."""
    boxes = [(30 + i % 2 * 200, 40 + i // 2 * 130 + n(0, 20), n(50, 70), rng.choice(WORDS)) for i in range(n(3, 4))]
    lines = []
    for (x0, y0, *_), (x1, y1, *_) in zip(boxes, boxes[1:]):
        lines.append(f'<path d="M{x0 + 70} {y0 + 25} L{x1 + 70} {y1 + 25}" stroke="#444444" '
                     f"""stroke-width="{n(2, 4)}" {rng.choice(("", 'stroke-dasharray="8 5"'))} fill="none"/>""")
    for i, (x, y, h, word) in enumerate(boxes):
        lines.append(f'<g transform="translate({x} {y})"><rect width="140" height="{h}" rx="{n(0, 20)}" '
                     f'fill="{paint[i % 5]}" stroke="#222222" stroke-width="2"/><text x="70" y="{h // 2 + 6}" '
                     f'font-size="{n(15, 19)}" text-anchor="middle" fill="white" '
                     f'font-family="{rng.choice(("sans-serif", "serif"))}">{word}</text></g>')
    return "\n".join(lines)


def badge(rng, n, paint):
    """A star of 5 to 14 points under a disc with a word."""
    points, outer, inner = n(5, 14), n(95, 125), n(60, 90)
    corners = [(outer if i % 2 else inner, math.pi * i / points) for i in range(2 * points)]
    star = " ".join(f"{r * math.sin(turn):.0f},{r * math.cos(turn):.0f}" for r, turn in corners)
    return (f'<g transform="translate(200 150) rotate({n(0, 30)})"><polygon points="{star}" fill="url(#a)" '
            f'stroke="{paint[2]}" stroke-width="{n(2, 6)}"/></g>\n'
            f'<circle cx="200" cy="150" r="{n(46, 58)}" fill="url(#b)" stroke="white" stroke-width="{n(2, 5)}"/>\n'
            f'<text x="200" y="156" font-size="{n(18, 22)}" font-weight="bold" text-anchor="middle" fill="#222222" '
            f'font-family="{rng.choice(("serif", "sans-serif"))}">{rng.choice(WORDS).upper()}</text>')


def rings(rng, n, paint):
    """3 or 4 rings around one centre, filled to 20 to 95 %, and a legend."""
    arcs = [(40 + 22 * i, n(20, 95) / 100) for i in range(n(3, 4))]
    lines = [f'<g transform="translate(150 160) rotate(-90)" fill="none" stroke-width="{n(10, 18)}">']
    for i, (r, share) in enumerate(arcs):
        lines.append(f'<circle r="{r}" stroke="#e4e4e4"/><circle r="{r}" stroke="{paint[i]}" '
                     f'stroke-dasharray="{6.283 * r * share:.1f} {6.283 * r:.1f}" stroke-linecap="butt"/>')
    lines.append("</g>")
    for i in range(len(arcs)):
        lines.append(f'<g transform="translate(290 {80 + 34 * i})"><rect width="18" height="18" rx="{n(0, 9)}" '
                     f'fill="{paint[i]}"/><text x="26" y="14" font-size="15" font-family="sans-serif">'
                     f'{rng.choice(WORDS)}</text></g>')
    return "\n".join(lines)


def waves(rng, n, paint):
    """3 to 5 translucent waves, one in front of the other, under a sun."""
    def wave(y, colour):
        crests = " ".join(f"q25 {rng.choice((-1, 1)) * n(10, 34)} 50 {n(-4, 4)}" for _ in range(8))
        return f'<path d="M0 {y} {crests} V300 H0 Z" fill="{colour}" fill-opacity="{n(4, 9) / 10}"/>'

    return "\n".join(['<rect width="400" height="300" fill="url(#a)"/>',
                      *[wave(70 + i * 45, paint[i % 5]) for i in range(n(3, 5))],
                      f'<circle cx="{n(40, 360)}" cy="50" r="{n(14, 30)}" fill="url(#b)"/>'])


def rich_svg(rng):
    """One of the drawings above, 320, 400 or 480 pixels wide and three quarters as high."""
    n, paint = rng.randint, colours(rng, 6)
    pale, deep, (x, y) = tint(rng, 0.98, 0.3), tint(rng, 0.8, 0.5), rng.choice(((0, 1), (1, 0), (1, 1)))
    body = rng.choice((landscape, bars, flower, flow, badge, rings, waves))(rng, n, paint)
    width = rng.choice((320, 400, 480))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{width * 3 // 4}" '
            'viewBox="0 0 400 300">\n<defs>\n'
            f'<linearGradient id="a" x1="0" y1="0" x2="{x}" y2="{y}"><stop offset="0" stop-color="{deep}"/>'
            f'<stop offset="1" stop-color="{pale}"/></linearGradient>\n'
            f'<radialGradient id="b"><stop offset="0.{n(1, 4)}" stop-color="{pale}"/>'
            f'<stop offset="1" stop-color="{paint[5]}"/></radialGradient>\n</defs>\n{body}\n</svg>')
