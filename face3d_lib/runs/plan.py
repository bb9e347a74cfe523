"""The plan of the experiment: the list of all notebooks, what each reads, and the parameters of the demo.

The runner, sweeps, the command line and the Makefile follow it. `python -m face3d_lib.runs.plan order` prints the
notebooks in an order in which each comes after those that it reads; `... waves` prints them in lines, where the
notebooks of one line do not read each other and may run side by side.
"""

import sys
from dataclasses import dataclass, field

from .folders import outward


@dataclass(frozen=True)
class Stage:
    """The place of one notebook in the experiment.

    reads: the notebooks whose stages it may read. nested: name of the run inside "default" or "demo" (empty: that run
    itself) -> the parameters that differ there from the notebook's own. demo: parameters on top in the demo and in
    runs made like it; None for a notebook that is no part of the demo.
    """

    notebook: str
    reads: tuple[str, ...] = ()
    nested: dict[str, dict] = field(default_factory=lambda: {"": {}})
    demo: dict | None = None


@dataclass(frozen=True)
class Job:
    """One run of one notebook: a name in notebooks/ or a path, the run, and the parameters that are set."""

    notebook: str
    run: str
    parameters: dict


MODALITIES = {modality: {"modality": modality} for modality in ("rgb", "depth", "rgbd")}
DIVIDED_AND_PACKED = ("20_split_subjects", "21_pack_dataset")

DATA = [  # what all trainings of a run share
    Stage("00_look_at_pairs", demo={"subjects": 120, "images_per_session": 8}),
    Stage("10_align_faces", ("00_look_at_pairs",), demo={}),
    Stage("20_split_subjects", ("00_look_at_pairs", "10_align_faces"), demo={}),
    Stage("21_pack_dataset", ("10_align_faces",), demo={}),
]
TRAINING = [
    Stage("30_train_softmax", DIVIDED_AND_PACKED, MODALITIES, demo={"epochs": 20, "input_size": 80}),
    Stage("31_train_arcface", DIVIDED_AND_PACKED, {"arcface": {}}),
    Stage("32_train_triplet", DIVIDED_AND_PACKED, {"triplet": {}}),
    Stage("33_train_multi_similarity", DIVIDED_AND_PACKED, {"multi_similarity": {}}),
    Stage("34_train_adaface", DIVIDED_AND_PACKED, {"adaface": {}}),
    Stage("38_train_legacy", DIVIDED_AND_PACKED, {"legacy": {}}),
    Stage("45_transfer_depth"),
]
TRAINED = tuple(stage.notebook for stage in TRAINING)
PLAN = [
    *DATA,
    Stage("22_encode_depth", ("21_pack_dataset",), demo={}),
    Stage("29_try_pretrained", ("00_look_at_pairs", "10_align_faces"), demo={"pictures_each": 4}),
    *TRAINING,
    Stage("35_break_training", DIVIDED_AND_PACKED),
    Stage("36_finetune_networks", ("00_look_at_pairs", "21_pack_dataset")),
    Stage("37_start_from_weights"),
    Stage("39_compare_losses", ("20_split_subjects", *TRAINED)),
    Stage("40_evaluate_verification", (*DIVIDED_AND_PACKED, *TRAINED), demo={}),
    Stage("41_evaluate_identification", ("20_split_subjects", "40_evaluate_verification"), demo={}),
    Stage("42_view_embeddings", (*DIVIDED_AND_PACKED, "40_evaluate_verification"), demo={}),
    Stage("43_compare_modalities", (*DIVIDED_AND_PACKED, *TRAINED), demo={}),
    Stage("44_stress_systems", ("00_look_at_pairs", *DIVIDED_AND_PACKED, *TRAINED)),
    Stage("46_compare_protocols", ("00_look_at_pairs", *DIVIDED_AND_PACKED, *TRAINED), demo={}),
    Stage("47_find_failures", ("00_look_at_pairs", *DIVIDED_AND_PACKED, "40_evaluate_verification"), demo={}),
    Stage("48_calibrate_scores", ("10_align_faces", "20_split_subjects", "40_evaluate_verification"), demo={}),
    Stage("49_explore_scores", (*DIVIDED_AND_PACKED, "40_evaluate_verification")),
    Stage("50_predict_identity", ("00_look_at_pairs", *DIVIDED_AND_PACKED, *TRAINED), demo={}),
    Stage("51_export_model", ("00_look_at_pairs", "10_align_faces", *DIVIDED_AND_PACKED, *TRAINED)),
]


def stage_of(notebook: str) -> Stage:
    """The stage of a notebook; one that the plan does not know reads nothing and has no parameters of its own."""
    return next((stage for stage in PLAN if stage.notebook == notebook), Stage(notebook, nested={}))


def demo_jobs(run: str) -> list[Job]:
    """The demo in order, into `run` and the runs nested in it."""
    return [
        Job(stage.notebook, f"{run}/{nested}".rstrip("/"), parameters | stage.demo)
        for stage in PLAN
        if stage.demo is not None
        for nested, parameters in stage.nested.items()
    ]


def demo_waves(run: str) -> list[list[Job]]:
    """The jobs of the demo in groups that run one after the other; those of a group do not read each other.

    Within a group the last of the plan comes first, because the network with two branches trains longest.
    """
    groups: list[list[Job]] = []
    for job in demo_jobs(run):
        reads = stage_of(job.notebook).reads
        if groups and not any(other.notebook in reads for other in groups[-1]):
            groups[-1].insert(0, job)
        else:
            groups.append([job])
    return groups


def planned(run: str, name: str) -> Job:
    """The job that makes the stage `name` ("21_pack_dataset", "rgb/30_train_softmax") for `run`.

    Below "default" a notebook has its own parameters, below any other run those of the demo. A stage that the plan
    does not know has its notebook's own parameters, in `run` itself.
    """
    inner, _, notebook = name.rpartition("/")
    places = [f"{outer}/{inner}".rstrip("/") for outer in outward(run)]
    for place in places:
        root, _, nested = place.partition("/")
        if nested in (stage := stage_of(notebook)).nested:
            more = {} if root == "default" else stage.demo or {}
            return Job(notebook, place, stage.nested[nested] | more)
    return Job(notebook, places[0], {})


def waves() -> list[list[str]]:
    """All notebooks in groups that run one after the other; each notebook is in the last group that its readers allow.

    A training that reads nothing therefore runs beside the other trainings. Within a group the last of the plan comes
    first, because the later trainings take longer than the first.
    """
    height: dict[str, int] = {}
    for stage in reversed(PLAN):
        readers = [reader.notebook for reader in PLAN if stage.notebook in reader.reads]
        height[stage.notebook] = 1 + max((height[reader] for reader in readers), default=-1)
    levels = sorted(set(height.values()), reverse=True)
    return [[name for name in height if height[name] == level] for level in levels]


if __name__ == "__main__":
    lines = waves() if sys.argv[1:] == ["waves"] else [[stage.notebook] for stage in PLAN]
    print("\n".join(" ".join(f"notebooks/{name}.ipynb" for name in line) for line in lines))
