"""dedupe.py: look-alikes stay, near-duplicates go, every row is accounted for, the same again on any number of processes."""
import io

import numpy as np
import pytest
from PIL import Image

import bench
import data
import dedupe
from test_corpus import rejects

SETS = {}


def look_alikes(name):
    if not SETS:
        SETS.update(bench.look_alikes(20))
    return SETS[name]


@pytest.mark.parametrize("name", ["formulas", "charts", "bars of one template", "icons", "molecules"])
def test_look_alikes_stay_and_planted_near_duplicates_go(name):
    """Smaller and re-encoded, with a border, cropped, darker, the code with a comment more; and pictures without any code."""
    items = look_alikes(name)
    assert bench.duplicates(items, True, True) == [0, 1]
    lost, found = bench.duplicates(items, False, True)
    assert lost == 0 and found > 0.5


def test_pairs_of_near_hashes_are_found():
    """All pairs up to 15 bits, against brute force; and the pairs of a crowded band are not lost when there is room."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (300, 4), dtype=np.uint64)
    for k in range(100):  # 1 to 20 bits flipped
        hashes[200 + k] = hashes[k]
        for bit in rng.choice(256, 1 + k // 5, replace=False):
            hashes[200 + k, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    left, right, bits, crowded = dedupe.near_pairs(hashes)
    found = {(int(i), int(j)): int(b) for i, j, b in zip(left, right, bits)}
    assert crowded == 0 and all(found[k, 200 + k] == 1 + k // 5 for k in range(75)) and all(b <= dedupe.CANDIDATES for b in found.values())
    true = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(-1)
    assert all(true[i, j] == b for (i, j), b in found.items())
    same = np.zeros((40, 4), np.uint64)
    assert len(dedupe.near_pairs(same)[0]) == 40 * 39 // 2 and dedupe.near_pairs(same, longest=5)[3] > 0


@pytest.mark.parametrize("language, a, b, same", [
    ("python", "x = 1  # one\ny = '#ff0000'", "x=1\n\ny = '#ff0000'", True), ("python", "c = '#ff0000'", "c = '#00ff00'", False),
    ("latex", "a % note\nb 5\\% c", "a b 5\\% c", True), ("svg", "<!-- x --><svg>1</svg>", "<svg>1</svg>", True), ("html", "<p>1</p>", "<p>2</p>", False)])
def test_tokens_leave_comments_out(language, a, b, same):
    assert (dedupe.tokens(language, a) == dedupe.tokens(language, b)) == same


def sample(name, image, code, split="sft", task="generate", prompt="draw", domain="svg"):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return split, data.Sample(prompt, data.fenced("svg", code) if code else "", buffer.getvalue(), id=name, domain=domain, language="svg", task=task)


def write(path, samples):
    for split in {s for s, _ in samples}:
        mine = [x for s, x in samples if s == split]
        for k, part in enumerate((mine[::2], mine[1::2])):
            if part:
                data.write_samples(part, path / split / f"part-{k}.parquet")


def kept(path):
    return {s.id for split in data.split_dirs(path) for s in data.read_samples(split)}


def test_which_of_two_stays(tmp_path, capsys):
    """Test before sft before rl; a refinement sample beside its twin; every row kept or told why not; again with two processes and resumed."""
    icons = look_alikes("icons")
    image, code = icons[0][0], icons[0][1]
    samples = [sample("a", image, code), sample("copy", bench.planted(image, 0), "<!-- x -->" + code), sample("target", image, "", "rl"),
               sample("held out", icons[1][0], icons[1][1], "test"), sample("leak", bench.planted(icons[1][0], 1), icons[1][1]),
               sample("twin", image, code, task="refine", prompt="correct <x>"), sample("twin 2", image, code, task="refine", prompt="correct <y>"),
               sample("leak by refinement", bench.planted(icons[1][0], 1), icons[1][1], task="refine", prompt="correct <z>"), sample("other", icons[2][0], icons[2][1])]
    write(tmp_path / "in", samples)
    dedupe.dedupe(tmp_path / "in", tmp_path / "out", workers=1)
    assert kept(tmp_path / "out") == {"a", "held out", "twin", "twin 2", "other"}
    found = {r["id"]: r for r in rejects(tmp_path / "out")}
    assert len(found) + 5 == len(samples) and {r["id"]: r["of"] for r in found.values()} == {"copy": "a", "target": "a", "leak": "held out", "leak by refinement": "held out"}
    assert found["target"]["rule"] == "same pixels" and found["copy"]["rule"] == "same code"
    assert "read 9, kept 5, rejected 4" in capsys.readouterr().out
    stamp = [f.stat().st_mtime_ns for f in sorted((tmp_path / "out").glob("*/*.parquet"))]
    dedupe.dedupe(tmp_path / "in", tmp_path / "out", workers=1)
    assert stamp == [f.stat().st_mtime_ns for f in sorted((tmp_path / "out").glob("*/*.parquet"))]  # nothing is done again
    dedupe.dedupe(tmp_path / "in", tmp_path / "two", workers=2)
    assert kept(tmp_path / "two") == kept(tmp_path / "out") and rejects(tmp_path / "two") == rejects(tmp_path / "out")


def test_decontamination_by_picture_and_by_code(tmp_path, capsys):
    """Against an evaluation set with and without answers; code that all programs share does not count; test is left alone."""
    icons = look_alikes("icons")
    preamble = " ".join(f"<x{k}/>" for k in range(30))
    blank = Image.new("RGB", (64, 64), "white")

    def picture(seed):
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1))

    unique = " ".join(f"<y{k}/>" for k in range(30))
    samples = [sample(f"plain {k}", picture(k), preamble + f"<z{k}/>") for k in range(110)]
    samples += [sample("by picture", bench.planted(icons[0][0], 0), ""), sample("by code", picture(200), unique + "<w/>"), sample("both", icons[1][0], icons[1][1]),
                sample("in test", icons[0][0], "", "test")]
    write(tmp_path / "in", samples)
    evaluation = [sample("e0", icons[0][0], "", "e"), sample("e1", blank, preamble + " " + unique, "e"), sample("e2", icons[1][0], icons[1][1], "e"), sample("e3", picture(999), preamble, "e")]
    write(tmp_path, evaluation)
    dedupe.decontaminate(tmp_path / "in", [tmp_path / "e"], tmp_path / "out", workers=1)
    assert {r["id"]: (r["of"], r["rule"].rpartition(" by ")[2]) for r in rejects(tmp_path / "out")} == {
        "by picture": ("e0", "image"), "by code": ("e1", "code"), "both": ("e2", "image and code")}
    assert kept(tmp_path / "out") == {x.id for _, x in samples} - {"by picture", "by code", "both"}
    printed = capsys.readouterr().out
    assert "read 114, kept 111, rejected 3" in printed and "part-0.parquet: 2 samples" in printed


def test_unreadable_pictures_are_one_line(tmp_path):
    split, broken = sample("a", Image.new("RGB", (9, 9)), "<svg/>")
    broken.image = b"no picture"
    write(tmp_path / "in", [(split, broken)])
    with pytest.raises(SystemExit, match="row 0 .* unreadable image.*data.py filter"):
        dedupe.dedupe(tmp_path / "in", tmp_path / "out", workers=1)
