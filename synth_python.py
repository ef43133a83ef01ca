"""Procedural Python programs: charts drawn by matplotlib, molecules drawn by RDKit and Indigo."""
import re

from words import COLORMAPS, WORDS, colours, numbers, phrase

# -------------------------------------------------------------------------------------------------------------- charts

SIMPLE_CHARTS = "bar barh plot scatter pie hist fill step stem".split()
RICH_CHARTS = SIMPLE_CHARTS[:7] + ("grouped stacked error heatmap box violin contour hist2d radar polar twin stack bubbles annotated donut surface lollipop").split()


def panel(rng, kinds):
    """One chart on the axes `ax` -> (their projection, code)."""
    n, k, kind, scale = rng.randint(4, 6), rng.randint(2, 3), rng.choice(kinds), rng.choice((1, 10, 50, 400, 3000))
    names, labels, (a, b, *more), values = rng.sample(WORDS, k), [w.capitalize() for w in rng.sample(WORDS, n)], colours(rng, 7), numbers(rng, n, scale)
    table, paint, cmap = [numbers(rng, n, scale) for _ in range(k)], [a, b, *more], rng.choice(COLORMAPS)
    below = [[round(sum(row[j] for row in table[:i]), 2) for j in range(n)] for i in range(k)]
    samples = [[round(rng.gauss(rng.choice((4, 5, 7)), rng.uniform(0.5, 2)), 1) for _ in range(15)] for _ in range(n)]
    mark, line, legend = rng.choice("osD^v"), rng.choice(("-", "--", "-.", ":")), rng.choice(("best", "upper left", "upper right", "lower right"))
    each = lambda row: "\n".join(row(i, name) for i, name in enumerate(names)) + "\n"
    axes = f"ax.set_xlabel('{phrase(rng)}')\nax.set_ylabel('{phrase(rng, rng.randint(1, 2))}')\n"
    ticks = f"ax.tick_params(axis='x', rotation={rng.choice((20, 30, 45))})\n"
    grid = rng.choice(("", "ax.grid(True)\n", "ax.grid(axis='y', alpha=0.4)\n", "ax.spines[['top', 'right']].set_visible(False)\n"))
    sides = f"ax.set_xticks(angles, {labels})\n"
    code = {
        "bar": f"ax.bar({labels}, {values}, color='{a}', width={rng.choice((0.5, 0.6, 0.8))})\nax.set_ylabel('{phrase(rng)}')\n{ticks}{grid}",
        "barh": f"ax.barh({labels}, {values}, color={rng.choice((repr(a), paint[:n]))})\nax.set_xlabel('{phrase(rng)}')\n{grid}",
        "plot": each(lambda i, name: f"ax.plot({table[i]}, color='{paint[i]}', marker='{mark}', linestyle='{line if i else '-'}', label='{name}')") + f"{axes}ax.legend()\n{grid}",
        "scatter": f"ax.scatter({values}, {table[0]}, s={rng.choice((40, 80, 160))}, color='{a}', marker='{mark}')\n{axes}{grid}",
        "pie": f"ax.pie({values}, labels={labels}, colors={paint[:n]}, startangle={rng.choice((0, 45, 90, 140))}" + rng.choice((")\n", ", autopct='%1.0f%%')\n")),
        "hist": f"ax.hist({sum(samples[:4], [])}, bins={n + 5}, color='{a}', edgecolor='{rng.choice((b, 'white', 'black'))}')\n{axes}",
        "fill": f"ax.fill_between(range({n}), {values}, color='{a}', alpha={rng.choice((0.3, 0.5, 0.7))})\nax.plot(range({n}), {values}, color='{b}', linewidth=3)\n{axes}{grid}",
        "step": each(lambda i, name: f"ax.step(range({n}), {table[i]}, where='mid', color='{paint[i]}', label='{name}')") + f"{axes}ax.legend(loc='{legend}')\n{grid}",
        "stem": f"ax.stem({values}, linefmt='{line}', markerfmt='{mark}', basefmt=' ')\n{axes}{grid}",
        "grouped": f"x = np.arange({n})\n" + each(lambda i, name: f"ax.bar(x {0.8 / k * (i - (k - 1) / 2):+.2f}, {table[i]}, {0.8 / k:.2f}, color='{paint[i]}', label='{name}')")
        + f"ax.set_xticks(x, {labels})\nax.set_ylabel('{phrase(rng)}')\nax.legend(loc='{legend}')\n{ticks}",
        "stacked": each(lambda i, name: f"ax.bar({labels}, {table[i]}, bottom={below[i]}, color='{paint[i]}', edgecolor='white', label='{name}')")
        + f"ax.set_ylabel('{phrase(rng)}')\nax.legend(loc='{legend}')\n{ticks}",
        "error": f"ax.errorbar(range({n}), {values}, yerr={[round(v * rng.uniform(0.05, 0.25), 2) for v in values]}, fmt='{mark}{line}', color='{a}', ecolor='{b}', "
                 f"capsize={rng.randint(2, 6)})\n{axes}{grid}",
        "heatmap": f"matrix = np.array({[numbers(rng, n, scale) for _ in range(n - 1)]})\nshown = ax.imshow(matrix, cmap='{cmap}', aspect='auto')\n"
                   + rng.choice(("", "for (i, j), value in np.ndenumerate(matrix):\n    ax.text(j, i, value, ha='center', va='center', color='white', fontsize=8)\n"))
                   + f"ax.set_xticks(range({n}), {labels}, rotation=30)\nfig.colorbar(shown, ax=ax, label='{phrase(rng, 1)}')\n",
        "box": f"boxes = ax.boxplot({samples}, patch_artist=True, tick_labels={labels})\nfor box, color in zip(boxes['boxes'], {paint[:n]}):\n    box.set_facecolor(color)\n"
               f"ax.set_ylabel('{phrase(rng)}')\n{ticks}",
        "violin": f"parts = ax.violinplot({samples}, showmeans=True)\nfor body in parts['bodies']:\n    body.set_facecolor('{a}')\n    body.set_edgecolor('black')\n"
                  f"ax.set_xticks(range(1, {n + 1}), {labels})\nax.set_ylabel('{phrase(rng)}')\n{ticks}",
        "contour": f"x, y = np.meshgrid(np.linspace(-3, 3, 80), np.linspace(-3, 3, 80))\nz = np.sin({rng.randint(1, 3)} * x) * np.cos({rng.randint(1, 3)} * y) "
                   f"+ {rng.choice((0, 0.1, 0.2))} * x * y\nfilled = ax.contourf(x, y, z, levels={rng.randint(6, 16)}, cmap='{cmap}')\nax.contour(x, y, z, levels=5, colors='black', "
                   f"linewidths=0.5)\nfig.colorbar(filled, ax=ax)\n{axes}",
        "hist2d": f"rng = np.random.default_rng({rng.randint(0, 99)})\ncounts = ax.hist2d(rng.normal({rng.randint(-3, 3)}, {rng.randint(1, 3)}, 2000), "
                  f"rng.normal({rng.randint(-3, 3)}, {rng.randint(1, 3)}, 2000), bins={rng.choice((15, 20, 30))}, cmap='{cmap}')\nfig.colorbar(counts[3], ax=ax)\n{axes}",
        "radar": f"angles = np.linspace(0, 2 * np.pi, {n}, endpoint=False)\n" + each(lambda i, name: f"ax.plot([*angles, 0], {[*table[i], table[i][0]]}, color='{paint[i]}', label='{name}')\n"
                 f"ax.fill([*angles, 0], {[*table[i], table[i][0]]}, color='{paint[i]}', alpha=0.2)") + f"{sides}ax.legend(loc='lower right', bbox_to_anchor=(1.3, 0))\n",
        "polar": f"angles = np.linspace(0, 2 * np.pi, {n}, endpoint=False)\nax.bar(angles, {values}, width={rng.choice((0.5, 0.7, 0.9))}, color={paint[:n]}, alpha=0.8)\n{sides}",
        "twin": f"ax.bar({labels}, {values}, color='{a}', alpha=0.6)\nax.set_ylabel('{names[0]}', color='{a}')\n{ticks}other = ax.twinx()\nother.plot({labels}, "
                f"{numbers(rng, n, rng.choice((1, 10, 400)))}, color='{b}', marker='{mark}', linewidth=2)\nother.set_ylabel('{names[1]}', color='{b}')\n",
        "stack": f"ax.stackplot(range({n}), {', '.join(map(str, table))}, labels={names}, colors={paint[:k]}, alpha=0.85)\nax.legend(loc='upper left')\nax.margins(x=0)\n{axes}",
        "bubbles": f"points = ax.scatter({values}, {table[0]}, s={[rng.randint(60, 700) for _ in values]}, c={table[1]}, cmap='{cmap}', alpha=0.8, edgecolors='black')\n"
                   f"fig.colorbar(points, ax=ax, label='{names[0]}')\nax.margins(0.2)\n{axes}{grid}",
        "annotated": f"ax.plot({values}, color='{a}', linewidth={rng.choice((1.5, 2, 3))}, marker='{mark}')\nax.axhline({sorted(values)[n // 2]}, color='{b}', linestyle='--', label='median')\n"
                     f"ax.annotate('{phrase(rng, 1)}', xy=({values.index(max(values))}, {max(values)}), xytext=({n / 2 - 1}, {round(max(values) * 1.15, 2)}), arrowprops=dict(arrowstyle='->'))\n"
                     f"ax.set_ylim(0, {round(max(values) * 1.3, 2)})\nax.legend(loc='lower left')\n{axes}",
        "donut": f"ax.pie({values}, labels={labels}, colors={paint[:n]}, wedgeprops=dict(width={rng.choice((0.3, 0.4, 0.5))}, edgecolor='white'))\n"
                 f"ax.text(0, 0, '{phrase(rng, 1)}', ha='center', va='center', fontsize={rng.choice((10, 12))})\n",
        "surface": f"x, y = np.meshgrid(np.linspace(-3, 3, 40), np.linspace(-3, 3, 40))\nax.plot_surface(x, y, np.{rng.choice(('sin', 'cos'))}({rng.choice(('x', 'y', 'x + y', 'np.hypot(x, y)'))})"
                   f" * {rng.randint(1, 5)}, cmap='{cmap}')\nax.view_init({rng.randrange(20, 60, 10)}, {rng.randrange(0, 360, 30)})\n",
        "lollipop": f"ax.hlines({labels}, 0, {values}, color='{a}', linewidth={rng.randint(1, 4)})\nax.plot({values}, {labels}, '{mark}', color='{b}', markersize=9)\nax.set_xlabel('{phrase(rng)}')\n",
    }[kind]
    return {"radar": "polar", "polar": "polar", "surface": "3d"}.get(kind), code


