"""Carries out long operations as durable flows."""
