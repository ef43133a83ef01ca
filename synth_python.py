"""Procedural Python programs: charts drawn by matplotlib, molecules drawn by RDKit and Indigo."""
import re

from words import COLORMAPS, WORDS, colours, numbers, phrase

# -------------------------------------------------------------------------------------------------------------- charts

SIMPLE_CHARTS = "bar barh plot scatter pie hist fill step stem".split()
MORE_CHARTS = """grouped stacked error heatmap box violin contour hist2d radar polar twin stack bubbles annotated donut
    surface lollipop""".split()
RICH_CHARTS = SIMPLE_CHARTS[:7] + MORE_CHARTS
PROJECTIONS = {"radar": "polar", "polar": "polar", "surface": "3d"}


def panel(rng, kinds):
    """One chart on the axes `ax`, of a kind of these -> (their projection or None, code).

    All kinds are written and one is taken, so that what follows in the stream of random numbers is the same for all.
    """
    n, k = rng.randint(4, 6), rng.randint(2, 3)  # values, series
    kind, scale = rng.choice(kinds), rng.choice((1, 10, 50, 400, 3000))
    names, labels = rng.sample(WORDS, k), [w.capitalize() for w in rng.sample(WORDS, n)]
    paint, values = colours(rng, 7), numbers(rng, n, scale)
    a, b = paint[:2]
    table, cmap = [numbers(rng, n, scale) for _ in range(k)], rng.choice(COLORMAPS)
    below = [[round(sum(row[j] for row in table[:i]), 2) for j in range(n)] for i in range(k)]
    samples = [[round(rng.gauss(rng.choice((4, 5, 7)), rng.uniform(0.5, 2)), 1) for _ in range(15)] for _ in range(n)]
    mark, line = rng.choice("osD^v"), rng.choice(("-", "--", "-.", ":"))
    legend = f"ax.legend(loc='{rng.choice(('best', 'upper left', 'upper right', 'lower right'))}')"
    axes = f"ax.set_xlabel('{phrase(rng)}')\nax.set_ylabel('{phrase(rng, rng.randint(1, 2))}')"
    ticks = f"ax.tick_params(axis='x', rotation={rng.choice((20, 30, 45))})"
    grid = rng.choice(("", "ax.grid(True)", "ax.grid(axis='y', alpha=0.4)",
                       "ax.spines[['top', 'right']].set_visible(False)"))
    angles = f"angles = np.linspace(0, 2 * np.pi, {n}, endpoint=False)"
    sides = f"ax.set_xticks(angles, {labels})"
    mesh = lambda points: f"x, y = np.meshgrid(np.linspace(-3, 3, {points}), np.linspace(-3, 3, {points}))"
    label = lambda axis: f"ax.set_{axis}label('{phrase(rng)}')"
    series = [(paint[i], names[i], table[i], below[i], i) for i in range(k)]
    wide = 0.8 / k  # of a bar in a group
    lines = {
        "bar": [
            f"ax.bar({labels}, {values}, color='{a}', width={rng.choice((0.5, 0.6, 0.8))})", label("y"), ticks, grid],
        "barh": [f"ax.barh({labels}, {values}, color={rng.choice((repr(a), paint[:n]))})", label("x"), grid],
        "plot": [
            *(f"ax.plot({row}, color='{c}', marker='{mark}', linestyle='{line if i else '-'}', label='{name}')"
              for c, name, row, _, i in series), axes, "ax.legend()", grid],
        "scatter": [
            f"ax.scatter({values}, {table[0]}, s={rng.choice((40, 80, 160))}, color='{a}', marker='{mark}')",
            axes, grid],
        "pie": [
            f"ax.pie({values}, labels={labels}, colors={paint[:n]}, startangle={rng.choice((0, 45, 90, 140))}"
            + rng.choice((")", ", autopct='%1.0f%%')"))],
        "hist": [
            f"ax.hist({sum(samples[:4], [])}, bins={n + 5}, color='{a}', "
            f"edgecolor='{rng.choice((b, 'white', 'black'))}')", axes],
        "fill": [
            f"ax.fill_between(range({n}), {values}, color='{a}', alpha={rng.choice((0.3, 0.5, 0.7))})",
            f"ax.plot(range({n}), {values}, color='{b}', linewidth=3)", axes, grid],
        "step": [
            *(f"ax.step(range({n}), {row}, where='mid', color='{c}', label='{name}')" for c, name, row, *_ in series),
            axes, legend, grid],
        "stem": [f"ax.stem({values}, linefmt='{line}', markerfmt='{mark}', basefmt=' ')", axes, grid],
        "grouped": [
            f"x = np.arange({n})",
            *(f"ax.bar(x {wide * (i - (k - 1) / 2):+.2f}, {row}, {wide:.2f}, color='{c}', label='{name}')"
              for c, name, row, _, i in series), f"ax.set_xticks(x, {labels})", label("y"), legend, ticks],
        "stacked": [
            *(f"ax.bar({labels}, {row}, bottom={under}, color='{c}', edgecolor='white', label='{name}')"
              for c, name, row, under, _ in series), label("y"), legend, ticks],
        "error": [
            f"ax.errorbar(range({n}), {values}, yerr={[round(v * rng.uniform(0.05, 0.25), 2) for v in values]}, "
            f"fmt='{mark}{line}', color='{a}', ecolor='{b}', capsize={rng.randint(2, 6)})", axes, grid],
        "heatmap": [
            f"matrix = np.array({[numbers(rng, n, scale) for _ in range(n - 1)]})",
            f"shown = ax.imshow(matrix, cmap='{cmap}', aspect='auto')",
            rng.choice(("", "for (i, j), value in np.ndenumerate(matrix):\n"
                            "    ax.text(j, i, value, ha='center', va='center', color='white', fontsize=8)")),
            f"ax.set_xticks(range({n}), {labels}, rotation=30)",
            f"fig.colorbar(shown, ax=ax, label='{phrase(rng, 1)}')"],
        "box": [
            f"boxes = ax.boxplot({samples}, patch_artist=True, tick_labels={labels})",
            f"for box, color in zip(boxes['boxes'], {paint[:n]}):\n    box.set_facecolor(color)", label("y"), ticks],
        "violin": [
            f"parts = ax.violinplot({samples}, showmeans=True)",
            f"for body in parts['bodies']:\n    body.set_facecolor('{a}')\n    body.set_edgecolor('black')",
            f"ax.set_xticks(range(1, {n + 1}), {labels})", label("y"), ticks],
        "contour": [
            mesh(80), f"z = np.sin({rng.randint(1, 3)} * x) * np.cos({rng.randint(1, 3)} * y) "
            f"+ {rng.choice((0, 0.1, 0.2))} * x * y",
            f"filled = ax.contourf(x, y, z, levels={rng.randint(6, 16)}, cmap='{cmap}')",
            "ax.contour(x, y, z, levels=5, colors='black', linewidths=0.5)", "fig.colorbar(filled, ax=ax)", axes],
        "hist2d": [
            f"rng = np.random.default_rng({rng.randint(0, 99)})",
            f"counts = ax.hist2d(rng.normal({rng.randint(-3, 3)}, {rng.randint(1, 3)}, 2000), "
            f"rng.normal({rng.randint(-3, 3)}, {rng.randint(1, 3)}, 2000), bins={rng.choice((15, 20, 30))}, "
            f"cmap='{cmap}')",
            "fig.colorbar(counts[3], ax=ax)", axes],
        "radar": [
            angles,
            *(f"ax.plot([*angles, 0], {[*row, row[0]]}, color='{c}', label='{name}')\n"
              f"ax.fill([*angles, 0], {[*row, row[0]]}, color='{c}', alpha=0.2)" for c, name, row, *_ in series),
            sides, "ax.legend(loc='lower right', bbox_to_anchor=(1.3, 0))"],
        "polar": [
            angles, f"ax.bar(angles, {values}, width={rng.choice((0.5, 0.7, 0.9))}, color={paint[:n]}, alpha=0.8)",
            sides],
        "twin": [
            f"ax.bar({labels}, {values}, color='{a}', alpha=0.6)", f"ax.set_ylabel('{names[0]}', color='{a}')", ticks,
            "other = ax.twinx()",
            f"other.plot({labels}, {numbers(rng, n, rng.choice((1, 10, 400)))}, color='{b}', marker='{mark}', "
            "linewidth=2)",
            f"other.set_ylabel('{names[1]}', color='{b}')"],
        "stack": [
            f"ax.stackplot(range({n}), {', '.join(map(str, table))}, labels={names}, colors={paint[:k]}, alpha=0.85)",
            "ax.legend(loc='upper left')", "ax.margins(x=0)", axes],
        "bubbles": [
            f"points = ax.scatter({values}, {table[0]}, s={[rng.randint(60, 700) for _ in values]}, c={table[1]}, "
            f"cmap='{cmap}', alpha=0.8, edgecolors='black')",
            f"fig.colorbar(points, ax=ax, label='{names[0]}')", "ax.margins(0.2)", axes, grid],
        "annotated": [
            f"ax.plot({values}, color='{a}', linewidth={rng.choice((1.5, 2, 3))}, marker='{mark}')",
            f"ax.axhline({sorted(values)[n // 2]}, color='{b}', linestyle='--', label='median')",
            f"ax.annotate('{phrase(rng, 1)}', xy=({values.index(max(values))}, {max(values)}), "
            f"xytext=({n / 2 - 1}, {round(max(values) * 1.15, 2)}), arrowprops=dict(arrowstyle='->'))",
            f"ax.set_ylim(0, {round(max(values) * 1.3, 2)})", "ax.legend(loc='lower left')", axes],
        "donut": [
            f"ax.pie({values}, labels={labels}, colors={paint[:n]}, "
            f"wedgeprops=dict(width={rng.choice((0.3, 0.4, 0.5))}, edgecolor='white'))",
            f"ax.text(0, 0, '{phrase(rng, 1)}', ha='center', va='center', fontsize={rng.choice((10, 12))})"],
        "surface": [
            mesh(40), f"ax.plot_surface(x, y, np.{rng.choice(('sin', 'cos'))}"
            f"({rng.choice(('x', 'y', 'x + y', 'np.hypot(x, y)'))}) * {rng.randint(1, 5)}, cmap='{cmap}')",
            f"ax.view_init({rng.randrange(20, 60, 10)}, {rng.randrange(0, 360, 30)})"],
        "lollipop": [
            f"ax.hlines({labels}, 0, {values}, color='{a}', linewidth={rng.randint(1, 4)})",
            f"ax.plot({values}, {labels}, '{mark}', color='{b}', markersize=9)", label("x")],
    }[kind]
    return PROJECTIONS.get(kind), "".join(f"{line}\n" for line in lines if line)


