"""Figures of maps: one scale for all of them, the bins that are drawn, the pictures of a record."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from gss_lite.metrics import Calibration  # noqa: E402
from gss_lite.plotting_maps import record_panels, show_maps, show_reliability  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_maps_share_one_scale_and_one_colour_bar():
    picture = torch.rand(3, 4, 6)
    one, other = torch.rand(4, 6), 5 * torch.rand(4, 6)
    figure = show_maps({"a picture": picture, "one": one, "other": other}, "nats", 0.5, 2.0)
    *panels, bar = figure.axes
    assert [axis.get_title() for axis in panels] == ["a picture", "one", "other"]
    assert np.allclose(panels[0].images[0].get_array(), picture.permute(1, 2, 0))
    for axis, values in zip(panels[1:], (one, other)):
        assert np.allclose(axis.images[0].get_array(), values)
        assert axis.images[0].get_clim() == (0.5, 2.0)
    assert bar.get_ylabel() == "nats"


def test_pictures_alone_have_no_scale():
    with pytest.raises(ValueError, match="no map"):
        show_maps({"a picture": torch.rand(3, 4, 6)}, "nats", 0, 1)


def test_small_bins_are_not_drawn():
    confidence = torch.tensor([0.3, 0.7, 0.9])
    accuracy = torch.tensor([1.0, 0.6, 0.9])
    curve = Calibration(confidence, accuracy, torch.tensor([0.0005, 0.4995, 0.5]), 0.05)
    axis = show_reliability({"ours": curve}).axes[0]
    assert axis.lines[1].get_xydata() == pytest.approx(np.array([[0.7, 0.6], [0.9, 0.9]]))
    assert axis.get_xlim() == axis.get_ylim() == pytest.approx((0.58, 1.02))


def test_the_pictures_of_a_record_are_cut_from_its_jpeg():
    sheet = np.zeros((8, 32, 3), np.uint8)
    sheet[:, 16:] = 200
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "JPEG", quality=95)
    record = {"jpeg_base64": base64.b64encode(buffer.getvalue()).decode(), "panels": ["a", "b"]}
    found = record_panels(record)
    assert list(found) == ["a", "b"]
    assert found["a"].shape == found["b"].shape == (3, 8, 16)
    assert found["a"].float().mean() < 5 and abs(float(found["b"].float().mean()) - 200) < 5
    with pytest.raises(ValueError, match="32 pixels"):
        record_panels({**record, "panels": ["a", "b", "c"]})
