-- A race says how many test rows its answer is judged by, as it says how many train rows it is told from.

ALTER TABLE race_step ADD COLUMN test_rows BIGINT;
ALTER TABLE race_step ADD COLUMN test_rows_in_all BIGINT;
COMMENT ON COLUMN race_step.test_rows IS
    'Of the last step, the test rows that the answer is judged by; else NULL, and for runs of older versions, which read all.';
COMMENT ON COLUMN race_step.test_rows_in_all IS
    'Of the last step, the test rows that there are, or that were asked for; else NULL, and for runs of older versions.';
