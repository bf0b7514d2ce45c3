"""Attacks on medvlm, made by the tests: what a stranger's file, answer or address may try, and that none succeeds.

Each module has a table of attacks and one test that counts what succeeded, through the same doors as a user's data.
Beside them, closer to the code: ``tests/plugins/test_package.py`` (more archives), ``test_opening_url.py`` (more
addresses), ``tests/core/test_pages_opened.py`` (the pages in a browser), ``tests/terminal/test_hostile.py`` (answers).
"""