def finished_chart(code):
    """The program of a chart whose axes have been drawn by `code`."""
    numpy = "import numpy as np\n" if "np." in code else ""
    return f"import matplotlib.pyplot as plt\n{numpy}\n{code}plt.savefig('chart.png')"


def simple_chart(rng):
    """One chart of SIMPLE_CHARTS, 5 to 8 by 4 or 5 inches; four in five have a title."""
    _, code = panel(rng, SIMPLE_CHARTS)
    title = f"ax.set_title('{phrase(rng, rng.randint(2, 4))}')\n" if rng.random() < 0.8 else ""
    size = rng.choice(("5, 4", "6, 4", "8, 4", "5, 5"))
    return finished_chart(f"fig, ax = plt.subplots(figsize=({size}), layout='constrained')\n{code}{title}")


def rich_chart(rng):
    """1 to 4 charts with titles, at times in another style; one that stands alone is of MORE_CHARTS."""
    rows, columns = rng.choice(((1, 1), (1, 2), (1, 2), (2, 1), (2, 2), (2, 2), (1, 3)))
    sheets = ("ggplot", "seaborn-v0_8-whitegrid", "bmh", "fivethirtyeight", "dark_background")
    style = rng.choice(("", "", "", f"plt.style.use('{rng.choice(sheets)}')\n",
                        f"plt.rcParams['font.family'] = '{rng.choice(('serif', 'monospace'))}'\n"))
    size = f"{4 * columns + rng.choice((1, 2))}, {4 * rows + rng.choice((0, 1))}"
    code = f"{style}fig = plt.figure(figsize=({size}), layout='constrained')\n"
    for i in range(rows * columns):
        projection, chart = panel(rng, RICH_CHARTS if rows * columns > 1 else MORE_CHARTS)
        place = f"{rows}, {columns}, {i + 1}" + (f", projection={projection!r}" if projection else "")
        code += f"\nax = fig.add_subplot({place})\n{chart}"
        code += f"ax.set_title('{phrase(rng)}', fontsize={rng.choice((10, 11, 12))})\n"
    if rng.random() < 0.6:
        code += f"\nfig.suptitle('{phrase(rng, 3)}', fontsize={rng.choice((14, 16))})\n"
    return finished_chart(code)


