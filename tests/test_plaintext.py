import pytest

from embmerge.plaintext import duration, printable, size


@pytest.mark.parametrize("evil", ["\x1b[2J", "a\nb", "a\rb", "\u202egnp.exe", "\x9b31m", "\ud800", "\u2028"])
def test_characters_that_act_on_a_terminal_are_shown_as_escapes(evil):
    shown = printable(evil)
    assert shown.isprintable()
    assert "\\" in shown


def test_letters_of_any_script_stay_as_they_are():
    assert printable("Zürich 東京 ✓") == "Zürich 東京 ✓"


def test_long_text_is_cut_to_the_limit():
    assert printable("x" * 10**6, limit=20) == "x" * 19 + "…"


def test_escapes_count_for_the_limit_too():
    assert printable("\x1b" * 20, limit=20) == "\\x1b\\x1b\\x1b\\x1b\\x1…"


def test_bytes_are_decoded_and_never_fail():
    assert printable(b"caf\xc3\xa9 \xff") == "café �"


def test_a_huge_number_does_not_take_forever():
    assert len(printable(1 << 100_000)) == 200


def test_a_container_is_named_by_its_type_alone():
    assert printable({"password": "secret"}) == "<dict>"


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (48 * 1024**2, "48.00 MB"), (3 * 1024**5, "3072.00 TB")]
)
def test_sizes_read_well(nbytes, text):
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (59.99, "60.0 s"), (185, "3 min 05 s"), (7625, "2 h 07 min")]
)
def test_times_read_well(seconds, text):
    assert duration(seconds) == text


def test_a_size_that_is_rounded_up_to_a_step_has_the_next_unit():
    assert size(1024**2 - 1) == "1.00 MB"
    assert size(1024**2 - 6000) == "1018.14 KB"
