"""The process beside one database engine: dials out, listens on nothing."""

import os

# Read by gRPC when it is imported: engines' programs are started while a channel is open, and its
# fork handlers are for forks that stay Python.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# Also in pyproject.toml: a guest has no package metadata to ask, and reading it costs 1 MiB.
__version__ = "0.1.0"
