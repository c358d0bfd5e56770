from pathlib import Path

import pytest
from invoke.config import Config

from embmerge.errors import SettingsError
from embmerge.settings import NAMES, Settings, expanded, from_environment, resolve

ROOT = Path(__file__).parent.parent


def test_invoke_yaml_names_every_setting_with_the_same_default():
    config = Config(project_location=str(ROOT))
    config.load_project()
    assert set(config.embmerge) == set(NAMES)
    assert resolve(dict(config.embmerge), {}) == Settings()


def test_a_flag_beats_what_invoke_configured():
    assert resolve({"connections": "4"}, {"connections": "2"}).connections == 2


def test_a_flag_that_was_not_given_changes_nothing():
    assert resolve({"connections": "3"}, {"connections": None, "clusters": []}).connections == 3


def test_one_value_may_name_several_clusters():
    assert resolve({}, {"clusters": ["a b", "c,d", "a"]}).clusters == ("a", "b", "c", "d")


def test_no_clusters_are_all_that_are_configured():
    assert resolve({"clusters": None}, {}).clusters == ()


def test_a_flag_that_names_no_cluster_does_not_mean_all_of_them():
    assert resolve({}, {"clusters": [""]}).clusters == ("",)


def test_clusters_that_are_no_text_are_refused_with_an_example():
    with pytest.raises(SettingsError, match="expected names such as \"tensor01 tensor02\", got '5'"):
        resolve({"clusters": 5}, {})


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


def test_the_settings_are_listed_where_one_is_not_known():
    with pytest.raises(SettingsError) as caught:
        resolve({"no_such": 1}, {})
    assert "stall_timeout" in caught.value.hint


def test_the_settings_are_not_listed_for_a_wrong_value():
    with pytest.raises(SettingsError) as caught:
        resolve({"connections": "many"}, {})
    assert "stall_timeout" not in caught.value.hint


def test_every_variable_of_ours_is_a_setting_whether_the_file_has_a_line_for_it_or_not():
    assert from_environment({"INVOKE_EMBMERGE_ARTICELS": "x", "INVOKE_RUN_DRY": "1"}) == {"articels": "x"}


def test_a_path_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve({"embeddings": "~/emb"}, {"output": "~/x.pkl"}).embeddings == Path("/home/me/emb")


def test_a_home_that_nobody_has_stays_as_it_is_written():
    assert resolve({"embeddings": "~nobody-of-that-name/emb"}, {}).embeddings == Path("~nobody-of-that-name/emb")


def test_a_path_of_ones_own_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/emb") == Path("/home/me/emb")


@pytest.mark.parametrize(("value", "shown"), [(None, "nothing"), ([1], "a list"), (2.5, "2.5"), ("x", "'x'")])
def test_what_was_given_instead_is_shown_in_words(value, shown):
    with pytest.raises(SettingsError, match=f"got {shown}$"):
        resolve({"retries": value}, {})


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(SettingsError, match="limit_rate"):
        resolve({"limit_rate": "0"}, {})


@pytest.mark.parametrize("text", ["nan", "0", "-1", "inf", "1e9"])
def test_a_time_that_is_no_time_is_refused(text):
    with pytest.raises(SettingsError, match="stall_timeout"):
        resolve({"stall_timeout": text}, {})


def test_a_choice_is_named_with_what_may_be_chosen():
    with pytest.raises(SettingsError, match="expected fast or plain, got 'quick'"):
        resolve({"transfer": "quick"}, {})


@pytest.mark.parametrize("value", ["", 7, None])
def test_a_path_is_text(value):
    with pytest.raises(SettingsError, match=r"embmerge\.output .*: expected"):
        resolve({"output": value}, {})


@pytest.mark.parametrize(
    ("text", "on"), [("yes", True), ("true", True), ("1", True), ("No", False), ("false", False), ("0", False)]
)
def test_a_switch_may_be_written_as_text(text, on):
    assert resolve({"traceback": text}, {}).traceback is on
