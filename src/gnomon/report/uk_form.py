"""The UK's Code of Practice for the Cyber Security of AI: what a developer discloses.

Department for Science, Innovation and Technology, 31 January 2025, 13 principles. It became ETSI TS
104 223 and then EN 304 223, whose provisions have the same numbers: the code's 8.1.2 is the
standard's 5.2.4-1.2. Here are those of its provisions that ask a developer for something written;
what only an organisation can answer is listed as missing, with who has it.
"""

from __future__ import annotations

from gnomon.report.facts import Facts
from gnomon.report.forms import Answer, Field, Form, never, sourced, state, stated

DEVELOPER, OPERATOR, CUSTODIAN = "developers", "operators", "custodians"
DEV, BOTH, EVERY = (DEVELOPER,), (DEVELOPER, OPERATOR), (DEVELOPER, OPERATOR, CUSTODIAN)
YOURS = "your organisation's own documents"


def _audit_trail(facts: Facts) -> Answer:
    manifest = facts.run.manifest
    if not manifest.recipe_sha256:
        return Answer("missing", "", "manifest.json, recipe.yaml")
    value = (
        f"recipe SHA-256 {manifest.recipe_sha256}, {len(facts.sources())} sources with their "
        f"hashes, stages {', '.join(view.name for view in facts.stages)}"
    )
    lacks = "" if facts.stated.maintenance else "plans after release (card.maintenance)"
    return Answer(state(lacks), value, "manifest.json, recipe.yaml, stages/", lacks)


def _lifecycle(facts: Facts) -> Answer:
    models = facts.run.manifest.models
    if not models:
        return Answer("missing", "", "manifest.json: models, data")
    value = f"the weights that {len(models)} stages began with and their data, by SHA-256"
    return Answer("partial", value, "manifest.json", "prompts and models while in operation")


def _inventory(facts: Facts) -> Answer:
    files = [(view.name, len(view.info.files or {})) for view in facts.stages]
    known = [f"{name}: {count} files" for name, count in files if count]
    if not known:
        return Answer("missing", "", "stage.json: files")
    value = ", ".join(known)
    return Answer("partial", value, "stage.json: files", "assets outside the run")


def _tracked(facts: Facts) -> Answer:
    if not facts.weights:
        return Answer("missing", "", "stage.json: files")
    value = "sizes and SHA-256 of what each stage left, compared before a later stage uses it"
    return Answer("partial", value, "stage.json: files", "version control and access")


def _external(facts: Facts) -> Answer:
    if not facts.chain:
        return Answer("missing", "", "stage.json: start")
    start = next(v for v in facts.stages if v.name == facts.chain[0]).info.start
    source = facts.stated.base_model or str(start.get("from", "")).rpartition("/")[2]
    if not source:
        return Answer("missing", "", "stage.json: start")
    value = f"{source}, SHA-256 {start.get('sha256', 'not noted')}; weights are safetensors only"
    return Answer("partial", value, "stage.json: start", "the assessment of its risks")


def _security_information(facts: Facts) -> Answer:
    """Sources of training data and feedback, intended scope and limits, failure modes."""
    told = facts.stated
    asked = {
        "sources of data": bool(facts.sources()),
        "intended scope": bool(told.intended_uses),
        "limitations": bool(told.limitations),
        "failure modes": facts.audit is not None,
        "retention and review": bool(told.maintenance),
    }
    known = [what for what, there in asked.items() if there]
    lacks = ", ".join(what for what, there in asked.items() if not there)
    if not known:
        return Answer("missing", "", "model_card.md")
    return Answer(state(lacks), f"in the model card: {', '.join(known)}", "model_card.md", lacks)


def _hashes(facts: Facts) -> Answer:
    if not facts.weights:
        return Answer("missing", "", "stage.json: files")
    value = "; ".join(f"{name} SHA-256 {digest}" for name, digest in facts.weights.items())
    return Answer("filled", value, "stage.json: files")


def _changes(facts: Facts) -> Answer:
    if not facts.run.manifest.recipe_sha256:
        return Answer("missing", "", "manifest.json: recipe_sha256")
    value = f"this run's configuration by SHA-256 {facts.run.manifest.recipe_sha256}"
    return Answer("partial", value, "manifest.json", "system prompts, and changes after training")


def _tests(facts: Facts) -> Answer:
    looked = [f for f in facts.findings if f.status != "not_looked"]
    if not looked and not facts.evals:
        return Answer("missing", "", "audit.json, evals/")
    value = (
        f"{len(looked)} checks of the audit ({len(facts.alarms)} alarms), {len(facts.evals)} evals"
    )
    return Answer("partial", value, "audit.json, evals/", "a security assessment of the system")


def _findings(facts: Facts) -> Answer:
    answer = _tests(facts)
    if answer.state == "missing":
        return answer
    return Answer("filled", f"{answer.value}, in the model card", "model_card.md")


