"""The mix: a figure's teacher hangs on its id alone, and the shares are what was asked for."""

import hashlib
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.teachers import mix

IDS = [f"PMC{number}/fig{number % 7}" for number in range(20_000)]
PAPER = mix.parse("claude=25,llama=75")


def assigned(ids, shares=PAPER, seed=0, mode="hash"):
    return mix.divide([(one, "ct") for one in ids], shares, seed, mode)


def test_the_share_of_claude_is_within_three_sigma_of_25_percent():
    counts = Counter(assigned(IDS).values())
    assert abs(100 * counts["claude"] / len(IDS) - 25.0) <= 0.9
    assert sum(counts.values()) == len(IDS)


def test_no_figure_changes_teacher_with_order_or_with_what_else_is_there():
    whole, shuffled = assigned(IDS), random.Random(3).sample(IDS, len(IDS))
    assert assigned(shuffled) == whole
    assert assigned(IDS[:5000]) == {one: whole[one] for one in IDS[:5000]}
    assert [mix.teacher_of(one, PAPER, 0) for one in IDS[:500]] == [whole[one] for one in IDS[:500]]


def test_the_teachers_of_three_known_figures_never_change():
    """Worked out with hashlib alone, so that no version of Python or of medvlm moves a figure."""
    assert [mix.teacher_of(one, PAPER, 0) for one in ("PMC1/fig1", "PMC7096066/fig2", "ü/図1")] == EXPECTED


EXPECTED = ["claude", "llama", "claude"]  # 0.2145, 0.2670 and 0.2242 of the way from 0 to 1


def test_raising_a_share_only_adds_figures_to_it():
    claude = {name: {one for one, who in assigned(IDS, mix.parse(name)).items() if who == "claude"} for name in NESTED}
    assert claude[NESTED[0]] < claude[NESTED[1]] < claude[NESTED[2]]


NESTED = ("claude=10,llama=90", "claude=25,llama=75", "claude=30,llama=70")


def test_another_seed_is_another_division():
    assert assigned(IDS[:1000], seed=1) != assigned(IDS[:1000])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 101, 4321])
def test_a_quota_is_exact_in_every_modality(count):
    figures = [(one, ("ct", "mri")[number % 2]) for number, one in enumerate(IDS[: 2 * count])]
    given = mix.divide(figures, PAPER, 0, "quota")
    counts = Counter(given[one] for one, modality in figures if modality == "mri")
    assert counts["claude"] in (count // 4, -(-count // 4))
    assert counts["claude"] + counts["llama"] == count
    assert mix.divide(figures[::-1], PAPER, 0, "quota") == dict(reversed(given.items()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("claude=25", "adds up to 25"),
        ("claude=25,llama=80", "adds up to 105"),
        ("claude=-5,llama=105", "adds up to"),
        ("claude=x,llama=75", "'x' is not a number"),
        ("gpt=100", "'gpt=100' is not teacher=percent"),
        ("claude=50,claude=50", "is not teacher=percent"),
        ("template=100", "is not teacher=percent"),
        ("claude=nan,llama=75", "adds up to nan"),
        ("", "is not teacher=percent"),
    ],
)
def test_a_mix_that_is_none_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        mix.parse(text)


def test_one_teacher_alone_writes_everything():
    assert set(assigned(IDS[:100], mix.parse("claude=0,llama=100")).values()) == {"llama"}
    assert set(assigned(IDS[:100], mix.parse("claude=100")).values()) == {"claude"}


def other_pythons():
    """Interpreters beside ours that this machine has; the module needs nothing but the standard library."""
    names = [f"python3.{minor}" for minor in range(11, 16) if minor != sys.version_info.minor]
    found = filter(None, map(shutil.which, names))
    return [
        name for name in found if subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode == 0
    ]


PROGRAM = """
import hashlib
from medvlm_cli.teachers import mix
ids = [f"PMC{number}/fig{number % 7}" for number in range(20_000)]
shares = mix.parse("claude=25,llama=75")
print(hashlib.sha256("".join(mix.teacher_of(one, shares, 0)[0] for one in ids).encode()).hexdigest())
"""


def test_the_whole_map_is_the_one_that_the_hash_alone_gives():
    def drawn(figure_id):
        digest = hashlib.sha256(b"medvlm/mix/v1\0" + b"0\0" + figure_id.encode()).digest()
        return "claude" if int.from_bytes(digest[:8], "big") < 2**62 else "llama"

    assert assigned(IDS) == {one: drawn(one) for one in IDS}


@pytest.mark.skipif(not other_pythons(), reason="no other Python on this machine")
def test_another_python_divides_alike():
    ours = hashlib.sha256("".join(assigned(IDS)[one][0] for one in IDS).encode()).hexdigest()
    root = Path(mix.__file__).parents[2]
    for name in other_pythons():
        done = subprocess.run([name, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=root)
        assert done.stdout.strip() == ours, name
