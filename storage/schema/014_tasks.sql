-- Labels may be several a text, or a number.

ALTER TABLE dataset ADD COLUMN task VARCHAR DEFAULT 'single-label';
COMMENT ON COLUMN dataset.task IS
    'What labels tell: single-label, one class a text; multi-label, any number of labels; regression, a number. It says what accuracy means in every table: the share of texts given their class; the mean F1 of the labels of each text; the share of pairs of texts put in their true order (one half by chance). classes are then sets of labels, or parts of the numbers, for silhouettes and strata alone.';
ALTER TABLE dataset ADD COLUMN label_names VARCHAR[];
COMMENT ON COLUMN dataset.label_names IS 'Of multi-label: the labels; NULL where they are the classes, or a number.';

ALTER TABLE probe ALTER COLUMN macro_f1 DROP NOT NULL;
ALTER TABLE probe ALTER COLUMN balanced_accuracy DROP NOT NULL;
ALTER TABLE probe ADD COLUMN micro_f1 DOUBLE;
ALTER TABLE probe ADD COLUMN average_precision DOUBLE;
ALTER TABLE probe ADD COLUMN r2 DOUBLE;
ALTER TABLE probe ADD COLUMN spearman DOUBLE;
ALTER TABLE probe ADD COLUMN mean_absolute_error DOUBLE;
COMMENT ON COLUMN probe.micro_f1 IS 'F1 over all labels of all test rows, 0 to 1; NULL but for multi-label.';
COMMENT ON COLUMN probe.average_precision IS
    'Mean over the labels of the area under precision against recall, 0 to 1; NULL but for multi-label.';
COMMENT ON COLUMN probe.r2 IS 'Share of the variance of the test rows'' numbers that is told, at most 1; NULL but for regression.';
COMMENT ON COLUMN probe.spearman IS 'Rank correlation of numbers told and true, -1 to 1; NULL but for regression, or where one is constant.';
COMMENT ON COLUMN probe.mean_absolute_error IS 'In the unit of the numbers; NULL but for regression.';
