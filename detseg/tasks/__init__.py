"""What differs by task: collate, loss, postprocess and evaluator. Nothing else in detseg asks which task it is."""

TASKS: dict[str, str] = {
    "detection": "detseg.tasks.detection:DetectionTaskConfig",
    "instance": "detseg.tasks.instance:InstanceTaskConfig",
    "semantic": "detseg.tasks.semantic:SemanticTaskConfig",
    "volume": "detseg.tasks.volume:VolumeTaskConfig",
}
