"""A replica's engine, simulated: continuous batching with chunked prefill and an automatic prefix cache, as in vLLM.

Every step serves all running sequences: one token each for those that decode, and prompts in chunks from what is left
of the step's token budget, first come, first served. A prompt's whole blocks that are cached are not computed again;
blocks nobody uses are evicted, least recently used first. Draws of one prompt are sequences of their own that find
each other's blocks, in the same step too. What a step takes is the cost model below.

Left out: preemption (room for the whole reply is kept from the beginning), and the tokenizer (a token is 4 characters).
"""

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

CHARACTERS = 4  # a token
BLOCK = 16  # tokens, vLLM's default


@dataclass(frozen=True)
class Hardware:
    """One H100 SXM (80 GB) with Llama 3.1 8B in bf16, by the data sheets: 3.35 TB/s, 989 TFLOPS dense, 8.03e9 weights,
    32 layers, 8 KV heads of 128, 4096 wide. The two efficiencies and the two overheads are assumptions.

    kv_tokens: 0.9 of 80 GB less 16 GB of weights and some 4 GB of activations, at 128 KiB a token. The step's budgets
    are vLLM's defaults for its server on that GPU, with 256 sequences rather than 1,024.
    """

    bandwidth: float = 0.75 * 3.35e12  # bytes a second
    flops: float = 0.5 * 989e12  # a second
    weights: float = 8.03e9
    kv_bytes: int = 131_072  # of one token
    attention_flops: float = 4.0 * 32 * 4096  # of one token to one before it
    step_s: float = 0.001
    sequence_s: float = 8e-6  # a sequence in a step: sampling, detokenizing, bookkeeping
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    kv_tokens: int = 400_000

    def seconds(self, tokens: int, context: int, attended: float, sequences: int) -> float:
        """A step: `tokens` in all, decoding over `context` tokens, `attended` pairs in prompts."""
        read = 2 * self.weights / self.bandwidth
        computed = (2 * self.weights * tokens + self.attention_flops * attended) / self.flops
        decoded = context * self.kv_bytes / self.bandwidth
        return self.step_s + max(read, computed) + decoded + self.sequence_s * sequences


