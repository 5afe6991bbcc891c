"""Names of organs and sides in languages other than English, as clinics call their structures."""

import re
import unicodedata
from typing import NamedTuple


class Language(NamedTuple):
    """Names of organs and words for the sides in one language."""

    left: str
    """Words, separated by blanks."""
    right: str
    organs: dict[str, str]
    """Name of the organ in TG-263, without its side: names in the language, separated by commas."""


LATIN = Language(
    left="sin sinister sinistra sinistrum",
    right="dex dext dexter dextra dextrum",
    organs={
        "A_Carotid": "arteria carotis, carotis, a. carotis",
        "BrachialPlex": "plexus brachialis",
        "Brain": "encephalon",
        "Brainstem": "truncus encephali, truncus cerebri",
        "Bone_Mandible": "mandibula",
        "Cavity_Oral": "cavitas oris, cavum oris",
        "Eye": "bulbus oculi, oculus",
        "Glnd_Lacrimal": "glandula lacrimalis",
        "Glnd_Subling": "glandula sublingualis",
        "Glnd_Submand": "glandula submandibularis, submandibularis",
        "Glnd_Thyroid": "glandula thyroidea, glandula thyreoidea",
        "Lobe_Temporal": "lobus temporalis",
        "OpticChiasm": "chiasma, chiasma opticum",
        "OpticNrv": "nervus opticus, n. opticus, opticus",
        "Parotid": "parotis, glandula parotis, glandula parotidea, gl. parotis",
        "Pituitary": "hypophysis cerebri",
        "SpinalCanal": "canalis vertebralis, canalis spinalis",
        "SpinalCord": "medulla spinalis",
    },
)
"""Anatomical terms (FIPAT, Terminologia Anatomica, 2nd ed., 2019), with the short forms of structure lists."""

GERMAN = Language(
    left="li links lks linke linker linkes",
    right="re rechts rts rechte rechter rechtes",
    organs={
        "A_Carotid": "halsschlagader, karotis, carotis",
        "Arytenoid": "aryknorpel, stellknorpel",
        "BrachialPlex": "plexus brachialis, armplexus",
        "Brain": "gehirn, hirn",
        "Brainstem": "hirnstamm, stammhirn",
        "Bone_Mandible": "unterkiefer, mandibula",
        "Cavity_Oral": "mundhöhle",
        "Cochlea": "cochlea, hörschnecke, schnecke",
        "Esophagus": "ösophagus, speiseröhre",
        "Eye": "auge, augapfel, bulbus",
        "Glnd_Lacrimal": "tränendrüse",
        "Glnd_Subling": "unterzungendrüse",
        "Glnd_Submand": "unterkieferdrüse, unterkieferspeicheldrüse, submandibularis, gl. submandibularis",
        "Glnd_Thyroid": "schilddrüse",
        "Hippocampus": "hippocampus",
        "Joint_TM": "kiefergelenk",
        "Larynx": "kehlkopf, larynx",
        "Larynx_SG": "supraglottischer larynx",
        "Lens": "linse, augenlinse",
        "Lips": "lippen, lippe",
        "Lobe_Temporal": "temporallappen, schläfenlappen",
        "Lung": "lunge",
        "Musc_Constrict": "pharynxkonstriktor, schlundschnürer",
        "OpticChiasm": "chiasma, sehnervenkreuzung",
        "OpticNrv": "sehnerv, n. opticus, optikus, opticus",
        "Parotid": "parotis, ohrspeicheldrüse, gl. parotis",
        "Pituitary": "hypophyse, hirnanhangdrüse",
        "SpinalCanal": "spinalkanal, wirbelkanal",
        "SpinalCord": "rückenmark, myelon",
        "Trachea": "luftröhre, trachea",
    },
)
FRENCH = Language(
    left="g gche gauche",
    right="d dt dte drt droit droite",
    organs={
        "A_Carotid": "carotide, artère carotide",
        "Arytenoid": "aryténoïde",
        "BrachialPlex": "plexus brachial",
        "Brain": "cerveau, encéphale",
        "Brainstem": "tronc cérébral, tronc",
        "Bone_Mandible": "mandibule, maxillaire inférieur",
        "Cavity_Oral": "cavité buccale, cavité orale",
        "Cochlea": "cochlée, cochlea",
        "Esophagus": "œsophage",
        "Eye": "œil, globe oculaire",
        "Glnd_Lacrimal": "glande lacrymale",
        "Glnd_Subling": "glande sublinguale, sublinguale",
        "Glnd_Submand": "glande sous-maxillaire, sous-maxillaire, glande sous-mandibulaire, sous-mandibulaire, "
        "glande submandibulaire, submandibulaire",
        "Glnd_Thyroid": "thyroïde, glande thyroïde",
        "Glottis": "glotte",
        "Hippocampus": "hippocampe",
        "Joint_TM": "articulation temporo-mandibulaire, atm",
        "Larynx": "larynx",
        "Larynx_SG": "larynx supraglottique",
        "Lens": "cristallin",
        "Lips": "lèvres, lèvre",
        "Lobe_Temporal": "lobe temporal",
        "Lung": "poumon",
        "Musc_Constrict": "constricteurs du pharynx, muscles constricteurs du pharynx",
        "OpticChiasm": "chiasma, chiasma optique",
        "OpticNrv": "nerf optique",
        "Parotid": "parotide, glande parotide",
        "Pituitary": "hypophyse",
        "SpinalCanal": "canal médullaire, canal rachidien, canal vertébral",
        "SpinalCord": "moelle, moelle épinière",
        "Trachea": "trachée",
    },
)
"""Organ names of the French consensus on delineation (Noël et al., Cancer/Radiothérapie 26 (2022) 76-91), with usual
variants."""

