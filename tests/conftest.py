"""What must be so before any test's module is imported."""

import os

from hypothesis import settings

# Read by gRPC when it is imported: tests start programs while channels are open, and a copy of
# gRPC that comes to life between fork and exec writes into their output, or ends them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# What CI refuses must be what it refused before: the same examples each time, and none kept.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")
