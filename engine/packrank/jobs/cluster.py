"""A model on the nodes of a Ray cluster: batches of pairs to logits, by Ray Data.

Whoever runs the job reads its input, and keeps the journal; what goes to the cluster are pairs, and
what comes back are logits, in order. Ray Data has no source that a running program fills, so its
dataset is one of numbers, and an actor asks for the batch of its number at `Feed`. So no more is
under way than `_PER_ACTOR` batches an actor, rows by id, pipes and compressed files are read once
and here, and nodes need not see the input.

Actors and tasks are not tried again by Ray: it would wait without end for a lost node's share of a
cluster that has nothing to spare. What a failure of a node or a process ends is begun anew, on what
the cluster has then, from the first batch that is not there.
"""

import logging
import os
import socket
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from time import sleep
from typing import Any

from packrank.arguments import checked_count
from packrank.closing import Closing
from packrank.errors import InputError, JobError
from packrank.jobs.facts import Facts, Found, Remote, Stream
from packrank.jobs.node import Batches, Feed, ask, imported, or_raised

Pairs = Sequence[tuple[str, str]]

_NUMBERS = 4096  # batches of a dataset; the next opens the model anew
_PER_ACTOR = 4  # batches under way
# Seconds before each new beginning without a batch since the last: it takes a cluster up to half a
# minute to know that a node is gone, and until then it would put actors there.
_PAUSES = (0.0, 2.0, 4.0, 8.0, 16.0, 16.0)
_PATIENCE_SECONDS = 10.0  # for the head of a cluster to answer
_KINDS = ("CPU", "GPU")


