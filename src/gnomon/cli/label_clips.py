"""``gnomon label clips``: render clips of control tasks, so that people can compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gnomon.console import say
from gnomon.errors import ConfigError, DataError


def clips(
    store: Annotated[
        str, typer.Argument(help="The store: a file, or postgresql://USER@HOST/DATABASE.")
    ],
    campaign: Annotated[
        str | None, typer.Option(help="Only of this campaign; of all without it.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="The folder for the videos; STORE.clips by default.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Render those of the first so many questions.", min=1)
    ] = None,
) -> None:
    """Render the clips of a store as videos, for gnomon label serve.

    Every clip is played again from its seed and actions; those that are rendered already are left
    as they are. It needs pip install 'gnomon-rlhf[control]'; see docs/control.md.

    gnomon label clips runs/my-run/stages/01-learn/labels.db
    """
    from gnomon.control.video import clip_texts, render_clips
    from gnomon.feedback.clips import videos_beside
    from gnomon.feedback.opening import open_store
    from gnomon.training.progress import Progress

    folder = to or videos_beside(store)
    if folder is None:
        raise ConfigError("a database at a URL has no folder beside it: give --to FOLDER")
    with open_store(store) as opened:
        if campaign is not None:
            opened.campaign(campaign)
        texts = clip_texts(opened, campaign, limit)
    if not texts:
        raise DataError(f"{store} holds no clips; a control stage puts them there")
    with Progress("clips", len(texts)) as progress:
        made = render_clips(texts, folder, lambda done, of: progress.update(done, {}))
    say(f"{made} clips rendered, {len(texts) - made} were there already: {folder}")
