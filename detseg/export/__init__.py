"""Models as ONNX files that run without torch, each proved to give the results of the model it was made from.

What differs by task is one class; a new task adds a line to the table.
"""

EXPORTERS: dict[str, str] = {
    "detection": "detseg.export.detection:DetectionExporter",
    "semantic": "detseg.export.segmentation:SemanticExporter",
    "volume": "detseg.export.segmentation:VolumeExporter",
}
