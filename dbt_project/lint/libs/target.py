"""dbt's `target` while sqlfluff renders the models."""

type = "postgres"
