"""What the local backend knows of a checkpoint before it is loaded: how answers are drawn, how tasks are put to it."""

import pytest

from sightline.backends.local import DEMO_ID, LocalBackend, checkpoint_folder, sampling_defaults
from sightline.model.config import GenerationConfig
from sightline.settings import Settings
from sightline.types import Sampling


@pytest.mark.parametrize(
    ("advice", "defaults"),
    [
        ({}, Sampling(temperature=0.7)),
        ({"temperature": 0.2, "top_p": 0.8, "top_k": 20}, Sampling(temperature=0.2, top_p=0.8, top_k=20)),
        ({"repetition_penalty": 1.1}, Sampling(temperature=0.7, repetition_penalty=1.1)),
        ({"greedy": True, "temperature": 0.7, "top_p": 0.8}, Sampling(temperature=0.0)),
    ],
)
def test_the_checkpoints_own_advice_goes_before_a_temperature_of_seven_tenths(advice, defaults):
    assert sampling_defaults(GenerationConfig(eos=(1,), **advice)) == defaults


def test_the_demo_model_is_greedy_and_asked_bare_questions():
    demo = LocalBackend(Settings())
    assert (demo.model_id, demo.defaults.temperature, demo.takes_instructions) == (DEMO_ID, 0.0, False)


def test_any_other_checkpoint_is_asked_with_instructions():
    folder = checkpoint_folder(Settings())  # has the files of one
    assert LocalBackend(Settings(model=str(folder))).takes_instructions
