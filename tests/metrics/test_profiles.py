import pytest

from state_hf.metrics.catalogue import METRICS
from state_hf.metrics.profiles import load_profile, profile_names

# A profile is a promise: a changed value needs a new name, not a new digest here.
DIGESTS = {
    "full": "64e25982b85e",
    "vcc2025": "a92301bff4f6",
    "vcc2025-primer": "842c912401a4",
    "vcc2026": "35aa8bb23926",
}


def test_frozen():
    assert {name: load_profile(name).digest[:12] for name in profile_names()} == DIGESTS


@pytest.mark.parametrize("name", list(DIGESTS))
def test_every_metric_has_a_function(name):
    profile = load_profile(name)
    assert {metric.function for metric in profile.metrics} <= set(METRICS)
    assert len({metric.name for metric in profile.metrics}) == len(profile.metrics)


def test_every_function_is_used():
    assert {metric.function for name in DIGESTS for metric in load_profile(name).metrics} == set(METRICS)


@pytest.mark.parametrize("name", list(DIGESTS))
def test_all_profiles_spell_out_the_same_settings(name):
    def keys(settings):
        return {key: keys(value) if hasattr(value, "items") else None for key, value in settings.items()}

    first, other = keys(load_profile("vcc2025").settings), keys(load_profile(name).settings)
    other["score"] = {key: None for key in other["score"] if not key.startswith("replicate_")}
    assert other == first


def test_settings_cannot_be_changed():
    profile = load_profile("vcc2025")
    with pytest.raises(TypeError):
        profile.settings["discrimination"]["ties"] = "middle"
    with pytest.raises(TypeError):
        profile.metrics[0].parameters["of"] = "effects"


def test_unknown_profile():
    with pytest.raises(ValueError, match="no evaluation profile 'vcc2024'; the profiles are full, vcc2025"):
        load_profile("vcc2024")


def test_as_plain_values():
    found = load_profile("vcc2026").to_dict()
    assert found["profile"] == "vcc2026"
    assert found["differential_expression"]["min_control_cpm"] == 5.0
