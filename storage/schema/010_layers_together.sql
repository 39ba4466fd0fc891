-- More than one layer: which stand side by side with the chosen one, and what that was worth.

CREATE TABLE representation (
    run_id VARCHAR NOT NULL,
    size INTEGER NOT NULL CHECK (size >= 1 AND size = len(layers)),
    is_answer BOOLEAN NOT NULL,
    poolings VARCHAR[] NOT NULL CHECK (len(poolings) = len(layers)),
    norm_states VARCHAR[] NOT NULL CHECK (len(norm_states) = len(layers)),
    layers INTEGER[] NOT NULL,
    log_loss DOUBLE NOT NULL CHECK (log_loss >= 0),
    log_loss_gain DOUBLE NOT NULL,
    log_loss_gain_error DOUBLE NOT NULL CHECK (log_loss_gain_error >= 0),
    accuracy DOUBLE NOT NULL CHECK (accuracy BETWEEN 0 AND 1),
    n_test BIGINT NOT NULL CHECK (n_test >= 1),
    gain_over_single DOUBLE NOT NULL,
    gain_over_single_low DOUBLE NOT NULL,
    gain_over_single_high DOUBLE NOT NULL,
    gain_over_single_p_value DOUBLE NOT NULL CHECK (gain_over_single_p_value BETWEEN 0 AND 1),
    gain_over_last DOUBLE NOT NULL,
    gain_over_last_low DOUBLE NOT NULL,
    gain_over_last_high DOUBLE NOT NULL,
    gain_over_last_p_value DOUBLE NOT NULL CHECK (gain_over_last_p_value BETWEEN 0 AND 1),
    seconds DOUBLE NOT NULL CHECK (seconds >= 0),
    PRIMARY KEY (run_id, size)
);
COMMENT ON TABLE representation IS
    'Layers side by side, found on train rows from the answer''s layer outwards, and what they were worth on test rows.';
COMMENT ON COLUMN representation.run_id IS 'The run.';
COMMENT ON COLUMN representation.size IS 'How many layers stand side by side; 1 is the answer''s layer alone.';
COMMENT ON COLUMN representation.is_answer IS
    'The largest of which each further layer gained more than a paired standard error of left-out log loss.';
COMMENT ON COLUMN representation.poolings IS 'The pooling of each layer, in the order in which they were found.';
COMMENT ON COLUMN representation.norm_states IS 'The norm state of each.';
COMMENT ON COLUMN representation.layers IS 'The layers.';
COMMENT ON COLUMN representation.log_loss IS 'Mean left-out log loss of ridge regression on train rows, in nats.';
COMMENT ON COLUMN representation.log_loss_gain IS 'By how much it is below that of one layer less; 0 of one.';
COMMENT ON COLUMN representation.log_loss_gain_error IS 'Standard error of the gain, over the same rows.';
COMMENT ON COLUMN representation.accuracy IS 'Of a probe on all of them, on test rows (0-1).';
COMMENT ON COLUMN representation.n_test IS 'Test rows.';
COMMENT ON COLUMN representation.gain_over_single IS 'Accuracy less that of the answer''s layer alone.';
COMMENT ON COLUMN representation.gain_over_single_low IS 'Lower end of its paired 95 % interval.';
COMMENT ON COLUMN representation.gain_over_single_high IS 'Upper end of its paired 95 % interval.';
COMMENT ON COLUMN representation.gain_over_single_p_value IS 'McNemar''s, of both being equally good.';
COMMENT ON COLUMN representation.gain_over_last IS 'Accuracy less that of the last layer of the answer''s curve.';
COMMENT ON COLUMN representation.gain_over_last_low IS 'Lower end of its paired 95 % interval.';
COMMENT ON COLUMN representation.gain_over_last_high IS 'Upper end of its paired 95 % interval.';
COMMENT ON COLUMN representation.gain_over_last_p_value IS 'McNemar''s, of both being equally good.';
COMMENT ON COLUMN representation.seconds IS 'Seconds that fitting and measuring its probe took; 0 of one layer.';

