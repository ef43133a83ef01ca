"""Procedural pages and SVG drawings."""
import math
import re

from words import WORDS, colours, phrase, sentences, tint

# ---------------------------------------------------------------------------------------------------------------- web

def web(rng, rich):
    """A page; its style sheet has the rules that the page uses and no others: what cannot be seen cannot be learned."""
    main, accent, ink, pale = tint(rng, rng.uniform(0.4, 0.7)), tint(rng, 0.75, 0.75), tint(rng, 0.2, 0.4), tint(rng, 1, 0.06)
    radius, gap, n = rng.choice((0, 4, 8, 16)), rng.choice((12, 16, 24)), rng.randint(2, 3) + rich
    many = lambda low, high, make: "\n".join("  " + make() for _ in range(rng.randint(low, high)))
    title, badge = lambda: f"<h2>{phrase(rng, rng.randint(2, 3))}</h2>", lambda: f'<span class="badge">{rng.choice(WORDS)}</span>'
    button = lambda kind="button": f'<a class="{kind}">{phrase(rng, rng.randint(1, 2))}</a>'
    field = lambda: f'<label>{phrase(rng)}<input type="{rng.choice(("text", "email", "number"))}" placeholder="{phrase(rng)}"></label>'
    row = lambda: f"<tr><td>{phrase(rng)}</td><td>{rng.randint(10, 9999)}</td><td>{rng.choice(WORDS)}</td><td>{badge() if rich else rng.randint(1, 99)}</td></tr>"
    picture = lambda: f'<div class="picture" style="background:{tint(rng, 0.85, 0.4)}"></div>' if rich else ""
    card = lambda: f'<article class="card">{picture()}<h3>{phrase(rng)}</h3><p>{sentences(rng, 1)}</p>{rng.choice(("", badge(), button("button small")))}</article>'
    figure = lambda: f'<div class="figure"><strong>{rng.randint(2, 980)}{rng.choice("%+k")}</strong><br>{phrase(rng)}</div>'
    meter = lambda: f'<p class="meter"><span>{phrase(rng, 1)}</span><b style="width:{rng.randint(10, 70)}%"></b></p>'
    item = lambda: f"<li>{phrase(rng, 3)}</li>"
    sections = [
        f'<section>{title()}<div class="grid">\n{many(n, n, card)}\n</div></section>',
        f'<section>{title()}<table><tr>{"".join(f"<th>{phrase(rng, 1)}</th>" for _ in range(4))}</tr>\n{many(3, 6, row)}\n</table></section>',
        f'<section>{title()}<form>\n{many(1, 2 + rich, field)}\n  <label>{phrase(rng)}<select><option>{phrase(rng)}</option></select></label>\n  <button class="button">{phrase(rng, 1)}</button>\n</form></section>',
        f'<section>{title()}<p>{sentences(rng, 3)}</p><ul>\n{many(3, 5, item)}\n</ul></section>',
        f'<section><div class="grid">\n{many(n, n, figure)}\n</div></section>', f"<section>{title()}\n{many(3, 5, meter)}\n</section>",
        f'<section class="columns"><div>{title()}<p>{sentences(rng, 3)}</p></div><aside><h3>{phrase(rng)}</h3><ul>\n{many(3, 5, item)}\n</ul></aside></section>',
        f"<blockquote>{sentences(rng, 2)}<cite>{phrase(rng)}</cite></blockquote>"]
    head = f"<header><h1>{phrase(rng, rng.randint(2, 4))}</h1><p>{sentences(rng, 1)}</p>{button() + ' ' + button('ghost') if rich else ''}</header>"
    if rich:
        head = f"<nav><b>{phrase(rng, 1)}</b>{''.join(f'<span>{phrase(rng, 1)}</span>' for _ in range(rng.randint(2, 4)))}</nav>\n" + rng.choice((head, head, f"<main>{title()}</main>"))
    body = "\n".join([head, *rng.sample(sections, rng.randint(2, 4) if rich else rng.randint(1, 2)), f"<footer><span>{phrase(rng, 3)}</span><span>{phrase(rng)}</span></footer>"])
    rules = (
        ("nav", f"display: flex; align-items: center; gap: 20px; padding: {rng.choice((10, 14, 18))}px 32px; background: {rng.choice((pale, '#ffffff', ink))}; color: {accent};"),
        ("nav b", "margin-right: auto; font-size: 20px;"),
        ("header", f"padding: {rng.randint(12, 60)}px 32px; color: white; text-align: {rng.choice(('left', 'center'))}; "
                   f"background: {rng.choice((main, f'linear-gradient({rng.choice((90, 135, 180))}deg, {main}, {accent})')) if rich else main};"),
        ("header h1", f"margin: 0; font-size: {rng.choice((28, 36, 44))}px;"), ("main", "padding: 16px 32px 0;"), ("section", f"padding: {rng.choice((12, 20, 28))}px 32px;"),
        ("h2", f"margin: 0 0 12px; color: {main};"), ("h3", "margin: 6px 0;"), ("grid", f"display: grid; grid-template-columns: repeat({n}, 1fr); gap: {gap}px;"),
        (("card", "figure", "form", "aside"), f"background: white; border: {rng.choice((1, 1, 2))}px solid {tint(rng, 0.85, 0.2)}; border-radius: {radius}px; padding: 14px;"
         + rng.choice(("", " box-shadow: 0 2px 8px rgba(0, 0, 0, 0.15);"))), ("figure", "text-align: center;"), ("figure strong", f"font-size: 30px; color: {accent};"),
        ("picture", f"height: {rng.choice((40, 70, 100))}px; border-radius: {radius}px;"), ("form", f"max-width: {rng.choice((360, 420, 520))}px;"), ("label", "display: block; margin-bottom: 10px;"),
        (("input", "select"), f"display: block; box-sizing: border-box; width: 100%; padding: 7px; border: 1px solid {main}; border-radius: {radius // 2}px;"),
        ("button", f"display: inline-block; padding: 8px 18px; border: 0; border-radius: {rng.choice((radius, 20))}px; background: {accent}; color: white; font: inherit;"),
        ("ghost", "display: inline-block; padding: 6px 16px; border: 2px solid white;"), ("small", "padding: 3px 10px; font-size: 13px;"),
        ("badge", f"background: {tint(rng, 0.95, 0.2)}; padding: 2px 8px; border-radius: 10px; font-size: 12px;"), ("table", "width: 100%; border-collapse: collapse; background: white;"),
        ("th", f"background: {main}; color: white;"), (("th", "td"), f"padding: {rng.choice((6, 8, 10))}px; text-align: left; border-bottom: 1px solid {tint(rng, 0.8, 0.1)};"),
        ("meter", "display: flex; align-items: center; margin: 6px 0;"), ("meter span", "width: 110px;"), ("meter b", f"height: {rng.choice((10, 14, 18))}px; background: {accent};"),
        ("columns", f"display: flex; gap: {gap}px;"), ("columns div", f"flex: {rng.choice((1, 2))};"), ("aside", "flex: 1;"),
        ("blockquote", f"margin: 20px 32px; padding: 12px 20px; border-left: 5px solid {accent}; background: white; font-style: italic;"), ("cite", f"display: block; margin-top: 8px; color: {main};"),
        ("footer", f"display: flex; justify-content: space-between; padding: 16px 32px; background: {ink}; color: white;"))
    font = rng.choice(("Arial, sans-serif", "Georgia, serif", "Verdana, sans-serif", "'Courier New', monospace"))
    css = f"body {{ margin: 0; font-family: {font}; color: {ink}; background: {pale}; line-height: {rng.choice((1.4, 1.5, 1.6))}; }}\n"
    for names, rule in rules:
        used = [name for name in ((names,) if isinstance(names, str) else names) if re.search(rf'<{name.split()[0]}\b|class="[^"]*\b{name.split()[0]}\b', body)]
        css += ", ".join("." * (f"<{name.split()[0]}" not in body or name == "button") + name for name in used) + f" {{ {rule} }}\n" if used else ""
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<style>\n{css}</style>\n</head>\n<body>\n{body}\n</body>\n</html>'


