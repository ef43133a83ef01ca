"""Sampling from the policy: prefill once per prompt, decode many rows together, refill a row as soon as it ends.

A fixed number of slots decode in lock-step. Each slot owns a stretch of a preallocated key/value cache and its own
length; when its answer ends, the next rollout of the queue takes its place at once. The rollouts of one prompt (a
GRPO group) share one prefill. The same function serves ViRL's rollouts and evaluation.

On a GPU a decoding step is hundreds of small kernels whose launches take longer than they do: it is captured once as a
CUDA graph for each (rows, length) it is run at, both rounded up, and replayed.

Left out here: moving rollouts between ranks.

Shapes: B slots in use, T cache length, V vocabulary, K key/value heads, H head size.
"""
import hashlib
import os
import time
import warnings
from collections import defaultdict, deque
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, LinearAttentionLayer

from distributed import gathered

LENGTHS = 256  # tokens: a captured step reads the cache up to a multiple of it


@dataclass
class Rollout:
    """One sampled answer."""
    example: int  # index into the examples given
    sample: int  # index within its group
    token_ids: list  # includes the end-of-turn token when finish == "stop"
    logprobs: list  # of each token, under the distribution it was sampled from
    finish: str  # "stop" | "length"
    text: str


class SlotLayer(DynamicLayer):
    """Keys and values of one decoder layer for all slots: [slots, K, T, H], written in place at each slot's length."""

    def __init__(self, source, slots, capacity, cache):
        """source: this layer of a filled DynamicCache, whose shapes and type of values are taken."""
        super().__init__()
        _, K, _, H = source.keys.shape
        self.keys, self.values = (source.values.new_zeros(slots, K, capacity, H) for _ in range(2))
        self.cache, self.is_initialized, self.dtype, self.device = cache, True, self.values.dtype, self.values.device

    def update(self, key_states, value_states, *args, **kwargs):
        """key_states, value_states [B, K, 1, H]: store them at each slot's length -> views [B, K, longest, H]."""
        B, c = key_states.shape[0], self.cache
        at = c.length[:B, None, None, None].expand_as(key_states)
        self.keys[:B].scatter_(2, at, key_states.to(self.dtype))
        self.values[:B].scatter_(2, at, value_states.to(self.dtype))
        return self.keys[:B, :, :c.longest], self.values[:B, :, :c.longest]

    def fill(self, slots, source, rows):
        """Copy `rows` of a filled layer into `slots` (int tensors [n]). Padding stays masked until overwritten."""
        T = source.keys.shape[2]
        self.keys[slots, :, :T], self.values[slots, :, :T] = source.keys[rows].to(self.dtype), source.values[rows]

    def move(self, source, target):
        """Copy slots `source` to `target` (int tensors [n])."""
        self.keys[target], self.values[target] = self.keys[source], self.values[source]


class SlotState(LinearAttentionLayer):
    """State of one linear-attention layer (Qwen3.5) for all slots, [slots, ...]: of its convolution, and recurrent."""

    def __init__(self, source, slots):
        """source: this layer of a filled DynamicCache, as for SlotLayer."""
        super().__init__()
        self.whole = [x[0].new_zeros(slots, *x[0].shape[1:]) for x in (source.conv_states, source.recurrent_states)]
        self.has_previous_state[0] = self.is_conv_states_initialized[0] = self.is_recurrent_states_initialized[0] = True

    def show(self, B):
        """Let the model see and overwrite the first B slots."""
        self.conv_states[0], self.recurrent_states[0] = (x[:B] for x in self.whole)

    def fill(self, slots, source, rows):
        """Copy the states of `rows` of a filled layer into `slots` (int tensors [n])."""
        for mine, theirs in zip(self.whole, (source.conv_states, source.recurrent_states)):
            mine[slots] = theirs[0][rows]

    def move(self, source, target):
        """Copy slots `source` to `target` (int tensors [n])."""
        for x in self.whole:
            x[target] = x[source]


