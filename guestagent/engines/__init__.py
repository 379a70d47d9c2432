"""One module for each engine, behind the Engine protocol."""
