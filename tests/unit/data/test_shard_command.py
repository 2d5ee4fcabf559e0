"""data_prep/shard.py as users run it: messages, exit codes, and what a kill or a full disk leaves behind."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from seed_dist.data.sharding import ShardOptions, shard_source
from tests.pictures import content, fill, picture

SMALL = ShardOptions(shard_samples=10, workers=1)


@pytest.fixture
def source(tmp_path):
    return fill(tmp_path / "source", 45)


def command(root, *arguments):
    return [sys.executable, str(root / "data_prep" / "shard.py"), *map(str, arguments)]


def shard(root, *arguments, fault=""):
    environment = {**os.environ, "PYTHONPATH": str(root), "SEED_DIST_FAULT": fault}
    return subprocess.run(
        command(root, *arguments), capture_output=True, text=True, env=environment, timeout=100, check=False
    )


def test_the_command_says_what_it_made_and_that_it_is_done(root, tmp_path, source):
    first = shard(root, source, tmp_path / "out", "--shard-samples", 10)
    assert first.returncode == 0, first.stderr
    assert "45 pairs in 5 shards, none rejected" in first.stdout
    assert "45/45" in first.stderr  # the progress bar
    assert "pairs/s" in first.stderr
    second = shard(root, source, tmp_path / "out", "--shard-samples", 10)
    assert second.returncode == 0
    assert "is finished already" in second.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none", "out"], 3, "error: source none does not exist. Give a folder"),
        (["empty", "out"], 3, "error: source folder empty is empty. Put images with .txt"),
        (["images", "out"], 3, "error: source folder images holds 1 images but no captions"),
        (["bad", "out"], 3, "error: 1 of the 2 pairs looked at are unusable (unreadable_image 1)"),
        (["good", "good"], 3, "error: source and output are the same folder"),
        (["good", "out", "--captions", "x.csv"], 3, "error: --captions x.csv is no file"),
        (["good", "out", "--shard-samples", "0"], 2, "--shard-samples is 0; at least 1 is needed"),
        (["good", "out", "--max-reject-fraction", "2"], 2, "--max-reject-fraction is 2.0; a number from 0 to 1"),
        (["good", "out", "--workers", "0"], 2, "--workers is 0; at least 1"),
        (["good", "out", "--timeout-s", "0", "--retries", "-1", "--fetches", "0"], 2, "3 configuration problem(s)"),
        (["good", "out", "--min-similarity", "x"], 2, "--min-similarity is 'x'; COLUMN=NUMBER is needed"),
        (["good", "out", "--resize", "squash", "--max-aspect", "0.5"], 2, "2 configuration problem(s)"),
        (["good", "out", "--image-name", "{a.__class__}"], 2, "'a.__class__' is no name of a column"),
        (["good", "*.csv", "out"], 3, "error: source *.csv matches nothing"),
        (["good", "out", "--wrokers", "1"], 2, "unrecognized arguments: --wrokers"),
    ],
)
def test_bad_input_is_one_short_message(root, tmp_path, arguments, code, message):
    os.chdir(tmp_path)
    fill(tmp_path / "good", 2)
    fill(tmp_path / "bad", 1, start=1)
    (tmp_path / "bad" / "x.jpg").write_bytes(b"no image")
    (tmp_path / "bad" / "x.txt").write_text("caption")
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture(0))
    run = shard(root, *arguments)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    "point",
    [
        "shard.sample_written:*:25:kill",
        "shard.file_written:*:1:kill",
        "shard.announced:*:2:kill",
        "assembly.index_written:*:5:kill",
        "assembly.manifest_written:*:5:kill",
    ],
)
def test_a_killed_run_is_continued_to_the_same_bytes(root, tmp_path, source, point):
    out = tmp_path / "out"
    arguments = (source, out, "--shard-samples", 10, "--workers", 1)
    assert shard(root, *arguments, fault=point).returncode == -9
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar") if announced(out, path)}
    again = shard_source(source, out, SMALL)
    assert again.was_finished == point.startswith("assembly.manifest")
    shard_source(source, tmp_path / "unbroken", SMALL)
    assert content(out) == content(tmp_path / "unbroken")
    assert finished == {name: (out / name).stat().st_mtime_ns for name in finished}  # not made a second time
    assert len(finished) == {"shard.s": 2, "shard.f": 1, "shard.a": 3, "assembl": 5}[point[:7]]


def test_several_sources_with_options_between(root, tmp_path, source):
    fill(tmp_path / "more", 3)
    run = shard(root, tmp_path / "more", "--min-side-px", 11, source, "--max-reject-fraction", 0, tmp_path / "out")
    assert run.returncode == 3
    assert "no usable pair is left" in run.stderr
    run = shard(root, tmp_path / "more", "--min-side-px", 10, source, "--shard-samples", 20, tmp_path / "two")
    assert "48 pairs in 3 shards, none rejected" in run.stdout, run.stderr


def announced(out, path):
    return (out / ".progress" / f"{path.stem}.json").exists()


def test_a_killed_worker_stops_the_job_with_a_message(root, tmp_path, source):
    arguments = (source, tmp_path / "out", "--shard-samples", 10, "--workers", 2)
    run = shard(root, *arguments, fault="shard.sample_written:*:33:kill")
    assert run.returncode == 3
    assert "a worker process died" in run.stderr
    assert shard(root, *arguments).returncode == 0
    shard_source(source, tmp_path / "unbroken", SMALL)
    assert content(tmp_path / "out") == content(tmp_path / "unbroken")


def test_workers_leave_with_a_killed_parent(root, tmp_path):
    """The call only comes back when nobody holds the pipes: a worker that lived on would hold them for minutes."""
    path = tmp_path / "parent.py"
    path.write_text(
        textwrap.dedent("""
            import os, time
            from seed_dist.data.workers import process_pool

            if __name__ == "__main__":
                with process_pool(2) as pool:
                    pool.submit(os.getpid).result()
                    pool.submit(time.sleep, 600)
                    os.kill(os.getpid(), 9)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, str(path)], capture_output=True, env=environment, timeout=150, check=False)
    assert run.returncode == -9


