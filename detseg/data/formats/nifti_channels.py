"""Volumes of several channels: which files are a case, and what its channels are called."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from detseg.data.formats.nifti_description import DESCRIPTION_NAME, read_description
from detseg.data.source import DatasetError, DataSource
from detseg.data.volume_records import VolumePair
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_cases import FIRST_CHANNEL, case_of, channel_files
from detseg.runtime.volumes.volume_files import volume_stem


def read_channel_names(source: DataSource) -> tuple[str, ...]:
    """The names of the channels of each volume: from ``channels`` in the YAML, else from dataset.json of nnU-Net
    (``channel_names``, ``modality`` in its first version and the Decathlon); none where nothing is said.

    Raises:
        DatasetError: they are of another form.
    """
    named = source.settings.get("channels")
    if named is not None:
        if not isinstance(named, list | tuple) or not named or not all(isinstance(name, str) for name in named):
            raise DatasetError(f"{source.name}: channels: expected a list of names, got {named!r:.100}")
        return tuple(named)
    root = source.data_root().absolute()
    description = read_description(root)
    for key in ("channel_names", "modality"):
        channels = description.get(key)
        if isinstance(channels, Mapping) and channels:
            numbers = {str(number) for number in range(len(channels))}
            if set(channels) != numbers:
                raise DatasetError(
                    f"{root / DESCRIPTION_NAME}: {key}: expected the numbers from 0 on as keys, got "
                    f"{', '.join(map(str, channels))!r:.100}"
                )
            return tuple(str(channels[str(number)]) for number in range(len(channels)))
    return ()


def find_channel_names(pairs: Sequence[VolumePair]) -> tuple[str, ...]:
    """Numbers as names of the channels, where no names are given, by the files that lie beside the first volume."""
    for image, label in pairs:
        stem = volume_stem(image)
        if label is None or not stem.endswith(FIRST_CHANNEL):
            return ()
        case = stem.removesuffix(FIRST_CHANNEL)
        if volume_stem(label) != case:
            return ()
        beside = {volume_stem(path) for path in image.parent.iterdir() if not path.name.startswith(".")}
        count = 1
        while f"{case}_{count:04d}" in beside:
            count += 1
        return tuple(map(str, range(count))) if count > 1 else ()
    return ()


def first_channels(
    images: Sequence[Path], label_stems: Collection[str] | None, num_channels: int, where: str
) -> list[Path]:
    """``images`` without the second and further channels of cases; ``label_stems`` are the names of the labels, None
    where there are none. ``num_channels`` are how many are known to be there, 0 where that is not known.

    Raises:
        DatasetError: there are further channels, but one is all that there should be.
    """
    stems = {volume_stem(image) for image in images}
    kept = []
    for image in images:
        case = case_of(image)
        is_further = case is not None and case[1] > 0 and f"{case[0]}{FIRST_CHANNEL}" in stems
        if case is None or not is_further:
            kept.append(image)
            continue
        if label_stems is None:
            has_labels_of_case = num_channels > 1
        else:
            has_labels_of_case = volume_stem(image) not in label_stems and case[0] in label_stems
        if not has_labels_of_case:
            kept.append(image)
        elif num_channels == 1:
            count = sum((case_of(one) or ("", 0))[0] == case[0] for one in images)
            raise DatasetError(
                f"{where}: {image} is one of the channels of {case[0]}: {count} channels, but one is named; name all "
                f"in {DESCRIPTION_NAME} (channel_names) or in a YAML (`channels:`), or take the others away"
            )
    return kept


def require_channel_files(images: Sequence[Path], where: str) -> Path:
    """The first of the files of a case. Raises DatasetError: the others are not found by its name."""
    try:
        found = channel_files(images[0], len(images))
    except VolumeError as error:
        raise DatasetError(f"{where}: {error}") from error
    if [path.absolute() for path in found] != [path.absolute() for path in images]:
        raise DatasetError(
            f"{where}: the channels of a case must lie beside each other as CASE_0000, CASE_0001, ..., got "
            f"{', '.join(path.name for path in images)}"
        )
    return images[0]
