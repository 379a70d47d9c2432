"""The operator's command: up, status, and the rest."""

import os

# Read by gRPC when it is imported: processes are started while it runs, and its fork handlers are
# for forks that stay Python.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