def test_an_injected_full_disk_leaves_nothing_half_written(root, tmp_path, source):
    out = tmp_path / "out"
    for workers in (1, 2):
        arguments = (source, out, "--shard-samples", 10, "--workers", workers)
        run = shard(root, *arguments, fault="shard.sample_written:*:44:full")
        assert run.returncode == 8
        assert "the disk refused a write" in run.stderr
        assert "No space left" in run.stderr
        assert "Traceback" not in run.stderr
        assert list(out.rglob("*.partial")) == []
        assert not (out / "manifest.json").exists()
    shard_source(source, out, SMALL)
    shard_source(source, tmp_path / "unbroken", SMALL)
    assert content(out) == content(tmp_path / "unbroken")


def test_a_really_full_disk(root, tmp_path, source):
    """A small file system in a private mount namespace fills up, grows, and the same command goes on."""
    probe = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    (tmp_path / "disk").mkdir()
    run = " ".join(command(root, source, "disk/out", "--shard-samples", 10, "--workers", 1))
    script = textwrap.dedent(f"""
        mount -t tmpfs -o size=68k tmpfs disk
        {run}
        echo "code $?"
        find disk -name '*.partial' -o -name manifest.json
        mount -o remount,size=64m disk
        {run} && cp -r disk/out kept
    """)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=100, check=False,
    )  # fmt: skip
    assert "code 8\ndisk/out is finished: 45 pairs" in result.stdout, result.stdout + result.stderr
    assert "No space left on device" in result.stderr
    shard_source(source, tmp_path / "unbroken", SMALL)
    assert content(tmp_path / "kept") == content(tmp_path / "unbroken")
