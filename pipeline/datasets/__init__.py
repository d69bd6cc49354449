"""The paper's benchmarks and one beside them: from their own layouts to training shards. A new one is a line here."""

from pipeline.datasets import coco, dexycb, fpha, freihand, ho3d
from pipeline.datasets.benchmark import Dataset

_MEAN_POSE = "its poses count from MANO's mean pose"

DATASETS: dict[str, Dataset] = {
    "ho3d-v2": Dataset("HO-3D version 2", ("train", "evaluation"), None, ho3d.find_v2),
    "ho3d-v3": Dataset("HO-3D version 3", ("train", "evaluation"), None, ho3d.find_v3),
    "fpha": Dataset(
        "FPHA", ("actions-train", "actions-test", "subjects-train", "subjects-test"), None, fpha.find
    ),
    "dexycb": Dataset(
        "DexYCB", dexycb.SPLITS, "its poses are coefficients of MANO's components", dexycb.find
    ),
    "freihand": Dataset("FreiHAND", ("training", "evaluation"), _MEAN_POSE, freihand.find),
    "coco": Dataset("HandOccNet's JSON", ("train", "evaluation", *dexycb.SPLITS), _MEAN_POSE, coco.find),
}
