"""The service side of grids: sessions, the live document, its socket, validation, CSV (grid-protocol.md)."""