class Cluster(Remote, Closing):
    """A model on the nodes of a cluster, for a `Job`; use as a context manager.

    Every node has Packrank, and the same model under the same name.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        options: Mapping[str, Any] | None = None,
        *,
        address: str | None = None,
        actors: int | None = None,
        cpus: int = 1,
        gpus: float | None = None,
    ) -> None:
        """Connect, and open the model once, on a node.

        Args:
            model: a folder that every node has, or a hub name.
            options: of `Reranker`, or of `LateInteraction`, whichever the model is for.
            address: of a cluster; None: the one that this process is connected to, or that runs on
                this machine; else one is started here, for as long as this takes.
            actors: processes that score; None: as many as the cluster has room for.
            cpus: that each takes, and threads that it has.
            gpus: that each takes; None: one where a node has any, else none.

        Raises:
            InputError: Ray is not installed, or no node of the cluster has so much.
            ModelError: the folder or name cannot be used.
            JobError: there is no cluster, or what opens the model dies.
        """
        if address is not None and address.startswith("ray://"):
            raise InputError(
                f"{address} is for Ray's client, which this is not; start the job on a node of the "
                "cluster, or give the address of its head, host:6379"
            )
        self._model = os.path.abspath(model) if os.path.isdir(model) else os.fspath(model)
        self._options, self.num_tokens = dict(options or {}), 0
        self._actors, self._gpus = checked_count("actors", actors), gpus
        self._cpus = checked_count("cpus", cpus) or 1
        self._ray = imported()
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, address)
        try:
            self._room()
            self.facts, self.about = self._asked()
        except BaseException:
            self.close()
            raise

    def score_stream(self, batches: Iterator[Pairs], *, cutoff_layer: int | None) -> "Scores":
        """See `Remote`."""
        return Scores(self, batches, cutoff_layer)

    def close(self) -> None:
        """Let go of the cluster, and end one that was started here."""
        if self._is_ours:
            self._ray.shutdown()

    def _asked(self) -> tuple[Facts, dict[str, Any]]:
        """What a node says of the model."""
        asking = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(ask)
        try:
            found = self._ray.get(asking.remote(self._model, self._options))
        except self._ray.exceptions.RayError as error:
            raise JobError(f"the model cannot be opened on the cluster: {_why(error)}") from None
        facts, said = or_raised(found)
        return facts, said

    def _room(self) -> int:
        """How many actors there is room for now."""
        nodes = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        if self._gpus is None:
            on_gpu = self._options.get("device", "auto") != "cpu"
            self._gpus = float(on_gpu and any(one.get("GPU", 0) >= 1 for one in nodes))
        room = 0
        for one in nodes:
            fitting = one.get("CPU", 0) // self._cpus
            if self._gpus:
                fitting = min(fitting, one.get("GPU", 0) // self._gpus)
            room += int(fitting)
        if not room:
            most = {name: max((one.get(name, 0) for one in nodes), default=0) for name in _KINDS}
            raise InputError(
                f"an actor takes {self._cpus} processors and {self._gpus:g} GPUs, and no node of "
                f"the cluster has more than {most['CPU']:g} and {most['GPU']:g}; give it less"
            )
        return room

    def begin(self, feed: Any, numbers: range, cutoff_layer: int | None) -> Any:
        """Rows with the logits of these batches, in their order, which a feed holds."""
        data = self._ray.data
        dataset = data.from_items(list(numbers), override_num_blocks=len(numbers))
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the last three arguments, that Ray 2.64 has none
            scored = dataset.map_batches(
                Batches,
                fn_constructor_args=(feed, self._model, self._options, cutoff_layer, self.about),
                batch_size=1,
                batch_format="numpy",
                compute=data.ActorPoolStrategy(size=self.size(), max_tasks_in_flight_per_actor=2),
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_restarts=0,
                max_task_retries=0,
                # Or an actor might wait for a batch that comes only after one behind it.
                allow_out_of_order_execution=False,
            )
        return iter(scored.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"))

    def size(self) -> int:
        """How many actors score."""
        return self._actors or self._room()

    def feed(self) -> Any:
        """One that is new, on this node, whose end is that of the job anyway."""
        ray = self._ray
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        made = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(Feed)
        return made.remote()


class Scores(Stream):
    """See `Stream`; of a cluster."""

    def __init__(
        self, cluster: Cluster, batches: Iterator[Pairs], cutoff_layer: int | None
    ) -> None:
        self._cluster, self._batches, self._cutoff_layer = cluster, batches, cutoff_layer
        self._ray = cluster._ray
        self._under_way: deque[Pairs] = deque()
        self._settled = self._failures = 0
        self._most = _PER_ACTOR * cluster.size()
        self._feed: Any = None
        self._rows: Any = None
        self._numbers = range(0)

    def __iter__(self) -> Iterator[Found]:
        return self

    def __next__(self) -> Found:
        while True:
            self._fill()
            if not self._under_way:
                self.close()
                raise StopIteration
            try:
                return self._next()
            except self._ray.exceptions.RayError as error:
                self.close()
                if self._failures == len(_PAUSES):
                    raise JobError(
                        f"the cluster has failed {self._failures + 1} times in a row: {_why(error)}"
                    ) from None
                sleep(_PAUSES[self._failures])
                self._failures += 1

    def _fill(self) -> None:
        """Take batches, as many as may be under way."""
        while len(self._under_way) < self._most:
            batch = next(self._batches, None)
            if batch is None:
                return
            if self._feed is not None:
                self._give(self._settled + len(self._under_way), batch)
            self._under_way.append(batch)

    def _next(self) -> Found:
        """The logits of the first batch under way."""
        if self._settled not in self._numbers:
            self.close()
            self._feed = self._cluster.feed()
            for number, batch in enumerate(self._under_way, self._settled):
                self._give(number, batch)
            # Fewer than there might be under way are all that there are.
            is_last = len(self._under_way) < self._most
            count = len(self._under_way) if is_last else _NUMBERS
            self._numbers = range(self._settled, self._settled + count)
            self._rows = self._cluster.begin(self._feed, self._numbers, self._cutoff_layer)
        row = next(self._rows, None)
        if row is None:
            raise JobError(f"Ray ended before batch {self._settled}; the same command goes on")
        [number], [content] = row["number"], row["content"]
        if number != self._settled:
            raise JobError(f"Ray gave batch {number} in the place of {self._settled}")
        logits, failures, tokens = or_raised(content)
        if len(logits) != len(self._under_way[0]):
            raise JobError(f"Ray gave {len(logits)} logits of {len(self._under_way[0])} pairs")
        self._cluster.num_tokens += tokens
        self._under_way.popleft()
        self._settled += 1
        self._failures = 0
        return logits, failures

    def _give(self, number: int, batch: Pairs) -> None:
        # Ours, on this node, whoever asks for it.
        self._feed.put.remote(number, [self._ray.put(list(batch))])

    def close(self) -> None:
        """End what is under way on the cluster."""
        rows, feed = self._rows, self._feed
        self._rows, self._feed, self._numbers = None, None, range(0)
        if rows is not None:
            rows.close()
        if feed is not None:
            self._ray.kill(feed)


def _connect(ray: Any, address: str | None) -> None:
    # A failure is said in a sentence, and not by Ray's tracebacks.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        if address is not None:  # or Ray would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), _PATIENCE_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise JobError(
            f"there is no Ray cluster at {address or 'hand'} ({_why(error)}); give the address of "
            "its head, host:6379"
        ) from None


def _why(error: BaseException) -> str:
    """The first sentence of an error of Ray's, which may have many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
