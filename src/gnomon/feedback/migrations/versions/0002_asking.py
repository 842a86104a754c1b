"""Who is asked what next: the queue, assignments, drafts, and the tokens that let people in."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "access",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("labeller", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=True),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.Column("expires", sa.String(length=40), nullable=True),
        sa.Column("used", sa.String(length=40), nullable=True),
        sa.Column("revoked", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaigns.name"], name="fk_access_campaign"),
        sa.ForeignKeyConstraint(["labeller"], ["labellers.name"], name="fk_access_labeller"),
        sa.PrimaryKeyConstraint("digest", name="pk_access"),
    )
    op.create_index("ix_access_labeller", "access", ["labeller"], unique=False)
    op.create_table(
        "assignments",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("item", sa.String(length=64), nullable=False),
        sa.Column("labeller", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=True),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.Column("expires", sa.String(length=40), nullable=False),
        sa.Column("closed", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaigns.name"], name="fk_assignments_campaign"),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name="fk_assignments_item"),
        sa.ForeignKeyConstraint(["labeller"], ["labellers.name"], name="fk_assignments_labeller"),
        sa.PrimaryKeyConstraint("id", name="pk_assignments"),
        sa.UniqueConstraint("item", "labeller", name="uq_assignments_item_labeller"),
    )
    op.create_index(
        "ix_assignments_labeller", "assignments", ["labeller", "campaign", "state"], unique=False
    )
    op.create_index("ix_assignments_open", "assignments", ["state", "expires"], unique=False)
    op.create_table(
        "drafts",
        sa.Column("labeller", sa.Text(), nullable=False),
        sa.Column("item", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name="fk_drafts_item"),
        sa.ForeignKeyConstraint(["labeller"], ["labellers.name"], name="fk_drafts_labeller"),
        sa.PrimaryKeyConstraint("labeller", "item", name="pk_drafts"),
    )
    op.create_table(
        "queue",
        sa.Column("item", sa.String(length=64), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("gold", sa.Boolean(), nullable=False),
        sa.Column("urgency", sa.Float(), nullable=False),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["campaign"], ["campaigns.name"], name="fk_queue_campaign"),
        sa.ForeignKeyConstraint(["item"], ["items.id"], name="fk_queue_item"),
        sa.PrimaryKeyConstraint("item", name="pk_queue"),
    )
    op.create_index(
        "ix_queue_next", "queue", ["campaign", "gold", "urgency", "taken", "item"], unique=False
    )
    op.execute(
        sa.text(
            "INSERT INTO queue (item, campaign, gold, urgency, taken) "
            "SELECT i.id, i.campaign, "
            "COALESCE((SELECT g.ranks IS NOT NULL FROM gold g WHERE g.item = i.id "
            "ORDER BY g.seq DESC LIMIT 1), false), 0, "
            "(SELECT COUNT(DISTINCT l.labeller) FROM labels l WHERE l.item = i.id "
            "AND l.kind <> 'skip' AND NOT EXISTS "
            "(SELECT 1 FROM labels later WHERE later.replaces = l.id)) FROM items i"
        )
    )
