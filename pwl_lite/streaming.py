"""`ProgressiveModel`: answers with the student at once, and swaps the teacher's blocks in while they arrive.

    with ProgressiveModel.open("https://.../weights/vgg") as model:     # returns when the student can answer
        model.load_teacher(order="prefix")                              # in the background
        logits = model(images)                                          # at any time; model.composition says of what

A request takes the network that serves at its start and keeps it to its end. A swap puts another one in its place, which is one
assignment: requests neither wait for it nor see half of it, and memory is given back when the last request has left.
"""

import asyncio
import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock, RLock, Thread, current_thread
from threading import Event as Flag
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from .blocknet import BlockNet
from .errors import CompositionError, PWLError, StoreError, StreamingError
from .hardware import give_back_memory, step_aside
from .manifest import has_converters, needed_shards
from .orders import best_composition, plan_order
from .skeleton import Skeleton
from .sources import Fetcher, Source, default_cache
from .swapnet import all_compositions, check_composition, covers

LOADING, FETCHING = "pwl-loading", "pwl-fetching"  # names of the threads
_opened: "WeakSet[ProgressiveModel]" = WeakSet()


@dataclass(frozen=True)
class Status:
    """How far loading is.

    Attributes:
        composition: what answers now.
        goal: what is being loaded, or was last.
        loading: whether shards are on their way.
        bytes_done: have arrived since `open`, what was for earlier goals included.
        bytes_total: `bytes_done` when the goal is reached.
        rate: bytes per second over the last seconds; 0 before a second piece has come.
        seconds_left: at this rate; None while nothing arrives.
        failures: tries that have failed so far.
        last_error: what went wrong last, and when it will be tried again; None if nothing did since the last shard. That a
            cache cannot be written stays here.
    """

    composition: str
    goal: str
    loading: bool
    bytes_done: int
    bytes_total: int
    rate: float
    seconds_left: float | None
    failures: int
    last_error: str | None


@dataclass(frozen=True)
class Event:
    """Something that happened, as callbacks get it.

    Attributes:
        kind: `shard` (one has arrived), `swap` (another composition answers), `failure` (a try failed, it goes on), `done` (the
            goal is reached), `stopped` (it was given up).
        seconds: since `open` was called.
        composition: what answers now.
        bytes: that have arrived so far.
        text: the shard's name, or what went wrong.
    """

    kind: str
    seconds: float
    composition: str
    bytes: int
    text: str = ""


@dataclass(frozen=True)
class _Serving:
    """A composition that answers: its modules in the order in which they run."""

    composition: str
    modules: tuple[nn.Module, ...]

    def __call__(self, x: Tensor) -> Tensor:
        for module in self.modules:
            x = module(x)
        return x


