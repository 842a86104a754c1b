"""The order of the runs in the list."""

import os

from view_world import StageInfo

from gnomon.view.library import Library


def _run(folder, written, touched):
    """A run whose newest file is of one time and whose own folder of another."""
    place = folder / "stages/01-only"
    place.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: x")
    StageInfo(name="only", status="running").write(place / "stage.json")
    for file in (folder / "recipe.yaml", place / "stage.json"):
        os.utime(file, (1000, 1000))
    os.utime(place / "stage.json", (written, written))
    for path in (place, place.parent, folder):
        os.utime(path, (touched, touched))


def test_runs_are_in_the_order_in_which_their_files_changed(tmp_path):
    _run(tmp_path / "old", written=2000, touched=9000)  # somebody looked into the folder
    _run(tmp_path / "new", written=4000, touched=1500)
    _run(tmp_path / "middle", written=3000, touched=1700)
    assert Library(tmp_path).names() == ["new", "middle", "old"]


def test_a_run_without_any_file_yet_goes_by_its_folder(tmp_path):
    _run(tmp_path / "old", written=2000, touched=2000)
    (tmp_path / "begun" / "stages").mkdir(parents=True)
    assert Library(tmp_path).names() == ["begun", "old"]
