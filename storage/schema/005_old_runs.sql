-- Storage of older versions: a run says which tables it can have; and no table's rows escape the check of what cannot be.

ALTER TABLE run ADD COLUMN schema_number INTEGER;
COMMENT ON COLUMN run.schema_number IS
    'Newest migration that the version knew which staged the run: it has rows of the tables up to it. NULL: 4.';

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
GROUP BY run_id HAVING count_if(is_answer) <> 1;
COMMENT ON VIEW impossible_row IS 'Rows that contradict another row; a merge refuses a run that has any.';
COMMENT ON COLUMN impossible_row.run_id IS 'The run.';
COMMENT ON COLUMN impossible_row.table_name IS 'Table of the row.';
COMMENT ON COLUMN impossible_row.layer IS 'Its layer, where it has one.';
COMMENT ON COLUMN impossible_row.why IS 'What is wrong with it.';
