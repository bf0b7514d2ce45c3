"""Captions in the style of published ones, written for the tests and labelled by hand; none is copied from anywhere.

``other`` stands for everything that is none of the five modalities, drawings and charts included.  The same hand wrote
the rules, so what they reach here (see the test) is a bound from above; how they do on real captions is another matter.
"""

CHEST_XRAY = """
Chest X-ray on admission showing bilateral infiltrates.
Posteroanterior chest radiograph of a 54-year-old man demonstrating a left pleural effusion.
Chest radiography revealed cardiomegaly.
Portable chest radiograph after intubation. The tip of the tube is marked (arrow).
CXR of patient 3, with a cavity in the right upper lobe.
Plain radiograph of the chest showing hyperinflated lungs.
Chest X‐ray (posteroanterior view) showing a widened mediastinum.
A chest x ray showing a right-sided pneumothorax.
Anteroposterior X-ray of the chest: opacities in both lower zones.
Chest roentgenogram obtained 2 days after surgery.
Initial chest anteroposterior radiograph shows no abnormality.
Chest PA radiograph. A round mass is seen behind the heart.
Fig. 2. Serial chest X-rays of the patient from day 1 to day 9.
Thoracic radiograph of the dog, lateral view. Note the enlarged heart.
X-ray image of the chest with a foreign body in the left main bronchus.
(A) Chest X-ray showing a nodule. (B) Enlarged view of the same nodule.
Lung X-ray of a neonate with respiratory distress.
Examples from the set of chest radiographs with labels of the radiologists.
Supine chest film with subcutaneous emphysema.
Frontal view showing consolidation of the right middle lobe.
"""

CT = """
Axial CT of the abdomen showing a mass in the head of the pancreas.
Contrast-enhanced computed tomography of the chest: filling defect in the right pulmonary artery.
CT scan of the brain without contrast showing a subdural haematoma.
Non-contrast CT head on day 3.
Chest CT on admission. Ground-glass opacities in both lungs.
High-resolution computed tomography (HRCT) of the lungs with honeycombing.
HRCT showing bronchiectasis.
Abdominal CT revealed free air (arrow).
Computerised tomography of the paranasal sinuses, coronal plane.
CBCT image of the mandible, sagittal slice.
Cone-beam computed tomography of tooth 36.
MDCT of the aorta with a type B dissection.
CT angiography showing occlusion of the left middle cerebral artery.
Three-dimensional CT reconstruction of the pelvis.
CT-guided biopsy of the lesion; the needle is in place.
Coronal reformatted CT image demonstrating an incarcerated hernia.
Preoperative CT. (a) Arterial phase. (b) Portal venous phase.
Follow‐up CT images after 6 months show regression of the nodes.
Enhanced abdominal computed tomographic scan. A cyst of 4 cm is seen.
Low-dose CT of a 60-year-old smoker with an 8 mm nodule.
CTs of the thorax before and after treatment.
(A) Axial and (B) sagittal CT of the cervical spine with a fracture of C2.
Axial image at the level of L3 used to measure the psoas muscle.
Bone window showing lytic lesions of the skull.
"""

MRI = """
Sagittal T2-weighted MRI of the lumbar spine showing disc herniation at L4/5.
T1‐weighted image with gadolinium shows an enhancing mass.
Axial FLAIR image with periventricular hyperintensities.
Brain MRI of the patient. A lesion of the left thalamus is seen.
Magnetic resonance imaging of the knee: tear of the medial meniscus.
Diffusion-weighted image showing restricted diffusion in the pons.
DWI and ADC map of the infarct.
MRCP showing dilated bile ducts.
MR angiography of the circle of Willis.
Coronal MR image of the hip with avascular necrosis.
T2* weighted sequence with microbleeds.
Cardiac MRI, four-chamber view. Late enhancement of the septum.
T1W images before (a) and after (b) contrast.
Preoperative magnetic resonance imaging (MRI) scans in the three planes.
Group activation in fMRI, overlaid on the template.
Contrast-enhanced T1-weighted MRI showing leptomeningeal enhancement.
Magnetic resonance cholangiopancreatography showing a stone.
MRI of the pituitary gland. The arrow marks the adenoma.
Gadolinium-enhanced scan of the spinal cord.
Sagittal STIR sequence of the ankle with bone marrow oedema.
Fetal MRI at 28 weeks with ventriculomegaly.
MR venography showing thrombosis of the transverse sinus.
"""

HISTOLOGY = """
Histological section of the tumour, hematoxylin and eosin, original magnification ×200.
H&E staining of the liver of control and treated mice. Scale bar, 100 μm.
Photomicrograph showing spindle cells in fascicles (H and E, ×400).
Histopathology of the skin biopsy with perivascular infiltrate.
Haematoxylin–eosin stain showing granulomas with central necrosis.
Immunohistochemical staining for Ki-67 in the tumour.
Immunohistochemistry: the cells are positive for CD20.
Masson's trichrome staining of the left ventricle.
Sirius red staining of sections of the kidney.
Congo red stain with apple-green birefringence under polarised light.
Microscopic appearance of the resected node: sheets of atypical lymphocytes.
Representative photomicrographs of hippocampal sections.
Histologic findings. (A) Low power. (B) High power.
Renal biopsy showing crescents in half of the glomeruli.
Periodic acid–Schiff stain of the colon showing loss of goblet cells.
PAS staining of kidney sections.
HE staining of the lung, 200x.
IHC for p53 in high-grade serous carcinoma.
Microscopic examination of the specimen revealed a capsule of fibrous tissue.
Oil red O staining of aortic sections.
Giemsa stain of the gastric mucosa with curved bacteria.
Safranin O staining of cartilage 8 weeks after surgery.
Histology of the surgical specimen: clear margins.
Paraffin sections of the testis at day 14.
The tumour consists of nests of clear cells with prominent nucleoli (×400).
Low-power view of the lesion with pushing borders.
"""