# ---------------------------------------------------------------------------------------------------------------- SVG

def simple_svg(rng):
    n, stroke, paints = rng.randint, rng.random() < 0.4, colours(rng, 6)
    lines = []
    for _ in range(n(4, 8)):
        paint = f'fill="none" stroke="{rng.choice(paints)}" stroke-width="{n(3, 7)}"' if stroke else f'fill="{rng.choice(paints)}"'
        x, y = n(8, 80), n(8, 80)
        lines.append("  " + rng.choice((
            f'<rect x="{x}" y="{y}" width="{n(15, 40)}" height="{n(15, 40)}" rx="{n(0, 8)}" {paint}/>', f'<circle cx="{x + 15}" cy="{y + 15}" r="{n(8, 22)}" {paint}/>',
            f'<ellipse cx="{x + 15}" cy="{y + 15}" rx="{n(8, 24)}" ry="{n(8, 24)}" {paint}/>', f'<polygon points="{x},{y} {n(20, 110)},{n(20, 110)} {n(20, 110)},{n(20, 110)}" {paint}/>',
            f'<path d="M{x} {y} C{n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} {n(10, 110)} L{n(10, 110)} {n(10, 110)} Z" {paint}/>')))
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="256" height="{rng.choice((256, 256, 192))}" viewBox="0 0 120 120">\n' + "\n".join(lines) + "\n</svg>"


