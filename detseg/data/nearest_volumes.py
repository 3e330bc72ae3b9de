"""What folders of volumes that are in no known layout come nearest to, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from detseg.data.source import is_hidden
from detseg.files import read_text
from detseg.runtime.media.images import IMAGE_SUFFIXES
from detseg.runtime.volumes.volume_files import VOLUME_SUFFIXES, describe_other_files, is_volume_path, volume_stem

_NUM_LOOKED_AT = 200
_MOST_BYTES = 2**22
_NNUNET = "imagesTr/CASE_0000.nii.gz, imagesTr/CASE_0001.nii.gz, ... and labelsTr/CASE.nii.gz"


def describe_volumes(root: Path, inside: Sequence[Path], folders: Sequence[Path]) -> str:
    """What to say of ``root``, in which ``inside`` and among it ``folders`` lie; nothing where there are no volumes."""
    return _datalist(root, inside) or _cases_in_folders(folders) or _folders_of_volumes(root, folders)


def describe_pictures(root: Path, images: str, labels: str) -> str:
    """What to say where nnU-Net's folders hold pictures of two dimensions; nothing where they do not."""
    found = [path for path in _files(root / images) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        return ""
    numbered = " (and rename images without the number of the channel, _0000)" if found[0].stem[-5:] == "_0000" else ""
    return (
        f"{found[0].name} and others in {images} are pictures, no volumes: learn masks from them (task semantic): copy "
        f"them to train/images and train/masks, val/images and val/masks{numbered}, with the names in classes.txt; or "
        f"write a YAML: `format: masks`, `names: [...]`, `train: {{images: {images}, masks: {labels}}}`"
    )


def describe_no_volumes(folder: Path) -> str:
    """What to say of a ``folder`` that should hold volumes and does not."""
    return (
        f"there are no volumes in {folder}; their names end in {', '.join(VOLUME_SUFFIXES)}, or they are folders with "
        f"a DICOM series; {describe_other_files(folder)}"
    )


def _datalist(root: Path, inside: Sequence[Path]) -> str:
    for path in inside:
        if path.suffix != ".json" or path.stat().st_size > _MOST_BYTES:
            continue
        try:
            content = json.loads(read_text(path, "utf-8-sig"))
        except (ValueError, RecursionError, OSError):
            continue
        if isinstance(content, dict) and isinstance(content.get("training"), list):
            return (
                f"{path.name} lists cases as MONAI has them: write a YAML and name that: `format: nifti`, `path: "
                f"{root.absolute()}`, `datalist: {path.name}`, `names: [background, ...]`"
            )
    return ""


def _cases_in_folders(folders: Sequence[Path]) -> str:
    """A folder for each case: structures in files of their own, or sequences by their names."""
    for folder in folders:
        structures = _volumes(folder / "segmentations")
        if structures:
            return (
                f"{folder.name}/segmentations has a file for each structure, as TotalSegmentator writes them, but "
                "labels are one file with a number for each structure: combine them (with its option --ml it "
                f"writes such a file itself), and name the files {_NNUNET}"
            )
        stems = [volume_stem(path) for path in _volumes(folder)]
        labels = [stem for stem in stems if stem.lower().endswith(("seg", "label", "labels", "mask"))]
        if labels and len(stems) > 1:
            scans = ", ".join(stem for stem in stems if stem not in labels)
            return (
                f"{folder.name} holds the files of one case ({scans}; labels {labels[0]}), as BraTS has it: copy or "
                f"link them as {_NNUNET}, the sequences of all cases in one order, with a dataset.json that names "
                "them (channel_names) and the values of the labels (labels)"
            )
    return ""


def _folders_of_volumes(root: Path, folders: Sequence[Path]) -> str:
    holding = [folder.name for folder in folders if _volumes(folder)]
    if len(holding) < 2:
        return ""
    labels = next((name for name in holding if "label" in name.lower() or "mask" in name.lower()), holding[-1])
    images = next(name for name in holding if name != labels)
    return (
        f"there are volumes in {', '.join(holding)}: call the folders imagesTr and labelsTr, or write a YAML and name "
        f"that: `format: nifti`, `path: {root.absolute()}`, `names: [background, ...]`, `train: {{images: {images}, "
        f"labels: {labels}}}` and the same for val"
    )


def _volumes(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.is_file() and is_volume_path(path)]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in islice(folder.iterdir(), _NUM_LOOKED_AT) if not is_hidden(path.name))
