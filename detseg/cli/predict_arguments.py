"""The arguments of ``detseg predict``."""

from __future__ import annotations

import argparse
from pathlib import Path

from detseg.cli.common_arguments import (
    add_foreign,
    add_overwrite,
    add_postprocess,
    count,
    path,
    positive,
    seconds,
)
from detseg.cli.deployment import add_runtime, add_shares


def add_predict(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("model", type=path, help="a .safetensors or .onnx file, or the name of released weights")
    predict.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="images, videos or volumes (.nii.gz, .mha, .nrrd, a folder with a DICOM series, ...), folders, globs, "
        "image sequences (frame_%%04d.png), the number of a camera, an address (see --allow-url), or - for a list of "
        "these on standard input",
    )
    predict.add_argument(
        "-o",
        "--output",
        type=path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder for the results; if it holds those of another run, DIR-2, DIR-3, ... (default predictions)",
    )
    add_overwrite(predict)
    predict.add_argument(
        "--save",
        help="what to write, separated by commas. Boxes: drawn (images or videos, as the source), image, "
        "video, coco, csv, parquet, jsonl, yolo, crops (default drawn,coco). Instances: the same, and index. Masks: "
        "drawn, image, video, mask, color, ids, jsonl (default drawn,mask). Volumes: nifti, table, slices, montage "
        "(default these four), source (labels as .mha or .nrrd where the volume is), dicom-seg (of DICOM "
        "series), probabilities",
    )
    predict.add_argument(
        "--batch",
        "--batch-size",
        dest="batch_size",
        type=count,
        metavar="N",
        help="images at a time, of cameras one (default 1 on a CPU, 16 on a GPU)",
    )
    add_runtime(predict)
    predict.add_argument("--threads", type=int, metavar="N", help="CPU cores for the network (default all)")
    predict.add_argument(
        "--full-input",
        action="store_true",
        default=None,
        help="pad images to the whole input size, as eval does; without it boxes on a CPU take no more padding than "
        "the network's stride asks for, which is faster",
    )
    predict.add_argument("--classes", metavar="NAME,NAME,...", help="look for these classes only")
    predict.add_argument("--line-width", type=positive, metavar="PIXELS", help="of drawn boxes (default by image size)")
    predict.add_argument(
        "--colors",
        type=path,
        metavar="FILE.yaml",
        help="colors of classes: a list in their order, or NAME: [R, G, B]; also the YAML of a data "
        "set that has `colors:` (default: those in the model file, else "
        "those of Cityscapes, CamVid, VOC or COCO where they know all classes)",
    )
    predict.add_argument(
        "--legend",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="name all classes below drawn images and videos (default: for masks)",
    )
    predict.add_argument("--crops", action="store_true", help="save every object as an image of its own, too (boxes)")
    predict.add_argument(
        "--show",
        action="store_true",
        help="show results in a window as they come; images wait for a key, q or Escape ends the run",
    )
    add_shares(predict)
    videos = predict.add_argument_group("videos")
    videos.add_argument("--every", type=int, default=1, metavar="N", help="take each N-th frame only")
    videos.add_argument("--start", type=seconds, default=0.0, metavar="TIME", help="in seconds, or as 1:30 or 1:02:30")
    videos.add_argument("--end", type=seconds, metavar="TIME")
    videos.add_argument(
        "--track",
        action="store_true",
        help="number objects through the frames (boxes); what cannot be followed stays, without a number",
    )
    videos.add_argument(
        "--camera-motion",
        action="store_true",
        help="with --track: take the motion of the camera out, where it pans or shakes",
    )
    videos.add_argument(
        "--count",
        action="append",
        metavar="PLACE",
        help="count tracked objects that cross line:X,Y,X,Y or are in zone:X,Y,X,Y,X,Y,..., in pixels or in percent "
        "(line:door=0%%,50%%,100%%,50%% has a name); on the images and in counts.csv; may be given several times",
    )
    videos.add_argument("--fps", type=float, default=25.0, help="rate of a video of still images (default 25)")
    videos.add_argument("--allow-url", action="store_true", help="open network addresses (http, https, rtsp, rtmp)")
    add_postprocess(predict)
    add_foreign(predict)
