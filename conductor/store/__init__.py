"""Every query, by name. Functions take a session and run inside the caller's transaction."""