def tokens_of(text: str) -> int:
    return max(1, -(-len(text) // CHARACTERS))


def hashes_of(text: str) -> list[int]:
    """Of the text's growing beginnings, in whole blocks."""
    size = BLOCK * CHARACTERS
    found: list[int] = []
    for start in range(0, len(text) - size + 1, size):
        found.append(hash((found[-1] if found else 0, text[start : start + size])))
    return found


@dataclass(eq=False)
class Draw:
    """One sequence: `prompt` is read, `reply` is what it will write."""

    prompt: str
    reply: str
    hashes: list[int]
    over: "asyncio.Future[Draw]"
    tokens: int = 0
    cached: int = 0  # tokens of the prompt that were found
    computed: int = 0  # tokens of the prompt that are there
    held: list[int] = field(default_factory=list)
    private: int = 0  # blocks of its own, not in the cache


@dataclass
class Counts:
    """Since the engine began. Tokens of prompts that were asked for and that were found; seconds at work."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    evicted_blocks: int = 0
    busy_s: float = 0.0


class Blocks:
    """The KV cache: blocks in use, and blocks that would be found again."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used: dict[int, int] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()
        self.private = 0
        self.evicted = 0

    def found(self, draw: Draw) -> int:
        """How many of the prompt's first blocks are there. The last token is computed in any case."""
        most = (draw.tokens - 1) // BLOCK
        for i, block in enumerate(draw.hashes[:most]):
            if block not in self.used and block not in self.idle:
                return i
        return min(most, len(draw.hashes))

    def admit(self, draw: Draw) -> bool:
        """Take what the sequence needs to its end, if there is room."""
        hits = draw.hashes[: self.found(draw)]
        needed = -(-(draw.tokens + tokens_of(draw.reply)) // BLOCK)
        revived = sum(block in self.idle for block in hits)
        if len(self.used) + self.private + revived + needed - len(hits) > self.size:
            return False
        for block in hits:
            self._use(block)
        draw.held, draw.private = list(hits), needed - len(hits)
        draw.computed = draw.cached = len(hits) * BLOCK
        self.private += draw.private
        self._fit()
        return True

    def _use(self, block: int) -> None:
        self.idle.pop(block, None)
        self.used[block] = self.used.get(block, 0) + 1

    def publish(self, draw: Draw) -> None:
        """What of the prompt is computed can be found by others."""
        for block in draw.hashes[len(draw.held) : draw.computed // BLOCK]:
            self._use(block)
            draw.held.append(block)
            draw.private -= 1
            self.private -= 1

    def release(self, draw: Draw) -> None:
        """The sequence has ended; its prompt and its reply stay until room is needed, the ends to go first."""
        self.private -= draw.private
        for block in draw.held:
            self.used[block] -= 1
            if not self.used[block]:
                del self.used[block]
        for block in reversed(hashes_of(draw.prompt + draw.reply)):
            if block not in self.used:
                self.idle[block] = None
                self.idle.move_to_end(block)
        self._fit()

    def _fit(self) -> None:
        while self.idle and len(self.used) + self.private + len(self.idle) > self.size:
            self.idle.popitem(last=False)
            self.evicted += 1


class Engine:
    """Sequences in, steps out: `step` does the next one and says how long it takes."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.counts = Counts()
        self.blocks = Blocks(hardware.kv_tokens // BLOCK)
        self.waiting: deque[Draw] = deque()
        self.prefilling: list[Draw] = []
        self.decoding: list[tuple[int, int, Draw]] = []  # the step after which it ends
        self._context = 0  # tokens behind those that decode
        self._steps = 0
        self._order = count()

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.prefilling or self.decoding)

    def add(self, draw: Draw) -> None:
        draw.tokens = tokens_of(draw.prompt)
        if draw.tokens + tokens_of(draw.reply) > self.hardware.kv_tokens:
            raise ValueError(f"{draw.tokens} tokens of prompt do not fit the cache")
        self.waiting.append(draw)

    def step(self) -> tuple[float, list[Draw]]:
        """Seconds the step takes, and the sequences that end with it."""
        budget = self.hardware.max_num_batched_tokens - len(self.decoding)
        decoding, context = len(self.decoding), self._context
        self._context += decoding
        done, chunks, attended = self._prefill(budget)
        seconds = self.hardware.seconds(
            decoding + chunks, context, attended, decoding + len(done) + len(self.prefilling)
        )
        self._steps += 1
        for draw in done:
            heapq.heappush(self.decoding, (self._steps + tokens_of(draw.reply) - 1, next(self._order), draw))
            self._context += draw.tokens + 1
        ended = []
        while self.decoding and self.decoding[0][0] <= self._steps:
            ended.append(heapq.heappop(self.decoding)[2])
        for draw in ended:
            self._context -= draw.tokens + tokens_of(draw.reply)
            self.counts.completion_tokens += tokens_of(draw.reply)
            self.blocks.release(draw)
        self.counts.busy_s += seconds
        self.counts.evicted_blocks = self.blocks.evicted
        return seconds, ended

    def _prefill(self, budget: int) -> tuple[list[Draw], int, float]:
        """The prompts that are whole with this step; the tokens computed, and the pairs attended."""
        chunks, attended = 0, 0.0
        done: list[Draw] = []
        still: list[Draw] = []
        for draw in self._running_or_admitted():
            chunk = min(budget - chunks, draw.tokens - draw.computed)
            attended += chunk * (draw.computed + chunk / 2)
            chunks += chunk
            draw.computed += chunk
            self.blocks.publish(draw)
            (done if draw.computed == draw.tokens else still).append(draw)
            if chunks >= budget:
                break
        seen = len(done) + len(still)
        self.prefilling = still + self.prefilling[seen:]
        return done, chunks, attended

    def _running_or_admitted(self) -> Iterator[Draw]:
        yield from list(self.prefilling)
        running = len(self.prefilling) + len(self.decoding)
        while self.waiting and running < self.hardware.max_num_seqs and self.blocks.admit(self.waiting[0]):
            draw = self.waiting.popleft()
            running += 1
            self.counts.prompt_tokens += draw.tokens
            self.counts.cached_tokens += draw.cached
            yield draw


class Replica:
    """An engine at work on an event loop's clock. A step takes its seconds times `scale` (and `slowness`)."""

    def __init__(self, hardware: Hardware | None = None, *, scale: float = 1.0, slowness: float = 1.0) -> None:
        self.engine = Engine(hardware or Hardware())
        self.scale = scale * slowness
        self.slowness = slowness
        self.dead = False
        self.late_s = 0.0  # by which steps ended too late, because the process had no time
        self._work: asyncio.Task[None] | None = None

    @property
    def busy_s(self) -> float:
        """Simulated seconds at work."""
        return self.engine.counts.busy_s * self.slowness

    async def draw(self, prompt: str, replies: list[str]) -> list[Draw]:
        """The draws of one request, when all have ended."""
        loop = asyncio.get_running_loop()
        if self.dead:
            raise ConnectionRefusedError("the replica died")
        self.engine.counts.requests += 1
        hashes = hashes_of(prompt)
        draws = [Draw(prompt, reply, hashes, loop.create_future()) for reply in replies]
        for draw in draws:
            self.engine.add(draw)
        if self._work is None:
            self._work = loop.create_task(self._run())
        return await asyncio.gather(*(draw.over for draw in draws))

    def die(self) -> None:
        """As a process that is killed: what is under way ends with an error, and all that comes too."""
        self.dead = True
        if self._work is not None:
            self._work.cancel()
        waiting = [*self.engine.waiting, *self.engine.prefilling, *(draw for _, _, draw in self.engine.decoding)]
        for draw in waiting:
            if not draw.over.done():
                draw.over.set_exception(ConnectionResetError("the replica died"))

    async def _run(self) -> None:
        clock: Callable[[], float] = asyncio.get_running_loop().time
        due = clock()
        while self.engine.busy:
            seconds, ended = self.engine.step()
            due += seconds * self.scale
            wait = due - clock()
            self.late_s += max(0.0, -wait)
            due = max(due, clock())
            await asyncio.sleep(max(0.0, wait))
            for draw in ended:
                if not draw.over.done():
                    draw.over.set_result(draw)
            await asyncio.sleep(0)
        self._work = None
