"""What is kept for good: prompts, responses, items, labels, who gave them, what they cost."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FROZEN = ("prompts", "responses", "items", "item_responses", "guidelines", "gold")
KEYS = {"guidelines": ("version",), "gold": ("seq",), "item_responses": ("item", "place")}
FORGOTTEN = (
    "NEW.comment = '' AND {same} AND EXISTS (SELECT 1 FROM erasures WHERE labeller = OLD.labeller)"
)
"""A comment may be emptied once its writer asked to be forgotten; nothing else of a label may."""
LABEL = (
    *("seq", "id", "item", "labeller", "kind", "ranks", "ratings", "approvals", "edit", "shown"),
    *("confidence", "tags", "flag", "guideline", "principle", "at", "seconds", "tokens", "money"),
    "replaces",
)


def upgrade() -> None:
    op.create_table(
        "campaigns",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("gold_rate", sa.Float(), nullable=False),
        sa.Column("minutes", sa.Float(), nullable=False),
        sa.Column("guideline", sa.Text(), server_default="", nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_campaigns"),
    )
    op.create_table(
        "guidelines",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_guidelines"),
    )
    op.create_table(
        "labellers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_labellers"),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_prompts"),
    )
    op.create_table(
        "responses",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
    )
    op.create_table(
        "costs",
        sa.Column("seq", SEQ, nullable=False),
        sa.Column("campaign", sa.Text(), nullable=True),
        sa.Column("labeller", sa.Text(), nullable=True),
        sa.Column("what", sa.Text(), server_default="", nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("money", sa.Float(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["campaign"], ["campaigns.name"], name="fk_costs_campaign"),
        sa.ForeignKeyConstraint(["labeller"], ["labellers.name"], name="fk_costs_labeller"),
        sa.PrimaryKeyConstraint("seq", name="pk_costs"),
    )
    op.create_table(
        "erasures",
        sa.Column("seq", SEQ, nullable=False),
        sa.Column("labeller", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["labeller"], ["labellers.name"], name="fk_erasures_labeller"),
        sa.PrimaryKeyConstraint("seq", name="pk_erasures"),
    )
    op.create_index("ix_erasures_labeller", "erasures", ["labeller"], unique=False)
    op.create_table(
        "items",
        sa.Column("seq", SEQ, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("prompt", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=True),
        sa.Column("meta", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaigns.name"], name="fk_items_campaign"),
        sa.ForeignKeyConstraint(["prompt"], ["prompts.id"], name="fk_items_prompt"),
        sa.PrimaryKeyConstraint("seq", name="pk_items"),
        sa.UniqueConstraint("id", name="uq_items_id"),
    )
    op.create_index("ix_items_campaign", "items", ["campaign"], unique=False)
    op.create_table(
        "personal",
        sa.Column("labeller", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("contact", sa.Text(), server_default="", nullable=False),
        sa.Column("demographics", sa.Text(), nullable=False),
        sa.Column("consent", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["labeller"], ["labellers.name"], name="fk_personal_labeller"),
        sa.PrimaryKeyConstraint("labeller", name="pk_personal"),
    )
    op.create_table(
        "gold",
        sa.Column("seq", SEQ, nullable=False),
        sa.Column("item", sa.String(length=64), nullable=False),
        sa.Column("ranks", sa.Text(), nullable=True),
        sa.Column("who", sa.Text(), server_default="", nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name="fk_gold_item"),
        sa.PrimaryKeyConstraint("seq", name="pk_gold"),
    )
    op.create_index("ix_gold_item", "gold", ["item"], unique=False)
    op.create_table(
        "item_responses",
        sa.Column("item", sa.String(length=64), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("response", sa.String(length=64), nullable=False),
        sa.Column("more", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name="fk_item_responses_item"),
        sa.ForeignKeyConstraint(["response"], ["responses.id"], name="fk_item_responses_response"),
        sa.PrimaryKeyConstraint("item", "place", name="pk_item_responses"),
    )
    op.create_index("ix_item_responses_response", "item_responses", ["response"], unique=False)
    op.create_table(
        "labels",
        sa.Column("seq", SEQ, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("item", sa.String(length=64), nullable=False),
        sa.Column("labeller", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("ranks", sa.Text(), nullable=True),
        sa.Column("ratings", sa.Text(), nullable=True),
        sa.Column("approvals", sa.Text(), nullable=True),
        sa.Column("edit", sa.Text(), nullable=True),
        sa.Column("shown", sa.Text(), nullable=True),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.Column("flag", sa.Text(), server_default="", nullable=False),
        sa.Column("guideline", sa.Text(), server_default="", nullable=False),
        sa.Column("principle", sa.Text(), server_default="", nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("money", sa.Float(), nullable=False),
        sa.Column("replaces", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name="fk_labels_item"),
        sa.ForeignKeyConstraint(["labeller"], ["labellers.name"], name="fk_labels_labeller"),
        sa.ForeignKeyConstraint(["replaces"], ["labels.id"], name="fk_labels_replaces"),
        sa.PrimaryKeyConstraint("seq", name="pk_labels"),
        sa.UniqueConstraint("id", name="uq_labels_id"),
        sa.UniqueConstraint("replaces", name="uq_labels_replaces"),
    )
    op.create_index("ix_labels_item_labeller", "labels", ["item", "labeller"], unique=False)
    op.create_index("ix_labels_labeller", "labels", ["labeller"], unique=False)
    for table in FROZEN:
        freeze(table, or_same="OR seq = NEW.seq" if table == "items" else "")
    freeze("labels", FORGOTTEN, "OR seq = NEW.seq OR replaces = NEW.replaces", "ABORT")


def freeze(table: str, unless: str = "", or_same: str = "", refuse: str = "IGNORE") -> None:
    """Let the database itself refuse to change or remove a row.

    Args:
        unless: a change that is allowed all the same.
        or_same: what else, besides its key, makes a row one that is there already. SQLite's INSERT
            OR REPLACE removes such a row and asks no other trigger.
        refuse: what SQLite then does: IGNORE keeps the row that is there, ABORT is an error.
    """
    words = f"{table} are append-only"
    if op.get_bind().dialect.name == "sqlite":
        kept = " AND ".join(f"NEW.{name} IS OLD.{name}" for name in LABEL)
        changed = f"WHEN NOT ({unless.format(same=kept)})" if unless else ""
        what = f"RAISE(ABORT, '{words}')"
        keys = KEYS.get(table, ("id",))
        same = " AND ".join(f"{key} = NEW.{key}" for key in keys)
        same = f"SELECT 1 FROM {table} WHERE {same} {or_same}"
        again = what if refuse == "ABORT" else "RAISE(IGNORE)"
        for when in (
            f"update BEFORE UPDATE ON {table} {changed} BEGIN SELECT {what}; END",
            f"delete BEFORE DELETE ON {table} BEGIN SELECT {what}; END",
            f"again BEFORE INSERT ON {table} WHEN EXISTS ({same}) BEGIN SELECT {again}; END",
        ):
            op.execute(sa.text(f"CREATE TRIGGER {table}_{when}"))
        return
    allowed = "to_jsonb(NEW) - 'comment' = to_jsonb(OLD) - 'comment'"
    check = f"IF TG_OP = 'UPDATE' AND {unless.format(same=allowed)} THEN RETURN NEW; END IF;"
    body = f"BEGIN {check if unless else ''} RAISE EXCEPTION '{words}'; END"
    function = f"FUNCTION {table}_frozen()"
    op.execute(sa.text(f"CREATE {function} RETURNS trigger LANGUAGE plpgsql AS $${body}$$"))
    for name, when in (("row", "UPDATE OR DELETE"), ("all", "TRUNCATE")):
        each = "ROW" if name == "row" else "STATEMENT"
        op.execute(
            sa.text(
                f"CREATE TRIGGER {table}_frozen_{name} BEFORE {when} ON {table} "
                f"FOR EACH {each} EXECUTE {function}"
            )
        )
