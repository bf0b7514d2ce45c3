"""Who writes conversations.

``template`` needs no model: ``instruct(figure: dict) -> dict | Reject`` makes a row of conversations/1 of a row of
figures/1, and ``caption`` the rows of kind ``caption``.  ``claude`` and ``llama`` are asked: a client whose
``ask(body)`` gives a ``replies.Reply`` or raises what ``replies`` and ``core.errors`` name, so that pace, money and the
ledger are the same for all (``work``, ``desk``, ``batches``).  ``replay:PATH`` takes recorded answers in their place.
"""

TEACHERS = {
    "claude": "medvlm_cli.teachers.claude",
    "llama": "medvlm_cli.teachers.vllm",
    "template": "medvlm_cli.teachers.template",
}