def finished_chart(code):
    return "import matplotlib.pyplot as plt\n" + ("import numpy as np\n" if "np." in code else "") + f"\n{code}plt.savefig('chart.png')"


def simple_chart(rng):
    _, code = panel(rng, SIMPLE_CHARTS)
    title = f"ax.set_title('{phrase(rng, rng.randint(2, 4))}')\n" if rng.random() < 0.8 else ""
    return finished_chart(f"fig, ax = plt.subplots(figsize=({rng.choice(('5, 4', '6, 4', '8, 4', '5, 5'))}), layout='constrained')\n{code}{title}")


def rich_chart(rng):
    rows, columns = rng.choice(((1, 1), (1, 2), (1, 2), (2, 1), (2, 2), (2, 2), (1, 3)))
    style = rng.choice(("", "", "", f"plt.style.use('{rng.choice(('ggplot', 'seaborn-v0_8-whitegrid', 'bmh', 'fivethirtyeight', 'dark_background'))}')\n",
                        f"plt.rcParams['font.family'] = '{rng.choice(('serif', 'monospace'))}'\n"))
    code = f"{style}fig = plt.figure(figsize=({4 * columns + rng.choice((1, 2))}, {4 * rows + rng.choice((0, 1))}), layout='constrained')\n"
    for i in range(rows * columns):
        projection, chart = panel(rng, RICH_CHARTS if i or rows * columns > 1 else RICH_CHARTS[7:])
        code += f"\nax = fig.add_subplot({rows}, {columns}, {i + 1}{f', projection={projection!r}' if projection else ''})\n{chart}"
        code += f"ax.set_title('{phrase(rng)}', fontsize={rng.choice((10, 11, 12))})\n"
    return finished_chart(code + (f"\nfig.suptitle('{phrase(rng, 3)}', fontsize={rng.choice((14, 16))})\n" if rng.random() < 0.6 else ""))


