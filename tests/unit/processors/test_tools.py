"""Which tool does a step here, and what is said when there is none."""

import pytest

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors.base import Tools
from synd.processors.tools import Step, Toolchain


def toolchain(tools=Tools.AUTO, programs=(), packages=(), sort_usable=True):
    return Toolchain(
        tools,
        which=lambda name: f"/bin/{name}" if name in programs else None,
        has_module=lambda name: name in packages,
        sort_usable=lambda: sort_usable,
    )


def test_program_when_on_path_then_comes_before_the_package():
    """AUTO takes the native program, as it is faster."""
    both = toolchain(programs=("samtools",), packages=("pysam",))

    assert both.get(Step.ALIGNMENTS).native
    assert both.get(Step.ALIGNMENTS).path == "/bin/samtools"


def test_package_when_no_program_is_there_then_serves():
    """AUTO falls back to what pip installed."""
    tool = toolchain(packages=("pysam",)).get(Step.ALIGNMENTS)

    assert (tool.name, tool.native) == ("pysam", False)


@pytest.mark.req("S1-67")
@pytest.mark.parametrize(
    ("tools", "step", "names"),
    [
        (Tools.AUTO, Step.ALIGNMENTS, ["samtools", "pysam", "synd[genomics]"]),
        (Tools.AUTO, Step.TEXT_INDEX, ["tabix", "pysam"]),
        (Tools.AUTO, Step.VARIANTS, ["bcftools", "pysam"]),
        (Tools.AUTO, Step.BIGBED, ["bigBedToBed", "pyBigWig"]),
        (Tools.AUTO, Step.GFF3, ["gffread"]),
        (Tools.NATIVE, Step.COMPRESS, ["bgzip", "package tabix"]),
        (Tools.NATIVE, Step.SORT, ["sort", "coreutils"]),
        (Tools.NATIVE, Step.BIGBED, ["bigBedToBed", "PATH"]),
        (Tools.BUILTIN, Step.SEQUENCES, ["pysam"]),
        (Tools.BUILTIN, Step.GFF3, ["gffread", "SYND_TOOLS=builtin"]),
    ],
)
def test_step_when_nobody_can_then_names_what_to_install(tools, step, names):
    """TOOL_MISSING says the tool and the package that has it."""
    with pytest.raises(StageFailed) as failed:
        toolchain(tools).get(step)

    assert failed.value.failure == Failure.TOOL_MISSING
    for name in names:
        assert name in failed.value.message
    assert failed.value.hint
    assert toolchain(tools).find(step) is None


@pytest.mark.parametrize("step", [Step.DECODE, Step.SORT, Step.COMPRESS])
@pytest.mark.parametrize("tools", [Tools.AUTO, Tools.BUILTIN])
def test_step_when_our_own_code_can_then_never_is_missing(tools, step):
    """Unpacking, sorting and block compression need nothing that is not here."""
    assert toolchain(tools).get(step).name in {"zlib", "synd"}


def test_sort_when_it_does_not_take_our_options_then_is_not_used():
    """Another `sort` than GNU's is as good as none."""
    assert toolchain(programs=("sort",), sort_usable=False).get(Step.SORT).name == "synd"
    assert toolchain(programs=("sort",)).get(Step.SORT).name == "sort"


def test_native_when_only_packages_are_there_then_takes_none():
    """NATIVE fails when a program is absent, rather than using its twin."""
    found = toolchain(Tools.NATIVE, packages=("pysam", "isal", "pyBigWig"))

    assert found.find(Step.ALIGNMENTS) is None
    assert found.find(Step.COMPRESS) is None


def test_builtin_when_programs_are_there_then_takes_none():
    """BUILTIN starts no program."""
    found = toolchain(
        Tools.BUILTIN, programs=("samtools", "bgzip", "sort"), packages=("pysam", "isal")
    )

    assert not any((tool := found.find(step)) and tool.native for step in Step)


@pytest.mark.req("S1-67")
def test_description_always_lists_each_step_with_its_gain():
    """`synd doctor` shows tool, version, what is missing and what another would gain."""
    rows = toolchain(packages=("pysam",)).describe()

    assert [row["step"] for row in rows] == [str(step) for step in Step]
    by_step = {row["step"]: row for row in rows}
    assert by_step[Step.ALIGNMENTS]["tool"] == "pysam"
    assert "samtools" in by_step[Step.ALIGNMENTS]["better"]
    assert "gffread" in by_step[Step.GFF3]["missing"]
    assert by_step[Step.SORT]["missing"] == ""
