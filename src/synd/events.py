"""Change events as values: what became true, never who should act on it."""

from __future__ import annotations

from dataclasses import dataclass

from synd.ids import EntityId


@dataclass(frozen=True, slots=True)
class NameChanged:
    """A name in a folder appeared, vanished or leads elsewhere."""

    parent: EntityId | None
    """None for the top of the mount."""
    name: str
    """As users see it in the mount."""
    entity: EntityId
    gone: bool


@dataclass(frozen=True, slots=True)
class ContentChanged:
    """An entity has other bytes or other attributes than before."""

    entity: EntityId


Event = NameChanged | ContentChanged
