"""Where guests run, behind the Compute protocol."""
