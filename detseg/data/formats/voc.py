"""Pascal VOC: one XML file per image (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html).

Boxes are ``(xmin, ymin, xmax - xmin, ymax - ymin)``: corners, without VOC's original "+ 1" for inclusive pixels. That
is how today's annotation tools write them, and how other toolkits count them.

The masks of the objects are in ``SegmentationObject/NAME.png``, which holds at every pixel the number of the object,
counted from 1 in the order of the XML file; 0 is the background, 255 the border between objects.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detseg.data.datasets.kept_labels import FileStates, keep_labels, load_labels
from detseg.data.datasets.mask_file import read_index_mask
from detseg.data.entries.voc_xml import Annotation, add_image, masks_file
from detseg.data.format import DatasetFormat
from detseg.data.records import BoxRecords
from detseg.data.source import (
    DatasetError,
    DataSource,
    as_there,
    check_class_names,
    exists,
    files_in,
    find_existing,
    fold_spelling,
    is_hidden,
    leaves_root,
    read_lines,
    stated_names,
)
from detseg.data.split_rule import ALL
from detseg.data.writing import Contents, NewSplits, lists
from detseg.run_lengths import RunLengths
from detseg.runtime.media.images import IMAGE_SUFFIXES, ImageError
from detseg.structures import IGNORE_INDEX, Target

_SETTINGS = {"format", "path", "names", "colors"}
_XML_SUFFIXES = (".xml",)
# The lists of one class (aeroplane_train.txt) say 1, 0 or -1 behind each name.
_CLASS_LIST_LINE = re.compile(r"\S+\s+-?[01]$")


class VocFormat(DatasetFormat):
    """The folder of a VOC data set, or a YAML that adds class names or splits to it."""

    targets = ("boxes", "instances")
    layouts = (
        "ImageSets/Main/SPLIT.txt with Annotations/*.xml and JPEGImages/; class names from classes.txt, else all XML",
        "Annotations/ and JPEGImages/, annotations/ and images/, or XML beside images, without lists: the split all",
        "SPLIT/ with XML files beside images",
        "a YAML with `format: voc`, `path:` and optionally `names: [...]` and lists of images, `SPLIT: FILE.txt`",
    )

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.yaml_path is not None and source.settings.get("format") != "voc":
            return ()
        root = source.data_root()
        if find_folders(root) is None:
            return tuple(folder.name for folder in _folders_of_splits(root))
        named = tuple(str(key) for key in source.settings if key not in _SETTINGS)
        lists = [path for path in sorted(root.glob("ImageSets/Main/*.txt")) if _lists_images(path)]
        lists = lists or sorted(root.glob("ImageSets/Segmentation/*.txt"))
        return named or tuple(path.stem for path in lists) or (ALL,)

    def records(self, source: DataSource, split: str, target: Target) -> BoxRecords:
        root = source.data_root()
        if find_folders(root) is None:
            names = stated_names(source) or _names_in(
                [path for one in _folders_of_splits(root) for path in _xml_files(Folders(one, one))]
            )
            return voc_records(root / split, None, split, names, target, home=root)
        # Few images of the official sets have masks, and a list of their own.
        kinds = ("Segmentation", "Main") if target == "instances" else ("Main", "Segmentation")
        lists = [root / "ImageSets" / kind / f"{split}.txt" for kind in kinds]
        list_path: Path | None = next((path for path in lists if path.is_file()), lists[0])
        if split in source.settings:
            list_path = find_existing(source.candidates(str(source.settings[split])), split, source.name)
        elif split == ALL and not any(path.is_file() for path in lists):
            list_path = None
        return voc_records(root, list_path, split, stated_names(source), target)

    def write_splits(self, new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
        folders = find_folders(new.source.data_root())
        if folders is None:
            return super().write_splits(new, folder)
        source_of = {
            path: source
            for records in new.old
            if isinstance(records, BoxRecords)
            for path, source in zip(records.paths(), records.sources, strict=True)
        }
        contents, places = lists(
            new, folder, lambda path: source_of[path].relative_to(folders.annotations).with_suffix("").as_posix()
        )
        names = stated_names(new.source)
        return contents, {**places, **({} if names is None else {"names": list(names)})}


class Folders(NamedTuple):
    """Where the XML files and where the images lie."""

    annotations: Path
    images: Path


def find_folders(root: Path) -> Folders | None:
    """The folders of a VOC data set, of one with other names, or that with XML files beside images."""
    if (root / "Annotations").is_dir() and (root / "ImageSets").is_dir():
        return Folders(root / "Annotations", root / "JPEGImages")
    for names in (("Annotations", "JPEGImages"), ("Annotations", "images"), ("annotations", "images")):
        folders = Folders(*(root / name for name in names))
        if folders.images.is_dir() and folders.annotations.is_dir() and _xml_files(folders):
            return folders
    stems = {path.stem for path in root.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES} if root.is_dir() else set()
    beside = Folders(root, root)
    return beside if any(path.stem in stems for path in _xml_files(beside)) else None


def _folders_of_splits(root: Path) -> list[Path]:
    """The folders in ``root`` that have XML files beside images, if there is any, sorted."""
    inside = (
        sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)) if root.is_dir() else []
    )
    return [folder for folder in inside if find_folders(folder) == Folders(folder, folder)]


def _names_in(files: Sequence[Path]) -> tuple[str, ...]:
    """The names of the objects in XML files, sorted; what cannot be read has none."""
    found = {name for path in files for name in Annotation(path).class_names()}
    return check_class_names(sorted(found), "the names of the objects in all XML files")


def voc_records(
    root: Path,
    list_path: Path | None,
    split: str,
    class_names: tuple[str, ...] | None = None,
    target: Target = "boxes",
    home: Path | None = None,
) -> BoxRecords:
    """The images of the data set in ``root`` that the file ``list_path`` lists, numbered from 1 in its order; without a
    list those of all XML files.

    Without ``class_names``, they are those of all XML files, sorted: the same for every split. ``difficult`` objects
    are kept and flagged. An image is the file with the name in the list, else that which the XML's ``filename`` names.
    For instances, the masks are those of ``SegmentationObject``.

    Raises:
        DatasetError: the list or the folder of images is missing, or there are no classes.
    """
    folders = find_folders(root)
    assert folders is not None, "or there would be no splits"
    images = _Images(folders)
    if list_path is None:
        names = [_name_of(path, folders.annotations) for path in _xml_files(folders)]
    else:
        names = [_without_suffix(line, folders.annotations) for line in read_lines(list_path)]
    kept_at = None
    if target == "boxes" and not any("/" in name for name in names):  # all that is read lies in these two folders
        states = FileStates("voc", root, home, list_path, split, class_names, names)
        for path in (*_xml_files(folders), *images.paths()):
            states.add(path)
        kept_at = states.kept()
    kept = load_labels(kept_at)
    files: dict[Path, Annotation] = {}
    if kept is not None:
        class_names = kept.class_names
    elif class_names is None:
        files = {path: Annotation(path) for path in _xml_files(folders)}
        found = {name for annotation in files.values() for name in annotation.class_names()}
        class_names = check_class_names(sorted(found), f"{folders.annotations}: the names of the objects")
    records = BoxRecords(
        split,
        root=images.folder,
        home=home or root,
        class_names=class_names,
        image_folders=(images.folder,),
        entry="object",
        target=target,
    )
    if kept is not None:
        sources = [folders.annotations / f"{name}.xml" for name in names]
        records.take_over_read(kept.packed, sources, kept.states_size.tolist())
        return records
    seen: set[str] = set()
    for name in names:
        if name in seen or leaves_root(name):
            code, problem = ("D106", "is listed twice") if name in seen else ("D107", "leaves the folder")
            records.reject(code, list_path or folders.annotations, f"{name!r} {problem}")
            continue
        seen.add(name)
        path = _file_of(name, folders.annotations)
        annotation = files.get(path) or Annotation(path)
        has_outlines = annotation.tree.find("object/polygon") is not None
        masks = object_masks(records, path) if target == "instances" and not has_outlines else {}
        add_image(records, annotation, images.find(name, annotation.file_name), masks)
    for path, annotation in files.items():
        # Who reads its classes from all files must be able to read them all.
        if annotation.problem is not None and path not in records.sources:
            records.reject("D100", path, annotation.problem)
    if not records.num_faults:
        keep_labels(kept_at, class_names, records.packed, records.states_size, records.home)
    return records


def _xml_files(folders: Folders) -> list[Path]:
    """The XML files, sorted; also in folders below, unless images lie between them."""
    if folders.annotations != folders.images:
        return files_in(folders.annotations, _XML_SUFFIXES)
    found = folders.images.iterdir() if folders.images.is_dir() else ()
    return sorted(path for path in found if path.suffix.lower() in _XML_SUFFIXES and not is_hidden(path.name))


def _name_of(path: Path, folder: Path) -> str:
    """What a list would call a file in ``folder``."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _file_of(name: str, annotations: Path) -> Path:
    """The XML file that a list calls ``name``, the one that is expected where there is none."""
    places = (annotations / as_there(annotations, f"{name}{suffix}") for suffix in (".xml", ".XML"))
    return next(filter(exists, places), annotations / f"{name}.xml")


