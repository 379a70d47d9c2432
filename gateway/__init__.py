"""Two processes at the edge: the REST API (gateway.rest) and the guest gateway (gateway.guest)."""
