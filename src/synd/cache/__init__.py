"""Bytes on disk: immutable objects, incomplete ones, and when to let go of them."""
