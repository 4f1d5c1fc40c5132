"""The code location of `test_sensor_storm.py`: the platform's sensor over its assets of the log and raw."""

import dagster as dg

from resources.lake import LakeResource
from resources.warehouse import WarehouseResource
from stripe_platform.cdc import sensors
from stripe_platform.cdc.assets import CDC_ASSETS
from stripe_platform.keys import DATED, key
from stripe_platform.warehouse.raw_assets import RAW_ASSETS

sensors.INTERVAL_SECONDS = 1
ARRIVALS = dg.define_asset_job("arrivals", dg.AssetSelection.assets(
    key("cdc", "batches"), *(key(layer, name) for layer in ("cdc", "raw") for name in DATED)))

defs = dg.Definitions(
    assets=[*CDC_ASSETS, *RAW_ASSETS], jobs=[ARRIVALS], sensors=[sensors.build_sensor(ARRIVALS)],
    executor=dg.in_process_executor, resources={"lake": LakeResource(), "warehouse": WarehouseResource()})
