-- What detectors are told by, where there are two classes. NULL: there are more, or the run is from before this.
ALTER TABLE probe ADD COLUMN positive_class VARCHAR;
ALTER TABLE probe ADD COLUMN auroc DOUBLE;
ALTER TABLE probe ADD COLUMN tpr_at_1_percent_fpr DOUBLE;
COMMENT ON COLUMN probe.positive_class IS 'Of two classes the one with fewer train rows, which is to be found.';
COMMENT ON COLUMN probe.auroc IS 'Area under the ROC curve on the test rows, 0 to 1; 0.5 is chance.';
COMMENT ON COLUMN probe.tpr_at_1_percent_fpr IS
    'Share of the positive class that is found (0-1) where at most 1 % of the other class is taken for it.';
