"""Scans that the tests write themselves, full of words about a patient that never was."""

import csv
import io
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medvlm_cli.core.config import FetchConfig
from medvlm_cli.sources import folder

CANARIES = ("CANARY", "JANE", "DOE", "4711", "19700102", "1.2.826.0.1.3680043.8.498.4711")
UID = "1.2.826.0.1.3680043.8.498.4711"


def dataset(pixels, syntax=ExplicitVRLittleEndian, **attributes):
    """A CT image, or what ``attributes`` make of it; ``pixels`` is (H, W), (N, H, W) or (H, W, 3)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID + ".1"
    scan = Dataset()
    scan.file_meta = meta
    scan.SOPClassUID, scan.SOPInstanceUID = CTImageStorage, UID + ".1"
    scan.PatientName, scan.PatientID, scan.PatientBirthDate = "DOE^JANE^CANARY", "CANARY-4711", "19700102"
    scan.StudyInstanceUID, scan.SeriesInstanceUID, scan.StudyDate = UID, UID + ".2", "19700102"
    scan.InstitutionName, scan.StudyDescription = "CANARY HOSPITAL", "JANE DOE FOLLOW-UP"
    scan.ImageComments, scan.ReferringPhysicianName = "CANARY comment", "CANARY^DR"
    scan.add_new(0x00091010, "LO", "CANARY private")
    scan.Modality = "CT"
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    scan.Rows, scan.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    scan.SamplesPerPixel = 3 if colour else 1
    scan.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        scan.PlanarConfiguration = 0
    if pixels.ndim == (4 if colour else 3):
        scan.NumberOfFrames = len(pixels)
    scan.BitsAllocated = scan.BitsStored = 8 * pixels.itemsize
    scan.HighBit = scan.BitsStored - 1
    scan.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(scan, name, value)
    scan.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    scan["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    return scan


def dicom(path, pixels, **attributes):
    """Write ``dataset(pixels, ...)`` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset(pixels, **attributes), enforce_file_format=True)
    return path


def nifti(path, voxels, affine=None, **header):
    """Write a NIfTI file, with a canary in every text of its header."""
    volume = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    volume.header["descrip"], volume.header["aux_file"] = b"DOE JANE CANARY", b"CANARY-4711"
    volume.header["db_name"], volume.header["intent_name"] = b"CANARY", b"CANARY JANE"
    for name, value in header.items():
        volume.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(volume, path)
    return path


def take(root, *lines, **settings):
    """Rows and rejects of a folder; a line is a row of the table by column, the caption is given where it is not."""
    root.mkdir(exist_ok=True)
    lines = [{"caption": "A picture."} | line for line in lines]
    with (root / "captions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)))
        table.writeheader()
        table.writerows(lines)
    config = FetchConfig(images=str(root), **settings)
    found = [folder.harvest(key, config) for key in folder.keys(config)]
    assert all(each.found == len(each.rows) + len(each.rejects) for each in found)
    return [row for each in found for row in each.rows], [reject for each in found for reject in each.rejects]


def one(root, image, **options):
    """The only row of a folder with one file; columns of the table in ``columns``."""
    columns = options.pop("columns", {})
    rows, rejects = take(root, {"image": str(image.relative_to(root))} | columns, **options)
    assert [(reject.reason, reject.message) for reject in rejects] == []
    (row,) = rows
    return row


def refused(root, image, **options):
    """(reason, message) of the only reject of a folder with one file."""
    columns = options.pop("columns", {})
    rows, (reject,) = take(root, {"image": str(image.relative_to(root))} | columns, **options)
    assert rows == []
    return reject.reason, reject.message


def seen(row):
    """The pixels of a row's image, as stored."""
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def has_canary(content):
    """The canaries that occur in bytes or text, in any case."""
    data = content if isinstance(content, bytes) else str(content).encode("utf-8", "replace")
    return [canary for canary in CANARIES if canary.lower().encode() in data.lower()]


def files(folder_):
    """Every file under a folder; asserts that there are some."""
    found = [path for path in sorted(Path(folder_).rglob("*")) if path.is_file()]
    assert found
    return found
