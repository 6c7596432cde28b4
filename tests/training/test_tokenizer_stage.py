"""Stage I: one palette or any; the palette belongs to its run; other data are another run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gss_lite.contracts import IGNORE
from gss_lite.data import create_dataset
from gss_lite.data.scenes import ManyScenes
from gss_lite.data.transforms import train_transform
from gss_lite.export import export_weights
from gss_lite.factory import create_model, create_palette, create_tokenizer
from gss_lite.inverse import TEMPERATURE
from gss_lite.palette import Palette, random_palette
from gss_lite.presets import DataSpec, fixed, get_preset
from gss_lite.storage import weights_hash
from gss_lite.training import LoopOptions, loop, train
from gss_lite.training.run import data_hash
from gss_lite.training.tokenizer import (
    GenericLoss,
    Photographs,
    VQVAELoss,
    random_colors,
    readback_loss,
)

GENERIC = get_preset("generic-s4")
QUIET = LoopOptions(progress=False)
TINY = replace(
    GENERIC,
    data=replace(GENERIC.data, size=(64, 64), train_pictures=8),
    tokenizer=replace(
        GENERIC.tokenizer,
        arguments=fixed(vocab_size=32, stride=4, width=16, code_dim=8, depth=1),
    ),
).with_schedule("vqvae", steps=3, batch=8, crop=(32, 32), warmup=1)
PAINTED = replace(get_preset("scenes-tiny"), palette="by-neighbours")
FOLDER = replace(
    get_preset("scenes-tiny"),
    name="folder-tiny",
    data=DataSpec("camvid", (64, 64), 11),
    palette="by-neighbours",
).with_schedule("vqvae", steps=4)


def write_camvid(folder, order=tuple(range(11)), count=4, size=(64, 64), void=False):
    """A small CamVid: blocks of all classes. `order` says which class a block is labelled as."""
    numbers = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        (folder / f"{split}annot").mkdir()
        for i in range(count):
            blocks = numbers.integers(11, size=(8, 8))
            ids = np.array([*order, 11], np.uint8)[blocks]
            ids = np.full_like(ids, 11) if void else ids
            picture = np.uint8(20 * blocks).repeat(8, 0).repeat(8, 1)
            Image.fromarray(picture).convert("RGB").save(folder / split / f"f{i}.png")
            mask = Image.fromarray(ids.repeat(8, 0).repeat(8, 1))
            mask.save(folder / f"{split}annot" / f"f{i}.png")
    return folder


def photographs(count: int = 3) -> Photographs:
    """Pictures of one colour each, which no mask is painted in, as (200, 201, 202)."""
    return Photographs(
        [
            torch.arange(200 + i, 203 + i, dtype=torch.uint8)[:, None, None].expand(3, 90, 120)
            for i in range(count)
        ]
    )


def batch(pictures: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    transform = train_transform(64, 64, scales=(1.0, 1.0))
    scenes = ManyScenes(pictures, height=64, width=64, transform=transform)
    images, masks = zip(*(scenes[i] for i in range(pictures)), strict=True)
    return torch.stack(images), torch.stack(masks)


class TestAnyPalette:
    def test_random_colors_reach_the_faces_of_the_cube_and_its_inside(self):
        colors = random_colors(50, 40)
        assert colors.shape == (50, 40, 3)
        assert float(colors.min()) >= 0 and float(colors.max()) <= 1
        on_a_face = ((colors == 0) | (colors == 1)).any(2).float().mean()
        assert 0.3 < float(on_a_face) < 0.8
        assert len(torch.unique(colors.view(-1, 3), dim=0)) > 1500

    def test_every_picture_is_painted_in_its_own_colours_and_the_last_are_photographs(self):
        _, mask = batch()
        loss_fn = GenericLoss(create_tokenizer(TINY), 0.5, photographs())
        pictures, coarse, colors = loss_fn.paint(mask)
        to_coarse = torch.from_numpy(ManyScenes(1).to_coarse).long()
        assert torch.equal(coarse, to_coarse[mask[:4]])
        ids = torch.cat([coarse, mask[4:]])
        for b in range(7):
            assert torch.equal(pictures[b], colors[b][ids[b]].movedim(-1, 0))
        assert not torch.equal(colors[0], colors[1])
        assert bool((colors[:, IGNORE] == 0.5).all())
        seen = 255 * pictures[7].flatten(1)
        assert seen.shape == (3, 64 * 64) and float(seen[0, 0]) in (200, 201, 202)
        assert torch.allclose(seen, seen[0, 0] + torch.arange(3.0)[:, None], atol=1e-3)

    def test_batches_of_any_size_get_their_share_of_photographs(self):
        assert [GenericLoss.how_many(size) for size in (8, 16)] == [1, 2]
        for size in (4, 12):  # a process's share of a batch
            share = sum(GenericLoss.how_many(size) for _ in range(2000)) / (2000 * size)
            assert share == pytest.approx(1 / 8, rel=0.15)

    def test_crops_of_photographs_are_random_resized_mirrored_and_seeded(self):
        # dark at the left, as wide as it is bright
        ramp = torch.arange(120, dtype=torch.uint8).expand(3, 90, 120).contiguous()
        source = Photographs([ramp])
        state = torch.get_rng_state()
        crops = source.crops(64, 48, 64)
        torch.set_rng_state(state)
        assert torch.equal(crops, source.crops(64, 48, 64))
        assert crops.shape == (64, 3, 48, 64)
        assert float(crops.min()) >= 0 and 255 * float(crops.max()) < 119.5
        # columns of the photograph that a crop spans; negative if mirrored
        slope = 255 * (crops[:, 0, 24, -1] - crops[:, 0, 24, 0])
        assert 16 < int((slope < 0).sum()) < 48
        assert float(slope.abs().min()) < 60 and float(slope.abs().max()) > 90
        with pytest.raises(ValueError, match="at least one photograph"):
            Photographs([])

    def test_photographs_are_camvids_training_pictures_or_an_error_says_how_to_get_them(
        self, tmp_path, monkeypatch
    ):
        source = Photographs.of("camvid", write_camvid(tmp_path / "set", count=2, size=(6, 8)))
        assert [p.shape for p in source.pictures] == [(3, 64, 64)] * 2
        with pytest.raises(ValueError, match="got 'imagenet'"):
            Photographs.of("imagenet")
        monkeypatch.setenv("GSS_DATA", str(tmp_path))
        with pytest.raises(FileNotFoundError, match="data_scripts.camvid"):
            train(TINY, tmp_path / "run", stage="vqvae", options=QUIET)

    def test_readback_weighs_the_reading_of_each_pictures_own_colours(self):
        image, mask = batch()
        loss_fn = GenericLoss(create_tokenizer(TINY), 0.5, photographs()).eval()
        torch.manual_seed(1)
        loss, scalars = loss_fn(image, mask)
        torch.manual_seed(1)
        loss_fn.readback = 0.0
        without, _ = loss_fn(image, mask)
        torch.testing.assert_close(loss - without, 0.5 * scalars["readback"])
        torch.manual_seed(1)
        pictures, coarse, colors = loss_fn.paint(mask)
        rebuilt, _ = loss_fn.tokenizer(pictures)
        distances = [
            (rebuilt[:4] - colors[:4, k, :, None, None]).square().sum(1) for k in range(11)
        ]
        scores = -torch.stack(distances, 1) / 0.1
        share = torch.bincount(coarse.flatten(), minlength=256)[:11].clamp(min=1).float()
        expected = F.cross_entropy(scores, coarse, share.rsqrt(), ignore_index=255)
        torch.testing.assert_close(scalars["readback"], expected, rtol=1e-4, atol=1e-4)

    def test_a_tokenizer_without_a_palette_is_trained_and_exported_alone(self, tmp_path):
        run = tmp_path / "run"
        train(TINY, run, data=write_camvid(tmp_path / "set"), options=QUIET)
        written = export_weights(TINY, run, tmp_path / "package")
        names = {"generic-s4.vqvae.safetensors", "generic-s4.vqvae.json"}
        assert (
            {p.name for p in written} == names == {p.name for p in (tmp_path / "package").iterdir()}
        )
        card = json.loads((tmp_path / "package" / "generic-s4.vqvae.json").read_text())
        assert card["data_licence"].startswith("CC BY-NC 4.0")

    def test_what_a_tokenizer_alone_cannot_give_is_said(self):
        assert isinstance(create_dataset(GENERIC, "val"), ManyScenes)
        with pytest.raises(ValueError, match="no palette of its own"):
            create_palette(GENERIC)
        with pytest.raises(ValueError, match="a tokenizer alone"):
            create_model(GENERIC)


class TestReadback:
    def test_where_no_pixel_is_labelled_nothing_is_read_back(self):
        scores = torch.randn(2, 11, 4, 4, requires_grad=True)
        loss = readback_loss(scores, torch.full((2, 4, 4), IGNORE))
        loss.backward()
        assert loss.item() == 0 and bool((scores.grad == 0).all())

    def test_a_class_weighs_as_the_root_of_its_share(self):
        scores, mask = torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8).long()
        mask[:, :2] = 1
        mask[0, 3] = IGNORE
        counts = [int((mask == k).sum()) for k in range(3)]
        weight = torch.tensor([max(c, 1) ** -0.5 for c in counts])
        picked = (scores / TEMPERATURE).log_softmax(1).gather(1, mask.clamp(max=2)[:, None])[:, 0]
        labelled = mask != IGNORE
        w = weight[mask.clamp(max=2)][labelled]
        expected = -(w * picked[labelled]).sum() / w.sum()
        torch.testing.assert_close(readback_loss(scores, mask), expected)

    def test_it_is_added_with_its_weight_for_one_palette_too(self, tiny_gss):
        mask = torch.randint(11, (2, 32, 32))
        image = torch.zeros(2, 3, 32, 32)
        losses = {}
        for weight in (0.0, 0.7):
            loss_fn = VQVAELoss(tiny_gss.tokenizer, tiny_gss.palette, weight).eval()
            losses[weight], scalars = loss_fn(image, mask)
            assert ("readback" in scalars) == bool(weight)
        torch.testing.assert_close(losses[0.7] - losses[0.0], 0.7 * scalars["readback"])
        rebuilt, _ = tiny_gss.tokenizer(tiny_gss.palette(mask))
        expected = readback_loss(tiny_gss.inverse.scores(rebuilt), mask)
        torch.testing.assert_close(scalars["readback"], expected.detach())


class TestPaletteOfItsRun:
    """F3: what an earlier run left never decides a result."""

    @pytest.fixture(scope="class")
    def started(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("palette")
        train(PAINTED, folder, stage="vqvae", options=QUIET)
        return folder

    @pytest.fixture
    def run(self, started, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(started, folder)
        return folder

    def test_its_file_says_which_run_made_it(self, run):
        palette = Palette.load(run / "scenes-tiny.palette.json")
        pictures = create_dataset(PAINTED, "train", transform=None)
        origin = {"preset": "scenes-tiny", "seed": 0, "data": data_hash(pictures)}
        assert palette.origin == origin

    @pytest.mark.slow
    def test_the_same_run_takes_it_again(self, run):
        path = run / "scenes-tiny.palette.json"
        before = path.read_bytes()
        shutil.rmtree(run / "vqvae")
        for name in ("safetensors", "json"):
            (run / f"scenes-tiny.vqvae.{name}").unlink()
        train(PAINTED, run, stage="vqvae", options=QUIET)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("trained", [True, False])
    def test_another_seed_is_refused_and_nothing_changes(self, run, trained):
        if not trained:  # the palette alone is left
            shutil.rmtree(run / "vqvae")
            for name in ("safetensors", "json"):
                (run / f"scenes-tiny.vqvae.{name}").unlink()
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        with pytest.raises(ValueError, match=r"palette.json is the palette of another run \(seed"):
            train(PAINTED, run, stage="vqvae", seed=1, options=QUIET)
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before

    @pytest.mark.parametrize("origin", [{}, {"seed": 0}])
    def test_one_of_no_known_run_is_refused(self, run, origin):
        path = run / "scenes-tiny.palette.json"
        palette = Palette.load(path)
        palette.origin = origin
        palette.save(path)
        with pytest.raises(ValueError, match="is the palette of (no known|another) run"):
            train(PAINTED, run, stage="vqvae", options=QUIET)

    def test_a_run_that_is_refused_leaves_nothing(self, tmp_path):
        """All masks are void."""
        void = write_camvid(tmp_path / "void", void=True)
        folder = tmp_path / "run"
        with pytest.raises(ValueError, match="there is nothing to learn from"):
            train(FOLDER, folder, data=void, options=QUIET)
        assert not folder.exists() or not list(folder.iterdir())


class TestStageOneIsNotOverwritten:
    """F4."""

    @pytest.mark.parametrize("own", ["palette.json", "vqvae.safetensors", "vqvae.json"])
    def test_ones_own_stage_one_beside_another_that_is_asked_for(self, tiny_run, tmp_path, own):
        source = tmp_path / "source"
        shutil.copytree(tiny_run, source)
        random_palette(11, 0).save(source / "scenes-tiny.palette.json")
        folder = tmp_path / "own"
        folder.mkdir()
        precious = folder / f"scenes-tiny.{own}"
        precious.write_text("hours of work")
        with pytest.raises(ValueError, match=f"{own} differs from .*would be overwritten"):
            train("scenes-tiny", folder, stage="prior", stage_one=source, options=QUIET)
        assert precious.read_text() == "hours of work" and len(list(folder.iterdir())) == 1

    def test_shipped_over_ones_own(self, tmp_path):
        preset = get_preset("scenes-cpu").with_schedule("prior", steps=1, batch=2, precision="no")
        own = tmp_path / "scenes-cpu.vqvae.safetensors"
        own.write_text("hours of work")
        with pytest.raises(ValueError, match="scenes-cpu.vqvae.safetensors differs from"):
            train(preset, tmp_path, stage="prior", stage_one="shipped", options=QUIET)
        assert own.read_text() == "hours of work"

    @pytest.mark.slow
    def test_the_same_files_are_no_reason_to_refuse(self, tiny_run, tmp_path):
        for path in tiny_run.glob("scenes-tiny.vqvae.*"):
            shutil.copy(path, tmp_path)
        train("scenes-tiny", tmp_path, stage="prior", stage_one=tiny_run, options=QUIET)
        model = create_model("scenes-tiny", pretrained=tmp_path)
        theirs = create_model("scenes-tiny", pretrained=tiny_run)
        assert weights_hash(model.tokenizer) == weights_hash(theirs.tokenizer)


class TestOtherData:
    """F5: a run goes on with its own data alone."""

    @pytest.fixture
    def stopped(self, tmp_path, monkeypatch):
        """A run on a folder of pictures that was stopped at its second step."""

        class Stopped(BaseException):
            pass

        save = loop._Trainer.save

        def stop(trainer):
            save(trainer)
            if trainer.progress.step == 2:
                raise Stopped

        data = write_camvid(tmp_path / "one")
        options = replace(QUIET, save_every=1)
        preset = replace(FOLDER, palette="greedy")
        with monkeypatch.context() as patch:
            patch.setattr(loop._Trainer, "save", stop)
            with pytest.raises(Stopped):
                train(preset, tmp_path / "run", stage="vqvae", data=data, options=options)
        return preset, tmp_path / "run", data

    def go_on(self, stopped, data):
        preset, run, _ = stopped
        return train(preset, run, stage="vqvae", data=data, options=QUIET)

    def test_the_same_data_from_another_place_are_the_same_run(self, stopped, tmp_path):
        shutil.copytree(stopped[2], tmp_path / "moved")
        assert self.go_on(stopped, tmp_path / "moved").records["vqvae"]["steps"] == 4

    @pytest.mark.parametrize("change", ["classes", "count", "names", "size"])
    def test_others_are_refused_and_both_are_named(self, stopped, tmp_path, change):
        other = tmp_path / "other"
        if change == "classes":
            write_camvid(other, order=(1, 0, *range(2, 11)))
        elif change == "count":
            write_camvid(other, count=5)
        else:
            shutil.copytree(stopped[2], other)
            for path in (other / "train" / "f0.png", other / "trainannot" / "f0.png"):
                if change == "names":
                    path.rename(path.with_name("g0.png"))
                else:
                    Image.open(path).resize((64, 96), Image.Resampling.NEAREST).save(path)
        before = (stopped[1] / "vqvae" / "checkpoint.pt").read_bytes()
        with pytest.raises(ValueError) as refused:
            self.go_on(stopped, other)
        said = str(refused.value)
        assert "belongs to another run (data: " in said and " there, " in said
        assert "The pictures, their classes or their masks differ." in said
        assert (stopped[1] / "vqvae" / "checkpoint.pt").read_bytes() == before

    @pytest.mark.slow
    def test_the_palette_of_other_data_is_refused_too(self, tmp_path):
        one = write_camvid(tmp_path / "one")
        other = write_camvid(tmp_path / "other", order=(1, 0, *range(2, 11)))
        train(FOLDER, tmp_path / "run", stage="vqvae", data=one, options=QUIET)
        with pytest.raises(ValueError, match=r"palette of another run \(data differ\)"):
            train(FOLDER, tmp_path / "run", stage="vqvae", data=other, options=QUIET)
