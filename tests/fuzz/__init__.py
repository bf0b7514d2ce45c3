"""Readers of strangers' data, fed with what nobody would write: ``hypothesis`` always, ``atheris`` in the slow run."""
