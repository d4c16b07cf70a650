"""Queries of a grid session: columns, filters, a page (synapse-rest.md 7.10). What is not known is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from synd.grid.crdt import UNDEFINED
from synd.grid.crdt.document import RowNode
from synd.registry.grids.csvs import spelled
from synd.registry.grids.engine import LiveGrid
from synd.registry.web import Json, bad

DEFAULT_LIMIT = 100
MAX_LIMIT = 10_000
Test = Callable[[RowNode], bool]


def run(live: LiveGrid, raw: object) -> dict[str, Json]:
    """A QueryResult. Raises RefusedError 400 for what this registry does not know."""
    if not isinstance(raw, dict):
        raise bad("queryRequest.query is required.")
    told = raw.get("limit")
    limit = DEFAULT_LIMIT if told is None else int(told)
    offset = int(raw.get("offset") or 0)
    if not 0 <= limit <= MAX_LIMIT or offset < 0:
        raise bad(f"limit must lie between 0 and {MAX_LIMIT}, and offset not below 0.")
    selection = raw.get("columnSelection") or [{"concreteType": "SelectAll"}]
    with live.lock:
        document = live.document
        index = {name: i for i, name in document.columns}
        tests = [_test(one, index) for one in raw.get("filters") or []]
        # Nothing is counted off one by one where every row is wanted.
        ahead = 0 if tests else offset
        found = (row for row in document.rows(ahead) if all(test(row) for test in tests))
        kinds = [_kind(one) for one in selection]
        if "CountStar" in kinds:
            if len(kinds) > 1:
                raise bad("CountStar cannot be selected beside columns.")
            alias = selection[0].get("alias") or "count"
            count = sum(1 for _ in (found if tests else document.rows()))
            return {
                "selectColumns": [{"columnName": alias}],
                "rows": [{"data": {alias: count}}] if limit and not offset else [],
            }
        names = _names(selection, kinds, index)
        rows: list[dict[str, Json]] = []
        for n, row in enumerate(found, start=ahead):
            if n < offset:
                continue
            if len(rows) >= limit:
                break
            rows.append(_row(row, names, index, bool(raw.get("includeValidationMessages"))))
    return {"selectColumns": [{"columnName": name} for name in names], "rows": rows}


def _kind(raw: object) -> str:
    return str(raw.get("concreteType")).rpartition(".")[2] if isinstance(raw, dict) else ""


def _names(selection: list[Any], kinds: list[str], index: dict[str, int]) -> list[str]:
    names: list[str] = []
    for one, kind in zip(selection, kinds, strict=True):
        if kind == "SelectAll":
            names += index
        elif kind == "SelectByName":
            name = one.get("columnName")
            if name not in index:
                raise bad(f"The grid has no column {name!r}.")
            names.append(name)
        else:
            raise bad(f"This registry does not know the selection {kind or one!r}.")
    return list(dict.fromkeys(names))


def _row(row: RowNode, names: list[str], index: dict[str, int], messages: bool) -> dict[str, Json]:
    data = {}
    for name in names:
        value = row.cells[index[name]]
        if value is not UNDEFINED:
            data[name] = value
    found: dict[str, Json] = {"rowId": f"{row.row_id.sid}.{row.row_id.time}", "data": data}
    if row.status != "pending" and row.validation is not None:
        told = {"isValid": row.status == "valid"}
        for name in ("validationErrorMessage", "allValidationMessages"):
            if name in row.validation and (messages or name == "validationErrorMessage"):
                told[name] = row.validation[name]
        found["validationResults"] = told
    return found


def _test(raw: object, index: dict[str, int]) -> Test:
    kind = _kind(raw)
    assert isinstance(raw, dict) or not kind
    if kind == "RowIsValidFilter" and isinstance(raw, dict):
        wanted = "valid" if raw.get("value") else "invalid"
        return lambda row: row.status == wanted
    if kind == "RowIdFilter" and isinstance(raw, dict):
        ids = set(map(str, raw.get("rowIdsIn") or []))
        return lambda row: f"{row.row_id.sid}.{row.row_id.time}" in ids
    if kind == "RowValidationResultFilter" and isinstance(raw, dict):
        like = _like(raw.get("validationResultValue"))
        negated = _negated(raw.get("operator"))

        def messages(row: RowNode) -> bool:
            every = (row.validation or {}).get("allValidationMessages") or []
            return any(like.fullmatch(one) for one in every) is not negated

        return messages
    if kind == "CellValueFilter" and isinstance(raw, dict):
        return _cell_test(raw, index)
    raise bad(f"This registry does not know the filter {kind or raw!r}.")


def _like(raw: object) -> re.Pattern[str]:
    parts = [{"%": ".*", "_": "."}.get(sign, re.escape(sign)) for sign in str(raw)]
    return re.compile("".join(parts), re.DOTALL | re.IGNORECASE)


def _negated(operator: object) -> bool:
    if operator not in ("LIKE", "NOT_LIKE"):
        raise bad(f"This registry does not know the operator {operator!r} here.")
    return operator == "NOT_LIKE"


def _order(value: Any) -> tuple[int, Any]:
    if isinstance(value, int | float):
        return 0, value
    try:
        return 0, float(value)
    except (TypeError, ValueError):
        return 1, spelled(value)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "GREATER_THAN": lambda a, b: a > b,
    "LESS_THAN": lambda a, b: a < b,
    "GREATER_THAN_OR_EQUALS": lambda a, b: a >= b,
    "LESS_THAN_OR_EQUALS": lambda a, b: a <= b,
}


def _cell_test(raw: dict[str, Json], index: dict[str, int]) -> Test:
    name, operator = raw.get("columnName"), str(raw.get("operator"))
    if name not in index:
        raise bad(f"The grid has no column {name!r}.")
    at = index[name]
    told = raw.get("value")
    listed = told if isinstance(told, list) else [] if told is None else [told]
    wanted = {spelled(one) for one in listed}
    if operator in ("IS_UNDEFINED", "IS_DEFINED"):
        return lambda row: (row.cells[at] is UNDEFINED) is (operator == "IS_UNDEFINED")
    if operator in ("IS_NULL", "IS_NOT_NULL"):
        return lambda row: (row.cells[at] is None) is (operator == "IS_NULL")
    if not listed:
        raise bad(f"A CellValueFilter with {operator} needs a value.")
    if operator in ("EQUALS", "IN"):
        return lambda row: spelled(row.cells[at]) in wanted
    if operator in ("NOT_EQUALS", "NOT_IN"):
        return lambda row: spelled(row.cells[at]) not in wanted
    if operator in ("LIKE", "NOT_LIKE"):
        like = _like(listed[0])
        negated = _negated(operator)
        return lambda row: bool(like.fullmatch(spelled(row.cells[at]))) is not negated
    if operator in _COMPARE:
        compare, edge = _COMPARE[operator], _order(listed[0])

        def beyond(row: RowNode) -> bool:
            value = row.cells[at]
            if value is UNDEFINED or value is None:
                return False
            mine = _order(value)
            return mine[0] == edge[0] and compare(mine[1], edge[1])

        return beyond
    raise bad(f"This registry does not know the operator {operator!r}.")
