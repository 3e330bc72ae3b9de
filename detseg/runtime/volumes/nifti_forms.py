"""Where the header of a NIfTI file says that its voxels lie, in up to three forms: which of them is used, where they
contradict each other, and the same words for the labels of the scan."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from detseg.arrays import DoubleArray
from detseg.volumes import Shape3, StoredForms, spacing_of

_LARGEST_SPACING_MM = 1e4
_MILLIMETERS = {1: 1e3, 3: 1e-3}
"""The length of what ``xyzt_units`` may name apart from millimeters and nothing: meters and micrometers."""
_UNIT_NAMES = {1: "meters", 3: "micrometers"}
_LENGTH_BITS = 7
_LONGEST_NIFTI_1_SIDE = 2**15 - 1
_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def affine_of(header: Any) -> DoubleArray:
    """The affine ``[4, 4]`` to millimeters of a header of nibabel: the sform where there is one, else the qform, else
    the spacing alone, as nibabel has it; lengths in meters and micrometers are converted, as ITK does.

    Raises:
        ValueError: it is of no use. The message names no path.
    """
    from nibabel.spatialimages import HeaderDataError

    try:
        affine = np.array(_mended(header).get_best_affine(), np.float64)
    except (ValueError, HeaderDataError) as error:
        raise ValueError(f"the orientation in the header is of no use: {error}") from error
    affine[:3] *= _unit(header)
    require_usable(affine)
    return affine


def require_usable(affine: DoubleArray) -> None:
    """Raise ValueError where an ``affine`` ``[4, 4]`` is of no use. The message names no path."""
    spacing = spacing_of(affine)
    usable = np.isfinite(affine).all() and min(spacing) > 0 and max(spacing) <= _LARGEST_SPACING_MM
    # Relative to the spacing: the determinant of a volume with tiny voxels is small, too.
    if not usable or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise ValueError(
            f"the affine in the header is of no use: {affine[:3].tolist()}; its columns must be finite, of a length of "
            f"up to {_LARGEST_SPACING_MM:g} mm, and not lie in a plane"
        )


def doubts_about(header: Any, shape: Shape3) -> tuple[str, ...]:
    """What to say of a header that names no orientation, or several that put a corner of the volume more than half a
    voxel apart, or lengths of a rare unit; each says what is used."""
    has_qform, has_sform = int(header["qform_code"]) > 0, int(header["sform_code"]) > 0
    doubts = []
    if min(header["pixdim"][1:4]) < 0:
        doubts.append(
            "pixdim in the header has negative spacings: their signs are left out, as the standard has it; other "
            "programs may turn the volume otherwise: correct them"
        )
    header = _mended(header)
    unit = _UNIT_NAMES.get(int(header["xyzt_units"]) & _LENGTH_BITS)
    if unit is not None:
        doubts.append(
            f"its lengths are in {unit}, by its units, and are converted to millimeters: make sure that it is so"
        )
    if not (has_qform or has_sform):
        doubts.append(
            "no orientation: qform_code and sform_code are 0; the spacing alone is used, with axes toward the left, "
            "the front and the top: make sure of them, other programs may turn it otherwise"
        )
    if has_sform:
        doubts += filter(None, [_spacings_apart(header, shape), _forms_apart(header, shape) if has_qform else ""])
    return tuple(doubts)


def forms_of(header: Any) -> StoredForms:
    """What a header of nibabel says of where its voxels lie, word for word."""
    return StoredForms(2 if header["sizeof_hdr"] == 540 else 1, {name: np.array(header[name]) for name in _FIELDS})


def header_with(forms: StoredForms | None, affine: DoubleArray, shape: tuple[int, ...]) -> Any:
    """A header of nibabel for a volume of this ``shape`` that says what ``forms`` do; without them both forms say
    ``affine`` ``[4, 4]``, in millimeters. Of the version of ``forms``, or NIfTI-2 where a side is too long for the
    first."""
    import nibabel

    is_second = max(shape) > _LONGEST_NIFTI_1_SIDE or (forms is not None and forms.version == 2)
    kind: Any = nibabel.Nifti2Header if is_second else nibabel.Nifti1Header
    header = kind()
    header.set_data_shape(shape)
    if forms is not None:
        for name, value in forms.fields.items():
            header[name] = value
        return header
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    if _forms_apart(header, (shape[0], shape[1], shape[2])):
        # A qform has no shear: programs that prefer it would put the voxels elsewhere.
        header["qform_code"] = 0
    return header


def _mended(header: Any) -> Any:
    """``header`` with what the standard has readers make of a pixdim that it does not allow: spacings lose their sign,
    and a handedness of the qform (pixdim[0]) that is neither 1 nor -1 counts as 1."""
    pixdim = np.array(header["pixdim"])
    changed = pixdim.copy()
    changed[1:4] = np.abs(pixdim[1:4])
    if pixdim[0] not in (1, -1):
        changed[0] = 1
    if np.array_equal(changed, pixdim, equal_nan=True):
        return header
    copied = header.copy()
    copied["pixdim"] = changed
    return copied


def _unit(header: Any) -> float:
    return _MILLIMETERS.get(int(header["xyzt_units"]) & _LENGTH_BITS, 1.0)


def _forms_apart(header: Any, shape: tuple[int, ...]) -> str:
    from nibabel.spatialimages import HeaderDataError

    sform = np.asarray(header.get_sform(), np.float64)
    try:
        qform = np.asarray(header.get_qform(), np.float64)
    except (ValueError, HeaderDataError):
        return "the qform in the header is of no use; the sform is used"
    corners = np.array(list(itertools.product(*((0, side - 1) for side in shape), (1,))), np.float64)
    distance = float(np.linalg.norm((corners @ (qform - sform).T)[:, :3], axis=1).max())
    # Not by comparing for more: what is no number is apart, too.
    if distance <= min(spacing_of(sform)) / 2:
        return ""
    return (
        f"the qform and the sform in the header disagree by up to {distance * _unit(header):.4g} mm; the sform is "
        "used, other programs may take the other: correct the wrong one"
    )


def _spacings_apart(header: Any, shape: Shape3) -> str:
    sform = spacing_of(np.asarray(header.get_sform(), np.float64))
    pixdim = [float(step) for step in header["pixdim"][1:4]]
    apart = max(abs(one - other) * (side - 1) for one, other, side in zip(pixdim, sform, shape, strict=True))
    if apart <= min(sform) / 2:
        return ""
    unit = _unit(header)
    return (
        f"pixdim and the sform in the header disagree: {_by(pixdim, unit)} mm and {_by(sform, unit)} mm; the sform is "
        "used, other programs may take the other: correct the wrong one"
    )


def _by(lengths: Any, unit: float) -> str:
    return "x".join(f"{length * unit:.5g}" for length in lengths)
