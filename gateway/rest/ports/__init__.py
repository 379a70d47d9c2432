"""What groups of routes ask of the rest of the system, each with its gRPC implementation."""
