"""The SELECT dialect of tables and views, compiled to SQLite (synapse-rest.md 6.2).

A recursive descent over one SELECT on one table. Nothing of the caller's text reaches SQLite: names are looked
up among the source's columns and replaced by their expressions, literals are bound. Words that SQLite and the
service spell alike go through a list of allowed ones; anything else is refused with 400.
"""

# Text is put together from our own pieces only, as the docstring says.

# ruff: noqa: S608

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from synd.clock import parse_time_ns
from synd.registry.web import RefusedError, bad

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`)
      | (?P<table>syn[0-9]+(?:\.[0-9]+)?\b)
      | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign><=|>=|<>|!=|[=<>(),*+\-/%;])""",
    re.VERBOSE | re.IGNORECASE,
)

_TABLE = re.compile(r"\bfrom\s+\"?(syn[0-9]+)(?:\.([0-9]+))?\b", re.IGNORECASE)

_AGGREGATES = {
    "COUNT": "INTEGER", "SUM": "", "AVG": "DOUBLE", "MIN": "", "MAX": "",
    "GROUP_CONCAT": "STRING", "STDDEV": "DOUBLE",
}  # fmt: skip
_FUNCTIONS = {
    "LOWER": ("lower", "STRING"), "UPPER": ("upper", "STRING"), "TRIM": ("trim", "STRING"),
    "LENGTH": ("length", "INTEGER"), "CHAR_LENGTH": ("length", "INTEGER"),
    "COALESCE": ("coalesce", ""), "IFNULL": ("ifnull", ""), "NULLIF": ("nullif", ""),
    "ROUND": ("round", "DOUBLE"), "ABS": ("abs", ""), "REPLACE": ("replace", "STRING"),
    "SUBSTRING": ("substr", "STRING"), "SUBSTR": ("substr", "STRING"),
    "JSON_EXTRACT": ("json_extract", "STRING"),
}  # fmt: skip
_RESERVED = frozenset(
    [
        "SELECT",
        "DISTINCT",
        "FROM",
        "WHERE",
        "GROUP",
        "BY",
        "HAVING",
        "ORDER",
        "LIMIT",
        "OFFSET",
        "AND",
        "OR",
        "NOT",
        "IN",
        "IS",
        "NULL",
        "LIKE",
        "BETWEEN",
        "AS",
        "ASC",
        "DESC",
        "HAS",
        "HAS_LIKE",
        "NULLS",
        "FIRST",
        "LAST",
        "CASE",
        "WHEN",
        "THEN",
        "ELSE",
        "END",
        "ESCAPE",
    ]
)
ROW_COLUMNS = {"ROW_ID": "INTEGER", "ROW_VERSION": "INTEGER", "ROW_ETAG": "STRING"}


class Column(NamedTuple):
    """A column of a source: its name, type, SQLite expression over the source, and column id."""

    name: str
    type: str
    sql: str
    id: str | None


class SelectColumn(NamedTuple):
    """A column of a result."""

    name: str
    type: str
    id: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """What a query reads: a CTE named `src` with row_id, row_version, row_etag, and the columns over it."""

    with_sql: str
    """Text of the WITH clause, ending in ``src AS (…)``."""
    args: tuple[Any, ...]
    columns: tuple[Column, ...]
    size_sql: str = ""
    """Expression of a row's file size; empty when rows have none."""


@dataclass(frozen=True, slots=True)
class Query:
    """A compiled SELECT. Its rows begin with row_id, row_version, row_etag unless it is an aggregate."""

    sql: str
    args: tuple[Any, ...]
    columns: tuple[SelectColumn, ...]
    aggregate: bool
    where: tuple[str, tuple[Any, ...]]
    """``WITH … FROM src WHERE …`` as (text before the select list, text after it is `tail`) for sums."""
    source: Source

    @property
    def count(self) -> tuple[str, tuple[Any, ...]]:
        return f"SELECT count(*) FROM ({self.sql})", self.args

    @property
    def sum_sizes(self) -> tuple[str, tuple[Any, ...]]:
        """Sum of file sizes of the rows that the WHERE clause leaves."""
        tail, args = self.where
        size = self.source.size_sql or "0"
        return (
            f"{self.source.with_sql} SELECT coalesce(sum({size}), 0) FROM src{tail}",
            (*self.source.args, *args),
        )

    def page(self, limit: int, offset: int) -> tuple[str, tuple[Any, ...]]:
        return f"SELECT * FROM ({self.sql}) LIMIT ? OFFSET ?", (*self.args, limit, offset)


def table_of(sql: str) -> tuple[int, int | None]:
    """(entity, version) that a SELECT reads from. Raises RefusedError 400."""
    match = _TABLE.search(sql)
    if match is None:
        raise bad(f"There is no table in the query: {sql}")
    return int(match[1][3:]), int(match[2]) if match[2] else None


@dataclass(slots=True)
class _Node:
    """A piece of an expression: SQLite text and its bound values in textual order."""

    sql: str
    args: list[Any] = field(default_factory=list)
    type: str = ""
    column: Column | None = None
    literal: bool = False
    aggregate: bool = False
    shown: str = ""


def _coerce(node: _Node, kind: str) -> _Node:
    """A literal as a column of that type holds it."""
    if not node.literal or len(node.args) != 1:
        return node
    value = node.args[0]
    text = str(value)
    try:
        if kind == "DATE" and isinstance(value, str):
            value = (
                int(value) if value.lstrip("-").isdecimal() else parse_time_ns(value) // 1_000_000
            )
        elif kind == "ENTITYID":
            value = f"syn{text}" if text.isdecimal() else text
        elif kind in ("USERID", "FILEHANDLEID", "SUBMISSIONID", "EVALUATIONID"):
            value = text
        elif kind == "BOOLEAN":
            value = int(text.lower() in ("true", "1"))
        elif kind == "INTEGER" and isinstance(value, str):
            value = int(value)
        elif kind == "DOUBLE" and isinstance(value, str):
            value = float(value)
        elif kind in ("STRING", "LARGETEXT", "MEDIUMTEXT", "LINK"):
            value = text
    except ValueError as error:
        raise bad(f"{value!r} is not a valid {kind}.") from error
    return _Node(node.sql, [value], literal=True, shown=node.shown)


class _Parser:
    def __init__(self, text: str, source: Source, user: int) -> None:
        self.tokens = _tokens(text)
        self.at = 0
        self.source = source
        self.user = user
        self.by_name = {c.name: c for c in source.columns}
        self.by_lower = {c.name.lower(): c for c in source.columns}
        self.aliases: dict[str, int] = {}

    # Reading tokens.

    def peek(self, *words: str) -> bool:
        kind, text = self.tokens[self.at]
        return kind in ("word", "sign", "end") and text.upper() in words

    def take(self, *words: str) -> bool:
        if self.peek(*words):
            self.at += 1
            return True
        return False

    def expect(self, *words: str) -> None:
        for word in words:
            if not self.take(word):
                raise bad(f"Expected {word} before {self.tokens[self.at][1]!r} in the query.")

    # Clauses.

    def select(self) -> Query:
        self.expect("SELECT")
        distinct = self.take("DISTINCT")
        items = self.items()
        self.expect("FROM")
        kind, _ = self.tokens[self.at]
        if kind != "table":
            raise bad("The query must read from one table, such as syn123.")
        self.at += 1
        if self.take("AS") or (self.tokens[self.at][0] == "word" and not self.reserved()):
            self.at += 1
        where = group = having = None
        if self.take("WHERE"):
            where = self.expression()
        if self.take("GROUP"):
            self.expect("BY")
            group = self.listed()
        if self.take("HAVING"):
            having = self.expression()
        order: list[_Node] = []
        if self.take("ORDER"):
            self.expect("BY")
            order = self.ordering()
        limit, offset = self.limits()
        self.take(";")
        if not self.peek(""):
            raise bad(f"Encountered {self.tokens[self.at][1]!r} where the query should end.")
        return self.assemble(items, distinct, where, group, having, order, limit, offset)

    def reserved(self) -> bool:
        return self.tokens[self.at][1].upper() in _RESERVED

    def items(self) -> list[tuple[_Node, str]]:
        """(expression, name) of each selected column."""
        found: list[tuple[_Node, str]] = []
        while True:
            if self.take("*"):
                found += [
                    (_Node(c.sql, type=c.type, column=c), c.name) for c in self.source.columns
                ]
            else:
                node = self.operand()
                name = node.column.name if node.column is not None else node.shown
                if self.take("AS") or (
                    self.tokens[self.at][0] in ("word", "quoted") and not self.reserved()
                ):
                    name = self.name()
                    self.aliases[name] = len(found) + 1
                found.append((node, name))
            if not self.take(","):
                return found

    def name(self) -> str:
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "quoted":
            return text[1:-1].replace(text[0] * 2, text[0])
        if kind in ("word", "string"):
            return text.strip("'")
        raise bad(f"{text!r} is not a name.")

    def listed(self) -> list[_Node]:
        found = [self.operand()]
        while self.take(","):
            found.append(self.operand())
        return found

    def ordering(self) -> list[_Node]:
        found = []
        while True:
            node = self.operand()
            if self.take("DESC"):
                node.sql += " DESC"
            else:
                self.take("ASC")
            if self.take("NULLS"):
                node.sql += " NULLS FIRST" if self.take("FIRST") else " NULLS LAST"
                self.take("LAST")
            found.append(node)
            if not self.take(","):
                return found

    def limits(self) -> tuple[int | None, int]:
        limit: int | None = None
        offset = 0
        if self.take("LIMIT"):
            limit = self.whole()
            if self.take(","):
                offset, limit = limit, self.whole()
        if self.take("OFFSET"):
            offset = self.whole()
        return limit, offset

    def whole(self) -> int:
        kind, text = self.tokens[self.at]
        if kind != "number" or not text.isdecimal():
            raise bad(f"{text!r} is not a whole number.")
        self.at += 1
        return int(text)

    # Expressions, loosest binding first.

    def expression(self) -> _Node:
        node = self.conjunction()
        while self.take("OR"):
            node = _join(node, "OR", self.conjunction())
        return node

    def conjunction(self) -> _Node:
        node = self.negation()
        while self.take("AND"):
            node = _join(node, "AND", self.negation())
        return node

    def negation(self) -> _Node:
        if self.take("NOT"):
            node = self.negation()
            return _Node(f"(NOT {node.sql})", node.args, aggregate=node.aggregate)
        return self.predicate()

    def predicate(self) -> _Node:
        left = self.operand()
        if self.take("IS"):
            negated = "NOT " if self.take("NOT") else ""
            for word, sql in (("NULL", "NULL"), ("TRUE", "1"), ("FALSE", "0")):
                if self.take(word):
                    return _Node(
                        f"({left.sql} IS {negated}{sql})", left.args, aggregate=left.aggregate
                    )
            raise bad("IS must be followed by NULL, TRUE or FALSE.")
        negated = "NOT " if self.take("NOT") else ""
        if self.take("IN"):
            values = [_coerce(one, left.type) for one in self.parenthesised()]
            return _spread(left, f"{negated}IN", values)
        if self.take("LIKE"):
            right = self.operand()
            escape = ""
            args = left.args + right.args
            if self.take("ESCAPE"):
                mark = self.operand()
                escape, args = f" ESCAPE {mark.sql}", args + mark.args
            return _Node(f"({left.sql} {negated}LIKE {right.sql}{escape})", args)
        if self.take("BETWEEN"):
            low = _coerce(self.operand(), left.type)
            self.expect("AND")
            high = _coerce(self.operand(), left.type)
            return _Node(
                f"({left.sql} {negated}BETWEEN {low.sql} AND {high.sql})",
                left.args + low.args + high.args,
            )
        if self.take("HAS"):
            kind = left.type.removesuffix("_LIST")
            values = [
                _coerce(one, kind if kind != "BOOLEAN" else "") for one in self.parenthesised()
            ]
            marks = ", ".join(one.sql for one in values)
            args = left.args + [value for one in values for value in one.args]
            return _Node(
                f"({negated}EXISTS (SELECT 1 FROM json_each({left.sql}) WHERE value IN ({marks})))",
                args,
            )
        if negated:
            raise bad("NOT must be followed by IN, LIKE, BETWEEN or HAS here.")
        for sign in ("<=", ">=", "<>", "!=", "=", "<", ">"):
            if self.take(sign):
                right = self.operand()
                return _join(_coerce(left, right.type), sign, _coerce(right, left.type))
        return left

    def parenthesised(self) -> list[_Node]:
        self.expect("(")
        found = self.listed()
        self.expect(")")
        return found

    def operand(self) -> _Node:
        node = self.product()
        while self.peek("+", "-"):
            sign = self.tokens[self.at][1]
            self.at += 1
            node = _arithmetic(node, sign, self.product())
        return node

    def product(self) -> _Node:
        node = self.atom()
        while self.peek("*", "/", "%"):
            sign = self.tokens[self.at][1]
            self.at += 1
            node = _arithmetic(node, sign, self.atom())
        return node

    def atom(self) -> _Node:
        kind, text = self.tokens[self.at]
        if kind == "sign" and text == "(":
            self.at += 1
            node = self.expression()
            self.expect(")")
            return _Node(f"({node.sql})", node.args, node.type, aggregate=node.aggregate,
                         shown=f"({node.shown})")  # fmt: skip
        if kind == "sign" and text == "-":
            self.at += 1
            node = self.atom()
            if node.literal and isinstance(node.args[0], int | float):
                return _Node("?", [-node.args[0]], node.type, literal=True, shown=f"-{node.shown}")
            return _Node(f"(- {node.sql})", node.args, node.type, aggregate=node.aggregate)
        self.at += 1
        if kind == "string":
            return _Node("?", [text[1:-1].replace("''", "'")], "STRING", literal=True, shown=text)
        if kind == "number":
            value = int(text) if text.isdecimal() else float(text)
            return _Node(
                "?", [value], "INTEGER" if isinstance(value, int) else "DOUBLE",
                literal=True, shown=text,
            )  # fmt: skip
        if kind == "quoted":
            return self.column(text[1:-1].replace(text[0] * 2, text[0]))
        if kind == "word":
            return self.word(text)
        raise bad(f"Encountered {text or 'the end'!r} where a value or column should be.")

    def word(self, text: str) -> _Node:
        upper = text.upper()
        if self.peek("(") and (upper in _AGGREGATES or upper in _FUNCTIONS or upper in (
            "CONCAT", "CURRENT_USER", "UNIX_TIMESTAMP")):  # fmt: skip
            return self.function(upper)
        if upper in ("TRUE", "FALSE"):
            return _Node("?", [int(upper == "TRUE")], "BOOLEAN", literal=True, shown=text)
        if upper == "NULL":
            return _Node("NULL", shown=text)
        if upper == "CASE":
            return self.case()
        return self.column(text)

    def column(self, name: str) -> _Node:
        found = self.by_name.get(name) or self.by_lower.get(name.lower())
        if found is not None:
            return _Node(found.sql, type=found.type, column=found, shown=found.name)
        if name.upper() in ROW_COLUMNS:
            upper = name.upper()
            column = Column(upper, ROW_COLUMNS[upper], f"src.{upper.lower()}", None)
            return _Node(column.sql, type=column.type, column=column, shown=upper)
        if name in self.aliases:
            return _Node(str(self.aliases[name]), shown=name)
        raise bad(f"Unknown column: {name}")

    def function(self, upper: str) -> _Node:
        self.expect("(")
        if upper == "CURRENT_USER":
            self.expect(")")
            return _Node("?", [str(self.user)], "USERID", shown="CURRENT_USER()")
        distinct = "DISTINCT " if self.take("DISTINCT") else ""
        if upper == "COUNT" and self.take("*"):
            self.expect(")")
            return _Node("count(*)", type="INTEGER", aggregate=True, shown="COUNT(*)")
        arguments = self.listed()
        self.expect(")")
        args = [value for one in arguments for value in one.args]
        shown = f"{upper}({distinct}{','.join(one.shown for one in arguments)})"
        inner = ", ".join(one.sql for one in arguments)
        if upper in _AGGREGATES:
            kind = _AGGREGATES[upper] or arguments[0].type
            sql = f"{upper.lower()}({distinct}{inner})"
            if upper == "STDDEV":
                raise bad("STDDEV is not supported by this registry.")
            return _Node(sql, args, kind, aggregate=True, shown=shown)
        inside = any(one.aggregate for one in arguments)
        if upper == "CONCAT":
            sql = "(" + " || ".join(f"coalesce({one.sql}, '')" for one in arguments) + ")"
            return _Node(sql, args, "STRING", aggregate=inside, shown=shown)
        if upper == "UNIX_TIMESTAMP":
            moment = _coerce(arguments[0], "DATE")
            return _Node(moment.sql, moment.args, "INTEGER", aggregate=inside, shown=shown)
        name, kind = _FUNCTIONS[upper]
        return _Node(
            f"{name}({inner})", args, kind or arguments[0].type, aggregate=inside, shown=shown
        )

    def case(self) -> _Node:
        sql, kind = "CASE", ""
        args: list[Any] = []
        while self.take("WHEN"):
            condition = self.expression()
            self.expect("THEN")
            value = self.operand()
            sql += f" WHEN {condition.sql} THEN {value.sql}"
            args += condition.args + value.args
            kind = kind or value.type
        if self.take("ELSE"):
            value = self.operand()
            sql += f" ELSE {value.sql}"
            args += value.args
        self.expect("END")
        return _Node(f"({sql} END)", args, kind, shown="CASE")

    # Putting it together.

    def assemble(
        self,
        items: list[tuple[_Node, str]],
        distinct: bool,
        where: _Node | None,
        group: list[_Node] | None,
        having: _Node | None,
        order: list[_Node],
        limit: int | None,
        offset: int,
    ) -> Query:
        aggregate = distinct or group is not None or any(node.aggregate for node, _ in items)
        parts = [] if aggregate else ["src.row_id", "src.row_version", "src.row_etag"]
        lead = len(parts)
        args: list[Any] = list(self.source.args)
        columns = []
        for n, (node, name) in enumerate(items):
            parts.append(f"{node.sql} AS c{n}")
            args += node.args
            column = node.column
            plain = column is not None and name == column.name
            columns.append(
                SelectColumn(name, node.type or "STRING", column.id if plain and column else None)
            )
        sql = f"{self.source.with_sql} SELECT {'DISTINCT ' if distinct else ''}{', '.join(parts)} FROM src"
        tail, tail_args = "", []
        if where is not None:
            tail, tail_args = f" WHERE {where.sql}", list(where.args)
        sql += tail
        args += tail_args
        if group is not None:
            sql += " GROUP BY " + ", ".join(_position(node, lead) for node in group)
            args += [value for node in group for value in node.args]
        if having is not None:
            sql += f" HAVING {having.sql}"
            args += having.args
        if order:
            sql += " ORDER BY " + ", ".join(_position(node, lead) for node in order)
            args += [value for node in order for value in node.args]
        elif not aggregate:
            sql += " ORDER BY src.row_id"
        if limit is not None or offset:
            sql += " LIMIT ? OFFSET ?"
            args += [-1 if limit is None else limit, offset]
        return Query(
            sql, tuple(args), tuple(columns), aggregate, (tail, tuple(tail_args)), self.source
        )


def _position(node: _Node, lead: int) -> str:
    """An alias is a position among the selected items; the row columns stand before them."""
    head, space, direction = node.sql.partition(" ")
    return f"{int(head) + lead}{space}{direction}" if head.isdecimal() else node.sql


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise bad(f"The query cannot be read from {text[at : at + 20]!r} on.")
        at = match.end()
        if match.lastgroup != "space" and match.lastgroup is not None:
            found.append((match.lastgroup, match.group()))
    found.append(("end", ""))
    return found


def _join(left: _Node, sign: str, right: _Node) -> _Node:
    return _Node(
        f"({left.sql} {sign} {right.sql})",
        left.args + right.args,
        "BOOLEAN",
        aggregate=left.aggregate or right.aggregate,
    )


def _arithmetic(left: _Node, sign: str, right: _Node) -> _Node:
    both = {left.type, right.type}
    kind = "DOUBLE" if "DOUBLE" in both or sign == "/" else "INTEGER"
    a = f"({left.sql} * 1.0)" if sign == "/" else left.sql
    return _Node(
        f"({a} {sign} {right.sql})",
        left.args + right.args,
        kind,
        aggregate=left.aggregate or right.aggregate,
        shown=f"{left.shown}{sign}{right.shown}",
    )


def _spread(left: _Node, word: str, values: Sequence[_Node]) -> _Node:
    marks = ", ".join(one.sql for one in values)
    return _Node(
        f"({left.sql} {word} ({marks}))",
        left.args + [value for one in values for value in one.args],
    )


def compile_select(text: str, source: Source, user: int) -> Query:
    """The SELECT in `text` over `source`, for that user. Raises RefusedError 400."""
    try:
        return _Parser(text, source, user).select()
    except RecursionError as error:
        raise RefusedError(400, "The query is nested too deeply.") from error
