"""Promises about sizes: what the model sees of a picture, and how far a request may change it."""

import pytest

from sightline.errors import InvalidImage, InvalidRequest
from sightline.media.images import ResizeRule, fit, requested
from sightline.types import Image

MODEL = ResizeRule(min_pixels=65_536, max_pixels=16_777_216)  # the published checkpoints'


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1000, 1000), (992, 992)),
        ((768, 1024), (768, 1024)),
        ((1080, 1920), (1088, 1920)),
        ((480, 640), (480, 640)),
        ((336, 448), (320, 448)),
        ((720, 1280), (704, 1280)),
        ((2160, 3840), (2176, 3840)),
        ((3000, 4000), (3008, 4000)),
        ((8000, 8000), (4096, 4096)),
        ((100, 100), (256, 256)),
        ((16, 16), (256, 256)),
        ((31, 500), (64, 1056)),
        ((1008, 1040), (1024, 1024)),  # 31.5 and 32.5 cells go to the even number
    ],
)
def test_sizes_are_those_of_the_reference(own, seen):
    assert fit(*own, MODEL) == seen


@pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1), (44, 52_800), (1, 201)])
def test_a_picture_too_thin_for_the_model_is_refused(size):
    with pytest.raises(InvalidImage, match=f"{size[1]} pixels wide and {size[0]} high.*200 times"):
        fit(*size, MODEL)


def test_a_request_lowers_the_ceiling():
    assert fit(3000, 4000, requested(MODEL, Image(b"", max_pixels=1_000_000))) == (864, 1152)


@pytest.mark.parametrize("wish", [{"max_pixels": 10**12}, {"min_pixels": 10**12}])
def test_a_request_never_raises_the_ceiling(wish):
    rule = requested(MODEL, Image(b"", **wish))
    assert rule.max_pixels == MODEL.max_pixels
    assert rule.min_pixels <= MODEL.max_pixels


def test_a_ceiling_below_the_model_s_least_size_lowers_that_too():
    assert fit(1000, 1000, requested(MODEL, Image(b"", max_pixels=10_000))) == (96, 96)


def test_a_request_raises_the_least_size():
    assert fit(100, 100, requested(MODEL, Image(b"", min_pixels=1_000_000))) == (1024, 1024)


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ((100, 200), (96, 192)),
        ((1, 1), (32, 32)),
        ((48, 80), (64, 64)),
        ((16_000, 16_000), (4096, 4096)),
    ],
)
def test_an_exact_size_snaps_and_stays_under_the_ceiling(asked, seen):
    assert fit(777, 333, requested(MODEL, Image(b"", resized_height=asked[0], resized_width=asked[1]))) == seen


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"min_pixels": 0}, "min_pixels is 0, must be at least 1"),
        ({"max_pixels": -5}, "max_pixels is -5, must be at least 1"),
        ({"resized_height": 0, "resized_width": 64}, "resized_height is 0, must be at least 1"),
        ({"min_pixels": 2000, "max_pixels": 1000}, "min_pixels is 2000, above max_pixels, which is 1000"),
        ({"resized_height": 64}, "resized_height is 64, resized_width is missing; give both"),
        ({"resized_height": 10**400, "resized_width": 64}, "the limit is 16777216"),
        ({"resized_height": 32, "resized_width": 32_000}, "resized_height 32 and resized_width 32000.*200 times"),
    ],
)
def test_wishes_that_make_no_sense_are_refused_by_name(wish, said):
    with pytest.raises(InvalidRequest, match=said) as caught:
        requested(MODEL, Image(b"", param="messages[0].content[1]", **wish))
    assert caught.value.param == "messages[0].content[1]"
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        ((3000, 4000), (1440, 1920)),
        ((2160, 3840), (1088, 1920)),
        ((1080, 1920), (1088, 1920)),
        ((4000, 20), (3552, 32)),  # min_pixels wins over the limit for the side
    ],
)
def test_the_long_side_comes_down_to_the_operator_s_limit(own, seen):
    assert fit(*own, requested(MODEL, Image(b""), max_side=1920)) == seen


def test_the_operator_s_limit_holds_for_an_exact_size():
    wish = Image(b"", resized_height=2160, resized_width=3840)
    assert fit(100, 100, requested(MODEL, wish, max_side=1920)) == (1088, 1920)