# ---------------------------------------------------------------------------------------------------------- chemistry
# SMILES grown from fragments, each attached by its first atom. {r} and {s}: digits of the ring bonds, *: hydrogen or a
# branch.

RINGS = """c{r}c*c*c*cc{r} c{r}cc*c*cc{r}* c{r}c*cncc{r} c{r}nc*c*nc{r} c{r}c*c*sc{r} c{r}cc*oc{r} c{r}cn*cn{r}
    C{r}C*CC*CC{r} C{r}CC*CC{r} N{r}CCN*CC{r} N{r}CCOCC{r} N{r}CC*CC{r} C{r}CC{r} c{r}c*c*c{s}c*cccc{s}c{r}
    c{r}c*c{s}cc*ccc{s}[nH]{r} c{r}cnc{s}c*cccc{s}c{r} c{r}cc*c{s}OCOc{s}c{r} c{r}nc{s}cc*ccc{s}s{r}
    C{r}CCC{s}C*CCCC{s}C{r} c{r}c*nn*c{r}""".split()
LINKS = """C CC CCC O OC CO S N NC(=O) C(=O)N C(=O)O C(=O) /C=C/ C#C S(=O)(=O)N C(O) C(C) NC(=O)N CN C(F)(F)
    CCO""".split()
ENDS = """C C O N F Cl Br CC OC C(=O)O C#N C(F)(F)F [N+](=O)[O-] C(C)C C(C)(C)C N(C)C OCC S(C)(=O)=O C(N)=O OC(C)=O SC
    C=C B(O)O I""".split()