class SlotCache(Cache):
    """Per-slot cache; the live slots are always the first B, so the model sees views, never copies."""

    def __init__(self, slots, capacity, prefill):
        """prefill: a filled DynamicCache, whose layers give the shapes and types."""
        self.length = torch.zeros(slots, dtype=torch.long, device=prefill.layers[0].device)  # [slots]: tokens stored
        self.rows = torch.arange(slots, device=self.length.device)
        self.longest = 0  # how much of T the attention reads, as a Python int
        super().__init__(layers=[
            SlotState(layer, slots) if isinstance(layer, LinearAttentionLayer) else
            SlotLayer(layer, slots, capacity, self) for layer in prefill.layers])

    def fill(self, slots, prefill, rows, lengths):
        """Copy prompt `rows` of a prefill into `slots` (int tensors [n]); lengths [n] are the prompts' tokens."""
        for layer, source in zip(self.layers, prefill.layers):
            layer.fill(slots, source, rows)
        self.length[slots] = lengths

    def move(self, source, target):
        """Copy slots `source` to `target` (int tensors [n])."""
        for layer in self.layers:
            layer.move(source, target)
        self.length[target] = self.length[source]

    def show(self, B, longest):
        """Let the model see the first B slots, the fullest of which will hold `longest` tokens with the new one;
        returns the mask bool [B, 1, 1, longest] of what each has stored, and the new token."""
        self.longest = longest
        for layer in self.layers:
            if isinstance(layer, SlotState):
                layer.show(B)
        return (torch.arange(self.longest, device=self.length.device) <= self.length[:B, None])[:, None, None]

    def get_seq_length(self, *args, **kwargs):
        """Tokens stored before the new one, as transformers asks: of the fullest slot."""
        return self.longest - 1

    def get_mask_sizes(self, *args, **kwargs):
        """Length and offset of the keys that a mask is for, as transformers asks."""
        return self.longest, 0


