import pytest

from medvlm_cli.sources.modality import modality, n_panels


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Chest X-ray showing a nodule.", "chest_xray"),
        ("Posteroanterior chest radiograph.", "chest_xray"),
        ("Plain radiograph of the chest.", "chest_xray"),
        ("CXR on admission.", "chest_xray"),
        ("Radiograph of the left knee.", "xray"),
        ("Axial CT of the abdomen.", "ct"),
        ("Contrast-enhanced (CT) scan", "unknown"),
        ("Computed tomography (CT) of the liver.", "ct"),
        ("\uff23\uff34 of the liver.", "ct"),  # full-width letters
        ("CBCT of the mandible.", "ct"),
        ("PET/CT with FDG uptake.", "pet"),
        ("T1\u2010weighted image of the brain.", "mri"),
        ("Sagittal MRI, FLAIR.", "mri"),
        ("Magnetic resonance imaging of the knee.", "mri"),
        ("Histological section, H&E, 40x.", "histology"),
        ("Hematoxylin and eosin stain.", "histology"),
        ("Photomicrograph of the tumour.", "histology"),
        ("Gross specimen of the spleen.", "gross"),
        ("Macroscopic view of the resected colon.", "gross"),
        ("Ultrasound of the thyroid.", "ultrasound"),
        ("CT angiography of the aorta.", "ct"),
        ("Schematic of the CT protocol.", "unknown"),
        ("ROC curves of the MRI model.", "unknown"),
        ("X-ray diffraction pattern.", "unknown"),
        ("qPCR: CT values of the genes.", "unknown"),
        ("Micro-CT of a mouse femur.", "unknown"),
        ("Spine.", "unknown"),
        ("The act of mri-like factories.", "unknown"),
    ],
)
def test_the_earliest_cue_of_a_caption_decides(caption, expected):
    assert modality(caption, []) == (expected, None if expected == "unknown" else "caption")


@pytest.mark.parametrize(
    ("mentions", "expected"),
    [
        (["A CT showed a mass (Fig 1)."], ("ct", "mentions")),
        (["CT (Fig 1A) and MRI (Fig 1B)."], ("unknown", None)),
        (["The CT was normal.", "MRI was not."], ("unknown", None)),
        (["It is shown."], ("unknown", None)),
    ],
)
def test_sentences_are_believed_only_where_the_caption_is_silent_and_they_agree(mentions, expected):
    assert modality("A mass.", mentions) == expected
    assert modality("Flowchart of the study.", mentions) == ("unknown", None)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A liver.", 1),
        ("(A) Liver. (B) Lung.", 2),
        ("(a\u2013c) Liver, (d) lung.", 4),
        ("(A, B) Liver and (C and D) lung.", 4),
        ("(A~C) Cells. (D) More.", 4),
        ("A, liver. B, lung. C: brain.", 3),
        ("a Fabrication. b Image of mats. c Another.", 3),
        ("Number of mice (n) and (E) coli (b).", 1),
        ("A 45-year-old woman. B cells were seen.", 1),
        ("", 1),
    ],
)
def test_panels_are_counted_from_a_on_without_a_gap(caption, expected):
    assert n_panels(caption) == expected