def grow(rng, budget, depth=0):
    """SMILES of a branch of up to about `budget` fragments, attached by its first atom."""
    if budget <= 0 or depth == 4:
        return rng.choice(ENDS)
    if rng.random() < 0.3 and depth:
        return rng.choice(LINKS) + grow(rng, budget - 1, depth)
    ring = rng.choice(RINGS).format(r=2 * depth + 1, s=2 * depth + 2)
    branch = lambda _: f"({grow(rng, rng.randint(0, budget - 1), depth + 1)})" if rng.random() < 0.55 else ""
    return re.sub(r"\*", branch, ring)


def molecule(rng, least, most):
    """SMILES of a random molecule of `least` to `most` heavy atoms, its valences checked by RDKit."""
    from rdkit import Chem, RDLogger
    RDLogger.DisableLog("rdApp.*")
    while True:
        smiles = rng.choice(("", "", rng.choice(ENDS[:6]))) + grow(rng, rng.randint(1, 3))
        found = Chem.MolFromSmiles(smiles)
        if found and least <= found.GetNumHeavyAtoms() <= most:
            return smiles


def shade(rng, low):
    """Red, green and blue from `low` to 1, as the arguments of a call."""
    return ", ".join(f"{rng.uniform(low, 1):.2f}" for _ in range(3))


def indigo(rng, smiles, rich):
    """The program that draws a SMILES with Indigo, with 0 to 2 drawing options, rich: 3 to 6."""
    size = rng.choice(("400, 400", "300, 300", "500, 350", "384, 384", "600, 400"))
    options = [
        f'"render-coloring", {rng.choice(("True", "False"))}',
        f'"render-bond-line-width", {rng.choice((1.0, 1.5, 2.0, 3.0))}',
        f'"render-relative-thickness", {rng.choice((0.8, 1.2, 1.6))}', f'"render-background-color", {shade(rng, 0.85)}',
        f'"render-label-mode", "{rng.choice(("hetero", "terminal-hetero", "all"))}"',
        '"render-implicit-hydrogens-visible", False',
        f'"render-margins", {rng.choice((10, 20, 40))}, {rng.choice((10, 20, 40))}',
        f'"render-comment", "{phrase(rng)}"', '"render-atom-ids-visible", True', '"render-stereo-style", "none"']
    chosen = rng.sample(options, rng.randint(3, 6) if rich else rng.randint(0, 2))
    chosen = ['"render-output-format", "png"', f'"render-image-size", {size}', *chosen]
    return ("from indigo import Indigo\nfrom indigo.renderer import IndigoRenderer\n\n"
            "indigo = Indigo()\nrenderer = IndigoRenderer(indigo)\n"
            + "".join(f"indigo.setOption({option})\n" for option in chosen)
            + f'\nmol = indigo.loadMolecule("{smiles}")\n' + rng.choice(("", "mol.layout()\n"))
            + rng.choice(("", "mol.dearomatize()\n", "mol.aromatize()\n"))
            + 'renderer.renderToFile(mol, "molecule.png")')