class ProgressiveModel:
    """A classifier that gets better while its weights arrive. Make one with `ProgressiveModel.open`."""

    def __init__(
        self,
        source: Source,
        fetcher: Fetcher,
        networks: Mapping[str, BlockNet] | None,
        memory_budget: int | None,
        on_event: Callable[[Event], None] | None,
        patience: float,
        started: float,
    ):
        self._started = started
        self._source, self._fetcher, self._on_event = source, fetcher, on_event
        fetcher.on_bytes, fetcher.on_error = self._arrived, self._failed
        self._closed = False
        self._stop = Flag()  # of what is being loaded; each load has one of its own, so that a left one finds its own set
        self._control = RLock()  # held to decide what is loaded and to change what is there; never while waiting for bytes
        self._changed = Condition()  # notified at each event
        self._loading = False  # whether more is to come; never False for a moment while one load takes over from another
        self._thread: Thread | None = None  # moves from composition to composition
        self._fetching: set[Thread] = set()  # get a shard each meanwhile
        self._counting = Lock()
        self._asked = False  # whether a request has come since the last swap
        self._held: dict[str, nn.Module] = {}
        self._failures, self._last_error, self._cache_error = 0, None, None
        self._done = self._total = 0
        self._bar: Any = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=64)
        self._serving: _Serving | None = None

        self.manifest = fetcher.manifest(self._stop, patience)
        if self.manifest["kind"] != "swapnet":
            raise StoreError(f"{source.address}: holds a single network; expected a teacher, a student and converters")
        self.num_blocks: int = self.manifest["num_blocks"]
        self._shapes = Skeleton(self.manifest, networks, source.address)
        self.memory_budget = memory_budget
        self._goal = student = "S" * self.num_blocks
        if memory_budget is not None and self.memory(student) > memory_budget:
            raise StreamingError(f"memory_budget = {memory_budget:,}: the student alone needs {self.memory(student):,} bytes")
        _opened.add(self)
        fetches = self._to_fetch([student])
        try:
            arriving = self._fetch(fetches[0], self._stop, patience)
            self._shapes.prepare("teacher")  # while the student is on its way: it must be possible to build it
            self._move(student, arriving, self._stop)
        except BaseException:
            self._stop.set()
            self._wait_for_readers()
            raise

    @classmethod
    def open(
        cls,
        source: str | Path,
        *,
        networks: Mapping[str, BlockNet] | None = None,
        cache: str | Path | bool = True,
        verify: bool = True,
        memory_budget: int | None = None,
        on_event: Callable[[Event], None] | None = None,
        timeout: float = 10.0,
        patience: float = 30.0,
        **options: Any,
    ) -> "ProgressiveModel":
        """Open a folder of shards; returns as soon as the student can answer.

        Args:
            source: a folder, or a URL of one (`https://`, `s3://`, `hf://`, what fsspec knows).
            networks: `{"teacher": ..., "student": ...}`, of the right shapes, for networks not made by this package; their
                weights are not touched, and they may lie on the device `meta`.
            cache: keep shards that come from elsewhere in this folder; True for `$PWL_CACHE_DIR` or the user's cache, False for
                none. Shards of a local folder are not cached.
            verify: compare the SHA-256 of the shards of a local folder. Without, they are mapped into memory, where they are
                copied from once at most: faster, but they must not be changed meanwhile. Others are always compared.
            memory_budget: bytes of weights that may answer; loading ends at the best composition that fits, and passes over
                those that don't. What arrives for the next swap is held beside what answers until then.
            on_event: called with each `Event`, in the threads that load (two may fail at the same time); what it raises is
                printed as a warning. It may call every method but must not wait for what its own thread is to load.
            timeout: seconds without a byte after which a connection counts as broken.
            patience: seconds for which `open` puts up with failures; a local folder without a good manifest is refused at once.
            options: for fsspec's file system.

        Raises:
            StoreError: the folder is not there or holds no teacher and student, or networks that cannot be built.
            StreamingError: nothing came within `patience`; the student does not fit into `memory_budget`; an unknown kind of
                address.
        """
        started = time.monotonic()
        place = Source(source, timeout, **options)
        folder = None if cache is False or place.folder is not None else default_cache() if cache is True else Path(cache)
        return cls(place, Fetcher(place, folder, verify), networks, memory_budget, on_event, patience, started)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) for normalised images (batch, channels, height, width), of one whole composition.

        Raises:
            StreamingError: the model is closed.
        """
        self._asked = True
        return self._answering()(images)

    @torch.inference_mode()
    def answer(self, images: Tensor) -> tuple[Tensor, str]:
        """The logits and the composition that they are of. Raises StreamingError when closed."""
        self._asked = True
        serving = self._answering()
        return serving(images), serving.composition

    def _answering(self) -> _Serving:
        serving = self._serving
        if serving is None:
            raise StreamingError("the model is closed; open it again")
        return serving

    @property
    def composition(self) -> str:
        """What answers now, such as `TTSS`."""
        return self._answering().composition

    @property
    def status(self) -> Status:
        """How far loading is."""
        now, recent = time.monotonic(), list(self._recent)
        recent = [(moment, n) for moment, n in recent if now - moment < 3]
        # the first of them was on its way for an unknown time, so only those after it count
        rate = max(0.0, sum(n for _, n in recent[1:]) / max(now - recent[0][0], 1e-3)) if recent else 0.0
        left = max(0, self._total - self._done)
        serving = self._serving
        return Status(
            composition=serving.composition if serving else "",
            goal=self._goal,
            loading=self._loading,
            bytes_done=self._done,
            bytes_total=self._total,
            rate=rate,
            seconds_left=left / rate if rate > 0 else None,
            failures=self._failures,
            last_error=self._last_error or self._cache_error,
        )

    def memory(self, composition: str) -> int:
        """Bytes of the weights that a composition holds in memory."""
        return sum(self._shapes.memory(name) for name in self._needed(check_composition(composition, self.num_blocks)))

    @property
    def lattice(self) -> dict[str, float] | None:
        """The measured accuracy of each composition in percent, if the manifest tells."""
        lattice = self.manifest["extra"].get("lattice")
        if not isinstance(lattice, dict) or len(lattice) != 2**self.num_blocks:
            return None
        fits = set(lattice) == set(all_compositions(self.num_blocks))
        return lattice if fits and all(type(x) in (int, float) and 0 <= x <= 100 for x in lattice.values()) else None

    def load_teacher(
        self,
        order: str | Sequence[int] = "prefix",
        *,
        background: bool = True,
        patience: float | None = None,
        progress: bool = False,
    ) -> None:
        """Load the teacher's blocks one by one; each answers as soon as it is there. What was being loaded before is left.

        Args:
            order: `prefix`, `suffix`, `contiguous`, block numbers such as `(2, 1, 3, 4)`, or `best`: the order whose accuracy
                over time is highest, see `orders.best_path` (by bytes: pauses of the link are not known here).
            background: return at once; else when the goal is reached.
            patience: seconds of failures in a row after which to give up; by default it is tried for ever.
            progress: show a progress bar, in notebooks and terminals.

        Raises:
            CompositionError: no such order.
            StreamingError: `best` without a measured lattice; the model is closed; or, not in the background, out of patience.
        """
        with self._control:
            start = self.composition
            goal = "T" * self.num_blocks
            if self.memory_budget is not None:
                goal = best_composition(self.lattice, start, self._fits)
            shards = self.manifest["shards"]
            steps = plan_order(order, start, goal, self.lattice, lambda name: shards[name]["bytes"] if name in shards else None)
            steps = [c for c in steps if c == goal or self._fits(c)]
            stop, fetches = self._take_over(goal, steps, loading=True)
            self._bar = bar = self._progress_bar() if progress else None
            self._thread = Thread(target=self._load, args=(steps, fetches, stop, patience, bar), name=LOADING, daemon=True)
            self._thread.start()
        if not background:
            self.wait(goal)

    def unload_to(self, composition: str, *, patience: float = 30.0) -> None:
        """Give memory back: go to a composition with fewer teacher blocks, and keep answering meanwhile. Loading is stopped.

        Student blocks that were freed are read again from the folder, the cache or the network.

        Raises:
            CompositionError: no composition, or one with teacher blocks that are not there.
            StreamingError: it does not fit into `memory_budget`; the student's blocks did not come within `patience`; another
                thread has asked for something else meanwhile. The old composition goes on answering.
        """
        check_composition(composition, self.num_blocks)
        if not self._fits(composition):  # converters may weigh more than the teacher block that they stand in for
            needs = f"{self.memory(composition):,} bytes are needed"
            raise StreamingError(f"unload_to({composition!r}): {needs}, memory_budget = {self.memory_budget:,}")
        with self._control:
            if not covers(self.composition, composition):
                raise CompositionError(
                    f"composition {composition!r}: {self.composition} answers, which lacks some of its teacher blocks; "
                    "expected one with fewer (load_teacher loads more)"
                )
            stop, fetches = self._take_over(composition, [composition])
        try:
            self._move(composition, self._fetch(fetches[0], stop, patience), stop)
        finally:
            stop.set()  # if one shard cannot come, nobody waits for the others
            self._wait_for_readers()
        give_back_memory()

    def wait(self, until: str | None = None, timeout: float | None = None) -> str:
        """Wait until all teacher blocks of a composition answer; by default until loading ends. Returns what answers then.

        Raises:
            CompositionError: no composition.
            TimeoutError: `timeout` seconds are over.
            StreamingError: loading has ended without it, or the model is closed; says why. Or the thread that loads would wait
                for itself, in `on_event`.
        """
        if until is not None:
            check_composition(until, self.num_blocks)
        if current_thread() in {self._thread, *self._fetching} and not self._is_over(until):
            raise StreamingError("on_event waits for the thread that calls it; wait in another one")
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_over(until), timeout):
                raise TimeoutError(f"{until or 'the end of loading'} was not reached in {timeout} s: {self.status}")
        return self._outcome(until)

    async def until(self, composition: str | None = None) -> str:
        """`wait` for asyncio: `await model.until("TTTT")`. Raises what it raises; for a timeout see `asyncio.timeout`."""
        if composition is not None:
            check_composition(composition, self.num_blocks)
        while not self._is_over(composition):
            await asyncio.sleep(0.01)
        return self._outcome(composition)

    def close(self) -> None:
        """Stop loading and free everything; requests that are under way end well. May be called again."""
        with self._control:
            if self._closed:
                return
            thread = self._thread
            self._closed, self._serving = True, None  # before waiting threads are woken: they say that it is closed
            self._take_over(self._goal, [])
            self._held.clear()
        if thread is not None and current_thread() not in {thread, *self._fetching}:
            thread.join(1)  # at once in general; one that waits for bytes of a stalled server ends at its timeout
        self._wait_for_readers()

    def __enter__(self) -> "ProgressiveModel":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> "ProgressiveModel":
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"ProgressiveModel({self._source.address!r}, {self._serving.composition if self._serving else 'closed'})"

    # ---- loading, in the background

    def _take_over(self, goal: str, steps: Sequence[str], loading: bool = False) -> tuple[Flag, list[list[str]]]:
        """Leave what is being loaded, for these steps to a goal: a flag that says when they are left in turn; what to fetch.

        The threads that were loading change nothing from now on, and end as soon as they notice. Nobody waits for them: one may
        be in a callback that wants to take over as well, or wait for a server.
        """
        self._stop.set()
        self._stop, self._thread, self._goal, self._last_error, self._bar = Flag(), None, goal, None, None
        self._loading = loading
        wanted = set().union(*map(self._needed, [self.composition, *steps])) if self._serving else set()
        for name in set(self._held) - wanted:  # of a swap that was left halfway
            del self._held[name]
        self._wake()  # who waits for what will not come any more
        return self._stop, self._to_fetch(steps)

    def _to_fetch(self, steps: Sequence[str]) -> list[list[str]]:
        """For each step the shards that are not there when it comes; the total is counted anew."""
        held, fetches = set(self._held), []
        for composition in steps:
            needed = self._needed(composition)
            fetches.append([name for name in needed if name not in held])
            held = set(needed)
        self._total = self._done + sum(self._bytes(name) for names in fetches for name in names)
        return fetches

    @contextmanager
    def _unless(self, stop: Flag) -> Iterator[None]:
        """Inside, nobody takes over. Raises StreamingError where somebody has."""
        with self._control:
            if stop.is_set():
                raise StreamingError("stopped: the model was closed or asked for something else")
            yield

    def _load(self, steps: Sequence[str], fetches: list[list[str]], stop: Flag, patience: float | None, bar: Any) -> None:
        kind, reason = "done", None
        step_aside()
        try:
            upcoming = deque(fetches)
            arriving: dict[str, Future] = {}

            def fetch_next() -> None:
                if upcoming:
                    arriving.update(self._fetch(upcoming.popleft(), stop, patience))

            fetch_next()
            for composition in steps:
                self._move(composition, arriving, stop, fetch_next, bar)
        except Exception as error:  # of whatever kind: the model goes on answering, and says why it loads no more
            kind, reason = "stopped", str(error) if isinstance(error, PWLError) else f"{type(error).__name__}: {error}"
        finally:
            if bar is not None:
                bar.close()
        give_back_memory()
        with self._control:
            if stop.is_set():
                return
            stop.set()  # if one shard cannot come, nobody waits for the others
        self._wait_for_readers()
        with self._control:
            if self._stop is not stop:  # somebody has taken over meanwhile
                return
            self._thread, self._loading, self._last_error = None, False, reason
        self._tell(kind, reason or "")

    def _move(
        self,
        composition: str,
        arriving: dict[str, Future],
        stop: Flag,
        fetch_next: Callable[[], None] = lambda: None,
        bar: Any = None,
    ) -> None:
        """Take what a composition needs as it arrives, let it answer, and free what is no longer needed.

        `fetch_next` is called when all of it is here: a link that waited until the last part is built would idle at each step.
        """
        names = self._needed(composition)
        with self._unless(stop):  # whoever takes over may free what this was to build on
            missing = [name for name in names if name not in self._held]
        if not missing:
            fetch_next()
        for name in missing:
            tensors = [arriving.pop(name).result()]
            if name == missing[-1]:
                fetch_next()
            part = self._shapes.filled(name, tensors.pop())  # which leaves no other reference to them
            if self._asked:  # else the next request comes sooner without
                self._warm_up(name, part)
            with self._unless(stop):
                self._held[name] = part
            if bar is not None:
                bar.set_postfix_str(composition)
            self._tell("shard", name)
        with self._unless(stop):
            self._serving = _Serving(composition, tuple(module for name in names for module in _modules(self._held[name])))
            self._asked = False
            for name in set(self._held) - set(names):
                del self._held[name]
        self._tell("swap")

    def _fetch(self, names: list[str], stop: Flag, patience: float | None) -> dict[str, Future]:
        """Start to get shards, each in a thread; a future has the tensors of each or the error.

        All that a step needs is asked for at once, since it answers only when all is there.
        """
        arriving: dict[str, Future] = {name: Future() for name in names}

        def fetch(name: str) -> None:
            step_aside()
            try:
                with self._unless(stop):
                    entry = self.manifest["shards"][name]
                tensors = self._fetcher.shard(entry, self._shapes.largest(name), stop, patience)
                with self._unless(stop):
                    self._last_error = None
                arriving[name].set_result(tensors)
            except BaseException as error:  # whoever waits for the shard gets it
                arriving[name].set_exception(error)
            finally:
                self._fetching.discard(current_thread())

        for name in names:
            thread = Thread(target=fetch, args=(name,), name=FETCHING, daemon=True)
            self._fetching.add(thread)
            thread.start()
        return dict(arriving)

    def _wait_for_readers(self) -> None:
        """Wait for what still reads a local folder: once nobody loads, its files may be replaced.

        A mapped file must not be, as long as somebody does: the system ends the process that reads where the file has ended.
        """
        if self._source.folder is not None:
            for thread in self._fetching - {current_thread()}:
                with suppress(RuntimeError):  # not started yet: if it is to stop, it will read nothing
                    thread.join(1)

    @torch.inference_mode()
    def _warm_up(self, name: str, part: nn.Module) -> None:
        """Run what has arrived once before it counts: what a first run prepares should not hold up a request."""
        x = torch.zeros(1, *self._shapes.taken_by(name))
        for module in _modules(part):
            x = module(x)

    def _is_over(self, until: str | None) -> bool:
        serving = self._serving
        if serving is None or not self._loading:
            return True
        return until is not None and until != self._goal and covers(serving.composition, until)

    def _outcome(self, until: str | None) -> str:
        composition = self.composition
        if until is not None and not covers(composition, until):
            reason = self._last_error or "nothing more is being loaded; call load_teacher"
            raise StreamingError(f"{until} was not reached, {composition} answers: {reason}")
        return composition

    def _needed(self, composition: str) -> list[str]:
        return needed_shards(composition, has_converters(self.manifest))

    def _bytes(self, name: str) -> int:
        return self.manifest["shards"][name]["bytes"]

    def _fits(self, composition: str) -> bool:
        return self.memory_budget is None or self.memory(composition) <= self.memory_budget

    # ---- telling

    def _arrived(self, n: int) -> None:
        with self._counting:
            self._done += n
            if (bar := self._bar) is not None:
                bar.update(n)
        self._recent.append((time.monotonic(), n))

    def _failed(self, reason: str, pause: float) -> None:
        with self._counting:
            self._failures += 1
        text = f"{reason}; tried again after {pause} s" if pause else reason
        if pause:
            self._last_error = text
        else:
            self._cache_error = text
        self._tell("failure", text)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _tell(self, kind: str, text: str = "") -> None:
        self._wake()
        if self._on_event is not None:
            serving = self._serving
            event = Event(kind, time.monotonic() - self._started, serving.composition if serving else "", self._done, text)
            try:
                self._on_event(event)
            except Exception as error:  # a reader's callback must not stop the weights
                import warnings

                warnings.warn(f"on_event raised {error!r} at {event}", RuntimeWarning, stacklevel=2)

    def _progress_bar(self) -> Any:
        from tqdm.auto import tqdm

        return tqdm(total=self._total, initial=self._done, unit="B", unit_scale=True, desc="teacher")


def _modules(part: nn.Module) -> list[nn.Module]:
    """What a shard's part runs, in this order."""
    return [part[key] for key in ("embed", "block", "head") if key in part] if isinstance(part, nn.ModuleDict) else [part]


@atexit.register
def _end_threads(seconds: float = 1.0) -> None:
    """Leave what is being loaded when the program ends, and wait for the threads.

    One that is inside torch at the very end would take the process with it: "terminate called without an active exception".
    """
    for model in list(_opened):
        model.close()
    until = time.monotonic() + seconds  # one that waits for a stalled server is not inside torch
    for thread in threading.enumerate():
        if thread.name in (LOADING, FETCHING):
            thread.join(max(0.0, until - time.monotonic()))
