"""BCF: indexed as it is when it is in order, which the index build proves, else sorted by bcftools."""

from __future__ import annotations

from pathlib import Path

from synd.processors import verify
from synd.processors.alignment import UNSORTED, explainer, prove_end
from synd.processors.base import ArtifactKind, Made, Stored, Work
from synd.processors.containers import Container, has_eof_block
from synd.processors.detect import Detected, Format
from synd.processors.tools import Step
from synd.processors.workshop import Workshop


def data(shop: Workshop) -> Made:
    """DATA of a BCF: the source, or a sorted copy."""
    source = shop.bytes_at
    prove_end(shop)
    packed = shop.detected.container is not Container.BGZF
    if not packed and (built := _try_index(shop, source)) is not None:
        shop.facts.index = built
        return Made(
            ArtifactKind.DATA,
            f"md5:{shop.source.md5}",
            shop.source.size,
            shop.toolchain(),
            suffix=".bcf",
            alias_of="source",
            work=Work.INDEX_ONLY,
        )
    shop.need_room()
    if not packed:
        shop.linked("src", source)
    path = shop.file("data.bcf")
    caps = shop.caps
    command = shop.command(
        Step.VARIANTS,
        "bcftools",
        "sort",
        *("-m", str(caps.samtools_memory_bytes)),
        *("-T", "spill"),
        *("-O", f"b{caps.bgzf_level}"),
        *("-o", "-"),
        "-" if packed else "src",
    )
    with shop.pipe() as pipe:
        mine, its = pipe.channel()
        if packed:
            reads, feed_fd = pipe.channel()
            pipe.start(command, reads=reads, writes=its)
        else:
            shop.progress.watch(pipe.start(command, writes=its))
        consumer = pipe.consume(mine, lambda file: verify.keep(file, path))
        if packed:
            with pipe.feed(feed_fd) as feed, shop.decoding() as chunks:
                for chunk in chunks:
                    feed.write(chunk)
        pipe.finish().check(explainer(Format.BCF))
        kept = consumer.result()
    if not has_eof_block(path):
        raise verify.wrong("the sorted data has no end")
    return Made(
        ArtifactKind.DATA,
        kept.digest,
        kept.size,
        f"{shop.toolchain()} level {caps.bgzf_level}",
        suffix=".bcf",
        file=path,
        work=Work.SORT_INDEX,
    )


def index(shop: Workshop, stored: Stored) -> Made:
    """CSI of a stored BCF."""
    path = stored.path or shop.bytes_at
    shop.tool(Step.VARIANTS)
    built = shop.facts.index or _try_index(shop, path)
    if built is None:
        raise verify.wrong("the sorted data is not in order")
    found = verify.index(
        built, ".csi", path, Detected(Format.BCF, Container.BGZF, shop.detected.name_format)
    )
    if stored.records is not None and found.records not in (None, stored.records):
        raise verify.wrong(
            f"{stored.records} records are stored, and the index counts {found.records}"
        )
    return Made(
        ArtifactKind.INDEX,
        verify.digest(built),
        built.stat().st_size,
        shop.toolchain(),
        suffix=".csi",
        file=built,
        of_digest=stored.digest,
        records=found.records,
    )


def _try_index(shop: Workshop, path: Path) -> Path | None:
    """The index of a file; None when the file is not in order."""
    shop.linked("ready.bcf", path)
    built = shop.file("ready.bcf.csi")
    command = shop.command(Step.VARIANTS, "bcftools", "index", "-f", "-o", built.name, "ready.bcf")
    outcome = shop.run(command, watch=True)
    if (one := outcome.blamed) is None:
        return built
    built.unlink(missing_ok=True)
    if UNSORTED.search(one.text):
        return None
    outcome.check(explainer(Format.BCF))
    return None