def simple_chem(rng):
    """A molecule of 5 to 22 heavy atoms, 256 to 600 pixels wide; 30 % are drawn by Indigo, the others by RDKit."""
    smiles = molecule(rng, 5, 22)
    size = rng.choice(("300, 300", "400, 400", "400, 400", "500, 400", "256, 256", "450, 300"))
    image = lambda more: f"img = Draw.MolToImage(mol, size=({size}){more})\nimg.save('molecule.png')"
    draw = rng.choice((image(""), f"Draw.MolToFile(mol, 'molecule.png', size=({size}))",
                       image(f", legend='{phrase(rng)}'"), image(", kekulize=False")))
    if rng.random() < 0.3:
        return indigo(rng, smiles, False)
    return f"from rdkit import Chem\nfrom rdkit.Chem import Draw\n\nmol = Chem.MolFromSmiles('{smiles}')\n{draw}"


def chem_grid(rng):
    """A grid of 2 to 6 molecules of 6 to 20 heavy atoms each, with a word below."""
    found = [molecule(rng, 6, 20) for _ in range(rng.randint(2, 6))]
    return (f"from rdkit import Chem\nfrom rdkit.Chem import Draw\n\nsmiles = {found}\n"
            "mols = [Chem.MolFromSmiles(s) for s in smiles]\n"
            f"img = Draw.MolsToGridImage(mols, molsPerRow={rng.randint(2, 3)}, "
            f"subImgSize=({rng.choice((200, 250, 300))}, {rng.choice((200, 250))}), "
            f"legends={[phrase(rng, 1) for _ in found]})\nimg.save('molecules.png')")


def chem_canvas(rng, match):
    """A molecule with drawing options; match: the atoms of a pattern are highlighted, not some of them or none."""
    smiles = molecule(rng, 14, 38)
    options = [
        f"bondLineWidth = {rng.randint(1, 4)}", "addAtomIndices = True", "useBWAtomPalette()",
        f"setBackgroundColour(({shade(rng, 0.85)}))", "addStereoAnnotation = True",
        f"padding = {rng.choice((0.05, 0.1, 0.2))}", f"rotate = {rng.choice((30, 45, 90, 180))}",
        "explicitMethyl = True", f"setHighlightColour(({shade(rng, 0.3)}))", "fixedBondLength = 30"]
    chosen = "".join(f"options.{option}\n" for option in rng.sample(options, rng.randint(1, 4)))
    if match:
        pattern = rng.choice(("c1ccccc1", "C=O", "[#7]", "[#8]", "cc", "CC"))
        atoms = f"list(mol.GetSubstructMatch(Chem.MolFromSmarts('{pattern}')))"
    else:
        atoms = str(sorted(rng.sample(range(14), rng.randint(2, 6))))
    size, legend = rng.choice(("400, 400", "500, 400", "600, 450")), phrase(rng)
    highlight = f", highlightAtoms={atoms}" if match else rng.choice(("", f", highlightAtoms={atoms}"))
    return (f"from rdkit import Chem\nfrom rdkit.Chem.Draw import rdMolDraw2D\n\nmol = Chem.MolFromSmiles('{smiles}')\n"
            f"drawer = rdMolDraw2D.MolDraw2DCairo({size})\noptions = drawer.drawOptions()\n{chosen}"
            f"rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol, legend='{legend}'{highlight})\n"
            "drawer.FinishDrawing()\nwith open('molecule.png', 'wb') as file:\n    file.write(drawer.GetDrawingText())")


def rich_chem(rng):
    """A molecule of 14 to 38 heavy atoms with drawing options (Indigo: 16 to 42), or a grid of smaller ones."""
    kind = rng.choice(("canvas", "canvas", "grid", "match", "indigo"))
    if kind == "indigo":
        return indigo(rng, molecule(rng, 16, 42), True)
    return chem_grid(rng) if kind == "grid" else chem_canvas(rng, kind == "match")
