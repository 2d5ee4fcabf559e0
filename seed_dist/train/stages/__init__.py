"""The three stages: what each trains, on what, with which loss. Everything else is the one loop's."""

EXPORT = "export"  # folder within a run directory: what the next stage and users load; there when the stage is finished
