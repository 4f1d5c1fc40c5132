"""The key ring as a Dagster resource."""

from __future__ import annotations

import dagster as dg

from stripe_platform.keyring import Keyring, open_keyring
from stripe_platform.settings import load_settings


class KeyringResource(dg.ConfigurableResource):
    """Opens the key ring of this deployment when it is asked for, never at import."""

    def ring(self) -> Keyring:
        return open_keyring(load_settings())
