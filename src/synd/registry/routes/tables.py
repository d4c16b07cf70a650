"""Placeholder."""

from __future__ import annotations

from synd.registry.web import Router


def add(router: Router) -> None:
    pass
