"""The 18 kinds of identifiers of the HIPAA safe harbour rule (45 CFR 164.514), one of each kind, and where they hide.

None is anybody's: the numbers are of ranges set aside for examples, or made up.
"""

import io

import numpy as np
import pydicom
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.plugins.scan_cases import dataset

IDENTIFIERS = {
    "name": "ZEBEDEE",
    "address": "17 Quagmire Lane",
    "date": "19700102",
    "telephone": "+1-202-555-0143",
    "fax": "+1-202-555-0188",
    "e-mail": "zeb@mail.example",
    "social security": "987-65-4320",
    "record number": "MRN-443322",
    "health plan": "HPB-7788990",
    "account": "ACC-5544332",
    "licence": "DL-X1234567",
    "vehicle": "VIN1HGCM82633A",
    "device serial": "SN-90210-77",
    "web address": "https://zeb.example/me",
    "IP address": "203.0.113.77",
    "biometric": "FPRINT-A1B2C3",
    "face": "FACEPHOTO-0001",
    "unique code": "TRIAL-SUBJ-0042",
}
"""Kind -> value.  The face stands for a photograph: it is planted as one, too."""
FACE = np.random.default_rng(17).integers(0, 256, (24, 24), np.uint8)
"""A small picture beside the picture: thumbnails and icons are photographs of the patient."""
ALL = "; ".join(IDENTIFIERS.values())
PIXELS = (np.add.outer(np.arange(80), np.arange(72)) * 13).astype(np.int16) - 1000


def found_in(*contents):
    """The kinds that occur in bytes, or in the text of anything else, in UTF-8 or UTF-16."""
    data = [part if isinstance(part, bytes) else str(part).encode("utf-8", "replace") for part in contents]
    lower = [part.lower() for part in data]
    hits = []
    for kind, value in IDENTIFIERS.items():
        spellings = {value.lower().encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-16-be")}
        if any(spelling in part for spelling in spellings for part in lower):
            hits.append(kind)
    if any(FACE.tobytes() in part or thumbnail() in part for part in data):
        hits.append("photograph")
    return hits


def thumbnail():
    """``FACE`` as a JPEG."""
    out = io.BytesIO()
    Image.fromarray(FACE).save(out, "JPEG")
    return out.getvalue()


def scan(pixels=PIXELS, **attributes):
    """A DICOM dataset with every identifier in a standard tag where there is one, and all of them in private ones."""
    said = IDENTIFIERS
    made = dataset(pixels, **attributes)
    made.PatientName, made.PatientID, made.PatientBirthDate = f"{said['name']}^A", said["record number"], said["date"]
    made.PatientAddress, made.PatientTelephoneNumbers = said["address"], [said["telephone"], said["fax"]]
    made.StudyDate = made.SeriesDate = made.AcquisitionDate = said["date"]
    made.OtherPatientIDs, made.AccessionNumber = [said["social security"], said["health plan"]], said["account"]
    made.DeviceSerialNumber, made.StationName = said["device serial"], said["IP address"]
    made.ClinicalTrialSubjectID, made.PatientComments = said["unique code"], ALL
    made.ImageComments, made.StudyDescription = ALL, f"{said['name']} {said['licence']}"
    made.WindowCenterWidthExplanation = made.RescaleType = said["name"]
    made.RetrieveURL = said["web address"]
    icon = Dataset()
    icon.Rows, icon.Columns, icon.SamplesPerPixel, icon.PhotometricInterpretation = *FACE.shape, 1, "MONOCHROME2"
    icon.BitsAllocated = icon.BitsStored = 8
    icon.HighBit, icon.PixelRepresentation, icon.PixelData = 7, 0, FACE.tobytes()
    made.IconImageSequence = Sequence([icon])
    made.add_new(0x00110010, "LO", said["name"])
    made.add_new(0x00111001, "UT", ALL)
    made.add_new(0x00111002, "OB", ALL.encode() + b" " * (len(ALL) % 2) + FACE.tobytes())
    nested = Dataset()
    nested.add_new(0x00111003, "UT", ALL)
    made.RequestAttributesSequence = Sequence([nested])
    return made


def save_scan(path, **attributes):
    """Write ``scan``."""
    pydicom.dcmwrite(path, scan(**attributes), enforce_file_format=True)
    return path


def save_volume(path):
    """Write a NIfTI volume with identifiers in its texts and in an extension."""
    import nibabel

    volume = nibabel.Nifti1Image(np.repeat(PIXELS[..., None], 3, axis=2), np.eye(4))
    volume.header["descrip"], volume.header["aux_file"] = ALL[:79].encode(), IDENTIFIERS["name"].encode()
    volume.header["db_name"], volume.header["intent_name"] = b"MRN-443322", b"987-65-4320"
    volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", ALL.encode()))
    nibabel.save(volume, path)
    return path


def save_slide(path):
    """Write a slide whose description names the patient, and which shows its label beside."""
    import tifffile

    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    with tifffile.TiffWriter(path) as file:
        words = {"photometric": "rgb", "metadata": None, "software": ALL}
        file.write(pixels, tile=(64, 64), description=f"Aperio\r\n|{ALL}", **words)
        file.write(np.repeat(FACE[..., None], 3, axis=2), description=f"Aperio\r\nlabel {ALL}", **words)
    return path


def _exif(orientation):
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x0132], exif[0x0112] = (
        ALL,
        IDENTIFIERS["name"],
        "1970:01:02 00:00:00",
        orientation,
    )
    exif[0x9C9B] = ALL.encode("utf-16-le")  # XPTitle
    exif.get_ifd(0x8825)[29] = IDENTIFIERS["date"]  # GPSDateStamp
    exif.get_ifd(0x8769)[0x9286] = ALL.encode()  # UserComment
    return exif.tobytes()


XMP = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><dc:title>{ALL}</dc:title></x:xmpmeta>".encode()


def save_picture(path, orientation=1):
    """Write a picture with identifiers wherever its format has room for words, and behind its end."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8))
    exif = _exif(orientation)
    if path.suffix == ".png":
        info = PngInfo()
        info.add_text("Title", ALL)
        info.add_text("Comment", ALL, zip=True)
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_itxt("Author", ALL, zip=True)
        info.add(b"faCe", FACE.tobytes())
        image.save(path, pnginfo=info, exif=exif, icc_profile=ALL.encode())
    elif path.suffix == ".jpg":
        image.save(path, exif=exif, xmp=XMP, comment=ALL.encode(), icc_profile=ALL.encode())
        data = path.read_bytes()
        extra = b"\xff\xed" + (len(ALL) + 2).to_bytes(2) + ALL.encode()  # APP13, as Photoshop and scanners write it
        with_face = b"\xff\xe2" + (len(thumbnail()) + 2).to_bytes(2) + thumbnail()
        path.write_bytes(data[:2] + extra + with_face + data[2:])
    elif path.suffix == ".webp":
        image.save(path, exif=exif, xmp=XMP, icc_profile=ALL.encode(), lossless=True)
    elif path.suffix == ".gif":
        image.save(path, comment=ALL.encode()[:255] + b"")
    else:
        image.save(path, description=ALL, artist=IDENTIFIERS["name"], software=ALL, exif=exif)
    with path.open("ab") as file:
        file.write(ALL.encode() + thumbnail())
    return path
