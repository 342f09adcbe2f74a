"""What cannot be loaded is named."""

import pytest

from state_hf.configuration.model_folders import loading_from


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_named():
    message = "no/model is no folder here, and cannot be loaded from the Hub: no connection"
    with pytest.raises(OSError, match=message), loading_from("no/model"):
        raise OSError("no connection")


def test_errors_that_say_more_stay_as_they_are(tmp_path):
    for name, error in (("no/model", OSError(28, "No space left")), ("m", OSError("no m")), (tmp_path, OSError("cut"))):
        with pytest.raises(OSError, match=error.args[-1]) as caught, loading_from(name):
            raise error
        assert caught.value is error