def rollout_seed(*parts):
    """A 63-bit seed from what names a rollout (seed of the run, prompt, number in its group): the same on any rank."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def pick(logits, banned, temperature, uniform, top_p=1.0):
    """logits [B, V], uniform [B] in [0, 1) -> token int64 [B], its logprob [B] under the distribution it is drawn from.

    banned: bool [V]. Inverse-CDF sampling needs one uniform number a token, drawn beforehand from the rollout's own
    seed: that is what makes a rollout independent of the rows beside it. Greedy at temperature 0 (logprob then at 1).
    top_p < 1: only the likeliest tokens that together reach that probability (nucleus sampling, arXiv 1904.09751).
    """
    logp = (logits.float() / (temperature or 1.0)).masked_fill(banned, float("-inf")).log_softmax(-1)  # [B, V]
    if temperature == 0:
        token = logp.argmax(-1)
        return token, logp.gather(1, token[:, None])[:, 0]
    if top_p < 1:
        ordered, order = logp.sort(-1, descending=True)  # [B, V]
        beyond = ordered.exp().cumsum(-1) - ordered.exp() >= top_p  # reached without this token
        logp = logp.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), float("-inf")).log_softmax(-1)
    cdf = logp.double().exp().cumsum(-1)  # [B, V]; fp32 loses 1e-3 of mass over a real vocabulary
    token = torch.searchsorted(cdf, (uniform.double() * cdf[:, -1])[:, None], right=True)[:, 0]
    token = token.clamp(max=logp.shape[-1] - 1)  # uniform * mass may round up to all of it
    return token, logp.gather(1, token[:, None])[:, 0]


class Replayed:
    """step(B, longest) as CUDA graphs: run as it is when its rounded arguments are new, then captured; later replayed.

    Rounding bounds the number of graphs; rows and cached tokens beyond those asked for are computed and thrown away.
    """

    def __init__(self, step, slots, capacity):
        self.step, self.slots, self.capacity = step, slots, capacity
        self.graphs, self.pool = {}, torch.cuda.graph_pool_handle()

    def __call__(self, B, longest):
        key = min(self.slots, 1 << (B - 1).bit_length()), min(self.capacity, -(-longest // LENGTHS) * LENGTHS)
        if key in self.graphs:
            return self.graphs[key].replay()
        self.step(*key)
        self.graphs[key] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graphs[key], pool=self.pool):  # nothing is computed in here
            self.step(*key)


def free_memory(device):
    """Bytes that can still be allocated: on a GPU with what PyTorch's allocator holds unused; on a CPU this process'
    share, of 8 GiB where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if os.path.exists("/proc/meminfo"):  # Linux: what is free and what the file cache would give back
        free = int(dict(line.split(":") for line in open("/proc/meminfo"))["MemAvailable"].split()[0]) * 1024
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # elsewhere only the size is known
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def slots_that_fit(prefill, capacity, wanted, budget):
    """How many of the `wanted` slots of `capacity` tokens fit `budget` bytes; prefill: a filled DynamicCache.

    Fewer than wanted: it warns, once. Raises ValueError where not even one fits.
    """
    slot = 0
    for layer in prefill.layers:
        if isinstance(layer, LinearAttentionLayer):
            slot += sum(t[0].nbytes for x in (layer.conv_states, layer.recurrent_states) for t in x.values())
        else:  # keys and values, both of the values' type
            slot += 2 * capacity * layer.values.shape[1] * layer.values.shape[3] * layer.values.element_size()
    if slot > budget:
        raise ValueError(f"the key/value cache of one rollout of {capacity} tokens takes {slot / 1e9:.2f} GB, "
                         f"{budget / 1e9:.2f} GB are free: lower --max-new-tokens, or take smaller images")
    if wanted * slot > budget:
        warnings.warn(f"{budget // slot} of {wanted} slots of {capacity} tokens fit the {budget / 1e9:.2f} GB that are "
                      "free; the others wait for them", stacklevel=3)
    return int(min(wanted, budget // slot))


@torch.no_grad()
def generate(policy, examples, group=1, max_new_tokens=256, temperature=1.0, seeds=None, slots=64, on_finish=None,
             prefill_batch=16, top_p=1.0, check_every=None, budget=None, timing=None):
    """Sample `group` answers to each example.

    examples: list of n Example (prompts); seeds: n lists of `group` ints (default: from the index); temperature 0 is
    greedy; top_p as in `pick`, for evaluation; slots: rollouts decoded together at most; on_finish(rollout) is called
    as soon as an answer ends, so that rendering overlaps decoding; prefill_batch: prompts that go through the model
    together; check_every: steps between looks for answers that have ended (default: 1 on a CPU, 8 on a GPU, which must
    be waited for then); budget: bytes for the cache (default: 0.9 of what is free); timing: a defaultdict to which the
    seconds of `prefill`, `decode` and `gather` are added, the slots times steps of the decoding, `slots`, and how many
    of them were `busy`.
    Returns n lists of `group` Rollout, the same for any slots, prefill_batch and check_every. Raises ValueError when a
    prompt plus max_new_tokens exceeds the context or memory.
    """
    policy.eval()
    too_long = [i for i, e in enumerate(examples) if e.prompt_length + max_new_tokens > policy.context]
    if too_long:
        raise ValueError(f"prompt {too_long[0]} has {examples[too_long[0]].prompt_length} tokens: with max_new_tokens "
                         f"{max_new_tokens} it exceeds the context of {policy.context} (and {len(too_long) - 1} more)")
    device, eos, banned = policy.device, policy.eos_id, policy.banned
    check_every = check_every or (1 if device.type == "cpu" else 8)
    timing = defaultdict(float) if timing is None else timing
    queue = deque((i, g) for i in range(len(examples)) for g in range(group))
    capacity = max((e.prompt_length for e in examples), default=0) + max_new_tokens + check_every
    results = [[None] * group for _ in examples]
    ready = {}  # example -> (prefill cache, row, first logits [V]) until its whole group has started

    def prefill():
        """Run the next prompts of the queue through the model, several at a time, once for all their rollouts."""
        started = time.perf_counter()
        waiting = list(dict.fromkeys(i for i, _ in queue if i not in ready))
        if policy.recurrent:  # its state would take in the padding on the right: only equal lengths go together
            waiting = [i for i in waiting if examples[i].prompt_length == examples[waiting[0]].prompt_length]
        batch = waiting[:prefill_batch]
        store = DynamicCache(config=policy.model.config)
        logits = policy([examples[i] for i in batch], last_only=True, cache=store)  # [prompts, V]
        ready.update({i: (store, row, logits[row]) for row, i in enumerate(batch)})
        timing["prefill"] += time.perf_counter() - started
        return store

    def start():
        """Give each free slot the next rollout of the queue; its first token comes from the prompt's own logits."""
        nonlocal live
        taken = []
        while free and queue:
            example, sample = queue[0]
            if example not in ready:
                if taken:
                    break  # fill what we have before the next prefill allocates
                prefill()
            queue.popleft()
            slot = free.pop(0)
            taken.append((slot, *ready[example]))  # slot, prefill cache, row in it, first logits
            seed = seeds[example][sample] if seeds else rollout_seed(example, sample)
            uniform[slot, :max_new_tokens] = torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(seed))
            owner[slot], stored[slot] = (example, sample), examples[example].prompt_length
            if sample == group - 1:
                del ready[example]
        mine, stores, rows, logits = zip(*taken)
        live = max(live, max(mine) + 1)
        lengths = torch.tensor([stored[slot] for slot in mine])
        positions = torch.stack([examples[owner[slot][0]].position_ids.max() + 1 for slot in mine])
        where, rows = torch.tensor(mine), torch.tensor(rows)
        where, rows, lengths, positions = (x.to(device) for x in (where, rows, lengths, positions))  # [n] each
        for store in {id(s): s for s in stores}.values():
            of_store = torch.tensor([s is store for s in stores], device=device)  # [n]
            cache.fill(where[of_store], store, rows[of_store], lengths[of_store])
        position[where], count[where], ended[where] = positions, 0, 0
        advance(where, torch.stack(logits))

    def step(B, longest):
        """One more token for the first B slots, of which none holds more than `longest` tokens with it."""
        logits = policy.decode(last[:B], position[:B], cache.show(B, longest), cache)  # [B, V]
        cache.length[:B].add_(1).clamp_(max=capacity - 1)  # rows that a captured step takes along stay in their slot
        position[:B] += 1
        advance(cache.rows[:B], logits)

    def advance(where, logits):
        """Sample one token for the slots `where` [n] from logits [n, V]."""
        at = count[where].clamp(max=width - 1)  # [n]
        token, logp = pick(logits, banned, temperature, uniform[where, at], top_p)
        last[where], tokens[where, at], logprobs[where, at] = token, token, logp
        count[where] = at + 1
        over = (ended[where] == 0) & ((token == eos) | (at + 1 == max_new_tokens))
        ended[where] = torch.where(over, at + 1, ended[where])

    def close_gaps():
        """Move the last slots into those that are free, so that the live ones are the first `live`."""
        nonlocal live
        busy = [s for s in range(live) if owner[s] is not None]
        live = len(busy)
        gaps = [s for s in range(live) if owner[s] is None]
        if not gaps:
            return
        last_ones = busy[-len(gaps):]
        source, target = (torch.tensor(x, device=device) for x in (last_ones, gaps))
        cache.move(source, target)
        for row in (uniform, tokens, logprobs, count, position, last, ended):
            row[target] = row[source]
        for s, t in zip(last_ones, gaps):
            owner[t], owner[s], stored[t] = owner[s], None, stored[s]

    def hand_out(lengths):
        """Give away the answers that have ended (lengths [live], 0 of those that go on), and free their slots."""
        for slot in [s for s in lengths.nonzero()[:, 0].tolist() if owner[s] is not None]:
            n, (example, sample) = int(lengths[slot]), owner[slot]
            ids = tokens[slot, :n].tolist()
            finish = "stop" if ids[-1] == eos else "length"
            text = policy.tokenizer.decode(ids[:-1] if finish == "stop" else ids, skip_special_tokens=False)
            results[example][sample] = Rollout(example, sample, ids, logprobs[slot, :n].tolist(), finish, text)
            owner[slot] = None
            free.append(slot)
            timing["busy"] += n - 1  # the first token came with the prefill
            if on_finish:
                on_finish(results[example][sample])

    entered = time.perf_counter()
    with gathered(policy), policy.products():  # autocast keeps its copies of the weights until we leave
        timing["gather"] += time.perf_counter() - entered
        if not queue:
            return results
        store = prefill()
        budget = int(0.9 * free_memory(device)) if budget is None else budget
        slots = slots_that_fit(store, capacity, min(slots, len(queue)), budget)
        cache, live = SlotCache(slots, capacity, store), 0
        width = max_new_tokens + check_every  # an answer that has ended goes on, for nothing, until it is looked at
        run = Replayed(step, slots, capacity) if device.type == "cuda" and not policy.recurrent else step
        uniform, logprobs = (torch.zeros(slots, width, device=device) for _ in range(2))  # [slots, new tokens]
        tokens = torch.zeros(slots, width, dtype=torch.long, device=device)
        # Of each slot: tokens sampled, next text position, newest token, length of the answer (0 while it goes on).
        count, position, last, ended = torch.zeros(4, slots, dtype=torch.long, device=device)  # [slots] each
        owner, stored, free = [None] * slots, [0] * slots, list(range(slots))  # (example, sample), tokens in the cache
        while queue or live:
            while free and queue:
                start()
                hand_out(ended[:live].cpu())
            if free:  # the queue is empty: fewer slots go on
                close_gaps()
                free.clear()
                if not live:
                    break
            started, longest = time.perf_counter(), max(stored[:live]) + check_every
            for _ in range(check_every):
                run(live, longest)
            stored[:live] = [n + check_every for n in stored[:live]]
            lengths = ended[:live].cpu()  # waits for a GPU
            timing["slots"] += slots * check_every
            timing["decode"] += time.perf_counter() - started
            hand_out(lengths)
    return results
