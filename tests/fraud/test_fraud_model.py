"""The model: the same bytes from the same rows, refused when it does not fit or was changed."""

from __future__ import annotations

import datetime as dt
import json

import frames
import numpy as np
import pytest

from resources.model_registry import ModelStore, ModelStoreError
from stripe_platform.features.declarations import feature_set_hash
from stripe_platform.fraud import train
from stripe_platform.fraud.model import score, train_and_evaluate
from stripe_platform.fraud.protocol import Windows

WINDOWS = Windows.starting(dt.date(2026, 5, 1))


@pytest.fixture(scope="module")
def trained():
    return train_and_evaluate(frames.invented(), WINDOWS)


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


def test_the_same_charges_in_any_order_give_the_same_version(trained, store):
    again = train_and_evaluate(frames.invented().sample(frac=1, random_state=3), WINDOWS)
    assert store.save(again.text, again.signature).version == store.save(trained.text, trained.signature).version


def test_one_other_label_gives_another_version(trained, store):
    frame = frames.invented()
    frame.loc[frame.index[frame.known_ts.isna()][0], "known_ts"] = frame.event_ts.iloc[0]
    other = train_and_evaluate(frame, WINDOWS)
    assert store.save(other.text, other.signature).version != store.save(trained.text, trained.signature).version


def test_bins_and_initial_score_are_pinned_because_they_decide_at_a_low_base_rate(trained):
    pinned = {k: train.PARAMS[k] for k in ("max_bin", "min_data_in_bin", "boost_from_average")}
    assert pinned == {"max_bin": 4095, "min_data_in_bin": 1, "boost_from_average": False}
    for line in ("[max_bin: 4095]", "[min_data_in_bin: 1]", "[boost_from_average: 0]", "[num_iterations: 200]"):
        assert line in trained.text


def test_the_plot_fits_into_run_metadata(trained):
    assert trained.png.startswith(b"\x89PNG")
    assert len(trained.png) < 60_000


def test_a_stored_model_comes_back_with_its_signature_and_scores_alike(trained, store):
    version = store.save(trained.text, trained.signature).version
    loaded = store.load()
    assert loaded.version == version == store.current()
    assert loaded.signature["features"] == list(frames.FEATURE_NAMES)
    rows = frames.invented().head(50)
    scores, decisions = score(loaded, rows)
    assert set(decisions) <= {"allow", "review", "block"}
    np.testing.assert_array_equal(scores, score(store.load(version), rows)[0])
    assert ((scores >= 0) & (scores <= 1)).all()


def test_saving_again_changes_no_byte(trained, store):
    version = store.save(trained.text, trained.signature).version
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (store.root / version).iterdir()}
    store.save(trained.text, trained.signature)
    assert before == {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (store.root / version).iterdir()}
    assert sorted(p.name for p in store.root.iterdir()) == sorted([version, "current.json"])


def test_a_model_of_another_feature_set_is_refused_at_scoring(trained, store):
    other = store.save(trained.text, {**trained.signature, "feature_set_hash": "0" * 64})
    with pytest.raises(ModelStoreError, match=f"feature set 000000000000, charges carry {feature_set_hash()[:12]}"):
        score(other, frames.invented().head(5))


@pytest.mark.parametrize("name", ["model.txt", "signature.json"])
def test_a_tampered_file_is_refused(trained, store, name):
    version = store.save(trained.text, trained.signature).version
    path = store.root / version / name
    content = path.read_text()
    one, other = {"model.txt": ("leaf_value=", "leaf_value=9"), "signature.json": ("0.", "1.")}[name]
    changed = content.replace(one, other, 1)
    assert changed != content
    path.write_text(changed)
    with pytest.raises(ModelStoreError, match=f"{name} of model {version} was changed after training"):
        store.load(version)


def test_a_signature_forged_together_with_its_model_does_not_keep_the_version(trained, store):
    version = store.save(trained.text, trained.signature).version
    forged = ModelStore(store.root.parent / "forged").save(trained.text + "\n", trained.signature)
    for name in ("model.txt", "signature.json"):
        (store.root / version / name).write_bytes((store.root.parent / "forged" / forged.version / name).read_bytes())
    with pytest.raises(ModelStoreError, match=r"signature\.json"):
        store.load(version)


def test_without_a_model_the_remedy_is_named(store):
    with pytest.raises(ModelStoreError, match="materialize fraud/model first"):
        store.load()
    store.root.mkdir()
    (store.root / "current.json").write_text(json.dumps({"version": "0123456789abcdef"}))
    with pytest.raises(ModelStoreError, match="model 0123456789abcdef is not in"):
        store.load()
