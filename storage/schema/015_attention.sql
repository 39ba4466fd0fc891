-- What the blocks of a model attend to, on a sample of the train texts.

CREATE TABLE attention (
    run_id VARCHAR NOT NULL,
    layer INTEGER NOT NULL CHECK (layer >= 0),
    measure VARCHAR NOT NULL,
    value DOUBLE NOT NULL CHECK (isfinite(value) AND value >= 0),
    standard_error DOUBLE NOT NULL CHECK (standard_error >= 0),
    texts BIGINT NOT NULL CHECK (texts >= 2),
    PRIMARY KEY (run_id, layer, measure)
);
COMMENT ON TABLE attention IS
    'What each block attends to, on a sample of the train texts, whatever the pooling: it describes, and ranks no layer.';
COMMENT ON COLUMN attention.run_id IS 'The run.';
COMMENT ON COLUMN attention.layer IS
    'The layer that the block reads: 0 to n - 1 of n blocks. What it makes of it is the layer after.';
COMMENT ON COLUMN attention.measure IS
    'entropy (over the most it can be), sink_mass (on the first token), distance (tokens), distance_share (of the text), function_words (on punctuation and English function words) or head_divergence (Jensen-Shannon between heads, over the most it can be).';
COMMENT ON COLUMN attention.value IS
    'Mean over heads, over the tokens that see more than one, and then over texts; 0-1, distance in tokens.';
COMMENT ON COLUMN attention.standard_error IS 'Of the value, over texts.';
COMMENT ON COLUMN attention.texts IS 'How many texts of more than one token were looked at.';

-- What does attention do where the answer reads best?
CREATE VIEW attention_curve AS
SELECT run.model_id, run.dataset_id, attention.layer, attention.layer / run.layers AS depth, attention.measure,
       attention.value, attention.standard_error, attention.texts, choice.pooling, choice.norm_state, probe.accuracy,
       attention.layer = choice.layer AS is_chosen, attention.run_id
FROM attention
JOIN run USING (run_id)
LEFT JOIN layer_choice AS choice ON choice.run_id = attention.run_id AND choice.is_answer
LEFT JOIN (
    SELECT run_id, pooling, norm_state, layer, arg_min(accuracy, protocol) AS accuracy FROM probe GROUP BY ALL
) AS probe ON probe.run_id = attention.run_id AND probe.pooling = choice.pooling
    AND probe.norm_state = choice.norm_state AND probe.layer = attention.layer
ORDER BY attention.run_id, attention.measure, attention.layer;
COMMENT ON VIEW attention_curve IS
    'What does attention do along the layers? Each measure beside the accuracy of the answer''s pooling at the layer.';
COMMENT ON COLUMN attention_curve.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN attention_curve.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN attention_curve.layer IS 'The layer that the block reads, 0 to n - 1 of n blocks.';
COMMENT ON COLUMN attention_curve.depth IS 'layer / n, 0 to 1.';
COMMENT ON COLUMN attention_curve.measure IS 'See attention.measure.';
COMMENT ON COLUMN attention_curve.value IS 'Mean over heads, tokens and texts.';
COMMENT ON COLUMN attention_curve.standard_error IS 'Of the value, over texts.';
COMMENT ON COLUMN attention_curve.texts IS 'Texts that were looked at.';
COMMENT ON COLUMN attention_curve.pooling IS 'Of the run''s answer.';
COMMENT ON COLUMN attention_curve.norm_state IS 'Of the run''s answer.';
COMMENT ON COLUMN attention_curve.accuracy IS 'The probe''s accuracy on test rows at the layer, with that pooling.';
COMMENT ON COLUMN attention_curve.is_chosen IS 'Whether the layer is the run''s answer.';
COMMENT ON COLUMN attention_curve.run_id IS 'The run.';

-- As it was, and that no block reads the last layer.
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
    -- The block that reads layer l makes layer l + 1.
    UNION SELECT run_id, 'attention', layer + 1 FROM attention
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
