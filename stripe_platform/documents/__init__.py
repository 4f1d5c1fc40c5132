"""The document store: what an application reads record by record. Loaded from the change log and from landed files;
nothing sensitive in it, and a server that refuses what is not declared in `schemas`."""
