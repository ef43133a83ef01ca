"""loader.py: bins that lose nothing, cut anywhere and gone on with exactly, by any number of processes."""
import itertools
import random

import numpy as np
import pytest
import torch
from conftest import drawn_samples

import data
import loader

@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    """310 samples in three files, row groups of 16; the answers' lengths vary widely."""
    import pyarrow.parquet as pq
    path, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    path.joinpath("sft").mkdir()
    samples = drawn_samples(310)
    for i, s in enumerate(samples):
        s.id, s.answer, s.language = f"s{i}", data.fenced("svg", "x" * int(rng.lognormvariate(4, 1))), "svg"
    for k, part in enumerate((samples[:100], samples[100:250], samples[250:])):
        pq.write_table(data.table_of(part), path / "sft" / f"part-{k}.parquet", row_group_size=16)
    return path / "sft"


def stream_of(path, pack, limit=600, pool=64):
    make = (lambda lengths: loader.pack(lengths, 1000)) if pack else (lambda lengths: loader.bucket(lengths, 8))
    return loader.Stream(data.Corpus(path), make, lambda samples: [40 + len(s.answer) for s in samples], limit, seed=5, pool=pool)


def steps_of(path, pack, position, world, workers, n):
    """Sample numbers of the `n` steps from `position`, put together from all ranks as sft.py reads them -> (steps, positions after)."""
    from types import SimpleNamespace

    import torch

    import sft
    args, by_rank = SimpleNamespace(pack=1000 * pack, batch=3 if pack else 8, micro_batch=3), []
    for rank in range(world):
        keys = type("Keys", (torch.utils.data.Dataset,), {"__getitem__": lambda self, key: key})()
        loader = iter(torch.utils.data.DataLoader(keys, batch_sampler=sft.shares(stream_of(path, pack), position, args, rank, world), num_workers=workers,
                                                  collate_fn=list, worker_init_fn=sft.own_signals, multiprocessing_context="fork" if workers else None))
        by_rank.append([next(loader) for _ in range(n)])
    for ranks in zip(*by_rank):
        assert len({share[0][3] for share in ranks}) == 1
    return [sorted(i for share in ranks for i, _, _, _, counts in share if counts) for ranks in zip(*by_rank)], [share[0][3] for share in by_rank[0]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores, on purpose
@pytest.mark.parametrize("pack", [True, False])
def test_cut_anywhere_goes_on_exactly(corpus_dir, pack):
    """12 random cuts each, loading processes 0, 2 or 4 and world size 1, 2 or 4, drawn anew after the cut: no sample lost or seen twice."""
    steps, positions = steps_of(corpus_dir, pack, 0, 1, 0, 60)
    stream = stream_of(corpus_dir, pack)
    epoch = [i for position, b in itertools.islice(stream.bins(), 200) if position <= 5 * 64 for i, _ in b]
    assert sorted(epoch) == sorted(np.flatnonzero(stream.lengths)) and len(epoch) + len(stream.set_aside) == 310 and stream.set_aside
    assert [i for step in steps for i in step] != sorted(i for step in steps for i in step)
    flat = [i for step in steps for i in step]
    assert sorted(flat[:len(epoch)]) == sorted(epoch) or pack  # packed steps may end in the next epoch
    rng = random.Random(1)
    for _ in range(12):
        cut, after = rng.randrange(1, 50), rng.randrange(1, 10)
        before = steps_of(corpus_dir, pack, 0, rng.choice((1, 2, 4)), rng.choice((0, 2, 4)), cut)
        assert before == (steps[:cut], positions[:cut])
        assert steps_of(corpus_dir, pack, before[1][-1], rng.choice((1, 2, 4)), rng.choice((0, 2, 4)), after) == (steps[cut:cut + after], positions[cut:cut + after])


def test_corpus_reads_by_number_what_read_samples_reads(corpus_dir):
    corpus, samples = data.Corpus(corpus_dir), data.read_samples(corpus_dir)
    assert [corpus[i] for i in range(310)] == samples and corpus[309] == samples[309] and corpus[0] == samples[0]
    assert len(corpus.cache) <= data.WINDOW
    a = corpus.order(0, 0)
    assert sorted(a) == list(range(310)) and (a == data.Corpus(corpus_dir).order(0, 0)).all()
    assert (a != corpus.order(0, 1)).any() and (a != corpus.order(1, 0)).any()


def test_packing_fills_rows_and_loses_nothing():
    rng = random.Random(0)
    for n, budget in ((256, 1000), (1, 10), (40, 64)):
        lengths = [rng.randint(1, budget) if i % 7 else budget for i in range(n)]
        bins = loader.pack(lengths, budget)
        assert sorted(i for b in bins for i in b) == list(range(n)) and all(sum(lengths[i] for i in b) <= budget for b in bins)
    assert loader.pack([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]  # best fit decreasing, by hand
    lengths = [min(8192, int(rng.lognormvariate(7.4, 0.7))) for _ in range(256)]
    assert sum(lengths) / (16384 * len(loader.pack(lengths, 16384))) > 0.95


def test_more_than_a_thousandth_unusable_stops_the_stream(corpus_dir, tmp_path):
    samples = data.read_samples(corpus_dir)
    samples[7].answer = "no fence"
    data.write_samples(samples, tmp_path / "x.parquet")
    with pytest.raises(SystemExit, match="1 of 310 samples .* answer without one"):
        next(stream_of(tmp_path, True, pool=310).bins())


def test_unreadable_image_is_replaced_by_the_next_shorter_sample(corpus_dir, tiny, tmp_path):
    """The same stand-in in every run, its reason told; its own length is at most that of the sample it replaces."""
    import policy
    import sft
    samples = data.read_samples(corpus_dir)[:40]
    samples[5].image = samples[5].image[:-30]  # the header is intact
    data.write_samples(samples, tmp_path / "x.parquet")
    stream, dataset = stream_of(tmp_path, True), sft.Encoded(data.Corpus(tmp_path), policy.load_policy(tiny, weights=False), 0)
    stand_ins = {i: others for _, b in itertools.islice(stream.bins(), len(stream.lay_out(0))) for i, others in b}
    key, example, replaced = dataset[5, stand_ins[5]]
    assert list(replaced) == [5] and "unreadable image" in replaced[5]
    assert torch.equal(example.input_ids, dataset.encode(stand_ins[5][0]).input_ids) and stream.lengths[stand_ins[5][0]] <= stream.lengths[5]
    assert not any(dataset[i, others][2] for i, others in stand_ins.items() if i != 5)


def test_row_groups_too_large_to_read_in_pieces_are_refused(corpus_dir, monkeypatch):
    monkeypatch.setattr(data, "LARGEST_GROUP", 1000)
    with pytest.raises(SystemExit, match="row groups of 0 MB: `python data.py import`"):
        data.Corpus(corpus_dir)