# ---------------------------------------------------------------------------------------------------------- chemistry
# SMILES grown from fragments, each attached by its first atom. {r} and {s}: digits of the ring bonds, *: hydrogen or a branch.

RINGS = ("c{r}c*c*c*cc{r}", "c{r}cc*c*cc{r}*", "c{r}c*cncc{r}", "c{r}nc*c*nc{r}", "c{r}c*c*sc{r}", "c{r}cc*oc{r}", "c{r}cn*cn{r}", "C{r}C*CC*CC{r}", "C{r}CC*CC{r}", "N{r}CCN*CC{r}", "N{r}CCOCC{r}",
         "N{r}CC*CC{r}", "C{r}CC{r}", "c{r}c*c*c{s}c*cccc{s}c{r}", "c{r}c*c{s}cc*ccc{s}[nH]{r}", "c{r}cnc{s}c*cccc{s}c{r}", "c{r}cc*c{s}OCOc{s}c{r}", "c{r}nc{s}cc*ccc{s}s{r}", "C{r}CCC{s}C*CCCC{s}C{r}", "c{r}c*nn*c{r}")
LINKS = "C CC CCC O OC CO S N NC(=O) C(=O)N C(=O)O C(=O) /C=C/ C#C S(=O)(=O)N C(O) C(C) NC(=O)N CN C(F)(F) CCO".split()
ENDS = "C C O N F Cl Br CC OC C(=O)O C#N C(F)(F)F [N+](=O)[O-] C(C)C C(C)(C)C N(C)C OCC S(C)(=O)=O C(N)=O OC(C)=O SC C=C B(O)O I".split()


