"""rows.py: the table begins with what a person should look at first."""

from utils.config.preset import load_preset
from utils.reporting.review.page import OrganRow
from utils.reporting.review.rows import by_attention, report_rows


def test_flagged_organs_come_first_then_those_of_low_confidence():
    rows = [
        OrganRow(name=name, color=(0, 0, 0), label=1, values={"confidence": value}, flags=flags)
        for name, value, flags in [
            ("sure", 0.9, []),
            ("unknown", None, []),
            ("doubtful", 0.7, []),
            ("twice", 0.9, ["a", "b"]),
            ("once", 0.2, ["a"]),
        ]
    ]
    assert [row.name for row in by_attention(rows, "confidence")] == ["twice", "once", "doubtful", "sure", "unknown"]


def test_rows_of_a_report_have_the_colors_of_the_preset_and_no_empty_columns():
    preset = load_preset("openkbp")
    organs = {
        organ.name: {"label": label, "volume_ml": 2.0 * label, "confidence": 0.1 * label, "flags": []}
        for label, organ in enumerate(preset.organs, 1)
    }
    organs["larynx"]["flags"] = ["not found"]
    del organs["larynx"]["confidence"]
    rows = report_rows(organs, preset)
    assert rows[0].name == "larynx"
    assert rows[0].values == {"volume (ml)": 2.0 * organs["larynx"]["label"], "confidence": None}
    assert {row.name: row.color for row in rows} == {organ.name: organ.color for organ in preset.organs}
