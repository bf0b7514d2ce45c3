"""Who writes conversations.  A teacher is a module with one function:

``instruct(figure: dict) -> dict | Reject``: a row of figures/1 (without its image) in, one row of conversations/1 of
kind ``instruct`` out, or why there is none.  ``template`` also has ``caption``, which writes the rows of kind
``caption`` and needs no teacher's judgement.
"""

TEACHERS = {"template": "medvlm_cli.teachers.template"}
