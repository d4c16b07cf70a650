"""Documents of grids as replicas: snapshots and patches in, plain values out, and back.

A port of what the service uses of json-joy's JSON CRDT (indexed binary snapshots, compact patches). It needs
nothing of the rest of synd but its errors, and nothing of the network.
Source: reference/grid-protocol.md, 7 to 13.
"""

from synd.grid.crdt.replica import Replica
from synd.grid.crdt.values import UNDEFINED, Timestamp

__all__ = ["UNDEFINED", "Replica", "Timestamp"]
