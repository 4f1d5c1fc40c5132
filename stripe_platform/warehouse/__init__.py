"""The warehouse room: raw tables, the dbt project as assets, certification, content hashes."""
