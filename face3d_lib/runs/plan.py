"""The plan of the experiment: which notebooks run, in which order and with which parameters."""

from dataclasses import dataclass, field

from .folders import outward


@dataclass(frozen=True)
class Step:
    """One notebook run of the experiment; `nested` is the run below "default" or "demo", "" for that one."""

    notebook: str
    nested: str = ""
    parameters: dict = field(default_factory=dict)
    demo_parameters: dict = field(default_factory=dict)  # on top of `parameters` in every run but "default"


PLAN = [
    Step("00_look_at_pairs", demo_parameters={"subjects": 120, "images_per_session": 8}),
    Step("10_align_faces"),
    Step("20_split_subjects"),
    Step("21_pack_dataset"),
    Step("22_encode_depth"),
    *(
        Step("30_train_softmax", modality, {"modality": modality}, {"epochs": 20, "input_size": 80})
        for modality in ("rgb", "depth", "rgbd")
    ),
    Step("40_evaluate_verification"),
    Step("41_evaluate_identification"),
    Step("42_view_embeddings"),
    Step("43_compare_modalities"),
    Step("50_predict_identity"),
]


def planned(run: str, name: str) -> tuple[str, Step]:
    """The run and the step that make `name` for `run`: from PLAN, else the notebook with its own defaults."""
    inner, _, stage = name.rpartition("/")
    places = [f"{outer}/{inner}".rstrip("/") for outer in outward(run)]
    for place in places:
        for step in PLAN:
            if (step.notebook, step.nested) == (stage, place.partition("/")[2]):
                return place, step
    return places[0], Step(stage)
