{#- Schema = the folder's name, in every environment: environments differ by database, never by schema. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- set name = (custom_schema_name or target.schema) | trim -%}
    {{ name | upper if target.type == 'snowflake' else name }}
{%- endmacro %}
