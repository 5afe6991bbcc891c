"""The patient among the objects of a CT: a body, or fragments of it, without couch and holder."""

import numpy as np
from scipy import ndimage

from utils.imaging.masks import connected_components


def patient_components(mask: np.ndarray) -> np.ndarray:
    """Find the patient in a mask of everything dense: the largest component, and fragments above and below it.

    A CT may show a patient in fragments, for example if slices are blank. A fragment lies in line with the larger ones,
    and mostly in other slices. Couch and holder lie behind the patient, in the same slices.

    Args:
        mask: (d, h, w) bool, without thin parts that join patient and couch.

    Returns:
        bool (d, h, w).
    """
    components = connected_components(mask, connectivity=1)
    if len(components.sizes) < 2:
        return mask
    boxes = ndimage.find_objects(components.labels)
    first, *others = np.argsort(-components.sizes, kind="stable")
    patient = components.labels == first + 1
    slices, projection = patient.any(axis=(1, 2)), patient.any(axis=0)
    for index in others:
        own_slices, *own_box = boxes[index]
        component = components.labels[boxes[index]] == index + 1
        beside = np.count_nonzero(component[slices[own_slices]])
        section = component.any(axis=0)
        common = np.count_nonzero(section & projection[tuple(own_box)])
        smaller = min(np.count_nonzero(section), np.count_nonzero(projection))
        if 2 * beside <= np.count_nonzero(component) and 2 * common >= smaller:
            patient[boxes[index]] |= component
            slices[own_slices] = True
            projection[tuple(own_box)] |= section
    return patient
