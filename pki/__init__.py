"""Identity: what certificates may contain, who signs them, how they are asked for."""
