"""The HTTP front: routers over the rooms below; no SQL, no rules of its own."""