def grow(rng, budget, depth=0):
    """SMILES of a branch of up to about `budget` fragments, attached by its first atom."""
    if budget <= 0 or depth == 4:
        return rng.choice(ENDS)
    if rng.random() < 0.3 and depth:
        return rng.choice(LINKS) + grow(rng, budget - 1, depth)
    ring = rng.choice(RINGS).format(r=2 * depth + 1, s=2 * depth + 2)
    return re.sub(r"\*", lambda _: f"({grow(rng, rng.randint(0, budget - 1), depth + 1)})" if rng.random() < 0.55 else "", ring)


def molecule(rng, least, most):
    """SMILES of a random molecule of `least` to `most` heavy atoms, its valences checked by RDKit."""
    from rdkit import Chem, RDLogger
    RDLogger.DisableLog("rdApp.*")
    while True:
        smiles = rng.choice(("", "", rng.choice(ENDS[:6]))) + grow(rng, rng.randint(1, 3))
        found = Chem.MolFromSmiles(smiles)
        if found and least <= found.GetNumHeavyAtoms() <= most:
            return smiles


def indigo(rng, smiles, rich):
    size, colour = rng.choice(("400, 400", "300, 300", "500, 350", "384, 384", "600, 400")), lambda low: ", ".join(f"{rng.uniform(low, 1):.2f}" for _ in range(3))
    options = [f'"render-coloring", {rng.choice(("True", "False"))}', f'"render-bond-line-width", {rng.choice((1.0, 1.5, 2.0, 3.0))}', f'"render-relative-thickness", {rng.choice((0.8, 1.2, 1.6))}',
               f'"render-background-color", {colour(0.85)}', f'"render-label-mode", "{rng.choice(("hetero", "terminal-hetero", "all"))}"', '"render-implicit-hydrogens-visible", False',
               f'"render-margins", {rng.choice((10, 20, 40))}, {rng.choice((10, 20, 40))}', f'"render-comment", "{phrase(rng)}"', '"render-atom-ids-visible", True', '"render-stereo-style", "none"']
    chosen = rng.sample(options, rng.randint(3, 6) if rich else rng.randint(0, 2))
    return ("from indigo import Indigo\nfrom indigo.renderer import IndigoRenderer\n\nindigo = Indigo()\nrenderer = IndigoRenderer(indigo)\nindigo.setOption(\"render-output-format\", \"png\")\n"
            + "".join(f"indigo.setOption({option})\n" for option in [f'"render-image-size", {size}', *chosen]) + f'\nmol = indigo.loadMolecule("{smiles}")\n' + rng.choice(("", "mol.layout()\n"))
            + rng.choice(("", "mol.dearomatize()\n", "mol.aromatize()\n")) + 'renderer.renderToFile(mol, "molecule.png")')


