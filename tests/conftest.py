"""What must be so before any test's module is imported."""

import os

# Read by gRPC when it is imported: tests start programs while channels are open, and a copy of
# gRPC that comes to life between fork and exec writes into their output, or ends them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
