"""The comparison with UViM: what it trains and measures, and how it goes on from its record."""

from __future__ import annotations

import json

import pytest

import gss_lite as gss
from notebooks.experiments import uvim_comparison


def test_the_table_has_means_over_seeds_and_sums_over_stages():
    def found(miou, seconds):
        return {
            "miou": miou,
            "scores": {"prediction": miou, "reconstruction": 90.0},
            "seconds": {"uvim-base": seconds, "uvim-code": 7.0},
            "parameters": {"uvim-base": 1_000_000, "uvim-code": 2_500_000},
            "evaluation_seconds": 3.0,
        }

    twin = {
        "miou": 50.0,
        "scores": {"prediction": 50.0},
        "seconds": {"pixel": 12.0},
        "parameters": {"pixel": 10_000},
        "evaluation_seconds": 1.0,
    }
    rows = {"UViM": {"0": found(40.0, 10.0), "1": found(44.0, 20.0)}, "twin": {"0": twin}}
    _, uvim, other = uvim_comparison.table(rows).splitlines()
    cells = [cell for cell in uvim.split("  ") if cell]
    assert [cell.strip() for cell in cells] == [
        "UViM",
        "42.0 ± 2.8",
        "90.0 ± 0.0",
        "15 ± 7",
        "7 ± 0",
        "3 ± 0",
        "3.50",
    ]
    assert "–" in other and "12 ± 0" in other


@pytest.mark.slow
def test_the_record_grows_and_is_taken_up(tiny_run, tmp_path, monkeypatch, capsys):
    path = tmp_path / "record.json"
    command = (
        "--preset scenes-tiny --seeds 1 --steps 2 --pictures 2 --quiet "
        f"--weights {tiny_run} --work {tmp_path}/work --record {path}".split()
    )
    uvim_comparison.main(command)
    record = json.loads(path.read_text())
    rows = record["metrics"]["rows"]
    assert list(rows) == list(uvim_comparison.SYSTEMS) and record["metrics"]["pictures"] == 2
    folder = tmp_path / "work" / "2-steps-seed-0"
    dataset = uvim_comparison.subset(gss.create_dataset("scenes-tiny", "test"), 2)
    for system, (stages, parts) in uvim_comparison.SYSTEMS.items():
        found = rows[system]["0"]
        assert list(found["seconds"]) == list(found["parameters"]) == list(stages)
        model = gss.create_model("scenes-tiny", pretrained=folder, **parts)
        result = gss.evaluate(model, dataset, progress=False)
        assert found["miou"] == pytest.approx(100 * result.miou, abs=0.01), system
        assert ("reconstruction" in found["scores"]) == (system != "twin")
        for stage in {"prior", "pixel", "uvim-code", "uvim-code-ar"} & set(stages):
            assert json.loads((folder / f"scenes-tiny.{stage}.json").read_text())["steps"] == 2

    ran = []
    real = uvim_comparison.run_one

    def watched(preset, system, *arguments, **how):
        ran.append((system, preset.seed))
        return real(preset, system, *arguments, **how)

    monkeypatch.setattr(uvim_comparison, "run_one", watched)
    twin = rows.pop("twin")
    path.write_text(json.dumps(record))
    uvim_comparison.main(command)
    assert ran == [("twin", 0)]  # its weights are there, so it is only evaluated
    again = json.loads(path.read_text())["metrics"]["rows"]
    assert again["twin"]["0"]["scores"] == twin["0"]["scores"]
    assert again["GSS-FF"] == rows["GSS-FF"]
    command[command.index("--pictures") + 1] = "1"
    capsys.readouterr()
    uvim_comparison.main(command)
    assert "has other settings; it begins anew" in capsys.readouterr().out
    assert len(ran) == 1 + len(uvim_comparison.SYSTEMS)