SPANISH = Language(
    left="i iz izq izda izdo izquierda izquierdo",
    right="d der dcha dcho derecha derecho",
    organs={
        "A_Carotid": "carótida, arteria carótida",
        "Arytenoid": "aritenoides",
        "BrachialPlex": "plexo braquial",
        "Brain": "cerebro, encéfalo",
        "Brainstem": "tronco cerebral, tronco encefálico, tronco del encéfalo, tallo cerebral",
        "Bone_Mandible": "mandíbula",
        "Cavity_Oral": "cavidad oral, cavidad bucal",
        "Cochlea": "cóclea",
        "Esophagus": "esófago",
        "Eye": "ojo, globo ocular",
        "Glnd_Lacrimal": "glándula lagrimal, lagrimal",
        "Glnd_Subling": "glándula sublingual, sublingual",
        "Glnd_Submand": "glándula submandibular, submandibular, glándula submaxilar, submaxilar",
        "Glnd_Thyroid": "tiroides, glándula tiroides",
        "Glottis": "glotis",
        "Hippocampus": "hipocampo",
        "Joint_TM": "articulación temporomandibular, atm",
        "Larynx": "laringe",
        "Larynx_SG": "laringe supraglótica",
        "Lens": "cristalino",
        "Lips": "labios, labio",
        "Lobe_Temporal": "lóbulo temporal",
        "Lung": "pulmón",
        "Musc_Constrict": "constrictores faríngeos, constrictor faríngeo, músculos constrictores de la faringe",
        "OpticChiasm": "quiasma, quiasma óptico",
        "OpticNrv": "nervio óptico",
        "Parotid": "parótida, glándula parótida",
        "Pituitary": "hipófisis",
        "SpinalCanal": "canal medular, canal espinal, canal raquídeo, canal vertebral",
        "SpinalCord": "médula, médula espinal",
        "Trachea": "tráquea",
    },
)
ITALIAN = Language(
    left="s sn sx sin sinistra sinistro",
    right="d dx destra destro",
    organs={
        "A_Carotid": "carotide, arteria carotide",
        "Arytenoid": "aritenoide",
        "BrachialPlex": "plesso brachiale",
        "Brain": "encefalo, cervello",
        "Brainstem": "tronco encefalico, tronco cerebrale",
        "Bone_Mandible": "mandibola",
        "Cavity_Oral": "cavo orale, cavità orale",
        "Cochlea": "coclea",
        "Esophagus": "esofago",
        "Eye": "occhio, bulbo oculare, globo oculare",
        "Glnd_Lacrimal": "ghiandola lacrimale",
        "Glnd_Subling": "ghiandola sottolinguale, sottolinguale",
        "Glnd_Submand": "ghiandola sottomandibolare, sottomandibolare, ghiandola sottomascellare, sottomascellare",
        "Glnd_Thyroid": "tiroide, ghiandola tiroide",
        "Glottis": "glottide",
        "Hippocampus": "ippocampo",
        "Joint_TM": "articolazione temporo-mandibolare, atm",
        "Larynx": "laringe",
        "Larynx_SG": "laringe sovraglottica",
        "Lens": "cristallino",
        "Lips": "labbra, labbro",
        "Lobe_Temporal": "lobo temporale",
        "Lung": "polmone",
        "Musc_Constrict": "costrittori faringei, costrittori della faringe, muscoli costrittori della faringe",
        "OpticChiasm": "chiasma, chiasma ottico",
        "OpticNrv": "nervo ottico",
        "Parotid": "parotide, ghiandola parotide",
        "Pituitary": "ipofisi",
        "SpinalCanal": "canale midollare, canale spinale, canale vertebrale",
        "SpinalCord": "midollo, midollo spinale",
        "Trachea": "trachea",
    },
)
DUTCH = Language(
    left="li links linker",
    right="re rechts rechter",
    organs={
        "A_Carotid": "halsslagader, carotis",
        "Arytenoid": "bekerkraakbeen",
        "BrachialPlex": "plexus brachialis",
        "Brain": "hersenen",
        "Brainstem": "hersenstam",
        "Bone_Mandible": "onderkaak, mandibula",
        "Cavity_Oral": "mondholte",
        "Cochlea": "cochlea, slakkenhuis",
        "Esophagus": "slokdarm, oesofagus",
        "Eye": "oog, oogbol",
        "Glnd_Lacrimal": "traanklier",
        "Glnd_Subling": "ondertongspeekselklier",
        "Glnd_Submand": "onderkaakspeekselklier, submandibularis",
        "Glnd_Thyroid": "schildklier",
        "Hippocampus": "hippocampus",
        "Joint_TM": "kaakgewricht",
        "Larynx": "strottenhoofd, larynx",
        "Larynx_SG": "supraglottische larynx",
        "Lens": "ooglens, lens",
        "Lips": "lippen",
        "Lobe_Temporal": "temporaalkwab, slaapkwab",
        "Lung": "long",
        "OpticChiasm": "chiasma, oogzenuwkruising",
        "OpticNrv": "oogzenuw, n. opticus, opticus",
        "Parotid": "parotis, oorspeekselklier",
        "Pituitary": "hypofyse",
        "SpinalCanal": "wervelkanaal, spinaalkanaal",
        "SpinalCord": "ruggenmerg, myelum",
        "Trachea": "luchtpijp, trachea",
    },
)
CHINESE = Language(
    left="左 左侧",
    right="右 右侧",
    organs={
        "A_Carotid": "颈动脉",
        "Arytenoid": "杓状软骨",
        "BrachialPlex": "臂丛, 臂丛神经",
        "Brain": "脑, 全脑",
        "Brainstem": "脑干",
        "Bone_Mandible": "下颌骨",
        "Cavity_Oral": "口腔",
        "Cochlea": "耳蜗",
        "Esophagus": "食管, 食道",
        "Eye": "眼球, 眼",
        "Glnd_Lacrimal": "泪腺",
        "Glnd_Subling": "舌下腺",
        "Glnd_Submand": "颌下腺, 下颌下腺",
        "Glnd_Thyroid": "甲状腺",
        "Glottis": "声门",
        "Hippocampus": "海马, 海马体",
        "Joint_TM": "颞下颌关节, 颞颌关节",
        "Larynx": "喉",
        "Lens": "晶状体, 晶体",
        "Lips": "唇, 嘴唇",
        "Lobe_Temporal": "颞叶",
        "Lung": "肺",
        "Musc_Constrict": "咽缩肌",
        "OpticChiasm": "视交叉",
        "OpticNrv": "视神经",
        "Parotid": "腮腺",
        "Pituitary": "垂体",
        "SpinalCanal": "椎管",
        "SpinalCord": "脊髓",
        "Trachea": "气管",
    },
)
LANGUAGES = {
    "Latin": LATIN,
    "German": GERMAN,
    "French": FRENCH,
    "Spanish": SPANISH,
    "Italian": ITALIAN,
    "Dutch": DUTCH,
    "Chinese": CHINESE,
}
ENGLISH_SIDES = {"left": "l lt left", "right": "r rt right"}
"""Also used beside names of other languages: "Parotis L"."""
WITHOUT_MARKS = str.maketrans({"œ": "oe", "æ": "ae", "ß": "ss", "ø": "o"})
GERMAN_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


