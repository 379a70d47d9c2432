"""Links as Trove gives them: https, the host asked for, the project in the path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import quote, urlencode

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Builds links for one request."""

    # Scheme and host; Trove says https whatever the request came by.
    base: str
    project_id: str

    def of(self, collection: str, identifier: str) -> list[Json]:
        """The two links of a resource."""
        resource = f"{collection}/{quote(identifier, safe='')}"
        return [
            {"href": f"{self.base}/v1.0/{self.project_id}/{resource}", "rel": "self"},
            {"href": f"{self.base}/{resource}", "rel": "bookmark"},
        ]

    def following(
        self,
        collection: str,
        *,
        limit: int,
        marker: str,
        filters: Mapping[str, str] = MappingProxyType({}),
    ) -> list[Json]:
        """The link to the next page, with the request's own filters.

        Clients unquote the marker once more than the URL asks.
        """
        query = urlencode({"limit": limit, "marker": quote(marker, safe=""), **filters})
        href = f"{self.base}/v1.0/{self.project_id}/{collection}?{query}"
        return [{"rel": "next", "href": href}]
