"""Visual code refinement data: target image + defective code -> corrected code.

    python data.py refine out/clean --out out/refined                                      # defects made by operators
    python data.py refine out/clean --out out/refined --from out/eval/predictions.jsonl    # and a model's own mistakes

The defects are those of defects.py or a model's own. A pair is kept if its correct side runs and its defective side
draws a visibly other picture, or fails; of the defects 20 % at most fail, and the prompt then says how. Some programs
are not defective at all: a model must also learn to leave things alone.
"""
import random
import re
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import corpus
import data
from defects import mutate, one_line
from reward import extract_code

TRIES = 8
VISIBLE = 1 / 2000  # share of pixels that must change by more than 32 of 255 levels; see `visible`
MOST_FAILING = 0.2  # of the defects
REWRITE = 0.3  # share of the characters that operators may change at most
SAME = 0.98  # reward.visual from which on a model's answer is right


def visible(a, b):
    """Do two pictures, uint8 [H, W, 3], differ in size or in more than VISIBLE of their pixels?

    0.5 % of the pixels would be too strict for words and thin lines: of single edits to real programs, 4 of 36 to words of
    web pages, 5 of 25 to texts of charts and 1 of 24 to arrows pass it; 26, 22 and 13 pass 1/2000.
    """
    import numpy as np
    return a.shape != b.shape or (np.abs(a.astype(int) - b).max(-1) > 32).mean() > VISIBLE


def edit_share(a, b):
    """Characters that two programs do not share, as a fraction of the longer one."""
    words = [re.findall(r"\w+|\W", code) for code in (a, b)]
    lengths = [len(word) for word in words[0]]
    same = sum(sum(lengths[m.a:m.a + m.size]) for m in SequenceMatcher(None, *words, autojunk=max(map(len, words)) > 2000).get_matching_blocks())
    return 1 - same / max(len(a), len(b), 1)


def plan(seed, id, correct):
    """What a sample's pair will be, "none" (no defect, with probability `correct`), "failing" or "visible", and the rng that makes it."""
    rng = random.Random(f"{seed}/{id}")
    drawn = rng.random()
    return "none" if drawn < correct else "failing" if rng.random() < 0.15 else "visible", rng


def refine_prompt(language, code, message=""):
    """The instruction of a refinement sample; message: of the renderer, where the program fails."""
    prompt = data.REFINE.format(name=data.NAMES[language], language=language, code=code)
    return prompt + ("\nRunning it fails: " + one_line(message.replace("```", "'''"), 300) if message else "")


def pair_of(sample, id, code, operator, change, message=""):
    """The refinement sample of a defective program; message as in `refine_prompt`."""
    answer = data.fenced(sample.language, extract_code(sample.answer, sample.language)[0])
    return replace(sample, id=id, task="refine", prompt=refine_prompt(sample.language, code, message), answer=answer, operator=operator, change=change)


def defect(rng, sample, code, right, failing, draw, operators):
    """Mutate until the program fails (failing) or draws visibly another picture than `right`: (code, names, changes, message), None after TRIES in vain.

    operators: {name: Counter}, which takes down what each did.
    """
    for _ in range(TRIES):
        found = mutate(rng, sample.domain, code, 1 if failing else rng.choice((1, 1, 1, 2, 2, 3)), failing)
        if not found or edit_share(code, found[0]) > REWRITE or extract_code(data.fenced(sample.language, found[0]), sample.language)[0] != found[0]:
            continue
        render = draw(sample, found[0])
        fails, shows = render.status in ("error", "timeout", "rejected"), render.status == "ok" and visible(right.image, render.image)
        for name in found[1].split("+"):
            operators.setdefault(name, Counter()).update({"tried": 1, "visible": int(shows), "failing": int(fails)})
        if (fails if failing else shows):
            return *found, render.message or render.status if fails else ""
    return None


def model_defect(sample, responses, right, draw, may_fail, counts):
    """The first of a model's answers that is a defect: (code, "model", change, message), None where there is none.

    It may differ from the correct program in everything: a model does not edit, it writes anew. counts: a Counter of what
    the answers are.
    """
    from reward import features, visual_parts
    for i, response in enumerate(responses):
        code = extract_code(response, sample.language)[0]
        if code is None:
            counts["no code"] += 1
            continue
        render = draw(sample, code)
        if render.status == "ok":
            same = not visible(right.image, render.image) or visual_parts(features(right.image, right), render.image, render.texts)["visual"] >= SAME
            kind = "right" if same else "differs"
        else:
            kind = "renderer failed" if render.status == "infra" else "fails" if may_fail else "fails, as enough others do"
        counts[kind] += 1
        if kind in ("differs", "fails"):
            counts["not needed"] += len(responses) - i - 1
            message = render.message or render.status if kind == "fails" else ""
            return code, "model", one_line(message, 120) or "render differs", message
    return None


