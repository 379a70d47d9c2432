"""Sends what the API's OpenAPI document allows, and what it does not, and judges the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CheckContext, CheckFunction
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


def never_breaks(_context: CheckContext, response: Response, case: Any) -> None:
    """501 is an honest answer here, 500 never one."""
    assert response.status_code != 500, f"{case.method} {case.path}: {response.text}"


CHECKS: list[CheckFunction] = [
    never_breaks,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@dataclass(frozen=True)
class Fuzz:
    """How much is sent. The same number twice sends the same."""

    examples: int
    number: int = 5

    def run(self, document: Mapping[str, Any], base: str, known: Mapping[str, str]) -> int:
        """Requests sent to every operation at `base`; raises at the first wrong answer.

        `known` are values that lead to something that exists, by parameter or by the collection
        before an {id}: about half of the requests use them, or none would get past 404.
        """
        schema = schemathesis.openapi.from_dict(dict(document))
        return sum(
            self._send(found.ok(), mode, base, known)
            for found in schema.get_all_operations()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        )

    def _send(
        self, operation: Any, mode: GenerationMode, base: str, known: Mapping[str, str]
    ) -> int:
        places = _places(operation.path)
        sent = 0

        @seed(self.number)
        @settings(
            max_examples=self.examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), exists=st.booleans())
        def send(case: Any, *, exists: bool) -> None:
            nonlocal sent
            if exists:
                for name, collection in places.items():
                    case.path_parameters[name] = known.get(collection, "none")
            response = case.call(base_url=base, timeout=10)
            sent += 1
            case.validate_response(response, checks=CHECKS)

        send()
        return sent


def _places(path: str) -> dict[str, str]:
    """What stands for each parameter of a path: itself, or for an {id} its collection."""
    parts = path.split("/")
    named = {part.strip("{}"): before for before, part in pairwise(parts) if part[:1] == "{"}
    return {name: before if name == "id" else name for name, before in named.items()}
