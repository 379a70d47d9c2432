"""The process beside one database engine: dials out, listens on nothing."""
