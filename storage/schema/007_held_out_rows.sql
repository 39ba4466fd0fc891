-- What choosing the probe's penalty told beside it: a probe that reads no test row. NULL: no penalty was chosen, or before this.
ALTER TABLE probe ADD COLUMN held_out_accuracy DOUBLE;
ALTER TABLE probe ADD COLUMN held_out_log_loss DOUBLE;
COMMENT ON COLUMN probe.held_out_accuracy IS
    'Accuracy (0-1) on train rows, each predicted by a fit without its fold: of all five folds up to 2,000 train rows, else of one.';
COMMENT ON COLUMN probe.held_out_log_loss IS 'Mean log loss of the same rows, in nats.';
