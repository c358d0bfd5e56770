"""Which clusters a task asks."""

import pytest

from embmerge.errors import CredentialsError
from embmerge.remote.fleet import fleet
from tests.servers import Login, embedded


@pytest.fixture
def named(desk):
    """The names asked and not asked, for some settings."""
    for name in "abc":
        desk.write(name, username="me", password="pw")

    def named(**settings):
        with fleet(desk.settings(**settings), observer=desk.events.append, stop=desk.stop, ask=None) as found:
            return [cluster.name for cluster in found.clusters], found.others

    return named


def test_all_configured_clusters_are_asked(named):
    assert named() == (["a", "b", "c"], ())


def test_those_that_are_named_are_asked_in_that_order(named):
    assert named(clusters=("c", "a")) == (["c", "a"], ("b",))


def test_a_name_without_credentials_is_an_error_before_anything_is_connected(named, desk):
    with pytest.raises(CredentialsError, match="no credentials file") as caught:
        named(clusters=("a", "d"))
    assert "configured are: a, b, c" in caught.value.hint
    assert desk.events == []


def test_the_lines_are_hung_up_at_the_end_even_after_an_error(desk, tmp_path):
    lines = []

    def leave_in_disorder():
        with fleet(desk.settings(), observer=desk.events.append, stop=desk.stop, ask=None) as found:
            found.clusters[0].connect()
            lines.append(found.clusters[0].connection)
            raise ZeroDivisionError

    with embedded(tmp_path / "home", lambda: Login(passwords={"me": "pw"})) as server:
        desk.write(port=server.port, username="me", password="pw")
        with pytest.raises(ZeroDivisionError):
            leave_in_disorder()
        assert not lines[0].is_connected


def test_a_cluster_that_was_never_connected_is_left_as_easily(named):
    named()
