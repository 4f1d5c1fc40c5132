"""PostgreSQL's types by OID and as its own catalogue writes them: `numeric(12,2)`, `character varying(10)[]`."""

from __future__ import annotations

FIRST_USER_OID = 10_000  # below: fixed by the server's own bootstrap, the same everywhere
# As `format_type` prints them; from the bootstrap catalogue of PostgreSQL 18.
BUILT_IN: dict[int, str] = {
    16: "boolean", 17: "bytea", 18: '"char"', 19: "name", 20: "bigint", 21: "smallint", 22: "int2vector",
    23: "integer", 24: "regproc", 25: "text", 26: "oid", 27: "tid", 28: "xid", 29: "cid", 30: "oidvector",
    114: "json", 142: "xml", 194: "pg_node_tree", 600: "point", 601: "lseg", 602: "path", 603: "box", 604: "polygon",
    628: "line", 650: "cidr", 700: "real", 701: "double precision", 718: "circle", 774: "macaddr8", 790: "money",
    829: "macaddr", 869: "inet", 1033: "aclitem", 1042: "character", 1043: "character varying", 1082: "date",
    1083: "time without time zone", 1114: "timestamp without time zone", 1184: "timestamp with time zone",
    1186: "interval", 1266: "time with time zone", 1560: "bit", 1562: "bit varying", 1700: "numeric",
    1790: "refcursor", 2202: "regprocedure", 2203: "regoper", 2204: "regoperator", 2205: "regclass", 2206: "regtype",
    2950: "uuid", 2970: "txid_snapshot", 3220: "pg_lsn", 3361: "pg_ndistinct", 3402: "pg_dependencies",
    3614: "tsvector", 3615: "tsquery", 3642: "gtsvector", 3734: "regconfig", 3769: "regdictionary", 3802: "jsonb",
    3904: "int4range", 3906: "numrange", 3908: "tsrange", 3910: "tstzrange", 3912: "daterange", 3926: "int8range",
    4072: "jsonpath", 4089: "regnamespace", 4096: "regrole", 4191: "regcollation", 4451: "int4multirange",
    4532: "nummultirange", 4533: "tsmultirange", 4534: "tstzmultirange", 4535: "datemultirange",
    4536: "int8multirange", 4600: "pg_brin_bloom_summary", 4601: "pg_brin_minmax_multi_summary", 5017: "pg_mcv_list",
    5038: "pg_snapshot", 5069: "xid8", 143: "xml[]", 199: "json[]", 271: "xid8[]", 629: "line[]", 651: "cidr[]",
    719: "circle[]", 775: "macaddr8[]", 791: "money[]", 1000: "boolean[]", 1001: "bytea[]", 1002: '"char"[]',
    1003: "name[]", 1005: "smallint[]", 1006: "int2vector[]", 1007: "integer[]", 1008: "regproc[]", 1009: "text[]",
    1010: "tid[]", 1011: "xid[]", 1012: "cid[]", 1013: "oidvector[]", 1014: "character[]",
    1015: "character varying[]", 1016: "bigint[]", 1017: "point[]", 1018: "lseg[]", 1019: "path[]", 1020: "box[]",
    1021: "real[]", 1022: "double precision[]", 1027: "polygon[]", 1028: "oid[]", 1034: "aclitem[]",
    1040: "macaddr[]", 1041: "inet[]", 1115: "timestamp without time zone[]", 1182: "date[]",
    1183: "time without time zone[]", 1185: "timestamp with time zone[]", 1187: "interval[]", 1231: "numeric[]",
    1263: "cstring[]", 1270: "time with time zone[]", 1561: "bit[]", 1563: "bit varying[]", 2201: "refcursor[]",
    2207: "regprocedure[]", 2208: "regoper[]", 2209: "regoperator[]", 2210: "regclass[]", 2211: "regtype[]",
    2949: "txid_snapshot[]", 2951: "uuid[]", 3643: "tsvector[]", 3644: "gtsvector[]", 3645: "tsquery[]",
    3735: "regconfig[]", 3770: "regdictionary[]", 3807: "jsonb[]", 3905: "int4range[]", 3907: "numrange[]",
    3909: "tsrange[]", 3911: "tstzrange[]", 3913: "daterange[]", 3927: "int8range[]", 4073: "jsonpath[]",
    4090: "regnamespace[]", 4097: "regrole[]", 4192: "regcollation[]", 6150: "int4multirange[]",
    6151: "nummultirange[]", 6152: "tsmultirange[]", 6153: "tstzmultirange[]", 6155: "datemultirange[]",
    6157: "int8multirange[]",
}
_MODIFIED = frozenset({1042, 1043, 1083, 1114, 1184, 1266, 1560, 1562, 1700, 1186})
_SECONDS = {1083: "time", 1114: "timestamp", 1184: "timestamp", 1266: "time"}
_ELEMENT = {1014: 1042, 1015: 1043, 1183: 1083, 1115: 1114, 1185: 1184, 1270: 1266, 1561: 1560, 1563: 1562, 1231: 1700,
            1187: 1186}