def _without_suffix(line: str, annotations: Path) -> str:
    """The name in a line of a list, some of which give the file of the image."""
    is_file = Path(line).suffix.lower() in IMAGE_SUFFIXES and not (annotations / f"{line}.xml").is_file()
    return str(Path(line).with_suffix("")) if is_file else line


class _Images:
    """The files of the folder of images, listed once instead of asked for one by one."""

    def __init__(self, folders: Folders) -> None:
        folder = self.folder = folders.images
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; the images of a VOC data set lie there")
        self._names = {path.name for path in folder.iterdir() if not is_hidden(path.name)}
        self._by_stem: dict[str, str] = {}
        self._by_spelling: dict[str, list[str]] = defaultdict(list)
        places = (folder / name for name in sorted(self._names))
        images = files_in(folder, IMAGE_SUFFIXES) if folders.annotations != folder else places
        for path in images:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                stem = _name_of(path, folder)
                self._by_stem.setdefault(stem, path.relative_to(folder).as_posix())
                self._by_spelling[fold_spelling(stem)].append(self._by_stem[stem])

    def paths(self) -> list[Path]:
        """All of them, and what else is not hidden, sorted."""
        return [self.folder / name for name in sorted(self._names)]

    def find(self, stem: str, file_name: str) -> str:
        """The name of the image; the one that would be expected where there is none, for ``load`` to complain about."""
        if stem in self._by_stem:
            return self._by_stem[stem]
        if file_name in self._names:
            return file_name
        alike = self._by_spelling.get(fold_spelling(stem), ())
        return alike[0] if len(alike) == 1 else f"{stem}.jpg"


def _lists_images(path: Path) -> bool:
    return not any(_CLASS_LIST_LINE.match(line) for line in read_lines(path)[:1])


def object_masks(records: BoxRecords, annotation: Path) -> dict[int, RunLengths]:
    """The masks of the objects of an XML file by their numbers; where they cannot be read, that is rejected."""
    path = masks_file(records.home, annotation)
    try:
        numbers = read_index_mask(path, annotation)
    except (DatasetError, ImageError) as error:
        records.reject("D302", path, str(error).removeprefix(f"{path}: "))
        return {}
    found = np.flatnonzero(np.bincount(numbers.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]).tolist()
    return {number: RunLengths.from_mask(numbers == number) for number in found if number}
