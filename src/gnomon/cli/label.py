"""``gnomon label``: labels of people; each command is in a file of its own."""

from __future__ import annotations

import typer

from gnomon.cli.label_believe import believe
from gnomon.cli.label_clips import clips
from gnomon.cli.label_cost import cost
from gnomon.cli.label_next import next_items
from gnomon.cli.label_personal import erase, personal
from gnomon.cli.label_plan import plan
from gnomon.cli.label_serve import invite, serve
from gnomon.cli.label_spotcheck import spotcheck
from gnomon.cli.label_store import add, export, import_labels, new, people, show

label_app = typer.Typer(
    no_args_is_help=True, help="Labels of people: ask, store, believe, count the cost."
)
label_app.command("new")(new)
label_app.command("add")(add)
label_app.command("people")(people)
label_app.command("show")(show)
label_app.command("import")(import_labels)
label_app.command("export")(export)
label_app.command("personal")(personal)
label_app.command("erase")(erase)
label_app.command("believe")(believe)
label_app.command("plan")(plan)
label_app.command("next")(next_items)
label_app.command("cost")(cost)
label_app.command("clips")(clips)
label_app.command("serve")(serve)
label_app.command("invite")(invite)
label_app.command("spotcheck")(spotcheck)
