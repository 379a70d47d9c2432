"""The process beside one database engine: dials out, listens on nothing."""

# Also in pyproject.toml: a guest has no package metadata to ask, and reading it costs 1 MiB.
__version__ = "0.1.0"
