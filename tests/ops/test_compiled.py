"""What the compiler makes of the kernels for a Hopper GPU, at the sizes of ViT-H/14-378; no GPU is needed.

The interpreter sees neither registers nor instructions: a kernel may be right there and crawl on a device, or not
compile at all.
"""

import pytest

from tests.ops.sm90 import faults, needs_of_all, tool

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not tool().exists(), reason="this Triton brings no cuobjdump")

# Of 65,536 registers: a limit of 64 leaves room for 1,024 threads on a multiprocessor, 96 for 682, and the products,
# which have 256 threads, for two programs or for one.
PRODUCT = ["HGMMA", "UTMALDG", "UTMASTG"]
LIMITS = {
    "normalise": (80, [r"LDG.*\.128", r"STG.*\.128"]),
    "normalise-8192": (192, [r"LDG.*\.128", r"STG.*\.128"]),
    "merge": (64, [r"LDG.*\.128", r"STG.*\.128"]),
    "patchify-1": (40, [r"STG.*\.128"]),
    "patchify-2": (96, [r"STG.*\.64"]),
    "patchify-3": (40, [r"STG.*\.128"]),
    "linear-up-large": (224, PRODUCT),
    "linear-up-small": (128, PRODUCT),
    "linear-down-large": (224, [*PRODUCT, r"LDG.*\.128"]),
    "linear-down-small": (128, [*PRODUCT, r"LDG.*\.128"]),
    "linear-embed-large": (224, [*PRODUCT, r"LDG.*\.128"]),
    "linear-embed-small": (128, [*PRODUCT, r"LDG.*\.128"]),
}
SPILLING = "normalise-8192-in-one-warp"


@pytest.fixture(scope="module")
def needs(tmp_path_factory):
    return needs_of_all(tmp_path_factory.mktemp("triton"))


def test_every_kernel_has_limits(needs):
    assert set(needs) == {*LIMITS, SPILLING}


@pytest.mark.parametrize("name", LIMITS)
def test_kernel_spills_nothing_and_has_the_instructions_it_was_written_for(name, needs):
    registers, instructions = LIMITS[name]
    assert faults(needs[name], registers, instructions) == []


def test_a_kernel_that_spills_is_found(needs):
    found = faults(needs[SPILLING], registers=255)
    assert {fault.split()[0] for fault in found} == {"spills:", "STACK"}


def test_too_much_and_what_is_missing_is_named():
    needs = {"REG": 90, "STACK": 0, "LOCAL": 8, "SHARED": 240000, "SASS": {"LDG.E.64": 3}}
    expected = ["LOCAL 8 bytes", "90 registers, more than 80", "240000 bytes shared", r"no LDG.*\.128"]
    assert faults(needs, 80, [r"LDG.*\.64", r"LDG.*\.128"]) == expected
