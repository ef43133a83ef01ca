"""How a value is got wrong, in any language: a number, a colour, a text or a name as they are misread or misspelt.

Each function takes the random state and the old value as it stands in the program, and returns another one.
"""
import re

from tinycss2.color3 import parse_color

# The same colours in two notations
COLOURS = ("red", "blue", "green", "orange", "purple", "brown", "gray", "teal", "magenta", "black")
HEX = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#555555", "#17becf", "#e377c2", "#111111")
WORDS = "Total Value Average Count Level Score Result Group Series Index Rate Other".split()
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def other(rng, old, choices):
    """One of the choices that is not the old value."""
    return rng.choice([c for c in choices if c != old])


def scaled(rng, digits):
    """A number as it stands in a program -> a clearly other one in the same notation."""
    new = float(digits) * rng.choice((0.4, 0.6, 1.6, 2.2)) or rng.choice((1, 2, 5))
    if decimals := re.fullmatch(r"[-+]?\d*\.(\d+)", digits):
        text = f"{new:.{len(decimals[1])}f}"
    else:
        text = str(round(new)) if re.fullmatch(r"[-+]?\d+", digits) else f"{new:.3g}"
    return text if float(text) != float(digits) else str(round(float(digits)) + 1)


def recoloured(rng, old):
    """A clearly other colour in the notation of the old one: name or hexadecimal."""
    was = parse_color(old if is_colour(old) else "black")[:3]
    apart = [max(abs(a - b) for a, b in zip(parse_color(name)[:3], was)) for name in COLOURS]
    return (HEX if old.startswith("#") else COLOURS)[rng.choice([i for i, d in enumerate(apart) if d > 0.4])]


def is_colour(text):
    """Is a value a CSS colour that can be seen? None, currentColor and transparent ones are none."""
    return isinstance(text, str) and isinstance(parse_color(text), tuple) and parse_color(text)[3] > 0


def reworded(rng, text):
    """A text as it is misread: a word forgotten, exchanged, or in the wrong place; a number misread."""
    words = text.split(" ")
    if len(words) > 1 and rng.random() < 0.5:
        return " ".join(words[1:] if rng.random() < 0.5 else words[:-1])
    i = rng.randrange(len(words))
    words[i] = scaled(rng, words[i]) if NUMBER.fullmatch(words[i]) else other(rng, words[i], WORDS)
    return " ".join(words)


def misspelt(rng, name):
    """A name with a letter forgotten or doubled, never its first."""
    i = rng.randrange(1, max(2, len(name)))
    return name[:i] + (name[i + 1:] if rng.random() < 0.5 and len(name) > 2 else name[i - 1] + name[i:])
