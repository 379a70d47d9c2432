"""The guest gateway: sessions of guest agents, no CA key, no database."""
