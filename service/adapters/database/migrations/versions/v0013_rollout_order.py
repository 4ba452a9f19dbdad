"""How far each stage has come in the order of its rollout.

A rollout that runs goes on without a pause: with no digits of buckets its order is the one it had, its stages keep
their thresholds, and a stage that was being opened looks at its devices from the first on; those that have their
actions are passed over. Its one bucket is the whole group, which each step of an opening stage reads: on fleets of
hundreds of thousands a rollout that has far to go is better aborted and started anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; stages that were cut are settled."""
    op.add_column("rollouts", sa.Column("bucket_digits", sa.Integer, nullable=False, server_default="0"))
    op.drop_column("rollouts", "opening_cursor")
    op.add_column("rollout_stages", sa.Column("is_settled", sa.Boolean))
    op.add_column("rollout_stages", sa.Column("walked", sa.BigInteger, nullable=False, server_default="-1"))
    stages = sa.table("rollout_stages", sa.column("is_settled", sa.Boolean), sa.column("threshold"))
    op.execute(sa.update(stages).where(stages.c.threshold.is_not(None)).values(is_settled=sa.true()))


def downgrade() -> None:
    """Remove the columns; rollouts that were started since end where they are, and are to be ended before."""
    for name in ("walked", "is_settled"):
        op.drop_column("rollout_stages", name)
    op.drop_column("rollouts", "bucket_digits")
    op.add_column("rollouts", sa.Column("opening_cursor", sa.String(128), nullable=False, server_default=""))
