"""Episodes that somebody else's code yields: generators, loaders, data sets, lists."""

import collections
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from metajax import iterator_states
from metajax.checks.settings import check_flags, check_optional_flags
from metajax.given_data import as_host_episode
from metajax.kinds import check_optional_functions, in_brief
from metajax.meta_gradients import count_tasks
from metajax.types import Episode, Examples
from metajax.user_warnings import warn_user

Fits = Callable[[Episode], Any]
Pad = Callable[[Sequence[Episode]], Episode]
_END = object()

_SKIPPED_A_READ = 16


def from_iterable(
    source: Iterable[Any],
    *,
    to_episode: Callable[[Any], Any] | None = None,
    batched: bool | None = None,
    pad: Pad | None = None,
    repeatable: bool = False,
) -> "IterableEpisodes":
    """Episodes from any iterator or iterable, for `train` and `evaluate`.

    Either takes an iterator or iterable as it is, too; this is where to say more about it. They are
    read by a thread, ahead of the computation. An iterable is iterated again and again, so that
    training goes through it in epochs; an iterator (a generator, say) ends.

    >>> import numpy, metajax
    >>> def tasks(seed):
    ...     rng = numpy.random.default_rng(seed)
    ...     while True:
    ...         phase = rng.uniform(0, numpy.pi)
    ...         x = rng.uniform(-5, 5, (20, 1))
    ...         y = numpy.sin(x + phase)
    ...         yield (x[:10], y[:10]), (x[10:], y[10:])
    >>> sample = metajax.data.from_iterable(tasks(0), repeatable=True)

    Args:
      source: what yields episodes, or meta-batches of them, arrays `[tasks, ...]`: `Episode`s, or
        tuples `((inputs, targets), (inputs, targets))` with or without weights. Their arrays are
        NumPy's, or what `numpy.asarray` takes.
      to_episode: makes an episode or meta-batch of what the source yields; None takes it as it is.
      batched: whether the source yields meta-batches; they are taken apart, so that their number of
        tasks need not be that of a meta-step. None finds out, by what the learner takes.
      pad: makes one padded meta-batch of a list of episodes, `metajax.data.pad_episodes` or a
        `functools.partial` of it; None where all are of one size.
      repeatable: the source yields the same episodes whenever it is made and iterated anew. A run
        that is resumed then skips those it has seen. A list does. One that has `get_state` and
        `set_state`, or `state_dict` and `load_state_dict`, needs no such promise: where it stands
        is in the checkpoints.

    Raises:
      TypeError: `source` cannot be iterated, or is one episode; an argument is no function.
    """
    return IterableEpisodes(
        source, to_episode=to_episode, batched=batched, pad=pad, repeatable=repeatable
    )


