"""The Model Documentation Form of the EU's General-Purpose AI Code of Practice.

Transparency chapter, measure 1.1, 10 July 2025: what Article 53(1)(a) and (b) of Regulation (EU)
2024/1689 and its annexes XI and XII ask for, in one place. The columns are who each item is for:
the AI Office, national competent authorities, downstream providers.
"""

from __future__ import annotations

from gnomon.report import eu_answers as answer
from gnomon.report.forms import Field, Form, sourced, stated

AIO, NCAS, DPS = "AIO", "NCAs", "DPs"
ALL, AUTHORITIES = (AIO, NCAS, DPS), (AIO, NCAS)

GENERAL, PROPERTIES = "General information", "Model properties"
DISTRIBUTION, USE = "Methods of distribution and licences", "Use"
PROCESS, DATA = "Training process", "Data used for training, testing and validation"
RESOURCES = "Computational resources (during training)"
ENERGY = "Energy consumption (during training and inference)"

EU_FORM = Form(
    name="eu",
    title="EU Model Documentation Form",
    readers=ALL,
    source="General-Purpose AI Code of Practice, Transparency chapter, measure 1.1 (10 July 2025), "
    "https://digital-strategy.ec.europa.eu/en/policies/contents-code-gpai; Regulation (EU) "
    "2024/1689, Article 53(1)(a) and (b), annexes XI and XII",
    checked="Checked against a public copy of the form's items: the list of fields, and who the "
    "items on computation, training time and energy are for. Not checked: for whom the other items "
    "are, which is as annexes XI (authorities) and XII (downstream providers) have it. The form's "
    "last revision is its own authority; item numbers here are places in this list.",
    fields=(
        Field(GENERAL, "1.1", "Legal name of the model provider", ALL, stated("provider")),
        Field(GENERAL, "1.2", "Model name", ALL, answer.name),
        Field(GENERAL, "1.3", "Model authenticity", ALL, answer.authenticity),
        Field(GENERAL, "1.4", "Release date", ALL, stated("release_date")),
        Field(GENERAL, "1.5", "Union market release date", ALL, stated("union_release_date")),
        Field(GENERAL, "1.6", "Model dependencies", ALL, answer.dependencies),
        Field(PROPERTIES, "2.1", "Model architecture", ALL, answer.architecture),
        Field(PROPERTIES, "2.2", "Design specifications of the model", AUTHORITIES, answer.design),
        Field(PROPERTIES, "2.3", "Input modalities and maximum size", ALL, answer.input),
        Field(PROPERTIES, "2.4", "Output modalities and maximum size", ALL, answer.output),
        Field(PROPERTIES, "2.5", "Total model size, as a range", (NCAS, DPS), answer.size),
        Field(PROPERTIES, "2.6", "Total number of parameters", (AIO,), answer.parameters),
        Field(DISTRIBUTION, "3.1", "Distribution channels", ALL, stated("distribution")),
        Field(
            DISTRIBUTION, "3.2", "Licence, with its link and further assets", ALL, answer.licence
        ),
        Field(USE, "4.1", "Acceptable use policy", ALL, stated("acceptable_use")),
        Field(
            USE,
            "4.2",
            "Intended uses, or restricted and prohibited ones",
            ALL,
            stated("intended_uses"),
        ),
        Field(
            USE,
            "4.3",
            "Type and nature of AI systems it can be part of",
            ALL,
            stated("integration", "the kinds of systems, if not named"),
        ),
        Field(
            USE,
            "4.4",
            "Technical means for model integration",
            ALL,
            stated("integration", "instructions, infrastructure and tools, if not named"),
        ),
        Field(
            USE,
            "4.5",
            "Required hardware",
            (DPS,),
            stated("integration", "the hardware, if not named"),
        ),
        Field(USE, "4.6", "Required software", (DPS,), answer.software),
        Field(
            PROCESS,
            "5.1",
            "Design specifications of the training process",
            AUTHORITIES,
            answer.training,
        ),
        Field(PROCESS, "5.2", "Decision rationale", AUTHORITIES, stated("rationale")),
        Field(DATA, "6.1", "Data type and modality", ALL, answer.kinds),
        Field(
            DATA,
            "6.2",
            "Data provenance: crawled, private, user, public, synthetic, other",
            ALL,
            sourced("kind"),
        ),
        Field(
            DATA, "6.3", "How the data was obtained and selected", AUTHORITIES, sourced("obtained")
        ),
        Field(DATA, "6.4", "Number of data points", AUTHORITIES, answer.points),
        Field(
            DATA, "6.5", "Scope and main characteristics", AUTHORITIES, sourced("characteristics")
        ),
        Field(DATA, "6.6", "Data curation methodologies", ALL, answer.curation),
        Field(
            DATA, "6.7", "Measures to detect unsuitable sources", AUTHORITIES, sourced("unsuitable")
        ),
        Field(
            DATA, "6.8", "Measures to detect identifiable biases", AUTHORITIES, sourced("biases")
        ),
        Field(RESOURCES, "7.1", "Training time, as a range", (NCAS,), answer.time_range),
        Field(
            RESOURCES,
            "7.2",
            "Training time, days on the clock and of hardware",
            (AIO,),
            answer.time,
        ),
        Field(RESOURCES, "7.3", "Amount of computation, order of magnitude", (NCAS,), answer.order),
        Field(
            RESOURCES,
            "7.4",
            "Amount of computation, two significant figures",
            (AIO,),
            answer.computation,
        ),
        Field(
            RESOURCES,
            "7.5",
            "Measurement methodology of computation",
            AUTHORITIES,
            answer.compute_method,
        ),
        Field(ENERGY, "8.1", "Energy used for training", AUTHORITIES, answer.energy),
        Field(
            ENERGY, "8.2", "Measurement methodology of energy", AUTHORITIES, answer.energy_method
        ),
        Field(
            ENERGY,
            "8.3",
            "Benchmarked computation used for inference",
            AUTHORITIES,
            answer.inference,
        ),
        Field(
            ENERGY,
            "8.4",
            "Measurement methodology of inference",
            AUTHORITIES,
            answer.inference_method,
        ),
    ),
)
