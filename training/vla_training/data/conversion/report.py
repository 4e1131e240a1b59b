# SPDX-License-Identifier: Apache-2.0
"""What became of each episode, and of all of them together."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vla_nodes.contract.schema import Contract
from vla_training.data.conversion.job import Settings
from vla_training.data.frames.topics import reference_topic, sources

_IDLE = 1.0  # s at either end of a recording above which their loss is worth a word
_REPEATED = 0.02  # share of frames above which repeated pictures are worth a word


@dataclass(frozen=True)
class EpisodeReport:
    """What became of one episode; goes into JSON as it is.

    Attributes:
        index: Of its job.
        bag: Path of its bag.
        start_s: Where in the bag it begins, in seconds.
        recorded_s: How long it was recorded, in seconds.
        task: In plain words.
        outcome: ``success``, ``failure`` or ``unknown``.
        parts: Frames of each part that became an episode of the dataset, in order.
        short_parts: Frames of each part that was left out as too short.
        gaps: Times of the grid that lacked something: ``stream``, ``reason``, how many
            ``frames``, and the ``detail`` of the first.
        lead: Samples of the reference before the first frame.
        tail: Times of the grid after the last frame.
        refusal: What lacked before the first frame, in the most cases; empty where nothing did.
        ending: What lacked after the last frame; likewise.
        topics: As of ``StreamStatistics.report``.
        frames: Likewise.
        faults: Samples that were refused, by stream and reason.
        seconds: Of work, by stage: ``reading``, ``frames``, ``encoding``, and ``all``.
        notes: Of the bag.
    """

    index: int
    bag: str
    start_s: float
    recorded_s: float
    task: str
    outcome: str
    parts: list[int]
    short_parts: list[int]
    gaps: list[dict[str, Any]]
    lead: int
    tail: int
    refusal: str
    ending: str
    topics: dict[str, dict[str, Any]]
    frames: dict[str, Any]
    faults: dict[str, dict[str, int]]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)


def why_empty(report: EpisodeReport) -> str:
    """Why an episode gave no part, and which one it is."""
    longest = max(report.short_parts, default=0)
    short = f"its longest part has {longest} frames, which is less than --min-length"
    reason = short if longest else f"no frame: {report.refusal}"
    return f"{_place(report)}: {reason}"


def summary(
    reports: Sequence[EpisodeReport],
    contract: Contract,
    settings: Settings,
    left_out: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Sums up episodes; of rates, jitter, ages and skews the worst of any episode counts.

    Args:
        reports: Of the episodes.
        contract: That they were made by.
        settings: Likewise.
        left_out: Why other bags or episodes are not in the dataset.
        notes: What else is worth saying.

    Returns:
        For JSON: ``totals``, ``gaps``, ``topics``, ``streams``, ``faults``, ``stages``,
        ``left_out``, ``notes``.
    """
    frames = sum(sum(report.parts) for report in reports)
    recorded = sum(report.recorded_s for report in reports)
    gaps = _merge_gaps(reports)
    topics = _by_name(report.topics for report in reports)
    merged_topics = {name: _merge_topic(found) for name, found in topics.items()}
    for gap in gaps:
        gap["hint"] = _hint(gap, contract, merged_topics)
    streams = _by_name(report.frames["streams"] for report in reports)
    stages: Counter[str] = Counter()
    for report in reports:
        stages.update(report.seconds)
    return {
        "totals": {
            "recordings": len(reports),
            "episodes": sum(len(report.parts) for report in reports),
            "frames": frames,
            "images": frames * len(contract.cameras),
            "recorded_s": round(recorded, 3),
            "fps": settings.fps,
            "effective_fps": _effective_fps(reports),
            "coverage": round(frames / (settings.fps * recorded + len(reports)), 4),
            "frames_with_gaps": sum(gap["frames"] for gap in gaps),
            "short_parts": sum(len(report.short_parts) for report in reports),
            "short_frames": sum(sum(report.short_parts) for report in reports),
            "lead": sum(report.lead for report in reports),
            "tail": sum(report.tail for report in reports),
            "without_frames": sum(not (report.parts or report.short_parts) for report in reports),
        },
        "gaps": gaps,
        "topics": merged_topics,
        "streams": {name: _merge_stream(found) for name, found in streams.items()},
        "faults": _merge_faults(reports),
        "stages": {name: round(value, 3) for name, value in stages.items()},
        "left_out": [*left_out],
        "notes": _notes(
            reports,
            [
                *notes,
                *_missed_frames(reports, contract, settings),
                *_idle_ends(reports, contract, settings),
            ],
        ),
    }


def _missed_frames(
    reports: Sequence[EpisodeReport], contract: Contract, settings: Settings
) -> Iterator[str]:
    """Cameras that are fast enough, and whose pictures miss their frames by a hair."""
    made = [report for report in reports if report.frames["count"]]
    frames = sum(report.frames["count"] for report in made)
    for camera in contract.cameras:
        topics = [report.topics[camera.topic] for report in made]
        repeats = sum(report.frames["streams"][camera.name]["repeats"] for report in made)
        rates = [topic["rate_hz"]["effective"] for topic in topics]
        jitter = [topic["jitter_ms"]["p95"] for topic in topics if topic["jitter_ms"]]
        phase = settings.phase + 2e-3 * max([*jitter, 0.5])
        fast = all(rate and rate > (1 - _REPEATED) * settings.fps for rate in rates)
        if fast and repeats > _REPEATED * frames and phase * settings.fps < 1:
            yield (
                f"camera {camera.name} repeats a picture in {100 * repeats / frames:.0f} % of the "
                "frames, though it is fast enough: stamps that are late by a hair miss their "
                f"frame; --phase {phase:.3f} waits for them"
            )


