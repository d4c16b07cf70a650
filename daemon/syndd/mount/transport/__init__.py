"""The ways a mount's filesystem is driven: the kernel's own protocol, or libfuse."""