def _failure_modes(facts: Facts) -> Answer:
    told = [facts.stated.intended_uses, facts.stated.limitations]
    lacks = [n for n, v in zip(("intended uses", "limitations"), told, strict=True) if not v]
    if facts.audit is None:
        lacks.append("failure modes (gnomon audit)")
    if len(lacks) == 3:
        return Answer("missing", "", "recipe: card.intended_uses, card.limitations; audit.json")
    names = sorted({finding.name for finding in facts.alarms})
    value = "; ".join(filter(None, [*told, f"alarms: {', '.join(names)}" if names else ""]))
    absent = ", ".join(lacks)
    value = value or "no alarm in the audit"
    return Answer(state(absent), value, "recipe: card; audit.json", absent)


def _reevaluated(facts: Facts) -> Answer:
    compared = facts.run.comparison
    if not compared and not facts.evals:
        return Answer("missing", "", "comparison.json, evals/")
    value = f"{len(compared.rows)} models compared, {len(facts.evals)} evals of this one"
    return Answer("partial", value, "comparison.json, evals/", "evals of the base by itself")


P2, P3 = "2 Design for security", "3 Evaluate threats and manage risks"
P4, P5 = "4 Enable human responsibility", "5 Identify, track and protect assets"
P6, P7 = "6 Secure the infrastructure", "7 Secure the supply chain"
P8, P9 = "8 Document data, models and prompts", "9 Test and evaluate"
P10, P11 = "10 Communicate with end-users", "11 Maintain updates and mitigations"
P12, P13 = "12 Monitor the system's behaviour", "13 Dispose of data and models"

UK_FORM = Form(
    name="uk",
    title="UK Code of Practice for the Cyber Security of AI",
    readers=EVERY,
    source="Department for Science, Innovation and Technology, 31 January 2025, "
    "https://www.gov.uk/government/publications/ai-cyber-security-code-of-practice; ETSI EN "
    "304 223",
    checked="Checked against a public list of the 72 provisions of ETSI EN 304 223, which the code "
    "became: numbers, sense and whom they address. Not checked: the code's own wording of each "
    "provision, which is given here by its sense, and that no number differs between the two.",
    fields=(
        Field(
            "1 Raise awareness", "1.1", "AI security in the training of staff", EVERY, never(YOURS)
        ),
        Field(
            P2,
            "2.1",
            "Business requirements, AI security risks and mitigations",
            BOTH,
            stated("rationale", "risks and mitigations, if not named"),
        ),
        Field(P2, "2.3", "Audit trail of models, datasets and prompts", DEV, _lifecycle),
        Field(P2, "2.4", "Risk assessment of external components", BOTH, _external),
        Field(P3, "3.1", "Threat model and record of risks", BOTH, never(YOURS)),
        Field(
            P3,
            "3.2",
            "Threats that are not resolved, passed on",
            BOTH,
            stated("limitations", "threats, if not named"),
        ),
        Field(P4, "4.5", "Prohibited uses, told to end-users", BOTH, stated("out_of_scope")),
        Field(P5, "5.1", "Inventory of assets and what depends on them", EVERY, _inventory),
        Field(
            P5, "5.2", "Assets tracked, authenticated and under version control", EVERY, _tracked
        ),
        Field(
            P6,
            "6.4",
            "Published way to report vulnerabilities",
            BOTH,
            stated("contact", "the policy itself"),
        ),
        Field(P6, "6.5", "Plans for incidents and recovery", BOTH, never(YOURS)),
        Field(
            P7,
            "7.2",
            "Reasons for models or components that are poorly documented",
            (OPERATOR,),
            never(YOURS),
        ),
        Field(P7, "7.3", "Evaluations run again on released models before use", BOTH, _reevaluated),
        Field(P8, "8.1", "Audit trail of the design, and plans after release", DEV, _audit_trail),
        Field(
            P8,
            "8.1.1",
            "Security-relevant information: data, scope, limits, failure modes",
            DEV,
            _security_information,
        ),
        Field(P8, "8.1.2", "Cryptographic hashes of model components", DEV, _hashes),
        Field(
            P8,
            "8.2",
            "How public training data was obtained, its source and use",
            DEV,
            sourced("provenance"),
        ),
        Field(P8, "8.2.1", "Address and date of training data", DEV, sourced("obtained")),
        Field(P8, "8.3", "Log of changes to system prompts and configuration", DEV, _changes),
        Field(P9, "9.1", "Security tests of what is released", DEV, _tests),
        Field(P9, "9.2.1", "Independent testers", BOTH, never(YOURS)),
        Field(P9, "9.3", "Findings shared with operators", DEV, _findings),
        Field(
            P9,
            "9.4",
            "Outputs do not reveal the model or its data",
            DEV,
            never("no audit of gnomon's looks for it"),
        ),
        Field(P10, "10.1", "Where and how end-users' data is used", BOTH, never(YOURS)),
        Field(
            P10,
            "10.2",
            "Guidance on use, integration and configuration",
            BOTH,
            stated("integration"),
        ),
        Field(
            P10,
            "10.2.1",
            "Appropriate use, limitations and failure modes",
            (OPERATOR,),
            _failure_modes,
        ),
        Field(P11, "11.1", "Security updates", BOTH, stated("maintenance")),
        Field(
            P12, "12.4", "Performance over time", BOTH, never("records of the system in operation")
        ),
        Field(P13, "13.1", "Disposal of data and models", BOTH, never(YOURS)),
    ),
)
