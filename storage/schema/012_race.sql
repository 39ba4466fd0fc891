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

-- As it was, and what there is to check of a race.
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
    UNION SELECT run_id, 'race_step', layer FROM race_step
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
WHERE abs(several.accuracy - single.accuracy - several.gain_over_single) > 1e-9
UNION ALL
SELECT run_id, 'race_step', NULL, 'step ' || step || ' has ' || count_if(is_leader) || ' leaders, not one' FROM race_step
GROUP BY run_id, step HAVING count_if(is_leader) <> 1;
COMMENT ON VIEW impossible_row IS 'Rows that contradict another row; a merge refuses a run that has any.';
COMMENT ON COLUMN impossible_row.run_id IS 'The run.';
COMMENT ON COLUMN impossible_row.table_name IS 'Table of the row.';
COMMENT ON COLUMN impossible_row.layer IS 'Its layer, where it has one.';
COMMENT ON COLUMN impossible_row.why IS 'What is wrong with it.';