def refine_file(path, number, out, split, only, predictions, correct, seed, timeout, unsafe):
    """Make the refinement samples of one parquet file: part `number` of a split.

    -> record with "read", "kept" {kind: pairs}, "rejected", "operators" {name: counts} and "model" (what the predictions are).
    """
    from render import Renderer
    stamp = lambda file: file and [str(file), file.stat().st_size, file.stat().st_mtime_ns]
    wanted = [stamp(path), stamp(predictions), only, correct, seed, timeout]
    if record := corpus.finished(out, number, wanted):
        return record
    writer, rejects, read, kept, operators, model, responses = corpus.Writer(out / split / f"part-{number:05d}.parquet"), [], 0, Counter(), {}, Counter(), {}
    if predictions:
        from eval import read_predictions
        found, aside = read_predictions([predictions], {row.get("id") for row in corpus.raw_rows(path)})
        model["duplicates"] = aside["duplicates"]
        for (id, _, _), row in found.items():
            responses.setdefault(id, []).append(row["response"])
    with Renderer(1, timeout, unsafe=unsafe) as renderer:
        draw = lambda sample, code: renderer.submit(sample.language, code, (sample.width, sample.height)).result()
        room = lambda: kept["failing"] + 1 <= MOST_FAILING * (kept["failing"] + kept["visible"] + 1)  # for one more failing defect
        for i, row in enumerate(corpus.raw_rows(path)):
            read += 1
            sample, right = corpus.sample_of(row), None
            sample.id = sample.id or f"{split}-{number}-{i}"
            reason = data.check_sample(sample, answer=sample.answer.strip() != "") or ("target without code" if not sample.answer.strip() else "") or (
                "a refinement sample already" if sample.task == "refine" else "")
            if not only:
                writer.add(sample)
            if not reason:
                code, (kind, rng) = extract_code(sample.answer, sample.language)[0], plan(seed, sample.id, correct)
                right = draw(sample, code)
                if right.status != "ok":
                    reason = f"the correct side does not run: {right.status}"
                elif kind == "none":
                    found = code, "none", "", ""
                else:
                    found = kind == "failing" and room() and defect(rng, sample, code, right, True, draw, operators)
                    found = found or defect(rng, sample, code, right, False, draw, operators)
                    reason = "" if found else "no visible defect found"
            if reason:
                rejects.append({"input": str(path), "row": i, "id": sample.id, "reason": reason, "prompt": sample.prompt[:200], "answer": sample.answer[:500]})
            else:
                kept["none" if kind == "none" else "failing" if found[3] else "visible"] += 1
                for name in found[1].split("+"):
                    operators.setdefault(name, Counter())["kept"] += 1
                writer.add(pair_of(sample, f"{sample.id}-refine", *found))
            if not right or right.status != "ok":
                model["sample not used"] += len(responses.get(sample.id, ()))
            elif found := model_defect(sample, responses.get(sample.id, ()), right, draw, room(), model):
                kept["failing" if found[3] else "visible"] += 1
                operators.setdefault("model", Counter()).update({"kept": 1})
                writer.add(pair_of(sample, f"{sample.id}-refine-model", *found))
    writer.close()
    return corpus.finish(out, number, {"input": wanted, "read": read, "kept": kept, "operators": operators, "model": model}, rejects)


def refine_samples(path, out, only=False, predictions=None, correct=0.07, seed=0, timeout=10.0, workers=None, unsafe=False):
    """Write refinement samples, and unless `only` the samples they are made of, to the same splits below `out`. Prints what became of each.

    predictions: a predictions.jsonl of eval.py, whose wrong answers become defects too; correct: share of programs without a defect.
    """
    out, jobs, predictions = Path(out), [], predictions and Path(predictions)
    if predictions and not predictions.is_file():
        raise SystemExit(f"error: {predictions} does not exist. Give --from the predictions.jsonl that `python eval.py --model DIR` writes.")
    if out.resolve() == Path(path).resolve():
        raise SystemExit(f"error: --out {out} is the directory that is read. Give another one.")
    for split in data.split_dirs(path):
        for file in data.parquet_files(split):
            jobs.append((file, len(jobs), out, split.name, only, predictions, correct, seed, timeout, unsafe))
    out.mkdir(parents=True, exist_ok=True)
    records = corpus.in_processes(refine_file, jobs, workers, out, "refine")
    kept, model, rejected, operators = Counter(), Counter(), Counter(), {}
    for record in records:
        for total, key in ((kept, "kept"), (model, "model"), (rejected, "rejected")):
            total.update(record[key])
        for name, counts in record["operators"].items():
            operators.setdefault(name, Counter()).update(counts)
    print(f"read {sum(r['read'] for r in records)}, kept {sum(kept.values())} pairs: {kept['visible']} with a visible defect, {kept['failing']} that fail, "
          f"{kept['none']} without defect; rejected {sum(rejected.values())} (in {out / 'rejects.jsonl'})")
    print(f"  {'operator':22}" + "".join(f"{c:>9}" for c in ("tried", "kept", "visible", "failing")))
    for name, counts in sorted(operators.items()):
        print(f"  {name:22}" + "".join(f"{counts[c]:9}" for c in ("tried", "kept", "visible", "failing")))
    if predictions:
        lines = sum(1 for line in open(predictions) if line.strip())
        model["broken or of no sample here"] = lines - sum(model.values())
        print(f"{lines} predictions: " + ", ".join(f"{n} {kind}" for kind, n in model.most_common() if n))
    for reason, n in rejected.most_common():
        print(f"  rejected {n}: {reason}")