def _idle_ends(
    reports: Sequence[EpisodeReport], contract: Contract, settings: Settings
) -> Iterator[str]:
    """Recordings that gave no frame for long before the first one or after the last."""
    reference = reference_topic(contract)
    for report in reports:
        if not report.frames["count"]:
            continue
        rate = report.topics[reference]["rate_hz"]["nominal"] or settings.fps
        for name, seconds, reason in (
            ("before its first frame", report.lead / rate, report.refusal),
            ("after its last frame", report.tail / settings.fps, report.ending),
        ):
            if seconds > _IDLE:
                yield f"{_place(report)}: {seconds:.1f} s {name} lack an input: {reason}"


def _place(report: EpisodeReport) -> str:
    return f"{report.bag} at {report.start_s:.3f} s"


def _effective_fps(reports: Sequence[EpisodeReport]) -> float | None:
    """Of all frames; those count whose picture of the reference the frame before does not show."""
    made = [report.frames for report in reports if report.frames["count"]]
    count = sum(frames["count"] for frames in made)
    return sum(f["effective_fps"] * f["count"] for f in made) / count if count else None


def _notes(reports: Sequence[EpisodeReport], notes: Sequence[str]) -> list[str]:
    found = [f"{report.bag}: {note}" for report in reports for note in report.notes]
    found += [why_empty(report) for report in reports if not report.parts]
    return list(dict.fromkeys([*notes, *found]))  # a bag says the same for each of its episodes


def _by_name(groups: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    named: defaultdict[str, list[Any]] = defaultdict(list)
    for group in groups:
        for name, value in group.items():
            named[name].append(value)
    return dict(sorted(named.items()))


def _merge_gaps(reports: Sequence[EpisodeReport]) -> list[dict[str, Any]]:
    """The most frequent first, each with the detail of the first episode that has it."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        for gap in report.gaps:
            first = merged.setdefault((gap["stream"], gap["reason"]), {**gap, "frames": 0})
            first["frames"] += gap["frames"]
    return sorted(merged.values(), key=lambda gap: -gap["frames"])


def _merge_faults(reports: Sequence[EpisodeReport]) -> dict[str, dict[str, int]]:
    merged: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for report in reports:
        for name, faults in report.faults.items():
            merged[name].update(faults)
    return {name: dict(faults) for name, faults in merged.items() if faults}


def _merge_topic(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    gaps = [topic["gaps"] for topic in found]
    faults = sum((Counter(topic["faults"]) for topic in found), Counter[str]())
    return {
        "messages": sum(topic["messages"] for topic in found),
        "bytes": sum(topic["bytes"] for topic in found),
        "rate_hz": {
            key: min((r for t in found if (r := t["rate_hz"][key]) is not None), default=None)
            for key in ("nominal", "effective")
        },
        "jitter_ms": _worst(topic["jitter_ms"] for topic in found),
        "gaps": {
            "count": sum(gap["count"] for gap in gaps),
            "longest_ms": max((gap["longest_ms"] or 0 for gap in gaps), default=0) or None,
        },
        "delay_ms": _worst(topic["delay_ms"] for topic in found),
        "faults": dict(faults),
    }


def _merge_stream(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "age_ms": _worst(stream["age_ms"] for stream in found),
        "skew_ms": _worst(stream["skew_ms"] for stream in found),
        "repeats": sum(stream["repeats"] for stream in found),
    }


def _worst(spreads: Iterable[Mapping[str, float] | None]) -> dict[str, float] | None:
    """The greatest of each percentile."""
    known = [spread for spread in spreads if spread]
    return {key: round(max(s[key] for s in known), 3) for key in known[0]} if known else None


def _hint(
    gap: Mapping[str, Any], contract: Contract, topics: Mapping[str, Mapping[str, Any]]
) -> str:
    """What would lessen a kind of gap."""
    name, reason = gap["stream"], gap["reason"]
    source = next(source for source in sources(contract) if source.name == name)
    topic = topics.get(source.topic, {"rate_hz": {"nominal": None}, "gaps": {"longest_ms": None}})
    rate, longest = topic["rate_hz"]["nominal"], topic["gaps"]["longest_ms"]
    if reason == "skewed":
        period = f"; its period is {1000 / rate:.0f} ms" if rate else ""
        return f"raise max_skew, now {1000 * contract.max_skew:.0f} ms{period}"
    if reason == "stale":
        silence = f"; its longest silence is {longest:.0f} ms" if longest else ""
        return f"raise its max_age, now {1000 * source.max_age:.0f} ms{silence}"
    return {
        "missing": "it has no sample that can be used there",
        "pending": "it ends before the others",
        "corrupt": "its messages contradict the contract, or are damaged",
        "clock_jump": "the clock that stamps it was set",
    }.get(reason, "")