_PLAIN = {1042: "bpchar", 1560: '"bit"'}  # without a length these names would mean a length of one
_INTERVALS = {  # the field mask in an interval's modifier, as `format_type` writes it
    1 << 2: "year", 1 << 1: "month", 1 << 3: "day", 1 << 10: "hour", 1 << 11: "minute", 1 << 12: "second",
    1 << 2 | 1 << 1: "year to month", 1 << 3 | 1 << 10: "day to hour", 1 << 3 | 1 << 10 | 1 << 11: "day to minute",
    1 << 3 | 1 << 10 | 1 << 11 | 1 << 12: "day to second", 1 << 10 | 1 << 11: "hour to minute",
    1 << 10 | 1 << 11 | 1 << 12: "hour to second", 1 << 11 | 1 << 12: "minute to second",
}


_NAMES = frozenset(BUILT_IN.values())


def base_of(kind: str) -> str:
    """A type without its modifier: `numeric[]` of `numeric(12,2)[]`; `interval` of every kind of it."""
    head, _, rest = kind.partition("(")
    base = head + rest.partition(")")[2]
    return f"interval{'[]' * base.endswith('[]')}" if base.startswith("interval ") else base


def is_built_in(kind: str) -> bool:
    """Whether a type is one that every server brings along, as `format_type` prints it."""
    return base_of(kind) in _NAMES or kind in ("bpchar", "bpchar[]")


def type_name(oid: int, typmod: int, named: str | None = None) -> str:
    """A column's type as `format_type(oid, typmod)` prints it.

    `named`: what the log calls a type that the server did not bring along (a domain goes by its base type there).
    """
    if oid in _ELEMENT:
        return f"{type_name(_ELEMENT[oid], typmod)}[]"
    plain = BUILT_IN.get(oid) or named or f"oid {oid}"
    if oid not in _MODIFIED:
        return plain
    if typmod < 0:
        return _PLAIN.get(oid, plain)
    if oid == 1700:
        # 11 bits of scale, signed: numeric(3,-2) rounds to hundreds.
        scale = ((typmod - 4) & 0x7FF ^ 1024) - 1024
        return f"numeric({(typmod - 4) >> 16 & 0xFFFF},{scale})"
    if oid in _SECONDS:
        return f"{_SECONDS[oid]}({typmod}){plain.removeprefix(_SECONDS[oid])}"
    if oid == 1186:
        fields, precision = typmod >> 16 & 0x7FFF, typmod & 0xFFFF
        text = f"interval {_INTERVALS[fields]}" if fields in _INTERVALS else "interval"
        return text if precision == 0xFFFF else f"{text}({precision})"
    return f"{plain}({typmod if oid in (1560, 1562) else typmod - 4})"
