from pathlib import Path

import pytest
from invoke.config import Config

from embmerge.errors import SettingsError
from embmerge.settings import Settings, resolve

ROOT = Path(__file__).parent.parent


def test_invoke_yaml_names_every_setting_with_the_same_default():
    config = Config(project_location=str(ROOT))
    config.load_project()
    assert set(config.embmerge) == set(Settings.model_fields)
    assert resolve(dict(config.embmerge), {}) == Settings()


def test_a_flag_beats_what_invoke_configured():
    assert resolve({"connections": "4"}, {"connections": "2"}).connections == 2


def test_a_flag_that_was_not_given_changes_nothing():
    assert resolve({"connections": "3"}, {"connections": None, "clusters": []}).connections == 3


def test_one_value_may_name_several_clusters():
    assert resolve({}, {"clusters": ["a b", "c,d", "a"]}).clusters == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("text", "rate"), [("20M", 20 * 1024**2), ("1.5k", 1536), ("900", 900), ("2 GiB/s", 2 * 1024**3), ("", None)]
)
def test_a_rate_may_be_written_with_its_unit(text, rate):
    assert resolve({"limit_rate": text}, {}).limit_rate == rate


def test_every_bad_setting_is_named_at_once_with_where_it_was_set():
    with pytest.raises(SettingsError) as caught:
        resolve({"connections": "many", "no_such": 1}, {"limit_rate": "fast"})
    assert "INVOKE_EMBMERGE_CONNECTIONS" in caught.value.message
    assert "'many'" in caught.value.message
    assert "--limit-rate" in caught.value.message
    assert "no_such" in caught.value.message
    assert caught.value.exit_code == 2


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(SettingsError, match="limit_rate"):
        resolve({"limit_rate": "0"}, {})
