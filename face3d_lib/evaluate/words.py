"""The labels that tables and pictures use for systems, designs and losses, which files name by short keys."""

LABELS = {  # key in the files of a run -> label for readers
    "rgb": "RGB",
    "depth": "depth: normals and relative depth",
    "depth normals_depth": "depth: normals and relative depth",
    "depth normals": "depth: normals",
    "depth depth_angles": "depth: relative depth and angles",
    "depth depth": "depth: relative depth",
    "depth nose_depth": "depth: distance behind the nose",
    "depth xyz": "depth: XYZ coordinates",
    "depth depth_mask": "depth: relative depth and a mask of missing readings",
    "depth minmax": "depth: scaled from minimum to maximum (legacy)",
    "rgbd": "RGB-D, parallel branches",
    "rgbd parallel": "RGB-D, parallel branches",
    "rgbd joined": "RGB-D, two branches joined by a layer",
    "rgbd joined dropout": "RGB-D, two branches joined by a layer, modality dropout 0.3",
    "rgbd attention": "RGB-D, attention over two branches",
    "rgbd gated": "RGB-D, gated sum of two branches",
    "rgbd depth_attention": "RGB-D, depth as attention on RGB",
    "rgbd early": "RGB-D, stacked channels, depth filters start as the mean of RGB's",
    "rgbd early zero": "RGB-D, stacked channels, depth filters start at 0",
    "rgbd early fresh": "RGB-D, stacked channels, depth filters start at random",
    "pretrained dlib": "RGB, pretrained (dlib)",
    "pretrained depth_synthetic": "depth, pretrained (synthetic heads)",
    "pretrained rgbd_synthetic": "RGB-D, pretrained (synthetic faces)",
    "pretrained fixed": "both pretrained, fixed weight",
    "pretrained trust": "both pretrained, fused by trust",
    "untrained rgb": "RGB, untrained",
    "untrained depth": "depth, untrained",
    "late fusion": "RGB and depth networks, scores fused",
    "rgb + depth": "RGB and depth networks, scores fused",
    "softmax": "softmax",
    "normalised": "normalised softmax",
    "centre": "softmax + centre",
    "arcface": "ArcFace",
    "sphereface": "SphereFace",
    "cosface": "CosFace",
    "subcentre": "sub-centre ArcFace",
    "triplet_semihard": "triplet, semi-hard",
    "triplet_batchhard": "triplet, batch-hard",
    "contrastive": "contrastive",
    "multi_similarity": "multi-similarity",
    "supcon": "SupCon",
    "circle": "circle",
    "proxy_anchor": "proxy-anchor",
    "adaface": "AdaFace",
    "magface": "MagFace",
}


def words(key: str) -> str:
    """The label of a system, design or loss; the key itself if it has no label."""
    return LABELS.get(key, key)


def design_of(parameters: dict) -> str:
    """The key of a network's design, from the parameters of its training notebook.

    The modality comes first, then the encoding (of depth alone) or the fusion (of RGB-D), then the first depth filters
    and modality dropout, if they differ from the defaults. A pretrained network is a design of its own.
    """
    if "pretrained" in parameters:
        return f"pretrained {parameters['pretrained']}"
    kind = {"rgb": [], "depth": [parameters["encoding"]], "rgbd": [parameters["fusion"]]}[parameters["modality"]]
    stem = parameters.get("depth_stem", "mean")
    extra = [stem] if stem != "mean" else []
    extra += ["dropout"] if parameters.get("modality_dropout") else []
    return " ".join([parameters["modality"], *kind, *extra])
