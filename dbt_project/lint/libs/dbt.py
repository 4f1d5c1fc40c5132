"""Stand-ins for dbt's cross-database macros while sqlfluff renders the models."""


def date_spine(part: str, start: str, end: str) -> str:
    return f"select generate_series({start}, {end}, '1 {part}') as date_day"


def date_trunc(part: str, day: str) -> str:
    return f"date_trunc('{part}', {day})"
