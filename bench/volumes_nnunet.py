"""nnU-Net's part of ``bench/volumes.py``, in the environment where nnunetv2 is; it knows nothing of detseg.

    ENVIRONMENT/bin/python bench/volumes_nnunet.py CASES.json OUTPUT MINUTES

``CASES.json`` lists pairs of a scan and its labels under ``train`` and ``val``. Labels of held out cases are written
to ``OUTPUT/labels`` by the scans' own names.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

DATASET = "Dataset004_Hippocampus"
CASE = "nifti_case"
ITERATIONS = 20
"""Steps that nnU-Net calls an epoch; 250 in its own setting, of which none would end in a few minutes on a CPU."""


def main() -> None:
    cases, output, minutes = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), float(sys.argv[3])
    for name in ("raw", "preprocessed", "results"):
        (output / name).mkdir(parents=True)
        os.environ[f"nnUNet_{name}"] = str(output / name)
    # nnU-Net reads these variables as it is imported.
    import torch

    api: Any = importlib.import_module("nnunetv2.experiment_planning.plan_and_preprocess_api")
    predicting: Any = importlib.import_module("nnunetv2.inference.predict_from_raw_data")
    training: Any = importlib.import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    folder = output / "raw" / DATASET
    names = write_raw(folder, cases)
    api.extract_fingerprints([4], num_processes=2)
    api.plan_experiments([4])
    api.preprocess([4], configurations=("3d_fullres",), num_processes=(2,))
    prepared = output / "preprocessed" / DATASET
    split = [{part: [names[image] for image, _ in some] for part, some in cases.items()}]
    (prepared / "splits_final.json").write_text(json.dumps(split))
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    description = json.loads((prepared / "dataset.json").read_text())

    def make(epochs: int) -> Any:
        # It takes the key away.
        asked = {**plans, "continue_training": False}
        trainer: Any = training.nnUNetTrainer(asked, "3d_fullres", 0, description, device=torch.device("cpu"))
        trainer.num_epochs = epochs
        trainer.num_iterations_per_epoch = ITERATIONS
        trainer.num_val_iterations_per_epoch = 1
        trainer.save_every = 10**6
        return trainer

    begin = time.perf_counter()
    make(1).run_training()
    seconds = time.perf_counter() - begin
    epochs = max(1, round(minutes * 60 / seconds))
    print(f"{seconds:.1f} s an epoch of {ITERATIONS} steps, {epochs} epochs", flush=True)
    trainer = make(epochs)
    trainer.run_training()
    predictor = predicting.nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(Path(trainer.output_folder_base)), (0,), "checkpoint_final.pth")
    (output / "labels").mkdir()
    held_out = [image for image, _ in cases["val"]]
    inputs = [[str(folder / "imagesTr" / f"{names[image]}_0000.nii.gz")] for image in held_out]
    outputs = [str(output / "labels" / Path(image).name.removesuffix(".nii.gz")) for image in held_out]
    predictor.predict_from_files(inputs, outputs, num_processes_preprocessing=1, num_processes_segmentation_export=1)


def write_raw(folder: Path, cases: dict[str, list[list[str]]]) -> dict[str, str]:
    """The data set as nnU-Net wants it, and the names of cases by their scans."""
    names: dict[str, str] = {}
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number, (image, label) in enumerate(cases["train"] + cases["val"]):
        names[image] = f"{CASE}_{number:03d}"
        shutil.copy(image, folder / "imagesTr" / f"{names[image]}_0000.nii.gz")
        shutil.copy(label, folder / "labelsTr" / f"{names[image]}.nii.gz")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return names


if __name__ == "__main__":
    main()
