"""What an agent can be scraped for; imported only where `metrics_listen` is set (3 MiB)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guestagent.agent import Agent
from trove_grpc import metrics
from trove_grpc.gen.common.v1 import engine_pb2


class AgentCollector(Collector):
    """Reads one agent at every scrape, so that the agent itself counts nothing twice."""

    def __init__(self, agent: Agent | None = None) -> None:
        self._agent = agent

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "trove_agent_session_open", "1 while a session with a gateway is open"
        )
        yield GaugeMetricFamily(
            "trove_agent_unacknowledged", "Changes and backup updates not yet acknowledged"
        )
        yield CounterMetricFamily(
            "trove_agent_engine_starts", "Starts of the engine over its whole life"
        )
        yield GaugeMetricFamily(
            "trove_agent_engine_healthy", "1 while the engine answers as it should"
        )
        yield GaugeMetricFamily(
            "trove_agent_identity_unstored",
            "1 while keys, certificates or the trust bundle cannot be written to disk",
        )

    def collect(self) -> Iterator[Metric]:
        if self._agent is None:
            return
        observation = self._agent.watcher.observation()
        values = {
            "trove_agent_session_open": float(self._agent.connection.is_open),
            "trove_agent_unacknowledged": float(self._agent.outbox.unacknowledged),
            "trove_agent_engine_starts": float(observation.start_count),
            "trove_agent_engine_healthy": float(
                observation.state == engine_pb2.ENGINE_STATE_HEALTHY
            ),
            "trove_agent_identity_unstored": float(bool(self._agent.identity.directory.problem)),
        }
        for family in self.describe():
            family.add_sample(
                f"{family.name}_total" if family.type == "counter" else family.name,
                {},
                values[family.name],
            )
            yield family


def serve(listen: str, agent: Agent) -> None:
    """Serve /metrics of `agent` on a loopback "address:port"."""
    REGISTRY.register(AgentCollector(agent))
    metrics.serve_metrics(listen)
