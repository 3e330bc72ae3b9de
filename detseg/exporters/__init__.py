"""Models as ONNX files that run without torch, each proved to give the results of the model it was made from."""

COMPARISONS: dict[str, str] = {
    "boxes": "detseg.exporters.compare_boxes:BoxComparison",
    "instances": "detseg.exporters.compare_instances:InstanceComparison",
    "masks": "detseg.exporters.compare_labels:LabelComparison",
    "volumes": "detseg.exporters.compare_labels:VolumeComparison",
}
"""How results of torch and of a file are compared, by their kind."""

EXPORTERS: dict[str, str] = {
    "onnx": "detseg.exporters.formats.onnx:OnnxFormat",
    "openvino": "detseg.exporters.formats.openvino:OpenVinoFormat",
    "ncnn": "detseg.exporters.formats.ncnn:NcnnFormat",
    "tensorrt": "detseg.exporters.formats.tensorrt:TensorRtFormat",
}
"""What kinds of files are made, each from the graph of the first."""