def landscape(rng, n, paint):
    hill = lambda y, colour: f'<path d="M0 {y} Q{n(40, 120)} {y - n(30, 80)} 200 {y} T400 {y - n(0, 30)} V300 H0 Z" fill="{colour}"/>'
    tree = lambda: (f'<g transform="translate({n(20, 370)} {n(190, 250)}) scale({n(6, 14) / 10})"><rect x="-4" y="0" width="8" height="24" fill="#7a5230"/>'
                    f'<polygon points="-22,4 0,-48 22,4" fill="{paint[2]}"/></g>')
    house = (f'<g transform="translate({n(60, 300)} {n(180, 230)})"><rect width="60" height="44" fill="{paint[3]}"/><path d="M-8 0 L30 -{n(20, 40)} L68 0 Z" fill="{paint[4]}"/>'
             f'<rect x="{n(8, 36)}" y="18" width="14" height="26" fill="#fff3c0"/></g>')
    return (f'<rect width="400" height="300" fill="url(#a)"/>\n<circle cx="{n(40, 360)}" cy="{n(35, 90)}" r="{n(15, 36)}" fill="#ffe27a"/>\n{hill(n(150, 190), paint[1])}\n{hill(n(190, 230), paint[2])}\n'
            + "\n".join([tree() for _ in range(n(2, 5))] + [house] * n(0, 1)))


def bars(rng, n, paint):
    count, step = n(4, 7), 0
    step, heights = 320 // count, [n(30, 190) for _ in range(count)]
    return (f'<text x="200" y="32" font-size="20" text-anchor="middle" font-family="sans-serif">{phrase(rng)}</text>\n<line x1="40" y1="250" x2="380" y2="250" stroke="black" stroke-width="2"/>\n<g font-size="12" font-family="sans-serif" text-anchor="middle">\n'
            + "\n".join(f'<rect x="{50 + i * step}" y="{250 - h}" width="{step - n(6, 12)}" height="{h}" rx="{n(0, 6)}" fill="{rng.choice(("url(#a)", paint[i % 3]))}"/>'
                        f'<text x="{46 + i * step + step // 2}" y="{244 - h}">{h}</text><text x="{46 + i * step + step // 2}" y="268">{rng.choice(WORDS)[:6]}</text>' for i, h in enumerate(heights)) + "\n</g>")


def flower(rng, n, paint):
    petals, size = n(5, 12), n(40, 90)
    petal = rng.choice((f'<ellipse id="petal" cx="0" cy="-{size}" rx="{n(12, 26)}" ry="{n(30, 50)}"/>', f'<path id="petal" d="M0 0 C-{n(20, 50)} -{size} -10 -{size + 30} 0 -{size + 40} C10 -{size + 30} {n(20, 50)} -{size} 0 0 Z"/>'))
    return (f'<rect width="400" height="300" fill="{tint(rng, 1, 0.1)}"/>\n<defs>{petal}</defs>\n<g transform="translate({n(150, 250)} 150)" fill="{paint[0]}" stroke="{paint[1]}" stroke-width="{n(1, 3)}" opacity="0.9">\n'
            + "\n".join(f'<use href="#petal" transform="rotate({round(360 * i / petals)})"/>' for i in range(petals)) + f'\n<circle r="{n(14, 34)}" fill="url(#b)"/>\n</g>')


