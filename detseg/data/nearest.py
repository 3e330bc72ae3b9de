"""What a folder that is no data set in a known layout comes nearest to, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from detseg.data.entries.parsing import enumerate_some
from detseg.data.nearest_volumes import describe_volumes
from detseg.data.source import is_hidden
from detseg.runtime.media.images import IMAGE_SUFFIXES

_NUM_LOOKED_AT = 200
_HEAD_BYTES = 1 << 16
_MACOS = "__MACOSX"
_EXPORT = "export the annotations as COCO or YOLO there, which are read as they are"
_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    ".json": {
        "an export of Label Studio in its own form": ('"original_width"', '"image'),
        "an export of Datumaro": ('"dm_format_version"',),
        "an export of Labelbox": ('"data_row"',),
    },
    ".ndjson": {"an export of Labelbox": ('"data_row"',)},
    ".csv": {
        "a table of VIA (which is read as JSON)": ("region_shape_attributes",),
        "a table of boxes of Open Images": ("ImageID", "XMin"),
        "a table of boxes": ("xmin", "ymax"),
    },
}
"""By the suffix of a file and by what it is, words that stand in its beginning."""
_RECORDS = (".record", ".tfrecord", ".tfrecords")
_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".txz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_ROBOFLOW_KERAS = ("_annotations.txt", "_classes.txt")
_USUAL = ("images", "labels", "masks", "annotations")


def describe_nearest(root: Path, formats_of: Callable[[Path], Sequence[str]]) -> str:
    """What to say of the folder ``root``, nothing where it resembles nothing; ``formats_of`` names the formats whose
    layout a folder has."""
    if not root.is_dir():
        return ""
    inside = [path for path in islice(sorted(root.iterdir()), _NUM_LOOKED_AT) if not is_hidden(path.name)]
    folders = [path for path in inside if path.is_dir() and path.name != _MACOS]
    for advice in (_inner_sets(folders, formats_of), _other_programs(inside, folders), _coco_files(root, inside)):
        if advice:
            return advice
    return (
        describe_volumes(root, inside, folders)
        or _other_case(folders)
        or _without_names(inside, folders)
        or _archives(root, inside, folders)
        or _classes_alone(folders)
    )


def is_archive(path: Path) -> bool:
    """Whether the name of a file is that of one into which others are packed."""
    return path.suffix.lower() in _ARCHIVES


def _inner_sets(folders: Sequence[Path], formats_of: Callable[[Path], Sequence[str]]) -> str:
    """Archives often hold one folder with everything."""
    found = {folder: formats for folder in folders if (formats := formats_of(folder))}
    listed = enumerate_some(f"{folder} ({' or '.join(formats)})" for folder, formats in found.items())
    return f"a data set is inside of it, name that: {listed}" if found else ""


def _other_programs(inside: Sequence[Path], folders: Sequence[Path]) -> str:
    for path in [*inside, *(path for folder in folders for path in _files(folder))]:
        if path.is_file() and (program := _program(path)):
            return f"{path.name} is {program}: {_EXPORT}"
    for folder in folders:
        masks = [path.name for path in _files(folder) if path.stem.endswith("_mask")]
        if masks:
            return (
                f"masks such as {masks[0]} lie beside images in {folder}: put masks into a folder of their own, "
                f"{folder.name}/masks beside {folder.name}/images, with the class names in classes.txt"
            )
    return ""


def _program(path: Path) -> str:
    """What a file is that is not read, as its name or its beginning tells it."""
    if path.name in _ROBOFLOW_KERAS:
        return "a list of boxes in Roboflow's form for Keras"
    if path.suffix.lower() in _RECORDS or ".tfrecord-" in path.name:
        return "a file with records of TensorFlow"
    keys = _KEYS.get(path.suffix.lower())
    head = _head(path) if keys else ""
    return next((name for name, words in (keys or {}).items() if all(word in head for word in words)), "")


def _coco_files(root: Path, inside: Sequence[Path]) -> str:
    """COCO files under names that say nothing are read where a YAML names them."""
    places = [*inside, *(_files(root / "annotations") if (root / "annotations").is_dir() else [])]
    found = [path for path in places if path.suffix == ".json" and path.is_file() and _is_coco(path)]
    lines = []
    for path in found[:5]:
        split = path.stem.strip("_").removeprefix("annotations").removesuffix("coco").strip("_-.") or "train"
        images = next((name for name in (f"images/{split}", split, "images") if (root / name).is_dir()), ".")
        lines.append(f"{split}: {{images: {images}, annotations: {path.relative_to(root)}}}")
    if not found:
        return ""
    written = "\n    ".join(["format: coco", f"path: {root}", *lines])
    return f"there are COCO files; write a YAML and give that as the data set:\n    {written}\n  "


def _other_case(folders: Sequence[Path]) -> str:
    wrong = [folder.name for folder in folders if folder.name not in _USUAL and folder.name.lower() in _USUAL]
    if not wrong:
        return ""
    return f"folders are looked for in small letters: rename {', '.join(f'{name} to {name.lower()}' for name in wrong)}"


def _without_names(inside: Sequence[Path], folders: Sequence[Path]) -> str:
    """Labels in YOLO's form say numbers alone."""
    everything = [
        *inside,
        *(path for folder in folders if folder.name in ("images", "labels") for path in _files(folder)),
    ]
    texts = {path.stem for path in everything if path.suffix == ".txt"}
    images = {path.stem for path in everything if path.suffix.lower() in IMAGE_SUFFIXES}
    if not texts & images:
        return ""
    return (
        "there are labels in YOLO's form, but nobody says what the classes are called: add classes.txt, a name per line"
    )


def _archives(root: Path, inside: Sequence[Path], folders: Sequence[Path]) -> str:
    """Archives that nobody has unpacked, where nothing else says what the folder is."""
    everything = (one for path in [*inside, *folders] for one in _files(path))
    packed = list(dict.fromkeys(str(path.relative_to(root)) for path in everything if is_archive(path)))
    return f"there are archives, which are not looked into: unpack {enumerate_some(packed)}" if packed else ""


def _classes_alone(folders: Sequence[Path]) -> str:
    """Folders of classes, in folders of splits, with nothing but images."""
    for folder in folders:
        classes = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
        files = [path for one in classes for path in _files(one) if path.is_file()]
        if len(classes) > 1 and files and all(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
            names = enumerate_some(sorted(path.name for path in classes))
            return (
                f"images lie in folders ({names} in {folder.name}), and nothing says where in them objects are: what "
                "is learned here are boxes, outlines, masks or volumes, not one class for a whole image"
            )
    return ""


def _files(folder: Path) -> Iterator[Path]:
    """Some of the files in ``folder``, and in the folders in it."""
    if folder.is_dir():
        yield from islice((path for path in folder.rglob("*") if not is_hidden(path.name)), _NUM_LOOKED_AT)
    else:
        yield folder


def _is_coco(path: Path) -> bool:
    """Whether a JSON file begins as COCO's do; they may be too large to be read for a message."""
    head = _head(path)
    return (
        any(f'"{key}"' in head for key in ("images", "annotations", "categories", "licenses")) and "file_name" in head
    )


def _head(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES).decode("utf-8", "replace")
