"""Words, colours and numbers of the procedural programs. All words are from these lists, no text of others."""
import colorsys

WORDS = """market signal harvest river energy quarter latency orbit garden protein summer voltage traffic export engine
    forest income battery school harbour climate series median budget copper theatre island winter canvas meadow bridge
    lantern compass pepper glacier tunnel museum violin kitchen planet cotton rocket valley sensor ledger studio anchor
    castle coral desert falcon ginger hammer indigo jungle kernel lemon marble needle oxygen pocket quartz ribbon saddle
    timber umbrella velvet walnut yonder zephyr""".split()
PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#333333",
           "teal", "brown", "crimson", "navy", "goldenrod", "seagreen", "slateblue", "tomato", "steelblue", "orchid")
COLORMAPS = "viridis plasma magma cividis Blues Greens Oranges coolwarm YlGnBu RdPu Spectral cubehelix".split()
TEX_COLOURS = ("red blue teal orange violet brown olive cyan "
               "magenta purple lime black gray green!60!black blue!70!black").split()


def phrase(rng, n=2):
    """n different words, the first with a capital."""
    return " ".join(rng.sample(WORDS, n)).capitalize()


def sentences(rng, n):
    """n sentences of 6 to 12 words each."""
    return " ".join(phrase(rng, rng.randint(6, 12)) + "." for _ in range(n))


def hexadecimal(hue, saturation, value):
    """Hue, saturation and value, 0 to 1 each -> "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value)))


def tint(rng, value=0.8, saturation=0.6):
    """A colour of any hue, as "#rrggbb"."""
    return hexadecimal(rng.random(), saturation, value)


def colours(rng, n):
    """n colours that can be told apart, at most 18: from PALETTE, or hues at equal distances."""
    if rng.random() < 0.5:
        return rng.sample(PALETTE, n)
    start, saturation, value = rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.55, 0.9)
    return [hexadecimal((start + i / n) % 1, saturation, value) for i in range(n)]


def numbers(rng, n, scale):
    """n values from about a sixth of `scale` to `scale`: whole above 10, else with two decimals (scale 1) or one."""
    if scale > 10:
        return [rng.randint(scale // 6, scale) for _ in range(n)]
    return [round(rng.uniform(0.15, 1) * scale, 2 if scale <= 1 else 1) for _ in range(n)]
