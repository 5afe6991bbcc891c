"""utils/reporting/case_flags.py: what makes a whole segmentation doubtful."""

import numpy as np

from utils.config.preset import load_preset
from utils.imaging.arrangement import Arrangement, OrganOffset
from utils.imaging.geometry import Geometry
from utils.reporting.case_flags import case_flags
from utils.reporting.organ_report import build_organ_report

PRESET = load_preset("openkbp")
GEOMETRY = Geometry(size_zyx=(50, 40, 40), spacing_zyx_mm=(5.0, 5.0, 5.0))
ARRANGEMENT = Arrangement([OrganOffset("brainstem", "larynx", (120.0, 40.0, 0.0), (10.0, 8.0, 4.0))])
BLOCKS = {
    "brainstem": ((40, 45), (20, 26), (18, 23)),
    "spinal_cord": ((5, 38), (26, 28), (19, 21)),
    "parotid_right": ((30, 38), (15, 20), (6, 10)),
    "parotid_left": ((30, 38), (15, 20), (30, 34)),
    "esophagus": ((2, 10), (22, 25), (19, 22)),
    "larynx": ((14, 22), (12, 18), (18, 23)),
    "mandible": ((25, 30), (5, 12), (12, 28)),
}
"""In voxels of 5 mm: brainstem 18.75 ml, cord 16.5, parotids 20, esophagus 9, larynx 30, mandible 70."""


def flags_of(**changed):
    label = np.zeros(GEOMETRY.size_zyx, dtype=np.uint8)
    for value, name in enumerate(PRESET.organ_names, 1):
        if box := (BLOCKS | changed)[name]:
            label[tuple(slice(*limits) for limits in box)] = value
    organs = build_organ_report(label, GEOMETRY, PRESET, {}, Arrangement(()))
    return case_flags(organs, PRESET, ARRANGEMENT), organs


def test_a_usual_case_has_none():
    assert flags_of()[0] == []


def test_a_head_without_larynx_is_no_doubt():
    assert flags_of(larynx=None, esophagus=None)[0] == []


def test_few_organs_are_a_doubt():
    missing = dict.fromkeys(("brainstem", "parotid_left", "parotid_right", "larynx"))
    [flag] = flags_of(**missing)[0]
    assert flag == "only 3 of 7 organs were found; the CT may show little of head and neck"
    assert flags_of(**dict.fromkeys(BLOCKS))[0][0].startswith("only 0 of 7 organs")


def test_a_brainstem_below_the_larynx_is_a_doubt():
    [flag] = flags_of(brainstem=((8, 13), (20, 26), (30, 35)))[0]
    assert flag.startswith("impossible arrangement: brainstem lies 38 mm below larynx, expected 60 to 180 mm above")


def test_a_large_organ_of_impossible_volume_is_a_doubt():
    flags, organs = flags_of(spinal_cord=((20, 22), (26, 27), (19, 20)))  # 0.25 ml
    assert flags == ["unusual volumes: spinal_cord has 0.25 ml, expected 2.5 to 90"]
    assert organs["spinal_cord"]["flags"] == ["unusual volume"]


def test_one_small_organ_is_flagged_alone_and_two_doubt_the_case():
    tiny = ((5, 6), (22, 23), (19, 20))  # 0.125 ml
    flags, organs = flags_of(esophagus=tiny)
    assert (flags, organs["esophagus"]["flags"]) == ([], ["unusual volume"])
    flags, _ = flags_of(esophagus=tiny, larynx=((17, 18), (15, 16), (20, 21)))
    assert flags == [
        "unusual volumes: esophagus has 0.125 ml, expected 1 to 60, larynx has 0.125 ml, expected 2 to 115"
    ]


def test_the_scan_may_cut_an_organ_off_but_does_not_enlarge_it():
    flags, organs = flags_of(spinal_cord=((0, 2), (26, 27), (19, 20)))
    assert (flags, organs["spinal_cord"]["flags"]) == ([], ["touches the border of the scan"])
    flags, _ = flags_of(spinal_cord=((0, 40), (28, 35), (0, 40)))
    assert flags == ["unusual volumes: spinal_cord has 1.4e+03 ml, expected 2.5 to 90"]
