"""Numbers for Prometheus: this server's own, and under text-embeddings-inference's names."""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from packrank import __version__
from packrank.server.models import Models
from packrank.serving.request import Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# From 15 microseconds on by halves more, as text-embeddings-inference has them.
_TEI_SECONDS = tuple(15e-6 * 1.5**n for n in range(35))
_POWERS = tuple(float(1 << n) for n in range(21))
_TEI_ERRORS = {
    400: "validation", 413: "batch_size", 422: "validation", 424: "inference", 429: "overloaded",
    499: "dropped", 500: "inference", 503: "overloaded", 504: "overloaded",
}  # fmt: skip


class Metrics:
    """Counted as it happens; what engines know anyway is asked when Prometheus comes.

    Attributes:
        media_type: of what is exposed.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, said: str, *labels: str) -> Counter:
            return Counter(name, said, labels, registry=self.registry)

        def histogram(name: str, said: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, said, labels, registry=self.registry, buckets=buckets)

        routes = "route", "dialect", "status"
        self._requests = counter("packrank_requests", "Requests that were answered.", *routes)
        self._seconds = histogram(
            "packrank_e2e_seconds", "From a request's first byte to its answer.", _SECONDS, "route"
        )
        self._rejected = counter("packrank_rejected", "Requests turned away.", "reason")
        self._queue = histogram(
            "packrank_queue_wait_seconds", "What requests waited for their turn.", _SECONDS
        )
        self._tokenize = histogram(
            "packrank_tokenize_seconds", "Reading texts, each time some are read.", _SECONDS
        )
        self._forward = histogram("packrank_forward_seconds", "The forward of a pack.", _SECONDS)
        self._pack_tokens = histogram("packrank_pack_tokens", "Tokens of a pack.", _POWERS)
        self._pack_pairs = histogram("packrank_pack_pairs", "Pairs of a pack.", _POWERS)
        self._fill = histogram(
            "packrank_pack_fill_ratio", "Share of a pack's budget that was tokens.",
            tuple(n / 20 for n in range(1, 21)),
        )  # fmt: skip
        self._tei_count = counter("te_request_count", "Requests.", "method")
        self._tei_success = counter("te_request_success", "Requests that succeeded.", "method")
        self._tei_failure = counter("te_request_failure", "Requests that failed.", "err")
        self._tei_duration = histogram("te_request_duration", "Seconds of a request.", _TEI_SECONDS)
        self._tei_parts = {
            part: histogram(f"te_request_{part}_duration", f"Seconds of {part}.", _TEI_SECONDS)
            for part in ("tokenization", "queue", "inference")
        }
        self._tei_length = histogram("te_request_input_length", "Tokens of a request.", _POWERS)
        self._tei_pairs = histogram("te_batch_next_size", "Pairs of a batch.", _POWERS)
        self._tei_tokens = histogram("te_batch_next_tokens", "Tokens of a batch.", _POWERS)

    def request(self, route: str, dialect: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self._requests.labels(route, dialect, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._tei_count.labels("single").inc()
        self._tei_duration.observe(seconds)
        if status == 200:
            self._tei_success.labels("single").inc()
        else:
            self._tei_failure.labels(_TEI_ERRORS.get(status, "validation")).inc()

    def admitted(self, pairs: int) -> None:
        """See `Watch`, as of the others."""

    def rejected(self, reason: str) -> None:
        """Count it by its reason."""
        self._rejected.labels(reason).inc()

    def has_read(self, pairs: int, seconds: float) -> None:
        """Observe the seconds."""
        self._tokenize.observe(seconds)

    def has_run(self, pairs: int, tokens: int, budget: int, seconds: float) -> None:
        """Observe all of it."""
        self._forward.observe(seconds)
        self._pack_tokens.observe(tokens)
        self._pack_pairs.observe(pairs)
        self._fill.observe(min(tokens / max(budget, 1), 1.0))
        self._tei_pairs.observe(pairs)
        self._tei_tokens.observe(tokens)

    def answered(self, usage: Usage, seconds: float, failed: bool) -> None:
        """Observe what a request took."""
        self._queue.observe(usage.queue_s)
        self._tei_length.observe(usage.tokens)
        spent = (usage.tokenize_s, usage.queue_s, usage.forward_s)
        for part, taken in zip(self._tei_parts.values(), spent, strict=True):
            part.observe(taken)

    def watch(self, models: Models) -> None:
        """Ask these models' engines, each time Prometheus comes."""
        self.registry.register(_Engines(models))

    def exposed(self) -> bytes:
        """All of it, as text."""
        return generate_latest(self.registry)


class _Engines(Collector):
    """What engines count and hold."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        names = ["model"]
        counts = {
            "packrank_pairs": "Pairs that were scored.",
            "packrank_tokens": "Tokens that were scored; none is padding.",
            "packrank_packs": "Packs that ran.",
            "packrank_forward_busy_seconds": "Seconds in which the device ran.",
            "packrank_tokenizer_cache_hits": "Documents whose tokens were known.",
            "packrank_tokenizer_cache_misses": "Documents that were tokenized.",
        }
        counters = {name: CounterMetricFamily(name, said, labels=names)
                    for name, said in counts.items()}  # fmt: skip
        gauges = {
            name: GaugeMetricFamily(name, said, labels=names)
            for name, said in {
                "packrank_queue_tokens": "Tokens that wait or run.",
                "packrank_queue_requests": "Requests that wait or run.",
                "packrank_queue_limit_tokens": "Tokens that may.",
                "packrank_tokens_per_second": "What the device does while it runs.",
            }.items()
        }
        for served in self._models.served:
            engine, totals, label = served.engine, served.engine.totals, [served.name]
            values = (totals.pairs, totals.tokens, totals.packs, totals.forward_s,
                      engine.cache.hits, engine.cache.misses)  # fmt: skip
            for family, value in zip(counters.values(), values, strict=True):
                family.add_metric(label, value)
            held = (engine.queue_tokens, engine.queue_requests, engine.max_queue_tokens,
                    engine.tokens_per_s)  # fmt: skip
            for gauge, value in zip(gauges.values(), held, strict=True):
                gauge.add_metric(label, value)
        yield from counters.values()
        yield from gauges.values()
        size = GaugeMetricFamily("te_queue_size", "Requests that wait.")
        size.add_metric([], sum(one.engine.queue_requests for one in self._models.served))
        yield size
        info = GaugeMetricFamily(
            "packrank_model_info", "Models that are served.",
            labels=["model", "dtype", "device", "version"],
        )  # fmt: skip
        for served in self._models.served:
            info.add_metric([served.name, served.dtype, served.device, __version__], 1)
        yield info
