"""What the fault tests share."""

from company import company, shop
from platforms import new_platform

__all__ = ["company", "new_platform", "shop"]
