"""What is in a data directory: `data.py stats` counts, `data.py view` shows.

    python data.py stats out/data
    python data.py view out/data --model out/tiny         # offline: which tokens are supervised
"""
import base64
import html
from collections import Counter
from pathlib import Path

from data import Corpus, open_image, opened, parquet_files, sample_from, split_dirs
from parts import over_files

STYLE = """body{font:14px sans-serif}
img{max-width:240px;border:1px solid #ccc}
pre{white-space:pre-wrap;max-width:60em}
td{vertical-align:top;border-top:1px solid #ddd;padding:6px}
td:first-child{max-width:16em;overflow-wrap:anywhere}
.prompt{color:#777}
.answer0{background:#cfe8cf}
.answer1{background:#b3dcee}"""


def count_file(path):
    """(Counter of sources, {kind: lengths in characters}) of a parquet file of samples; no image is read."""
    columns = ("user_content", "assistant_content", "domain", "language", "task", "source")
    sources, kinds = Counter(), {}
    for _, parquet in opened(path):
        for batch in parquet.iter_batches(1024, columns=[c for c in columns if c in parquet.schema_arrow.names]):
            for row in batch.to_pylist():
                s = sample_from(row)
                sources[s.source] += 1
                kind = s.domain, s.language, s.task, "with code" if s.answer else "no code"
                kinds.setdefault(kind, []).append(len(s.answer or s.prompt))
    return sources, kinds


def stats(path):
    """Print what a data directory holds: per split and kind the number of samples and the length of their code."""
    for split in split_dirs(path):
        Corpus(split)  # one line where something is no file of samples
        sources, kinds = Counter(), {}
        for found, lengths in over_files(count_file, parquet_files(split)):
            sources.update(found)
            for kind, sizes in lengths.items():
                kinds.setdefault(kind, []).extend(sizes)
        names = f": {', '.join(sorted(sources))}" if len(sources) < 4 else ""
        print(f"{split}: {sources.total()} samples of {len(sources)} source(s){names}")
        for kind, sizes in sorted(kinds.items()):
            sizes.sort()
            print("  {:6} {:7} {:9} {:9}".format(*kind)
                  + f" {len(sizes):6}  characters median {sizes[len(sizes) // 2]}, max {sizes[-1]}")


def token_marks(policy, sample):
    """The tokens of a sample as training sees them, as HTML: the supervised ones on colour, image tokens as a count."""
    try:
        example = policy.encode(sample.prompt, open_image(sample), sample.answer or None)
    except ValueError as error:
        return f"cannot be encoded: {html.escape(str(error))}"
    marks, n_image = [], int((example.input_ids == policy.model.config.image_token_id).sum())
    for t, token in enumerate(example.input_ids.tolist()):
        if token != policy.model.config.image_token_id:
            kind = "prompt" if t < example.prompt_length else f"answer{t % 2}"
            marks.append(f"<span class={kind}>{html.escape(policy.tokenizer.decode([token]))}</span>")
        elif not marks or not marks[-1].startswith("<i>"):
            marks.append(f"<i>[{n_image} image tokens]</i>")
    supervised = len(example.input_ids) - example.prompt_length
    return f"<p>{len(example.input_ids)} tokens, {supervised} supervised</p><pre>{''.join(marks)}</pre>"


def view(path, out, limit=60, model=""):
    """Write an offline HTML page of the first `limit` samples of each split: target, instruction, answer.

    model: a model directory, whose tokens are then shown in place of the texts, the supervised ones on colour, "" for
    none. Code is shown as escaped text only.
    """
    policy, head, cards = None, "<th>instruction<th>answer (supervised)", []
    if model:
        from policy import load_policy  # and with it torch
        policy = load_policy(model, weights=False)
        head = ("<th colspan=2>tokens: <span class=prompt>prompt</span>, "
                "<span class=answer0>super</span><span class=answer1>vised</span>")
    for split in split_dirs(path):
        corpus = Corpus(split)
        for s in (corpus[i] for i in range(min(limit, len(corpus)))):
            text = f"<td colspan=2>{token_marks(policy, s)}</td>" if policy else "".join(
                f"<td><pre>{html.escape(part)}</pre></td>" for part in (s.prompt, s.answer or "(no code)"))
            words = [split.name, s.id, f"{s.language} {s.task}", *([s.operator, s.change] if s.operator else [])]
            cards.append(f"<tr><td>{'<br>'.join(map(html.escape, words))}</td><td><img src='data:image/png;base64,"
                         f"{base64.b64encode(s.image).decode()}'></td>{text}</tr>")
    Path(out).write_text(f"<!doctype html><meta charset=utf-8><title>samples</title><style>{STYLE}</style>"
                         f"<table><tr><th>sample<th>target{head}</tr>{''.join(cards)}</table>", encoding="utf-8")
    print(f"wrote {out}: {len(cards)} samples")
