"""medvlm: train, measure and talk to your own high-resolution biomedical vision-language model."""

import os

__version__ = "0.1.0"

if os.environ.get("MEDVLM_OFFLINE"):  # of ranks and workers too, which start without the command line
    from medvlm_cli.core import offline

    if offline.is_offline():
        offline.go_offline()
