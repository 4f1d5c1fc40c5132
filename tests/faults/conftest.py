"""What the fault tests share."""

from platforms import new_platform

__all__ = ["new_platform"]
