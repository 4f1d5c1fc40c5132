"""What these tests share: a payments company in small."""

from company import company, shop

__all__ = ["company", "shop"]
