"""What the DICOM objects of a segmentation say about its organs and about the program and model that made it."""

from dataclasses import dataclass
from typing import Literal

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from utils.config.organ_names import organ_side, tg263_name, without_side
from utils.config.preset import Preset

TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PositionReferenceIndicator"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes of the patient, the study and the frame of reference that must be present; empty if the CT lacks them."""
OrganNaming = Literal["preset", "tg263"]

SNOMED_CT = {
    "A_Carotid": ("69105007", "Carotid artery"),
    "Arytenoid": ("77578007", "Arytenoid cartilage"),
    "Bone_Mandible": ("91609006", "Mandible"),
    "BrachialPlex": ("36582005", "Brachial plexus"),
    "Brain": ("12738006", "Brain"),
    "Brainstem": ("15926001", "Brainstem"),
    "Cavity_Oral": ("74262004", "Oral cavity"),
    "Cochlea": ("80169004", "Cochlea"),
    "Esophagus": ("32849002", "Esophagus"),
    "Eye": ("81745001", "Eye"),
    "Glnd_Lacrimal": ("13561001", "Lacrimal gland"),
    "Glnd_Subling": ("88481005", "Sublingual gland"),
    "Glnd_Submand": ("385296007", "Submandibular salivary gland"),
    "Glnd_Thyroid": ("69748006", "Thyroid"),
    "Glottis": ("1307006", "Glottis"),
    "Hippocampus": ("5366008", "Hippocampus"),
    "Joint_TM": ("53620006", "Temporomandibular joint"),
    "Larynx": ("4596009", "Larynx"),
    "Larynx_SG": ("86483002", "Supraglottic space"),
    "Lens": ("78076003", "Lens of eye"),
    "Lips": ("81083006", "Both lips"),
    "Lobe_Temporal": ("78277001", "Temporal lobe"),
    "Lung": ("39607008", "Lung"),
    "Musc_Constrict": ("4866005", "Constrictor muscle of pharynx"),
    "OpticChiasm": ("244453006", "Optic chiasm"),
    "OpticNrv": ("18234004", "Optic nerve"),
    "Parotid": ("45289007", "Parotid gland"),
    "Pituitary": ("56329008", "Pituitary"),
    "SpinalCanal": ("61853006", "Spinal canal"),
    "SpinalCord": ("2748008", "Spinal cord"),
    "Trachea": ("44567001", "Trachea"),
}
"""Code and meaning of an organ, by its name in TG-263 without the side. Sources: the concept map from TG-263 to SNOMED
CT of HL7's mCODE implementation guide (STU4, CC0), and DICOM PS3.16."""
OWN_SCHEME = "99FOCUSNET"
"""Scheme of our own codes: DICOM reserves designators that begin with 99 for private use."""
MAX_CODE_VALUE, MAX_MEANING = 16, 64
"""Characters that DICOM allows."""


@dataclass(frozen=True, kw_only=True)
class DicomDescription:
    """How the DICOM objects of a segmentation name its organs, and what they say about its origin."""

    organ_names: tuple[str, ...]
    """In the order of their labels."""
    version: str
    """Of this program."""
    model: str
    """Name and checksum of the checkpoint."""

    @property
    def origin(self) -> str:
        """A sentence for a reader in the planning system."""
        return f"FocusNet {self.version}, model {self.model}. For research only, not for clinical use."


def displayed_names(preset: Preset, naming: OrganNaming) -> tuple[str, ...]:
    """Names of the organs in the DICOM objects; organs that TG-263 does not name keep the preset's name."""
    if naming == "preset":
        return preset.organ_names
    return tuple(tg263_name(name) or name for name in preset.organ_names)


def anatomy_code(organ: str) -> Code:
    """Code of an organ without its side: of SNOMED CT, or one of our own for organs that `SNOMED_CT` does not list."""
    whole = without_side(organ)
    value, meaning = SNOMED_CT.get(tg263_name(whole) or whole, (None, whole))
    return Code(value, "SCT", meaning) if value else Code(meaning[:MAX_CODE_VALUE], OWN_SCHEME, meaning[:MAX_MEANING])


def laterality_code(organ: str) -> Code | None:
    """Left or Right of SNOMED CT, or None for an organ without a side."""
    side = organ_side(organ)
    return getattr(codes.SCT, side.capitalize()) if side else None
