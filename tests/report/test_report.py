"""Reports of real runs: what they say is what hooks on the blocks, skimage and the stats say."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import autocache
from autocache.cli.main import main
from autocache.errors import AutocacheError, PatchError
from autocache.reporting import answer, pictures
from autocache.reporting.charts import ticks
from autocache.reporting.document import read
from autocache.reporting.page import page
from reporting import PROMPTS, STEPS, counted, draw, pipeline


class Ran(NamedTuple):
    pipe: Any
    patch: autocache.Patch
    before: np.ndarray
    after: np.ndarray
    blocks: dict[str, int]


@pytest.fixture(scope="module")
def ran() -> Ran:
    pipe = pipeline()
    before = draw(pipe)
    seen = counted(pipe.transformer)
    patch = autocache.patch(pipe, "teacache", threshold=0.4)
    after = draw(pipe)
    return Ran(pipe, patch, before, after, dict(seen))


@pytest.fixture(scope="module")
def written(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "new" / "report.json"
    given = {"images": ran.after, "baseline": ran.before, "captions": PROMPTS}
    assert autocache.report(ran.pipe, file, **given) == file
    return file


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return page(read(written))


def cells(html: str) -> dict[str, list[str]]:
    """The letters of the maps, by place, of all branches together."""
    found: dict[str, list[str]] = {}
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th>((?:<td class="\w+" title.*?</td>)+)', html)
    for name, row in rows:
        found.setdefault(name, []).extend(re.findall(r">(\w)</td>", row))
    return found


def test_the_map_has_the_runs_that_hooks_on_the_blocks_counted(ran: Ran, html: str) -> None:
    drawn = cells(html)
    assert set(drawn) == {"transformer_blocks[0:4]", "single_transformer_blocks[0:8]"}
    for name, letters in drawn.items():
        assert len(letters) == 2 * STEPS
        assert {"C", "r"} == set(letters)
        assert letters.count("C") == ran.blocks[f"{name.partition('[')[0]}[0]"]


def test_the_share_of_calls_is_that_of_hooks(ran: Ran, html: str) -> None:
    run, total = sum(ran.blocks.values()), 12 * 2 * STEPS
    assert f"{run} of {total}" in html
    assert f"{run / total:.0%} of the block calls were run" in html


def test_the_time_outside_the_denoiser_is_told_by_component(ran: Ran, html: str) -> None:
    """As the stats measured it, below its phase; the answer names what took most of it."""
    call = ran.patch.stats().times.call or 0.0
    parts = ran.patch.stats().times.components
    assert {part.name for part in parts} == {"text_encoder", "text_encoder_2", "vae.decode"}
    for part in parts:
        assert f"of which {part.name}" in html
        assert f"{part.seconds:.2f} s, {part.seconds / call:.0%}" in html
    shown = ["before the first step", "of which text_encoder", "after the last step"]
    assert sorted(shown, key=html.index) == shown
    run = ran.patch.stats().to_dict()
    run["seconds"] = {
        "denoiser": 6.0,
        "saved": 2.0,
        "pipeline": {
            "call": 8.0,
            "denoiser": 6.0,
            "components": [
                {"name": "text_encoder", "phase": "before", "seconds": 0.5},
                {"name": "vae.decode", "phase": "after", "seconds": 1.25},
            ],
        },
    }
    assert answer.answer(run)[-1].endswith("where caching saves nothing: 1.25 s in vae.decode.")


def test_psnr_and_ssim_are_those_of_skimage(ran: Ran, written: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    shown = json.loads(written.read_text())["pictures"]["shown"]
    assert len(shown) == 2
    for entry, one, two in zip(shown, ran.before, ran.after, strict=True):
        assert entry["psnr"] == pytest.approx(
            peak_signal_noise_ratio(one.astype(float), two.astype(float), data_range=1.0)
        )
        similar = structural_similarity(
            one, two, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        assert entry["ssim"] == pytest.approx(similar, abs=1e-4)


def test_the_mean_is_over_the_pictures_that_differ() -> None:
    """An identical one, infinitely close, would hide what the others are."""
    plain, noise = np.full((3, 16, 16, 3), 0.5), np.zeros((3, 16, 16, 3))
    noise[1], noise[2] = 0.1, 0.01
    found = pictures.compare(plain + noise, plain)
    assert (found["psnr"], found["psnr_worst"]) == pytest.approx((30.0, 20.0))
    assert found["identical"] == 1
    assert pictures.compare(plain, plain)["psnr"] == float("inf")


def test_the_pictures_and_their_difference_are_in_it(ran: Ran, written: Path) -> None:
    entry = json.loads(written.read_text())["pictures"]["shown"][0]

    def pixels(name: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(entry[name])))) / 255

    assert abs(pixels("before") - ran.before[0]).max() <= 0.5 / 255 + 1e-6
    assert abs(pixels("after") - ran.after[0]).max() <= 0.5 / 255 + 1e-6
    difference = (abs(ran.after[0] - ran.before[0]) * 4).clip(0, 1)
    assert abs(pixels("difference") - difference).max() <= 0.5 / 255 + 1e-6


def test_what_comes_from_outside_is_escaped(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;alert(" in html


def test_the_page_loads_nothing(html: str) -> None:
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert "url(" not in html
    assert "@import" not in html


def test_every_picture_and_chart_has_a_text(html: str) -> None:
    assert html.count("<img ") == 6
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', html)) == 6
    charts = re.findall(r"<svg [^>]*role=.img.[^>]*>", html)
    assert len(charts) >= 3
    assert all(re.search(r'aria-label="[^"]+"', chart) for chart in charts)


def test_it_says_parameters_versions_and_device(ran: Ran, html: str) -> None:
    for said in ("threshold", "0.4", torch.__version__, autocache.__version__):
        assert f">{said}<" in html
    assert str(ran.pipe.transformer.device) in html


def test_the_command_makes_the_same_page_of_the_data(
    written: Path, html: str, tmp_path: Path
) -> None:
    assert main(["report", str(written), "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == html
    assert main(["report", str(written), "-o", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "again.json").read_text() == written.read_text()


def test_statistics_alone_make_a_page_too(ran: Ran, html: str, tmp_path: Path) -> None:
    for name, content in (("one", ran.patch.stats().to_dict()), ("list", [{}])):
        content = [ran.patch.stats().to_dict()] if name == "list" else content
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content, default=str))
        assert main(["report", str(file)]) == 0
        assert cells(file.with_suffix(".html").read_text()) == cells(html)


def test_stats_patch_model_and_pipeline_say_the_same(ran: Ran, html: str, tmp_path: Path) -> None:
    for target in (ran.patch, ran.patch.stats(), ran.pipe.transformer, ran.pipe):
        autocache.report(target, tmp_path / "a.html")
        assert cells((tmp_path / "a.html").read_text()) == cells(html)


def test_figures_are_a_png_and_leave_matplotlib_as_it_was(ran: Ran, tmp_path: Path) -> None:
    import matplotlib

    before, pyplot = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    with Image.open(autocache.report(ran.patch, tmp_path / "figures.png")) as image:
        image = image.convert("RGB")
        colours = {colour for _, colour in image.getcolors(1 << 20) or ()}
    assert {(0x00, 0x72, 0xB2), (0xF0, 0xB8, 0x4A)} <= colours
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


def test_a_dry_run_shows_its_errors(tmp_path: Path) -> None:
    pipe = pipeline()
    with autocache.patched(pipe, "teacache", threshold=0.4, dry_run=True) as patch:
        draw(pipe)
        html = autocache.report(patch, tmp_path / "dry.html").read_text()
        errors = [step.error for step in patch.stats().steps if step.error is not None]
    assert "This was a dry run: everything was computed." in html
    assert "What would have been done" in html
    drawn = html.partition("Error by step")[2].partition("</figure>")[0]
    assert drawn.count("<circle") == len(errors) > 0


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    with autocache.patched(pipeline(), "teacache") as patch:
        for name in ("a.html", "a.png", "a.json"):
            autocache.report(patch, tmp_path / name)
    assert "Nothing was run yet" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ([Image.new("RGB", (20, 12))] * 2, (2, 1, 12, 20, 3)),
        (Image.new("L", (20, 12)), (1, 1, 12, 20, 1)),
        ([[Image.new("RGB", (20, 12))] * 5], (1, 5, 12, 20, 3)),
        (torch.zeros(2, 3, 12, 20), (2, 1, 12, 20, 3)),
        (torch.zeros(2, 5, 3, 12, 20, dtype=torch.bfloat16), (2, 5, 12, 20, 3)),
        (np.zeros((2, 12, 20, 3), np.float16), (2, 1, 12, 20, 3)),
        (np.full((12, 20, 3), 255, np.uint8), (1, 1, 12, 20, 3)),
    ],
    ids=["pil", "grey", "video", "tensor", "video tensor", "array", "bytes"],
)
def test_pictures_as_pipelines_return_them(given: Any, shape: tuple[int, ...]) -> None:
    from autocache.reporting.picture_data import as_clips

    clips = as_clips(given)
    assert clips.shape == shape
    assert clips.dtype == np.float32
    assert clips.max() in (0.0, 1.0)


def test_a_video_is_shown_by_frames_from_first_to_last(ran: Ran, tmp_path: Path) -> None:
    video = np.random.default_rng(0).random((1, 20, 16, 16, 3))
    file = autocache.report(ran.patch, tmp_path / "v.json", images=video, baseline=video * 0.9)
    made = read(file)["pictures"]
    assert made["kind"] == "frame"
    assert made["count"] == 20
    frames = [entry["frame"] for entry in made["shown"]]
    assert (frames[0], frames[-1], len(frames)) == (0, 19, 8)
    assert made["psnr_worst"] <= made["psnr"]


@pytest.mark.parametrize(
    ("file", "options", "says"),
    [
        ("a.htm", {}, "did you mean '.html'"),
        ("a", {}, "no ending"),
        ("a.html", {"baseline": np.zeros((1, 8, 8, 3))}, "images="),
        ("a.html", {"images": np.zeros((1, 8, 8, 7))}, "channels"),
        ("a.html", {"images": [object()]}, "got object"),
        (
            "a.html",
            {"images": np.zeros((1, 8, 8, 3)), "baseline": np.zeros((1, 8, 9, 3))},
            "of one shape",
        ),
        ("a.html", {"images": np.zeros((1, 8, 8, 3)), "captions": ["a", "b"]}, "1 captions"),
        ("a.html", {"images": np.zeros((1, 8, 8, 3), int)}, "floats in"),
    ],
)
def test_what_is_wrong_is_said(
    ran: Ran, tmp_path: Path, file: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(AutocacheError, match=re.escape(says)):
        autocache.report(ran.patch, tmp_path / file, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_not_patched_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="not patched"):
        autocache.report(torch.nn.Linear(1, 1), tmp_path / "a.html")


@pytest.mark.parametrize("content", ["[1]", "{}", "nonsense", '{"format": "autocache report 9"}'])
def test_what_is_no_statistics_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(content)
    assert main(["report", str(tmp_path / "a.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("autocache: error: ")
    assert "a.json" in said


@pytest.mark.parametrize("top", [1e-9, 0.13, 1.0, 7, 49, 12345.0])
def test_ticks_are_round_and_reach_the_top(top: float) -> None:
    found = ticks(top)
    assert found[0] == 0
    assert found[-1] >= top * (1 - 1e-6)
    assert 2 <= len(found) <= 6
