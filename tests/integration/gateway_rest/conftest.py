"""Says at the end of a run how far the recording of Trove was followed."""

from __future__ import annotations

import sys

import pytest

_CONTRACT = "test_trove_contract"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    contract = next(
        (module for name, module in sys.modules.items() if name.endswith(_CONTRACT)), None
    )
    if contract is None or not hasattr(contract, "NOT_REPLAYED"):
        return
    left_out = {why: len(labels) for why, labels in contract.NOT_REPLAYED.items()}
    terminalreporter.section("recorded pairs of Trove")
    terminalreporter.line(
        f"{len(contract.PAIRS)} replayed, {len(contract.DIFFERENCES)} of them on the list of "
        f"differences; {sum(left_out.values())} left out:"
    )
    for why, count in sorted(left_out.items(), key=lambda item: -item[1]):
        terminalreporter.line(f"  {count:3} {why}")