class IterableEpisodes:
    """Episodes that an iterator or iterable yields; made by `from_iterable`.

    Attributes:
      taken: how many were read so far.
    """

    def __init__(
        self,
        source: Any,
        *,
        to_episode: Callable[[Any], Any] | None = None,
        batched: bool | None = None,
        pad: Pad | None = None,
        repeatable: bool = False,
    ) -> None:
        """Takes what `from_iterable` takes; reads nothing yet."""
        _check_source(source)
        check_optional_functions(to_episode=to_episode, pad=pad)
        check_optional_flags(batched=batched)
        check_flags(repeatable=repeatable)
        self._settings = (to_episode, pad, repeatable or isinstance(source, list | tuple))
        self._source, self._batched = source, batched
        self._ends = isinstance(source, Iterator)
        self._again = True  # At the end of an iterable begin anew.
        self._later: Any = None  # Where to go before it is used again.
        self._lock = threading.Lock()
        self._kind: Any = None
        self._seen: dict[Any, tuple[Any, list[Any]]] = {}
        self.taken = 0
        self._begin()

    def _begin(self) -> None:
        self._iterator: Iterator[Any] | None = None
        self._waiting: collections.deque[Episode] = collections.deque()
        self._epoch = self._elements = 0  # Passes before this one, elements of it.
        self._resumed = False  # This pass began where another run had left it.
        self._mark: dict[str, Any] | None = None  # A position between two elements.

    @property
    def repeatable(self) -> bool:
        """Whether the source yields the same episodes whenever it is iterated anew."""
        return self._settings[2]

    @property
    def sized(self) -> bool:
        """Whether the source says how long one pass of it is, and that it ends."""
        try:
            return len(self._source) < sys.maxsize  # Of Grain's that repeat for ever it is that.
        except (TypeError, NotImplementedError):
            return False

    def one_pass(self) -> "IterableEpisodes":
        """The same source from its beginning, once; an iterator goes on from where it stands."""
        if self._ends:
            return self
        to_episode, pad, repeatable = self._settings
        new = IterableEpisodes(
            self._source,
            to_episode=to_episode,
            batched=self._batched,
            pad=pad,
            repeatable=repeatable,
        )
        new._again = False
        return new

    def check_first(self, fits: Fits) -> None:
        """Raises unless the first episode fits; it is read again later.

        Args:
          fits: raises unless an episode is one for the learner; it tells episodes from meta-batches
            of them.

        Raises:
          TypeError, ValueError: it does not fit, either way, or both ways.
        """
        later, self._later = self._later, None
        self.go_to(later)
        with self._lock:
            if not self._waiting:
                self._mark_place()
                given = self._draw()
                if given is _END:
                    raise ValueError(
                        "the iterator is at its end and yields no episode; expected one that has "
                        "not been used up: a new generator, or an iterable such as a list"
                    )
                if self._batched is None:
                    self._batched = _is_batched(given, fits)
                self._waiting.extend(self._tasks(given))
            first = self._waiting[0]
        fits(self._as_learned(first))

    def ahead(self, tasks: int) -> list[Episode]:
        """The next episodes, fewer at the end, which are read again later."""
        with self._lock:
            while len(self._waiting) < tasks and (given := self._draw()) is not _END:
                self._waiting.extend(self._tasks(given))
            return [self._as_learned(episode) for episode in list(self._waiting)[:tasks]]

    def _as_learned(self, episode: Episode) -> Episode:
        if self._settings[1] is None:
            return episode
        return jax.tree.map(lambda x: x[0], self.stack([episode]))

    def read(self, tasks: int, stopped: threading.Event | None = None) -> list[Episode]:
        """The next episodes, fewer at the end; copies, so that a source may use its arrays again.

        Args:
          tasks: their number.
          stopped: once it is set no more are read.
        """
        episodes: list[Episode] = []
        with self._lock:
            while len(episodes) < tasks and not (stopped and stopped.is_set()):
                if not self._waiting:
                    given = self._draw()
                    if given is _END:
                        break
                    self._waiting.extend(self._tasks(given))
                episodes.append(self._waiting.popleft())
                self.taken += 1
            if not self._waiting:
                self._mark_place()
        return episodes

    def stack(self, episodes: Sequence[Episode]) -> Episode:
        """One meta-batch of episodes, NumPy arrays `[tasks, ...]`, padded where they are ragged."""
        pad = self._settings[1]
        if pad is not None:
            return pad(episodes)
        return jax.tree.map(lambda *arrays: np.stack(arrays), *episodes)

    def position(self) -> Any:
        """Where reading stands, as JSON has it, for `go_to`; None where the source cannot tell."""
        with self._lock:
            if self.repeatable:
                return {"tasks": self.taken}
            if self._mark is None:
                return None
            return {**self._mark, "tasks": self.taken, "skip": self.taken - self._mark["tasks"]}

    def go_to(self, position: Mapping[str, Any] | None) -> bool:
        """Sets the source to where it stood; whether it could be."""
        if position is None:  # Without the lock: a source that blocks is not waited for.
            return False
        with self._lock:
            tasks = skip = position["tasks"]
            if "state" in position:
                iterator = self._started()
                if not iterator_states.can_tell(self._source, iterator):
                    return False
                state, skip, epoch = (position[name] for name in ("state", "skip", "epoch"))
                self._begin()
                self._epoch, self._resumed = epoch, True
                self._iterator = iterator_states.set_to(self._source, iterator, state, epoch)
                self._mark = {"state": state, "epoch": epoch, "tasks": tasks - skip}
            elif not self.repeatable:
                return False
            elif self._ends:  # Which can only go on.
                skip -= self.taken
                if skip < 0:
                    return False
            else:
                self._begin()
            self.taken = tasks - skip
        while self.taken < tasks:  # Those of one read are held together.
            if not self.read(min(tasks - self.taken, _SKIPPED_A_READ)):
                return False
        return True

    def go_back(self, position: Mapping[str, Any] | None) -> None:
        """Returns to an earlier position what was read beyond it, where that can be done.

        A source that is set goes there at once. One that would be gone through anew up to there
        waits for its next use, of which there may be none.
        """
        if position is not None and "state" in position:
            self.go_to(position)
        else:
            self._later = position

    def _started(self) -> Iterator[Any]:
        if self._iterator is None:
            self._iterator = iterator_states.iterate(self._source, self._epoch)
        return self._iterator

    def _mark_place(self) -> None:
        """Remembers the state of the source between two of its elements."""
        iterator = self._started()
        if self.repeatable or not iterator_states.can_tell(self._source, iterator):
            return
        try:
            state = iterator_states.tell(self._source, iterator)
            self._mark = {"state": state, "epoch": self._epoch, "tasks": self.taken}
        except TypeError as error:
            if self._mark is not None or not self.taken:
                warn_user(f"{error}; a run that is resumed cannot go on from where it stood")
            self._mark = None

    def _draw(self) -> Any:
        """The next element, or `_END`."""
        to_episode = self._settings[0]
        for element in self._started():
            self._elements += 1
            if to_episode is not None:
                return to_episode(element)
            if isinstance(element, Mapping):
                raise TypeError(
                    f"the source yields dictionaries, of {[*element]}; expected episodes: "
                    "from_iterable(source, to_episode=...) makes them"
                )
            return element
        # Nothing may be left of a pass that was resumed; of a whole one something has to come.
        if self._ends or not self._again or not (self._elements or self._resumed):
            return _END
        self._iterator, self._elements, self._resumed = None, 0, False
        self._epoch += 1
        return self._draw()

    def _tasks(self, given: Any) -> list[Episode]:
        """The episodes of an element, each a copy."""
        name = f"the {'meta-batch' if self._batched else 'episode'} {self._elements - 1}"
        structure, leaves = self._whole(given, name)
        if not self._batched:
            return [jax.tree.unflatten(structure, [np.array(leaf) for leaf in leaves])]
        return [
            jax.tree.unflatten(structure, [np.array(leaf[task]) for leaf in leaves])
            for task in range(len(leaves[0]))
        ]

    def _whole(self, given: Any, name: str) -> tuple[Any, list[np.ndarray]]:
        """The structure and the arrays of an element, which is checked if it is of a new kind."""
        leaves, structure = jax.tree.flatten(given)
        try:
            kind = (structure, *((type(x), x.shape, x.dtype) for x in leaves))
        except AttributeError:  # Python's numbers.
            kind = None
        if kind in self._seen:
            whole, dtypes = self._seen[kind]
            each = zip(leaves, dtypes, strict=True)
            return whole, [np.asarray(leaf).astype(dtype, copy=False) for leaf, dtype in each]
        episode = as_host_episode(given, name, batched=bool(self._batched))
        leaves, whole = jax.tree.flatten(episode)
        task = _first_task(episode, name) if self._batched else episode
        if self._settings[1] is None:
            self._check_alike(task, name)
        if kind is not None:
            self._seen[kind] = whole, [leaf.dtype for leaf in leaves]
        return whole, leaves

    def _check_alike(self, episode: Episode, name: str) -> None:
        """Raises unless an episode is of the structure, shapes and dtypes of the first."""
        kind = _shapes(episode)
        if self._kind is None:
            self._kind = kind
        if kind != self._kind:
            differ = {key for key in {*kind, *self._kind} if kind.get(key) != self._kind.get(key)}
            path = sorted(differ)[0]
            raise ValueError(
                f"{name} has {path} as {kind.get(path, 'nothing')}, and those before it as "
                f"{self._kind.get(path, 'nothing')}; expected episodes of one size, or for tasks "
                "of any size from_iterable(..., pad=metajax.data.pad_episodes)"
            )


