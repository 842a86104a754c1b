"""What a recipe states for the model card."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gnomon.recipe.spec import Spec

HUB_ID = r"^([A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)?$"
"""``name`` or ``owner/name``, or nothing."""


class SourceCard(Spec):
    """What a model card says of one source of data; what is not stated is said to be missing."""

    licence: str = Field("", description="as the hub names it: apache-2.0, cc-by-4.0, ...")
    provenance: str = Field("", description="where it comes from, with its address and date")
    obtained: str = Field("", description="how it was obtained and selected")
    kind: Literal["", "crawled", "private", "user", "public", "synthetic", "other"] = Field(
        "", description="of the EU form's kinds of provenance"
    )
    characteristics: str = Field("", description="its scope, languages, period, domains")
    curation: str = Field("", description="how it was cleaned and filtered")
    unsuitable: str = Field("", description="how unsuitable sources were looked for")
    biases: str = Field("", description="how biases were looked for")
    labellers: str = Field("", description="who labelled it, how they were chosen and paid")
    hub: str = Field("", pattern=HUB_ID, description="its id on the hub, for the card's metadata")


class CardSpec(Spec):
    """What the model card states that no record of the run holds; all of it may be left out, and
    what is left out is said to be missing."""

    model_name: str = Field("", description="the model's name; the run's and the stage's otherwise")
    provider: str = Field("", description="legal name of who places the model on the market")
    contact: str = Field("", description="where questions and reports of weaknesses go")
    licence: str = Field("", description="of the resulting model, as the hub names it")
    licence_link: str = Field("", description="where the licence's text is")
    base_model: str = Field(
        "", pattern=HUB_ID, description="the base's hub id, for the card's metadata"
    )
    base_licence: str = ""
    base_training_flop: float | None = Field(
        None, gt=0, description="training compute of the base, for the rule of one third"
    )
    base_systemic_risk: bool | None = Field(
        None,
        description="whether the base is a model with systemic risk; matters where its "
        "training compute is not known",
    )
    release_date: str = ""
    union_release_date: str = Field("", description="on the Union's market")
    distribution: str = Field("", description="channels through which the model is distributed")
    acceptable_use: str = Field("", description="the policy's address, or that there is none")
    intended_uses: str = ""
    out_of_scope: str = Field("", description="uses it is not made for, or that are prohibited")
    integration: str = Field("", description="systems it can be part of, hardware and software")
    limitations: str = Field("", description="known to you beside what audits and evals found")
    rationale: str = Field("", description="why it was trained so")
    maintenance: str = Field("", description="plans after release: updates, monitoring, retirement")
    languages: list[str] = Field(default_factory=list, description="as the hub writes them: en, de")
    watts_per_cpu: float | None = Field(
        None, gt=0, description="of a busy core; energy is estimated where no meter was read"
    )
    watts_per_gpu: float | None = Field(None, gt=0, description="of a busy card")
    data: dict[str, SourceCard] = Field(
        default_factory=dict, description="by the source's `path`, as the recipe has it"
    )