class TranslatedName(NamedTuple):
    """An organ that a name in another language means."""

    organ: str
    """Its name in TG-263, without the side."""
    sides: tuple[str, ...]
    """ "left" and "right", as the name says."""


def translate(name: str) -> TranslatedName | None:
    """Find the organ that a name in one of `LANGUAGES` means; None if no language knows it.

    Case, accents, blanks, hyphens, underscores and dots do not matter. "Hörschnecke", "Hoerschnecke" and "Horschnecke"
    are one name. A short word such as "D" means a side only beside a name in the language in which it does.
    """
    words = _words(name)
    for language, (organs, sides) in _TABLES.items():
        if language == "Chinese":
            words = [word for part in words for word in _CHINESE_SIDE.split(part) if word]
        found = dict.fromkeys(sides[word] for word in words if word in sides)
        organ = organs.get("".join(word for word in words if word not in sides))
        if organ:
            return TranslatedName(organ, tuple(found))
    return None


def _words(name: str) -> list[str]:
    composed = unicodedata.normalize("NFC", name)
    spaced = re.sub(r"(?<=[^\W\dA-Z_])(?=[A-Z])", " ", composed)
    return [_fold(word) for word in re.split(r"[\W_]+", spaced.casefold()) if word]


def _fold(text: str) -> str:
    """Without accents."""
    decomposed = unicodedata.normalize("NFKD", text.translate(WITHOUT_MARKS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _organ_keys(names: str) -> set[str]:
    spellings = [name.strip().casefold() for name in names.split(",")]
    spellings += [spelling.translate(GERMAN_UMLAUTS) for spelling in spellings]
    return {"".join(_words(spelling)) for spelling in spellings}


def _table(language: Language) -> tuple[dict[str, str], dict[str, str]]:
    """Key of a name to organ, and word to side."""
    organs = {key: organ for organ, names in language.organs.items() for key in _organ_keys(names)}
    words = {"left": f"{language.left} {ENGLISH_SIDES['left']}", "right": f"{language.right} {ENGLISH_SIDES['right']}"}
    return organs, {word: side for side, text in words.items() for word in text.split()}


_TABLES = {name: _table(language) for name, language in LANGUAGES.items()}
_CHINESE_SIDE = re.compile("(左侧?|右侧?)")
