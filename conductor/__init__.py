"""Owns the database of record; calls nobody."""
