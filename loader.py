"""What the stages read from disk: exact batches (`Stream`, for sft.py), prompts one by one (`Prompts`, for virl.py).

A run of sft.py reads an endless stream of bins, lists of samples that go through the model together. The stream is a
pure function of (files, seed, bin size); where a run stands in it is one integer. Hence a run can be cut anywhere and
goes on exactly, with any number of processes and loading workers.
"""
import bisect
from collections import Counter

import numpy as np

from data import Corpus, check_sample, check_text, epoch_order

POOL = 256  # samples among which those that fit together are looked for; one sample is in one pool of an epoch
UNKNOWN = -1


def pack(lengths, budget):
    """Best-fit-decreasing packing: lengths (all at most budget) -> bins, lists of positions in `lengths`."""
    bins, room = [], []  # room: ascending (tokens left, bin)
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        k = bisect.bisect_left(room, (lengths[i], -1))  # the fullest bin that still takes it
        left, b = room.pop(k) if k < len(room) else (budget, len(bins))
        if b == len(bins):
            bins.append([])
        bins[b].append(i)
        bisect.insort(room, (left - lengths[i], b))
    return bins


def bucket(lengths, size):
    """Samples of similar length together, `size` at a time: lengths -> bins, lists of positions in `lengths`."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i:i + size] for i in range(0, len(order), size)]


class Stream:
    """The endless stream of bins of a corpus.

    make: lengths -> bins (`pack` or `bucket` with their size); measure: list of Sample -> tokens of each; limit: tokens
    above which a sample is set aside; pool: samples that are put into bins together. `set_aside` (id: tokens) and
    `unusable` (id: reason) fill while it is read; the latter stop the run at more than 0.1 % of the corpus.
    """

    def __init__(self, corpus, make, measure, limit, seed, pool=POOL):
        self.corpus, self.make, self.measure, self.limit = corpus, make, measure, limit
        self.seed, self.pool = seed, pool
        self.pools = -(-len(corpus) // pool)  # of an epoch
        self.lengths = np.full(len(corpus), UNKNOWN, np.int32)  # [n] tokens, 0 for a sample that is left out
        self.set_aside, self.unusable = {}, {}
        self.epoch = None, None  # (its number, its order), the last one that was needed

    def bins(self, position=0):
        """Yields (position after it, bin) from `position` on, without end. Raises SystemExit when nothing fits."""
        while (self.lengths != 0).any():
            number, first = divmod(position, self.pool)  # a pool has no more bins than samples
            bins = self.lay_out(number)
            for b in range(first, len(bins)):
                yield number * self.pool + b + 1 if b + 1 < len(bins) else (number + 1) * self.pool, bins[b]
            position = (number + 1) * self.pool
        raise SystemExit(f"error: no sample of {self.corpus.path} fits {self.limit} tokens; raise --max-length.")

    def lay_out(self, number):
        """Pool `number`, counted on over the epochs -> its bins in the order of use: lists of (sample, stand-ins).

        All are numbers of samples. Stand-ins are the next shorter ones of the pool; the first that can be read takes
        the place of a sample whose image cannot.
        """
        epoch, k = divmod(number, self.pools)
        if self.epoch[0] != epoch:
            self.epoch = epoch, self.corpus.order(self.seed, epoch)
        chosen = self.epoch[1][k * self.pool:(k + 1) * self.pool]
        self.learn_lengths(chosen)
        chosen = [int(i) for i in chosen if self.lengths[i]]
        ascending = sorted(chosen, key=lambda i: (self.lengths[i], i))
        stand_ins = {i: tuple(ascending[max(0, k - 3):k][::-1] or ascending[1:4] or [0])
                     for k, i in enumerate(ascending)}
        bins = self.make([int(self.lengths[i]) for i in chosen])
        order = epoch_order(len(bins), self.seed, f"{number}/bins")
        return [[(chosen[i], stand_ins[chosen[i]]) for i in bins[b]] for b in order]

    def learn_lengths(self, numbers):
        """Find out the tokens of these samples, as far as they are not known, and what cannot be used."""
        new = []
        for i in numbers:
            if self.lengths[i] == UNKNOWN:
                sample = self.corpus[i]
                if reason := check_text(sample):
                    self.lengths[i] = 0
                    self.reject(sample.id, reason)
                else:
                    new.append((i, sample))
        for (i, sample), n in zip(new, self.measure([sample for _, sample in new]) if new else ()):
            self.lengths[i] = n if n <= self.limit else 0
            if n > self.limit:
                self.set_aside[sample.id] = n

    def reject(self, id, reason):
        """Note and print an unusable sample. Raises SystemExit as `refuse_wrong_data`."""
        if id not in self.unusable:
            print(f"set aside: {id}: {reason}", flush=True)
        self.unusable[id] = reason
        refuse_wrong_data(self.corpus, self.unusable)


def refuse_wrong_data(corpus, unusable):
    """Raises SystemExit when more than 0.1 % of a corpus are unusable, {id: reason}: no accident but the wrong data."""
    if len(unusable) > len(corpus) / 1000:
        id, reason = list(unusable.items())[-1]
        raise SystemExit(f"error: {len(unusable)} of {len(corpus)} samples of {corpus.path} "
                         f"cannot be used, more than 0.1 %, last {id}: {reason}. `python data.py import` sorts out "
                         "such rows and writes what is left.")


class Prompts:
    """The prompts of ViRL: the usable samples of a corpus, epoch after epoch without end. prompts[position] -> Sample.

    Every sample is looked at once, none is kept: they are read when their turn comes. measure: list of Sample -> tokens
    of each; limit: tokens above which a sample is left out; absent: {language that cannot be rendered: why}; held_out:
    how many samples, at most a tenth of the usable ones, are held out for evaluation.
    `left_out`: Counter of reasons; `held_out`: list of Sample. Raises SystemExit as `refuse_wrong_data`. What stands at
    a position is a pure function of (files, seed), on any rank and after any cut.
    """

    def __init__(self, corpus, measure, limit, absent, seed, held_out=0):
        self.corpus, self.seed, self.left_out, self.epoch = corpus, seed, Counter(), (None, None)
        usable, unusable = [], {}
        for i in range(len(corpus)):
            sample = corpus[i]
            if reason := check_sample(sample, answer=False):
                unusable[sample.id] = reason
            elif sample.language in absent:
                reason = f"in {sample.language}, which cannot be rendered here: {absent[sample.language]}"
            elif measure([sample])[0] > limit:
                reason = f"longer than {limit} tokens"
            if reason:
                self.left_out[reason] += 1
            else:
                usable.append(i)
        refuse_wrong_data(corpus, unusable)
        shuffled = [usable[k] for k in epoch_order(len(usable), 0, "held out")]
        held_out = min(held_out, len(usable) // 10)
        self.held_out, self.used = [self.read(i) for i in shuffled[:held_out]], set(shuffled[held_out:])

    def __len__(self):
        return len(self.used)

    def read(self, i):
        """Sample number i of the corpus, with what a foreign row leaves open."""
        sample = self.corpus[i]
        check_text(sample, answer=False)
        return sample

    def __getitem__(self, position):
        epoch, k = divmod(position, len(self))
        if self.epoch[0] != epoch:
            self.epoch = epoch, [int(i) for i in self.corpus.order(self.seed, epoch) if int(i) in self.used]
        return self.read(self.epoch[1][k])


def held_out_samples(path, measure, limit, most=128, answer=True):
    """The first usable Samples of a held-out set in a fixed random order, at most `most`.

    measure: list of Sample -> tokens of each; one of more than `limit` is passed over; answer: whether a sample must
    have one. Raises SystemExit as `Corpus`.
    """
    corpus, found = Corpus(path), []
    for i in corpus.order(0, 0):
        s = corpus[i]
        if not check_sample(s, answer) and measure([s])[0] <= limit:
            found.append(s)
        if len(found) == most:
            break
    return found