def simple_chem(rng):
    smiles, size = molecule(rng, 5, 22), rng.choice(("300, 300", "400, 400", "400, 400", "500, 400", "256, 256", "450, 300"))
    draw = rng.choice((f"img = Draw.MolToImage(mol, size=({size}))\nimg.save('molecule.png')", f"Draw.MolToFile(mol, 'molecule.png', size=({size}))",
                       f"img = Draw.MolToImage(mol, size=({size}), legend='{phrase(rng)}')\nimg.save('molecule.png')", f"img = Draw.MolToImage(mol, size=({size}), kekulize=False)\nimg.save('molecule.png')"))
    return indigo(rng, smiles, False) if rng.random() < 0.3 else f"from rdkit import Chem\nfrom rdkit.Chem import Draw\n\nmol = Chem.MolFromSmiles('{smiles}')\n{draw}"


def rich_chem(rng):
    kind, colour = rng.choice(("canvas", "canvas", "grid", "match", "indigo")), lambda low: f"({', '.join(f'{rng.uniform(low, 1):.2f}' for _ in range(3))})"
    if kind == "indigo":
        return indigo(rng, molecule(rng, 16, 42), True)
    if kind == "grid":
        found = [molecule(rng, 6, 20) for _ in range(rng.randint(2, 6))]
        return (f"from rdkit import Chem\nfrom rdkit.Chem import Draw\n\nsmiles = {found}\nmols = [Chem.MolFromSmiles(s) for s in smiles]\nimg = Draw.MolsToGridImage(mols, molsPerRow={rng.randint(2, 3)}, "
                f"subImgSize=({rng.choice((200, 250, 300))}, {rng.choice((200, 250))}), legends={[phrase(rng, 1) for _ in found]})\nimg.save('molecules.png')")
    smiles = molecule(rng, 14, 38)
    options = [f"options.bondLineWidth = {rng.randint(1, 4)}", "options.addAtomIndices = True", "options.useBWAtomPalette()", f"options.setBackgroundColour({colour(0.85)})", "options.addStereoAnnotation = True",
               f"options.padding = {rng.choice((0.05, 0.1, 0.2))}", f"options.rotate = {rng.choice((30, 45, 90, 180))}", "options.explicitMethyl = True", f"options.setHighlightColour({colour(0.3)})", "options.fixedBondLength = 30"]
    chosen = "".join(f"{option}\n" for option in rng.sample(options, rng.randint(1, 4)))
    atoms = f"list(mol.GetSubstructMatch(Chem.MolFromSmarts('{rng.choice(('c1ccccc1', 'C=O', '[#7]', '[#8]', 'cc', 'CC'))}')))" if kind == "match" else str(sorted(rng.sample(range(14), rng.randint(2, 6))))
    return (f"from rdkit import Chem\nfrom rdkit.Chem.Draw import rdMolDraw2D\n\nmol = Chem.MolFromSmiles('{smiles}')\ndrawer = rdMolDraw2D.MolDraw2DCairo({rng.choice(('400, 400', '500, 400', '600, 450'))})\n"
            f"options = drawer.drawOptions()\n{chosen}rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol, legend='{phrase(rng)}'{rng.choice(('', f', highlightAtoms={atoms}')) if kind == 'canvas' else f', highlightAtoms={atoms}'})\n"
            "drawer.FinishDrawing()\nwith open('molecule.png', 'wb') as file:\n    file.write(drawer.GetDrawingText())")
