"""One operation per file, its steps top to bottom."""
