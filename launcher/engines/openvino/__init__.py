import sys

# Importing openvino reports the import to its makers, over the network and from a process of its own. It does without where
# this package cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
