"""A vLLM server as seen over HTTP: whether it is up, what it serves, its metrics."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from planner.errors import InputError
from planner.text import printable

_TIMEOUT_S = 20.0
_RPC_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What /metrics says now. A figure that this version of vLLM does not have is None."""

    block_size: int | None
    num_blocks: int | None
    tokens: int | None
    max_concurrency: float | None
    cache_config: Mapping[str, str]
    preemptions: int
    """Since the server began, over all engines, as are the next two."""
    running: int
    waiting: int
    kv_cache_usage: float
    """Share of the blocks in use, of the fullest engine."""


class Server:
    """`with Server("http://127.0.0.1:8000") as server`; only ever reads, but for `rpc`."""

    def __init__(self, url: str) -> None:
        self.url = checked(url)
        self._client = httpx.Client(base_url=self.url, timeout=_TIMEOUT_S, trust_env=not is_loopback(self.url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def healthy(self) -> bool:
        """Whether /health answers 200; False while nobody listens."""
        try:
            return self._client.get("/health").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def version(self) -> str:
        """vLLM's version as /version says it. Raises InputError where the server does not answer so."""
        return str(self._json("/version").get("version", ""))

    def model(self) -> Mapping[str, Any]:
        """The first of /v1/models: id, root (the folder or Hub id that was given) and max_model_len."""
        models = self._json("/v1/models").get("data")
        if not isinstance(models, list) or not models or not isinstance(models[0], dict):
            raise InputError(f"{self.url}/v1/models names no model: is this a vLLM server?")
        return models[0]

    def metrics(self) -> Metrics:
        """Its counters now, from /metrics. Raises InputError where the server does not answer so."""
        return metrics_of(self._get("/metrics").text)

    def rpc(self, method: str) -> list[Any]:
        """A method of every worker; empty where the server does not offer it (VLLM_SERVER_DEV_MODE)."""
        try:
            answer = self._client.post("/collective_rpc", json={"method": method}, timeout=_RPC_TIMEOUT_S)
        except httpx.TransportError:
            return []
        return list(answer.json().get("results", [])) if answer.status_code == httpx.codes.OK and answer.content else []

    def _json(self, path: str) -> dict[str, Any]:
        try:
            value = self._get(path).json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise InputError(f"{self.url}{path} is no JSON object: is this a vLLM server?")
        return value

    def _get(self, path: str) -> httpx.Response:
        try:
            answer = self._client.get(path)
        except httpx.HTTPError as error:
            raise InputError(f"{self.url}{path}: no answer ({printable(error, 200) or type(error).__name__})") from None
        if answer.status_code != httpx.codes.OK:
            raise InputError(f"{self.url}{path}: HTTP {answer.status_code}; is this a vLLM server?")
        return answer


def checked(url: str) -> str:
    """InputError where it is no address of an HTTP server."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{printable(url)}: must be an address like http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1")


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own by its number or by the name localhost, not by any look-up."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def metrics_of(text: str) -> Metrics:
    """From the text of /metrics."""
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    except ValueError as error:
        raise InputError(f"/metrics is not in Prometheus' format: {printable(error, 200)}") from None

    def values(*names: str) -> list[float]:
        return [value for name in names for _, value in samples.get(name, [])]

    config = next((labels for labels, _ in samples.get("vllm:cache_config_info", [])), {})
    return Metrics(
        block_size=whole(config.get("block_size")),
        num_blocks=whole(config.get("num_gpu_blocks")),
        tokens=whole(config.get("kv_cache_size_tokens")),
        max_concurrency=number(config.get("kv_cache_max_concurrency")),
        cache_config=config,
        preemptions=int(sum(values("vllm:num_preemptions_total"))),
        running=int(sum(values("vllm:num_requests_running"))),
        waiting=int(sum(values("vllm:num_requests_waiting"))),
        kv_cache_usage=max(values("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), default=0.0),
    )


def number(text: str | None) -> float | None:
    """A label of a metric as a number; None where it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:  # "None", where vLLM does not know it
        return None


def whole(text: str | None) -> int | None:
    """Likewise, as a whole number."""
    value = number(text)
    return None if value is None else int(value)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free port of 127.0.0.1, kept from other programs by a socket that does not listen.

    vLLM, which sets SO_REUSEADDR and, of some versions, SO_REUSEPORT, may bind beside it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
