"""The REST API: authenticate, check policy, validate, call."""