def _shapes(episode: Episode) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(episode)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{[*leaf.shape]}"
        for path, leaf in leaves
    }


def _is_batched(given: Any, fits: Fits) -> bool:
    """Whether it is a meta-batch, and not one episode: as one of them it fits, as the other not."""
    name = "the first meta-batch"
    single, several = (
        _refusal(lambda: fits(as_host_episode(given, "the first episode"))),
        _refusal(lambda: fits(_first_task(as_host_episode(given, name, batched=True), name))),
    )
    if single is None and several is None:
        raise ValueError(
            "what the source yields is an episode for this learner, and a meta-batch of episodes, "
            "too; expected metajax.data.from_iterable(source, batched=True), or False"
        )
    if single is not None and several is not None:
        single.add_note(f"As a meta-batch of episodes it does not fit, either: {several}")
        raise single
    return several is None


def _first_task(episodes: Episode, name: str) -> Episode:
    if not count_tasks(episodes):
        raise ValueError(f"{name} holds no task; expected one or more")
    task = jax.tree.map(lambda x: x[0], episodes)
    return as_host_episode(task, f"the first task of {name}")


def _refusal(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:  # A user's model may raise anything.
        return error
    return None


def _check_source(source: Any) -> None:
    if isinstance(source, Episode | Examples):
        raise TypeError(
            f"the source is one {type(source).__name__}; expected an iterable of episodes, or to "
            "train on that one alone, metajax.data.FixedEpisode(episode)"
        )
    sized = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if isinstance(source, str | bytes | Mapping) or not (hasattr(source, "__iter__") or sized):
        raise TypeError(
            f"the source is {in_brief(source)}; expected an iterator or iterable of episodes: a "
            "generator, a data loader, a list"
        )
