-- Of the first layers alone (--max-layer), what an answer is compared with is the deepest of those, and not the model's
-- last layer, which was never run.

CREATE OR REPLACE VIEW certainty AS
WITH scored AS (
    SELECT run_id, max(layer) AS deepest FROM probe GROUP BY run_id
), compared AS (
    SELECT run.run_id, coalesce(scored.deepest, run.layers) AS layer,
           CASE WHEN scored.deepest < run.layers THEN 'deepest layer run' ELSE 'last layer' END AS name
    FROM run LEFT JOIN scored USING (run_id)
)
SELECT run.model_id, run.dataset_id, choice.pooling, choice.norm_state, choice.layer AS chosen_layer,
       choice.confidence, audit.gain_over_last, audit.gain_low, audit.gain_high, audit.p_value,
       CASE WHEN choice.layer = compared.layer THEN 'is the ' || compared.name
            WHEN audit.gain_low > 0 THEN 'better than the ' || compared.name
            WHEN audit.gain_high < 0 THEN 'worse than the ' || compared.name
            ELSE 'level with the ' || compared.name || ', within noise' END AS verdict,
       probe.n_train, probe.n_test, probe.majority_accuracy, embedding_set.truncated_share, dataset.test_is_made,
       run.run_id
FROM layer_choice AS choice
JOIN run USING (run_id)
JOIN compared USING (run_id)
JOIN audit USING (run_id, pooling, norm_state, rule)
LEFT JOIN probe ON probe.run_id = choice.run_id AND probe.pooling = choice.pooling
    AND probe.norm_state = choice.norm_state AND probe.layer = choice.layer
LEFT JOIN embedding_set USING (embedding_set_id)
LEFT JOIN dataset ON dataset.id = run.dataset_id AND dataset.fingerprint = run.dataset_fingerprint
WHERE choice.is_answer
ORDER BY choice.confidence DESC, run.run_id;
COMMENT ON VIEW certainty IS 'How sure? The answer of every run with what speaks for and against it, the most confident first.';
COMMENT ON COLUMN certainty.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN certainty.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN certainty.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN certainty.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN certainty.chosen_layer IS 'The chosen layer.';
COMMENT ON COLUMN certainty.confidence IS
    'How likely the layer''s accuracy is within half a point of the best (0-1); until schema_number 6 of run: the share of redrawn train rows that agree.';
COMMENT ON COLUMN certainty.gain_over_last IS 'Chosen minus last-layer accuracy.';
COMMENT ON COLUMN certainty.gain_low IS 'Lower end of the paired 95 % interval of the gain over last.';
COMMENT ON COLUMN certainty.gain_high IS 'Upper end of it.';
COMMENT ON COLUMN certainty.p_value IS 'McNemar''s test of chosen against last layer.';
COMMENT ON COLUMN certainty.verdict IS 'The 95 % interval of the gain over last in words.';
COMMENT ON COLUMN certainty.n_train IS 'Train rows.';
COMMENT ON COLUMN certainty.n_test IS 'Test rows.';
COMMENT ON COLUMN certainty.majority_accuracy IS 'Accuracy of always naming the largest class.';
COMMENT ON COLUMN certainty.truncated_share IS 'Share of the texts that were cut, 0 to 1.';
COMMENT ON COLUMN certainty.test_is_made IS 'Whether the test split was taken from train for want of one.';
COMMENT ON COLUMN certainty.run_id IS 'The run.';

CREATE OR REPLACE VIEW table_2 AS
SELECT pair.model, pair.dataset, audit.pooling, audit.norm_state, audit.best_accuracy, audit.best_layer,
       audit.chosen_accuracy, audit.chosen_layer, audit.last_accuracy, coalesce(deepest.layer, pair.layers) AS last_layer,
       printed.value AS paper_accuracy, printed.layer AS paper_layer,
       abs(audit.best_layer - printed.layer) <= 1 AS same_layer, audit.is_answer, pair.run_id
FROM audit
JOIN pair USING (run_id)
LEFT JOIN (SELECT run_id, max(layer) AS layer FROM probe GROUP BY run_id) AS deepest USING (run_id)
LEFT JOIN paper_reference AS printed
    ON printed.source = 'table_2' AND lower(printed.model) = lower(pair.model)
    AND printed.dataset = lower(pair.dataset)
WHERE audit.is_default
ORDER BY pair.model, pair.dataset, audit.pooling, audit.norm_state, pair.run_id;
COMMENT ON VIEW table_2 IS
    'Table 2 of the paper for every pair, pooling and norm state; its own figures beside its own four pairs.';
COMMENT ON COLUMN table_2.model IS 'Last part of the model''s source.';
COMMENT ON COLUMN table_2.dataset IS 'Last part of the data set''s source.';
COMMENT ON COLUMN table_2.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN table_2.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN table_2.best_accuracy IS 'Highest test accuracy, 0 to 1.';
COMMENT ON COLUMN table_2.best_layer IS 'Its layer, the shallowest of equals.';
COMMENT ON COLUMN table_2.chosen_accuracy IS 'Test accuracy of the layer that the default rule chose.';
COMMENT ON COLUMN table_2.chosen_layer IS 'That layer.';
COMMENT ON COLUMN table_2.last_accuracy IS 'Test accuracy of the last layer, or of the deepest that was run.';
COMMENT ON COLUMN table_2.last_layer IS 'Its number.';
COMMENT ON COLUMN table_2.paper_accuracy IS 'What the paper prints; NULL for other pairs.';
COMMENT ON COLUMN table_2.paper_layer IS 'What the paper prints; NULL for other pairs.';
COMMENT ON COLUMN table_2.same_layer IS 'Whether ours lies within one layer of the paper''s; NULL for other pairs.';
COMMENT ON COLUMN table_2.is_answer IS 'Whether pooling and norm state are those of the run''s answer.';
COMMENT ON COLUMN table_2.run_id IS 'The run.';
