"""The operator's command: up, status, and the rest."""
