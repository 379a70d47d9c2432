"""RPC faces: check what is asked, call the store, answer."""
