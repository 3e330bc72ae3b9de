"""What other programs call things, and what they are called here: for those who type what they are used to.

Only for messages: a word of others is never read as one of ours.
"""

from __future__ import annotations

_SIZE = "task.input.height and task.input.width, or --size N (square) or --size HxW"
_RATE = "train.optimizer.learning_rate"
_FOLDER = "-o DIR (a run's folder; without it runs/NAME, numbered)"
_MODEL = "MODEL, the first word: detseg train MODEL --data DATA"
_PREDICT = "an option of `detseg predict`"

HABITS: dict[str, str] = {
    # Sizes and batches
    "imgsz": _SIZE,
    "img_size": _SIZE,
    "image_size": _SIZE,
    "input_size": _SIZE,
    "img_scale": _SIZE,
    "crop_size": "task.crop (height, width) with augment.crop=true; of volumes task.patch",
    "patch_size": "task.patch (depth, height, width)",
    "roi_size": "task.patch in training; --window DxHxW in eval and predict",
    "batch": "train.batch_size, or --batch N",
    "batch_per_gpu": "train.batch_size, which counts all processes together",
    "samples_per_gpu": "train.batch_size, which counts all processes together",
    "nbs": "train.accumulate, which makes one step of several batches",
    "accumulate_grad_batches": "train.accumulate",
    # How long
    "max_epochs": "train.epochs, or --epochs N",
    "num_epochs": "train.epochs, or --epochs N",
    "n_epochs": "train.epochs, or --epochs N",
    "max_iters": "train.epochs, or --epochs N; here runs are counted in epochs",
    "max_iterations": "train.epochs, or --epochs N; here runs are counted in epochs",
    "val_interval": "train.evaluate_epochs",
    "check_val_every_n_epoch": "train.evaluate_epochs",
    "save_period": "train.save_steps (a state to resume from); best and last model are always kept",
    "early_stopping": "train.patience",
    "early_stopping_patience": "train.patience",
    "close_mosaic": "augment.close_mosaic_epochs",
    # Optimizer and schedule
    "lr": _RATE,
    "lr0": _RATE,
    "base_lr": _RATE,
    "initial_lr": _RATE,
    "learning_rate": _RATE,
    "lrf": "train.schedule.final_factor",
    "cos_lr": "train.schedule.kind=cosine",
    "lr_scheduler": "train.schedule.kind (cosine, linear, poly, constant)",
    "warmup_epochs": "train.schedule.warmup_epochs",
    "warmup_bias_lr": "train.schedule.warmup_factor; all parameters warm up alike",
    "warmup_momentum": "nothing: momentum is constant (train.optimizer.momentum)",
    "momentum": "train.optimizer.momentum",
    "weight_decay": "train.optimizer.weight_decay",
    "optim": "train.optimizer.name (sgd, adam, adamw, rmsprop)",
    "amp_dtype": "train.amp (none, bf16, fp16)",
    "gradient_clip_val": "train.clip_norm",
    "grad_clip": "train.clip_norm",
    "ema_decay": "train.ema.decay",
    # What a run starts from, and where it goes
    "model": _MODEL,
    "cfg": _MODEL,
    "config": _MODEL,
    "weights": f"{_MODEL}; or train.weights",
    "load_from": f"{_MODEL}; or train.weights",
    "checkpoint": f"{_MODEL}; or train.weights",
    "pretrained": f"{_MODEL}; or train.weights; of a backbone model.backbone.pretrained",
    "resume_from": "--resume RUN",
    "project": _FOLDER,
    "name": _FOLDER,
    "work_dir": _FOLDER,
    "exist_ok": "--resume RUN to go on with a run; a new one needs a folder of its own",
    "output_dir": _FOLDER,
    "save_dir": _FOLDER,
    # Machine
    "gpus": "--device, and torchrun for several",
    "gpu_ids": "--device, and torchrun for several",
    "accelerator": "--device",
    "devices": "--device, and torchrun for several",
    "num_workers": "data.num_workers, or --workers N",
    "workers": "data.num_workers, or --workers N",
    "workers_per_gpu": "data.num_workers, or --workers N",
    "num_threads": "train.num_threads; in predict --threads",
    "deterministic": "nothing: runs are a function of train.seed",
    "half": "train.amp=fp16 or bf16; in predict and export --precision fp16",
    "fp16": "train.amp=fp16; in predict and export --precision fp16",
    "precision": "train.amp (none, bf16, fp16)",
    "cache": "data.cache (none, ram, disk)",
    "cache_rate": "data.cache (none, ram, disk)",
    # Data
    "data_root": "--data",
    "dataset": "--data",
    "dataset_type": "data.format, which is needed only where the layout is ambiguous",
    "nc": "nothing: the data set says how many classes there are",
    "num_classes": "nothing: the data set says how many classes there are",
    "single_cls": "nothing: name one class in the data set",
    "ignore_index": "ignore_index, in the data set's YAML",
    "fraction": "a data set of fewer images; `detseg split` makes one",
    "rect": "nothing: in predict boxes on a CPU take no more padding than they need",
    # Augmentation
    "fliplr": "augment.flip_horizontal",
    "flipud": "augment.flip_vertical",
    "hsv_h": "augment.hsv_hue",
    "hsv_s": "augment.hsv_saturation",
    "hsv_v": "augment.hsv_value",
    "copy_paste": "nothing yet: there is no copy-paste",
    "erasing": "augment.albumentations: [{name: CoarseDropout}]",
    "auto_augment": "augment.albumentations, a list of transforms",
    "random_flip": "augment.flip_horizontal",
    "photometric_distortion": "augment.hsv_hue, augment.hsv_saturation and augment.hsv_value",
    # Prediction, evaluation, export
    "source": f"SOURCE, the words after the model: {_PREDICT}",
    "conf": f"--conf: {_PREDICT}; in a configuration task.postprocess.confidence",
    "conf_thres": f"--conf: {_PREDICT}; in a configuration task.postprocess.confidence",
    "score_thr": f"--conf: {_PREDICT}; in a configuration task.postprocess.confidence",
    "iou_thres": f"--iou: {_PREDICT}; in a configuration task.postprocess.iou",
    "nms_thr": f"--iou: {_PREDICT}; in a configuration task.postprocess.iou",
    "max_det": f"--max-det: {_PREDICT}; in a configuration task.postprocess.max_detections",
    "agnostic_nms": "task.postprocess.class_agnostic",
    "vid_stride": f"--every N: {_PREDICT}",
    "stream_buffer": f"nothing: frames are read as they are needed ({_PREDICT})",
    "save_txt": f"--save yolo: {_PREDICT}",
    "save_json": "--save coco in predict, -o DIR in eval",
    "save_conf": f"--save csv, which has the scores: {_PREDICT}",
    "save_crop": f"nothing yet: --save csv has the boxes ({_PREDICT})",
    "show": f"--save drawn: {_PREDICT}",
    "view_img": f"--save drawn: {_PREDICT}",
    "line_thickness": f"--line-width: {_PREDICT}",
    "augment": "--flip and --scales (several views of each image)",
    "tta": "--flip and --scales (several views of each image)",
    "format": "--format in export; in train data.format",
    "dynamic": "nothing: exports are dynamic, --fixed makes one size",
    "int8": "--precision int8 --calibrate DATA, in export",
    "simplify": "nothing: exported graphs are simple",
    "opset_version": "--opset, in export",
    "overlap_ratio": "--overlap, in eval and predict",
    "sw_batch_size": "task.postprocess.batch_size",
    "plots": "-o DIR in eval",
    "verbose": "--traceback shows where an error came from",
}
"""A word of others, with ``_`` for ``-``: what to say here instead."""


def advice(word: str) -> str:
    """What ``word``, an option or the last part of a key, is called here; empty where nobody calls it so."""
    told = HABITS.get(word.lstrip("-").replace("-", "_").lower())
    return "" if told is None else f"; in detseg this is {told}"