GROSS = """
Gross specimen of the spleen with multiple infarcts.
Macroscopic view of the resected colon with a polypoid mass.
Cut surface of the tumour, grey and lobulated.
Gross pathology: the kidney is replaced by cysts.
Macroscopic appearance of the liver at necropsy.
Resected specimen showing a tumour of 5 cm.
Gross photograph of the heart with a ruptured ventricle.
Surgical specimen after en bloc resection.
The cut surface of the uterus shows a well-demarcated nodule.
Macroscopic image of the excised lipoma.
Photograph of the excised mass. Scale in cm.
Gross examination of the lungs of infected hamsters.
Excised specimen, 12 × 8 × 6 cm, with an intact capsule.
Macroscopic findings of the stomach of rats after indomethacin.
Gross morphology of the brain in control and mutant mice.
The spleens of mice of both groups at day 21.
Bisected testis with a fleshy white tumour.
"""

OTHER = """
qPCR: mean CT values of the three genes.
Relative expression was computed by the ΔΔCT method.
Delta CT of miR-21 in plasma.
The threshold cycle (CT) is plotted against the log of the copy number.
Flowchart of the patients who underwent MRI-guided biopsy.
Kaplan–Meier curves of patients with positive CT findings.
MRI-guided focused ultrasound: flowchart of the study.
ROC curves of the CT radiomics model in both cohorts.
Correlation between CT density and age.
Workflow of the deep learning model for chest X-rays.
Network architecture of the proposed model for segmentation of CT images.
X-ray diffraction pattern of the nanoparticles.
X-ray crystal structure of the complex at 2.1 Å.
X-ray photoelectron spectra of the coating.
Western blot of HeLa cells treated with the drug; GAPDH as a loading control.
HE cells were lysed and blotted for actin.
Micro-CT of a mouse femur.
μCT reconstruction of the trabecular bone.
SPECT/CT image of the thyroid.
PET/CT with uptake in the mediastinal nodes.
18F-FDG PET-CT at baseline.
Optical coherence tomography of the macula. OCT B-scan.
OCT images of the fovea.
Radiograph of the left knee with joint space narrowing.
Panoramic radiograph of the patient.
Ultrasound of the thyroid with a hypoechoic nodule.
Echocardiogram, apical four-chamber view.
Coronary angiography showing stenosis of the left anterior descending artery.
Endoscopic view of the oesophagus with varices.
Immunofluorescence of the kidney with granular IgG.
Confocal images of neurons stained for MAP2 (green) and DAPI (blue).
Transmission electron micrograph of podocyte foot processes.
SEM image of the scaffold surface.
Clinical photograph of the rash on the trunk.
Intraoperative photograph showing the exposed nerve.
Binding of the complex to CT-DNA followed by absorption.
CT26 tumour growth in BALB/c mice.
CT-26 cells were injected on day 0.
Tumour volume of the CT group and the treated group.
Forest plot of the studies on gross total resection.
Bar graph of histological scores; mean ± SD, n = 6.
Nuclear magnetic resonance spectrum of compound 4 in CDCl3.
Phylogenetic tree of the isolates, by the maximum likelihood method.
Schematic of the MRI protocol.
Study design. Mice had MRI on days 0 and 14, then histology.
Heat map of genes that differ between the histological subtypes.
Distribution of the ages of the participants.
Map of the study area with the sampling sites.
Gross domestic product and health expenditure by country.
Distance between cutting surface and gap in the printed part.
Survival by X-ray dose in both cell lines.
The protein was extracted from surgical specimens and blotted.
Number of citations per year.
Fundus photograph with cotton wool spots.
Doppler of the portal vein.
Mammogram, craniocaudal view, with a spiculated mass.
Nomogram for the prediction of malignancy from CT features.
Confusion matrix of the classifier on the chest radiograph test set.
Flow cytometry of splenocytes, gated on CD3.
Dose-response curves of the inhibitors.
Spine.
Patient 2 before treatment.
Electrocardiogram on admission with ST elevation.
Structure of the CT domain of the receptor.
Wild type, CT: control, and KO animals in the maze.
Immunocytochemistry of the cell line with vimentin.
PRISMA flow diagram of the selection of MRI studies.
Bone scintigraphy with uptake in the ribs.
Fluorescence microscopy of bacteria stained with SYTO 9.
Receiver operating characteristic of the histopathology model.
Histological grade and survival of the patients.
Calibration curve for histopathological upgrading.
"""

LABELLED = [
    (caption, name)
    for name, captions in {
        "chest_xray": CHEST_XRAY,
        "ct": CT,
        "mri": MRI,
        "histology": HISTOLOGY,
        "gross": GROSS,
        "other": OTHER,
    }.items()
    for caption in captions.strip().splitlines()
]
FIVE = ("chest_xray", "ct", "mri", "histology", "gross")