def flow(rng, n, paint):
    count = n(3, 4)
    boxes = [(30 + i % 2 * 200, 40 + i // 2 * 130 + n(0, 20), 140, n(50, 70), rng.choice(WORDS)) for i in range(count)]
    lines = [f'<path d="M{a[0] + 70} {a[1] + 25} L{b[0] + 70} {b[1] + 25}" stroke="#444444" stroke-width="{n(2, 4)}" {rng.choice(("", "stroke-dasharray=" + chr(34) + "8 5" + chr(34)))} fill="none"/>' for a, b in zip(boxes, boxes[1:])]
    return "\n".join(lines + [f'<g transform="translate({x} {y})"><rect width="{w}" height="{h}" rx="{n(0, 20)}" fill="{paint[i % 5]}" stroke="#222222" stroke-width="2"/>'
                              f'<text x="{w // 2}" y="{h // 2 + 6}" font-size="{n(15, 19)}" text-anchor="middle" fill="white" font-family="{rng.choice(("sans-serif", "serif"))}">{word}</text></g>'
                              for i, (x, y, w, h, word) in enumerate(boxes)])


def badge(rng, n, paint):
    points, outer, inner = n(5, 14), n(95, 125), n(60, 90)
    star = " ".join(f"{(outer if i % 2 else inner) * math.sin(math.pi * i / points):.0f},{(outer if i % 2 else inner) * math.cos(math.pi * i / points):.0f}" for i in range(2 * points))
    return (f'<g transform="translate(200 150) rotate({n(0, 30)})"><polygon points="{star}" fill="url(#a)" stroke="{paint[2]}" stroke-width="{n(2, 6)}"/></g>\n'
            f'<circle cx="200" cy="150" r="{n(46, 58)}" fill="url(#b)" stroke="white" stroke-width="{n(2, 5)}"/>\n<text x="200" y="156" font-size="{n(18, 22)}" font-weight="bold" '
            f'text-anchor="middle" fill="#222222" font-family="{rng.choice(("serif", "sans-serif"))}">{rng.choice(WORDS).upper()}</text>')


def rings(rng, n, paint):
    arcs = [(40 + 22 * i, n(20, 95) / 100) for i in range(n(3, 4))]
    return (f'<g transform="translate(150 160) rotate(-90)" fill="none" stroke-width="{n(10, 18)}">\n' + "\n".join(
        f'<circle r="{r}" stroke="#e4e4e4"/><circle r="{r}" stroke="{paint[i]}" stroke-dasharray="{6.283 * r * share:.1f} {6.283 * r:.1f}" stroke-linecap="butt"/>' for i, (r, share) in enumerate(arcs)) + "\n</g>\n"
        + "\n".join(f'<g transform="translate(290 {80 + 34 * i})"><rect width="18" height="18" rx="{n(0, 9)}" fill="{paint[i]}"/><text x="26" y="14" font-size="15" font-family="sans-serif">{rng.choice(WORDS)}</text></g>' for i in range(len(arcs))))


def waves(rng, n, paint):
    wave = lambda y, i: f'<path d="M0 {y} ' + " ".join(f"q25 {rng.choice((-1, 1)) * n(10, 34)} 50 {n(-4, 4)}" for _ in range(8)) + f' V300 H0 Z" fill="{paint[i % 5]}" fill-opacity="{n(4, 9) / 10}"/>'
    return '<rect width="400" height="300" fill="url(#a)"/>\n' + "\n".join(wave(70 + i * 45, i) for i in range(n(3, 5))) + f'\n<circle cx="{n(40, 360)}" cy="50" r="{n(14, 30)}" fill="url(#b)"/>'


def rich_svg(rng):
    n, paint = rng.randint, colours(rng, 6)
    pale, deep, (x, y) = tint(rng, 0.98, 0.3), tint(rng, 0.8, 0.5), rng.choice(((0, 1), (1, 0), (1, 1)))
    body = rng.choice((landscape, bars, flower, flow, badge, rings, waves))(rng, n, paint)
    width = rng.choice((320, 400, 480))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{width * 3 // 4}" viewBox="0 0 400 300">\n<defs>\n'
            f'<linearGradient id="a" x1="0" y1="0" x2="{x}" y2="{y}"><stop offset="0" stop-color="{deep}"/><stop offset="1" stop-color="{pale}"/></linearGradient>\n'
            f'<radialGradient id="b"><stop offset="0.{n(1, 4)}" stop-color="{pale}"/><stop offset="1" stop-color="{paint[5]}"/></radialGradient>\n</defs>\n{body}\n</svg>')
