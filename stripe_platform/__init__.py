"""A payments company's data, from OLTP commit to fraud score, as Dagster assets."""

__version__ = "0.1.0"
