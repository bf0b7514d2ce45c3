"""Every file that passes between the verbs passes here: ``Writer`` or ``write_all`` out, ``open_dataset`` in.

The folder, its files and the order in which they appear are described in ``writer`` and ``commit``; what is checked,
and when, in ``rows`` and ``reader``.  Nobody else calls ``pyarrow.ipc``.
"""

from medvlm_cli.core.reader import Dataset, open_dataset
from medvlm_cli.core.writer import Counts, Harvest, Reject, Writer, write_all

__all__ = ["Counts", "Dataset", "Harvest", "Reject", "Writer", "open_dataset", "write_all"]