-- As it was, and what there is to check of layers side by side.
CREATE OR REPLACE VIEW impossible_row AS
WITH layered AS (
    SELECT run_id, 'silhouette' AS table_name, layer FROM silhouette
    UNION SELECT run_id, 'silhouette_by_class', layer FROM silhouette_by_class
    UNION SELECT run_id, 'probe', layer FROM probe
    UNION SELECT run_id, 'criterion', layer FROM criterion
    UNION SELECT run_id, 'inflection_point', layer FROM inflection_point
    UNION SELECT run_id, 'trend', to_layer FROM trend
    UNION SELECT run_id, 'layer_choice', layer FROM layer_choice
    UNION SELECT run_id, 'audit', greatest(chosen_layer, best_layer) FROM audit
    UNION SELECT run_id, 'score_audit', layer FROM score_audit
    UNION SELECT run_id, 'zone_audit', greatest(best_inside, best_outside) FROM zone_audit
    UNION SELECT run_id, 'representation', list_max(layers) FROM representation
), judged AS (
    -- Every audit of a curve names the same best and last layer.
    SELECT run_id, pooling, norm_state, layer, accuracy, best_accuracy, last_accuracy
    FROM probe
    JOIN (
        SELECT run_id, pooling, norm_state, max(best_accuracy) AS best_accuracy, max(last_accuracy) AS last_accuracy
        FROM audit GROUP BY ALL
    ) AS curve USING (run_id, pooling, norm_state)
)
SELECT run_id, table_name, layer, 'the model has ' || layers || ' layers' AS why
FROM layered JOIN run USING (run_id) WHERE layer > layers
UNION ALL
SELECT run_id, 'silhouette', layer, 'seconds are below 0' FROM silhouette WHERE seconds < 0
UNION ALL
SELECT run_id, 'probe', layer, 'accuracy lies outside its interval' FROM probe
WHERE accuracy NOT BETWEEN accuracy_low - 1e-9 AND accuracy_high + 1e-9
UNION ALL
SELECT run_id, 'audit', chosen_layer, 'regret is not best minus chosen accuracy' FROM audit
WHERE abs(best_accuracy - chosen_accuracy - regret) > 1e-9
UNION ALL
SELECT run_id, 'audit', chosen_layer, 'gain over last is not chosen minus last accuracy' FROM audit
WHERE abs(chosen_accuracy - last_accuracy - gain_over_last) > 1e-9
UNION ALL
SELECT run_id, 'audit', chosen_layer, 'audits another layer than rule ' || rule || ' chose' FROM audit
JOIN layer_choice USING (run_id, pooling, norm_state, rule) WHERE chosen_layer <> layer
UNION ALL
SELECT run_id, 'score_audit', layer, 'regret of ' || score || ' is not best minus its layer''s accuracy'
FROM score_audit JOIN judged USING (run_id, pooling, norm_state, layer)
WHERE abs(best_accuracy - accuracy - regret) > 1e-9
UNION ALL
SELECT run_id, 'score_audit', layer, 'gain over last of ' || score || ' is not its layer''s minus last accuracy'
FROM score_audit JOIN judged USING (run_id, pooling, norm_state, layer)
WHERE abs(accuracy - last_accuracy - gain_over_last) > 1e-9
UNION ALL
SELECT zone.run_id, 'zone_audit', zone.best_inside, 'advantage of ' || zone.zone || ' is not inside minus outside accuracy'
FROM zone_audit AS zone
JOIN judged AS inside ON inside.run_id = zone.run_id AND inside.pooling = zone.pooling
    AND inside.norm_state = zone.norm_state AND inside.layer = zone.best_inside
JOIN judged AS outside ON outside.run_id = zone.run_id AND outside.pooling = zone.pooling
    AND outside.norm_state = zone.norm_state AND outside.layer = zone.best_outside
WHERE zone.advantage IS NULL OR abs(inside.accuracy - outside.accuracy - zone.advantage) > 1e-9
UNION ALL
SELECT run_id, 'zone_audit', coalesce(best_inside, best_outside), 'an advantage of ' || zone || ' over no layer'
FROM zone_audit WHERE advantage IS NOT NULL AND (best_inside IS NULL OR best_outside IS NULL)
UNION ALL
SELECT run_id, 'curve_audit', NULL, 'the interval of the rank correlation of ' || metric || ' is turned round'
FROM curve_audit WHERE rank_correlation_low > rank_correlation_high
UNION ALL
SELECT run_id, 'layer_choice', NULL, 'has ' || count_if(is_answer) || ' answers, not one' FROM layer_choice
GROUP BY run_id HAVING count_if(is_answer) <> 1
UNION ALL
SELECT run_id, 'representation', NULL, 'has ' || count_if(is_answer) || ' answers, not one' FROM representation
GROUP BY run_id HAVING count_if(is_answer) <> 1
UNION ALL
SELECT run_id, 'representation', audit.chosen_layer, 'its one layer is not the answer that is audited' FROM representation
JOIN audit USING (run_id) WHERE audit.is_answer AND representation.size = 1
    AND (layers <> [chosen_layer] OR abs(accuracy - chosen_accuracy) > 1e-9)
UNION ALL
SELECT several.run_id, 'representation', NULL, 'gain of ' || several.size || ' layers is not over the one' FROM representation AS several
JOIN representation AS single ON single.run_id = several.run_id AND single.size = 1
WHERE abs(several.accuracy - single.accuracy - several.gain_over_single) > 1e-9;
COMMENT ON VIEW impossible_row IS 'Rows that contradict another row; a merge refuses a run that has any.';
COMMENT ON COLUMN impossible_row.run_id IS 'The run.';
COMMENT ON COLUMN impossible_row.table_name IS 'Table of the row.';
COMMENT ON COLUMN impossible_row.layer IS 'Its layer, where it has one.';
COMMENT ON COLUMN impossible_row.why IS 'What is wrong with it.';
