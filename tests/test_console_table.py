"""Tables that fit."""

from embmerge.console.table import Column, table

COLUMNS = [
    Column("file"),
    Column("size", right=True),
    Column("model", once=True, least=6),
    Column("written at", goes=1),
    Column("verdict", least=4),
]
ROWS = [
    ["cluster1_gpu0.pkl", "48.00 MB", "all-mpnet-base-v2", "2026-11-02 10:11", "ok"],
    ["cluster1_gpu1.pkl", "8.00 MB", "all-mpnet-base-v2", "2026-11-02 10:12", "truncated"],
]


def test_a_table_is_as_wide_as_it_needs():
    assert table(COLUMNS, ROWS, None) == [
        "  file                   size  model              written at        verdict",
        "  cluster1_gpu0.pkl  48.00 MB  all-mpnet-base-v2  2026-11-02 10:11  ok",
        "  cluster1_gpu1.pkl   8.00 MB  all-mpnet-base-v2  2026-11-02 10:12  truncated",
    ]


def test_what_all_rows_share_is_said_once():
    assert table(COLUMNS, ROWS, 70) == [
        "  all: model all-mpnet-base-v2",
        "  file                   size  written at        verdict",
        "  cluster1_gpu0.pkl  48.00 MB  2026-11-02 10:11  ok",
        "  cluster1_gpu1.pkl   8.00 MB  2026-11-02 10:12  truncated",
    ]


def test_a_text_is_shortened_before_a_column_goes():
    odd = [[*ROWS[0][:2], "another", *ROWS[0][3:]], ROWS[1]]
    lines = table(COLUMNS, odd, 74)
    assert "  all-mpnet-bas…  " in lines[2]
    assert "written at" in lines[0]
    assert max(map(len, lines)) == 74


def test_a_narrow_window_loses_columns_by_rank():
    lines = table(COLUMNS, ROWS, 45)
    assert "written at" not in lines[1]
    assert max(map(len, lines)) <= 45
