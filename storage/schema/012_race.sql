-- How many rows an answer took, and what fell behind on the way.

CREATE TABLE race_step (
    run_id VARCHAR NOT NULL,
    step INTEGER NOT NULL CHECK (step >= 1),
    train_rows BIGINT NOT NULL CHECK (train_rows >= 1),
    train_rows_in_all BIGINT NOT NULL CHECK (train_rows_in_all >= train_rows),
    prompt VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    layer INTEGER NOT NULL,
    expected_accuracy DOUBLE NOT NULL,
    chance DOUBLE NOT NULL CHECK (chance BETWEEN 0 AND 1),
    stays BOOLEAN NOT NULL,
    is_leader BOOLEAN NOT NULL,
    ended_by VARCHAR CHECK (ended_by IN ('confidence', 'rows', 'budget')),
    PRIMARY KEY (run_id, step, prompt, pooling, norm_state)
);
COMMENT ON TABLE race_step IS
    'Of a sweep until it is confident: how prompts, poolings and norm states stood with more and more train rows.';
COMMENT ON COLUMN race_step.run_id IS 'The run.';
COMMENT ON COLUMN race_step.step IS 'Counted from 1; each has twice the rows of the one before.';
COMMENT ON COLUMN race_step.train_rows IS 'Train rows that had been embedded.';
COMMENT ON COLUMN race_step.train_rows_in_all IS 'Train rows that there are.';
COMMENT ON COLUMN race_step.prompt IS 'As it was asked for: a name or a template.';
COMMENT ON COLUMN race_step.pooling IS 'The pooling.';
COMMENT ON COLUMN race_step.norm_state IS 'The norm state.';
COMMENT ON COLUMN race_step.layer IS 'The best layer of these by left-out train rows.';
COMMENT ON COLUMN race_step.expected_accuracy IS 'Expected there with all the train rows (a fraction).';
COMMENT ON COLUMN race_step.chance IS 'How likely that layer is within reach (--within) of the best of all (0-1).';
COMMENT ON COLUMN race_step.stays IS 'Whether the next step embedded rows for it.';
COMMENT ON COLUMN race_step.is_leader IS 'Whether it was expected to be the best.';
COMMENT ON COLUMN race_step.ended_by IS
    'Of the last step, why it was the last: confidence, all rows read, or the budget spent; else NULL.';
