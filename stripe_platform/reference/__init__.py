"""The reference database: what the whole company looks up, owned here, copied to the OLTP through its change log."""
