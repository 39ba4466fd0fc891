-- What a choice has to beat, and whether test rows are like train rows.

CREATE TABLE baseline (
    run_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL CHECK (name IN ('text', 'majority')),
    accuracy DOUBLE NOT NULL CHECK (accuracy BETWEEN accuracy_low - 1e-9 AND accuracy_high + 1e-9),
    accuracy_low DOUBLE NOT NULL CHECK (accuracy_low BETWEEN 0 AND 1),
    accuracy_high DOUBLE NOT NULL CHECK (accuracy_high BETWEEN 0 AND 1),
    n_train BIGINT NOT NULL CHECK (n_train >= 2),
    n_test BIGINT NOT NULL CHECK (n_test >= 1),
    seconds DOUBLE NOT NULL CHECK (seconds >= 0),
    PRIMARY KEY (run_id, name)
);
COMMENT ON TABLE baseline IS 'What is to be had without the model, on the same test rows.';
COMMENT ON COLUMN baseline.run_id IS 'The run.';
COMMENT ON COLUMN baseline.name IS
    'text: TF-IDF of words and pairs of words, and logistic regression. majority: always the largest train class.';
COMMENT ON COLUMN baseline.accuracy IS 'Share of test rows classified correctly (0-1).';
COMMENT ON COLUMN baseline.accuracy_low IS 'Lower end of Wilson''s 95 % interval.';
COMMENT ON COLUMN baseline.accuracy_high IS 'Upper end of Wilson''s 95 % interval.';
COMMENT ON COLUMN baseline.n_train IS 'Train rows that were read: at most 50,000.';
COMMENT ON COLUMN baseline.n_test IS 'Test rows.';
COMMENT ON COLUMN baseline.seconds IS 'Seconds that fitting and predicting took.';

ALTER TABLE probe ADD COLUMN held_out_rows BIGINT;
COMMENT ON COLUMN probe.held_out_rows IS 'How many train rows were held out: what held_out_accuracy is a share of.';

ALTER TABLE audit ADD COLUMN gain_over_text DOUBLE;
ALTER TABLE audit ADD COLUMN gain_over_text_low DOUBLE;
ALTER TABLE audit ADD COLUMN gain_over_text_high DOUBLE;
ALTER TABLE audit ADD COLUMN gain_over_text_p_value DOUBLE;
ALTER TABLE audit ADD COLUMN held_out_accuracy DOUBLE;
ALTER TABLE audit ADD COLUMN shift_p_value DOUBLE;
COMMENT ON COLUMN audit.gain_over_text IS
    'Accuracy of the chosen layer less that of the words alone (baseline text), on the same test rows.';
COMMENT ON COLUMN audit.gain_over_text_low IS 'Lower end of its paired 95 % interval.';
COMMENT ON COLUMN audit.gain_over_text_high IS 'Upper end of its paired 95 % interval.';
COMMENT ON COLUMN audit.gain_over_text_p_value IS 'McNemar''s, of both being equally good.';
COMMENT ON COLUMN audit.held_out_accuracy IS 'Of the chosen layer''s probe on train rows that it was not fitted on.';
COMMENT ON COLUMN audit.shift_p_value IS
    'Of accuracy on held-out train rows and on test rows being the same: small where test rows are not like train rows.';

ALTER TABLE layer_choice ADD COLUMN expected_regret DOUBLE;
COMMENT ON COLUMN layer_choice.expected_regret IS
    'By how much the layer is expected to be less accurate than the best one (0-1). NULL: chosen before this was told.';
COMMENT ON COLUMN layer_choice.confidence IS
    'How likely the layer''s accuracy is within half a point of the best (0-1), calibrated on the study; until schema_number 6 of run: the share of redrawn train rows that agree.';
COMMENT ON COLUMN layer_choice.score IS
    'Share of the labels'' entropy that ridge regression tells of left-out rows at the layer, which compares poolings and norm states; until schema_number 6 of run: ridge leave-one-out accuracy.';
COMMENT ON COLUMN leaderboard.confidence IS
    'How likely the layer''s accuracy is within half a point of the best (0-1); until schema_number 6 of run: the share of redrawn train rows that agree.';
COMMENT ON COLUMN certainty.confidence IS
    'How likely the layer''s accuracy is within half a point of the best (0-1); until schema_number 6 of run: the share of redrawn train rows that agree.';
COMMENT ON COLUMN pooling_comparison.train_score IS
    'Share of the labels'' entropy that ridge regression tells of left-out rows at the layer; until schema_number 6 of run: ridge leave-one-out accuracy.';
